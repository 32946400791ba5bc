"""Messages of all sizes between Python's websockets and the gateway, whatever compression they agree on.

usage: sizes.py GATEWAY_BINARY
"""

import pathlib
import random
import sys

from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

from foreign import ECHOES, SIZES, Foreigner, gateway, text

WINDOWS = range(9, 16)


def offers():
    """What the client offers, and whether the gateway can accept it."""
    yield None, False
    yield {}, True
    yield {"client_max_window_bits": None}, True
    for bits in WINDOWS:
        yield {"server_max_window_bits": bits}, True
        yield {"client_max_window_bits": bits}, True
    for bits in (WINDOWS[0], WINDOWS[-1]):
        yield {"server_max_window_bits": bits, "client_max_window_bits": bits}, True
    yield {"server_no_context_takeover": True}, True
    yield {"client_no_context_takeover": True}, True
    yield {"server_no_context_takeover": True, "client_no_context_takeover": True}, True
    # zlib has no raw window of 8 bits, so the gateway could not honour it.
    yield {"server_max_window_bits": 8}, False


def listening(url, offer):
    """A client that makes the offer."""
    extensions = [] if offer is None else [ClientPerMessageDeflateFactory(**offer)]
    return connect(url, compression=None, extensions=extensions, max_size=1 << 21)


class Counted:
    """Counts the compressed messages that a client hears."""

    def __init__(self, client):
        self.count = 0
        for extension in client.protocol.extensions:
            self.decode, extension.decode = extension.decode, self

    def __call__(self, frame, **more):
        self.count += frame.rsv1
        return self.decode(frame, **more)


def messages(size):
    words = text(size)
    yield words
    yield words.encode()
    yield random.Random(size).randbytes(size)


def echoes(client, size):
    """What the client says comes back the same, in one frame or in several."""
    for message in messages(size):
        client.send(message)
        assert client.recv() == message, f"{type(message)} of {size} bytes"
        third = len(message) // 3
        client.send([message[:third], message[third:third], message[third:]])
        assert client.recv() == message, f"{type(message)} of {size} bytes in fragments"


def calls(server, client, name, size):
    """What a call sends comes as it was sent; the classic API sends no empty text."""
    message = text(size)
    sent = server.SendMessageToClient(clientid=name, message=message).result
    assert sent == (size > 0), size
    if sent:
        assert client.recv() == message, f"text of {size} bytes, sent by a call"


def all_sizes(listeners, server, offer, accepted, everything):
    with listening(f"ws://{listeners['websocket'][0]}/", offer) as client:
        counted = Counted(client)
        assert bool(client.protocol.extensions) == accepted, client.protocol.extensions
        name = client.recv()
        for size in SIZES:
            before = counted.count
            echoes(client, size)
            calls(server, client, name, size)
            if accepted and everything and size >= 125:
                # Text and its bytes, twice each, and the call; noise gets no shorter.
                assert counted.count - before == 5, f"{counted.count - before} of {size} bytes"
        assert accepted or counted.count == 0


def main():
    passed = 0
    for settings in ECHOES:
        with gateway(pathlib.Path(sys.argv[1]).resolve(), *settings) as listeners:
            server = Foreigner(listeners["grpc"][0])
            for offer, accepted in offers():
                all_sizes(listeners, server, offer, accepted, settings == ECHOES[-1])
                passed += 1
            print(f"ok {' '.join(settings)}")
    print(f"{passed} passed, 0 failed")


main()
