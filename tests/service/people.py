"""Clients and business systems for the service tests: real sockets, from outside of the service."""

import asyncio
import concurrent.futures
import os
import socket
import ssl
import sys
import threading

import grpc
import websockets.asyncio.client
import websockets.exceptions

from box import ROOT

sys.path.append(str(ROOT / "proto"))
MESSAGES, SERVICES = grpc.protos_and_services("classic.proto")

# Connections that are opened at the same time: fewer than any backlog.
AT_ONCE = 64


class Client:
    """One WebSocket: what it was told, and how it ended."""

    def __init__(self, connection, reads):
        self.connection = connection
        self.messages = []
        self.ended = None
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()

    @property
    def id(self):
        return self.messages[0]

    async def listen(self):
        try:
            while True:
                message = await self.connection.recv()
                self.messages.append(message)
                await self.reads.wait()
        except websockets.exceptions.ConnectionClosed as end:
            self.ended = end.rcvd.code if end.rcvd else 1006


class Crowd:
    """Clients in a thread of their own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.clients = []
        self.tasks = []
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def ask(self, coroutine, timeout=120):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def join(self, count, url="ws://127.0.0.1:20818/", reads=True, **options):
        """Connects so many more; returns them when each has its id. Who doesn't read has a small
        receive buffer, so that what is sent stays with the gateway."""

        async def one(gate):
            if not reads:
                options["sock"] = small_socket(url)
            async with gate:
                connection = await websockets.asyncio.client.connect(
                    url, ping_interval=None, compression=None, max_queue=1, open_timeout=30,
                    proxy=None, **options,
                )
            client = Client(connection, reads)
            self.tasks.append(asyncio.create_task(client.listen()))
            while not client.messages and client.ended is None:
                await asyncio.sleep(0.005)
            assert client.messages, f"closed with {client.ended} instead of a welcome"
            return client

        async def all_of_them():
            gate = asyncio.Semaphore(AT_ONCE)
            return await asyncio.gather(*(one(gate) for _ in range(count)))

        new = self.ask(all_of_them())
        self.clients += new
        return new

    def read(self, clients):
        for client in clients:
            self.loop.call_soon_threadsafe(client.reads.set)

    def connected(self):
        return sum(client.ended is None for client in self.clients)

    def leave(self):
        async def close():
            for task in self.tasks:
                task.cancel()
            closing = [client.connection.close() for client in self.clients]
            await asyncio.gather(*closing, *self.tasks, return_exceptions=True)

        self.ask(close())
        self.clients, self.tasks = [], []


def small_socket(url):
    host, _, port = url.split("/")[2].partition(":")
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect((host, int(port)))
    small.setblocking(False)
    return small


def refused(url="ws://127.0.0.1:20818/"):
    """Tries to connect; gives the HTTP status of the refusal, or none if it was not refused."""

    async def attempt():
        try:
            async with websockets.asyncio.client.connect(url, proxy=None):
                return None
        except websockets.exceptions.InvalidStatus as refusal:
            return refusal.response.status_code

    return asyncio.run(asyncio.wait_for(attempt(), 30))


class Business:
    """A business system."""

    def __init__(self, address="127.0.0.1:20819", token=None):
        # A channel of its own each time, so that no backoff of an earlier one is waited for.
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        )
        self.metadata = [("authorization", f"Bearer {token}")] if token else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def call(self, name, timeout=60, **fields):
        stub = getattr(SERVICES, f"{name}Stub")(self.channel)
        request = getattr(MESSAGES, f"{name}Request")(**fields)
        return getattr(stub, name)(request, timeout=timeout, metadata=self.metadata)

    def online(self):
        return self.call("CountOnlineClient").count


def tell_all(text, **business):
    with Business(**business) as system:
        assert system.call("BroadcastMessage", message=text).result, text


def listens(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def http(path, port=20820, host="127.0.0.1"):
    """The status of a probe."""
    with socket.create_connection((host, port), timeout=10) as probe:
        probe.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(probe.makefile("rb").readline().split()[1])


def certificate_serial(port, authority, name="gateway.test"):
    """The serial number of the certificate that is shown to a new client."""
    context = ssl.create_default_context(cafile=authority)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            return secure.getpeercert()["serialNumber"]


class Knocking:
    """Connects again and again while something happens; counts who got in and who was refused."""

    def __init__(self, url="ws://127.0.0.1:20818/", at_once=4):
        self.url, self.at_once = url, at_once
        self.stop = threading.Event()
        self.served, self.problems = 0, []

    async def knock(self):
        while not self.stop.is_set():
            try:
                async with websockets.asyncio.client.connect(
                    self.url, open_timeout=60, ping_interval=None, proxy=None
                ) as connection:
                    await asyncio.wait_for(connection.recv(), 60)
                self.served += 1
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.01)

    async def all_of_them(self):
        await asyncio.gather(*(self.knock() for _ in range(self.at_once)))

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.work = self.pool.submit(lambda: asyncio.run(self.all_of_them()))
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.work.result(timeout=120)
        self.pool.shutdown()


def random_text(size):
    return os.urandom(size // 2).hex()
