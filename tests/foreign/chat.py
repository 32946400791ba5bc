"""The chat of examples/chat as its READMEs run it: two windows of Chromium talk to each other, with
each of the back ends in turn.

usage: chat.py GATEWAY_BINARY
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from devtools import browser
from foreign import ready

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHAT = ROOT / "examples/chat"
TOOLS = {"python": ("python3",), "node": ("node", "npm"), "rust": ("cargo",)}
MOST_LINES = 150
# Only ends a test that would hang.
HANG = 600

# Waits until the list shows the line for the n-th time.
HEARD = """new Promise((resolve) => {
  const list = document.getElementById("heard");
  const look = () => {
    const lines = [...list.children].map((item) => item.textContent);
    if (lines.filter((line) => line === %s).length >= %d) resolve(lines);
  };
  new MutationObserver(look).observe(list, { childList: true });
  look();
})"""


def block(readme, language):
    text = (CHAT / readme).read_text(encoding="utf-8")
    (lines,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return lines.strip()


@contextlib.contextmanager
def pasted(readme, binary, **terms):
    """Runs the README's lines in one shell, from the root; the last is the program."""
    *before, program = block(readme, "sh").splitlines()
    script = "\n".join(["exec 3>&1 1>&2", *before, f"exec {program} 1>&3 3>&-"])
    # What cargo has made for the tests need not be made again.
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(ROOT / "target"),
        "PATH": f"{binary.parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("GATEWAY", None)
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment,
        start_new_session=True, **terms,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@contextlib.contextmanager
def back_end(example, binary):
    """The back end, once it says that the chat is open."""
    readme = f"{example}/README.md"
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with pasted(readme, binary, **quiet) as process:
        line = process.stdout.readline().rstrip("\n")
        assert line == block(readme, "text"), f"{example} says {line!r}"
        yield


class Person:
    """Who sits before a window."""

    def __init__(self, window):
        self.window, self.seen = window, {}

    def enter(self, name, room):
        self.fill("name", name)
        self.fill("room", room)
        self.window.run('document.getElementById("enter").requestSubmit()')

    def say(self, text):
        self.fill("text", text)
        self.window.run('document.getElementById("say").requestSubmit()')

    def press(self, button):
        self.window.run(f'document.getElementById("{button}").click()')

    def fill(self, field, text):
        self.window.run(f'document.getElementById("{field}").value = {json.dumps(text)}')

    def hears(self, line):
        """Waits for a line that has not been heard before; gives all lines by then."""
        self.seen[line] = self.seen.get(line, 0) + 1
        return self.window.run(HEARD % (json.dumps(line), self.seen[line]))


def both_hear(people, line):
    for person in people:
        person.hears(line)


def conversation(example, binary, chromium):
    page = "http://127.0.0.1:8080/"
    with back_end(example, binary):
        ada, bob = both = [Person(chromium.window(page)) for _ in range(2)]
        ada.enter("ada", "lobby")
        ada.hears("ada has joined lobby")
        bob.enter("bob", "lobby")
        both_hear(both, "bob has joined lobby")
        # Text is text, whatever it looks like.
        ada.say('hello, <b>"all"</b> & 𝄞')
        both_hear(both, 'ada: hello, <b>"all"</b> & 𝄞')
        bob.say("hello, ada")
        both_hear(both, "bob: hello, ada")
        ada.press("who")
        ada.hears("in lobby: ada, bob")
        bob.press("leave")
        both_hear(both, "bob has left lobby")
        ada.say("where is bob?")
        ada.hears("ada: where is bob?")
        bob.say("here")
        assert "ada: where is bob?" not in bob.hears("join a room first")
        bob.enter("bob", "lobby")
        both_hear(both, "bob has joined lobby")
    # Nobody hears for the gateway now, which keeps what is said; a new back end asks who is where.
    ada.say("is anybody there?")
    with back_end(example, binary):
        both_hear(both, "ada: is anybody there?")
        bob.press("who")
        bob.hears("in lobby: ada, bob")
        ada.window.close()
        bob.hears("ada has left lobby")
        bob.press("who")
        bob.hears("in lobby: bob")
        bob.window.close()


def strangers():
    """Without a token, or with somebody else's, nobody comes in."""
    forged = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJldmUiLCJleHAiOjk5OTk5OTk5OTl9." + "A" * 43
    for subprotocols in (None, ["bearer"], ["bearer", forged]):
        try:
            with connect("ws://127.0.0.1:20818/", subprotocols=subprotocols):
                raise AssertionError(f"{subprotocols} came in")
        except InvalidStatus as refused:
            assert refused.response.status_code == 401, refused


def short(example):
    """What is to be read is short."""
    pattern = "src/main.*" if example == "rust" else "main.*"
    (program,) = (CHAT / example).glob(pattern)
    lines = program.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES, f"{program} has {len(lines)} lines"


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    signal.alarm(HANG)
    for example, tools in TOOLS.items():
        missing = [tool for tool in ("chromium", "openssl", *tools) if not shutil.which(tool)]
        assert not missing, f"examples/chat/{example} needs {missing}"
    passed = 0
    # The ports are the examples' own: they are part of what is tried.
    with pasted("README.md", binary, stderr=subprocess.DEVNULL) as gateway:
        ready([binary, "status", "--json"], gateway)
        strangers()
        print("ok without a token", flush=True)
        for example in TOOLS:
            short(example)
            with browser() as chromium:
                conversation(example, binary, chromium)
            print(f"ok {example}", flush=True)
            passed += 1
    print(f"{passed + 1} passed, 0 failed")


main()
