"""Runs of the nightly DAG in Airflow's database: made, watched and ended as Airflow's own commands do it."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import itertools
from collections.abc import Iterator, Mapping

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.api.common.trigger_dag import trigger_dag
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


def read_dags() -> None:
    """Read the DAG files into the database, as the DAG processor and `airflow dags reserialize` do."""
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        for file, problem in bag.import_errors.items():
            print(f"{file}: {problem}", flush=True)
        sync_bag_to_db(bag, bundle.name, bundle_version=None)


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
        run_after=date,
        logical_date=date,
        conf=dict(params),
    )
    return f"manual__{date.isoformat()}"


def final_state(dag_run: str) -> str | None:
    """`success` or `failed`; None while it is queued or runs."""
    with create_session() as session:
        state = session.scalar(select(DagRun.state).where(DagRun.dag_id == DAG, DagRun.run_id == dag_run))
    return state if state in State.finished_dr_states else None


def fail(dag_run: str) -> None:
    """Mark a run and its running tasks as failed, and those to come as skipped; whoever runs a task of it ends that."""
    for attempt in run_with_db_retries():
        with attempt, create_session() as session:
            dag = SerializedDagModel.get_dag(DAG, session=session)
            set_dag_run_state_to_failed(dag=dag, run_id=dag_run, commit=True, session=session)


def fail_unfinished() -> None:
    """Mark the runs that were left when their scheduler was ended: the next one would take them up before any other."""
    with create_session() as session:
        left = session.scalars(
            select(DagRun.run_id).where(DagRun.dag_id == DAG, DagRun.state.not_in(State.finished_dr_states))
        ).all()
    for dag_run in left:
        fail(dag_run)


@contextlib.contextmanager
def switched_on(alone: bool) -> Iterator[None]:
    """Have runs of the DAG taken up, and with `alone` those of no other DAG; afterwards each is switched as before."""
    with create_session() as session:
        before = dict(session.execute(select(DagModel.dag_id, DagModel.is_paused)).all())
    _pause({name: name != DAG and (alone or paused) for name, paused in before.items()})
    try:
        yield
    finally:
        _pause(before)


def _pause(paused: Mapping[str, bool]) -> None:
    for attempt in run_with_db_retries():
        with attempt, create_session() as session:
            for dag in session.scalars(select(DagModel).where(DagModel.dag_id.in_(paused))):
                dag.is_paused = paused[dag.dag_id]
