"""Chromium against the gateway: the README's lines for its console, and messages of all sizes.

usage: browser.py GATEWAY_BINARY
"""

import contextlib
import http.server
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading

from authority import Authority
from foreign import ECHOES, SIZES, Foreigner, gateway, text

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync
""".split()
# Tells the test what the console shows, line by line.
README_PAGE = """<!doctype html><script>
console.log = (...words) => { fetch("/said", { method: "POST", body: words.join(" ") }); };
%s
ws.onopen = () => { console.log("extensions:", ws.extensions); ws.send("ping"); };
</script>"""
SIZES_PAGE = ROOT / "tests/foreign/sizes.html"
# Only ends a test that would hang.
HANG = 120


class Listener(http.server.BaseHTTPRequestHandler):
    """Serves the page and hears what it says."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.page.encode())

    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.said.put(said.decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def shown(page, flags=()):
    """Shows the page in a browser; gives what waits for the next thing that it says."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server,
    ):
        server.page, server.said = page, queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # With a debugging port it stays until it is ended.
        browser = subprocess.Popen(
            ["chromium", *FLAGS, *flags, f"--user-data-dir={directory}/profile",
             "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        try:
            yield lambda: server.said.get(timeout=HANG)
        finally:
            # All of its processes: they are a group of their own.
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait(timeout=HANG)
            server.shutdown()


def readme(binary):
    """The lines for the console, as they stand in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"^```js\n(.*?)^```", text, re.MULTILINE | re.DOTALL).group(1)
    with tempfile.TemporaryDirectory() as directory:
        # The port is the README's own: it is part of what is tried.
        command = [binary, f"--socket={directory}/control.sock"]
        subprocess.run([*command, "start"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        try:
            with shown(README_PAGE % lines) as said:
                # The extensions, the client id and the pong, each by a request of its own.
                console = "\n".join(said() for _ in range(3))
        finally:
            subprocess.run([*command, "stop"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert re.search(r"^received: [0-9a-f-]{36}$", console, re.MULTILINE), console
    assert re.search(r"^received: pong$", console, re.MULTILINE), console
    assert "extensions: permessage-deflate" in console, console


def sizes(binary, settings, authority=None):
    """What the page says is echoed to it, and what calls send it comes as it was sent.

    With an authority it is said over wss. Chromium is told to trust the key of its certificate, and
    no other: its own list of authorities is the machine's.
    """
    flags = []
    if authority:
        settings = (*settings, *authority.settings())
        flags = [f"--ignore-certificate-errors-spki-list={authority.key_fingerprint()}"]
    with gateway(binary, *settings) as listeners:
        server = Foreigner(listeners["grpc"][0])
        url = f"ws://{listeners['websocket'][0]}/"
        if authority:
            url = f"wss://localhost:{listeners['tls'][0].rpartition(':')[2]}/"
        given = {"url": url, "texts": [text(n) for n in SIZES]}
        page = SIZES_PAGE.read_text(encoding="utf-8").replace("{{given}}", json.dumps(given))
        with shown(page, flags) as said:
            extensions, name = said(), said()
            assert extensions.startswith("permessage-deflate"), extensions
            assert len(name) == 36, name
            for size in SIZES:
                for kind in ("text", "binary", "noise"):
                    heard = said()
                    assert heard == f"{kind} of {size} bytes came back", heard[:200]
            for size in filter(None, SIZES):  # the classic API sends no empty text
                message = text(size)
                assert server.SendMessageToClient(clientid=name, message=message).result
                heard = said()
                assert heard == message, f"{len(heard)} of {size} bytes: {heard[:200]}"


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    readme(binary)
    print("ok the README's lines")
    for settings in ECHOES:
        sizes(binary, settings)
        print(f"ok all sizes, {' '.join(settings)}")
    with tempfile.TemporaryDirectory() as directory:
        sizes(binary, ECHOES[0], Authority(directory))
    print("ok all sizes, over wss")
    print(f"{2 + len(ECHOES)} passed, 0 failed")


main()
