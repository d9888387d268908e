"""Spark: one session from what spark-submit (or the settings) gave, and mapping the files of a table to parts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from infra.errors import UserError
from infra.lake import Part

if TYPE_CHECKING:  # imported late where it is used: it takes a second
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

POLL_S = 0.5
JAVA_MIN = 17


def session(name: str) -> SparkSession:
    """The Spark session of this process; master and resources come from spark-submit, else `local[*]`."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(f"lookalike-{name}").config("spark.ui.showConsoleProgress", "false")
    if "SPARK_ENV_LOADED" not in os.environ:  # not started by spark-submit
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers need this environment, not the PATH's Python
        builder = builder.master(os.environ.get("SPARK_MASTER", "local[*]")).config("spark.ui.enabled", "false")
    return builder.getOrCreate()


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
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    if found is None or int(found[1]) < JAVA_MIN:
        raise UserError(
            f"Spark needs Java {JAVA_MIN} or newer, found {shown.splitlines()[0]}", where=java, remedy=remedy
        )
    if "jdk.incubator.vector" not in modules:
        raise UserError("this Java has no module jdk.incubator.vector, which Spark needs", where=java, remedy=remedy)
    return shown.splitlines()[0]


def take_gpu() -> str | None:
    """Address of the GPU that Spark gave to this task, from now on the only one this process sees; None without one."""
    from pyspark import TaskContext

    context = TaskContext.get()
    given = context.resources().get("gpu") if context else None
    if given is None:
        return None
    os.environ["CUDA_VISIBLE_DEVICES"] = given.addresses[0]
    return given.addresses[0]


def map_to_parts(
    spark: SparkSession,
    items: Sequence[str],
    work: Callable[[str], Iterator[tuple[Part, dict[str, float]]]],
    progress: Callable[[int], None],
) -> list[tuple[Part, dict[str, float]]]:
    """Run `work` on every item, a task each, and collect the parts they wrote with their figures.

    `work` runs on a worker, which keeps its process from task to task; `progress` is called on the driver with the
    number of items done so far.
    """

    items = list(items)

    def run_batch(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for index in batch.column("id").to_pylist():
                for part, figures in work(items[index]):
                    yield pa.RecordBatch.from_pydict(
                        {
                            "path": [part.path],
                            "size": [part.size],
                            "rows": [part.rows],
                            "figures": [json.dumps(figures)],
                        }
                    )

    context = spark.sparkContext
    group = f"map-{threading.get_ident()}-{id(items)}"
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(context, group, progress, done), daemon=True)
    frame = spark.range(0, len(items), 1, max(1, len(items)))  # an item a partition, so a task each
    context.setJobGroup(group, group)
    watcher.start()
    try:
        rows = frame.mapInArrow(run_batch, "path string, size long, rows long, figures string").collect()
    finally:
        done.set()
        watcher.join()
    progress(len(items))
    return [(Part(row.path, row.size, row.rows), json.loads(row.figures)) for row in rows]


def _watch(context: SparkContext, group: str, progress: Callable[[int], None], done: threading.Event) -> None:
    tracker = context.statusTracker()
    while not done.wait(POLL_S):
        jobs = filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup(group)))
        stages = {stage for job in jobs for stage in job.stageIds}
        infos = [info for info in map(tracker.getStageInfo, stages) if info]
        progress(sum(info.numCompletedTasks for info in infos))


if __name__ == "__main__":  # `make java`: before anything is started
    try:
        print(check_java())
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
