"""A run of the DAG by the processes that docker-compose.yml describes: `make compose-check`, minutes.

What stands in for Docker is stack.py. What can be said of the file without starting anything, and the store's roles,
are in test_compose.py; of the server alone, in test_server_service.py.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import boto3
import psycopg
import pytest
import requests
import yaml

from infra import store
from jobs.run import STEPS
from tests.end_to_end.airflow_api import run_to_its_end, signed_in, wait_for
from tests.end_to_end.stack import WAIT_S, Stack, family_of
from tests.end_to_end.test_compose import ROOT, SERVICES, make_env

RUN = "2026-01-31"


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


def test_the_server_shows_the_run_to_who_has_a_key(stack):
    address, key = f"http://{stack.address('server', '8000')}", stack.add_key("shop")
    wait_for(lambda: requests.get(f"{address}/readyz", timeout=30).ok, WAIT_S, stack.tails)
    assert requests.get(f"{address}/products", timeout=30).status_code == 401
    answer = requests.get(f"{address}/products", headers={"Authorization": f"Bearer {key}"}, timeout=30).json()
    assert answer["run"]["run"] == RUN
    assert requests.get(address, timeout=30).headers["content-type"].startswith("text/html")


def test_embed_and_similar_ran_on_the_spark_cluster(stack):
    applications = list((stack.volume("logs") / "spark").glob("app-*"))
    assert len(applications) == 2
    shown = requests.get(f"http://{stack.address('spark-master', '8082')}/json/", timeout=30).json()
    assert {app["name"] for app in shown["completedapps"]} == {"lookalike-embed", "lookalike-similar"}


def test_what_the_dashboard_shows_of_spark_is_there_to_be_fetched(stack):
    prometheus = yaml.safe_load((ROOT / "infra/monitoring/prometheus.yml").read_text())
    paths = {job["job_name"]: job.get("metrics_path", "/metrics") for job in prometheus["scrape_configs"]}
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
