"""A step's command line: run it, store its result, and turn its errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import structlog

from infra import telemetry
from infra.errors import TransientError, UserError
from jobs.run import Run, StepResult, open_run


def execute(step: str, run: Run) -> StepResult:
    """Run one step and store its result."""
    started = time.perf_counter()
    function = getattr(importlib.import_module(f"jobs.{step}"), step)
    result: StepResult = replace(function(run), seconds=round(time.perf_counter() - started, 3))
    run.lake.write_bytes(f"runs/{run.name}/{step}.json", json.dumps(asdict(result)).encode())
    return result


def main(step: str, arguments: Sequence[str] | None = None) -> int:
    """Command line of a step: `--run NAME [--dataset URI]`; returns the exit code (0, 64 user, 75 transient, 1 bug)."""
    parser = argparse.ArgumentParser(prog=f"jobs/{step}.py")
    parser.add_argument("--run", required=True, help="name of the run: its logical date, such as 2026-01-31")
    parser.add_argument("--dataset", help="source of the catalogue; default: LOOKALIKE_DATASET")
    given = parser.parse_args(arguments)
    log = structlog.get_logger()
    try:
        run = open_run(given.run, **({"dataset": given.dataset} if given.dataset else {}))
        telemetry.start(run.settings.logs, run.name, step)
        log.info("started")
        result = execute(step, run)
    except (UserError, TransientError) as error:
        log.error("failed", kind=type(error).__name__, message=str(error))
        print(f"\n{step} failed: {error}", file=sys.stderr)
        return error.exit_code
    except Exception:
        log.exception("failed", kind="bug", message="unexpected error; the traceback is below")
        raise
    log.info("finished", **asdict(result))
    return 0
