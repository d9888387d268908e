"""Commands that are thin: what they say, and what they leave."""

import os
import subprocess
import sys
import time

import pyarrow as pa
from typer.testing import CliRunner

from jobs.cli import _again, app


def test_leftovers_are_listed_and_removed_only_when_asked_for(lake, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_LAKE", lake.uri)
    schema = pa.schema({"id": pa.int64()})
    parts = [lake.write_part("things", pa.table({"id": [number]}, schema=schema)) for number in (1, 2)]
    lake.table("things").commit(parts[:1], schema, run="r")
    orphan = f"things/{parts[1].path}"
    assert CliRunner().invoke(app, ["leftovers"]).stdout == "0 files that nobody reads; --remove deletes them\n"
    os.utime(lake.path(orphan), (then := time.time() - 8 * 86_400, then))
    listed = CliRunner().invoke(app, ["leftovers"])
    assert listed.stdout == f"{orphan}\n1 files that nobody reads; --remove deletes them\n"
    assert lake.exists(orphan)
    removed = CliRunner().invoke(app, ["leftovers", "--days", "3", "--remove"])
    assert (removed.exit_code, removed.stdout) == (0, f"{orphan}\n1 removed\n")
    assert not lake.exists(orphan)
    assert lake.table("things").read().num_rows == 1


def test_what_resumes_a_refresh_can_be_typed_as_it_is_shown():
    assert _again("/my shop's [x]", "2026-01-31") == """make refresh DATASET='/my shop'"'"'s [x]' RUN=2026-01-31"""
    assert _again("sample:60", "") == "make refresh DATASET=sample:60"
    assert _again("https://user:s3cret@host/a.zip", "") == "make refresh DATASET=…"


def test_help_waits_for_nothing_that_a_command_needs():
    """Of any command: it loads neither what reads tables, images and models nor what talks to others."""
    program = """
import sys
from typer.main import get_command
from jobs.cli import _again, app
for name in ["", *get_command(app).commands]:
    try:
        app([*name.split(), "--help"])
    except SystemExit as ended:
        assert not ended.code
print("LOADED", *sorted({module.partition(".")[0] for module in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "typer" in loaded
    assert "List the products most like a photo" in done.stdout
    heavy = {
        "numpy",
        "pyarrow",
        "pandas",
        "deltalake",
        "psycopg",
        "pydantic_settings",
        "PIL",
        "matplotlib",
        "numba",
        "keras",
    }
    heavy |= {"tensorflow", "pyspark", "airflow", "requests", "boto3", "structlog", "ml"}
    assert sorted(loaded & heavy) == []
