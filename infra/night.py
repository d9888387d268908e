"""One run of the nightly DAG, as Airflow's scheduler makes it: `python -m infra.night RUN PARAMS OWN`.

`infra.airflow.start_run` starts it, in Airflow's environment. Where `make up` runs, its scheduler does the work. Else
OWN is 1, and a scheduler and the API that its tasks report to live as long as the run: the processes that write states,
times and logs are the same as anywhere.

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import requests

from infra import airflow as one_machine

POLL_S = 0.5
API_S = 180
"""Seconds that the API may take to answer."""
COMPONENTS = (("api-server", "--apps", "execution"), ("scheduler", "--skip-serve-logs"))
"""What a run needs of Airflow: `dag_runs.read_dags` stands in for the DAG processor; no task of ours is deferred."""


def main(run: str, params: Mapping[str, object], own: bool) -> int:
    """Make the run; returns the exit code."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it would be ignored
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_component(arguments)) for arguments in COMPONENTS] if own else []
        from infra import dag_runs  # with Airflow's models: seconds, in which the others start

        dag_runs.read_dags()
        if own:
            _wait_for_api(processes)
            dag_runs.fail_unfinished()
        stack.enter_context(dag_runs.switched_on(alone=own))
        dag_run = dag_runs.trigger(run, params)
        try:
            while not (state := dag_runs.final_state(dag_run)):
                _check(processes, parent, own)
                time.sleep(POLL_S)
        except BaseException:
            dag_runs.fail(dag_run)
            raise
        return 0 if state == "success" else 1


@contextlib.contextmanager
def _component(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Airflow's, which ends with this one."""
    process = subprocess.Popen([sys.executable, "-m", "airflow", *arguments], preexec_fn=_end_with_parent)  # noqa: PLW1509
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


def _wait_for_api(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until tasks can report; one that cannot tries again later and later."""
    deadline = time.monotonic() + API_S
    session = requests.Session()
    session.trust_env = False  # no proxy leads to this machine itself
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        with contextlib.suppress(requests.RequestException):
            if session.get(f"{os.environ['AIRFLOW__CORE__EXECUTION_API_SERVER_URL']}health", timeout=5).ok:
                return
        time.sleep(POLL_S / 5)
    raise RuntimeError("Airflow's scheduler and API did not come up; the log above says why")


def _check(processes: Sequence[subprocess.Popen[bytes]], parent: int, own: bool) -> None:
    """Raises where nobody waits for the run any longer, or nobody makes it."""
    if os.getppid() != parent:
        raise KeyboardInterrupt
    gone = any(process.poll() is not None for process in processes)
    if gone or not (own or one_machine.running(Path(os.environ["AIRFLOW_HOME"]))):
        raise RuntimeError("Airflow's scheduler ended before the run; the log above says why")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        raise SystemExit(main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "1"))
    raise SystemExit(130)
