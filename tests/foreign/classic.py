"""The 21 classic calls as a foreign client makes them: by server reflection, without generated code.

usage: classic.py GATEWAY_BINARY
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from websockets.sync.client import connect

NOBODY = "00000000-0000-8000-8000-000000000000"
CALLS = """
BroadcastMessage SendMessageToClient ClonseClient GetAllOnlineClient ClientIsOnline
CountOnlineClient UnGroup SendMessageToGroup CountOnlineGroup CountGroup GetGroupOnlineClient
LeaveGroup JoinGroup GetUidByClient CountOnlineUid GetAllOnlineUid SendMessageToUid UidIsOnline
UnBindUid ClientBindUid GetClientByUid
""".split()


class Foreigner:
    """Makes any unary call of any service that the server describes."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def call(self, service, method, /, **fields):
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = message_factory.GetMessageClass(described.input_type)(**fields)
        answer = message_factory.GetMessageClass(described.output_type)
        path = f"/{service}/{method}"
        return self.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )(request, timeout=30)

    def __getattr__(self, name):
        return lambda **fields: self.call(f"proto.{name}", name, **fields)

    def services(self, version):
        """The names of all services, asked in one of the two versions of reflection."""
        # The two versions differ in nothing but the name of the service.
        ask = self.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(ask(iter([request]), timeout=30)))
        return {service.name for service in answer.list_services_response.service}


@contextlib.contextmanager
def gateway(binary):
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, f"--socket={directory}/control.sock"]
        for key in ("websocket", "grpc", "admin"):
            command.append(f"--set={key}.listen=127.0.0.1:0")
        process = subprocess.Popen([*command, "serve"], stderr=subprocess.DEVNULL)
        try:
            yield ready([*command, "status", "--json"], process)
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, "the gateway ends well"


def ready(status, process):
    """Waits until the gateway is in service; answers where it listens."""
    for _ in range(1200):
        said = subprocess.run(status, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if said.returncode == 0:
            return json.loads(said.stdout)["listeners"]
        assert process.poll() is None, "the gateway ended"
        time.sleep(0.05)  # a process can only be asked whether it is ready
    raise AssertionError("the gateway did not become ready")


def reflection(server, _url):
    expected = {f"proto.{call}" for call in CALLS} | {"grpc.health.v1.Health"}
    for version in ("v1", "v1alpha"):
        missing = expected - server.services(version)
        assert not missing, f"reflection {version} does not know {missing}"


def health(server, _url):
    for service in ("", "proto.BroadcastMessage"):
        answer = server.call("grpc.health.v1.Health", "Check", service=service)
        assert answer.status == 1, f"{service!r} is not serving"


def clients(server, url):
    assert server.CountOnlineClient().count == 0
    with connect(url) as ada, connect(url) as bob:
        ids = {ada.recv(), bob.recv()}
        assert all(len(name) == 36 for name in ids), ids
        assert set(server.GetAllOnlineClient().client) == ids
        assert server.CountOnlineClient().count == 2
        assert all(server.ClientIsOnline(clientid=name).isonline for name in ids)
        assert not server.ClientIsOnline(clientid=NOBODY).isonline
        ada.send("ping")
        assert ada.recv() == "pong"


def messages(server, url):
    with connect(url) as ada, connect(url) as bob:
        name = ada.recv()
        bob.recv()
        assert server.SendMessageToClient(clientid=name, message="to Ada ✓").result
        assert ada.recv() == "to Ada ✓"
        for clientid, message in (("", "x"), (name, ""), (NOBODY, "x")):
            assert not server.SendMessageToClient(clientid=clientid, message=message).result
        assert server.BroadcastMessage(message="to all").result
        assert not server.BroadcastMessage(message="").result
        assert (ada.recv(), bob.recv()) == ("to all", "to all")


def users(server, url):
    with connect(url) as phone, connect(url) as laptop:
        first, second = phone.recv(), laptop.recv()
        assert server.ClientBindUid(clientid=first, uid="ada").result
        assert server.ClientBindUid(clientid=second, uid="ada").result
        assert not server.ClientBindUid(clientid=NOBODY, uid="ada").result
        assert not server.ClientBindUid(clientid=first, uid="").result
        assert server.GetClientByUid(clientid=first).uid == "ada"
        assert set(server.GetUidByClient(uid="ada").clientid) == {first, second}
        assert server.CountOnlineUid().count == 1
        assert list(server.GetAllOnlineUid().uid) == ["ada"]
        assert server.SendMessageToUid(uid="ada", message="both").result
        assert (phone.recv(), laptop.recv()) == ("both", "both")
        assert not server.SendMessageToUid(uid="eve", message="x").result
        assert server.UnBindUid(clientid=first).result
        assert server.UnBindUid(clientid=first).result
        assert not server.UnBindUid(clientid=NOBODY).result
        assert server.GetClientByUid(clientid=first).uid == ""
        assert server.UidIsOnline(uid="ada").result
        assert not server.UidIsOnline(uid="eve").result


def groups(server, url):
    with connect(url) as ada, connect(url) as bob:
        first, second = ada.recv(), bob.recv()
        for name in (first, second, second):
            assert server.JoinGroup(clientid=name, group="lobby").result
        assert not server.JoinGroup(clientid=NOBODY, group="lobby").result
        assert server.CountGroup().count == 1
        assert server.CountOnlineGroup(group="lobby").count == 2
        assert set(server.GetGroupOnlineClient(group="lobby").clientid) == {first, second}
        answer = server.SendMessageToGroup(group="lobby", message="hello")
        assert (answer.result, answer.arrive) == (True, 2)
        assert (ada.recv(), bob.recv()) == ("hello", "hello")
        answer = server.SendMessageToGroup(group="cellar", message="hello")
        assert (answer.result, answer.arrive) == (False, 0)
        assert server.LeaveGroup(clientid=first, group="lobby").result
        assert server.LeaveGroup(clientid=first, group="lobby").result
        assert not server.LeaveGroup(clientid=first, group="cellar").result
        assert server.UnGroup(group="lobby").result
        assert not server.UnGroup(group="lobby").result
        assert server.CountGroup().count == 0
        assert server.ClientIsOnline(clientid=second).isonline


def closing(server, url):
    with connect(url) as ada:
        name = ada.recv()
        assert server.ClonseClient(clientid=name).result
        assert not server.ClientIsOnline(clientid=name).isonline
        assert list(ada) == [], "nothing but the close frame"
        assert ada.close_code == 1000, ada.close_code
    assert server.ClonseClient(clientid=NOBODY).result
    assert not server.ClonseClient(clientid="").result


def compression(server, url):
    with connect(url) as packed, connect(url, compression=None) as plain:
        assert [extension.name for extension in packed.protocol.extensions] == ["permessage-deflate"]
        assert plain.protocol.extensions == []
        packed.recv(), plain.recv()
        # Below `min_size`, compressed by a shard, and compressed before a shard sees it.
        for size in (10, 10_000, 200_000):
            text = ("hello " * size)[:size]
            assert server.BroadcastMessage(message=text).result
            assert packed.recv() == text
            assert plain.recv() == text
        packed.send("x" * 10_000)  # compressed by the client
        packed.send("ping")
        assert packed.recv() == "pong"


def main():
    tests = [reflection, health, clients, messages, users, groups, closing, compression]
    passed = 0
    with gateway(pathlib.Path(sys.argv[1]).resolve()) as listeners:
        server = Foreigner(listeners["grpc"][0])
        url = f"ws://{listeners['websocket'][0]}/any/path"
        for test in tests:
            test(server, url)
            print(f"ok {test.__name__}")
            passed += 1
    print(f"{passed} passed, {len(tests) - passed} failed")


main()
