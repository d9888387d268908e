"""The DAG files: quick to import, whole graph, and one exit code → one fate of the task."""

import http.server
import json
import re
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from tests.catalogues import good_files, zip_bytes

DAGS = Path(__file__).resolve().parents[2] / "dags"
PATHS = f"{DAGS}:{DAGS.parent}"
KUBERNETES = "k8s://https://kubernetes.default:443"
CONF = {"spark.executor.memory": "4g", "spark.executor.resource.gpu.amount": "1"}
CONNECTIONS = {
    "standalone": {"host": "spark://master:7077", "extra": {"conf": CONF}},
    "yarn": {"host": "yarn", "extra": {"conf": CONF}},
    "yarn cluster": {"host": "yarn", "extra": {"deploy-mode": "cluster"}},
    "kubernetes": {"host": KUBERNETES, "extra": {"conf": CONF}},
    "kubernetes cluster": {"host": KUBERNETES, "extra": {"deploy-mode": "cluster"}},
    "wrong": {"host": "spark://master:7077", "login": "64"},
    "none": None,
}
"""Values of `spark_default`; the login is the exit code that spark-submit ends with."""
PROBLEMS = {
    "Error code is: 64.": 64,
    "Error code is: 64. Kubernetes spark exit code is: 0": 64,
    "Error code is: 0. Kubernetes spark exit code is: 64": 64,
    "Error code is: 1. Kubernetes spark exit code is: None": 1,
    "no code at all": 1,
}
"""What the provider says of a failure, and the step's exit code in it."""

PROBE = """
import sys, time
import airflow.sdk, airflow.providers.standard.hooks.subprocess
started = time.perf_counter()
import nightly_refresh
seconds = time.perf_counter() - started
import json, look_photos, train_embedding, train_look
libraries = ("tensorflow", "keras", "pyspark", "pandas", "numpy", "pyarrow", "deltalake", "kubernetes")
heavy = [name for name in libraries if name in sys.modules]
dag = nightly_refresh.dag
every = [*dag.tasks, *train_embedding.dag.tasks, *train_look.dag.tasks, *look_photos.dag.tasks]
looks = look_photos.dag.get_task("looks")
print(json.dumps({
    "seconds": seconds,
    "heavy": heavy,
    "edges": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
    "docs": {task.task_id: task.doc_md or "" for task in every},
    "outlets": {task.task_id: [asset.name for asset in task.outlets] for task in dag.tasks},
    "starts": dag.start_date, "zone": str(dag.timetable.timezone), "schedule": dag.timetable.expression,
    "catchup": dag.catchup, "active": dag.max_active_runs, "retries": sorted({task.retries for task in dag.tasks}),
    "looks": [type(looks).__mro__[1].__name__, looks.application_args, look_photos.dag.timetable.__class__.__name__],
    "operators": {task.task_id: type(task).__mro__[1].__name__ for task in dag.tasks},
    "codes": [sys.modules["spark_step"].exit_code(text) for text in json.loads(sys.argv[1])],
    "exits": [type(sys.modules["spark_step"].failure("embed", code)).__name__ for code in (64, 75, 1, 137)],
}))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """The DAG parsed in a process of its own with no connection set, as the DAG processor does."""
    env = {"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "PYTHONPATH": PATHS}
    command = [sys.executable, "-c", PROBE, json.dumps(list(PROBLEMS))]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def test_parsing_takes_under_a_second_and_imports_nothing_heavy(parsed):
    assert parsed["heavy"] == []
    assert parsed["seconds"] < 1


def test_the_graph_is_that_of_the_design(parsed):
    learned = ["candidates", "classify", "similar"]
    assert parsed["edges"] == {
        "pull": ["catalog"],
        "catalog": ["embed"],
        "embed": learned,
        **{name: ["evaluate"] for name in learned},
        "evaluate": ["publish"],
        "publish": [],
    }


def test_nights_do_not_pile_up_and_failures_are_retried(parsed):
    assert (parsed["catchup"], parsed["active"], parsed["retries"]) == (False, 1, [2])


def test_nights_begin_at_midnight_in_utc_and_a_night_of_any_year_can_be_run(parsed):
    assert (parsed["schedule"], parsed["zone"]) == ("0 0 * * *", "UTC")
    assert parsed["starts"] is None  # a run of an earlier day would be made without tasks, and be a success


def test_spark_steps_go_through_the_spark_submit_operator(parsed):
    spark = {step for step, operator in parsed["operators"].items() if operator == "SparkSubmitOperator"}
    assert spark == {"embed", "similar"}


def test_photos_are_looked_at_by_spark_with_the_run_that_has_gone_live(parsed):
    assert parsed["looks"] == ["SparkSubmitOperator", ["--run", "{{ params.run }}"], "AssetTriggeredTimetable"]


def test_every_task_tells_an_operator_what_to_do(parsed):
    assert all("**If it fails:**" in doc for doc in parsed["docs"].values())


def test_every_table_is_an_asset_that_other_dags_can_wait_for(parsed):
    assets = {name for names in parsed["outlets"].values() for name in names}
    assert {"lookalike_products", "lookalike_features", "lookalike_shortlists", "lookalike_store"} <= assets


def test_only_a_users_mistake_is_final(parsed):
    assert parsed["exits"] == ["AirflowFailException", "AirflowException", "AirflowException", "AirflowException"]


SUBMIT = """
import json, os, pathlib, sys
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowException
from spark_step import SparkStep

def submit(connection):
    os.environ.pop("AIRFLOW_CONN_SPARK_DEFAULT", None)
    if connection:
        os.environ["AIRFLOW_CONN_SPARK_DEFAULT"] = json.dumps({"conn_type": "spark"} | connection)
        os.environ["EXIT"] = connection.get("login", "0")
    called = pathlib.Path("called")
    called.unlink(missing_ok=True)
    task = SparkStep(task_id="embed")
    task.application_args = ["--run", "2026-01-31"]
    try:
        told = {}
        rows = task.execute({"ti": SimpleNamespace(xcom_push=told.__setitem__)})["rows"]
        outcome = ["done", f"{rows} {told['summary']}"]
    except AirflowException as error:
        outcome = [type(error).__name__, str(error)]
    return outcome, called.read_text().splitlines() if called.exists() else []

print(json.dumps({name: submit(value) for name, value in json.loads(sys.argv[1]).items()}))
"""


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """Connection → how the task embed ended with it, and the arguments that it called spark-submit with.

    spark-submit is a script that notes its arguments: there is no such cluster here.
    """
    folder = tmp_path_factory.mktemp("submitted")
    (folder / "lake/runs/2026-01-31").mkdir(parents=True)
    (folder / "lake/runs/2026-01-31/embed.json").write_text('{"rows": 7, "figures": {"images": 7, "model": "m"}}')
    script = folder / "spark-submit"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >called\necho started\nexit $EXIT\n')
    script.chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "AIRFLOW_HOME": str(folder / "airflow"), "PYTHONPATH": PATHS}
    env |= {"LOOKALIKE_LAKE": (folder / "lake").as_uri(), "LOOKALIKE_CELL_MIN": "50"}
    env |= {"LOOKALIKE_STORE": "postgresql://loader:password@store/lookalike", "LOOKALIKE_LOGS": str(folder / "logs")}
    command = [sys.executable, "-c", SUBMIT, json.dumps(CONNECTIONS)]
    out = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["standalone", "yarn", "kubernetes"])
def test_the_connection_alone_says_where_a_step_runs_and_with_what(submitted, name):
    outcome, called = submitted[name]
    assert outcome == ["done", "7 images 7"]
    assert called[:2] == ["--master", CONNECTIONS[name]["host"]]
    assert {f"{key}={value}" for key, value in CONF.items()} <= set(called)
    assert called[-3].startswith("/")
    assert called[-3].endswith("/jobs/embed.py")
    assert called[-2:] == ["--run", "2026-01-31"]
    assert not any("LOOKALIKE_" in argument for argument in called)  # the driver is here, with this environment


@pytest.mark.parametrize(
    ("name", "variables", "scheme"),
    [
        ("yarn cluster", "spark.yarn.appMasterEnv", "/"),
        ("kubernetes cluster", "spark.kubernetes.driverEnv", "local:///"),
    ],
)
def test_a_driver_on_the_cluster_gets_the_settings_but_no_password(submitted, name, variables, scheme):
    _, called = submitted[name]
    assert f"{variables}.LOOKALIKE_CELL_MIN=50" in called
    assert called[-3].startswith(scheme)  # YARN is sent the file, the image has it
    assert not any("password" in argument or "LOOKALIKE_LOGS" in argument for argument in called)


def test_a_users_mistake_in_a_spark_step_is_final(submitted):
    outcome, called = submitted["wrong"]
    assert (outcome[0], bool(called)) == ("AirflowFailException", True)


def test_the_exit_code_is_found_in_what_the_provider_says(parsed):
    assert parsed["codes"] == list(PROBLEMS.values())


PULL = """
import json, logging, sys
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowException
from nightly_refresh import dag

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
tokyo = timezone(timedelta(hours=9))
run = SimpleNamespace(logical_date=datetime(2026, 2, 1, 1, tzinfo=tokyo))  # 2026-01-31 in UTC
shown = {}
ti = SimpleNamespace(xcom_push=shown.__setitem__)
context = {"params": {"dataset": sys.stdin.read()}, "dag_run": run, "ti": ti}
for task in dag.tasks:
    task.render_template_fields(context)
    shown[task.task_id] = {field: str(getattr(task, field)) for field in task.template_fields}
outcomes = []
for _ in range(2):
    try:
        outcomes.append(dag.get_task("pull").execute(context))
    except AirflowException as error:
        outcomes.append(type(error).__name__)
print(json.dumps({"shown": shown, "outcomes": outcomes}))
"""


@pytest.fixture
def shop():
    """A web server with a catalogue for whoever asks first, and the command lines of this machine at each request."""
    seen, answers = [], [200, 404]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Authorization"], command_lines()))
            self.send_response(answers.pop(0))
            self.end_headers()
            self.wfile.write(zip_bytes(good_files(3)))

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def command_lines() -> list[str]:
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines


def test_credentials_of_a_source_reach_the_step_and_no_log_command_line_or_field(tmp_path, shop):
    (host, seen), secret = shop, uuid.uuid4().hex
    env = {"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path / "airflow"), "PYTHONPATH": PATHS}
    env |= {f"LOOKALIKE_{name}": str(tmp_path / name.lower()) for name in ("LOGS", "SCRATCH")}
    env |= {"LOOKALIKE_LAKE": (tmp_path / "lake").as_uri()}
    address = f"http://user:{secret}@{host}/a.zip?X-Amz-Signature={secret}"
    done = subprocess.run(
        [sys.executable, "-c", PULL], env=env, cwd=tmp_path, input=address, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["shown"]["pull"]["arguments"] == "('--run', '2026-01-31')"
    pulled, refused = told["outcomes"]
    assert (pulled["run"], pulled["figures"]["uri"]) == ("2026-01-31", f"http://{host}/a.zip")
    assert refused == "AirflowFailException"
    assert re.search(r"bytes [\d,]+ · members 4 · added True", told["shown"]["summary"])
    assert re.search(r"members +4\b", done.stdout)  # a figure a line of the log
    assert [path for path, _, _ in seen] == [f"/a.zip?X-Amz-Signature={secret}"] * 2
    assert all(authorization for _, authorization, _ in seen)
    for _, _, lines in seen:
        assert any("jobs.pull" in line for line in lines)
        assert not any(secret in line for line in lines)
    assert "Running command" in done.stdout + done.stderr
    assert secret not in done.stdout + done.stderr
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "pull.jsonl" for file in files)
    assert not any(secret.encode() in file.read_bytes() for file in files)


def test_no_connection_is_a_clear_error_and_nothing_is_submitted(submitted):
    outcome, called = submitted["none"]
    assert outcome[0] == "AirflowFailException"
    assert "no connection 'spark_default'" in outcome[1]
    assert not called
