"""Airflow on one machine: what its processes are given, and who may use its folder."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from infra import airflow
from infra.airflow import alone, environment
from infra.errors import UserError
from infra.settings import read_settings

HOLD = """
import sys, time
from pathlib import Path
from infra.airflow import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_task_in_a_folder_of_its_own_finds_what_relative_settings_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("SCRATCH", "LOGS", "CLASSIFIER_WEIGHTS", "DATASET"):
        monkeypatch.setenv(f"LOOKALIKE_{name}", name.lower())
    monkeypatch.setenv("LOOKALIKE_CELL_MIN", "50")
    env = environment(read_settings(), tmp_path / "dags")
    for name in ("SCRATCH", "LOGS", "CLASSIFIER_WEIGHTS", "DATASET"):
        assert env[f"LOOKALIKE_{name}"] == str(tmp_path / name.lower())
    assert env["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] == str(tmp_path / "logs/airflow")
    assert env["LOOKALIKE_STORE_FOLDER"] == str(tmp_path / "var/store")
    assert (env["LOOKALIKE_WEIGHTS"], env["LOOKALIKE_CELL_MIN"]) == ("package", "50")


def test_a_second_refresh_in_a_folder_is_told_the_first_and_waits_for_no_dead_one(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match=f"another refresh or `make up` is at work here, process {first.pid}"),
        alone(tmp_path),
    ):
        pass
    first.kill()
    first.wait()
    with alone(tmp_path):
        assert (tmp_path / "refresh.lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("holds", ["no folder", "no configuration", "no database", "another database"])
def test_an_airflow_of_somebodys_own_that_is_not_ready_is_refused_with_the_command_and_left_alone(
    monkeypatch, tmp_path, holds
):
    home, database = tmp_path / "my airflow", tmp_path / "my airflow/airflow.db"
    if holds != "no folder":
        home.mkdir()
    if holds in ("no database", "another database"):
        (home / "airflow.cfg").write_text(f"[database]\nsql_alchemy_conn = sqlite:///{database}\n")
    if holds == "another database":
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES ('29ce7909c52b')")  # Airflow 3.0.0
            connection.commit()
            dump = [*connection.iterdump()]
    before = sorted(home.rglob("*"))
    monkeypatch.setenv("LOOKALIKE_AIRFLOW_HOME", str(home))
    settings = read_settings(logs=tmp_path / "logs")
    with pytest.raises(UserError, match="never migrated unasked") as caught:
        airflow.check(settings, environment(settings, tmp_path / "dags"))
    assert caught.value.where == f"LOOKALIKE_AIRFLOW_HOME={home}"
    assert f"`AIRFLOW_HOME='{home}' {Path(sys.executable).parent}/airflow db migrate`" in caught.value.remedy
    assert sorted(home.rglob("*")) == before
    if holds == "another database":
        with contextlib.closing(sqlite3.connect(database)) as connection:
            assert [*connection.iterdump()] == dump


def test_an_airflow_with_dags_of_its_own_is_refused_before_a_scheduler_touches_them(monkeypatch, tmp_path):
    home = tmp_path / "my airflow"
    monkeypatch.setenv("LOOKALIKE_AIRFLOW_HOME", str(home))
    settings = read_settings(logs=tmp_path / "logs")
    env = environment(settings, tmp_path / "dags")
    subprocess.run([*airflow.AIRFLOW, "db", "migrate"], env=env, check=True, capture_output=True)
    assert airflow.check(settings, env).endswith(f" in {home}")
    with contextlib.closing(sqlite3.connect(home / "airflow.db")) as connection:
        columns = [name for _, name, _, is_needed, *_ in connection.execute("PRAGMA table_info(dag)") if is_needed]
        connection.execute("PRAGMA foreign_keys = OFF")
        for dag in ("nightly_refresh", "payroll"):
            values = [{"dag_id": dag}.get(column, 0) for column in columns]
            connection.execute(
                f"INSERT INTO dag ({', '.join(columns)}) VALUES ({', '.join('?' * len(values))})", values
            )
        connection.commit()
    with pytest.raises(UserError, match="has DAGs of its own, such as payroll,"):
        airflow.check(settings, env)
