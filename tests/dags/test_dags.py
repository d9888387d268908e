"""The DAG files: quick to import, whole graph, and one exit code → one fate of the task."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"

PROBE = """
import sys, time
import airflow.sdk, airflow.providers.standard.hooks.subprocess
started = time.perf_counter()
import nightly_refresh
seconds = time.perf_counter() - started
import json
libraries = ("tensorflow", "keras", "pyspark", "pandas", "numpy", "pyarrow", "deltalake")
heavy = [name for name in libraries if name in sys.modules]
dag = nightly_refresh.dag
print(json.dumps({
    "seconds": seconds,
    "heavy": heavy,
    "edges": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
    "docs": {task.task_id: task.doc_md or "" for task in dag.tasks},
    "outlets": {task.task_id: [asset.name for asset in task.outlets] for task in dag.tasks},
    "catchup": dag.catchup, "active": dag.max_active_runs, "retries": sorted({task.retries for task in dag.tasks}),
    "operators": {task.task_id: type(task).__mro__[1].__name__ for task in dag.tasks},
    "exits": [type(sys.modules["spark_step"].failure("embed", code)).__name__ for code in (64, 75, 1, 137)],
}))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """The DAG parsed in a process of its own with no connection set, as the DAG processor does."""
    env = {"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "PYTHONPATH": str(DAGS)}
    out = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def test_parsing_takes_under_a_second_and_imports_nothing_heavy(parsed):
    assert parsed["heavy"] == []
    assert parsed["seconds"] < 1


def test_the_graph_is_that_of_the_design(parsed):
    learned = ["candidates", "classify", "similar"]
    assert parsed["edges"] == {
        "pull": ["catalog"],
        "catalog": ["embed"],
        "embed": learned,
        **{name: ["evaluate"] for name in learned},
        "evaluate": ["publish"],
        "publish": [],
    }


def test_nights_do_not_pile_up_and_failures_are_retried(parsed):
    assert (parsed["catchup"], parsed["active"], parsed["retries"]) == (False, 1, [2])


def test_spark_steps_go_through_the_spark_submit_operator(parsed):
    spark = {step for step, operator in parsed["operators"].items() if operator == "SparkSubmitOperator"}
    assert spark == {"embed", "similar"}


def test_every_task_tells_an_operator_what_to_do(parsed):
    assert all("**If it fails:**" in doc for doc in parsed["docs"].values())


def test_every_table_is_an_asset_that_other_dags_can_wait_for(parsed):
    assets = {name for names in parsed["outlets"].values() for name in names}
    assert {"lookalike_products", "lookalike_features", "lookalike_lists", "lookalike_store"} <= assets


def test_only_a_users_mistake_is_final(parsed):
    assert parsed["exits"] == ["AirflowFailException", "AirflowException", "AirflowException", "AirflowException"]
