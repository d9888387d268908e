"""embed and similar on a real standalone cluster: a master and two worker processes, some of which die on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pyspark
import pytest
from pyspark import SparkConf, SparkContext

from infra import spark
from infra.lake import Lake, Part
from infra.sealing import START_FAST
from jobs import catalog as catalog_step
from jobs import extraction
from jobs import similar as similar_step
from jobs.step import execute
from tests.catalogues import RUN, good_files, open_run, pulled, zip_bytes

ROOT = Path(__file__).resolve().parents[2]
SPARK = Path(pyspark.__file__).parent
IMAGES, A_TASK = 48, 4
FAST = START_FAST["SPARK_SUBMIT_OPTS"]
SETTINGS = {"input_height": 64, "input_width": 48, "cell_min": 20}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("LOOKALIKE_", "SPARK_", "AIRFLOW_"))},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT / "dags"),
    "PYSPARK_PYTHON": sys.executable,
    "SPARK_LOCAL_IP": "127.0.0.1",
    **START_FAST,
}
SUBMIT = """
import sys
from types import SimpleNamespace
from spark_step import SparkStep
step, application, *arguments = sys.argv[1:]
task = SparkStep(task_id=step)
task.application = application
task.application_args = arguments
task.execute({"ti": SimpleNamespace(xcom_push=lambda name, value: None)})
"""
"""Runs a Spark step as its task does; the connection in the environment says where."""
EMBED = """
from jobs import extraction, step
extraction.COMMIT_S = 0
raise SystemExit(step.main("embed"))
"""
"""Commits whatever is there twice a second, so before, while and after the worker is lost."""
SIMILAR = f"""
from jobs import similar, step
similar.TASK_QUERIES = {A_TASK}
raise SystemExit(step.main("similar"))
"""
PROBE = """
import json, os, sys
from dataclasses import asdict
from infra import spark
from infra.lake import Lake, Part
from jobs import extraction
from jobs.run import StepResult, open_run

run = open_run(sys.argv[2])
uri = run.lake.uri
model = extraction.choose_model(run.settings)
pending = run.table("products").read(["image_sha256"])["image_sha256"].combine_chunks()


def work(part):
    extraction.embed_file(Lake(uri), part, pending, model)
    from ml import cube_kernels  # compiled by numba, which must find a place for what it makes of a file in a zip
    from pyspark import TaskContext

    yield Part(json.dumps({
        "folder": os.getcwd(),
        "given": TaskContext.get().resources()["gpu"].addresses,
        "seen": os.environ["CUDA_VISIBLE_DEVICES"],
        "growth": [os.environ[name] for name in ("TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE")],
        "threads": [os.environ[name] for name in spark.THREADS],
        "code": [spark.__file__, extraction.__file__, cube_kernels.__file__],
        "endpoint": os.environ["AWS_ENDPOINT_URL"],
    }), 0, 0), {}


context = spark.context("probe")
found = [told for news in spark.map_to_parts(context, run.table("images").parts[:2], work) for told in news]
context.stop()
result = StepResult(figures={"told": [json.loads(part.path) for part, _ in found]})
run.lake.write_bytes(f"runs/{run.name}/probe.json", json.dumps(asdict(result)).encode())
"""
"""Embeds a file on each of two workers; its result is what they say of themselves."""


def wait_for(pattern: str, log: Path, process: subprocess.Popen) -> re.Match:
    """The first match in a growing log; however slow the machine, but not longer than the process lives."""
    while True:
        ended = process.poll() is not None
        found = re.search(pattern, log.read_text(), re.MULTILINE)
        if found:
            return found
        assert not ended, f"{pattern!r} is not in\n{log.read_text()}"
        time.sleep(0.02)


@dataclass
class Cluster:
    """A standalone master with workers of one core each; every worker offers a made-up GPU of its own."""

    folder: Path
    master: str = ""
    gpus: dict[str, str] = field(default_factory=dict)
    workers: list[subprocess.Popen] = field(default_factory=list)
    daemons: list[subprocess.Popen] = field(default_factory=list)

    def start(self, name: str, role: str, *arguments: str, **env: str) -> tuple[subprocess.Popen, Path]:
        command = [str(SPARK / "bin/spark-class"), f"org.apache.spark.deploy.{role}", "--host", "127.0.0.1"]
        log = self.folder / f"{name}.log"
        daemon = {"SPARK_HOME": str(SPARK), "SPARK_DAEMON_MEMORY": "256m", "SPARK_NO_DAEMONIZE": "1"}
        daemon["SPARK_DAEMON_JAVA_OPTS"] = FAST
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*command, "--webui-port", "0", *arguments],
                env=ENVIRONMENT | daemon | env,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.daemons.append(process)
        return process, log

    def start_master(self) -> None:
        process, log = self.start("master", "master.Master", "--port", "0")
        self.master = wait_for(r"Starting Spark master at (spark://\S+)", log, process)[1]
        wait_for("New state: ALIVE", log, process)

    def start_worker(self) -> None:
        number = len(self.daemons)
        home, gpu = self.folder / f"worker-{number}", f"made-up-{number}"
        home.mkdir()
        script = home / "discover.sh"
        script.write_text(f"""#!/bin/sh\necho '{{"name": "gpu", "addresses": ["{gpu}"]}}'\n""")
        script.chmod(0o755)
        offered = {"amount": 1, "discoveryScript": script}
        options = " ".join(f"-Dspark.worker.resource.gpu.{name}={value}" for name, value in offered.items())
        process, log = self.start(
            home.name,
            "worker.Worker",
            *("--cores", "1", "--memory", "1g", "--work-dir", str(home), self.master),
            SPARK_WORKER_OPTS=options,
        )
        wait_for("Successfully registered with master", log, process)
        self.workers.append(process)
        self.gpus[str(home)] = gpu

    def executor(self, number: str) -> tuple[subprocess.Popen, psutil.Process]:
        """The running executor with this number and its worker."""
        for worker in self.workers:
            for process in psutil.Process(worker.pid).children():
                line = process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
                if "--executor-id" in line and line[line.index("--executor-id") + 1] == number:
                    return worker, process
        raise AssertionError(f"no worker runs executor {number}")

    def kill(self, worker: subprocess.Popen) -> None:
        """End a worker process and its executor as a lost machine does."""
        for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
            process.kill()
        worker.wait()
        self.workers.remove(worker)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """A master alone; see `workers`."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start_master()
        yield made
    finally:
        for worker in [*made.workers]:
            made.kill(worker)
        for process in made.daemons:
            process.kill()
            process.wait()


@pytest.fixture
def workers(cluster) -> Cluster:
    """The cluster with two workers, new ones in place of those that died."""
    while len(cluster.workers) < 2:
        cluster.start_worker()
    return cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> dict[str, Path]:
    """Folders with a catalogue's lake before embed, before similar and after it, computed in Spark's local mode."""
    folder = tmp_path_factory.mktemp("local")
    folders = {name: folder / name for name in ("embed", "similar", "done")}
    run = pulled(open_run(Lake(folders["embed"].as_uri()), **SETTINGS), zip_bytes(good_files(IMAGES)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_step, "IMAGES_A_PART", A_TASK)
        patch.setattr(similar_step, "TASK_QUERIES", A_TASK)
        patch.setenv("LOOKALIKE_SPARK", "local[1]")
        execute("catalog", run)
        for step, following in (("embed", "similar"), ("similar", "done")):
            shutil.copytree(folders[step], folders[following])
            execute(step, open_run(Lake(folders[following].as_uri()), **SETTINGS))
    return folders


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the code, built from a copy of the sources, under the name that Spark knows."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("jobs", "ml", "infra", "sql"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    return next((folder / "dist").glob("*.whl")).rename(folder / "lookalike.zip")


@pytest.fixture
def submit(tmp_path) -> Iterator[Callable[..., tuple[subprocess.Popen, Path]]]:
    """A function that starts a Spark step through the connection and gives its process and log."""
    started = []

    def start(step: str, application: Path, lake: Path, connection: dict, **env: str):
        settings = {f"LOOKALIKE_{name.upper()}": str(value) for name, value in SETTINGS.items()}
        settings |= {"LOOKALIKE_LAKE": lake.as_uri(), "LOOKALIKE_LOGS": str(tmp_path / "logs")}
        airflow = {
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", **connection}),
        }
        log = tmp_path / f"{step}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", SUBMIT, step, str(application), "--run", RUN],
                env=ENVIRONMENT | settings | airflow | env,
                cwd=tmp_path,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        started.append(process)
        return process, log

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def on(master: str, **conf: object) -> dict:
    """A connection: the master and Spark's configuration, without its prefix `spark.`."""
    given = {"executor.memory": "512m", "executor.extraJavaOptions": FAST, "ui.enabled": "false", **conf}
    return {"host": master, "extra": {"conf": {f"spark.{name}": str(value) for name, value in given.items()}}}


def lose_a_worker(cluster: Cluster, process: subprocess.Popen, log: Path) -> str:
    """Kill a worker with its executor while that has a task and the other one has finished some; its number.

    The executor is halted first, so it can't finish that task however long the rest takes.
    """
    number = wait_for(r"Starting task .*executor (\d+),", log, process)[1]
    worker, executor = cluster.executor(number)
    executor.suspend()
    wait_for(rf"Finished task .*\(executor (?!{number}\))\d+\)", log, process)
    assert process.poll() is None
    cluster.kill(worker)
    return number


def committed(lake: Path, table: str) -> dict[str, bytes]:
    """The committed files of a table, which are named by their content, and their bytes."""
    found = {name: (lake / table / name).read_bytes() for name in Lake(lake.as_uri()).table(table).parts}
    assert len(found) >= 1
    return found


@pytest.mark.parametrize(
    ("step", "code", "tables"),
    [("embed", EMBED, ("features",)), ("similar", SIMILAR, ("embeddings", "cells", "shortlists"))],
    ids=["embed", "similar"],
)
def test_a_worker_lost_in_the_middle_changes_no_bit_of_the_result(local, workers, submit, tmp_path, step, code, tables):
    lake = shutil.copytree(local[step], tmp_path / "lake")
    application = tmp_path / "application.py"
    application.write_text(code)
    process, log = submit(step, application, lake, on(workers.master))
    lost = lose_a_worker(workers, process, log)
    assert process.wait() == 0, log.read_text()
    shown = log.read_text()
    unfinished = re.findall(rf"Starting task (\d+)\.0 in .*executor {lost},", shown)[-1]
    assert f"Finished task {unfinished}.0 in" not in shown
    assert f"Lost executor {lost} on" in shown
    assert f"Starting task {unfinished}.1 in" in shown
    expected = local["similar" if step == "embed" else "done"]
    for table in tables:
        assert committed(lake, table) == committed(expected, table)
    assert len(committed(lake, tables[-1])) == IMAGES // A_TASK
    assert step == "similar" or Lake(lake.as_uri()).table("features").version > 0  # in pieces
    assert len(workers.workers) == 1


def test_each_worker_uses_the_code_of_the_wheel_and_the_gpu_that_spark_gave_its_task(
    local, workers, wheel, submit, tmp_path
):
    asked = {
        "executor.resource.gpu.amount": 1,
        "task.resource.gpu.amount": 1,
        "submit.pyFiles": wheel,
        # Both executors are there before the first task starts: so each gets one.
        "cores.max": 2,
        "scheduler.minRegisteredResourcesRatio": 1.0,
        "scheduler.maxRegisteredResourcesWaitingTime": "1h",
    }
    lake, application = shutil.copytree(local["embed"], tmp_path / "lake"), tmp_path / "probe.py"
    application.write_text(PROBE)
    connection = on(workers.master, **asked)
    process, log = submit("probe", application, lake, connection, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert process.wait() == 0, log.read_text()
    found = json.loads((lake / f"runs/{RUN}/probe.json").read_text())["figures"]["told"]
    told = {next(home for home in workers.gpus if each["folder"].startswith(f"{home}/")): each for each in found}
    assert len(told) == 2
    for home, each in told.items():
        assert each["given"] == [workers.gpus[home]]
        assert each["seen"] == workers.gpus[home]
        assert each["growth"] == ["true", "false"]
        assert each["endpoint"] == "http://127.0.0.1:9"
        assert set(each["threads"]) == {"1"}
        assert [Path(file).parts[-3:] for file in each["code"]] == [
            ("lookalike.zip", "infra", "spark.py"),
            ("lookalike.zip", "jobs", "extraction.py"),
            ("lookalike.zip", "ml", "cube_kernels.py"),
        ]


def test_every_library_of_a_worker_uses_the_cores_of_its_task(local, tmp_path):
    run = open_run(Lake(shutil.copytree(local["embed"], tmp_path / "lake").as_uri()), **SETTINGS)
    model = extraction.choose_model(run.settings)
    pending = run.table("products").read(["image_sha256"])["image_sha256"].combine_chunks()
    uri = run.lake.uri

    def work(part):
        import numba
        import tensorflow
        import threadpoolctl

        extraction.embed_file(Lake(uri), part, pending, model)
        pools = {pool["internal_api"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        threads = {
            **pools,
            "tensorflow": tensorflow.config.threading.get_intra_op_parallelism_threads(),
            "numba": numba.get_num_threads(),
            "arrow": pa.cpu_count(),
        }
        yield Part("", 0, 0), threads

    SparkContext(conf=SparkConf().setMaster("local[3]").setAppName("test").set("spark.task.cpus", "3"))
    context = spark.context("test")
    try:
        ((_, threads),) = [
            told for news in spark.map_to_parts(context, run.table("images").parts[:1], work) for told in news
        ]
    finally:
        context.stop()
    assert threads.pop("openblas") == min(3, os.cpu_count())  # it takes no more than there are
    assert set(threads) >= {"tensorflow", "numba", "arrow"}
    assert set(threads.values()) == {3}, threads


def test_the_wheel_holds_every_file_of_the_code_and_finds_its_sql(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path)
    code = [path for name in ("jobs", "ml") for path in (ROOT / name).rglob("*.*")] + [*(ROOT / "infra").glob("*.py")]
    expected = {str(path.relative_to(ROOT)) for path in code if "__pycache__" not in path.parts}
    expected |= {f"infra/{path.relative_to(ROOT)}" for path in (ROOT / "sql").rglob("*.sql")}
    assert held == expected
    found = subprocess.run(
        [sys.executable, "-c", "from infra import store; print(store.SQL)"],
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(tmp_path / "infra/sql")
