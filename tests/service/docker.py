"""The gateway as a container of a real Docker engine, from the stages of the Dockerfile.

usage: docker.py GATEWAY_BINARY

Starts an engine of its own, makes a base image from Debian 12 (kept under target/service), builds the
stage `runtime` on it, and joins it with the binary that cargo built, as the last stage would. The
stage `build` needs an image with Rust; of that is tried that the files it copies are all it takes.
The README's chapter is run line by line. Needs root.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import box
import people
from box import CACHE, ROOT, eventually, run

LAST_STAGE = """FROM runtime
COPY --from=build /src/target/release/gateway-websocket /usr/bin/gateway-websocket
"""
BASE, RUNTIME, IMAGE = "debian-by-debootstrap", "gateway-runtime", "gateway-websocket"
CROWD = 100


def debootstrap():
    return box.debian("bookworm-docker", "ca-certificates")


@contextlib.contextmanager
def engine():
    """A Docker engine for this process; it ends with it."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="docker.", dir=CACHE))
    # The socket's path has to be short.
    with tempfile.TemporaryDirectory() as short, open(work / "log", "wb") as log:
        os.environ["DOCKER_HOST"] = f"unix://{short}/docker.sock"
        os.environ["DOCKER_BUILDKIT"] = "0"
        os.environ["DOCKER_CONFIG"] = f"{short}/config"
        daemon = subprocess.Popen(
            ["dockerd", "--data-root", work / "data", "--exec-root", f"{short}/exec",
             "--host", os.environ["DOCKER_HOST"], "--pidfile", f"{short}/pid", "--iptables=false"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )

        def up():
            assert daemon.poll() is None, (work / "log").read_text(errors="replace")[-3000:]
            return docker("version", check=False).returncode == 0

        try:
            eventually("the engine answers", up, 60, 0.3)
            yield
        finally:
            containers = docker("ps", "--all", "--quiet", check=False)
            if containers.returncode == 0 and containers.stdout.split():
                docker("rm", "--force", "--volumes", *containers.stdout.split(), check=False)
            daemon.terminate()
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
    run(["umount", "--recursive", work], check=False)
    shutil.rmtree(work, ignore_errors=True)


def docker(*words, **how):
    return run(["docker", *words], **how)


def inspect(what):
    return json.loads(docker("inspect", what).stdout)[0]


class Trial:
    def __init__(self, binary, work):
        self.binary = binary
        self.work = work
        self.dockerfile = (ROOT / "Dockerfile").read_text()
        self.config = work / "gateway" / "gateway.toml"
        self.crowd = people.Crowd()

    def build(self):
        run(["bash", "-euo", "pipefail", "-c", f"tar -C '{CACHE}/bookworm-docker' -c . | docker import - {BASE}"],
            timeout=300)
        said = docker("build", "--target", "runtime", "--build-arg", f"RUNTIME_IMAGE={BASE}",
                      "--tag", RUNTIME, str(ROOT), timeout=300).stdout
        context = re.search(r"context to Docker daemon\s+([\d.]+[kM]?B)", said).group(1)
        assert not context.endswith("MB") or float(context[:-2]) < 5, f"a context of {context}"
        assert self.dockerfile.endswith(LAST_STAGE), "the last stage is not what is tried here"
        # The same last stage, with the binary from here instead of from the stage `build`.
        directory = self.work / "joined"
        directory.mkdir()
        shutil.copy(self.binary, directory / "gateway-websocket")
        run(["strip", directory / "gateway-websocket"])
        (directory / "Dockerfile").write_text(
            f"FROM {RUNTIME}\nCOPY gateway-websocket /usr/bin/gateway-websocket\n")
        docker("build", "--tag", IMAGE, str(directory), timeout=300)
        return f"the stage runtime, from a context of {context}, and the binary"

    def the_build_stage_has_its_files(self):
        """What it copies is all that cargo needs; compiled for real where the image has Rust."""
        stage = self.dockerfile.split(" AS build\n")[1].split("\nFROM ")[0]
        copies = re.findall(r"^COPY (.*) (\S+)$", stage, re.MULTILINE)
        assert len(copies) >= 4, copies
        kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
        source = self.work / "src"
        source.mkdir()
        for names, to in copies:
            for name in names.split():
                assert name in kept, f"{name} is copied, but .dockerignore keeps it away"
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / to)
                else:
                    shutil.copy(ROOT / name, source / to)
        command = re.search(r"^RUN (cargo build .*)$", stage, re.MULTILINE).group(1).split()
        assert command[:3] == ["cargo", "build", "--release"] and "--locked" in command, command
        check = ["cargo", "check", "--offline", *command[3:]]
        environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target")}
        run(check, cwd=source, env=environment, timeout=900)
        return f"{' '.join(check)} among the {len(list(source.rglob('*.*')))} files that it copies"

    def the_image_says_how_it_is_run(self):
        image = inspect(IMAGE)
        config = image["Config"]
        assert config["User"] == "10001:10001", config["User"]
        assert config["Entrypoint"] == ["/usr/bin/gateway-websocket"], config["Entrypoint"]
        assert config["Cmd"] == ["serve"], config["Cmd"]
        assert config["StopSignal"] == "SIGTERM"
        assert set(config["ExposedPorts"]) == {"20818/tcp", "20819/tcp", "20820/tcp"}
        assert set(config["Volumes"]) == {"/etc/gateway-websocket", "/run/gateway-websocket"}
        assert config["Healthcheck"]["Test"] == ["CMD", "/usr/bin/gateway-websocket", "health"]
        labels = [name for name in config["Labels"] if name.startswith("org.opencontainers.image.")]
        assert len(labels) >= 3, labels
        added = image["Size"] - inspect(BASE)["Size"]
        ours = (self.work / "joined" / "gateway-websocket").stat().st_size
        assert added < ours + (1 << 20), f"{added} bytes over the base, {ours} of them the program"
        return f"user, entry point, health check, volumes, labels; {added >> 20} MiB over the base"

    def nobody_said_who_may_call(self):
        ended = docker("run", "--rm", IMAGE, check=False)
        assert ended.returncode == 78, f"{ended.returncode}: {ended.stdout}"
        for words in ("GWS_GRPC__LISTEN", "grpc.allow", "grpc.token_files"):
            assert words in ended.stdout, ended.stdout
        return f"exit code 78: {ended.stdout.strip().splitlines()[-1].strip()[:150]}"

    def shell(self, line):
        return run(["bash", "-euo", "pipefail", "-c", line], cwd=self.work, check=False)

    def the_chapter_is_right(self):
        """Each block of the README's section, in order."""
        shutil.copytree(ROOT / "config", self.work / "config")
        ran = 0
        for language, text in box.blocks(box.chapter("Docker")):
            assert language == "sh", language
            if text == "docker build -t gateway-websocket .\n":
                continue  # done before, with bases and a binary from here
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                if line.startswith("docker inspect"):
                    self.healthy()
                done = self.shell(line)
                assert done.returncode == 0, f"{line}\n{done.stdout}"
                ran += 1
                if line.startswith("docker run"):
                    self.run_line = line
                if line.startswith("docker inspect"):
                    assert done.stdout.strip() == "healthy", done.stdout
                if " status" in line:
                    assert "in service" in done.stdout, done.stdout
        assert ran >= 8, ran
        assert self.exit_code() == 0, self.exit_code()
        docker("rm", "--volumes", "gateway")
        return f"{ran} commands, the last one a stop with exit code 0"

    def exit_code(self):
        return inspect("gateway")["State"]["ExitCode"]

    def healthy(self):
        return eventually(
            "a healthy container", lambda: inspect("gateway")["State"]["Health"]["Status"] == "healthy", 60, 0.3)

    def start(self):
        done = self.shell(self.run_line)
        assert done.returncode == 0, done.stdout
        self.token = (self.work / "token").read_text().strip()

    def it_serves_without_rights(self):
        self.start()
        self.healthy()
        first, = self.crowd.join(1)
        with people.Business(token=self.token) as system:
            assert system.online() == 1
            assert system.call("SendMessageToClient", clientid=first.id, message="hello").result
        eventually("the message", lambda: first.messages[-1] == "hello")
        with people.Business() as stranger:
            try:
                stranger.online()
                raise AssertionError("a call without a token was answered")
            except people.grpc.RpcError as error:
                assert error.code() == people.grpc.StatusCode.UNAUTHENTICATED, error
        assert (people.http("/livez"), people.http("/readyz")) == (200, 200)
        status = docker("exec", "gateway", "cat", "/proc/1/status").stdout
        facts = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.MULTILINE))
        assert facts["Uid"].split() == ["10001"] * 4, facts["Uid"]
        for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
            assert int(facts[name], 16) == 0, (name, facts[name])
        assert facts["NoNewPrivs"] == "1"
        written = docker("exec", "gateway", "touch", "/etc/gateway-websocket/x", "/tmp/x", check=False)
        assert written.returncode != 0 and written.stdout.count("Read-only file system") == 2, written.stdout
        return "healthy; ws, gRPC with token and probes by published ports; uid 10001, no capability, read-only"

    def save(self, *changes):
        """As editors do: a new file that takes the place of the old one."""
        text = self.config.read_text()
        for key, value in changes:
            text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
            assert found == 1, key
        new = self.config.with_name(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(self.config)

    def full_with(self, limit):
        """Whether the number of clients that are there is the limit, as a client sees it."""
        assert self.crowd.connected() == limit
        return people.refused() == 503

    def settings_are_read_from_the_directory(self):
        assert not self.full_with(1)
        self.save(("max_clients", "1"))
        eventually("the saved limit, by watching", lambda: self.full_with(1))
        # Without watching only the signal is left.
        self.save(("watch", "false"), ("max_clients", '"auto"'))
        eventually("the limit gone", lambda: not self.full_with(1))
        self.save(("max_clients", "1"))
        assert not self.full_with(1), "the file was watched although that is off"
        docker("kill", "--signal", "HUP", "gateway")
        eventually("the saved limit, by the signal", lambda: self.full_with(1))
        self.save(("max_clients", '"many"'))
        docker("kill", "--signal", "HUP", "gateway")
        eventually("the fault in the log", lambda: "limits.max_clients" in docker("logs", "gateway").stdout)
        assert self.full_with(1) and self.crowd.connected() == 1
        self.save(("max_clients", '"auto"'))
        docker("kill", "--signal", "HUP", "gateway")
        eventually("the limit gone", lambda: not self.full_with(1))
        return "a renamed file is seen in the mounted directory; SIGHUP reads it; a fault harms nobody"

    def a_stop_drains(self):
        self.crowd.join(CROWD)
        last = [f"farewell {number}" for number in range(20)]
        with people.Business(token=self.token) as system:
            for text in last:
                assert system.call("BroadcastMessage", message=text).result
        began = time.monotonic()
        docker("stop", "gateway")
        took = time.monotonic() - began
        eventually("the end of all clients", lambda: self.crowd.connected() == 0)
        codes = {client.ended for client in self.crowd.clients}
        assert codes == {1001}, codes
        short = [client for client in self.crowd.clients if client.messages[-len(last):] != last]
        assert not short, f"{len(short)} clients miss messages"
        state = inspect("gateway")["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), state
        assert took < 10, f"{took:.1f} s: the engine had to kill it"
        return f"{len(self.crowd.clients)} clients got all and then 1001; exit code 0 after {took:.1f} s"


def main():
    box.need_root("tests/service/docker.py")
    box.need_commands("debootstrap", "dockerd", "docker", "unshare", "strip", "cargo")
    box.isolate(debootstrap)
    binary = pathlib.Path(sys.argv[1]).resolve()
    steps = box.Steps()
    with tempfile.TemporaryDirectory() as work, engine():
        trial = Trial(binary, pathlib.Path(work))
        steps.all((
            trial.build,
            trial.the_build_stage_has_its_files,
            trial.the_image_says_how_it_is_run,
            trial.nobody_said_who_may_call,
            trial.the_chapter_is_right,
            trial.it_serves_without_rights,
            trial.settings_are_read_from_the_directory,
            trial.a_stop_drains,
        ))
        log = ("logs", "--tail", "40", "gateway")
        steps.leave(trial.crowd, "container's log", lambda: docker(*log, check=False).stdout)
    steps.end()


main()
