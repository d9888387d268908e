"""`make up`: the UI answers, a run triggered there does what `make refresh` does, and `make down` ends it all."""

import json

import psutil
import pytest
import requests

from tests.end_to_end.airflow_api import DAG, came_up, run_of, run_to_its_end, seconds_of, tasks_of
from tests.end_to_end.test_refresh import free_port, lookalike, result

WAIT_S = 600


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """(folder, address, session with a token) of an Airflow started by `lookalike up` on a free port."""
    folder = tmp_path_factory.mktemp("ui")
    port = free_port()
    # Unpausing would also start the latest night: without schedules only the run that the test triggers exists.
    config = folder / "var/airflow/airflow.cfg"
    config.parent.mkdir(parents=True)
    config.write_text("[scheduler]\nuse_job_schedule = False\n")
    env = {"LOOKALIKE_PORT": port, "LOOKALIKE_DATASET": "sample:300?seed=1"}
    shown = lookalike(folder, "up", http_proxy="http://127.0.0.1:9", **env)  # a proxy that nothing here may be asked of
    assert shown.returncode == 0, shown.stdout + shown.stderr
    yield folder, *came_up(shown.stdout)
    lookalike(folder, "down", **env)


def test_without_a_token_the_api_answers_nothing(airflow):
    _, address, _ = airflow
    assert requests.get(f"{address}{DAG}", timeout=30).status_code == 401


def test_a_run_triggered_in_the_ui_publishes_and_shows_its_figures(airflow):
    folder, address, session = airflow
    run, state = run_to_its_end(session, address, "2026-01-31", WAIT_S)
    assert state == "success"
    assert result(folder, "publish")["rows"] > 250
    entry = session.get(f"{run}/taskInstances/embed/xcomEntries/return_value", timeout=30).json()["value"]
    figures = json.loads(entry) if isinstance(entry, str) else entry
    assert figures["figures"]["embedded"] == result(folder, "embed")["figures"]["embedded"] > 250


def test_a_refresh_is_made_by_the_scheduler_that_runs_and_only_with_its_settings(airflow):
    folder, address, session = airflow
    other = lookalike(folder, "refresh", "--run", "2026-02-01", LOOKALIKE_CELL_MIN="7")
    assert other.returncode == 64
    assert "LOOKALIKE_CELL_MIN" in other.stderr
    failed = lookalike(folder, "refresh", "--run", "2026-02-01", LOOKALIKE_DATASET="sample:none")
    assert failed.returncode == 64, failed.stdout + failed.stderr
    assert "pull failed" in failed.stdout
    run = run_of(session, address, "2026-02-01")
    assert (run["state"], run["conf"]["dataset"]) == ("failed", "sample:none")
    tasks = tasks_of(session, address, run)
    assert (tasks["pull"]["state"], tasks["pull"]["try_number"]) == ("failed", 1)
    assert any("pull failed: " in line for line in tasks["pull"]["log"])
    assert 0 < seconds_of(tasks["pull"]) <= seconds_of(run)
    assert session.get(f"{address}{DAG}", timeout=30).json()["is_paused"] is False  # as the test before left it


def test_down_leaves_no_process(airflow):
    folder, _, _ = airflow
    assert "stopped" in lookalike(folder, "down").stdout
    left = [p.info["pid"] for p in psutil.process_iter(["pid", "environ"]) if str(folder) in str(p.info["environ"])]
    assert left == []
    assert "not running" in lookalike(folder, "down").stdout
