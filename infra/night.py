"""One run of the nightly DAG, as Airflow's scheduler makes it: `python -m infra.night RUN PARAMS OWN`.

`infra.airflow.start_run` starts it, in Airflow's environment. Where `make up` runs, its scheduler does the work. Else
OWN is 1, and a scheduler, and here the API that its tasks report to, live as long as the run: states, times and logs
are written by what writes them anywhere.

Ends with 0 if the run succeeded and with 1 if not. When it is interrupted, or who started it is gone, the run and the
task that it is at are marked as failed, as an operator would mark them, and what was started here is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from infra import airflow as one_machine

POLL_S = 0.5


def main(run: str, params: Mapping[str, object], own: bool) -> int:
    """Make the run; returns the exit code."""
    parent = os.getppid()
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):  # in a shell's background the first would be ignored
        signal.signal(asked_to_end, signal.default_int_handler)
    if not own:
        from infra import dag_runs

        dag_runs.read_dags()
        return _make(run, params, parent, lambda: bool(one_machine.running(Path(os.environ["AIRFLOW_HOME"]))))
    with _scheduler() as scheduler:
        from infra import dag_runs  # with Airflow's models: seconds, in which the scheduler starts

        dags = dag_runs.read_dags()
        with dag_runs.served(int(os.environ["AIRFLOW__API__PORT"])):
            try:
                dag_runs.fail_unfinished(dags)
                return _make(run, params, parent, lambda: scheduler.poll() is None)
            finally:
                one_machine.end(psutil.Process(scheduler.pid))  # while its tasks can still report


def _make(run: str, params: Mapping[str, object], parent: int, is_scheduled: Callable[[], bool]) -> int:
    from infra import dag_runs

    with dag_runs.switched_on():
        dag_run = dag_runs.trigger(run, params)
        try:
            while not (state := dag_runs.final_state(dag_run)):
                if os.getppid() != parent:
                    raise KeyboardInterrupt
                if not is_scheduled():
                    raise RuntimeError("Airflow's scheduler ended before the run; the log above says why")
                time.sleep(POLL_S)
        except BaseException:
            dag_runs.fail(dag_run)
            raise
    return 0 if state == "success" else 1


@contextlib.contextmanager
def _scheduler() -> Iterator[subprocess.Popen[bytes]]:
    """Airflow's scheduler, which ends with this process. Nothing is deferred, and the log files lie here to be read."""
    command = [*one_machine.AIRFLOW, "scheduler", "--skip-serve-logs"]
    process = subprocess.Popen(command, preexec_fn=_end_with_parent)  # noqa: PLW1509
    try:
        yield process
    finally:
        if process.poll() is None:
            one_machine.end(psutil.Process(process.pid))
            process.wait()


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent is gone, even where that was killed; Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "1"))
    raise SystemExit(130)
