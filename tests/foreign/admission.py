"""A back end in Python that says who may connect, with grpcio as people use it.

usage: admission.py GATEWAY_BINARY
"""

import concurrent.futures
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from foreign import gateway
from modern import Modern

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-the-foreign-back-end"


def compiled(folder):
    """The modules that protoc makes of the protos."""
    protos = [str(path) for path in sorted((ROOT / "proto/gateway/v1").glob("*.proto"))]
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT}/proto", f"-I{well_known}"]
    assert protoc.main([*arguments, f"--python_out={folder}", f"--grpc_python_out={folder}", *protos]) == 0
    sys.path.insert(0, str(folder))
    from gateway.v1 import admission_pb2, admission_pb2_grpc

    return admission_pb2, admission_pb2_grpc


def back_end(pb2, pb2_grpc, asked, address="127.0.0.1:0"):
    """Lets in who asks for `/enter`, with the query as uid; answers the server and its port."""

    class Admission(pb2_grpc.AdmissionServicer):
        def Admit(self, request, context):
            asked.append((request, dict(context.invocation_metadata())))
            if request.path != "/enter":
                return pb2.AdmitResponse(refuse={"status": 402, "body": "pay first"})
            return pb2.AdmitResponse(
                allow={
                    "uid": request.query,
                    "groups": ["lobby"],
                    "attributes": {"via": "python"},
                    "subprotocol": "chat.v1",
                    "messages": [{"data": b"welcome"}],
                }
            )

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
    pb2_grpc.add_AdmissionServicer_to_server(Admission(), server)
    port = server.add_insecure_port(address)
    server.start()
    return server, port


def comes_in(listeners, uid):
    """A client of this uid gets all that the back end gives."""
    url = f"ws://{listeners['websocket'][0]}/enter?{uid}"
    with connect(url, subprotocols=["chat.v2", "chat.v1"]) as client:
        name = client.recv()
        assert client.recv() == "welcome"
        assert client.subprotocol == "chat.v1", client.subprotocol
        modern = Modern(listeners["grpc"][0])
        (told,) = modern.DescribeClients(clients=[name]).clients
        assert (told.uid, list(told.groups), dict(told.attributes)) == (
            uid, ["lobby"], {"via": "python"}
        ), told


def turned_away(listeners, status, body):
    try:
        connect(f"ws://{listeners['websocket'][0]}/else")
    except InvalidStatus as refused:
        response = refused.response
        assert (response.status_code, response.body) == (status, body), response
        return
    raise AssertionError("the client was let in")


def asks(pb2, pb2_grpc, settings, binary):
    asked = []
    server, port = back_end(pb2, pb2_grpc, asked)
    with gateway(binary, f"hook.address=http://127.0.0.1:{port}", *settings) as listeners:
        comes_in(listeners, "ada")
        request, metadata = asked[-1]
        assert metadata["authorization"] == f"Bearer {TOKEN}", metadata
        assert ("upgrade", "websocket") in [(it.name, it.value) for it in request.headers]
        turned_away(listeners, 402, b"pay first")
        assert len(asked) == 2, asked
    server.stop(None).wait()


def finds_it_again(pb2, pb2_grpc, settings, binary):
    """A back end that is stopped in good order and started again is no trouble for who comes."""
    server, port = back_end(pb2, pb2_grpc, [])
    hook = [f"hook.address=http://localhost:{port}", "hook.breaker_failures=0", "hook.timeout=8s"]
    with gateway(binary, *hook, *settings) as listeners:
        for _ in range(3):
            comes_in(listeners, "ada")
            server.stop(1).wait()
            server, _ = back_end(pb2, pb2_grpc, [], f"127.0.0.1:{port}")
        comes_in(listeners, "eve")
        server.stop(None).wait()
    with gateway(binary, *hook[:2], "hook.timeout=100ms", *settings) as listeners:
        words = b"whether this client may connect can't be found out now (unreachable)\n"
        turned_away(listeners, 503, words)


def main():
    tests = [asks, finds_it_again]
    binary = pathlib.Path(sys.argv[1]).resolve()
    passed = 0
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        token = folder / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        pb2, pb2_grpc = compiled(folder)
        for test in tests:
            test(pb2, pb2_grpc, [f"hook.token_file={token}"], binary)
            print(f"ok {test.__name__}")
            passed += 1
    print(f"{passed} passed, {len(tests) - passed} failed")


main()
