"""Python's websockets over TLS, and a certificate that is renewed while everybody is being sent to.

usage: tls.py GATEWAY_BINARY
"""

import asyncio
import contextlib
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from websockets.asyncio.client import connect

from authority import Authority
from foreign import ECHOES, SIZES, Foreigner, running, text

CLIENTS = 20
ROUNDS = 6
# Time in which new clients see a new certificate.
SOON = 1.0
# Only ends a test that would hang.
HANG = 60


def address(listeners):
    host, _, port = listeners["tls"][0].rpartition(":")
    return host, int(port)


class Secure:
    """A client that checks the certificate and its name.

    It runs in one event loop: the threads of websockets' blocking client read and write one TLS
    object at a time, which Python's ssl doesn't bear (a request is lost now and then while a
    session ticket is read)."""

    LOOP = asyncio.new_event_loop()
    threading.Thread(target=LOOP.run_forever, daemon=True).start()

    def __init__(self, authority, listeners):
        url = f"wss://localhost:{address(listeners)[1]}/"
        stream = socket.create_connection(address(listeners), timeout=HANG)

        async def open_it():
            return await connect(url, sock=stream, ssl=authority.client(), max_size=1 << 21)

        self.client = self.run(open_it())

    def run(self, what, timeout=HANG):
        return asyncio.run_coroutine_threadsafe(what, self.LOOP).result(timeout)

    def recv(self, timeout=HANG):
        return self.run(self.client.recv(), timeout)

    def send(self, message):
        self.run(self.client.send(message))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run(self.client.close())




def shown(authority, listeners):
    """The certificate that a new client is shown."""
    with (
        socket.create_connection(address(listeners), timeout=HANG) as stream,
        authority.client().wrap_socket(stream, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True)


def sizes(binary, authority):
    """What a client says comes back, and what calls send it comes as it was sent."""
    for settings in ECHOES:
        with running(binary, *settings, *authority.settings()) as (_, _, listeners):
            server = Foreigner(listeners["grpc"][0])
            with Secure(authority, listeners) as client:
                name = client.recv()
                for size in SIZES:
                    message = text(size)
                    for said in (message, message.encode()):
                        client.send(said)
                        assert client.recv() == said, f"{type(said)} of {size} bytes"
                    if size:
                        assert server.SendMessageToClient(clientid=name, message=message).result
                        assert client.recv() == message, f"{size} bytes, sent by a call"


def hear(client, last, faults):
    """Hears numbers, one after the other, up to the last."""
    try:
        expected = None
        while expected is None or expected <= last[0]:
            number = int(client.recv(timeout=HANG).split()[0])
            assert expected in (None, number), f"{number} instead of {expected}"
            expected = number + 1
    except Exception as fault:  # whatever it is, the main thread has to hear of it
        faults.append(fault)


def renewals(binary, authority):
    """The certificate changes again and again, told by signal and by command in turn."""
    settings = (*authority.settings(), "reload.watch=false")
    with contextlib.ExitStack() as stack:
        command, process, listeners = stack.enter_context(running(binary, *settings))
        server = Foreigner(listeners["grpc"][0])
        clients = [stack.enter_context(Secure(authority, listeners)) for _ in range(CLIENTS)]
        for client in clients:
            assert len(client.recv()) == 36
        last, faults, done = [float("inf")], [], threading.Event()
        hearing = [threading.Thread(target=hear, args=(c, last, faults)) for c in clients]
        sent = 0

        def send():
            nonlocal sent
            while not done.is_set():
                assert server.BroadcastMessage(message=f"{sent} {'x' * 2000}").result
                sent += 1

        sending = threading.Thread(target=send)
        for thread in (*hearing, sending):
            thread.start()
        try:
            for number in range(ROUNDS):
                certificate = authority.renew()
                assert shown(authority, listeners) != certificate, "nothing was told yet"
                began = time.monotonic()
                if number % 2:
                    process.send_signal(signal.SIGHUP)
                else:
                    subprocess.run([*command, "reload"], check=True, stdout=subprocess.DEVNULL)
                while shown(authority, listeners) != certificate:
                    assert time.monotonic() - began < SOON, "the new certificate is not shown"
        finally:
            # The last one is sent after this, so that every client hears that it may stop.
            done.set()
            sending.join(HANG)
            last[0] = sent
            server.BroadcastMessage(message=str(sent))
            for thread in hearing:
                thread.join(HANG)
        assert not faults, faults
        assert sent > ROUNDS, sent
        assert server.CountOnlineClient().count == CLIENTS, "nobody was lost"


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(directory)
        for what in (sizes, renewals):
            what(binary, authority)
            print(f"ok {what.__name__}")
    print("2 passed, 0 failed")


main()
