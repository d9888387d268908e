"""What killed attempts leave behind is found and removed; what any version names, or somebody just wrote, is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from infra import leftovers
from infra.lake import Lake

SCHEMA = pa.schema({"id": pa.int64()})
DAY = timedelta(days=1)

WRITER = """
import sys, time
import pyarrow as pa
from infra.lake import Lake

lake = Lake(sys.argv[1])
lake.write_part("things", pa.table({"id": [99]}))
with lake.writing("things/part-of-99.parquet") as stream:
    stream.write(b"half of it")
    stream.flush()
    print("now", flush=True)
    time.sleep(600)
"""


def commit(lake: Lake, *ids: int, mode: str = "overwrite") -> str:
    """Commits the ids as one part and returns its name in the lake."""
    part = lake.write_part("things", pa.table({"id": ids}, schema=SCHEMA))
    lake.table("things").commit([part], SCHEMA, run="r", mode=mode)
    return f"things/{part.path}"


def age(lake: Lake) -> None:
    """All that lies there was written two days ago."""
    then = time.time() - 2 * DAY.total_seconds()
    for name in lake.modified(""):
        os.utime(lake.path(name), (then, then))


def killed_writer(lake: Lake) -> list[str]:
    """Kills a process while it writes, and returns the names of what it left."""
    before = set(lake.modified(""))
    writer = subprocess.Popen([sys.executable, "-c", WRITER, lake.uri], stdout=subprocess.PIPE)
    assert writer.stdout
    assert writer.stdout.readline() == b"now\n"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    return sorted(set(lake.modified("")) - before)


@pytest.mark.parametrize("exists", [True, False])
def test_what_a_killed_writer_left_is_removed_once_it_is_old(lake, exists):
    if exists:
        commit(lake, 1)
    left = killed_writer(lake)
    assert [name.rsplit(".", 1)[1] for name in left] == ["parquet", "tmp"]
    assert leftovers.remove(lake, DAY) == []
    age(lake)
    kept = set(lake.modified("")) - set(left)
    assert leftovers.find(lake, 3 * DAY) == []
    assert leftovers.find(lake, DAY) == left
    assert leftovers.remove(lake, DAY) == left
    assert set(lake.modified("")) == kept
    assert leftovers.remove(lake, DAY) == []
    if exists:
        assert lake.table("things").read()["id"].to_pylist() == [1]


def test_what_delta_rs_leaves_in_a_log_is_removed_too(lake):
    commit(lake, 1)
    staged = "things/_delta_log/00000000000000000001.json#1"
    Path(lake.path(staged)).write_bytes(b"half")
    age(lake)
    assert leftovers.remove(lake, DAY) == [staged]


def as_logged(lake: Lake) -> None:
    """The log as it is, an entry a version."""


def cleaned_up(lake: Lake) -> None:
    """A checkpoint of version 2, and no entry from before it."""
    DeltaTable(f"{lake.uri}/things").create_checkpoint()
    for version in (0, 1):
        lake.delete(f"things/_delta_log/{version:020d}.json")


@pytest.mark.parametrize("kept", [as_logged, cleaned_up])
def test_parts_that_any_readable_version_names_stay(lake, kept: Callable[[Lake], None]):
    first, second, third = commit(lake, 1), commit(lake, 2), commit(lake, 3, mode="append")
    kept(lake)
    fourth = commit(lake, 4)
    stray = lake.write_part("things", pa.table({"id": [5]}, schema=SCHEMA))
    age(lake)
    assert leftovers.remove(lake, DAY) == [f"things/{stray.path}"]
    assert all(map(lake.exists, (first, second, third, fourth)))
    assert [sorted(lake.table("things", version).read()["id"].to_pylist()) for version in (2, 3)] == [[2, 3], [4]]


def test_a_part_that_is_written_again_meanwhile_stays(lake):
    commit(lake, 1)
    rows = pa.table({"id": [5]}, schema=SCHEMA)
    lake.write_part("things", rows)
    age(lake)
    lake.write_part("things", rows)
    assert leftovers.remove(lake, DAY) == []


def test_files_that_are_no_parts_stay(lake):
    for name in ("raw/x.zip", "runs/a/pull.json", "models/part-1.parquet", "deep/er/part-1.parquet"):
        lake.write_bytes(name, b"x")
    age(lake)
    assert leftovers.find(lake, DAY) == []


def test_an_object_store_is_cleaned_the_same_way(bucket):
    lake = Lake(f"s3://{bucket}/a/lake")
    committed = commit(lake, 1)
    stray = lake.write_part("things", pa.table({"id": [5]}, schema=SCHEMA))
    assert leftovers.remove(lake, DAY) == []
    assert leftovers.remove(lake, timedelta(seconds=-60)) == [f"things/{stray.path}"]
    assert (lake.exists(committed), lake.exists(f"things/{stray.path}")) == (True, False)
    assert leftovers.find(Lake(f"s3://{bucket}/nothing"), DAY) == []
