"""similar: features + products → embeddings, cells and similar-item lists (Spark over blocks of query products).

Reads the run's products and features; writes the embeddings (fixed point, so similarity is exact), the precomputed
cells, and for every product and cell the ten most similar members. The three tables are vouched for together by the
step's result, and what the same inputs gave before is not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa

from infra import spark as engine
from infra.lake import Lake, Part
from infra.telemetry import Progress
from jobs import step
from jobs.step import Run, StepResult
from ml.cells import Cells, single_field_cells
from ml.similarity import to_embedding, top_k_of_cells

CODE_VERSION = 1
K = 10
TASK_QUERIES = 1024
BLOCK_QUERIES = 128
"""Rows of the score block that is alive at once in a worker."""

EMBEDDINGS = pa.schema([("product_id", pa.int64()), ("embedding", pa.list_(pa.float32()))])
CELLS = pa.schema([("cell", pa.int32()), ("members", pa.int32()), ("filters", pa.string())])
LISTS = pa.schema(
    [
        ("cell", pa.int32()),
        ("product_id", pa.int64()),
        ("items", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float32())),
    ]
)
EMBEDDINGS_PART = 8192


def similar(run: Run) -> StepResult:
    """Compute the ten most similar members of every precomputed cell for every product of the run."""
    settings, products = run.settings, run.table("products")
    mark = step.fingerprint(
        CODE_VERSION, products.fingerprint, run.result("embed").figures["model"], settings.fields, settings.cell_min
    )
    tables = {name: run.lake.table(name) for name in ("embeddings", "cells", "lists")}
    if all(table.fingerprint == mark for table in tables.values()):
        return _result(tables, skipped=True)
    rows = products.read(["product_id", *settings.fields])
    ids = rows["product_id"].to_numpy()
    cells = single_field_cells(
        {field: rows[field].to_pylist() for field in settings.fields}, len(rows), settings.cell_min
    )
    embeddings = to_embedding(step.read_features(run, "average"))
    parts = _write_embeddings(run.lake, ids, embeddings, mark)
    tables["embeddings"] = tables["embeddings"].commit(parts, EMBEDDINGS, run=run.name, fingerprint=mark)
    part = run.lake.write_part("cells", _cells_table(cells), salt=mark)
    tables["cells"] = tables["cells"].commit([part], CELLS, run=run.name, fingerprint=mark)
    del embeddings
    parts = _lists(run.lake, tables["embeddings"].version, cells, len(ids), mark)
    tables["lists"] = tables["lists"].commit(
        parts,
        LISTS,
        run=run.name,
        fingerprint=mark,
        figures={"products": len(ids), "cells": len(cells), "lists": sum(part.rows for part in parts)},
    )
    return _result(tables, files=len(parts))


def _result(tables, files: int = 0, skipped: bool = False) -> StepResult:  # type: ignore[no-untyped-def]
    figures = tables["lists"].figures
    versions = {name: table.version for name, table in tables.items()}
    return StepResult(rows=figures["lists"], files=files, skipped=skipped, tables=versions, figures=figures)


def _write_embeddings(lake: Lake, ids: np.ndarray, embeddings: np.ndarray, mark: str) -> list[Part]:
    return [
        lake.write_part(
            "embeddings",
            pa.table(
                [ids[at : at + EMBEDDINGS_PART], step.to_lists(embeddings[at : at + EMBEDDINGS_PART])],
                schema=EMBEDDINGS,
            ),
            salt=mark,
        )
        for at in range(0, len(ids), EMBEDDINGS_PART)
    ]


def _cells_table(cells: Cells) -> pa.Table:
    filters = [json.dumps(combinations) for combinations in cells.filters]
    return pa.table([np.arange(len(cells), dtype=np.int32), cells.sizes.astype(np.int32), filters], schema=CELLS)


def _lists(lake: Lake, version: int, cells: Cells, n: int, mark: str) -> list[Part]:
    """Compute all lists on Spark: a task for each range of query products."""
    spark = engine.session("similar")
    try:
        shared, uri = spark.sparkContext.broadcast(cells), lake.uri

        def work(block: str) -> Iterator[tuple[Part, dict[str, float]]]:
            start, stop = map(int, block.split(":"))
            yield lists_of(Lake(uri), version, shared.value, start, stop, mark), {}

        blocks = [f"{start}:{min(start + TASK_QUERIES, n)}" for start in range(0, n, TASK_QUERIES)]
        progress = Progress("products", n)
        written = engine.map_to_parts(spark, blocks, work, lambda done: progress.reach(min(n, done * TASK_QUERIES)))
    finally:
        spark.stop()
    return [part for part, _ in written]


def lists_of(lake: Lake, version: int, cells: Cells, start: int, stop: int, mark: str) -> Part:
    """Worker: the lists of query products `start` to `stop`, written as one part."""
    ids, embeddings = _embeddings(lake.uri, version)
    best: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    for at in range(start, stop, BLOCK_QUERIES):
        own = np.arange(at, min(at + BLOCK_QUERIES, stop))
        block = embeddings[own] @ embeddings.T
        for out, found in zip((best, scores), top_k_of_cells(block, own, cells.members, cells.offsets, K), strict=True):
            out.append(found)
    return lake.write_part("lists", lists_table(ids, start, np.concatenate(best), np.concatenate(scores)), salt=mark)


def lists_table(ids: np.ndarray, start: int, best: np.ndarray, scores: np.ndarray) -> pa.Table:
    """Rows of the lists table, by cell then product, from (q, c, k) indices (-1: none) and scores."""
    queries, cells, _ = best.shape
    best, scores = best.transpose(1, 0, 2), scores.transpose(1, 0, 2)
    found = best >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(found.sum(axis=2).ravel())]).astype(np.int32))
    return pa.table(
        [
            np.repeat(np.arange(cells, dtype=np.int32), queries),
            np.tile(ids[start : start + queries], cells),
            pa.ListArray.from_arrays(offsets, pa.array(ids[best[found]])),
            pa.ListArray.from_arrays(offsets, pa.array(scores[found])),
        ],
        schema=LISTS,
    )


@lru_cache(maxsize=1)
def _embeddings(uri: str, version: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids ascending and their embeddings; kept by the worker from task to task. Parts are named by content, so sort."""
    table = Lake(uri).table("embeddings", version)
    blocks = [(rows["product_id"].to_numpy(), step.to_matrix(rows["embedding"])) for rows in table.iter_parts()]
    blocks.sort(key=lambda block: block[0][0])
    return np.concatenate([ids for ids, _ in blocks]), np.concatenate([matrix for _, matrix in blocks])


if __name__ == "__main__":
    raise SystemExit(step.main("similar"))
