"""Units, compose file and Kubernetes manifest, held against the program.

usage: manifests.py GATEWAY_BINARY

Nothing of it is run as it stands (see systemd.py and docker.py for what is); each key, port, path,
command and time in it has to be one that the program, the shipped configuration and the image know.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import yaml

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "foreign"))
import foreign
import people
from box import IMAGE_USER, ROOT, Steps, run

BINARY = pathlib.Path(sys.argv[1]).resolve()
PROGRAM = "/usr/bin/gateway-websocket"
SHIPPED = tomllib.loads((ROOT / "config/gateway.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = ROOT / "packaging/compose.yaml"
KUBERNETES = ROOT / "packaging/kubernetes/gateway-websocket.yaml"
SETTINGS = "/etc/gateway-websocket"
RUNTIME = "/run/gateway-websocket"


def port_of(section):
    return int(SHIPPED[section]["listen"].rpartition(":")[2])


PORTS = {"websocket": port_of("websocket"), "grpc": port_of("grpc"), "admin": port_of("admin")}
IMAGE_ENVIRONMENT = dict(re.findall(r"(GWS_\w+)=(\S+)", DOCKERFILE.split("ENV ")[1].split("EXPOSE")[0]))


def check_command(words):
    """A command line of the program: each word is one that its help knows."""
    assert words[0] == PROGRAM, words
    told = run([BINARY, *words[1:], "--help"])
    assert told.returncode == 0, words
    return " ".join(words[1:])


def check_environment(variables):
    for name in variables:
        section, _, key = name.removeprefix("GWS_").lower().partition("__")
        assert name.startswith("GWS_") and key in SHIPPED.get(section, {}), f"{name} sets nothing"


def check_settings(variables, text="", files=()):
    """The program takes the settings as they are given in the container, with files that are there.

    Files that they name are put where this machine has room, with the same contents."""
    with tempfile.TemporaryDirectory() as directory:
        for path, contents in files:
            here = pathlib.Path(directory) / path.lstrip("/")
            here.parent.mkdir(parents=True, exist_ok=True)
            here.write_text(contents)
            text = text.replace(path, str(here))
            variables = {name: value.replace(path, str(here)) for name, value in variables.items()}
        config = pathlib.Path(directory) / "gateway.toml"
        config.write_text(text)
        done = subprocess.run(
            [BINARY, "check", "--config", config, "--print-config"], env=variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert done.returncode == 0, done.stderr
        whole = subprocess.run([BINARY, "check", "--config", config], env=variables, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert whole.returncode == 0, whole.stdout
        return tomllib.loads(done.stdout)


def seconds(span):
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h)", str(span)).groups()
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def drain_of(config):
    return sum(seconds(config["drain"][key]) for key in ("delay", "window", "timeout"))


# --- The image --------------------------------------------------------------------------------


def the_image_knows_the_program():
    check_environment(IMAGE_ENVIRONMENT)
    exposed = {int(port) for port in re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE).group(1).split()}
    assert exposed == set(PORTS.values()), exposed
    for name, value in IMAGE_ENVIRONMENT.items():
        section = name.removeprefix("GWS_").split("__")[0].lower()
        assert value == f"0.0.0.0:{PORTS[section]}", (name, value)
    commands = [json.loads(words) for words in re.findall(r"CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)]
    assert [PROGRAM, "health"] in commands and ["serve"] in commands, commands
    check_command([PROGRAM, "health"])
    check_command([PROGRAM, "serve"])
    assert f"USER {IMAGE_USER}:{IMAGE_USER}" in DOCKERFILE
    # Without anybody who may call it doesn't start, and says what to do.
    done = subprocess.run([BINARY, "check"], env=IMAGE_ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 78 and "grpc.token_files" in done.stdout, done.stdout
    return f"ports {sorted(exposed)}, {', '.join(IMAGE_ENVIRONMENT)}; alone: exit code 78"


# --- Compose ----------------------------------------------------------------------------------


def the_compose_file_fits():
    whole = yaml.safe_load(COMPOSE.read_text())
    assert "Untried" in COMPOSE.read_text()
    (service,) = whole["services"].values()
    published = {int(port.rpartition(":")[2]): port for port in service["ports"]}
    assert set(published) == set(PORTS.values()), published
    for name in ("grpc", "admin"):
        assert published[PORTS[name]].startswith("127.0.0.1:"), published[PORTS[name]]
    check_environment(service["environment"])
    assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
    (secret,) = service["secrets"]
    assert secret in whole["secrets"]
    config = check_settings(
        {**IMAGE_ENVIRONMENT, **service["environment"]}, files=[(f"/run/secrets/{secret}", "token-of-sixteen-bytes\n")])
    assert config["grpc"]["token_files"], config["grpc"]
    (volume,) = service["volumes"]
    assert volume.split(":")[1:] == [SETTINGS, "ro"], volume
    (scratch,) = service["tmpfs"]
    assert scratch.startswith(f"{RUNTIME}:") and f"uid={IMAGE_USER}" in scratch, scratch
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] == "CMD"
    check_command(service["healthcheck"]["test"][1:])
    grace, drain = seconds(service["stop_grace_period"]), drain_of(config)
    assert grace > drain, f"a drain may take {drain} s, the stop is given {grace} s"
    return f"{len(published)} ports, {', '.join(service['environment'])}; {grace:g} s for a drain of {drain:g} s"


# --- Kubernetes -------------------------------------------------------------------------------


def kind(documents, wanted, name=None):
    found = [one for one in documents if one["kind"] == wanted and name in (None, one["metadata"]["name"])]
    assert len(found) == 1, (wanted, name, len(found))
    return found[0]


def the_manifest_fits():
    documents = list(yaml.safe_load_all(KUBERNETES.read_text()))
    assert "Untried" in KUBERNETES.read_text()
    deployment, budget = kind(documents, "Deployment"), kind(documents, "PodDisruptionBudget")
    settings, secret = kind(documents, "ConfigMap"), kind(documents, "Secret")
    template = deployment["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    labels = template["metadata"]["labels"]
    services = [one for one in documents if one["kind"] == "Service"]
    for one in (deployment["spec"]["selector"]["matchLabels"], budget["spec"]["selector"]["matchLabels"],
                *(service["spec"]["selector"] for service in services)):
        assert one.items() <= labels.items(), one

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == PORTS, ports
    targets = {port["targetPort"] for service in services for port in service["spec"]["ports"]}
    assert targets == {"websocket", "grpc"}, targets

    # Directories, of which the program knows where they are.
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert all("subPath" not in mount for mount in mounts.values())
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert volumes[mounts[SETTINGS]["name"]]["configMap"]["name"] == settings["metadata"]["name"]
    assert "emptyDir" in volumes[mounts[RUNTIME]["name"]] and "readOnly" not in mounts[RUNTIME]
    secrets = next(path for path, mount in mounts.items() if "secret" in volumes[mount["name"]])
    assert volumes[mounts[secrets]["name"]]["secret"]["secretName"] == secret["metadata"]["name"]
    environment = {one["name"]: one["value"] for one in container.get("env", [])}
    check_environment(environment)
    assert list(settings["data"]) == ["gateway.toml"]
    files = [(f"{secrets}/{name}", text) for name, text in secret["stringData"].items()]
    text = settings["data"]["gateway.toml"]
    for path, _ in files:
        assert path in text, f"{path} is mounted for nobody"
    config = check_settings({**IMAGE_ENVIRONMENT, **environment}, text, files)

    rights, own = pod["securityContext"], container["securityContext"]
    assert rights["runAsNonRoot"] is True and rights["runAsUser"] == IMAGE_USER == rights["fsGroup"]
    assert rights["seccompProfile"]["type"] == "RuntimeDefault"
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                   "capabilities": {"drop": ["ALL"]}}, own

    stop = container["lifecycle"]["preStop"]["exec"]["command"]
    assert stop == [PROGRAM, "drain", "--wait"], stop
    check_command(stop)
    # The command drains, and the signal that follows may take as long once more.
    grace, drain = pod["terminationGracePeriodSeconds"], drain_of(config)
    assert grace > 2 * drain, f"a drain may take {drain} s, the stop is given {grace} s"
    readiness = container["readinessProbe"]
    assert seconds(config["drain"]["delay"]) >= readiness["periodSeconds"] * readiness["failureThreshold"]

    asked = {}
    with foreign.gateway(BINARY) as listeners:
        (admin,) = listeners["admin"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[name]["httpGet"]
            assert probe["port"] == "admin", probe
            asked[probe["path"]] = people.http(probe["path"], int(admin.rpartition(":")[2]))
        nonsense = people.http("/nonsense", int(admin.rpartition(":")[2]))
    assert set(asked.values()) == {200} and nonsense == 404, (asked, nonsense)
    return f"{len(documents)} documents; probes {asked}; {grace} s for two drains of {drain:g} s"


# --- systemd ----------------------------------------------------------------------------------


def the_units_are_well_formed():
    units = sorted([*ROOT.glob("packaging/systemd/*.service"), *ROOT.glob("packaging/systemd/*.socket")])
    assert len(units) >= 3, units
    known = {"websocket", "tls", "grpc", "admin"}
    names = []
    with tempfile.TemporaryDirectory() as directory:
        for unit in units:
            text = unit.read_text()
            for command in re.findall(rf"^Exec\w+=({PROGRAM}.*)$", text, re.MULTILINE):
                check_command(command.split())
            names += re.findall(r"^FileDescriptorName=(.*)$", text, re.MULTILINE)
            # Where the program isn't installed, one that is there stands for it.
            (pathlib.Path(directory) / unit.name).write_text(text.replace(PROGRAM, str(BINARY)))
        assert names and set(names) <= known, names
        port = re.search(r"^ListenStream=.*:(\d+)$", units[-1].read_text(), re.MULTILINE).group(1)
        assert int(port) == PORTS["websocket"], port
        if shutil.which("systemd-analyze") is None:
            raise AssertionError("systemd-analyze is missing (apt-get install systemd)")
        for unit in units:
            path = pathlib.Path(directory) / unit.name
            said = run(["systemd-analyze", "--man=no", "verify", path]).stdout
            # What other units of this machine do wrong is said as well.
            assert "gateway-websocket" not in said, said
        service = pathlib.Path(directory) / "gateway-websocket.service"
        said = run(["systemd-analyze", "security", "--offline=true", "--no-pager", service]).stdout
        level = float(re.search(r"Overall exposure level .*: ([\d.]+) ", said).group(1))
        assert level <= 1.5, said
    return f"{len(units)} units verified, sockets for {', '.join(sorted(names))}, exposure {level}"


def main():
    steps = Steps()
    steps.all((the_units_are_well_formed, the_image_knows_the_program, the_compose_file_fits,
               the_manifest_fits))
    steps.end()


main()
