"""The README's lines for the browser's console, run in Chromium against the gateway.

usage: browser.py GATEWAY_BINARY
"""

import functools
import http.server
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync
""".split()
# Shows what the console would, and says how the connection was agreed on.
PAGE = """<!doctype html><pre id="console"></pre><script>
const out = document.getElementById("console");
console.log = (...words) => { out.textContent += words.join(" ") + "\\n"; };
%s
ws.onopen = () => { console.log("extensions:", ws.extensions); ws.send("ping"); };
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def console(directory):
    """What the page shows once it has had a few seconds of its own time."""
    handler = functools.partial(Quiet, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = subprocess.run(
            ["chromium", *FLAGS, f"--user-data-dir={directory}/profile",
             "--virtual-time-budget=5000", "--dump-dom",
             f"http://127.0.0.1:{server.server_port}/page.html"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120,
        ).stdout
        server.shutdown()
    return re.search(r'<pre id="console">(.*?)</pre>', page, re.DOTALL).group(1)


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"^```js\n(.*?)^```", readme, re.MULTILINE | re.DOTALL).group(1)
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "page.html").write_text(PAGE % lines, encoding="utf-8")
        # The port is the README's own: it is part of what is tried.
        command = [binary, f"--socket={directory}/control.sock"]
        subprocess.run([*command, "start"], check=True, stdout=subprocess.DEVNULL, timeout=60)
        try:
            shown = console(directory)
        finally:
            subprocess.run([*command, "stop"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert re.search(r"^received: [0-9a-f-]{36}$", shown, re.MULTILINE), shown
    assert re.search(r"^received: pong$", shown, re.MULTILINE), shown
    assert "extensions: permessage-deflate" in shown, shown
    print("1 passed, 0 failed")


main()
