"""Looks at a folder or table of photos: when a run has gone live, or by hand, apart from the nights."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset, Param
from spark_step import SparkStep

with DAG(
    "look_photos",
    description="Photos → persons, articles, and the products most like each",
    schedule=[Asset("lookalike_store")],
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "lookalike", "retries": 2, "retry_delay": pendulum.duration(minutes=5)},
    params={
        "run": Param(
            "latest",
            type="string",
            pattern=r"^(latest|\d{4}-\d{2}-\d{2})$",
            description="Run whose products are looked for; latest: the live one",
        )
    },
    tags=["lookalike"],
    doc_md="Gives each photo that `LOOKALIKE_LOOK_PHOTOS` names the products most like what is worn in it, from the "
    "run that has just gone live. Without that setting there is nothing to do, and the task says so.",
) as dag:
    SparkStep(
        task_id="looks",
        arguments=("--run", "{{ params.run }}"),
        outlets=[Asset("lookalike_looks")],
        doc_md="""Looks at the photos, as `lookalike look` does at one, and writes `looks` and `look_rejects`. What has
been looked at with the same products and models is not looked at again.

**If it fails:** the tables hold what the last run of the task gave; a retry goes on from the last sixteen photos or so.
*User error*: no run is live, the place holds no photo, or a column or filter is unknown; the log says which. What of
the photos cannot be read does not fail the task: it is in `look_rejects`.""",
    )
