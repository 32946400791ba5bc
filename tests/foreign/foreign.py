"""What the foreign clients share: a gateway to talk to, calls to make, and texts to send."""

import contextlib
import json
import subprocess
import tempfile
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

# Bytes at which the head of a frame changes its form (RFC 6455, 5.2), the smallest, and a large one.
SIZES = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)
# What a gateway that echoes is told: once as it comes, once so that it compresses all it can.
ECHOES = (
    ("websocket.messages=echo",),
    ("websocket.messages=echo", "compression.min_size=1B", "compression.inline_max=2MiB"),
)


def text(size):
    """A text of so many bytes as UTF-8."""
    words = "hello, naïve Ada: 3 € for 𝄞! "
    repeated = (words * (size // len(words.encode()) + 1)).encode()[:size]
    whole = repeated.decode(errors="ignore")
    return whole + "." * (size - len(whole.encode()))


class Foreigner:
    """Makes any unary call of any service that the server describes."""

    def __init__(self, address, credentials=None, compression=None):
        if credentials:
            self.channel = grpc.secure_channel(address, credentials, compression=compression)
        else:
            self.channel = grpc.insecure_channel(address, compression=compression)
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
def gateway(binary, *settings):
    """A gateway on free ports; gives where it listens."""
    with running(binary, *settings) as (_command, _process, listeners):
        yield listeners


@contextlib.contextmanager
def running(binary, *settings):
    """The same; gives the command line that speaks to it, its process, and where it listens."""
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, f"--socket={directory}/control.sock"]
        for key in ("websocket", "grpc", "admin"):
            command.append(f"--set={key}.listen=127.0.0.1:0")
        command += [f"--set={setting}" for setting in settings]
        process = subprocess.Popen([*command, "serve"], stderr=subprocess.DEVNULL)
        try:
            yield command, process, ready([*command, "status", "--json"], process)
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
