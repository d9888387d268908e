"""Spark's surroundings: which Java will do, and items mapped to parts on a real context."""

import os
import socket
import time
from importlib.metadata import packages_distributions

import pytest
from pyspark import SparkConf, SparkContext

from infra import spark
from infra.errors import UserError
from infra.lake import Part

MODULE = "jdk.incubator.vector@17"


def fake_java(folder, version: str, modules: str) -> None:
    java = folder / "bin/java"
    java.parent.mkdir()
    java.write_text(
        f"#!/bin/sh\nif [ $1 = -version ]; then echo 'openjdk version \"{version}\"' >&2; else echo '{modules}'; fi\n"
    )
    java.chmod(0o755)


@pytest.mark.parametrize("version", ["17.0.15", "21", "24.0.1"])
def test_java_17_and_newer_will_do(tmp_path, monkeypatch, version):
    fake_java(tmp_path, version, MODULE)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert version in spark.check_java()


@pytest.mark.parametrize(
    ("version", "modules", "expected"),
    [
        ("11.0.2", MODULE, "found openjdk version"),
        ("1.8.0_402", MODULE, "1.8.0_402"),
        ("17.0.1", "java.base@17", "no module jdk.incubator.vector"),
    ],
)
def test_another_java_is_a_clear_error_with_the_remedy(tmp_path, monkeypatch, version, modules, expected):
    fake_java(tmp_path, version, modules)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match=expected) as caught:
        spark.check_java()
    assert "openjdk-17" in caught.value.remedy


def test_no_java_at_all_is_a_clear_error_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match="does not run") as caught:
        spark.check_java()
    assert "JAVA_HOME" in caught.value.remedy


def test_what_java_says_before_its_version_is_not_the_version(tmp_path, monkeypatch):
    fake_java(tmp_path, "17.0.15", MODULE)
    java = tmp_path / "bin/java"
    java.write_text(java.read_text().replace("then ", "then echo 'Picked up JAVA_TOOL_OPTIONS: -Dx=\"11\"' >&2; "))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert spark.check_java() == 'openjdk version "17.0.15"'


def test_a_master_that_nobody_answers_at_is_found_before_anything_is_sent_there():
    with socket.socket() as master:
        master.bind(("127.0.0.1", 0))
        address = f"spark://127.0.0.1:{master.getsockname()[1]}"
        with pytest.raises(UserError, match="no Spark master answers") as caught:
            spark.check_master(address)
        assert caught.value.where == "LOOKALIKE_SPARK"
        master.listen()
        assert spark.check_master(address) == address
    assert [spark.check_master(name) for name in ("local[*]", "yarn", "k8s://https://host:443")]


def test_one_package_owns_pyspark():
    """Airflow's provider asks for pyspark-client, whose files have the same names: the lock omits it."""
    assert set(packages_distributions()["pyspark"]) == {"pyspark"}


@pytest.fixture
def context():
    """A context of two tasks at a time, each tried up to four times."""
    made = spark.context("test", "local[2,4]")
    yield made
    made.stop()


@pytest.fixture
def wait_for():
    """A function that waits for a file on a worker, which can't import this module; five minutes are a failure."""

    def waiting(path) -> None:
        for _ in range(3000):
            if path.exists():
                return
            time.sleep(0.1)
        raise TimeoutError(path)

    return waiting


def soon_after(holds) -> None:
    """Return once something holds; a minute without it is a failure."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


ITEMS = [f"item-{i}" for i in range(7)]


def test_every_item_is_worked_on_once_and_its_part_comes_back(context):
    def work(item):
        yield Part(f"{item}.parquet", len(item), 1), {"seconds": float(item[-1])}

    written = [pair for news in spark.map_to_parts(context, ITEMS, work) for pair in news]
    assert sorted(part.path for part, _ in written) == [f"{item}.parquet" for item in ITEMS]
    assert [figures for _, figures in written] == [{"seconds": float(part.path[5])} for part, _ in written]


def test_threads_of_a_worker_share_one_arena_from_its_start(context, tmp_path):
    def work(item):
        import ctypes
        import threading

        libc, together = ctypes.CDLL(None), threading.Barrier(3)
        libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
        threads = [threading.Thread(target=lambda: (libc.malloc(1000), together.wait())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        file = ctypes.c_void_p(libc.fopen(str(tmp_path / item).encode(), b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        yield Part(item, 0, 0), {"arenas": (tmp_path / item).read_text().count("<heap nr=")}

    told = [figures for news in spark.map_to_parts(context, ITEMS[:1], work) for _, figures in news]
    assert told == [{"arenas": 1}]


def test_what_a_finished_task_wrote_comes_while_others_run(context, wait_for, tmp_path):
    def work(item):
        if item == ITEMS[0]:
            wait_for(tmp_path / "go on")
        yield Part(item, 0, 0), {}

    came = []
    for news in spark.map_to_parts(context, ITEMS, work):
        came += [part.path for part, _ in news]
        if len(came) == len(ITEMS) - 1:
            (tmp_path / "go on").touch()
    assert sorted(came) == ITEMS
    assert came[-1] == ITEMS[0]


def test_a_part_comes_once_though_its_worker_died_after_telling_of_it(context, tmp_path):
    def work(item):
        yield Part(item, 0, 0), {}
        if item == ITEMS[3] and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)

    written = [pair for news in spark.map_to_parts(context, ITEMS, work) for pair in news]
    assert (tmp_path / "died").exists()
    assert sorted(part.path for part, _ in written) == ITEMS


def test_a_users_mistake_found_by_a_task_arrives_as_it_is_and_at_the_first_attempt(context, tmp_path):
    def work(item):
        with (tmp_path / "attempts").open("a") as attempts:
            attempts.write("x")
        raise UserError("asked for 7, found 6", where=item, remedy="ask for 6")
        yield

    with pytest.raises(UserError) as caught:
        list(spark.map_to_parts(context, ITEMS[:1], work))
    assert (caught.value.problem, caught.value.where) == ("asked for 7, found 6", ITEMS[0])
    assert caught.value.remedy == "ask for 6"
    assert (tmp_path / "attempts").read_text() == "x"


def test_whoever_stops_reading_stops_the_job_and_leaves_the_context_fit_for_the_next(context, wait_for, tmp_path):
    def work(item):
        if item != ITEMS[0]:
            wait_for(tmp_path / "never")
        yield Part(item, 0, 0), {}

    for news in spark.map_to_parts(context, ITEMS, work):
        assert [part.path for part, _ in news] == ITEMS[:1]
        break
    del news
    soon_after(lambda: context.statusTracker().getActiveJobsIds() == [])  # Spark tells of a job's end a little later
    assert len([*spark.map_to_parts(context, ITEMS[:1], work)]) >= 1


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("spark.executor.resource.gpu.amount", "2", "set it to 1"),
        ("spark.submit.pyFiles", "lookalike-0.1.0-py3-none-any.whl", "make wheel"),
    ],
)
@pytest.mark.filterwarnings("ignore:Failed to add file")
def test_what_executors_cannot_use_is_refused_before_they_start(setting, value, expected):
    SparkContext(conf=SparkConf().setMaster("local[1]").setAppName("test").set(setting, value))
    with pytest.raises(UserError, match=expected) as caught:
        spark.context("test")
    assert (caught.value.where, SparkContext._active_spark_context) == (setting, None)


def test_outside_of_a_task_there_is_one_thread_and_any_gpu_is_shared(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "asked for")
    assert (spark.task_threads(), spark.take_gpu(), os.environ["CUDA_VISIBLE_DEVICES"]) == (1, None, "7")
    assert (os.environ["TF_FORCE_GPU_ALLOW_GROWTH"], os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]) == (
        "true",
        "asked for",
    )
