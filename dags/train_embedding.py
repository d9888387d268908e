"""Trains the embedding that refreshes measure similarity on: weekly or by hand, apart from the nights."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param
from spark_step import LocalStep

with DAG(
    "train_embedding",
    description="Features → challenger; champion if it beats the one in use",
    schedule=CronTriggerTimetable("@weekly", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "lookalike", "retries": 1, "retry_delay": pendulum.duration(minutes=5)},
    params={
        "run": Param(
            "latest",
            type="string",
            pattern=r"^(latest|\d{4}-\d{2}-\d{2})$",
            description="Run whose products are learnt from; latest: the live one",
        )
    },
    tags=["lookalike"],
    doc_md="Learns from the live run as it was published. A challenger that is no better is kept, but not used; and a "
    "night uses the champion only if it beats the untrained features on that night's own held-out images. "
    "`LOOKALIKE_EMBEDDING=triplet` goes on from the head by triplets, `finetune` trains the backbone's last layers, "
    "and `scratch` all of a backbone from random weights, which nights with `LOOKALIKE_WEIGHTS=none` use.",
) as dag:
    LocalStep(
        task_id="train_embedding",
        arguments=["--run", "{{ params.run }}"],
        outlets=[Asset("lookalike_embedders")],
        doc_md="""Trains a challenger on the training side of the images; judges it and what the nights go by, the
champion or the untrained features, on validation.

**If it fails:** nothing changes, refreshes go on with the champion; a retry of a training on images goes on
from its last epoch. *User error*: no run is live, it has too few products, the settings have another backbone than it,
or lake and store are not of one installation; the log says which. `lookalike champion` lists all that were trained,
`lookalike champion --use NUMBER` goes back to one, `--use untrained` to none.""",
    )
