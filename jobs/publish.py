"""publish: lists + verdicts → the store, one flip.

Reads the run's verdicts (it forms none: without them, or with one that failed, it refuses and the old run serves on),
products, embeddings, cells and lists; loads them into partitions of their own, verifies the counts and makes the run
live, all in one transaction: a crash leaves nothing, a second publish of the same content loads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import perf_counter

import numpy as np
import pandas as pd

from infra import store
from infra.errors import UserError
from infra.lake import Table
from infra.settings import ATTRIBUTES
from infra.telemetry import Progress
from jobs import step
from jobs.features import to_matrix
from jobs.run import PUBLISHED, Run, StepResult, content, content_hash
from ml.gates import GATES

CODE_VERSION = 2


def publish(run: Run) -> StepResult:
    """Load the run into the store and make it live."""
    check_verdicts(run)
    tables = {name: run.table(name) for name in PUBLISHED}
    mark = content_hash(CODE_VERSION, content(run), run.settings.fields)
    with store.connect(run.settings.store, run.settings.store_folder) as connection, connection.transaction():
        store.lock(connection)
        live = store.live(connection)
        if live and live.fingerprint == mark:
            store.rename(connection, live.run_id, run.name)
            return StepResult(int(str(live.figures["lists"])), skipped=True, figures=live.figures | {"live": run.name})
        started = perf_counter()
        run_id = store.begin(connection, run.name, mark, run.settings.fields)
        rows = tables["products"].read(["product_id", *ATTRIBUTES, "derivedType", "image_sha256"])
        rows = rows.sort_by("product_id")
        ids = pd.Index(rows["product_id"].to_numpy())
        store.load_products(connection, run_id, rows, _embeddings(tables["embeddings"], ids))
        cells = tables["cells"].read().to_pylist()
        combinations = [(filters, cell["cell"]) for cell in cells for filters in json.loads(cell["filters"])]
        store.load_combinations(connection, run_id, combinations)
        lists = store.load_lists(connection, run_id, _lists(tables["lists"], ids))
        _verify(store.counts(connection, run_id), tables["lists"].figures, len(combinations), len(cells))
        figures = {"products": lists // max(1, len(cells)), "cells": len(cells), "lists": lists}
        store.attach(connection, run_id, figures)
        store.flip(connection, run_id)
        store.prune(connection, run.settings.keep_runs)
    seconds = perf_counter() - started
    speed = {"load_s": round(seconds, 3), "lists_per_s": round(lists / seconds)}
    return StepResult(lists, figures=figures | speed | {"live": run.name})


def check_verdicts(run: Run) -> None:
    """Raises UserError where a gate has no verdict, one that fails, or one on other tables."""
    if run.result("evaluate").figures["judged"] != content(run):
        raise UserError(
            f"run {run.name} is not published, the old run serves on: its tables changed after they were evaluated",
            where=f"{run.lake.uri}/verdicts",
            remedy=f"run `lookalike step evaluate --run {run.name}`, then publish again",
        )
    verdicts = {row["gate"]: row for row in run.table("verdicts").read().to_pylist()}
    missing = [gate for gate in GATES if gate not in verdicts]
    failed = [row for row in verdicts.values() if not row["passed"]]
    if missing:
        raise UserError(
            f"run {run.name} is not published, the old run serves on: no verdict of gate {', '.join(missing)}",
            where=f"{run.lake.uri}/verdicts",
            remedy="set the gate's threshold and run evaluate again",
        )
    if failed:
        shown = "; ".join(
            f"{row['gate']}: {row['value']:g}, bound {row['bound']:g} ({row['detail']})" for row in failed
        )
        raise UserError(
            f"run {run.name} is not published, the old run serves on. It did not pass {shown}",
            where=f"{run.lake.uri}/verdicts",
            remedy=" ".join(dict.fromkeys(row["remedy"] for row in failed)),
        )


def _embeddings(embeddings: Table, ids: pd.Index) -> np.ndarray:
    """The embeddings of `ids`, in their order: float16 (n, d), which holds multiples of 2⁻¹¹ exactly.

    Raises:
        RuntimeError: a product has none.
    """
    matrix, found = None, np.zeros(len(ids), bool)
    for part in embeddings.iter_parts(["product_id", "embedding"]):
        place = _positions(ids, part["product_id"].to_numpy(), "embeddings")
        values = to_matrix(part["embedding"])
        if matrix is None:
            matrix = np.empty((len(ids), values.shape[1]), np.float16)
        matrix[place], found[place] = values, True
    if matrix is None or not found.all():
        raise RuntimeError(f"product {ids[np.argmin(found)]} has no embedding; nothing was published")
    return matrix


def _positions(ids: pd.Index, wanted: np.ndarray, table: str) -> np.ndarray:
    """Positions of the `wanted` ids among `ids`, int64. By hash: a binary search costs ten times as much in 200,000.

    Raises:
        RuntimeError: one is not among them; names it and the table that holds it.
    """
    place = ids.get_indexer(wanted)
    if (place < 0).any():
        raise RuntimeError(
            f"the table {table} names product {wanted[np.argmin(place)]}, which the run's products lack; nothing was "
            "published"
        )
    return place


def _lists(lists: Table, ids: pd.Index) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    progress = Progress("lists", int(str(lists.figures["lists"])))
    for part in lists.iter_parts(["cell", "product_id", "items"]):
        items = part["items"].combine_chunks()
        yield (
            part["cell"].to_numpy(),
            _positions(ids, part["product_id"].to_numpy(), "lists"),
            items.value_lengths().to_numpy(),
            _positions(ids, items.flatten().to_numpy(), "lists"),
        )
        progress.add(len(part))


def _verify(found: dict[str, int], figures: dict[str, object], combinations: int, cells: int) -> None:
    """Every product of the lake is loaded and has a list in every cell; the key of `lists` refuses a second one."""
    products = int(str(figures["products"]))
    expected = {"products": products, "combinations": combinations, "lists": products * cells}
    if found != expected:
        raise RuntimeError(f"the store counted {found}, the lake holds {expected}; nothing was published")


if __name__ == "__main__":
    raise SystemExit(step.main("publish"))
