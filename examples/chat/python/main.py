"""A chat: the gateway holds the connections and tells what clients do, this says what it means."""

import base64
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import queue
import threading
import time
import urllib.parse

import grpc

from gateway.v1 import directory_pb2, directory_pb2_grpc, events_pb2, events_pb2_grpc
from gateway.v1 import membership_pb2, messages_pb2
from gateway.v1.types_pb2 import KIND_TEXT, Message, Target

CHAT = pathlib.Path(__file__).resolve().parent.parent
SECRET = (CHAT / "secret").read_bytes().rstrip(b"\r\n")
PORT = 8080


def token(name):
    """A JSON Web Token: who has it may connect as `name`, and stay for an hour."""
    head = {"alg": "HS256", "typ": "JWT"}
    claims = {"sub": name, "exp": int(time.time()) + 3600}
    said = b".".join(encode(json.dumps(part).encode()) for part in (head, claims))
    return said + b"." + encode(hmac.digest(SECRET, said, hashlib.sha256))


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class Site(http.server.BaseHTTPRequestHandler):
    """The page, and tokens. Here anybody is who he says; a real one would ask for a password."""

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        name = urllib.parse.parse_qs(url.query).get("name", [""])[0]
        if url.path == "/":
            self.answer(200, "text/html; charset=utf-8", (CHAT / "page.html").read_bytes())
        elif url.path == "/token" and name:
            self.answer(200, "text/plain", token(name))
        else:
            self.answer(404, "text/plain", b"not found\n")

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Chat:
    def __init__(self, channel):
        self.events = events_pb2_grpc.EventsStub(channel)
        self.directory = directory_pb2_grpc.DirectoryStub(channel)
        self.places = {}  # of each client that is in a room: which, and by which name

    def who_is_where(self):
        """The gateway remembers the rooms, which are groups: it is asked after each restart."""
        for part in self.directory.StreamGroups(directory_pb2.StreamGroupsRequest()):
            for room in (group.name for group in part.groups):
                filter = directory_pb2.ClientFilter(group=room)
                request = directory_pb2.StreamClientsRequest(filter=filter)
                for those in self.directory.StreamClients(request):
                    yield from ((client.id, (room, client.uid)) for client in those.clients)

    def run(self):
        """Hears events and acknowledges each with what is to be done, until the stream ends."""
        says = queue.SimpleQueue()
        says.put(events_pb2.SubscribeRequest(start=events_pb2.SubscribeStart(group="chat")))
        epoch = 0
        for heard in self.events.Subscribe(iter(says.get, None)):
            if heard.HasField("hello"):
                epoch, self.places = heard.hello.epoch, dict(self.who_is_where())
                print(f"chat is open: http://127.0.0.1:{PORT}/", flush=True)
            for failure in heard.done.failures:
                print(failure.field, failure.message, flush=True)
            for event in heard.events.events:
                applies, sends = self.react(event)
                done = dict(epoch=epoch, cursor=event.cursor, applies=applies, sends=sends)
                says.put(events_pb2.SubscribeRequest(acknowledgement=done))

    def react(self, event):
        """What is changed, and what is sent, because of an event."""
        client, name = event.client, event.uid
        if event.HasField("message"):
            try:
                said = json.loads(event.message.data)
                return self.said(client, name, said["do"], said)
            except (ValueError, KeyError, TypeError):
                return [], [send({"what": "error", "text": "not understood"}, clients=[client])]
        if event.HasField("closed") and client in self.places:
            room, name = self.places.pop(client)
            return [], [send({"what": "left", "name": name, "room": room}, groups=[room])]
        return [], []

    def said(self, client, name, do, said):
        room, name = self.places.get(client, (None, name))
        if do == "join" and room is None:
            room = str(said["room"])
            self.places[client] = (room, name)
            join = membership_pb2.ApplyRequest(client=client, join=[room])
            return [join], [send({"what": "joined", "name": name, "room": room}, groups=[room])]
        if room is None:
            return [], [send({"what": "error", "text": "join a room first"}, clients=[client])]
        if do == "say":
            text = str(said["text"])
            return [], [send({"what": "said", "name": name, "text": text}, groups=[room])]
        if do == "who":
            there = sorted(who for where, who in self.places.values() if where == room)
            return [], [send({"what": "who", "room": room, "names": there}, clients=[client])]
        if do == "leave":
            del self.places[client]
            leave = membership_pb2.ApplyRequest(client=client, leave=[room])
            left = {"what": "left", "name": name, "room": room}
            return [leave], [send(left, clients=[client], groups=[room])]
        raise ValueError(do)


def send(what, **to):
    message = Message(kind=KIND_TEXT, data=json.dumps(what).encode())
    return messages_pb2.SendRequest(target=Target(**to), message=message)


def main():
    site = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    with grpc.insecure_channel(os.environ.get("GATEWAY", "127.0.0.1:20819")) as channel:
        while True:
            try:
                Chat(channel).run()
            except grpc.RpcError as error:
                print(f"{error.code().name}: {error.details()}", flush=True)
            time.sleep(1)


main()
