"""A temporary folder goes with its process; one that a killed process left goes when the next is made."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from infra import temporary

PREFIX = "lookalike-of-tests-"
HOLDER = """
import subprocess, sys, time
from infra import temporary

with temporary.folder(sys.argv[1]) as folder:
    (folder / "file").write_text("x")
    subprocess.Popen(["sleep", "5"])
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def holder() -> tuple[subprocess.Popen, Path]:
    """A process that has a folder, and the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, PREFIX], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_is_there_for_its_user_alone_until_the_block_ends():
    with temporary.folder(PREFIX) as folder:
        (folder / "deeper").mkdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays():
    (killed, left), (living, held) = holder(), holder()
    kill(killed)  # what it started lives on
    assert left.exists()
    with temporary.folder(PREFIX) as folder:
        assert not left.exists()
        assert (held / "file").exists()
        assert folder.exists()
    kill(living)


def test_what_only_looks_like_such_a_folder_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{PREFIX}file").write_text("x")
    (tmp_path / "lookalike-of-others").mkdir()
    with temporary.folder(PREFIX):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["elsewhere", f"{PREFIX}link", f"{PREFIX}file", "lookalike-of-others"]
    )
