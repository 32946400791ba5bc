"""Callers that have to say who they are, as a foreign library does it: TLS, tokens, certificates.

usage: callers.py GATEWAY_BINARY
"""

import pathlib
import subprocess
import sys
import tempfile

import grpc

from foreign import Foreigner, gateway

TOKEN = "a-token-of-the-foreign-caller"


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def certify(folder, name, authority, extensions):
    """Makes a key and a certificate by the authority, as an operator does by hand."""
    (folder / f"{name}.ext").write_text(extensions)
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key",
            "-out", f"{name}.csr", "-subj", f"/CN={name}")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem",
            "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2",
            "-out", f"{name}.pem", "-extfile", f"{name}.ext")


def authority(folder, name):
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key",
            "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")


def secure(folder, address, shows=None, token=None, trusts="authority"):
    """A caller that trusts an authority, and shows a certificate or brings a token."""
    read = lambda name: (folder / name).read_bytes()
    key, chain = (read(f"{shows}.key"), read(f"{shows}.pem")) if shows else (None, None)
    credentials = grpc.ssl_channel_credentials(read(f"{trusts}.pem"), key, chain)
    if token:
        token = grpc.access_token_call_credentials(token)
        credentials = grpc.composite_channel_credentials(credentials, token)
    return Foreigner(address, credentials)


def refused(code, call):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return
    raise AssertionError(f"the call should have ended with {code}")


def healthy(server):
    """Health by hand: it has to answer who may not ask what its methods are."""
    check = server.channel.unary_unary("/grpc.health.v1.Health/Check")
    return check(b"", timeout=30) == b"\x08\x01"


def over_tls(folder, binary, tls):
    with gateway(binary, *tls) as listeners:
        address = listeners["grpc"][0]
        server = secure(folder, address)
        assert server.CountOnlineClient().count == 0
        assert healthy(server)
        assert "proto.ClonseClient" in server.services("v1")
        stranger = secure(folder, address, trusts="other")
        refused(grpc.StatusCode.UNAVAILABLE, lambda: healthy(stranger))


def by_token(folder, binary, tls):
    tokens = folder / "tokens"
    tokens.write_text(f"foreign {TOKEN}\n")
    tokens.chmod(0o600)
    with gateway(binary, *tls, f"grpc.token_files={tokens}") as listeners:
        address = listeners["grpc"][0]
        assert secure(folder, address, token=TOKEN).CountOnlineClient().count == 0
        for token in (None, "another-token-of-somebody"):
            server = secure(folder, address, token=token)
            refused(grpc.StatusCode.UNAUTHENTICATED, lambda: server.services("v1"))
            assert healthy(server)


def by_certificate(folder, binary, tls):
    with gateway(binary, *tls, f"grpc.client_ca={folder}/authority.pem") as listeners:
        address = listeners["grpc"][0]
        assert secure(folder, address, shows="billing").CountOnlineClient().count == 0
        for shows in (None, "forged"):
            server = secure(folder, address, shows=shows)
            refused(grpc.StatusCode.UNAVAILABLE, lambda: healthy(server))


def compressed(_folder, binary, _tls):
    """Who compresses is understood in both APIs, by reflection, and as far as requests may go."""
    with gateway(binary, "grpc.max_message=64 KiB") as listeners:
        server = Foreigner(listeners["grpc"][0], compression=grpc.Compression.Gzip)
        assert {"proto.ClonseClient", "gateway.v1.Messages"} <= server.services("v1alpha")
        assert server.BroadcastMessage(message="x" * 50_000).result
        assert server.call("gateway.v1.Directory", "Count").clients == 0
        assert healthy(server)
        refused(grpc.StatusCode.RESOURCE_EXHAUSTED,
                lambda: server.BroadcastMessage(message="x" * 5_000_000))


def main():
    tests = [over_tls, by_token, by_certificate, compressed]
    binary = pathlib.Path(sys.argv[1]).resolve()
    passed = 0
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        for name in ("authority", "other"):
            authority(folder, name)
        certify(folder, "server", "authority", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        certify(folder, "billing", "authority", "extendedKeyUsage=clientAuth")
        certify(folder, "forged", "other", "extendedKeyUsage=clientAuth")
        tls = [f"grpc.certificate={folder}/server.pem", f"grpc.key={folder}/server.key"]
        for test in tests:
            test(folder, binary, tls)
            print(f"ok {test.__name__}")
            passed += 1
    print(f"{passed} passed, {len(tests) - passed} failed")


main()
