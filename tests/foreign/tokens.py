"""Tokens that another program made (PyJWT) are believed by their keys, for every algorithm, and
nothing else is: clients come in, and what their tokens say of them is so."""

import base64
import contextlib
import http.server
import json
import pathlib
import sys
import tempfile
import threading
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from foreign import Foreigner, gateway

SECRET = "a secret that is long enough for the longest of the three algorithms"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KEYS = {"RS256": RSA, "PS256": RSA, "ES256": EC, "EdDSA": ED}
WRITTEN = {"RS256": RSAAlgorithm, "PS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
SECRETS = ("HS256", "HS384", "HS512")


def claims(**changes):
    said = {"sub": "ada", "exp": int(time.time()) + 600, "groups": ["lobby"], "iss": "tests"}
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def token(algorithm, key=None, **changes):
    key = key or KEYS.get(algorithm, SECRET)
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": algorithm})


def pem(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def jwks():
    keys = []
    for name, key in KEYS.items():
        keys.append({**WRITTEN[name].to_jwk(key.public_key(), as_dict=True), "kid": name, "alg": name})
    return json.dumps({"keys": keys})


@contextlib.contextmanager
def server(text):
    """A web server that has these keys."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802, as the library calls it
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{served.server_address[1]}/jwks.json"
        finally:
            served.shutdown()


def settings(algorithms, **keys):
    yield f"auth.algorithms={json.dumps(algorithms)}"
    yield "auth.groups_claim=groups"
    for key, value in keys.items():
        yield f"auth.{key}={value}"


def comes_in(listeners, text):
    """By header and by sub-protocol, and is who its token says."""
    back_end = Foreigner(listeners["grpc"][0])
    url = f"ws://{listeners['websocket'][0]}/chat"
    header = {"Authorization": f"Bearer {text}"}
    with connect(url, additional_headers=header) as client:
        assert len(client.recv()) == 36
        assert back_end.SendMessageToGroup(group="lobby", message="hello").arrive == 1
        assert client.recv() == "hello"
    with connect(url, subprotocols=["bearer", text]) as client:
        assert client.subprotocol == "bearer"
        client.recv()
        assert back_end.UidIsOnline(uid="ada").result


def is_refused(listeners, text, reason):
    url = f"ws://{listeners['websocket'][0]}/"
    try:
        connect(url, additional_headers={"Authorization": f"Bearer {text}"}).close()
    except InvalidStatus as refusal:
        response = refusal.response
        assert response.status_code == 401, response
        assert f'error_description="{reason}"' in response.headers["WWW-Authenticate"], response
        assert text not in str(response.headers) + (response.body or b"").decode()
    else:
        raise AssertionError(f"came in, though {reason}")


def unsigned():
    return jwt.encode(claims(), None, algorithm="none")


def by_public_key(algorithm="HS256"):
    """Signed with the public key as if it were a secret, which PyJWT itself refuses to do."""
    import hashlib
    import hmac

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = part(json.dumps({"alg": algorithm}).encode()) + b"." + part(json.dumps(claims()).encode())
    tag = hmac.new(pem(EC).encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + part(tag)).decode()


def all_of_a_set(binary):
    with server(jwks()) as url, gateway(binary, *settings(list(KEYS), jwks=url)) as listeners:
        for algorithm in KEYS:
            comes_in(listeners, token(algorithm))
            is_refused(listeners, token(algorithm, exp=int(time.time()) - 600), "expired")
            is_refused(listeners, token(algorithm, nbf=int(time.time()) + 600), "not-yet-valid")
            is_refused(listeners, token(algorithm, aud="others"), "audience")
            is_refused(listeners, token(algorithm, sub=None), "claims")
        other = ec.generate_private_key(ec.SECP256R1())
        is_refused(listeners, token("ES256", key=other), "signature")
        is_refused(listeners, token("HS256"), "algorithm")
        is_refused(listeners, unsigned(), "algorithm")


def keys_in_files(binary):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "key")
        path.write_text(SECRET, encoding="utf-8")
        path.chmod(0o600)
        with gateway(binary, *settings(list(SECRETS), key=path)) as listeners:
            for algorithm in SECRETS:
                comes_in(listeners, token(algorithm))
                is_refused(listeners, token(algorithm, key=SECRET.upper()), "signature")
        for algorithm, key in KEYS.items():
            path.write_text(pem(key), encoding="utf-8")
            # HS256 beside it: a public key is no secret.
            both = settings([algorithm, "HS256"], key=path)
            with gateway(binary, *both) as listeners:
                comes_in(listeners, token(algorithm))
                is_refused(listeners, by_public_key(), "unknown-key")


def ends_with_its_token(binary):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "key")
        path.write_text(SECRET, encoding="utf-8")
        only = settings(["HS256"], key=path, leeway="0s")
        with gateway(binary, *only) as listeners:
            url = f"ws://{listeners['websocket'][0]}/"
            text = token("HS256", exp=int(time.time()) + 2)
            with connect(url, additional_headers={"Authorization": f"Bearer {text}"}) as client:
                client.recv()
                try:
                    client.recv(timeout=30)
                except ConnectionClosed as closed:
                    assert closed.rcvd.code == 3000, closed
                else:
                    raise AssertionError("a message came")


def main(binary):
    checks = (all_of_a_set, keys_in_files, ends_with_its_token)
    for check in checks:
        check(binary)
    print(f"{len(checks)} passed, 0 failed")


main(sys.argv[1])
