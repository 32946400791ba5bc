"""The examples as their READMEs run them: what they print, and what their clients hear.

Beside Python they need Node.js with npm, and cargo.

usage: examples.py GATEWAY_BINARY
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from websockets.sync.client import connect

from foreign import Foreigner

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = {"rust": ("cargo",), "python": ("python3",), "node": ("node", "npm")}
MOST_LINES = 80


def blocks(example, language):
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def pasted(example):
    """Runs the README's lines in one shell, from the root; gives what its last line, the program,
    has printed, and whether all went well."""
    (lines,) = blocks(example, "sh")
    *before, program = lines.strip().splitlines()
    # What cargo has made for the tests need not be made again.
    environment = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target")}
    environment.pop("GATEWAY", None)
    script = "\n".join(["exec 3>&1 1>&2", *before, f"{program} 1>&3"])
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=600,
    )


def conversation(example, business):
    """Two are connected: one is led through the program, the other notices nothing of it."""
    with connect("ws://127.0.0.1:20818/") as ada, connect("ws://127.0.0.1:20818/") as bob:
        clients = {ada.recv(): ada, bob.recv(): bob}
        run = pasted(example)
        assert run.returncode == 0, run.stderr
        names = re.findall(r"^client (.*)$", run.stdout, re.MULTILINE)
        assert sorted(names) == sorted(clients), run.stdout
        # But for the ids it is what the README shows.
        (shown,) = blocks(example, "text")
        wanted = [line for line in shown.splitlines() if not line.startswith("client ")]
        said = [line for line in run.stdout.splitlines() if not line.startswith("client ")]
        assert said == wanted and len(wanted) == 3, (said, wanted)
        led = clients.pop(names[0])
        assert list(led) == ["hello, lobby"]
        assert (led.close_code, led.close_reason) == (1000, "that was all")
        ((other, stays),) = clients.items()
        assert business.SendMessageToClient(clientid=other, message="marker").result
        assert stays.recv() == "marker"


def nobody(example, _business):
    """With nobody there the program says so, and fails."""
    run = pasted(example)
    assert run.returncode == 1, run
    assert run.stderr.splitlines()[-1] == "nobody is connected", run.stderr
    assert run.stdout == "", run.stdout


def short(example):
    """What is to be read is short."""
    pattern = "src/main.*" if example == "rust" else "main.*"
    (program,) = (ROOT / "examples" / example).glob(pattern)
    lines = program.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES, f"{program} has {len(lines)} lines"


def unreachable(example):
    """Without a gateway the program says where it looked, or what failed, and ends with 1."""
    run = pasted(example)
    assert run.returncode == 1, run
    assert re.search(r"no gateway at 127\.0\.0\.1:20819|UNAVAILABLE", run.stderr), run.stderr


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    for example, tools in TOOLS.items():
        missing = [tool for tool in tools if not shutil.which(tool)]
        assert not missing, f"examples/{example} needs {missing}"
    passed = 0
    with tempfile.TemporaryDirectory() as directory:
        socket = f"--socket={directory}/control.sock"
        for example in TOOLS:
            short(example)
            # The ports are the examples' own: they are part of what is tried.
            subprocess.run(
                [binary, socket, "start"], check=True, stdout=subprocess.DEVNULL, timeout=60
            )
            try:
                business = Foreigner("127.0.0.1:20819")
                conversation(example, business)
                nobody(example, business)
            finally:
                subprocess.run(
                    [binary, socket, "stop"], check=True, stdout=subprocess.DEVNULL, timeout=60
                )
            unreachable(example)
            print(f"ok {example}", flush=True)
            passed += 1
    print(f"{passed} passed, 0 failed")


main()
