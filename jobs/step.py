"""What the steps share: the run they belong to, their result, their command line, and errors → exit codes.

A step is a function `name(run) -> StepResult` in `jobs/name.py`. It reads committed tables, writes parts, commits,
and returns the versions it wrote. `execute` then stores the result under `runs/<run>/<step>.json`: that one small
file is what makes a step done for a run, and how later steps find the versions they must read.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pyarrow as pa
import structlog

from infra import telemetry
from infra.errors import TransientError, UserError
from infra.lake import Lake, Table
from infra.settings import ATTRIBUTES, Settings, read_settings
from ml import embedding, split
from ml.features import Features
from ml.similarity import to_embedding

STEPS = ("pull", "catalog", "embed", "classify", "candidates", "similar", "evaluate", "publish")
"""The steps of a refresh, in order."""
APART = ("train_embedding", "search")
"""Steps that a refresh does without."""
LATEST = "latest"
"""Stands for the newest run whose images are embedded."""
WRITES = {
    "pulls": "pull",
    "products": "catalog",
    "images": "catalog",
    "rejects": "catalog",
    "features": "embed",
    "classifier": "classify",
    "candidates": "candidates",
    "embedders": "train_embedding",
    "searches": "search",
    "search_rejects": "search",
    "embeddings": "similar",
    "cells": "similar",
    "lists": "similar",
    "metrics": "evaluate",
    "verdicts": "evaluate",
}
"""Table → the step that writes it."""
EMBEDDERS = pa.schema(
    [
        ("number", pa.int64()),
        ("sha256", pa.string()),
        ("file", pa.string()),
        ("base", pa.string()),
        ("tuned", pa.string()),
        ("model", pa.string()),
        ("run", pa.string()),
        ("judged", pa.string()),
        ("history", pa.string()),
        ("promoted", pa.bool_()),
    ]
)
"""The table of trained embedders, oldest first by `number`.

`model` is the fingerprint of the backbone they take features of, `base` that of the backbone as the settings have it,
and `tuned` the SHA-256 of the weights that were tuned from it, or empty.
"""
PUBLISHED = ("products", "embeddings", "cells", "lists")


@dataclass(frozen=True)
class StepResult:
    """What a step did. `tables` maps each table it vouches for to the version that holds this run's rows."""

    rows: int = 0
    files: int = 0
    rejects: int = 0
    seconds: float = 0.0
    skipped: bool = False
    tables: dict[str, int] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A refresh, named by its logical date, with the settings and the lake that its steps work on."""

    name: str
    settings: Settings
    lake: Lake

    def table(self, name: str) -> Table:
        """The version of table `name` that belongs to this run.

        Raises:
            UserError: the step that writes it has not run for this run.
        """
        return self.lake.table(name, self.result(WRITES[name]).tables[name])

    def result(self, step: str) -> StepResult:
        """What `step` returned for this run.

        Raises:
            UserError: it has not run.
        """
        try:
            return StepResult(**json.loads(self.lake.read_bytes(f"runs/{self.name}/{step}.json")))
        except FileNotFoundError:
            raise UserError(
                f"run {self.name} has no result of step {step!r}, which this step needs",
                where=f"{self.lake.uri}/runs/{self.name}/{step}.json",
                remedy=f"run `lookalike step {step} --run {self.name}` first, or the whole refresh",
            ) from None

    def results(self) -> dict[str, StepResult]:
        """Results of the steps done so far, in their order."""
        return {step: self.result(step) for step in STEPS if self.lake.exists(f"runs/{self.name}/{step}.json")}


def content(run: Run) -> str:
    """Fingerprint of the tables that a run publishes: what evaluate judged must be what publish loads."""
    return fingerprint(*(run.table(name).fingerprint for name in PUBLISHED))


def read_features(run: Run, *columns: str, model: str = "", rows: np.ndarray | None = None) -> np.ndarray:
    """Features of a model, a row a product in the order of the products table: float32 (n, d).

    Args:
        run: the run; its steps catalog and embed are done.
        columns: of `Features`; they come side by side.
        model: fingerprint; empty: that of the run, and then those features that the run vouches for.
        rows: int (n,), indices of the products asked for; None: all.

    Raises:
        UserError: an image of a product has no features.
    """
    return gather(run, columns, lambda _, values: [np.concatenate(values, axis=1)], model, rows)[0]


def gather(
    run: Run,
    columns: Sequence[str],
    make: Callable[[np.ndarray, list[np.ndarray]], list[np.ndarray]],
    model: str = "",
    asked: np.ndarray | None = None,
) -> list[np.ndarray]:
    """What `make` gives for the products of each part of the features, put together in the order of products.

    Of one part after the other, so that memory holds what is made and little else. `make` takes indices of products,
    or of those `asked` for, int (m,), and the float32 (m, d) features in each of `columns`; it gives arrays of m rows.

    Raises:
        UserError: an image of a product has no features.
    """
    hashes = np.array(run.table("products").read(["image_sha256"])["image_sha256"].to_pylist(), "S64")
    hashes = hashes if asked is None else hashes[asked]
    images, image_of = np.unique(hashes, return_inverse=True)
    products, firsts = np.argsort(image_of, kind="stable"), np.cumsum([0, *np.bincount(image_of)])
    made, seen = list[np.ndarray](), np.zeros(len(images), bool)
    features = run.lake.table("features") if model else run.table("features")
    model = model or str(run.result("embed").figures["model"])
    for part in features.parts:
        rows = features.read_part(part, ["image_sha256", *columns], [("model", "=", model)])
        names = np.array(rows["image_sha256"].to_pylist(), "S64")
        place = np.minimum(np.searchsorted(images, names), len(images) - 1)
        wanted = np.flatnonzero(images[place] == names)
        if not len(wanted):
            continue
        seen[place[wanted]] = True
        sharing = [products[firsts[image] : firsts[image + 1]] for image in place[wanted]]
        row, own = np.repeat(np.arange(len(wanted)), [len(each) for each in sharing]), np.concatenate(sharing)
        rows = rows.take(wanted)
        for at, values in enumerate(make(own, [to_matrix(rows[column])[row] for column in columns])):
            if at == len(made):
                made.append(np.empty((len(hashes), values.shape[1]), values.dtype))
            made[at][own] = values
    if not seen.all():
        raise UserError(
            f"{int((~seen).sum())} of {len(seen)} images have no features of model {model}, such as "
            f"{images[np.argmin(seen)].decode()}",
            where=f"{run.lake.uri}/features",
            remedy=f"run `lookalike step embed --run {run.name}`",
        )
    return made


@dataclass(frozen=True)
class Champion:
    """The embedder in use and the tuned weights of its backbone, SHA-256 each; and that backbone's fingerprint."""

    embedder: str
    model: str
    tuned: str


def champion(lake: Lake, base: str) -> Champion:
    """The newest promoted embedder for the backbone with fingerprint `base`; before there is one, the untrained.

    One that an earlier release trained and this one cannot apply counts as none, which the log says.

    Raises:
        UserError: the file of the embedder is not what was stored.
    """
    table = lake.table("embedders")
    rows = (
        table.read(["number", "sha256", "base", "model", "tuned", "promoted"]).to_pylist() if table.version >= 0 else []
    )
    promoted = [row for row in rows if row["promoted"] and row["base"] == base]
    newest = max(promoted, key=lambda row: row["number"], default=None)
    untrained = Champion(embedding.UNTRAINED.fingerprint, base, "")
    if newest is None:
        return untrained
    try:
        _stored_embedder(lake, newest["sha256"])
    except embedding.LayoutError as error:
        structlog.get_logger().warning(
            "the champion is passed over until train_embedding trains another", why=str(error)
        )
        return untrained
    return Champion(newest["sha256"], newest["model"], newest["tuned"])


def read_embedder(run: Run, sha256: str | None = None) -> embedding.Embedder:
    """The embedder with this SHA-256; without one, the run's: the champion when its images were embedded.

    Raises:
        UserError: it is of an earlier release, or its file is not what was stored.
    """
    wanted = sha256 or str(run.result("embed").figures["embedder"])
    if wanted == embedding.UNTRAINED.fingerprint:
        return embedding.UNTRAINED
    try:
        return _stored_embedder(run.lake, wanted)
    except embedding.LayoutError as error:
        raise UserError(
            str(error),
            where=f"run {run.name}",
            remedy=f"run `lookalike step embed --run {run.name}` and the steps after it, or refresh as another run",
        ) from None


def _stored_embedder(lake: Lake, sha256: str) -> embedding.Embedder:
    file = f"embedders/{sha256}.npz"
    try:
        return embedding.from_bytes(lake.read_bytes(file), sha256)
    except ValueError as error:
        raise UserError(
            str(error),
            where=lake.path(file),
            remedy="restore the file from a backup, or delete its row of the table `embedders` and train again",
        ) from None


def read_all_features(run: Run, model: str = "") -> Features:
    """All of them, as `read_features` reads each."""
    return Features(*gather(run, Features._fields, lambda _, values: values, model))


def read_embeddings(
    run: Run,
    embedder: embedding.Embedder | None = None,
    model: str = "",
    *,
    learnt: bool = False,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """What similarity is measured on: an embedder's output for every product, in order, float32 (n, e), fixed point.

    Args:
        run: the run; its steps catalog and embed are done.
        embedder: None: the run's.
        model: fingerprint of what its features are of; empty: the run's.
        learnt: whether attributes count for the training side alone, as whatever measures models must have it, or
            wherever the catalogue knows them.
        rows: int (n,), indices of the products asked for; None: all.

    Raises:
        UserError: an image of a product has no features.
    """
    embedder = embedder or read_embedder(run)
    if not embedder.arrays:  # untrained: the other features need not be read
        return gather(run, ["average"], lambda _, values: [to_embedding(values[0])], model, rows)[0]
    known = {name: column if rows is None else column[rows] for name, column in read_known(run, learnt).items()}

    def apply(products: np.ndarray, values: list[np.ndarray]) -> list[np.ndarray]:
        return [embedder.apply(Features(*values), {name: column[products].tolist() for name, column in known.items()})]

    return gather(run, Features._fields, apply, model, rows)[0]


def read_known(run: Run, learnt: bool) -> dict[str, np.ndarray]:
    """Attribute of a block → its value for every product, in order, object (n,); None where there is none.

    With `learnt` also where its image may not be learnt from.
    """
    names = [name for name in embedding.BLOCKS if name in ATTRIBUTES]
    rows = run.table("products").read(["image_sha256", *names])
    known = {name: np.array(rows[name].to_pylist(), object) for name in names}
    if learnt:
        hidden = split.sides_of(rows["image_sha256"].to_pylist()) != split.TRAIN
        for values in known.values():
            values[hidden] = None
    return known


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A list column whose lists all have one length, as a float32 (n, d) array."""
    flat = column.combine_chunks()
    return flat.flatten().to_numpy().reshape(len(flat), -1)


def to_lists(matrix: np.ndarray) -> pa.ListArray:
    """The rows of a (n, d) array as a list column."""
    offsets = pa.array(np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()))


def fingerprint(*parts: object) -> str:
    """SHA-256 (hex) over what decides a step's output: fingerprints of its inputs, settings, and its code version."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def open_run(name: str, **overrides: object) -> Run:
    """The run called `name`, or the newest embedded one for `latest`, with settings from the environment.

    Args:
        name: logical date of the run, or `latest`.
        overrides: settings that win over the environment.

    Raises:
        UserError: a name that cannot be part of a path, a setting that cannot be used, or no run to be the latest.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(
            f"{name!r} cannot name a run", where="--run", remedy="use the logical date, for example 2026-01-31"
        )
    settings = read_settings(**overrides)
    lake = Lake(settings.lake)
    return Run(_latest(lake) if name == LATEST else name, settings, lake)


def _latest(lake: Lake) -> str:
    embedded = [name for name in lake.folders("runs") if lake.exists(f"runs/{name}/embed.json")]
    if not embedded:
        raise UserError("no run is embedded yet", where=f"{lake.uri}/runs", remedy="refresh a catalogue: make refresh")
    return embedded[-1]


def execute(step: str, run: Run) -> StepResult:
    """Run one step and store its result."""
    started = time.perf_counter()
    function = getattr(importlib.import_module(f"jobs.{step}"), step)
    result: StepResult = replace(function(run), seconds=round(time.perf_counter() - started, 3))
    run.lake.write_bytes(f"runs/{run.name}/{step}.json", json.dumps(asdict(result)).encode())
    return result


def main(step: str, arguments: Sequence[str] | None = None) -> int:
    """Command line of a step: `--run NAME [--dataset URI]`; returns the exit code (0, 64 user, 75 transient, 1 bug)."""
    parser = argparse.ArgumentParser(prog=f"jobs/{step}.py")
    parser.add_argument("--run", required=True, help="name of the run: its logical date, such as 2026-01-31")
    parser.add_argument("--dataset", help="source of the catalogue; default: LOOKALIKE_DATASET")
    given = parser.parse_args(arguments)
    log = structlog.get_logger()
    try:
        run = open_run(given.run, **({"dataset": given.dataset} if given.dataset else {}))
        telemetry.start(run.settings.logs, run.name, step)
        log.info("started")
        result = execute(step, run)
    except (UserError, TransientError) as error:
        log.error("failed", kind=type(error).__name__, message=str(error))
        print(f"\n{step} failed: {error}", file=sys.stderr)
        return error.exit_code
    except Exception:
        log.exception("failed", kind="bug", message="unexpected error; the traceback is below")
        raise
    log.info("finished", **asdict(result))
    return 0
