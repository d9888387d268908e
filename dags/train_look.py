"""Trains the detector that finds articles in photos of people: by hand, apart from the nights."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset
from spark_step import LocalStep

with DAG(
    "train_look",
    description="Labelled photos → challenger; champion if it beats the detector in use",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "lookalike", "retries": 2, "retry_delay": pendulum.duration(minutes=5)},
    tags=["lookalike"],
    doc_md="Learns to find articles in photos of people, from the photos that `LOOKALIKE_LOOK_DATASET` names. Without "
    "it the detector that ships with the release serves, and the task says so.",
) as dag:
    LocalStep(
        task_id="train_look",
        outlets=[Asset("lookalike_detectors")],
        doc_md="""Trains a challenger on the training side of the labelled photos; judges it and the champion on the
validation side, and tells its figures on photos that were held back. Hours on a CPU.

**If it fails:** nothing changes, the champion or the detector that ships finds articles; a retry goes on from the last
epoch. *User error*: the place holds no COCO file of our classes, or a picture of it is missing; the log says which.""",
    )
