"""The README as written there: the first conversation is run, the settings are checked.

usage: readme.py GATEWAY_BINARY
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def blocks(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def line(process, wanted):
    """The next line that the process prints, which has to begin as wanted."""
    text = process.stdout.readline().strip()
    assert text.startswith(wanted), f"wanted {wanted!r}, got {text!r}"
    return text


def conversation(binary, directory):
    client_side, business_side, _events = blocks("python")
    socket = f"--socket={directory}/control.sock"
    # The ports are the README's own: they are part of what is tried.
    subprocess.run([binary, socket, "start"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    client = subprocess.Popen(
        [sys.executable, "-u", "-c", client_side], stdout=subprocess.PIPE, text=True
    )
    try:
        identity = line(client, "client id: ").removeprefix("client id: ")
        assert len(identity) == 36, identity
        line(client, "answer: pong")
        business = subprocess.run(
            [sys.executable, "-c", business_side],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=60,
        )
        assert identity in business.stdout, business.stdout
        assert "arrived at 1" in business.stdout, business.stdout
        line(client, "received: hello, Ada")
        line(client, "received: hello, lobby")
        status = subprocess.run(
            [binary, socket, "status"], check=True, stdout=subprocess.PIPE, text=True, timeout=60
        )
        assert re.search(r"^clients\s+1$", status.stdout, re.MULTILINE), status.stdout
    finally:
        client.kill()
        client.wait()
        subprocess.run([binary, socket, "stop"], check=True, stdout=subprocess.DEVNULL, timeout=60)


def settings(binary, directory):
    """Each example of settings is a configuration that would be accepted."""
    place = pathlib.Path(directory)
    for name in ("grpc", "gateway", "tls", "clients"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", f"/CN={name}", "-days", "30",
             "-keyout", place / f"{name}.key", "-out", place / f"{name}.crt"],
            check=True, capture_output=True, timeout=60,
        )
    (place / "clients.crt").rename(place / "clients.pem")
    (place / "tokens").write_text("billing 0123456789abcdef0123456789abcdef\n", encoding="utf-8")
    (place / "tokens").chmod(0o600)
    shown = blocks("toml")
    assert len(shown) >= 4, shown
    for example in shown:
        file = place / "gateway.toml"
        file.write_text(example.replace("/etc/gateway-websocket", directory), encoding="utf-8")
        checked = subprocess.run(
            [binary, "--config", file, "check"], capture_output=True, text=True, timeout=60
        )
        assert checked.returncode == 0 and "valid" in checked.stdout, (example, checked)


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    for part in (conversation, settings):
        with tempfile.TemporaryDirectory() as directory:
            part(binary, directory)
    print("2 passed, 0 failed")


main()
