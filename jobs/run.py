"""A run: its name, settings and lake, what its steps returned, and the versions of the tables that belong to it.

A step is a function `name(run) -> StepResult` in `jobs/name.py`. It reads committed tables, writes parts, commits, and
returns the versions it wrote. `jobs.step` adds what it had read, and stores the result under `runs/<run>/<step>.json`:
that one small file is what makes a step done for a run, and how later steps find the versions they must read.

A run is a *closed chain* when what each of its steps read is what the steps before it now vouch for. A step that is run
again with another outcome opens it until the steps after it have run again, and an open chain is neither judged nor
published. What is published is the *manifest*, all results of the chain, and whoever serves the run reads that.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from infra import store
from infra.errors import TransientError, UserError
from infra.lake import Lake, Table
from infra.settings import Settings, read_settings
from jobs import ids
from jobs.layout import Layout, of_figures
from jobs.order import STEPS

LATEST = "latest"
"""Stands for the run that is live: the newest published one that nobody rolled back."""
WRITES = {
    "pulls": "pull",
    "products": "catalog",
    "images": "catalog",
    "rejects": "catalog",
    "features": "embed",
    "classifier": "classify",
    "candidates": "candidates",
    "embedders": "train_embedding",
    "detectors": "train_look",
    "searches": "search",
    "search_rejects": "search",
    "looks": "looks",
    "look_rejects": "looks",
    "embeddings": "similar",
    "cells": "similar",
    "shortlists": "similar",
    "metrics": "evaluate",
    "verdicts": "evaluate",
    "heldout": "evaluate",
}
"""Table → the step that writes it."""
APPENDED = ("images", "features", "embedders", "detectors")
"""Tables that only grow: a later version holds all that an earlier one does."""
PUBLISHED = ("products", "embeddings", "cells", "shortlists")
UNRECORDED = {"store", "store_folder", "logs", "scratch", "lake", "dataset", "catalogue", "photo_roots", "image_hosts"}
UNRECORDED |= {
    "look_dataset",
    "look_photos",
    "airflow_home",
    "spark",
    "port",
    "image_connections",
    "image_connections_a_host",
    "image_contact",
}
UNRECORDED |= {name for name in Settings.model_fields if name.startswith("serve_")}
"""Settings that decide no result, but for what `rejects` tells: places, some of which hold passwords or say what is
inside a network, as whoever may read the store reads what is recorded; and how one machine's commands run and ask."""


class OutdatedError(TransientError):
    """What a step needs has changed since `step` read it: that step is to run again, and this one after it."""

    def __init__(self, step: str, problem: str) -> None:
        super().__init__(problem)
        self.step = step


@dataclass(frozen=True)
class TableVersion:
    """A version of a table and the hash of its content."""

    version: int
    content: str


@dataclass(frozen=True)
class StepResult:
    """What an attempt at a step did.

    A step fills the first block: `tables` maps each table it vouches for to the version that holds this run's rows,
    `contents` to the hash of its content where that is another one than the table's. `jobs.step.execute` fills the
    rest: `inputs` are the tables it read, `settings` those that can decide a result, `release` the program's version.
    """

    rows: int = 0
    files: int = 0
    rejects: int = 0
    seconds: float = 0.0
    skipped: bool = False
    tables: dict[str, int] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)

    contents: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, TableVersion] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    release: str = ""
    attempt: str = ""

    @classmethod
    def of(cls, stored: Mapping) -> StepResult:
        """The result that was stored as JSON, maybe by another release: what this one does not know is left out."""
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        read = known.get("inputs", {})
        inputs = {name: TableVersion(table["version"], table["content"]) for name, table in read.items()}
        return cls(**known | {"inputs": inputs})


@dataclass(frozen=True)
class Reading:
    """What a step has read while it is executed: whatever else is written meanwhile, it goes on reading that."""

    results: dict[str, StepResult] = field(default_factory=dict)
    inputs: dict[str, TableVersion] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A refresh, named by its logical date, with the settings and the lake that its steps work on.

    With a `manifest`, that of a published run, results are those that were published, whatever has been run since.
    `publish_anyway` is the reason, given by a person for this attempt alone, to publish what would be refused, and with
    `new_catalogue` the person says that another catalogue is meant to replace the live one.
    """

    name: str
    settings: Settings
    lake: Lake
    manifest: Mapping | None = None
    reading: Reading | None = None
    publish_anyway: str = ""
    new_catalogue: bool = False

    def table(self, name: str, *columns: str) -> Table:
        """The version of table `name` that belongs to this run, which is to have these columns.

        Raises:
            UserError: the step that writes it has not run for this run, or another release wrote it, without them.
        """
        vouched = self.result(WRITES[name])
        remedy = f"run `lookalike step {WRITES[name]} --run {self.name}` and those after it"
        if name not in vouched.tables:
            raise UserError(
                f"run {self.name} has no {name}: another release made it", where=self.lake.uri, remedy=remedy
            )
        if self.reading:
            self.reading.inputs[name] = TableVersion(vouched.tables[name], vouched.contents.get(name, ""))
        table = self.lake.table(name, vouched.tables[name])
        if missing := [column for column in columns if column not in table.schema.names]:
            raise UserError(
                f"the {name} of run {self.name} have no {' and no '.join(missing)}: another release wrote them",
                where=f"{self.lake.uri}/{name}, version {table.version}",
                remedy=f"{remedy}, or a new refresh",
            )
        return table

    def products(self, columns: Sequence[str], where: object = None) -> pa.Table:
        """Columns of the run's products, by the pipeline's names, in the order of ids.

        That is the one that indices of products are of everywhere. What the catalogue does not have is null; of several
        values the first one plays the part.

        Raises:
            UserError: as `table` does.
        """
        named = {name: self.layout.column(name) for name in columns}
        rows = first_values(self.attributes(["product_id", *(column for column in named.values() if column)], where))
        nothing = pa.chunked_array([pa.nulls(len(rows), pa.string())])
        return pa.table({name: rows[column] if column else nothing for name, column in named.items()})

    def judged(self, columns: Sequence[str]) -> pa.Table:
        """As `products`, to judge by: of a catalogue that does not say whom its products are for, all have one gender.

        So a neighbour is right there whose articleType is, as the derivedType is the articleType alone.
        """
        rows = self.products(columns)
        if "gender" not in columns or self.layout.for_whom:
            return rows
        for_all = pa.repeat(pa.scalar(""), len(rows))
        return rows.set_column(rows.column_names.index("gender"), "gender", for_all)

    def attributes(self, columns: Sequence[str], where: object = None) -> pa.Table:
        """The same by the catalogue's names."""
        wanted = list(dict.fromkeys(["product_id", *columns]))
        rows = self.table("products", *wanted).read(wanted, where)
        rows = rows.set_column(rows.column_names.index("product_id"), "product_id", ids.to_text(rows["product_id"]))
        return rows.take(ids.order(rows["product_id"])).select(list(dict.fromkeys(columns)))

    @property
    def layout(self) -> Layout:
        """What the columns of the run's products are."""
        return of_figures(self.result("catalog").figures, self.settings.fields)

    def content(self, name: str) -> str:
        """Hash of the content of table `name`, as this run has it. Raises UserError as `table` does."""
        self.table(name)
        return self.result(WRITES[name]).contents[name]

    def result(self, step: str) -> StepResult:
        """What `step` returned for this run.

        Raises:
            UserError: it has not run.
        """
        if self.reading and step in self.reading.results:
            return self.reading.results[step]
        result = StepResult.of(self._stored(step))
        if self.reading:
            self.reading.results[step] = result
        return result

    def _stored(self, step: str) -> Mapping:
        if self.manifest and step in self.manifest["results"]:
            return self.manifest["results"][step]
        try:
            return json.loads(self.lake.read_bytes(f"runs/{self.name}/{step}.json"))
        except FileNotFoundError:
            raise UserError(
                f"run {self.name} has no result of step {step!r}, which this step needs",
                where=f"{self.lake.uri}/runs/{self.name}/{step}.json",
                remedy=f"run `lookalike step {step} --run {self.name}` first, or the whole refresh",
            ) from None

    def results(self) -> dict[str, StepResult]:
        """Results of the steps done so far, in their order."""
        return {step: self.result(step) for step in STEPS if self.lake.exists(f"runs/{self.name}/{step}.json")}

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the run can be filtered by: those that its shortlists were made with."""
        if self.result("catalog").figures.get("mapping"):
            return self.layout.fields
        return tuple(self.result("similar").settings["fields"])  # type: ignore[arg-type]

    def done(self, step: str, fingerprint: str, targets: Mapping[str, Table]) -> StepResult | None:
        """What `step` returned when all that decides its outcome was as it is now, in whatever run; or None.

        Args:
            step: name of the step.
            fingerprint: `content_hash` of what decides the outcome.
            targets: newest versions of the tables that it writes. Unless they still hold that outcome, it is None.
        """
        try:
            earlier = StepResult.of(json.loads(self.lake.read_bytes(f"done/{step}/{fingerprint}.json")))
        except FileNotFoundError:
            return None
        for name, table in targets.items():
            grown = name in APPENDED and table.version >= earlier.tables[name]
            if not grown and table.content != earlier.contents[name]:
                return None
        tables = {name: table.version for name, table in targets.items()}
        return replace(earlier, skipped=True, tables=tables, contents={})

    def remember(self, step: str, fingerprint: str, result: StepResult) -> StepResult:
        """Keep the outcome of `step` for `done`, once its tables are committed; returns it."""
        contents = {name: self.lake.table(name, number).content for name, number in result.tables.items()}
        kept = asdict(replace(result, contents=contents))
        self.lake.write_bytes(f"done/{step}/{fingerprint}.json", json.dumps(kept).encode())
        return result


def published_content(run: Run) -> str:
    """Hash of the content of the tables that a run publishes, and of the fields that it can be filtered by."""
    return content_hash(*(run.content(name) for name in PUBLISHED), run.fields)


def check_chain(run: Run, steps: Iterable[str]) -> None:
    """Check that what each of these steps has read is what the steps before it vouch for now, its fields among that.

    Raises:
        UserError: a step has read something else, or an earlier release ran it, which did not note what it read.
    """
    for step in steps:
        result = run.result(step)
        where = f"{run.lake.uri}/runs/{run.name}/{step}.json"
        again = f"run `lookalike step {step} --run {run.name}` and the steps after it again, or the whole refresh"
        if not result.attempt:
            problem = f"step {step} of run {run.name} was run by an earlier release, which did not note what it read"
            raise UserError(problem, where=where, remedy=again)
        for name, read in result.inputs.items():
            now = run.result(WRITES[name])
            if WRITES[name] in STEPS and read.content != now.contents.get(name):
                raise UserError(
                    f"run {run.name} is no closed chain: step {step} read version {read.version} of {name}, and step "
                    f"{WRITES[name]} has been run again since and wrote version {now.tables[name]}, with other content",
                    where=where,
                    remedy=again,
                )
        made: list[str] | None = result.figures.get("fields")  # type: ignore[assignment]  # no part of a table's content
        if made is not None and tuple(made) != run.fields:
            raise UserError(
                f"run {run.name} is no closed chain: step {step} was run for the fields {', '.join(made)}, and step "
                f"catalog has been run again since, by a mapping with the fields {', '.join(run.fields)}",
                where=where,
                remedy=again,
            )


def night_of(name: str) -> datetime.date | None:
    """The night that a run is named by; None where its name is no calendar date in the form 2026-01-31."""
    with contextlib.suppress(ValueError):
        return datetime.date.fromisoformat(name) if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", name) else None
    return None


def check_date(name: str) -> None:
    """Raises UserError where a name is no calendar date in the form 2026-01-31, the one that runs are named in."""
    if night_of(name) is None:
        raise UserError(
            f"{name!r} is no logical date",
            where="--run",
            remedy="give a date such as 2026-01-31, in the form YYYY-MM-DD",
        )


def check_night(name: str) -> None:
    """Raises UserError where a name is no date, or that of a day which has not begun in UTC, Airflow's zone."""
    check_date(name)
    _check_past(name, datetime.datetime.now(datetime.UTC).date())


def check_begun(name: str) -> None:
    """Raises UserError where a name is that of a night which has not begun anywhere: no later one could replace it."""
    where_it_begins_first = datetime.timezone(datetime.timedelta(hours=14))
    _check_past(name, datetime.datetime.now(where_it_begins_first).date())


def _check_past(name: str, last: datetime.date) -> None:
    night = night_of(name)
    if night and night > last:
        raise UserError(
            f"{name} lies in the future, and no night until then could replace it",
            where="--run",
            remedy=f"name the night that the catalogue is of, {last} at the latest",
        )


def first_values(rows: pa.Table) -> pa.Table:
    """The same with the first of several values in each column, null where there is none."""
    is_list = {name: pa.types.is_list(rows[name].type) for name in rows.column_names}
    firsts = {name: pc.list_element(rows[name], 0) for name in rows.column_names if is_list[name]}
    return pa.table({name: firsts.get(name, rows[name]) for name in rows.column_names})


def content_hash(*parts: object) -> str:
    """SHA-256 (hex) over values that JSON can hold: contents of inputs, settings, constants."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def recorded(settings: Settings) -> dict[str, object]:
    """The settings that can decide a result, without secrets, ready for JSON."""
    return settings.model_dump(mode="json", exclude=UNRECORDED)


def release() -> str:
    """Version of the program; `unknown` where it runs from files that were not installed."""
    try:
        return version("lookalike")
    except PackageNotFoundError:
        return "unknown"


def open_run(name: str, **overrides: object) -> Run:
    """The run called `name`, or the live one as it was published for `latest`, with settings from the environment.

    Args:
        name: logical date of the run, or `latest`.
        overrides: settings that win over the environment.

    Raises:
        UserError: a name that is no date in the form 2026-01-31, a setting that cannot be used, or no run to be the
            latest.
    """
    if name != LATEST:
        check_date(name)
    settings = read_settings(**overrides)
    if name != LATEST:
        return Run(name, settings, Lake(settings.lake))
    with store.connect(settings.store, settings.store_folder) as connection:
        return open_live(connection, settings)[0]


def open_live(connection: psycopg.Connection, settings: Settings) -> tuple[Run, int]:
    """The run that the store serves, as it was published, and its number there.

    Raises:
        UserError: there is none, or it was published by a release that kept no manifest, or from another lake.
    """
    live, lake = store.live(connection), Lake(settings.lake)
    if live is None:
        raise UserError("no run is live", where="the store", remedy="publish one with `make refresh`")
    if not live.manifest.get("results"):
        raise UserError(
            f"run {live.run} was published by an earlier release, which did not keep what it was made of",
            where="the store",
            remedy="publish a run of this release with `make refresh`",
        )
    if not lake.exists(f"runs/{live.run}/publish.json") and not lake.exists(f"runs/{live.run}/similar.json"):
        raise UserError(
            f"the store serves run {live.run}, which the lake does not hold",
            where=f"LOOKALIKE_LAKE={lake.uri}",
            remedy="set LOOKALIKE_LAKE to the lake that the run was made in, or publish a run of this lake",
        )
    return Run(live.run, settings, lake, live.manifest), live.run_id
