"""The page of metrics, read by Prometheus' own Python parsers, says exactly what was done.

usage: metrics.py GATEWAY_BINARY
"""

import contextlib
import pathlib
import sys
import time
import urllib.request

from prometheus_client import openmetrics, parser
from prometheus_client.openmetrics import parser as open_metrics
from websockets.sync.client import connect

from foreign import Foreigner, gateway

OPEN_METRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
CLIENTS, MESSAGES, TEXT = 20, 30, "x" * 100
PREFIX = "gateway_websocket_"


def page(address, accept):
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def scrape(address):
    """All families, by name; the parser fails at what OpenMetrics forbids."""
    kind, text = page(address, OPEN_METRICS)
    assert kind == openmetrics.exposition.CONTENT_TYPE_LATEST, kind
    families = list(open_metrics.text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def samples(families):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }


class Numbers:
    """What has been added to each row since the last look."""

    def __init__(self, address):
        self.address = address
        self.before = samples(scrape(address))

    def value(self, name, **labels):
        return self.now.get((PREFIX + name, *sorted(labels.items())), 0)

    def grew(self, name, **labels):
        return self.value(name, **labels) - self.before.get(
            (PREFIX + name, *sorted(labels.items())), 0
        )

    def look(self, until):
        """Looks until it is so: what a socket does is counted a moment after its peer sees it."""
        for _ in range(500):
            self.now = samples(scrape(self.address))
            if until(self):
                return
            time.sleep(0.01)  # a page can only be asked for
        raise AssertionError({row: value for row, value in self.now.items() if value})


def counts(listeners):
    """As many messages to as many clients: each number grows by exactly that."""
    server = Foreigner(listeners["grpc"][0])
    assert server.CountOnlineClient().count == 0
    numbers = Numbers(listeners["admin"][0])
    url = f"ws://{listeners['websocket'][0]}/"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(CLIENTS)]
        numbers_of(clients, server, numbers)


def numbers_of(clients, server, numbers):
    for client in clients:
        server.JoinGroup(clientid=client.recv(), group="all")
    for _ in range(MESSAGES):
        assert server.SendMessageToGroup(group="all", message=TEXT).arrive == CLIENTS
    for client in clients:
        for _ in range(MESSAGES):
            assert client.recv() == TEXT
    clients[0].send("hello")
    clients[0].send("there")
    delivered = CLIENTS * MESSAGES
    numbers.look(
        lambda n: n.grew("messages_sent_total") == delivered
        and n.grew("messages_received_total") == 2
        and n.value("connections", state="handshake") == 0
    )
    send = "proto.SendMessageToGroup/SendMessageToGroup"
    for expected, name, labels in (
        (CLIENTS, "clients_opened_total", {}),
        (CLIENTS, "handshakes_total", {}),
        (CLIENTS, "connections", {"state": "open"}),
        (delivered, "messages_queued_total", {}),
        (MESSAGES, "grpc_calls_total", {"method": send, "code": "OK"}),
        (MESSAGES, "grpc_call_duration_seconds_count", {"method": send}),
        (MESSAGES, "grpc_call_duration_seconds_bucket", {"method": send, "le": "+Inf"}),
        (CLIENTS, "grpc_calls_total", {"method": "proto.JoinGroup/JoinGroup", "code": "OK"}),
        (1, "groups", {}),
    ):
        assert numbers.grew(name, **labels) == expected, (name, labels, numbers.grew(name, **labels))
    # Compression makes the frames smaller than their texts, but not smaller than their heads.
    assert numbers.grew("sent_bytes_total") > 2 * delivered
    for client in clients[:5]:
        client.close(1000)
    clients[5].close(4000)
    numbers.look(lambda n: n.value("connections", state="open") == CLIENTS - 6)
    assert numbers.grew("clients_closed_total", cause="peer", code="1000") == 5
    assert numbers.grew("clients_closed_total", cause="peer", code="other") == 1


def names(listeners):
    """Names end as Prometheus wants them to, and each family says what it is."""
    families = scrape(listeners["admin"][0])
    assert len(families) > 40
    for name, family in families.items():
        assert family.documentation.endswith("."), name
        assert name.startswith((PREFIX, "process_")), name
        assert not family.unit or name.endswith(f"_{family.unit}"), name
        assert family.type in ("counter", "gauge", "histogram", "info"), name
    cpu = families["process_cpu_seconds"].samples[0].value
    assert 0 < cpu < 60
    start = families["process_start_time_seconds"].samples[0].value
    assert abs(time.time() - start) < 300


def plain(listeners):
    """Who asks for the older format gets it, with the same rows."""
    address = listeners["admin"][0]
    new = scrape(address)
    kind, text = page(address, "text/plain;version=0.0.4")
    assert kind == "text/plain; version=0.0.4; charset=utf-8", kind
    old = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert samples(old).keys() == samples(new).keys()
    for name, family in new.items():
        if family.type == "info":
            name, kind = f"{name}_info", "gauge"
        else:
            kind = family.type
        assert (old[name].type, old[name].documentation) == (kind, family.documentation), name


def main():
    checks = (counts, names, plain)
    for check in checks:
        with gateway(pathlib.Path(sys.argv[1]).resolve()) as listeners:
            check(listeners)
        print(f"ok {check.__name__}")
    print(f"{len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
