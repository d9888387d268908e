"""The one way a DAG runs a step: arguments in, exit code → retry or fail, the step's figures out.

Steps that need Spark are submitted through the connection `spark_default`; the others run in a process of their own on
the Airflow worker, with the same arguments. Both end with the same exit codes (see infra.errors), of which 64, a user's
mistake, fails the task at once: no retry can help.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from infra.errors import TransientError, UserError

RUN = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"
ARGUMENTS = ["--run", RUN, "--dataset", "{{ params.dataset }}"]


class SparkStep(SparkSubmitOperator):
    """Submits `jobs/<task>.py` to Spark and returns the step's figures."""

    def __init__(self, *, task_id: str, **kwargs: Any) -> None:
        super().__init__(
            task_id=task_id,
            application=f"{find_spec('jobs').submodule_search_locations[0]}/{task_id}.py",
            application_args=ARGUMENTS,
            conn_id="spark_default",
            name=f"lookalike-{task_id}",
            **kwargs,
        )

    def execute(self, context: Context) -> dict[str, object]:
        try:
            super().execute(context)
        except AirflowException as error:
            # The provider turns every failure into one exception; the exit code stands in its text.
            code = re.search(r"(?:Error code is|exit code is): (\d+)", str(error))
            raise failure(self.task_id, int(code[1]) if code else 1) from error
        return figures(self.task_id, self.application_args[1])


class LocalStep(BaseOperator):
    """Runs `python -m jobs.<task>` on the worker and returns the step's figures."""

    template_fields = ("arguments",)

    def __init__(self, *, task_id: str, arguments: list[str] = ARGUMENTS, **kwargs: Any) -> None:  # noqa: B006
        super().__init__(task_id=task_id, **kwargs)
        self.arguments = arguments

    def execute(self, context: Context) -> dict[str, object]:
        self.hook = SubprocessHook()
        done = self.hook.run_command([sys.executable, "-m", f"jobs.{self.task_id}", *self.arguments])
        if done.exit_code:
            raise failure(self.task_id, done.exit_code)
        return figures(self.task_id, self.arguments[1])

    def on_kill(self) -> None:
        self.hook.send_sigterm()


def failure(step: str, code: int) -> AirflowException:
    """The exception for an exit code: final for a user's mistake, to be retried for all else."""
    if code == UserError.exit_code:
        return AirflowFailException(f"{step} stopped: its input or a setting must change; the log above says which")
    if code == TransientError.exit_code:
        return AirflowException(f"{step} met a passing failure of its surroundings; it will be tried again")
    return AirflowException(f"{step} ended with exit code {code}; its traceback stands in the log above")


def figures(step: str, run: str) -> dict[str, object]:
    """What the step returned for this run, for the UI and for downstream tasks."""
    from dataclasses import asdict  # imported where the task runs: the scheduler parses this file every few seconds

    from jobs.step import open_run

    return asdict(open_run(run).result(step))
