"""Events as a foreign back end hears them: the README's example, and a gateway that is killed.

usage: events.py GATEWAY_BINARY
"""

import contextlib
import pathlib
import queue
import re
import subprocess
import sys
import tempfile

import grpc
from google.protobuf import message_factory
from websockets.sync.client import connect

from foreign import Foreigner, gateway, ready

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVICE = "gateway.v1.Events"


class Subscriber:
    """A stream of one consumer group, made by server reflection."""

    def __init__(self, address, group):
        pool = Foreigner(address).pool
        method = pool.FindServiceByName(SERVICE).FindMethodByName("Subscribe")
        self.request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        call = grpc.insecure_channel(address).stream_stream(
            f"/{SERVICE}/Subscribe",
            request_serializer=self.request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        self.said = queue.SimpleQueue()
        self.say(start={"group": group})
        self.answers = call(iter(self.said.get, None), timeout=120)
        self.epoch = next(self.answers).hello.epoch
        self.waiting = []

    def say(self, **step):
        self.said.put(self.request(**step))

    def hear(self, acknowledge=True, **work):
        """The next event, which is acknowledged."""
        while not self.waiting:
            self.waiting += next(self.answers).events.events
        event = self.waiting.pop(0)
        if acknowledge:
            at = {"epoch": self.epoch, "cursor": event.cursor}
            self.say(acknowledgement=at | work)
        return event

    def begins(self):
        """The group tells first who was there before it: nobody."""
        first = self.hear()
        assert first.HasField("snapshot") and not first.snapshot.clients, first
        return self

    def leave(self):
        """Says no more; returns when the gateway has taken note of all that was said."""
        self.said.put(None)
        assert list(self.answers) == []

    def code(self):
        """How the stream ends."""
        try:
            for _answer in self.answers:
                pass
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def what_a_client_does(binary):
    with gateway(binary, "events.groups=all,audit") as listeners:
        subscriber, audit = (
            Subscriber(listeners["grpc"][0], name).begins() for name in ("all", "audit")
        )
        assert subscriber.epoch == audit.epoch != 0
        with connect(f"ws://{listeners['websocket'][0]}/room?secret=1") as client:
            name = client.recv()
            opened = subscriber.hear()
            assert (opened.client, opened.opened.path, opened.cursor) == (name, "/room", 2), opened
            client.send("hello")
            answer = {"target": {"clients": [name]}, "message": {"data": b"and hello to you"}}
            said = subscriber.hear(sends=[answer])
            assert said.message.data == b"hello", said
            assert client.recv(timeout=30) == "and hello to you"
            client.send(b"\x00\xff")
            assert subscriber.hear().message.data == b"\x00\xff"
        closed = subscriber.hear()
        assert (closed.closed.code, closed.closed.cause) == (1000, "peer"), closed
        whole = [audit.hear() for _ in range(4)]
        kinds = [event.WhichOneof("what") for event in whole]
        assert kinds == ["opened", "message", "message", "closed"], kinds
        assert [event.client for event in whole] == [name] * 4
        subscriber.leave()
        audit.leave()


def redelivery(binary):
    with gateway(binary, "events.groups=all") as listeners:
        with connect(f"ws://{listeners['websocket'][0]}/") as client:
            client.recv()
            first = Subscriber(listeners["grpc"][0], "all").begins()
            for number in range(10):
                client.send(str(number))
            told = [first.hear(acknowledge=False) for _ in range(11)]
            first.say(acknowledgement={"epoch": first.epoch, "cursor": told[4].cursor})
            first.leave()
            second = Subscriber(listeners["grpc"][0], "all")
            again = [second.hear() for _ in range(6)]
            assert [event.cursor for event in again] == [event.cursor for event in told[5:]]
            assert all(event.redelivered for event in again), again
            second.say(acknowledgement={"epoch": second.epoch + 1, "cursor": 1})
            assert second.code() is grpc.StatusCode.INVALID_ARGUMENT


@contextlib.contextmanager
def killable(binary, directory):
    """A gateway that may come to a bad end; gives where it listens, and its process."""
    command = [binary, f"--socket={directory}/control.sock", "--set=events.groups=all"]
    for key in ("websocket", "grpc", "admin"):
        command.append(f"--set={key}.listen=127.0.0.1:0")
    process = subprocess.Popen([*command, "serve"], stderr=subprocess.DEVNULL)
    try:
        yield ready([*command, "status", "--json"], process), process
    finally:
        process.kill()
        process.wait(timeout=60)


def a_killed_gateway_begins_a_new_epoch(binary):
    with tempfile.TemporaryDirectory() as directory:
        with killable(binary, directory) as (listeners, process):
            before = Subscriber(listeners["grpc"][0], "all").begins()
            with connect(f"ws://{listeners['websocket'][0]}/") as client:
                client.recv()
                assert before.hear().HasField("opened")
                process.kill()
                assert before.code() is grpc.StatusCode.UNAVAILABLE
        with killable(binary, directory) as (listeners, _process):
            after = Subscriber(listeners["grpc"][0], "all").begins()
            assert after.epoch != before.epoch
            with connect(f"ws://{listeners['websocket'][0]}/") as client:
                client.recv()
                event = after.hear()
                assert event.HasField("opened") and event.cursor == 2, event
            assert after.hear().HasField("closed")
            after.say(acknowledgement={"epoch": before.epoch, "cursor": 1})
            assert after.code() is grpc.StatusCode.INVALID_ARGUMENT


def example(binary):
    """The README's example as it stands there; the ports are its own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    chapter = re.search(r"^### Hear from your clients\n(.*?)^##", text, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", chapter[1], re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as directory:
        protos = sorted(map(str, (ROOT / "proto/gateway/v1").glob("*.proto")))
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}",
             f"--python_out={directory}", f"--grpc_python_out={directory}", *protos],
            check=True, timeout=60,
        )
        socket = f"--socket={directory}/control.sock"
        subprocess.run(
            [binary, socket, "--set=events.groups=chat", "start"],
            check=True, stdout=subprocess.DEVNULL, timeout=60,
        )
        back_end = subprocess.Popen(
            [sys.executable, "-c", code], cwd=directory, stdout=subprocess.PIPE, text=True
        )
        try:
            assert back_end.stdout.readline() == "subscribed\n"
            with connect("ws://127.0.0.1:20818/") as client:
                name = client.recv()
                for word in ("hello", "again"):
                    client.send(word)
                    assert client.recv(timeout=30) == f"you said: {word}"
            told = [back_end.stdout.readline().split() for _ in range(5)]
            wanted = [["opened", "1"], ["message", "1"], ["message", "1"], ["closed", "0"]]
            wanted = [["snapshot", "0"], *([what, name, there] for what, there in wanted)]
            assert told == wanted, told
        finally:
            back_end.kill()
            back_end.wait()
            subprocess.run(
                [binary, socket, "stop"], check=True, stdout=subprocess.DEVNULL, timeout=60
            )


def main():
    tests = [what_a_client_does, redelivery, a_killed_gateway_begins_a_new_epoch, example]
    binary = pathlib.Path(sys.argv[1]).resolve()
    for test in tests:
        test(binary)
        print(f"ok {test.__name__}", flush=True)
    print(f"{len(tests)} passed, 0 failed")


main()
