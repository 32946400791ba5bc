"""A crowd of WebSocket clients in one process, made of nothing but sockets.

usage: crowd.py HOST PORT CLIENTS

Prints each client id on a line, then `ready`, then answers pings until it is killed.
"""

import base64
import os
import resource
import select
import socket
import sys

HOST, PORT, CLIENTS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# Local ports per source address: far below the ephemeral range, so that none is searched for long.
PER_ADDRESS = 2000
IP_BIND_ADDRESS_NO_PORT = 24
AT_ONCE = 64


def request():
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET / HTTP/1.1\r\nHost: {HOST}:{PORT}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def begin(number):
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    client.bind((f"127.0.1.{1 + number // PER_ADDRESS}", 0))
    client.connect((HOST, PORT))
    client.sendall(request())
    return client


def read_id(client):
    data = b""
    while b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < 38:
        part = client.recv(4096)
        if not part:
            raise SystemExit(f"the gateway closed a connection: {data!r}")
        data += part
    head, frame = data.split(b"\r\n\r\n", 1)
    if not head.startswith(b"HTTP/1.1 101 ") or frame[:2] != b"\x81\x24":
        raise SystemExit(f"no welcome: {data!r}")
    return frame[2:38].decode()


def answer(client):
    """Answers each ping in what has come; the gateway's pings are empty."""
    data = client.recv(65536)
    if not data:
        raise SystemExit("the gateway closed a connection")
    for _ in range(data.count(b"\x89\x00")):
        client.sendall(b"\x8a\x80\0\0\0\0")


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = {}
    poll = select.epoll()
    for first in range(0, CLIENTS, AT_ONCE):
        batch = [begin(number) for number in range(first, min(first + AT_ONCE, CLIENTS))]
        for client in batch:
            print(read_id(client))
            clients[client.fileno()] = client
            poll.register(client.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for number, _ in poll.poll():
            answer(clients[number])


main()
