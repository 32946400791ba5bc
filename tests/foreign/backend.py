"""The README's chapter for back ends: its lines for grpcurl are run, its table is held against both
APIs.

usage: backend.py GATEWAY_BINARY
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from classic import CALLS
from foreign import Foreigner, gateway
from modern import METHODS, Modern

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOBODY = "00000000-0000-8000-8000-000000000000"


def section(title):
    """The text of a section of the README's third level."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {title}\n(.*?)^##", text, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def answers_of(client):
    """Each line's call in the order of the README, and what its answer has to hold."""
    one = {"delivery": {"matched": "1", "queued": "1"}}
    listed = {"id": client}
    yield "Directory/Count", {"clients": "1"}
    yield "Directory/ListClients", {"clients": [listed]}
    yield "Directory/ListClients", {"clients": [listed]}
    yield "Membership/Bind", {"changed": "1"}
    yield "Membership/Join", {"joined": "2"}
    yield "Membership/SetAttributes", {"changed": "1"}
    yield "Membership/GetAttributes", {"attributes": {"language": "en"}}
    yield "Messages/Send", one
    yield "Messages/Send", one
    yield "Messages/Send", one
    yield "Messages/SendStream", {"sequence": "2", "total": {"matched": "2", "queued": "2"}}
    yield "Membership/Apply", {"uidChanged": True, "left": "1", "joined": "1", **one}
    yield "Directory/DescribeClients", {
        "clients": [
            {
                "id": client,
                "uid": "ada.l",
                "attributes": {"language": "en", "role": "editor"},
                "path": "/any/path",
                "expiresAt": re.compile("2034-12-31T23:59:59|2035-01-01T00:00:00"),  # to a tenth
            }
        ]
    }
    yield "Directory/CheckOnline", {"clients": [True], "uids": [True, False]}
    yield "Directory/Count", {"groupMembers": ["1"], "uidClients": ["1"], "groups": "2"}
    yield "Directory/ListUids", {"uids": ["ada.l"]}
    yield "Directory/ListGroups", {"groups": [{"name": "lobby", "members": "1"}]}
    yield "Directory/StreamClients", {"clients": [{**listed, "uid": "ada.l"}]}
    yield "Directory/StreamUids", {"uids": ["ada.l"]}
    yield "Directory/StreamGroups", {}
    yield "Membership/Leave", {"left": "1"}
    yield "Membership/Dissolve", {"dissolved": "1", "left": "1"}
    yield "Membership/Unbind", {"changed": "1"}
    yield "Connections/Close", {"closed": "1"}


def holds(answer, wanted):
    """Whether what is wanted is in the answer, with whatever else there is."""
    if isinstance(wanted, dict):
        return all(key in answer and holds(answer[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(answer) == len(wanted) and all(map(holds, answer, wanted))
    if isinstance(wanted, re.Pattern):
        return wanted.match(answer) is not None
    return answer == wanted


def lines(binary):
    """Bash runs the lines as they stand, with our `grpcurl`; the ports are the README's own."""
    (block,) = re.findall(r"^```sh\n(.*?)^```", section("Call by call"), re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        stand_in = [sys.executable, str(pathlib.Path(__file__).with_name("grpcurl.py"))]
        program = place / "grpcurl"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(stand_in)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        log = place / "log"
        environment = os.environ | {
            "PATH": f"{place}:{os.environ['PATH']}", "GRPCURL_LOG": str(log)
        }
        socket = f"--socket={directory}/control.sock"
        subprocess.run([binary, socket, "start"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        try:
            with connect("ws://127.0.0.1:20818/any/path") as client:
                name = client.recv()
                subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", block],
                    env=environment, check=True, stdout=subprocess.DEVNULL, timeout=300,
                )
                heard = []
                with contextlib.suppress(ConnectionClosed):  # with a code of our own
                    while True:
                        heard.append(client.recv(timeout=30))
                wanted = ["hello", "101.25", "order 7", "one", "two", "welcome", "bye"]
                assert heard == wanted, heard
                assert (client.close_code, client.close_reason) == (3000, "see you"), client
        finally:
            subprocess.run(
                [binary, socket, "stop"], check=True, stdout=subprocess.DEVNULL, timeout=60
            )
        calls = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    expected = [(f"gateway.v1.{path}", wanted) for path, wanted in answers_of(name)]
    assert [call["path"] for call in calls] == [path for path, _wanted in expected]
    for call, (path, wanted) in zip(calls, expected):
        assert holds(call["answers"][-1], wanted), (path, call["answers"], wanted)
    untried = {f"{service}/{name}" for name, service in METHODS.items()} - {
        call["path"] for call in calls
    }
    assert not untried, untried


class Stage:
    """Two clients of Ada in the lobby and one of Eve, and both APIs to ask about them."""

    def __init__(self, listeners, stack):
        self.old = Foreigner(listeners["grpc"][0])
        self.new = Modern(listeners["grpc"][0])
        self.url = f"ws://{listeners['websocket'][0]}/"
        self.stack = stack
        (self.phone, first), (self.laptop, second), (self.other, third) = (
            self.client() for _ in range(3)
        )
        self.ids = [first, second, third]
        for name in (first, second):
            assert self.old.ClientBindUid(clientid=name, uid="ada").result
            assert self.old.JoinGroup(clientid=name, group="lobby").result
        assert self.old.ClientBindUid(clientid=third, uid="eve").result
        self.new.called.clear()

    def client(self):
        socket = self.stack.enter_context(connect(self.url))
        return socket, socket.recv()

    def sends(self, target, classic, clients):
        """Both APIs reach these clients, and no other."""
        sent = self.new.Send(target=target, message={"data": b"new"}).delivery
        assert (sent.matched, sent.queued) == (len(clients), len(clients)), sent
        assert classic.result
        assert self.old.BroadcastMessage(message="all").result
        for client in (self.phone, self.laptop, self.other):
            # The classic message was sent first: its answer was there before the other's call.
            wanted = ["old", "new", "all"] if client in clients else ["all"]
            assert [client.recv() for _ in wanted] == wanted
        return sent

    def lists(self, filter):
        """The same list in pages and whole."""
        paged, token = [], ""
        while True:
            page = self.new.ListClients(filter=filter, page_size=1, page_token=token)
            paged += page.clients
            token = page.next_page_token
            if not token:
                break
        parts = self.new.StreamClients(filter=filter)
        streamed = [client for part in parts for client in part.clients]
        assert {c.id for c in paged} == {c.id for c in streamed}, (paged, streamed)
        assert len(paged) == len(streamed)
        return paged


def broadcast(on):
    classic = on.old.BroadcastMessage(message="old")
    on.sends({"all": True}, classic, [on.phone, on.laptop, on.other])


def to_client(on):
    classic = on.old.SendMessageToClient(clientid=on.ids[0], message="old")
    on.sends({"clients": on.ids[:1]}, classic, [on.phone])


def to_uid(on):
    classic = on.old.SendMessageToUid(uid="ada", message="old")
    on.sends({"uids": ["ada"]}, classic, [on.phone, on.laptop])


def to_group(on):
    classic = on.old.SendMessageToGroup(group="lobby", message="old")
    sent = on.sends({"groups": ["lobby"]}, classic, [on.phone, on.laptop])
    assert classic.arrive == sent.queued


def close(on):
    (first, one), (second, two) = on.client(), on.client()
    assert on.old.ClonseClient(clientid=one).result
    assert on.new.Close(target={"clients": [two]}).closed == 1
    for client in (first, second):
        with contextlib.suppress(ConnectionClosed):
            client.recv()
        assert client.close_code == 1000, client.close_code


def bind_and_unbind(on):
    _socket, name = on.client()
    assert on.new.Bind(uid="bob", clients=[name]).changed == 1
    assert on.old.GetClientByUid(clientid=name).uid == "bob"
    assert on.new.Unbind(uids=["bob"]).changed == 1
    assert on.old.GetClientByUid(clientid=name).uid == ""
    assert on.old.ClientBindUid(clientid=name, uid="bob").result
    assert on.new.Bind(uid="bob", clients=[name]).changed == 0
    assert on.old.UnBindUid(clientid=name).result
    assert on.new.Unbind(clients=[name]).changed == 0
    assert on.new.Close(target={"clients": [name]}).closed == 1
    on.new.called.remove("Close")


def bind(on):
    bind_and_unbind(on)
    on.new.called[:] = [name for name in on.new.called if name != "Unbind"]


def unbind(on):
    bind_and_unbind(on)
    on.new.called[:] = [name for name in on.new.called if name != "Bind"]


def uid_of_client(on):
    described = on.new.DescribeClients(clients=[on.ids[0], NOBODY])
    assert described.clients[0].uid == on.old.GetClientByUid(clientid=on.ids[0]).uid == "ada"
    assert [failure.field for failure in described.failures] == ["clients[1]"]


def clients_of_uid(on):
    found = on.new.ListClients(filter={"uid_prefix": "ada"}).clients
    classic = on.old.GetUidByClient(uid="ada").clientid
    assert {client.id for client in found if client.uid == "ada"} == set(classic) == set(on.ids[:2])


def uid_online(on):
    uids = ["ada", "eve", "bob"]
    classic = [on.old.UidIsOnline(uid=uid).result for uid in uids]
    assert list(on.new.CheckOnline(uids=uids).uids) == classic == [True, True, False]


def count_uids(on):
    assert on.new.Count().uids == on.old.CountOnlineUid().count == 2


def all_uids(on):
    classic = set(on.old.GetAllOnlineUid().uid)
    assert {uid for part in on.new.StreamUids() for uid in part.uids} == classic == {"ada", "eve"}
    assert set(on.new.ListUids().uids) == classic


def join(on):
    assert on.new.Join(groups=["new"], clients=on.ids).joined == 3
    assert all(on.old.JoinGroup(clientid=name, group="old").result for name in on.ids)
    members = [set(on.old.GetGroupOnlineClient(group=group).clientid) for group in ("new", "old")]
    assert members == [set(on.ids)] * 2


def leave(on):
    assert on.new.Leave(groups=["new"], uids=["eve"]).left == 1
    assert on.old.LeaveGroup(clientid=on.ids[2], group="old").result
    members = [set(on.old.GetGroupOnlineClient(group=group).clientid) for group in ("new", "old")]
    assert members == [set(on.ids[:2])] * 2


def dissolve(on):
    dissolved = on.new.Dissolve(groups=["new"])
    assert (dissolved.dissolved, dissolved.left) == (1, 2), dissolved
    assert on.old.UnGroup(group="old").result
    assert on.old.CountGroup().count == 1


def count_members(on):
    counted = on.new.Count(groups=["lobby", "cellar"]).group_members
    classic = [on.old.CountOnlineGroup(group=group).count for group in ("lobby", "cellar")]
    assert list(counted) == classic == [2, 0]


def members(on):
    classic = set(on.old.GetGroupOnlineClient(group="lobby").clientid)
    assert {client.id for client in on.lists({"group": "lobby"})} == classic == set(on.ids[:2])


def count_groups(on):
    assert on.new.Count().groups == on.old.CountGroup().count == 1


def client_online(on):
    ids = [*on.ids, NOBODY]
    classic = [on.old.ClientIsOnline(clientid=name).isonline for name in ids]
    assert list(on.new.CheckOnline(clients=ids).clients) == classic == [True, True, True, False]


def count_clients(on):
    assert on.new.Count().clients == on.old.CountOnlineClient().count == 3


def all_clients(on):
    classic = set(on.old.GetAllOnlineClient().client)
    assert {client.id for client in on.lists({})} == classic == set(on.ids)


ROWS = {
    "BroadcastMessage": broadcast, "SendMessageToClient": to_client, "SendMessageToUid": to_uid,
    "SendMessageToGroup": to_group, "ClonseClient": close, "ClientBindUid": bind,
    "UnBindUid": unbind, "GetClientByUid": uid_of_client, "GetUidByClient": clients_of_uid,
    "UidIsOnline": uid_online, "CountOnlineUid": count_uids, "GetAllOnlineUid": all_uids,
    "JoinGroup": join, "LeaveGroup": leave, "UnGroup": dissolve,
    "CountOnlineGroup": count_members, "GetGroupOnlineClient": members, "CountGroup": count_groups,
    "ClientIsOnline": client_online, "CountOnlineClient": count_clients,
    "GetAllOnlineClient": all_clients,
}


def table(binary):
    """Each row: the calls that it names do and say the same in both APIs."""
    text = section("Coming from the 21 calls")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    assert sorted(name for name, _modern in rows) == sorted(CALLS) == sorted(ROWS)
    with gateway(binary) as listeners, contextlib.ExitStack() as stack:
        stage = Stage(listeners, stack)
        for name, modern in rows:
            stage.new.called.clear()
            ROWS[name](stage)
            named = {word for word in re.findall(r"`(\w+)`", modern) if word in METHODS}
            assert set(stage.new.called) == named, (name, stage.new.called, named)


def main():
    tests = [lines, table]
    binary = pathlib.Path(sys.argv[1]).resolve()
    for test in tests:
        test(binary)
        print(f"ok {test.__name__}")
    print(f"{len(tests)} passed, 0 failed")


if __name__ == "__main__":
    main()
