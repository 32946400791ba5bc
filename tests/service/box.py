"""Where the service tests live: namespaces of their own, a small Debian, and steps that are counted.

Everything that a test starts is in a PID namespace that ends with it, whatever happens to the test;
its network is a loopback device of its own, so that any port is free, and its mounts are seen by
nobody else.
"""

import fcntl
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "target" / "service"
INSIDE = "GATEWAY_SERVICE_TEST"
# The user that the image runs as and the manifests give rights to.
IMAGE_USER = 10001


def need_root(what):
    if os.geteuid() != 0:
        print(f"NOT RUN: {what} needs root (namespaces, debootstrap). Run this as root.", flush=True)
        print("0 passed, 1 failed")
        sys.exit(1)


def need_commands(*commands):
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        print(f"NOT RUN: these commands are missing: {', '.join(missing)}", flush=True)
        print("0 passed, 1 failed")
        sys.exit(1)


def isolate(prepare):
    """Runs `prepare` (it may use the network), then this program again, in its own namespaces."""
    if INSIDE in os.environ:
        loopback_up()
        return
    prepare()
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.environ[INSIDE] = "1"
    os.execvp("unshare", [*command, sys.executable, *sys.argv])


def loopback_up():
    IFF_UP, IFF_RUNNING, SIOCSIFFLAGS = 0x1, 0x40, 0x8914
    with socket.socket() as any_socket:
        request = struct.pack("16sH14s", b"lo", IFF_UP | IFF_RUNNING, b"")
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


def apt_mirror():
    """The archive that apt itself uses, in either of its two formats."""
    lists = pathlib.Path("/etc/apt")
    for path in sorted([*lists.glob("sources.list"), *lists.glob("sources.list.d/*")]):
        text = path.read_text(errors="replace")
        pattern = r"^URIs:\s*(\S+)" if path.suffix == ".sources" else r"^deb\s+(?:\[[^]]*\]\s*)?(\S+)"
        for found in re.findall(pattern, text, re.MULTILINE):
            if "/debian" in found and "security" not in found:
                return found
    return "http://deb.debian.org/debian"


def debian(name, *packages):
    """A Debian 12 with these packages, made once and kept under target/."""
    root = CACHE / name
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"making a Debian 12 in {root.relative_to(ROOT)}", flush=True)
        unfinished = CACHE / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        include = [f"--include={','.join(packages)}"] if packages else []
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", *include, "bookworm", unfinished, apt_mirror()],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
        )
        assert made.returncode == 0, f"debootstrap failed:\n{made.stdout[-2000:]}"
        shutil.rmtree(unfinished / "var/cache/apt/archives", ignore_errors=True)
        unfinished.rename(root)
    return root


def run(command, *, check=True, timeout=120, **more):
    """Runs a command, gives its code and all it said; says it if the command had to succeed."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        stdin=subprocess.DEVNULL, timeout=timeout, **more,
    )
    if check:
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done


def eventually(what, condition, seconds=30, pause=0.05):
    """Asks until the answer is true, and gives it."""
    until = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(pause)


class Container:
    """A Debian that systemd has booted, from a copy of a tree."""

    def __init__(self, tree):
        CACHE.mkdir(parents=True, exist_ok=True)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="box.", dir=CACHE))
        self.root = self.work / "root"
        run(["cp", "-a", "--reflink=auto", tree, self.root])
        (self.root / "etc/machine-id").write_text("")
        self.log = open(self.work / "console", "wb")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "-D", self.root, "--register=no", "--keep-unit", "-b",
             "--console=pipe"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )
        self.init = None

    def __enter__(self):
        try:
            eventually("systemd runs in the container", self.booted, 90, 0.2)
        except BaseException:
            print((self.work / "console").read_text(errors="replace")[-3000:])
            self.__exit__()
            raise
        return self

    def booted(self):
        assert self.nspawn.poll() is None, "systemd-nspawn ended"
        children = pathlib.Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children")
        self.init = next(iter(children.read_text().split()), None)
        if self.init is None:
            return False
        state = self.do("systemctl is-system-running", check=False)
        return state.stdout.strip() in ("running", "degraded")

    def __exit__(self, *_):
        # Its init is the first of a PID namespace: all of it ends with it.
        self.nspawn.kill()
        self.nspawn.wait(timeout=30)
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def command(self, script):
        enter = ["nsenter", "-t", self.init, "-m", "-p", "-u", "-i", "-n", "-C"]
        # As root's login shell would have it, and without what this machine's shell has.
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
                 "DEBIAN_FRONTEND=noninteractive"]
        return [*enter, *clean, "bash", "-euo", "pipefail", "-c", f"cd /root\n{script}"]

    def do(self, script, **how):
        """Runs a script in the container, as root."""
        return run(self.command(script), **how)

    def path(self, inside):
        return self.root / inside.lstrip("/")

    def show(self, unit, name):
        return self.do(f"systemctl show -P {name} {unit}").stdout.strip()

    def journal(self, unit, since="-1h"):
        return self.do(f"journalctl -u {unit} --since {since} -o cat --no-pager").stdout


class Steps:
    """Runs steps one after the other and counts them. Later ones don't depend on earlier ones' luck
    more than they say, so all of them are tried."""

    def __init__(self):
        self.passed = self.failed = 0

    def step(self, name, action):
        began = time.monotonic()
        try:
            saw = action()
        except Exception as error:
            self.failed += 1
            where = "".join(traceback.format_tb(error.__traceback__)[-2:])
            print(f"FAILED  {name}: {type(error).__name__}: {error}\n{where}", flush=True)
            return False
        self.passed += 1
        print(f"ok      {name} ({time.monotonic() - began:.1f} s): {saw}", flush=True)
        return True

    def all(self, actions):
        """Takes the steps that these methods are, each named as its method is."""
        for action in actions:
            self.step(action.__name__.replace("_", " "), action)

    def leave(self, crowd, log, lines):
        """Sends the crowd home; after a failure, shows the last `lines` of the `log`."""
        crowd.leave()
        if self.failed:
            print(f"--- the last lines of the {log}")
            print(lines())

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)


def chapter(title):
    """The text of a README section of the third level, by its title."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found.group(1)


def blocks(text):
    """The fenced blocks of a section, as (language, text), in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
