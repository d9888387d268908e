"""A disk that is full or may not be used: one line, and the user's to mend, whatever the lake was about to do."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest

from infra import disk
from infra.errors import UserError
from infra.lake import Lake, Part

SCHEMA = pa.schema({"id": pa.int64(), "bytes": pa.binary()})
NOBODY = 65534
ROWS = pa.table({"id": [1], "bytes": [os.urandom(2**17)]}, schema=SCHEMA)
"""More than is left, and does not compress."""

WRITES: dict[str, Callable[[Lake, Part], object]] = {
    "a part": lambda lake, _: lake.write_part("things", ROWS),
    "a large file": lambda lake, _: lake.write_bytes("runs/x.bin", bytes(2**17)),
    "a file in a new folder": lambda lake, _: lake.write_bytes("deep/down/x.bin", bytes(2**17)),
    "a commit": lambda lake, part: lake.table("things").commit([part], SCHEMA, run="r"),
    "a new table": lambda lake, part: lake.table("others").commit([part], SCHEMA, run="r"),
}
READS: dict[str, Callable[[Lake, Part], object]] = {
    "the newest version": lambda lake, _: lake.table("things"),
    "a version": lambda lake, _: lake.table("things", 0).parts,
    "a part": lambda lake, part: lake.table("things", 0).read_part(part.path),
    "a file": lambda lake, _: lake.read_bytes("runs/old"),
    "whether a file exists": lambda lake, _: lake.exists("runs/old"),
    "folders": lambda lake, _: lake.folders("runs"),
}


@pytest.fixture
def small(small_disk: Path) -> tuple[Lake, Part]:
    """A lake on a small disk with table `things`, and a part to commit."""
    lake = Lake((small_disk / "lake").as_uri())
    lake.table("things").commit([lake.write_part("things", ROWS)], SCHEMA, run="r")
    lake.write_bytes("runs/old", b"old")
    return lake, lake.write_part("things", ROWS.slice(0, 0))


@contextmanager
def told(*signs: str) -> Iterator[None]:
    """The block must end in one line that holds the signs, and in a remedy that names the setting."""
    with pytest.raises(UserError) as caught:
        yield
    assert all(sign in caught.value.problem for sign in signs), caught.value.problem
    assert "\n" not in caught.value.problem
    assert "set LOOKALIKE_LAKE" in caught.value.remedy
    assert caught.value.where.endswith("/lake")


def files_in(lake: Lake) -> list[str]:
    return sorted(lake.modified(""))


@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk_is_told_with_what_is_free_and_nothing_half_written_stays(small, small_disk, what):
    lake, part = small
    before = files_in(lake)
    with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    with told("the disk of", "is full (0.0 MB free)", "No space left on device"):
        WRITES[what](lake, part)
    assert files_in(lake) == before
    assert lake.table("things").version == 0


@pytest.mark.parametrize("what", WRITES)
def test_a_disk_mounted_read_only_is_told_and_can_still_be_read(small, small_disk, what):
    lake, part = small
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with told("can't be used by user root (uid 0)", "Read-only file system"):
        WRITES[what](lake, part)
    assert lake.table("things").read().num_rows == 1


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", WRITES)
def test_a_folder_of_another_user_is_told_with_who_may_not_and_the_command_that_helps(small, what):
    lake, part = small
    with as_nobody(), pytest.raises(UserError) as caught:
        WRITES[what](lake, part)
    assert f"(uid {NOBODY})" in caught.value.problem
    assert f"chown -R {NOBODY}:0 {lake.path('').rstrip('/')}" in caught.value.remedy


@pytest.mark.parametrize("what", READS)
def test_a_lake_that_may_not_be_read_is_not_taken_for_an_empty_one(small, what):
    lake, part = small
    Path(lake.path("")).chmod(0o700)
    with as_nobody(), told(f"(uid {NOBODY})", "Permission denied"):
        READS[what](lake, part)


@pytest.mark.parametrize(
    ("number", "signs"),
    [
        (errno.EDQUOT, ("has used up a quota in", "MB free", "on a larger disk")),
        (errno.EPERM, ("can't be used by", "chown -R")),
        (errno.ENOSPC, ("is full", "du -xhd1", "LOOKALIKE_SCRATCH")),
    ],
)
def test_what_a_disk_refuses_is_told_of_a_folder_that_is_not_there_yet_too(tmp_path, number, signs):
    with pytest.raises(UserError) as caught, disk.told(tmp_path / "not/there", "LOOKALIKE_SCRATCH"):
        raise OSError(number, os.strerror(number))
    assert all(sign in str(caught.value) for sign in signs), str(caught.value)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "no"), OSError("odd"), ValueError("os error"), OSError(5, "io")]
)
def test_other_errors_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk.told(tmp_path, "LOOKALIKE_LAKE"):
        raise error
    assert caught.value is error


def test_only_the_errors_asked_for_are_told(tmp_path):
    with pytest.raises(PermissionError), disk.told(tmp_path, "LOOKALIKE_SCRATCH", disk.FULL):
        raise PermissionError(errno.EACCES, "denied")
