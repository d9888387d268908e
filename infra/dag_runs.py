"""Runs of the nightly DAG in Airflow's database: made, watched and ended as Airflow's own commands do it."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import itertools
import threading
import time
from collections.abc import Iterator, Mapping

import requests
import uvicorn
from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.api.common.trigger_dag import trigger_dag
from airflow.api_fastapi.app import create_app
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.retries import run_with_db_retries
from airflow.utils.session import create_session
from airflow.utils.state import State
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select

from infra.airflow import DAG

POLL_S = 0.1
READY_S = 180
"""Seconds that the first answer of the API may take: it makes its routes then, once for each of its versions."""
DIRECT = {"http": ""}
"""No proxy leads to this machine itself."""


def read_dags() -> list[str]:
    """Read the DAG files into the database, as `airflow dags reserialize` does; returns the names of the DAGs."""
    manager, names = DagBundlesManager(), []
    manager.sync_bundles_to_db()
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        for file, problem in bag.import_errors.items():
            print(f"{file}: {problem}", flush=True)
        sync_bag_to_db(bag, bundle.name, bundle_version=None)
        names += bag.dag_ids
    return names


def trigger(run: str, params: Mapping[str, object]) -> str:
    """Queue a run of the DAG for the night `run`; returns its id.

    Its logical date is that night's midnight in UTC. Each call is a run of its own, with its own parameters: where that
    moment is taken, as Airflow has one run for each, it is the first free second after it, of the same night.
    """
    midnight = datetime.datetime.combine(datetime.date.fromisoformat(run), datetime.time(), datetime.UTC)
    with create_session() as session:
        taken = set(
            session.scalars(
                select(DagRun.logical_date).where(
                    DagRun.dag_id == DAG,
                    DagRun.logical_date >= midnight,
                    DagRun.logical_date < midnight + datetime.timedelta(days=1),
                )
            )
        )
    moments = (midnight + datetime.timedelta(seconds=number) for number in itertools.count())
    date = next(moment for moment in moments if moment not in taken)
    trigger_dag(
        dag_id=DAG,
        triggered_by=DagRunTriggeredByType.CLI,
        triggering_user_name=getpass.getuser(),
        run_id=f"manual__{date.isoformat()}",
        logical_date=date,
        conf=dict(params),
    )
    return f"manual__{date.isoformat()}"


def final_state(dag_run: str) -> str | None:
    """`success` or `failed`; None while it is queued or runs."""
    with create_session() as session:
        state = session.scalar(select(DagRun.state).where(DagRun.dag_id == DAG, DagRun.run_id == dag_run))
    return state if state in State.finished_dr_states else None


def fail(dag_run: str, dag: str = DAG) -> None:
    """Mark a run and its running tasks as failed, and those to come as skipped; whoever runs a task of it ends that."""
    for attempt in run_with_db_retries():
        with attempt, create_session() as session:
            if stored := SerializedDagModel.get_dag(dag, session=session):
                set_dag_run_state_to_failed(dag=stored, run_id=dag_run, commit=True, session=session)


def fail_unfinished(dags: list[str]) -> None:
    """Mark the runs that were left when their scheduler was ended: the next one would go on with them first."""
    unfinished = DagRun.state.not_in(State.finished_dr_states)
    with create_session() as session:
        left = session.execute(select(DagRun.run_id, DagRun.dag_id).where(DagRun.dag_id.in_(dags), unfinished)).all()
    for dag_run, dag in left:
        fail(dag_run, dag)


@contextlib.contextmanager
def switched_on() -> Iterator[None]:
    """Have runs of the DAG taken up, whether or not it is switched on in the UI; afterwards it is as before."""
    with create_session() as session:
        paused = session.scalar(select(DagModel.is_paused).where(DagModel.dag_id == DAG))
    _pause(False)
    try:
        yield
    finally:
        _pause(bool(paused))


def _pause(paused: bool) -> None:
    for attempt in run_with_db_retries():
        with attempt, create_session() as session:
            session.scalars(select(DagModel).where(DagModel.dag_id == DAG)).one().is_paused = paused


@contextlib.contextmanager
def served(port: int) -> Iterator[None]:
    """The API that tasks report to, ready, on a port of this machine; in this process, as another takes long."""
    config = uvicorn.Config(
        create_app(apps="execution"), host="127.0.0.1", port=port, log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(POLL_S)
    try:
        requests.get(f"http://127.0.0.1:{port}/execution/health", timeout=READY_S, proxies=DIRECT).raise_for_status()
        yield
    finally:
        server.should_exit = True
        thread.join()
