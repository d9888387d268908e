"""Trains the embedding that refreshes measure similarity on: weekly or by hand, apart from the nights."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset, Param
from spark_step import LocalStep

with DAG(
    "train_embedding",
    description="Features → challenger; champion if it beats the one in use",
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "lookalike", "retries": 1, "retry_delay": pendulum.duration(minutes=5)},
    params={"run": Param("latest", type="string", description="Refresh whose products are learnt from")},
    tags=["lookalike"],
    doc_md="Learns from the newest refresh. A challenger that is no better is kept, but not used. "
    "`LOOKALIKE_EMBEDDING=finetune` trains the backbone's last layers too.",
) as dag:
    LocalStep(
        task_id="train_embedding",
        arguments=["--run", "{{ params.run }}"],
        outlets=[Asset("lookalike_embedders")],
        doc_md="""Trains a challenger on the training side of the images; judges it and the champion on validation.

**If it fails:** nothing changes, refreshes go on with the champion; a retry of a training on images goes on
from its last epoch. *User error*: there is no embedded run yet, or it
has too few products; the log says which. To go back to an older champion, delete the newer row of the table
`embedders`.""",
    )
