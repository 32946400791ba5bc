"""The README's lines for the browser's console, run in Chromium against the gateway.

usage: browser.py GATEWAY_BINARY
"""

import http.server
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync
""".split()
# Tells the test what the console shows, line by line.
PAGE = """<!doctype html><script>
console.log = (...words) => { fetch("/said", { method: "POST", body: words.join(" ") }); };
%s
ws.onopen = () => { console.log("extensions:", ws.extensions); ws.send("ping"); };
</script>"""
# Only ends a test that would hang.
HANG = 120


class Listener(http.server.BaseHTTPRequestHandler):
    """Serves the page and hears what its console shows."""

    page = b""
    said = queue.Queue()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page)

    def do_POST(self):
        line = self.rfile.read(int(self.headers["Content-Length"]))
        self.said.put(line.decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def console(directory, lines):
    """The first lines that the page's console shows."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # With a debugging port it stays until it is ended.
        browser = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={directory}/profile",
             "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        try:
            return [Listener.said.get(timeout=HANG) for _ in range(lines)]
        finally:
            # All of its processes: they are a group of their own.
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait(timeout=HANG)
            server.shutdown()


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"^```js\n(.*?)^```", readme, re.MULTILINE | re.DOTALL).group(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        Listener.page = (PAGE % lines).encode()
        # The port is the README's own: it is part of what is tried.
        command = [binary, f"--socket={directory}/control.sock"]
        subprocess.run([*command, "start"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        try:
            # The extensions, the client id and the pong, each by a request of its own.
            shown = "\n".join(console(directory, 3))
        finally:
            subprocess.run([*command, "stop"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert re.search(r"^received: [0-9a-f-]{36}$", shown, re.MULTILINE), shown
    assert re.search(r"^received: pong$", shown, re.MULTILINE), shown
    assert "extensions: permessage-deflate" in shown, shown
    print("1 passed, 0 failed")


main()
