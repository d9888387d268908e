"""The nightly graph: which step follows which, on what schedule, and what an operator does when one fails."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param, TaskGroup
from spark_step import LocalStep, SparkStep

DOCS = {
    "pull": """Copies the source into the lake's `raw/`, named by its content; an unchanged source adds nothing.

**If it fails:** the log names the source. *User error*: the address, the credentials or the archive are wrong: correct
`LOOKALIKE_DATASET` (or the parameter `dataset`) and clear the task. *Passing failure*: it is retried by itself.""",
    "catalog": """Reads `styles.csv` and the images into the tables `products`, `images` and `rejects`.

**If it fails:** either the file is no catalogue (the log names the column or file), or more than `LOOKALIKE_REJECT_MAX`
of the products cannot be used (the log counts the reasons). Mend the source and clear `pull`; the old tables
serve on.""",
    "embed": """Gives each new image its features. What has been embedded for this model is never embedded again.

**If it fails:** look for a lost executor or memory in the log, then clear the task: finished parts of an unfinished
commit are simply written again.""",
    "classify": """Retrains the subCategory classifier on the features.

**If it fails:** most often too few labelled products; the log says how many.""",
    "candidates": """Picks each derivedType's medoid, its candidate.

**If it fails:** the log names what is missing; mend it and clear the task, which takes seconds.""",
    "similar": """Computes every product's shortlist: the most similar products of each precomputed cell.

**If it fails:** look for memory or a lost executor in the log and clear the task.""",
    "evaluate": """Measures the run and writes its verdicts and the report.

**If it fails:** the store must be reachable, because the run is compared with the live one. A gate that does not pass
does not fail this task but `publish`.""",
    "publish": """Loads the run into the store and makes it live in one transaction.

**If it fails:** the old tables keep serving. The log says what refused the run (a gate, and by how much; a newer night
that is live; a hold), and what to do. Trigger the run again with the parameter `publish_anyway` to overrule it.
`lookalike rollback` brings back the run before, and holds this one until `lookalike unhold`.""",
}

with DAG(
    "nightly_refresh",
    description="Catalogue → features → similar-item tables → store",
    schedule=CronTriggerTimetable("@daily", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "lookalike",
        "retries": 2,
        "retry_delay": pendulum.duration(seconds=30),
        "retry_exponential_backoff": True,
        "max_retry_delay": pendulum.duration(minutes=10),
    },
    params={
        "dataset": Param(
            "",
            type="string",
            description="Source of the catalogue; empty: LOOKALIKE_DATASET. Who sees this run sees it: no passwords",
        ),
        "publish_anyway": Param(
            "", type="string", description="Reason to publish what a gate, a hold or the order of nights would refuse"
        ),
        "new_catalogue": Param(
            False, type="boolean", description="The catalogue shares few products with the live one, and is meant to"
        ),
    },
    tags=["lookalike"],
    doc_md="Turns the catalogue into similar-item tables and publishes them. Each task says what to do if it fails.",
) as dag:

    def step(name: str, operator: type = LocalStep, tables: tuple[str, ...] = ()):  # noqa: ANN201
        """A task that runs step `name` and announces the tables it writes."""
        return operator(task_id=name, outlets=[Asset(f"lookalike_{table}") for table in tables], doc_md=DOCS[name])

    with TaskGroup("intake", prefix_group_id=False, tooltip="source → tables"):
        catalogued = step("pull") >> step("catalog", tables=("products", "images", "rejects"))
    with TaskGroup("learn", prefix_group_id=False, tooltip="images → features, classifier, candidates, shortlists"):
        embedded = step("embed", SparkStep, ("features",))
        learned = [
            step("classify", tables=("classifier",)),
            step("candidates", tables=("candidates",)),
            step("similar", SparkStep, ("cells", "shortlists")),
        ]
    with TaskGroup("release", prefix_group_id=False, tooltip="verdicts, then the store"):
        evaluated = step("evaluate", tables=("metrics", "verdicts", "heldout"))
        published = step("publish", tables=("store",))

    catalogued >> embedded >> learned >> evaluated >> published
