"""Spark: one context from what spark-submit (or the settings) gave, and mapping the files of a table to parts.

A context and no session: the JVM passes names of files to Python workers, and Spark SQL would start for seconds only
to do that (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import astuple
from typing import TYPE_CHECKING

from infra.allocator import ONE_ARENA
from infra.errors import UserError
from infra.lake import Part
from infra.sealing import LOCAL, seal
from infra.terminal import without_noise

if TYPE_CHECKING:  # imported late where it is used: it takes a second
    from pyspark import SparkConf, SparkContext

Written = tuple[Part, dict[str, float]]
"""A part that a task wrote, and figures of how."""
POLL_S = 0.5
ANSWER_S = 5
"""Seconds that a master may take to take a connection."""
JAVA_MIN = 17
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables that libraries size their pools by when they are loaded, so a worker has them when it starts."""
PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "KERAS_BACKEND")
"""Variables of the driver that workers get too. No credentials: Spark would show them; give executors their own."""


def context(name: str, master: str = LOCAL) -> SparkContext:
    """The Spark context of this process; master and resources come from spark-submit where that started it.

    Python workers get `spark.task.cpus` threads for each library, unless `spark.executorEnv.*` says otherwise.

    Raises:
        UserError: executors are asked for with more than one GPU, or sent a wheel under that name.
    """
    from pyspark import SparkConf, SparkContext

    conf = SparkConf().setAppName(f"lookalike-{name}").set("spark.ui.showConsoleProgress", "false")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not started by spark-submit, here or on a cluster
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers need this environment, not the PATH's Python
        conf.setMaster(master).set("spark.ui.enabled", "false")
    if secret := os.environ.get("_SPARK_AUTH_SECRET"):  # Spark's own variable, which a standalone driver does not read
        conf.set("spark.authenticate.secret", secret)
    with without_noise():
        made = SparkContext.getOrCreate(conf)
    try:
        _check(made.getConf())
    except UserError:
        made.stop()
        raise
    _prepare_workers(made)
    return made


def _check(conf: SparkConf) -> None:
    gpus = conf.get("spark.executor.resource.gpu.amount") or "0"
    if float(gpus) > 1:
        raise UserError(
            f"an executor would have {gpus} GPUs; a worker process that goes from task to task can't change its GPU",
            where="spark.executor.resource.gpu.amount",
            remedy="set it to 1 and ask for more executors: spark.executor.cores, spark.executor.instances",
        )
    sent = conf.get("spark.submit.pyFiles") or ""
    if ".whl" in sent:
        raise UserError(
            f"{sent} would reach the executors, but not the path of their Python, which knows packages by .zip",
            where="spark.submit.pyFiles",
            remedy="send the copy of the wheel that `make wheel` names .zip",
        )


def _prepare_workers(spark: SparkContext) -> None:
    """Set the environment that workers start with; what `spark.executorEnv.*` says stands there already and wins."""
    cpus = math.ceil(float(spark.getConf().get("spark.task.cpus") or 1))  # Spark 4.3 knows fractions
    given = (
        dict.fromkeys(THREADS, str(cpus))
        | ONE_ARENA
        | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    )
    spark.environment.update(given | spark.environment)


def check_master(master: str) -> str:
    """The address of Spark's master; of one whose host and port it names, something answers there.

    Raises:
        UserError: nothing does.
    """
    places = re.findall(r"([^/,]+):(\d+)", master) if master.startswith("spark://") else []
    if places and not any(map(_answers, places)):
        raise UserError(
            f"no Spark master answers at {master}",
            where="LOOKALIKE_SPARK",
            remedy="start it, or unset LOOKALIKE_SPARK to compute on this machine",
        )
    return master


def _answers(place: tuple[str, str]) -> bool:
    try:
        with socket.create_connection((place[0], int(place[1])), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def check_java() -> str:
    """Version of the Java that Spark would use.

    Raises:
        UserError: there is none, it is older than 17, or it lacks the module that Spark needs.
    """
    java = f"{os.environ['JAVA_HOME']}/bin/java" if os.environ.get("JAVA_HOME") else "java"
    remedy = "install a JDK 17 or newer (Debian: apt-get install openjdk-17-jdk-headless) and set JAVA_HOME to it"
    try:
        shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
        modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"Spark needs Java 17 or newer, and {java!r} does not run: {error}", remedy=remedy) from None
    found = re.search(r'^.*version "(?:1\.)?(\d+).*$', shown, re.MULTILINE)
    name = found[0] if found else shown.strip()  # before it Java may say which options it picked up
    if found is None or int(found[1]) < JAVA_MIN:
        raise UserError(f"Spark needs Java {JAVA_MIN} or newer, found {name}", where=java, remedy=remedy)
    if "jdk.incubator.vector" not in modules:
        raise UserError("this Java has no module jdk.incubator.vector, which Spark needs", where=java, remedy=remedy)
    return name


def take_gpu() -> str | None:
    """Address of the GPU that Spark gave to this task, from now on the only one this process sees; None without one.

    To be called before a library starts the GPU. Each then takes memory as it needs it, so processes can share a GPU.
    """
    from pyspark import TaskContext

    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX; PyTorch grows by itself
    context = TaskContext.get()
    given = context.resources().get("gpu") if context else None
    if given is None:
        return None
    os.environ["CUDA_VISIBLE_DEVICES"] = given.addresses[0]
    return given.addresses[0]


def task_threads() -> int:
    """CPU threads that this task may use: `spark.task.cpus`; 1 outside of a task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return context.cpus() if context else 1


def map_to_parts(
    spark: SparkContext, items: Sequence[str], work: Callable[[str], Iterator[Written]]
) -> Iterator[list[Written]]:
    """Run `work` on every item, a task each, and yield what finished tasks wrote, while the others still run.

    `work` runs on a worker, which keeps its process from task to task. However often a task was tried, what it wrote
    comes once. Whoever stops reading stops the job.

    Raises:
        UserError: that of a task; no other attempt is made.
        Py4JJavaError: a task failed for good.
    """
    items = list(items)
    # Updated as a task finishes, by the first of its attempts that does; a job returns nothing before its end.
    finished = spark.accumulator(dict[int, str](), _Union())  # type: ignore[arg-type]

    def run(item: int) -> tuple[int, str]:
        told = _tell(work(items[item]))
        finished.add({item: told})
        return item, told

    group = f"map-{id(finished)}"

    def collect() -> dict[int, str]:
        spark.setJobGroup(group, group)
        return dict(spark.parallelize(range(len(items)), max(1, len(items))).map(run).collect())

    yielded = 0
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(collect)
        try:
            while not wait([job], POLL_S).done:
                if new := list(finished.value.values())[yielded:]:
                    yielded += len(new)
                    yield _hear(new)
            early = set(list(finished.value)[:yielded])
            yield _hear(told for item, told in job.result().items() if item not in early)
        finally:
            if not job.done():
                spark.cancelJobGroup(group)


class _Union:
    """How accumulated dicts add up: an `AccumulatorParam`, which is imported late."""

    def zero(self, value: dict[int, str]) -> dict[int, str]:
        return {}

    def addInPlace(self, value1: dict[int, str], value2: dict[int, str]) -> dict[int, str]:  # noqa: N802  # Spark's name
        value1.update(value2)
        return value1


def _tell(writing: Iterator[Written]) -> str:
    """What a task says to the driver: what it wrote, or its UserError, which Spark would turn into a traceback."""
    try:
        return json.dumps([(astuple(part), figures) for part, figures in writing])
    except UserError as error:
        return json.dumps({"problem": error.problem, "where": error.where, "remedy": error.remedy})


def _hear(told: Iterable[str]) -> list[Written]:
    written = []
    for heard in map(json.loads, told):
        if isinstance(heard, dict):
            raise UserError(heard.pop("problem"), **heard)
        written += [(Part(*part), figures) for part, figures in heard]
    return written


if __name__ == "__main__":  # `make java`: before anything is started
    seal()
    try:
        print(check_java())
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
