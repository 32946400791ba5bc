"""What the README promises back ends, one promise after the other, as a foreign client meets it.

Order under load, `Apply` seen by others, and everything at random are `tests/it/`'s.

usage: guarantees.py GATEWAY_BINARY
"""

import contextlib
import pathlib
import socket
import sys
import time

from grpc import StatusCode
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from foreign import Foreigner, gateway
from metrics import Numbers
from modern import Modern, refused

NOBODY = "00000000-0000-8000-8000-000000000000"
LARGE = b"x" * 100_000
SMALL = ("websocket.send_buffer=4KiB", "limits.groups_per_client=3", "api.max_targets=10")
NOT_FOUND = 5


class Scene:
    """A gateway of its own, and clients that come when they are needed."""

    def __init__(self, listeners, stack):
        self.stack = stack
        self.url = f"ws://{listeners['websocket'][0]}/"
        self.old = Foreigner(listeners["grpc"][0])
        self.api = Modern(listeners["grpc"][0])
        self.numbers = Numbers(listeners["admin"][0])

    def client(self, **options):
        client = self.stack.enter_context(connect(self.url, compression=None, **options))
        return client, client.recv()

    def idler(self):
        """A client that hears no more until `recv` is called, and whose kernel takes little."""
        host, port = self.url.removeprefix("ws://").rstrip("/").split(":")
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.connect((host, int(port)))
        return self.client(sock=small, max_queue=1, max_size=None)

    def send(self, data, **fields):
        fields = {"target": {"all": True}} | fields
        return self.api.Send(message={"data": data}, **fields).delivery

    def fill(self, name, until):
        """Sends to one client until an answer says so."""
        for _ in range(2000):
            if until(self.send(LARGE, target={"clients": [name]})):
                return
        raise AssertionError("the client takes all")

    def behind(self):
        """A client that is behind, and stays so: what its side takes yet is less than what waits."""
        client, name = self.idler()
        to = {"clients": [name]}
        for _ in range(2000):
            probe = self.send(b"probe", target=to, drop_if_behind=True)
            if probe.dropped_behind:
                assert (probe.matched, probe.queued) == (1, 0), probe
                assert all(self.send(LARGE, target=to).queued == 1 for _ in range(6))
                return client, name
            assert self.send(LARGE, target=to).queued == 1
        raise AssertionError("the client takes all")

    def dropped(self, **causes):
        """So many messages were dropped since the scene began, by cause."""
        total = "messages_dropped_total"
        self.numbers.look(
            lambda n: all(n.grew(total, cause=cause) == many for cause, many in causes.items())
        )


def heard(client):
    """All that the client hears until the marker, which is sent to everybody."""
    texts = []
    while (text := client.recv(timeout=30)) != "marker":
        texts.append(text)
    return [text for text in texts if text not in ("probe", LARGE.decode())]


def closed(client):
    """The code and reason with which the client is closed, whatever it hears before."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            client.recv(timeout=30)
    return client.close_code, client.close_reason


def terms_for_who_is_behind(scene):
    client, _name = scene.behind()
    other, _name = scene.client()
    scene.dropped(behind=1)
    # The slow one costs the other nothing, and the terms mean nothing to it.
    first = scene.send(b"price 1", conflate_key="price")
    assert (first.matched, first.queued, first.replaced) == (2, 2, 0), first
    assert other.recv() == "price 1"
    assert scene.send(b"stale", ttl={"nanos": 1_000_000}).queued == 2
    assert other.recv() == "stale"
    second = scene.send(b"price 2", conflate_key="price")
    assert (second.queued, second.replaced) == (2, 1), second
    news = scene.send(b"news", drop_if_behind=True)
    assert (news.matched, news.queued, news.dropped_behind) == (2, 1, 1), news
    assert [other.recv(), other.recv()] == ["price 2", "news"]
    time.sleep(0.01)  # the time of the stale one is over
    assert scene.send(b"marker").queued == 2
    assert heard(client) == ["price 2"]
    scene.dropped(behind=2, replaced=1, expired=1)


def lost_with_the_connection(scene):
    client, name = scene.behind()
    assert scene.send(b"never heard", target={"clients": [name]}).queued == 1
    client.socket.shutdown(socket.SHUT_RDWR)
    scene.numbers.look(lambda n: n.grew("messages_dropped_total", cause="closed") >= 1)


def full_and_closed(scene):
    client, name = scene.idler()
    scene.fill(name, lambda answer: answer.dropped_closed == 1)
    scene.numbers.look(
        lambda n: n.grew("messages_dropped_total", cause="newest") == 1
        and n.grew("messages_dropped_total", cause="closed") >= 1
        and n.grew("clients_closed_total", cause="slow", code="1013") == 1
    )
    assert not scene.old.ClientIsOnline(clientid=name).isonline
    assert closed(client)[0] == 1013


def full_and_newest_dropped(scene):
    _client, name = scene.idler()
    scene.fill(name, lambda answer: answer.dropped_full == 1)
    scene.dropped(newest=1, oldest=0)
    assert scene.old.ClientIsOnline(clientid=name).isonline


def full_and_oldest_dropped(scene):
    _client, name = scene.idler()

    def until(answer):
        assert answer.queued == 1, answer
        scene.numbers.look(lambda _n: True)
        return scene.numbers.grew("messages_dropped_total", cause="oldest") >= 1

    scene.fill(name, until)
    scene.dropped(newest=0)
    assert scene.old.ClientIsOnline(clientid=name).isonline


def once(scene):
    client, name = scene.client()
    scene.api.Bind(uid="ada", clients=[name])
    scene.api.Join(groups=["a", "b"], clients=[name])
    everywhere = {"clients": [name, name], "uids": ["ada"], "groups": ["a", "b"]}
    assert scene.send(b"one", target=everywhere).matched == 1
    order = {"idempotency_key": "order 7", "ttl": {"seconds": 60}}
    first = scene.send(b"order", **order)
    _late, _name = scene.client()  # for whom a second sending would be, too
    assert scene.send(b"order", **order) == first
    refused(
        StatusCode.INVALID_ARGUMENT, lambda: scene.send(b"other", **order), "idempotency_key"
    )
    scene.send(b"marker")
    assert heard(client) == ["one", "order"]


def order_and_streams(scene):
    client, name = scene.client()
    items = [
        {
            "sequence": number,
            "sends": [
                {"target": {"clients": [name]}, "message": {"data": f"{number} {part}".encode()}}
                for part in range(3)
            ],
        }
        for number in range(1, 101)
    ]
    items[49]["sends"][1]["target"] = {}
    answers = scene.api.SendStream(items)
    assert [a.sequence for a in answers] == sorted(a.sequence for a in answers)
    assert answers[-1].sequence == 100
    assert answers[-1].total.queued == answers[-1].total.matched == 299
    failures = [failure for answer in answers for failure in answer.failures]
    assert [(f.sequence, f.index, f.code) for f in failures] == [(50, 1, 3)], failures
    assert failures[0].field == "target", failures
    assert scene.old.BroadcastMessage(message="marker").result
    wanted = [f"{n} {part}" for n in range(1, 101) for part in range(3) if (n, part) != (50, 1)]
    assert heard(client) == wanted


def apply_whole_or_not_at_all(scene):
    client, name = scene.client()
    change = {"client": name, "bind": "ada", "attributes": {"set": {"role": "editor"}}}
    messages = [{"message": {"data": b"hello"}}]
    # Together with the group that it is in, these are too many.
    assert scene.api.Join(groups=["z"], clients=[name]).joined == 1
    refused(
        StatusCode.FAILED_PRECONDITION,
        lambda: scene.api.Apply(join=["a", "b", "c"], messages=messages, **change),
        "limits.groups_per_client",
    )
    assert not scene.old.UidIsOnline(uid="ada").result
    assert not scene.api.GetAttributes(client=name).attributes
    assert scene.old.CountGroup().count == 1
    # Leaving comes first, so now they fit.
    done = scene.api.Apply(join=["a", "b", "c"], leave=["z"], messages=messages, **change)
    assert (done.uid_changed, done.left, done.joined) == (True, 1, 3), done
    assert done.delivery.queued == 1, done
    assert scene.old.UidIsOnline(uid="ada").result
    scene.send(b"marker")
    assert heard(client) == ["hello"]
    refused(StatusCode.NOT_FOUND, lambda: scene.api.Apply(client=NOBODY, bind="eve"))


def expiry(scene):
    (stays, first), (goes, second) = scene.client(), scene.client()
    soon = {"seconds": int(time.time()) + 1}
    for name in (first, second):
        scene.api.Apply(client=name, expires_at=soon)
    scene.api.Apply(client=first, never_expires=True)
    assert closed(goes)[0] == 3000
    scene.send(b"marker")
    assert heard(stays) == []


def items_fail_alone(scene):
    _client, name = scene.client()
    joined = scene.api.Join(groups=["lobby"], clients=[NOBODY, name], uids=["nobody"])
    assert joined.joined == 1
    failures = {failure.field: failure.code for failure in joined.failures}
    assert failures == {"clients[0]": NOT_FOUND, "uids[0]": NOT_FOUND}, joined
    assert scene.send(b"x", target={"clients": [NOBODY, name]}).matched == 1
    bad = StatusCode.INVALID_ARGUMENT
    wrong = {"target.clients[1]": {"clients": [name, "no id"]}, "target": {}}
    for field, target in wrong.items():
        refused(bad, lambda target=target: scene.send(b"x", target=target), field)
    many = {"clients": [name] * 11}
    refused(bad, lambda: scene.send(b"x", target=many), "api.max_targets")
    refused(bad, lambda: scene.api.Close(target=many), "api.max_targets")


def lists(scene):
    ids = {scene.client()[1] for _ in range(5)}
    seen, token = [], ""
    while True:
        page = scene.api.ListClients(page_size=1, page_token=token)
        seen += [client.id for client in page.clients]
        token = page.next_page_token
        if not token:
            break
        going, _name = scene.client()  # others come and go meanwhile
        going.close()
        other = token
    assert len(seen) == len(set(seen)) and ids <= set(seen), (ids, seen)
    refused(StatusCode.INVALID_ARGUMENT, lambda: scene.api.ListUids(page_token=other), "page_token")
    whole = [client.id for part in scene.api.StreamClients() for client in part.clients]
    assert len(whole) == len(set(whole)) and ids <= set(whole), (ids, whole)


TESTS = {
    terms_for_who_is_behind: (),
    lost_with_the_connection: (),
    full_and_closed: ("limits.slow_client=disconnect",),
    full_and_newest_dropped: ("limits.slow_client=drop-newest",),
    full_and_oldest_dropped: ("limits.slow_client=drop-oldest",),
    once: (),
    order_and_streams: (),
    apply_whole_or_not_at_all: (),
    expiry: (),
    items_fail_alone: (),
    lists: (),
}


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    for test, settings in TESTS.items():
        with gateway(binary, *SMALL, *settings) as listeners, contextlib.ExitStack() as stack:
            test(Scene(listeners, stack))
        print(f"ok {test.__name__}", flush=True)
    print(f"{len(TESTS)} passed, 0 failed")


main()
