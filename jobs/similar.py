"""similar: features + products → embeddings, cells and similar-item lists (Spark over ranges of query products).

Reads the run's products and features; writes the embeddings (fixed point, so similarity is exact), the precomputed
cells of the filter cube, and for every product and cell the ten most similar members. The three tables are
vouched for together by the step's result, and what the same inputs gave before is not computed again. Another night
that commits one of them meanwhile makes this attempt's commit refused.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from infra import spark as engine
from infra.lake import Lake, Part
from infra.telemetry import Progress
from jobs import step
from jobs.champion import read_embedder
from jobs.features import read_embeddings, to_lists, to_matrix
from jobs.run import Run, StepResult, content_hash
from ml import cube, cube_gpu, split
from ml.cells import Cells, find_cells

TASK_QUERIES, TASK_LISTS = 2048, 1 << 20
"""Most query products and most lists of a task: its lists take 100 MB, whatever the number of cells."""
PANELS_KEPT = 4
"""Panels that a worker keeps from task to task: 0.5 GB at most. A larger catalogue's are read again by every task."""

EMBEDDINGS = pa.schema(
    [("product_id", pa.int64()), ("embedding", pa.list_(pa.float32())), ("unlabelled", pa.list_(pa.float32()))]
)
"""`unlabelled` is the embedding without what the catalogue knows, by which an image is measured that may not be learnt
from; null for all others, and where the embedding is not trained."""
CELLS = pa.schema([("cell", pa.int32()), ("members", pa.int32()), ("filters", pa.string())])
LISTS = pa.schema(
    [
        ("cell", pa.int32()),
        ("product_id", pa.int64()),
        ("items", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float32())),
    ]
)
SCHEMAS = {"embeddings": EMBEDDINGS, "cells": CELLS, "lists": LISTS}


def similar(run: Run) -> StepResult:
    """Compute the ten most similar members of every precomputed cell for every product of the run."""
    settings = run.settings
    tables = {name: run.lake.table(name) for name in SCHEMAS}
    fingerprint = content_hash(
        {name: str(schema) for name, schema in SCHEMAS.items()},
        run.content("products"),
        run.content("features"),
        settings.fields,
        settings.cell_min,
    )
    if done := run.done("similar", fingerprint, tables):
        return done
    rows = run.products(["product_id", *settings.fields])
    ids = rows["product_id"].to_numpy()
    cells = find_cells({field: rows[field].to_pylist() for field in settings.fields}, len(rows), settings.cell_min)
    embeddings = read_embeddings(run)
    panels = _write_embeddings(run, ids, embeddings)
    tables["embeddings"] = tables["embeddings"].commit(panels, EMBEDDINGS, run=run.name)
    part = run.lake.write_part("cells", _cells_table(cells))
    tables["cells"] = tables["cells"].commit([part], CELLS, run=run.name)
    del embeddings
    names, starts = [part.path for part in panels], np.cumsum([0, *(part.rows for part in panels[:-1])]).tolist()
    shared = Panels(run.lake.uri, tables["embeddings"].version, names, starts, ids, cells)
    parts = _lists(shared, run.settings.spark)
    tables["lists"] = tables["lists"].commit(parts, LISTS, run=run.name)
    lists = sum(part.rows for part in parts)
    result = StepResult(
        rows=lists,
        files=len(parts),
        tables={name: table.version for name, table in tables.items()},
        figures={
            "products": len(ids),
            "cells": len(cells),
            "lists": lists,
            "embedder": run.result("embed").figures["embedder"],
        },
    )
    return run.remember("similar", fingerprint, result)


def _write_embeddings(run: Run, ids: np.ndarray, embeddings: np.ndarray) -> list[Part]:
    """A part a panel of the cube, in the order of products."""
    size, parts = cube.panel_size(embeddings.shape[1]), []
    hidden = np.zeros(len(ids), bool)
    if read_embedder(run).arrays:
        hidden = split.sides_of(run.products(["picture"])["picture"]) != split.TRAIN
    shown = embeddings[:0]
    if hidden.any():
        shown = read_embeddings(run, learnt=True, rows=np.flatnonzero(hidden))
    ends = np.append(0, np.cumsum(hidden))
    for at in range(0, len(ids), size):
        rows = slice(at, min(at + size, len(ids)))
        offsets = pa.array(((ends[rows.start : rows.stop + 1] - ends[at]) * embeddings.shape[1]).astype(np.int32))
        flat = pa.array(shown[ends[rows.start] : ends[rows.stop]].ravel())
        unlabelled = pa.ListArray.from_arrays(offsets, flat, mask=pa.array(~hidden[rows]))
        part = pa.table([ids[rows], to_lists(embeddings[rows]), unlabelled], schema=EMBEDDINGS)
        parts.append(run.lake.write_part("embeddings", part))
    return parts


def _cells_table(cells: Cells) -> pa.Table:
    filters = [json.dumps(combinations) for combinations in cells.filters]
    return pa.table([np.arange(len(cells), dtype=np.int32), cells.sizes.astype(np.int32), filters], schema=CELLS)


@dataclass(frozen=True)
class Panels:
    """What workers share: where the panels' embeddings lie, the ids of all products (ascending) and their cells."""

    uri: str
    version: int
    parts: list[str]
    starts: list[int]
    ids: np.ndarray
    cells: Cells
    computation: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What a worker tells this one by from another that it worked for before: parts may be the same, cells others."""

    def tasks(self) -> list[str]:
        """Ranges of query products `panel:start:stop`, each within a panel."""
        size = max(1, min(TASK_QUERIES, TASK_LISTS // len(self.cells)))
        ends = [*self.starts[1:], len(self.ids)]
        return [
            f"{panel}:{start}:{min(start + size, end)}"
            for panel, (first, end) in enumerate(zip(self.starts, ends, strict=True))
            for start in range(first, end, size)
        ]


def _lists(panels: Panels, master: str) -> list[Part]:
    """Compute all lists on Spark: a task for each range of query products."""
    spark, tasks = engine.session("similar", master), panels.tasks()
    try:
        shared = spark.sparkContext.broadcast(panels)

        def work(task: str) -> Iterator[tuple[Part, dict[str, float]]]:
            panel, start, stop = map(int, task.split(":"))
            yield lists_of(shared.value, panel, start, stop), {}

        progress = Progress("products", len(panels.ids))
        done = np.cumsum([0, *(int(stop) - int(start) for _, start, stop in (task.split(":") for task in tasks))])
        parts = list[Part]()
        for written in engine.map_to_parts(spark, tasks, work):
            parts += [part for part, _ in written]
            progress.reach(int(done[len(parts)]))
    finally:
        spark.stop()
    return parts


def lists_of(panels: Panels, panel: int, start: int, stop: int) -> Part:
    """Worker: the lists of query products `start` to `stop` of a panel, written as one part."""
    home, indices = _panel(panels, panel), np.arange(start, stop)
    queries = home.embeddings[np.argsort(home.ranks)[indices - home.start]]
    if engine.take_gpu() is None:
        best, scores = cube.lists(queries, indices, _all_panels(panels))
    else:
        whole = sorted(_all_panels(panels), key=lambda panel: panel.start)
        embeddings = np.concatenate([panel.embeddings[np.argsort(panel.ranks)] for panel in whole])
        best, scores = cube_gpu.lists(queries, indices, embeddings, panels.cells)
    return Lake(panels.uri).write_part("lists", lists_table(panels.ids, start, best, scores))


_kept: dict[tuple[str, str], cube.Panel] = {}
"""Panels that this process has made, by computation and part; its next task needs the same ones."""


def _all_panels(panels: Panels) -> Iterator[cube.Panel]:
    at_hand = {part for computation, part in _kept if computation == panels.computation}
    for at in sorted(range(len(panels.parts)), key=lambda at: panels.parts[at] not in at_hand):
        yield _panel(panels, at)


def _panel(panels: Panels, at: int) -> cube.Panel:
    part = panels.parts[at]
    key = panels.computation, part
    if key not in _kept:
        rows = Lake(panels.uri).table("embeddings", panels.version).read_part(part, ["embedding"])
        if len(_kept) == PANELS_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = cube.make_panel(to_matrix(rows["embedding"]), panels.starts[at], panels.cells)
    return _kept[key]


def lists_table(ids: np.ndarray, start: int, best: np.ndarray, scores: np.ndarray) -> pa.Table:
    """Rows of the lists table, by cell then product, from (q, c, k) indices (-1: none) and scores."""
    queries, cells, _ = best.shape
    best, scores = best.transpose(1, 0, 2), scores.transpose(1, 0, 2)
    listed = best >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(listed.sum(axis=2).ravel())]).astype(np.int32))
    return pa.table(
        [
            np.repeat(np.arange(cells, dtype=np.int32), queries),
            np.tile(ids[start : start + queries], cells),
            pa.ListArray.from_arrays(offsets, pa.array(ids[best[listed]])),
            pa.ListArray.from_arrays(offsets, pa.array(scores[listed])),
        ],
        schema=LISTS,
    )


if __name__ == "__main__":
    raise SystemExit(step.main("similar"))
