"""train_embedding: features + products → a new embedder, champion if it beats the one in use.

Reads the run's products and features; trains a challenger on the training side of the images, judges it and the
champion on the validation side, and writes the challenger as `embedders/<sha256>.npz` with a row that says how both
did. The newest promoted row of the run's model is the champion, which the next refresh uses. The same products and
model are not trained on again.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa

from infra.errors import UserError
from infra.telemetry import Progress
from jobs import step
from jobs.step import Run, StepResult
from ml import cube, embedding, metrics, split
from ml.cells import find_cells
from ml.embedding import Embedder
from ml.gates import promotes

CODE_VERSION = 1
SEED = 0
ATTRIBUTES = (*(name for name in embedding.BLOCKS if name != "looks"), *embedding.AUXILIARY)
QUERIES = 2048


def train_embedding(run: Run) -> StepResult:
    """Train a challenger and promote it if it is better than the champion."""
    products, target = run.table("products"), run.lake.table("embedders")
    model = str(run.result("embed").figures["model"])
    mark = step.fingerprint(CODE_VERSION, products.fingerprint, model)
    if target.version >= 0 and target.fingerprint == mark:
        return StepResult(1, skipped=True, tables={"embedders": target.version}, figures=target.figures)
    rows = products.read(["image_sha256", *ATTRIBUTES])
    sides = split.sides_of(rows["image_sha256"].to_pylist())
    labels = {name: encode(rows[name]) for name in ATTRIBUTES}
    average, maximum = (step.read_features(run, column) for column in ("average", "maximum"))
    if not {split.TRAIN, split.VALIDATION} <= set(sides.tolist()):
        raise UserError(
            f"{len(rows)} products are too few to train an embedding on: some must be left to judge it with",
            where=f"run {run.name}",
            remedy="train on a larger catalogue; until then similarity is that of the untrained features",
        )
    known = {name: codes for name, codes in labels.items() if (codes[sides == split.TRAIN] >= 0).any()}
    progress = Progress("epochs", embedding.EPOCHS)
    challenger = embedding.fit(average, maximum, known, sides, SEED, progress.add)
    champion = step.read_embedder(run, step.champion(run.lake, model))
    judged = {
        name: judge(each.apply(average, maximum), labels, sides == split.VALIDATION)
        for name, each in (("champion", champion), ("challenger", challenger))
    }
    promoted = promotes(judged["challenger"], judged["champion"])
    return _write(run, target, mark, challenger, judged, promoted)


def _write(run: Run, target, mark: str, challenger: Embedder, judged: dict, promoted: bool) -> StepResult:  # type: ignore[no-untyped-def]
    data = challenger.to_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"embedders/{sha256}.npz"
    run.lake.write_bytes(file, data)
    row = {
        "sha256": sha256,
        "file": file,
        "model": run.result("embed").figures["model"],
        "run": run.name,
        "judged": json.dumps(judged),
        "promoted": promoted,
        "number": target.version + 1,
    }
    part = run.lake.write_part("embedders", pa.Table.from_pylist([row], schema=step.EMBEDDERS), salt=mark)
    figures = {f"{who}_{name}": round(value, 2) for who, found in judged.items() for name, value in found.items()}
    figures |= {"promoted": promoted, "embedder": sha256}
    table = target.commit([part], step.EMBEDDERS, run=run.name, fingerprint=mark, mode="append", figures=figures)
    return StepResult(1, files=2, tables={"embedders": table.version}, figures=figures)


def encode(column: pa.ChunkedArray) -> np.ndarray:
    """Codes of a column's values in alphabetical order, int (n,); −1 where it is null."""
    values = column.to_pylist()
    place = {value: code for code, value in enumerate(sorted({value for value in values if value}))}
    return np.array([place.get(value, metrics.MISSING) for value in values], np.int64)


def judge(embeddings: np.ndarray, labels: dict[str, np.ndarray], asked: np.ndarray) -> dict[str, float]:
    """Nine percentages and the colour share (0–100) of the lists of the products in `asked`, bool (n,), over all n."""
    cells, size = find_cells({}, len(embeddings), 1), cube.panel_size(embeddings.shape[1])
    starts = range(0, len(embeddings), size)
    panels = [cube.make_panel(embeddings[at : at + size], at, cells) for at in starts]
    neighbours = np.full((len(embeddings), metrics.K), metrics.MISSING, np.int64)
    queries = np.flatnonzero(asked)
    for at in range(0, len(queries), QUERIES):
        own = queries[at : at + QUERIES]
        neighbours[own] = cube.lists(embeddings[own], own, panels)[0][:, 0]
    found = metrics.nine_percentages(neighbours, labels["articleType"], labels["gender"], asked=asked)
    return {**found, "colour_share": metrics.share_of_hits(neighbours, labels["baseColour"], asked)}


if __name__ == "__main__":
    raise SystemExit(step.main("train_embedding"))
