"""train_embedding: features + products → a new embedder, champion if it beats the one in use.

Reads the run's products and features; trains a challenger on the training side of the images, judges it and the
champion on the validation side, and writes the challenger as `embedders/<sha256>.npz` with a row that says how both
did. The newest promoted row of the run's model is the champion, which the next refresh uses. The same products and
model are not trained on again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from infra.errors import UserError
from infra.lake import Table
from infra.telemetry import Progress
from jobs import extraction, step, training
from jobs.champion import EMBEDDERS, Champion, find_champion, read_embedder
from jobs.features import read_all_features, read_embeddings
from jobs.run import Run, StepResult, content_hash
from ml import backbones, cube, embedding, metrics, split
from ml.embedding import Embedder
from ml.features import keep_freed_memory
from ml.gates import promotes

if TYPE_CHECKING:
    from ml.finetune import Checkpoints

CODE_VERSION = 7
SEED = 0
ATTRIBUTES = tuple(embedding.LOSSES)


@dataclass(frozen=True)
class Challenger:
    """A trained embedder, the fingerprint of the backbone that it takes features of, what tuned that, and histories."""

    embedder: Embedder
    model: str
    tuned: str
    history: dict[str, dict[str, list[float]]]


def train_embedding(run: Run) -> StepResult:
    """Train a challenger and promote it if it is better than the champion."""
    products, target, settings = run.table("products"), run.lake.table("embedders"), run.settings
    embedded = run.result("embed").figures
    champion = find_champion(run.lake, str(embedded["base"]))
    how = [settings.embedding_convolutions, settings.embedding_epochs, embedded["base"], champion.tuned]
    mark = content_hash(
        CODE_VERSION, products.fingerprint, how if settings.embedding == "finetune" else embedded["model"]
    )
    if target.version >= 0 and target.fingerprint == mark:
        return StepResult(1, skipped=True, tables={"embedders": target.version}, figures=target.figures)
    rows = products.read(["image_sha256", *ATTRIBUTES])
    sides = split.sides_of(rows["image_sha256"].to_pylist())
    if not {split.TRAIN, split.VALIDATION} <= set(sides.tolist()):
        raise UserError(
            f"{len(rows)} products are too few to train an embedding on: some must be left to judge it with",
            where=f"run {run.name}",
            remedy="train on a larger catalogue; until then similarity is that of the untrained features",
        )
    if settings.embedding == "finetune":
        with training.checkpoints(settings, f"train_embedding-{mark}") as checkpoints:
            challenger = tune(run, rows, sides, champion.tuned, checkpoints)
            return _write(run, target, mark, challenger, compare(run, rows, sides, champion, challenger))
    embedder, history = fit(run, rows, sides, str(embedded["model"]))
    challenger = Challenger(embedder, str(embedded["model"]), str(embedded["tuned"]), {"head": history})
    return _write(run, target, mark, challenger, compare(run, rows, sides, champion, challenger))


def fit(run: Run, rows: pa.Table, sides: np.ndarray, model: str) -> tuple[Embedder, dict[str, list[float]]]:
    """An embedder on the features of a model, and its history."""
    attributes = {name: rows[name].to_pylist() for name in ATTRIBUTES}
    features = read_all_features(run, model)
    return embedding.fit(features, attributes, sides, SEED, Progress("epochs", embedding.EPOCHS).add)


def tune(run: Run, rows: pa.Table, sides: np.ndarray, tuned_before: str, checkpoints: Checkpoints) -> Challenger:
    """Tune the backbone of the settings, embed all images with it, and train an embedder on those features.

    It goes on from the champion's weights, if those were tuned: once a challenger is not promoted, the next one would
    begin where it did, and the step has nothing left to do until the products change.
    """
    keep_freed_memory()
    from ml import tuning
    from ml.finetune import Options

    model = replace(extraction.choose_model(run.settings), tuned=tuned_before)
    extraction.extract(run, model)
    head, before = fit(run, rows, sides, model.fingerprint)
    codes = {name: embedding.encode(rows[name].to_pylist(), sides == split.TRAIN) for name in ATTRIBUTES}
    sizes = {name: len(classes) for name, (classes, _) in codes.items() if classes}
    samples = training.samples(
        run,
        rows["image_sha256"],
        (model.height, model.width),
        lambda chosen: {name: embedding.one_hot(codes[name][1][chosen], size) for name, size in sizes.items()},
    )
    options = Options(run.settings.embedding_convolutions, run.settings.embedding_epochs, SEED)
    backbone = extraction.build(run.lake, model)
    progress = Progress("epochs", options.epochs)
    history = tuning.fit(backbone, head, samples, sizes, sides, options, checkpoints, progress.reach)
    tuned = replace(model, tuned=extraction.write_tuned(run.lake, backbones.to_bytes(backbone)))
    extraction.extract(run, tuned)
    embedder, after = fit(run, rows, sides, tuned.fingerprint)
    histories = {"head before tuning": before, "tuning": history, "head": after}
    return Challenger(embedder, tuned.fingerprint, tuned.tuned, histories)


def compare(
    run: Run, rows: pa.Table, sides: np.ndarray, champion: Champion, challenger: Challenger
) -> dict[str, dict[str, float]]:
    """How the champion and the challenger do on the validation side, as `judge` says it."""
    asked = sides == split.VALIDATION
    return {
        who: judge(read_embeddings(run, embedder, model, learnt=True), rows, asked)
        for who, embedder, model in (
            ("champion", read_embedder(run, champion.embedder), champion.model),
            ("challenger", challenger.embedder, challenger.model),
        )
    }


def _write(run: Run, target: Table, mark: str, challenger: Challenger, judged: dict) -> StepResult:
    data = challenger.embedder.to_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"embedders/{sha256}.npz"
    run.lake.write_bytes(file, data)
    promoted = promotes(judged["challenger"], judged["champion"])
    row = {
        "number": target.version + 1,
        "sha256": sha256,
        "file": file,
        "base": run.result("embed").figures["base"],
        "tuned": challenger.tuned,
        "model": challenger.model,
        "run": run.name,
        "judged": json.dumps(judged),
        "history": json.dumps(challenger.history),
        "promoted": promoted,
    }
    part = run.lake.write_part("embedders", pa.Table.from_pylist([row], schema=EMBEDDERS), salt=mark)
    figures: dict[str, object] = {
        # JSON knows no NaN, which a share is where no articleType has enough products to judge by.
        f"{who}_{name}": None if np.isnan(value) else round(value, 2)
        for who, found in judged.items()
        for name, value in found.items()
    }
    figures |= {"promoted": promoted, "embedder": sha256, "tuned": challenger.tuned}
    table = target.commit([part], EMBEDDERS, run=run.name, fingerprint=mark, mode="append", figures=figures)
    return StepResult(1, files=2, tables={"embedders": table.version}, figures=figures)


def judge(embeddings: np.ndarray, rows: pa.Table, asked: np.ndarray) -> dict[str, float]:
    """Nine percentages and the colour share (0–100) of the lists of the products in `asked`, bool (n,), over all n."""
    codes = {name: embedding.encode(rows[name].to_pylist())[1] for name in ("articleType", "gender", "baseColour")}
    neighbours = np.full((len(embeddings), metrics.K), metrics.MISSING, np.int64)
    neighbours[asked] = cube.neighbours(embeddings, np.flatnonzero(asked))
    found = metrics.nine_percentages(neighbours, codes["articleType"], codes["gender"], asked=asked)
    return {**found, "colour_share": metrics.share_of_hits(neighbours, codes["baseColour"], asked)}


if __name__ == "__main__":
    raise SystemExit(step.main("train_embedding"))
