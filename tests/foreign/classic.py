"""The 21 classic calls as a foreign client makes them: by server reflection, without generated code.

usage: classic.py GATEWAY_BINARY
"""

import pathlib
import sys

from websockets.sync.client import connect

from foreign import Foreigner, gateway

NOBODY = "00000000-0000-8000-8000-000000000000"
CALLS = """
BroadcastMessage SendMessageToClient ClonseClient GetAllOnlineClient ClientIsOnline
CountOnlineClient UnGroup SendMessageToGroup CountOnlineGroup CountGroup GetGroupOnlineClient
LeaveGroup JoinGroup GetUidByClient CountOnlineUid GetAllOnlineUid SendMessageToUid UidIsOnline
UnBindUid ClientBindUid GetClientByUid
""".split()


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


def binary(server, url):
    with connect(url) as ada:
        name = ada.recv()
        assert isinstance(name, bytes) and len(name) == 36, name
        assert server.ClientIsOnline(clientid=name.decode()).isonline
        ada.send(b"ping")
        assert ada.recv() == b"pong"
        ada.send("ping")
        assert ada.recv() == "pong", "a text ping is answered in text"
        assert server.BroadcastMessage(message="to all").result
        assert ada.recv() == b"to all"


def main():
    stages = {
        (): [reflection, health, clients, messages, users, groups, closing, compression],
        ("websocket.message_format=binary",): [binary],
    }
    tests = sum(stages.values(), [])
    passed = 0
    for settings, stage in stages.items():
        with gateway(pathlib.Path(sys.argv[1]).resolve(), *settings) as listeners:
            server = Foreigner(listeners["grpc"][0])
            url = f"ws://{listeners['websocket'][0]}/any/path"
            for test in stage:
                test(server, url)
                print(f"ok {test.__name__}")
                passed += 1
    print(f"{passed} passed, {len(tests) - passed} failed")


if __name__ == "__main__":
    main()
