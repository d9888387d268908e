"""The one way a DAG runs a step: arguments in, exit code → retry or fail, the step's figures out.

Steps that need Spark are submitted through the connection `spark_default`, which alone says where and with what
(docs/spark.md); the others run in a process of their own on the Airflow worker, with the same arguments. Both end with
the same exit codes (see infra.errors), of which 64, a user's mistake, fails the task at once: no retry can help.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

KUBE_CLIENT = "airflow.providers.cncf.kubernetes.kube_client"
hidden = sys.modules.setdefault(KUBE_CLIENT, None) is None  # type: ignore[arg-type]

# ruff: noqa: E402
from airflow.providers.apache.spark.hooks import spark_submit
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseHook, BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException

from infra.errors import TransientError, UserError

if hidden:  # the Spark provider would load it here, 5 s at each parse of a DAG; a step on Kubernetes does when it runs
    del sys.modules[KUBE_CLIENT]

RUN = "{{ '%04d-%02d-%02d' % (dag_run.logical_date or dag_run.run_after).utctimetuple()[:3] }}"
"""Name of the run: its day in UTC, whatever zone Airflow is set to."""
ARGUMENTS = ("--run", RUN)
STAYS = ("LOOKALIKE_DATASET", "LOOKALIKE_STORE", "LOOKALIKE_STORE_FOLDER", "LOOKALIKE_LOGS", "LOOKALIKE_SCRATCH")
"""Settings that a driver on the cluster does not need and is not given: they hold passwords or folders of this host."""


class SparkStep(SparkSubmitOperator):
    """Submits `jobs/<task>.py` to Spark and returns the step's figures."""

    def __init__(self, *, task_id: str, arguments: tuple[str, ...] = ARGUMENTS, **kwargs: Any) -> None:
        super().__init__(
            task_id=task_id,
            application=f"{find_spec('jobs').submodule_search_locations[0]}/{task_id}.py",
            application_args=list(arguments),
            conn_id="spark_default",
            name=f"lookalike-{task_id}",
            durable=False,  # a step run again takes up what is finished by itself
            **kwargs,
        )

    def execute(self, context: Context) -> dict[str, object]:
        self.follow_connection()
        self.application_args[1] = run_name(self.application_args[1])
        try:
            super().execute(context)
        except AirflowException as error:
            # The provider turns every failure into one exception; the exit code stands in its text.
            raise failure(self.task_id, exit_code(str(error))) from error
        return told(self, figures(self.task_id, self.application_args[1]), context)

    def follow_connection(self) -> None:
        """Take from the connection what the provider leaves there: Spark's configuration, the key `conf` of its extra.

        In deploy mode `cluster` the driver starts elsewhere, with the environment that it is given here.

        Raises:
            AirflowFailException: there is no such connection, where the provider would go on and ask for YARN; or it
                names Kubernetes, and Airflow's provider for that is not installed.
        """
        try:
            connection = BaseHook.get_connection(self._conn_id)
        except AirflowNotFoundException as error:
            raise AirflowFailException(
                f"there is no connection {self._conn_id!r}; make one of type spark (docs/spark.md), for example host "
                "spark://master:7077, or local[*] for this machine"
            ) from error
        extra = connection.extra_dejson
        self.conf = {**(self.conf or {}), **extra.get("conf", {})}
        kubernetes = "k8s" in f"{connection.conn_type}://{connection.host}"
        if kubernetes:
            try:
                spark_submit.kube_client = import_module(KUBE_CLIENT)
            except ModuleNotFoundError as error:
                raise AirflowFailException(
                    f"{connection.host} needs the package apache-airflow-providers-cncf-kubernetes beside Airflow"
                ) from error
        if extra.get("deploy-mode") == "cluster":
            settings = {name: value for name, value in os.environ.items() if name.startswith("LOOKALIKE_")}
            self.env_vars = {name: value for name, value in settings.items() if name not in STAYS}
            if kubernetes:
                self.application = f"local://{self.application}"  # the image's own file; there is nothing to upload


class LocalStep(BaseOperator):
    """Runs `python -m jobs.<task>` on the worker and returns the step's figures, as that process tells them."""

    template_fields = ("arguments",)

    def __init__(self, *, task_id: str, arguments: tuple[str, ...] = ARGUMENTS, **kwargs: Any) -> None:
        super().__init__(task_id=task_id, **kwargs)
        self.arguments = arguments

    def execute(self, context: Context) -> dict[str, object]:
        self.hook = SubprocessHook()
        params = context["params"]
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            done = self.hook.run_command(
                [sys.executable, "-m", f"jobs.{self.task_id}", *self.arguments, *options(self.task_id, params)],
                env={**os.environ, **source(self.task_id, params), "LOOKALIKE_RESULT": str(result)},
            )
            if done.exit_code:
                raise failure(self.task_id, done.exit_code)
            return told(self, json.loads(result.read_text()), context)

    def on_kill(self) -> None:
        self.hook.send_sigterm()


def source(step: str, params: Mapping[str, Any]) -> dict[str, str]:
    """The parameter `dataset` for the one step that reads it: in the environment, as an address may hold a password."""
    return {"LOOKALIKE_DATASET": params["dataset"]} if step == "pull" and params.get("dataset") else {}


def options(step: str, params: Mapping[str, Any]) -> list[str]:
    """What a person has decided for this run, for the step that asks for it."""
    if step != "publish":
        return []
    reason, is_new = params.get("publish_anyway"), params.get("new_catalogue")
    return [*(["--publish-anyway", reason] if reason else []), *(["--new-catalogue"] if is_new else [])]


def exit_code(problem: str) -> int:
    """The step's exit code from the text of the provider's exception; 1 where the cluster did not pass it on."""
    # On Kubernetes spark-submit may end with 0 or 1 whatever the driver's pod ended with, which then stands beside it.
    codes = re.search(r"Error code is: (\d+)(?:\. Kubernetes spark exit code is: (\d+))?", problem)
    return next((int(code) for code in reversed(codes.groups()) if code and int(code)), 1) if codes else 1


def failure(step: str, code: int) -> AirflowException:
    """The exception for an exit code: final for a user's mistake, to be retried for all else."""
    if code == UserError.exit_code:
        return AirflowFailException(f"{step} stopped: its input or a setting must change; the log above says which")
    if code == TransientError.exit_code:
        return AirflowException(f"{step} met a passing failure of its surroundings; it will be tried again")
    return AirflowException(f"{step} ended with exit code {code}; its traceback stands in the log above")


def run_name(given: str) -> str:
    """The name of the run; for `latest` that of the live one, since a driver on a cluster cannot ask the store."""
    if given != "latest":
        return given
    from jobs.run import open_run  # imported where the task runs, as in `figures`

    try:
        return open_run(given).name
    except UserError as error:
        raise AirflowFailException(str(error)) from error


def figures(step: str, run: str) -> dict[str, object]:
    """What the step returned for this run, for the UI and for downstream tasks."""
    from dataclasses import asdict  # imported where the task runs: the scheduler parses this file every few seconds

    from jobs.run import open_run

    try:
        return {"run": run, **asdict(open_run(run).result(step))}
    except UserError as error:
        raise AirflowFailException(str(error)) from error


def told(task: BaseOperator, result: dict[str, Any], context: Context) -> dict[str, object]:
    """The result of a step, told for people: a figure a line in the task's log, the main ones as the XCom `summary`."""
    from jobs.headline import headline

    for name, value in result.get("figures", {}).items():
        if isinstance(value, int | float | str):
            task.log.info("%-24s %s", name, value)
    summary = headline(task.task_id, result.get("figures", {}), result.get("rejects", 0), result.get("skipped", False))
    context["ti"].xcom_push("summary", summary)
    return result
