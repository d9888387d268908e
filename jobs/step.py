"""A step's command line: run it, store its result, and turn its errors into exit codes."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import structlog

from infra import telemetry
from infra.errors import TransientError, UserError
from infra.terminal import visible
from jobs.run import WRITES, OutdatedError, Reading, Run, StepResult, open_run, recorded, release


def execute(step: str, run: Run) -> StepResult:
    """Run one step and store its result: what it did, and which versions and settings led to that.

    An attempt writes its result once, as `<step>.<attempt>.json`; the newest finished one lies beside as `<step>.json`.
    """
    started = time.perf_counter()
    function = getattr(importlib.import_module(f"jobs.{step}"), step)
    reading = Reading()
    try:
        result: StepResult = function(replace(run, reading=reading))
    except OutdatedError as outdated:  # another run went live while this one was judged: once more, now against that
        structlog.get_logger().warning("runs a step again", step_again=outdated.step, why=str(outdated))
        execute(outdated.step, run)
        reading = Reading()
        result = function(replace(run, reading=reading))
    written = {name: run.lake.table(name, number).content for name, number in result.tables.items()}
    attempt = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    result = replace(
        result,
        seconds=round(time.perf_counter() - started, 3),
        contents=written | result.contents,
        inputs={name: read for name, read in reading.inputs.items() if WRITES[name] != step},
        settings=recorded(run.settings),
        release=release(),
        attempt=attempt,
    )
    stored = json.dumps(asdict(result)).encode()
    run.lake.write_bytes(f"runs/{run.name}/{step}.{attempt}.json", stored)
    run.lake.write_bytes(f"runs/{run.name}/{step}.json", stored)
    return result


def main(step: str, arguments: Sequence[str] | None = None) -> int:
    """Command line of a step, `--run NAME` and options; returns the exit code (0, 64 user, 75 transient, 1 bug)."""
    parser = argparse.ArgumentParser(prog=f"jobs/{step}.py")
    parser.add_argument("--run", required=True, help="name of the run: its logical date, such as 2026-01-31")
    parser.add_argument("--dataset", help="source of the catalogue; default: LOOKALIKE_DATASET")
    parser.add_argument("--publish-anyway", default="", metavar="REASON", help="publish what would be refused; say why")
    parser.add_argument("--new-catalogue", action="store_true", help="publish another catalogue than the live one")
    given = parser.parse_args(arguments)
    log, started = structlog.get_logger(), False
    try:
        run = open_run(given.run, **({"dataset": given.dataset} if given.dataset else {}))
        run = replace(run, publish_anyway=given.publish_anyway.strip(), new_catalogue=given.new_catalogue)
        telemetry.start(run.settings.logs, run.name, step)
        started = True
        log.info("started")
        result = execute(step, run)
    except (UserError, TransientError) as error:
        if started:
            log.error("failed", kind=type(error).__name__, exit_code=error.exit_code, message=str(error))
        print(f"\n{step} failed: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    except Exception:
        log.exception("failed", kind="bug", message="unexpected error; the traceback is below")
        raise
    log.info("finished", **asdict(result))
    if told := os.environ.get("LOOKALIKE_RESULT"):  # who started this process may not know which run `latest` was
        Path(told).write_text(json.dumps({"run": run.name, **asdict(result)}))
    return 0
