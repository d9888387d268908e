"""similar: features + products → embeddings, cells and shortlists (Spark over ranges of query products).

Reads the run's products and features; writes the embeddings (fixed point, so similarity is exact), the precomputed
cells of the filter cube, and every product's shortlist, from which the answer under any filter is read. The three
tables are vouched for together by the step's result, and what the same inputs gave before is not computed again.
Another night that commits one of them meanwhile makes this attempt's commit refused.
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
from jobs.shortlists import PARQUET, SHORTLISTS, to_table
from ml import best_pair, cube, cube_gpu, split
from ml.cells import DEEP, DEPTH, LARGE, ROOM, Cells, find_cells

TASK_QUERIES = 2048
"""Most query products of a task."""
PANELS_KEPT = 4
"""Panels that a worker keeps from task to task: 0.5 GB at most. A larger catalogue's are read again by every task."""

EMBEDDINGS = pa.schema(
    [("product_id", pa.string()), ("embedding", pa.list_(pa.float32())), ("unlabelled", pa.list_(pa.float32()))]
)
"""`unlabelled` is the embedding without what the catalogue knows, by which an image is measured that may not be learnt
from; null for all others, and where the embedding is not trained."""
OTHERS = pa.field("others", pa.list_(pa.float32()))
"""Embeddings of the product's images beside the main one, one after the other, where the best pair is compared."""
CELLS = pa.schema([("cell", pa.int32()), ("members", pa.int32()), ("depth", pa.int32()), ("filters", pa.string())])
SCHEMAS = {"embeddings": EMBEDDINGS, "cells": CELLS, "shortlists": SHORTLISTS}


def similar(run: Run) -> StepResult:
    """Compute the shortlist of every product of the run."""
    settings = run.settings
    tables = {name: run.lake.table(name) for name in SCHEMAS}
    fingerprint = content_hash(
        {name: str(schema) for name, schema in SCHEMAS.items()},
        run.content("products"),
        run.content("features"),
        run.layout.fields,
        settings.cell_min,
        (DEPTH, DEEP, LARGE, *ROOM),
        *(["best_pair"] if _by_best_pair(run) else []),
    )
    if done := run.done("similar", fingerprint, tables):
        return done
    fields = run.layout.fields
    rows = run.attributes(["product_id", *fields])
    ids = rows["product_id"].combine_chunks()
    cells = find_cells({field: rows[field].to_pylist() for field in fields}, len(rows), settings.cell_min)
    embeddings = read_embeddings(run)
    images = np.ones(len(ids), np.int64)
    if _by_best_pair(run):
        images = run.attributes(["images"])["images"].combine_chunks().value_lengths().to_numpy()
    panels = _write_embeddings(run, ids, embeddings, images)
    schema = EMBEDDINGS.append(OTHERS) if _by_best_pair(run) else EMBEDDINGS
    tables["embeddings"] = tables["embeddings"].commit(panels, schema, run=run.name)
    part = run.lake.write_part("cells", _cells_table(cells))
    tables["cells"] = tables["cells"].commit([part], CELLS, run=run.name)
    del embeddings
    names, starts = [part.path for part in panels], np.cumsum([0, *(part.rows for part in panels[:-1])]).tolist()
    shared = Panels(run.lake.uri, tables["embeddings"].version, names, starts, ids, cells, images)
    written = _shortlists(shared, run.settings.spark)
    parts = [part for part, _ in written]
    tables["shortlists"] = tables["shortlists"].commit(parts, SHORTLISTS, run=run.name)
    result = StepResult(
        rows=len(ids),
        files=len(parts),
        tables={name: table.version for name, table in tables.items()},
        figures={
            "products": len(ids),
            "cells": len(cells),
            "shortlist_items": round(sum(figures["items"] for _, figures in written) / len(ids), 1),
            "embedder": run.result("embed").figures["embedder"],
            "fields": list(fields),
        },
    )
    return run.remember("similar", fingerprint, result)


def _by_best_pair(run: Run) -> bool:
    return run.settings.similarity == "best_pair" and bool(run.layout.image)


def _write_embeddings(run: Run, ids: pa.StringArray, embeddings: np.ndarray, images: np.ndarray) -> list[Part]:
    """A part a panel of the cube, in the order of products; `images` int64 (n,) counts those compared of each."""
    size, parts = cube.panel_size(embeddings.shape[1]), []
    others = _other_embeddings(run, images) if _by_best_pair(run) else None
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
        if others is not None:
            part = part.append_column(OTHERS, others[rows.start : rows.stop])
        parts.append(run.lake.write_part("embeddings", part))
    return parts


def _other_embeddings(run: Run, images: np.ndarray) -> pa.ListArray:
    """Of each product the embeddings of its images beside the main one, one after the other."""
    owners, shas = np.repeat(np.arange(len(images)), images), run.attributes(["images"])["images"].combine_chunks()
    is_main = np.diff(owners, prepend=-1) != 0
    named = np.array(shas.flatten().to_pylist(), "S64")[~is_main]
    values = read_embeddings(run, rows=owners[~is_main], images=named) if len(named) else np.zeros((0, 1), np.float32)
    offsets = np.append(0, np.cumsum(images - 1)) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values.ravel()))


def _cells_table(cells: Cells) -> pa.Table:
    filters = [json.dumps(combinations) for combinations in cells.filters]
    numbers = np.arange(len(cells), dtype=np.int32)
    return pa.table([numbers, cells.sizes.astype(np.int32), cells.depths, filters], schema=CELLS)


@dataclass(frozen=True)
class Panels:
    """What workers share: where the panels' embeddings lie, the ids of all products, in order, and their cells.

    `images` int64 (n,) counts the images of each that are compared.
    """

    uri: str
    version: int
    parts: list[str]
    starts: list[int]
    ids: pa.StringArray
    cells: Cells
    images: np.ndarray
    computation: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What a worker tells this one by from another that it worked for before: parts may be the same, cells others."""

    def tasks(self) -> list[str]:
        """Ranges of query products `panel:start:stop`, each within a panel."""
        ends = [*self.starts[1:], len(self.ids)]
        return [
            f"{panel}:{start}:{min(start + TASK_QUERIES, end)}"
            for panel, (first, end) in enumerate(zip(self.starts, ends, strict=True))
            for start in range(first, end, TASK_QUERIES)
        ]


def _shortlists(panels: Panels, master: str) -> list[engine.Written]:
    """Compute all shortlists on Spark: a task, and a part with its figure `items`, for each range of query products."""
    spark, tasks = engine.context("similar", master), panels.tasks()
    try:
        shared = spark.broadcast(panels)

        def work(task: str) -> Iterator[engine.Written]:
            panel, start, stop = map(int, task.split(":"))
            yield shortlists_of(shared.value, panel, start, stop)

        progress = Progress("products", len(panels.ids))
        done = np.cumsum([0, *(int(stop) - int(start) for _, start, stop in (task.split(":") for task in tasks))])
        parts = list[engine.Written]()
        for written in engine.map_to_parts(spark, tasks, work):
            parts += written
            progress.reach(int(done[len(parts)]))
    finally:
        spark.stop()
    return parts


def shortlists_of(panels: Panels, panel: int, start: int, stop: int) -> engine.Written:
    """Worker: the shortlists of query products `start` to `stop` of a panel, written as one part."""
    if panels.images.max(initial=1) > 1:
        starts, items, scores = _by_layers(panels, panel, np.arange(start, stop))
        rows = to_table(panels.ids, start, starts, items, scores)
        return Lake(panels.uri).write_part("shortlists", rows, **PARQUET), {"items": len(items)}
    home, indices = _panel(panels, panel), np.arange(start, stop)
    queries = home.embeddings[np.argsort(home.ranks)[indices - home.start]]
    if engine.take_gpu() is None:
        starts, items, scores = cube.shortlists(queries, indices, _all_panels(panels), panels.cells)
    else:
        whole = sorted(_all_panels(panels), key=lambda panel: panel.start)
        embeddings = np.concatenate([panel.embeddings[np.argsort(panel.ranks)] for panel in whole])
        starts, items, scores = cube_gpu.shortlists(queries, indices, embeddings, panels.cells)
    rows = to_table(panels.ids, start, starts, items, scores)
    return Lake(panels.uri).write_part("shortlists", rows, **PARQUET), {"items": len(items)}


def _by_layers(panels: Panels, panel: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Worker: the shortlists of products of a panel, by the best pair of images."""
    found = []
    for asked in range(int(panels.images[own].max())):
        queries = np.flatnonzero(panels.images[own] > asked)
        embeddings = _layer(panels, panel, asked)[own[queries] - panels.starts[panel]]
        for layer in range(int(panels.images.max())):
            members = best_pair.layer_members(panels.images, layer)
            cells, place = best_pair.layer_cells(panels.cells, members), np.full(len(panels.images), -1)
            place[members] = np.arange(len(members))
            starts, items, scores = cube.shortlists(
                embeddings, place[own[queries]], _layer_panels(panels, layer, members, cells), cells
            )
            found.append((queries, (starts, members[items], scores)))
    return best_pair.merge(found, own, panels.cells)


def _layer_panels(panels: Panels, layer: int, members: np.ndarray, cells: Cells) -> Iterator[cube.Panel]:
    ends = [*panels.starts[1:], len(panels.ids)]
    for at, (start, end) in enumerate(zip(panels.starts, ends, strict=True)):
        here = slice(*np.searchsorted(members, [start, end]))
        if here.start < here.stop:
            yield cube.make_panel(_layer(panels, at, layer)[members[here] - start], here.start, cells)


def _layer(panels: Panels, at: int, layer: int) -> np.ndarray:
    """Embeddings of a layer's images of a panel's products, float32 (p, d); what has none there is zero."""
    rows = Lake(panels.uri).table("embeddings", panels.version).read_part(panels.parts[at], ["embedding", "others"])
    main = to_matrix(rows["embedding"])
    if not layer:
        return main
    others, width = rows["others"].combine_chunks(), main.shape[1]
    ends = np.append(0, np.cumsum(others.value_lengths().to_numpy() // width))
    matrix, embeddings = others.flatten().to_numpy().reshape(-1, width), np.zeros_like(main)
    there = np.flatnonzero(np.diff(ends) >= layer)
    embeddings[there] = matrix[ends[there] + layer - 1]
    return embeddings


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


if __name__ == "__main__":
    raise SystemExit(step.main("similar"))
