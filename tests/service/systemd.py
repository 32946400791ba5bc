"""The gateway as a service of a real systemd, installed from its package.

usage: systemd.py GATEWAY_BINARY

Boots a Debian 12 (kept under target/service), installs the package of the binary in it, and does
what operators do, and what befalls them, with clients connected from outside. The README's chapter is
run line by line. Needs root.
"""

import ctypes
import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

import box
import people
from box import CACHE, ROOT, eventually, run

UNIT = "gateway-websocket"
CONFIG = "/etc/gateway-websocket/gateway.toml"
AUTHORITY = "authority.pem"
CROWD = 1000


def debootstrap():
    return box.debian("bookworm-systemd", "systemd", "systemd-sysv", "dbus", "procps")


# --- Settings ---------------------------------------------------------------------------------


def edited(text, changes):
    """The configuration with other values, each on the line that the shipped file has for the key."""
    for section, key, value in changes:
        pattern = rf"(^\[{section}\]\n(?:(?!\[).*\n)*?){key} = .*$"
        text, found = re.subn(
            pattern, lambda match: f"{match.group(1)}{key} = {value}", text, count=1, flags=re.MULTILINE
        )
        assert found == 1, f"{section}.{key} is not in the configuration"
    return text


def changes_of(toml):
    """The changes that a block of the README asks for: (section, key, value as written)."""
    section, changes = None, []
    for line in toml.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.strip():
            key, _, value = line.partition(" = ")
            changes.append((section, key, value))
    assert changes
    return changes


class Service:
    """The installed service, as operators see it."""

    def __init__(self, container):
        self.container = container

    def do(self, script, **how):
        return self.container.do(script, **how)

    def settings(self):
        return self.container.path(CONFIG).read_text()

    def save(self, text):
        """As editors do: a new file that takes the place of the old one."""
        path = self.container.path(CONFIG)
        new = path.with_name(".gateway.toml.new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(path)

    def change(self, *changes):
        self.save(edited(self.settings(), changes))

    def pid(self):
        return int(self.container.show(UNIT, "MainPID"))

    def state(self):
        return self.container.show(UNIT, "ActiveState")

    def journal(self, text):
        return text in self.container.journal(UNIT)

    def outside_pid(self):
        """The process as this side of the PID namespace numbers it."""
        inside = self.pid()
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            numbers = re.search(r"^NSpid:\s+(.*)$", text, re.MULTILINE)
            if text.startswith("Name:\tgateway-webso") and numbers:
                own = numbers.group(1).split()
                if len(own) > 1 and own[-1] == str(inside):
                    return int(own[0])
        raise AssertionError(f"no process here is number {inside} in the container")


# --- A thread that hangs ----------------------------------------------------------------------

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000  # __WALL: threads too


def hang(pid, name):
    """Stops one thread, as a debugger does, until the process is killed."""
    threads = pathlib.Path(f"/proc/{pid}/task")
    names = {path.name: (path / "comm").read_text().strip() for path in threads.iterdir()}
    found = [int(number) for number, named in names.items() if named == name]
    assert found, f"no thread is called {name}: {sorted(set(names.values()))}"
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        done = libc.ptrace(request, ctypes.c_long(found[0]), None, None)
        assert done == 0, f"ptrace: {ctypes.get_errno()}"
    return found[0]


def bury(thread):
    """A thread that is traced is only gone when its tracer has seen it end."""
    try:
        os.waitpid(thread, os.WNOHANG | WALL)
    except ChildProcessError:
        pass


# --- Certificates -----------------------------------------------------------------------------


class Authority:
    """Makes certificates for `gateway.test`."""

    def __init__(self, directory):
        self.directory = directory
        self.count = 0
        self.openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", "authority.key", "-out", AUTHORITY, "-days", "30", "-subj", "/CN=Test authority",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
        )

    def openssl(self, *words):
        run(["openssl", *words], cwd=self.directory)

    @property
    def certificate(self):
        return str(self.directory / AUTHORITY)

    def issue(self):
        """A new certificate with its key: their paths, and the serial number as clients see it."""
        self.count += 1
        name, serial = f"leaf{self.count}", f"{0xA000 + self.count:04X}"
        (self.directory / "extensions").write_text("subjectAltName=DNS:gateway.test,IP:127.0.0.1\n")
        self.openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=gateway.test",
        )
        self.openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", AUTHORITY, "-CAkey", "authority.key",
            "-set_serial", f"0x{serial}", "-days", "20", "-extfile", "extensions", "-out", f"{name}.crt",
        )
        return self.directory / f"{name}.crt", self.directory / f"{name}.key", serial


# --- What is tried ----------------------------------------------------------------------------


class Trial:
    def __init__(self, binary, container, work):
        self.binary = binary
        self.container = container
        self.service = Service(container)
        self.work = work
        self.crowd = people.Crowd()
        self.authority = Authority(work)
        self.shipped = (ROOT / "config/gateway.toml").read_text()

    def package(self, **options):
        """Makes a package and puts it where the README has it; gives its path in the container."""
        out = self.work / f"deb{len(list(self.work.glob('deb*')))}"
        words = [f"--{name}={value}" for name, value in options.items()]
        words = [part for word in words for part in word.split("=", 1)]
        made = run([ROOT / "packaging/deb/build", "--out", out, *words, self.binary], timeout=300)
        package = pathlib.Path(made.stdout.strip().splitlines()[-1])
        place = self.container.path("/root/target/deb")
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("*.deb"):
            old.unlink()
        shutil.copy(package, place / package.name)
        self.deb = package
        return f"/root/target/deb/{package.name}"

    def fresh(self):
        """A running service with shipped settings and sockets of its own."""
        sockets = " ".join(f"{UNIT}{kind}.socket" for kind in ("", "-tls", "-grpc"))
        # The service is told first, or the sockets would start it again.
        self.service.do(f"systemctl disable --now {sockets}; systemctl stop {UNIT}", timeout=120)
        self.crowd.leave()
        self.service.save(self.shipped)
        self.service.do(f"systemctl reset-failed {UNIT} || true; systemctl start {UNIT}")

    # -- the package --

    def the_package_is_sound(self):
        self.package()
        needs = run(["dpkg-deb", "-f", self.deb, "Depends"]).stdout.strip()
        assert re.search(r"libc6 \(>= 2\.\d+\), libgcc-s1 \(>= [\d.]+\), systemd", needs), needs
        first = hashlib.sha256(self.deb.read_bytes()).hexdigest()
        self.package()
        assert hashlib.sha256(self.deb.read_bytes()).hexdigest() == first, "differs when made again"
        # Whom to write to is not ours to invent.
        known = "bogus-mail-host,bogus-mail-host-in-debian-changelog"
        said = run(["lintian", "--allow-root", "--suppress-tags", known, self.deb]).stdout
        assert not re.search(r"^[EW]: ", said, re.MULTILINE), said
        return f"{needs}; the same bytes twice; lintian has nothing to say"

    def the_chapter_is_right(self):
        """Each block of the README's section, in order, in a container that knows nothing yet."""
        certificate, key, serial = self.authority.issue()
        shutil.copy(certificate, self.container.path("/root/fullchain.pem"))
        shutil.copy(key, self.container.path("/root/privkey.pem"))
        ran = 0
        for language, text in box.blocks(box.chapter("systemd")):
            if language == "toml":
                self.service.change(*changes_of(text))
            elif text == "cargo build --release\npackaging/deb/build\n":
                continue  # done before, with the binary that was given
            else:
                for line in re.sub(r"\\\n\s*", "", text).splitlines():
                    done = self.service.do(line, check=False)
                    assert done.returncode == 0, f"{line}\n{done.stdout}"
                    ran += 1
                    if line.startswith("systemctl status"):
                        assert "Active: active (running)" in done.stdout, done.stdout
                    if line.startswith("journalctl"):
                        assert "limits.max_clients" in done.stdout, done.stdout
        assert ran >= 15, ran
        assert self.service.state() == "active"
        # What the chapter set up holds: TLS on 443 by systemd's socket, gRPC with a token.
        seen = people.certificate_serial(443, self.authority.certificate)
        assert seen == serial, seen
        token = self.container.path("/root/token").read_text().strip()
        with people.Business(token=token) as system:
            assert system.online() == 0
        with people.Business() as stranger:
            try:
                stranger.online()
                raise AssertionError("a call without a token was answered")
            except people.grpc.RpcError as error:
                assert error.code() == people.grpc.StatusCode.UNAUTHENTICATED, error
        return f"{ran} commands, then wss on 443 and gRPC with the token"

    def the_units_are_sound(self):
        units = " ".join(f"/lib/systemd/system/{path.name}"
                         for path in sorted((ROOT / "packaging/systemd").glob("*.[s]*[et]"))
                         if path.suffix in (".service", ".socket"))
        said = self.service.do(f"systemd-analyze --man=no verify {units}").stdout.strip()
        assert said == "", said
        said = self.service.do(f"systemd-analyze security --no-pager {UNIT}.service").stdout
        level = float(re.search(r"Overall exposure level .*: ([\d.]+) ", said).group(1))
        assert level <= 1.5, said
        user = self.service.do("getent passwd gateway-websocket").stdout.strip()
        assert user.endswith("/nologin"), user
        running = self.service.do(f"stat -c %U /proc/{self.service.pid()}").stdout.strip()
        assert running == "gateway-websocket", running
        return f"verify says nothing, exposure {level}, {user}"

    # -- start --

    def active_means_listening(self):
        self.fresh()
        rounds = 10
        for _ in range(rounds):
            self.service.do(f"systemctl stop {UNIT}; systemctl start {UNIT}")
            deaf = [port for port in (20818, 20819, 20820) if not people.listens(port)]
            assert not deaf, f"active, but nobody listens on {deaf}"
            assert people.http("/readyz") == 200
        return f"after each of {rounds} starts all three ports answered at once"

    def a_taken_port_is_no_start(self):
        self.service.do(f"systemctl stop {UNIT}")
        thief = people.socket.create_server(("0.0.0.0", 20818))
        try:
            failed = self.service.do(f"systemctl start {UNIT}", check=False)
            assert failed.returncode != 0, "the start succeeded without its port"
            assert self.service.state() != "active"
        finally:
            thief.close()
        eventually("the cause in the journal", lambda: self.service.journal("0.0.0.0:20818"))
        eventually("a start once the port is free", lambda: self.service.state() == "active")
        return "start failed, the journal names the address; started by itself once it was free"

    def bad_settings_are_no_start(self):
        self.service.do(f"systemctl stop {UNIT}")
        self.service.change(("limits", "max_clients", '"many"'))
        failed = self.service.do(f"systemctl start {UNIT}", check=False)
        assert failed.returncode != 0
        code = self.container.show(UNIT, "ExecMainStatus")
        tries = self.container.show(UNIT, "NRestarts")
        assert (code, self.service.state()) == ("78", "failed"), (code, self.service.state())
        eventually("the cause in the journal", lambda: self.service.journal("limits.max_clients"))
        self.fresh()
        return f"exit code 78, no attempt to restart (NRestarts={tries}), the journal names the key"

    # -- live --

    def a_reload_reaches_everybody(self):
        self.fresh()
        self.crowd.join(CROWD)
        before = self.service.pid()
        self.service.change(("limits", "max_clients", str(CROWD)))
        self.service.do(f"systemctl reload {UNIT}")
        status = people.refused()
        assert status == 503, f"one client more than allowed got {status}"
        people.tell_all("after the reload")
        self.everybody_got("after the reload")
        assert self.service.pid() == before
        return f"exit 0, the limit was in force at once, {self.crowd.connected()} clients still there"

    def everybody_got(self, text):
        eventually(
            f"{text!r} for every client",
            lambda: all(client.messages[-1] == text for client in self.crowd.clients),
        )
        assert self.crowd.connected() == len(self.crowd.clients) == CROWD, self.crowd.connected()

    def a_bad_reload_harms_nobody(self):
        good, before = self.service.settings(), self.service.pid()
        self.service.change(("limits", "queue_messages", '"plenty"'))
        failed = self.service.do(f"systemctl reload {UNIT}", check=False)
        assert failed.returncode != 0, "the reload of a bad file succeeded"
        # It may be "reloading" a moment longer: the watcher has seen the file, too.
        eventually("an active service", lambda: self.service.state() == "active")
        assert self.service.pid() == before
        people.tell_all("after the bad reload")
        self.everybody_got("after the bad reload")
        assert people.refused() == 503, "the limit that was in force is not any more"

        def causes():
            lines = self.container.journal(UNIT).splitlines()
            return [line for line in lines if "limits.queue_messages" in line]

        cause = eventually("the cause in the journal", causes)
        self.service.save(good)
        self.service.do(f"systemctl reload {UNIT}")
        return f"exit {failed.returncode}; {CROWD} clients unharmed; journal: {cause[-1][:160]}"

    # -- stop --

    def a_stop_delivers_everything(self):
        """Slow clients, for whom much waits in the gateway, and a crowd for whom little does."""
        self.fresh()
        self.service.change(("websocket", "send_buffer", '"16 KiB"'))
        self.service.do(f"systemctl reload {UNIT}")
        self.crowd.join(CROWD)
        slow = self.crowd.join(20, reads=False)
        wanted = [f"{number}:{people.random_text(16 << 10)}" for number in range(50)]
        with people.Business() as system:
            for client in slow:
                system.call("JoinGroup", clientid=client.id, group="slow")
            for text in wanted:
                answer = system.call("SendMessageToGroup", group="slow", message=text)
                assert answer.arrive == len(slow), answer
        last = [f"farewell {number}" for number in range(20)]
        with people.Business() as system:
            for text in last:
                assert system.call("BroadcastMessage", message=text).result
        status = self.service.do("gateway-websocket status --json").stdout
        waiting = int(re.search(r'"queued_bytes": (\d+)', status).group(1))
        assert waiting > 1 << 20, f"only {waiting} bytes wait in the gateway"
        self.service.do(f"systemctl stop --no-block {UNIT}")
        eventually("the stop", lambda: self.service.state() == "deactivating")
        self.crowd.read(slow)
        eventually("the end of all clients", lambda: self.crowd.connected() == 0, 60)
        eventually("the end of the service", lambda: self.service.state() == "inactive", 60)
        codes = {client.ended for client in self.crowd.clients}
        assert codes == {1001}, codes
        short = [client for client in self.crowd.clients if client.messages[-len(last):] != last]
        assert not short, f"{len(short)} clients miss messages"
        for client in slow:
            assert client.messages[1:] == wanted + last, f"{len(client.messages)} messages"
        result = self.container.show(UNIT, "Result")
        assert result == "success", result
        return (f"{len(self.crowd.clients)} clients got all and then 1001; {waiting >> 20} MiB had "
                f"waited for {len(slow)} of them")

    def a_long_drain_is_given_its_time(self):
        """Longer than TimeoutStopSec: without EXTEND_TIMEOUT_USEC systemd would kill it."""
        self.fresh()
        self.service.do(
            f"mkdir -p /run/systemd/system/{UNIT}.service.d; printf '[Service]\\nTimeoutStopSec=2s\\n'"
            f" > /run/systemd/system/{UNIT}.service.d/short.conf; systemctl daemon-reload"
        )
        try:
            self.service.change(("drain", "delay", '"5s"'))
            self.service.do(f"systemctl reload {UNIT}")
            self.crowd.join(20)
            began = time.monotonic()
            self.service.do(f"systemctl stop {UNIT}")
            took = time.monotonic() - began
            eventually("the end of all clients", lambda: self.crowd.connected() == 0)
            codes = {client.ended for client in self.crowd.clients}
            assert codes == {1001}, codes
            result = self.container.show(UNIT, "Result")
            assert result == "success", result
            assert took > 4.5, f"the drain took {took:.1f} s, which proves nothing"
        finally:
            self.service.do(f"rm -r /run/systemd/system/{UNIT}.service.d; systemctl daemon-reload")
        return f"{took:.1f} s where systemd's own patience was 2 s, result {result}"

    def a_stop_by_its_own_command_stays(self):
        self.fresh()
        self.service.do("gateway-websocket stop")
        # One that systemd means to start again is "activating" (auto-restart) from its end on.
        eventually("the end", lambda: self.service.state() == "inactive")
        state = self.container.show(UNIT, "SubState")
        assert state == "dead", state
        return f"inactive ({state}), with no restart scheduled"

    # -- what befalls it --

    def a_killed_one_comes_back(self):
        self.fresh()
        before = self.service.pid()
        self.service.do(f"kill -9 {before}")
        self.back_after(before)
        return f"pid {before} became {self.service.pid()}"

    def back_after(self, pid, seconds=30, meanwhile=lambda: None):
        def back():
            meanwhile()
            return self.service.pid() not in (0, pid) and self.service.state() == "active"

        eventually("a new process", back, seconds, 0.2)
        self.crowd.leave()
        self.crowd.join(1)

    def a_hanging_shard_is_noticed(self):
        self.fresh()
        before = self.service.pid()
        allowed = self.container.show(UNIT, "WatchdogUSec")
        began = time.monotonic()
        thread = hang(self.service.outside_pid(), "shard-0")
        self.back_after(before, 60, lambda: bury(thread))
        took = time.monotonic() - began
        eventually("its word in the journal", lambda: self.service.journal("Watchdog timeout"))
        return f"thread {thread} (shard-0) stopped; with WatchdogUSec={allowed} back after {took:.0f} s"

    # -- keys --

    def put(self, certificate, key):
        """As an ACME client's hook does: written beside, then renamed, the key first."""
        for source, name in ((key, "tls.key"), (certificate, "tls.crt")):
            self.service.do(
                f"install -m 0640 -g gateway-websocket /dev/stdin /etc/gateway-websocket/.{name} <<'PEM'\n"
                f"{source.read_text()}PEM\n"
                f"mv /etc/gateway-websocket/.{name} /etc/gateway-websocket/{name}"
            )

    def a_renewed_certificate_is_taken(self):
        self.fresh()
        certificate, key, first = self.authority.issue()
        self.put(certificate, key)
        self.service.change(
            ("tls", "listen", '"127.0.0.1:8443"'),
            ("tls", "certificate", '"/etc/gateway-websocket/tls.crt"'),
            ("tls", "key", '"/etc/gateway-websocket/tls.key"'),
        )
        self.service.do(f"systemctl reload {UNIT}")
        assert people.certificate_serial(8443, self.authority.certificate) == first
        context = people.ssl.create_default_context(cafile=self.authority.certificate)
        clients = self.crowd.join(50, "wss://127.0.0.1:8443/", ssl=context)
        certificate, key, second = self.authority.issue()
        self.put(certificate, key)
        began = time.monotonic()
        eventually(
            "the new certificate",
            lambda: people.certificate_serial(8443, self.authority.certificate) == second,
        )
        took = time.monotonic() - began
        people.tell_all("renewed")
        eventually("a message", lambda: all(one.messages[-1] == "renewed" for one in clients))
        # A key that doesn't belong to the certificate is not taken.
        stranger, _, third = self.authority.issue()
        self.put(stranger, key)
        failed = self.service.do(f"systemctl reload {UNIT}", check=False)
        assert failed.returncode != 0, "a certificate was taken without its key"
        seen = people.certificate_serial(8443, self.authority.certificate)
        assert seen == second, (seen, third)
        assert self.crowd.connected() == 50
        return (f"no command given, serial {first} became {second} after {took:.1f} s, 50 wss clients "
                f"stayed; one without its key was refused")

    # -- sockets --

    def nobody_is_refused_by_a_restart(self):
        self.fresh()
        self.service.do(
            f"systemctl stop {UNIT}; systemctl enable --now {UNIT}.socket {UNIT}-grpc.socket;"
            f" systemctl start {UNIT}"
        )
        restarts = 10
        with people.Knocking() as knocking:
            for _ in range(restarts):
                served, before = knocking.served, self.service.pid()
                self.service.do(f"systemctl restart {UNIT}")
                assert self.service.pid() != before
                eventually("clients after a restart", lambda: knocking.served > served + 50)
        assert not knocking.problems, knocking.problems[:3]
        # The gateway asks nobody: with the socket alone, a client starts it.
        self.service.do(f"systemctl stop {UNIT} 2>/dev/null")
        self.crowd.leave()
        self.crowd.join(1)
        assert self.service.state() == "active"
        return f"{knocking.served} clients over {restarts} restarts, none refused; a client starts it"

    # -- upgrade --

    def an_upgrade_keeps_the_settings(self):
        self.fresh()
        self.service.change(("limits", "max_clients", "77"))
        edited_file = self.service.settings()
        before = self.service.pid()
        other = self.work / "other.toml"
        other.write_text(self.shipped.replace("# Nothing here", "# A newer one.\n# Nothing here"))
        # The second comes with other defaults: dpkg is told what an administrator would answer.
        for version, config, answer in (
            ("99.0.0", ROOT / "config/gateway.toml", ""),
            ("99.0.1", other, "-o Dpkg::Options::=--force-confold"),
        ):
            package = self.package(version=version, config=config)
            self.service.do(f"apt-get install -y {answer} {package}", timeout=180)
            installed = self.service.do(f"dpkg-query -W -f '${{Version}}' {UNIT}").stdout
            assert installed == version, installed
            assert self.service.settings() == edited_file, "the edited settings are gone"
            assert self.service.state() == "active"
            assert self.service.pid() != before, "the old program still runs"
            before = self.service.pid()
        told = self.service.do("gateway-websocket check --print-config | grep '^max_clients ='").stdout
        assert told.strip() == "max_clients = 77", told
        return "two upgrades, one with other defaults: settings kept, new program running"

    def a_stopped_one_stays_stopped(self):
        self.service.do(f"systemctl disable --now {UNIT}")
        package = self.package(version="99.0.2")
        self.service.do(f"apt-get install -y -o Dpkg::Options::=--force-confold {package}", timeout=180)
        assert self.service.state() == "inactive"
        enabled = self.service.do(f"systemctl is-enabled {UNIT}", check=False).stdout.strip()
        assert enabled == "disabled", enabled
        return "an upgrade neither starts nor enables what was disabled"

    def a_purge_leaves_nothing_but_keys(self):
        self.service.do(f"systemctl enable --now {UNIT}")
        self.service.do(f"apt-get purge -y {UNIT}", timeout=180)
        assert not people.listens(20818)
        left = self.service.do(
            "find /etc/gateway-websocket /lib/systemd/system /etc/systemd/system /usr/bin"
            " -name '*gateway*' -o -name 'tls.*' | sort", check=False).stdout.split()
        keys = ["/etc/gateway-websocket/tls.crt", "/etc/gateway-websocket/tls.key"]
        assert [path for path in left if path not in keys and path != "/etc/gateway-websocket"] == [], left
        return f"left: {' '.join(left)}"


def main():
    box.need_root("tests/service/systemd.py")
    box.need_commands("debootstrap", "systemd-nspawn", "nsenter", "unshare", "openssl", "lintian")
    box.isolate(debootstrap)
    binary = pathlib.Path(sys.argv[1]).resolve()
    wanted = sys.argv[2:]
    steps = box.Steps()
    with tempfile.TemporaryDirectory() as work, box.Container(CACHE / "bookworm-systemd") as container:
        trial = Trial(binary, container, pathlib.Path(work))
        order = [
            trial.the_package_is_sound,
            trial.the_chapter_is_right,
            trial.the_units_are_sound,
            trial.active_means_listening,
            trial.a_taken_port_is_no_start,
            trial.bad_settings_are_no_start,
            trial.a_reload_reaches_everybody,
            trial.a_bad_reload_harms_nobody,
            trial.a_stop_delivers_everything,
            trial.a_long_drain_is_given_its_time,
            trial.a_stop_by_its_own_command_stays,
            trial.a_killed_one_comes_back,
            trial.a_hanging_shard_is_noticed,
            trial.a_renewed_certificate_is_taken,
            trial.nobody_is_refused_by_a_restart,
            trial.an_upgrade_keeps_the_settings,
            trial.a_stopped_one_stays_stopped,
            trial.a_purge_leaves_nothing_but_keys,
        ]
        needed = {"the_package_is_sound", "the_chapter_is_right"}
        steps.all(it for it in order if not wanted or it.__name__ in needed or it.__name__ in wanted)
        journal = f"journalctl -o cat --no-pager -n 60 -u {UNIT}"
        steps.leave(trial.crowd, "journal", lambda: container.do(journal, check=False).stdout)
    steps.end()


main()
