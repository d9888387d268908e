"""classify: features or images + products → the subCategory classifier.

Reads the run's products and features, or with `LOOKALIKE_CLASSIFIER=finetune` its images; writes the trained model as
`models/<sha256>.keras` and one row that vouches for it: hash, labels, split and metrics. Products without a subCategory
are left out and counted, and so are those beyond `MOST`; where none is left to learn from there is no row. The file is
named by its content and the row is committed last, so a broken attempt leaves nothing in use (a killed finetuning goes
on from its last epoch); the same products, model and settings are not trained on again.
"""

from __future__ import annotations

if __name__ == "__main__":  # before pyarrow starts a thread
    from infra.allocator import share_one_arena

    share_one_arena()

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.allocator import keep_freed_memory
from infra.telemetry import Progress
from jobs import extraction, step, training
from jobs.extraction import Model
from jobs.features import read_features
from jobs.run import Run, StepResult, content_hash
from ml import classifier, split
from ml.classifier import Fitted, Targets

if TYPE_CHECKING:
    from ml.finetune import Checkpoints

CODE_VERSION = 6
SEED = 0
MOST = 1 << 17
"""Products that are learnt from at most. Their features take 1.3 GB, whatever the size of the catalogue."""
FIELDS = ("gender", "masterCategory")
"""What the multi-label variant learns beside the subCategory."""
CLASSIFIER = pa.schema(
    [
        ("model_file", pa.string()),
        ("model_sha256", pa.string()),
        ("fingerprint", pa.string()),
        ("input", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("other_labels", pa.list_(pa.string())),
        ("train_ids", pa.list_(pa.string())),
        ("validation_ids", pa.list_(pa.string())),
        ("test_ids", pa.list_(pa.string())),
        ("metrics", pa.string()),
    ]
)
"""`input` is what the model takes, `features` (`ml.classifier.COLUMNS`) or `images`; `other_labels` follow `labels`."""


def classify(run: Run) -> StepResult:
    """Train the subCategory classifier on the run's labelled products and measure it on those held out."""
    target, settings = run.lake.table("classifier"), run.settings
    start = extraction.choose_model(settings, "classifier_") if settings.classifier == "finetune" else None
    fingerprint = _fingerprint(run, start)
    if done := run.done("classify", fingerprint, {"classifier": target}):
        return done
    if start is None:
        return _train(run, fingerprint, None, {})
    with training.checkpoints(settings, f"classify-{fingerprint}") as checkpoints:
        return _train(run, fingerprint, start, checkpoints)


def _train(run: Run, fingerprint: str, start: Model | None, checkpoints: Checkpoints) -> StepResult:
    """Train, measure and commit: on features, or on images from the backbone `start` on, with its `checkpoints`."""
    target, settings = run.lake.table("classifier"), run.settings
    rows = run.products(["product_id", "subCategory", "image_sha256", "picture", *FIELDS])
    known, chosen = rows.num_rows - rows["subCategory"].null_count, _choose_products(rows)
    without, rows = len(rows) - known, rows.take(chosen)
    sides = split.sides_of(rows["picture"])
    if nothing := _nothing_to_learn(rows, sides, without):
        figures: dict[str, object] = {
            "classifier": f"none: {nothing}",
            "without_subcategory": without,
            "left_out": known - len(chosen),
        }
        result = StepResult(tables={"classifier": target.commit([], CLASSIFIER, run=run.name).version}, figures=figures)
        return run.remember("classify", fingerprint, result)
    fields = {name: rows[name].to_pylist() for name in FIELDS} if settings.classifier_labels == "multi" else {}
    targets = classifier.make_targets(rows["subCategory"].to_pylist(), fields)
    if start:
        fitted, data, outputs = _finetune(run, start, targets, sides, rows["image_sha256"], checkpoints)
    else:
        fitted, data, outputs = _fit(run, chosen, targets, sides)
    sha256, tested = hashlib.sha256(data).hexdigest(), targets.take(sides == split.TEST)
    metrics = classifier.metrics(outputs[:, : len(targets.labels)], tested.classes, targets.labels)
    if targets.others:
        metrics |= classifier.label_metrics(outputs, tested)
    ids = rows["product_id"].to_numpy()
    row = {
        "model_file": f"models/{sha256}.keras",
        "model_sha256": sha256,
        "fingerprint": fingerprint,
        "input": "images" if start else "features",
        "labels": targets.labels,
        "other_labels": targets.others,
        "train_ids": ids[sides == split.TRAIN],
        "validation_ids": ids[sides == split.VALIDATION],
        "test_ids": ids[sides == split.TEST],
        "metrics": json.dumps({**metrics, "history": fitted.history}),
    }
    figures = {
        "test_accuracy": metrics["accuracy"],
        "top3_accuracy": metrics["top3_accuracy"],
        "macro_f1": metrics["macro_f1"],
        "classes": len(targets.labels),
        "epochs": fitted.epochs,
        "input": row["input"],
        "learnt": settings.classifier_labels,
        "train": len(row["train_ids"]),
        "validation": len(row["validation_ids"]),
        "test": len(row["test_ids"]),
        "without_subcategory": without,
        "left_out": known - len(chosen),
    }
    run.lake.write_bytes(row["model_file"], data)
    part = run.lake.write_part("classifier", pa.Table.from_pylist([row], schema=CLASSIFIER))
    target = target.commit([part], CLASSIFIER, run=run.name)
    result = StepResult(1, files=2, tables={"classifier": target.version}, figures=figures)
    return run.remember("classify", fingerprint, result)


def _choose_products(rows: pa.Table) -> np.ndarray:
    """Indices of the products to learn from, int (m,), ascending: all with a subCategory, or those `MOST` among them
    whose images have the first hashes, which are the same ones every night."""
    known = np.flatnonzero(pc.is_valid(rows["subCategory"]).to_numpy())
    return split.choose(rows["image_sha256"].to_numpy(), known, MOST)


def _fingerprint(run: Run, start: Model | None) -> str:
    settings = run.settings
    how = (
        [start.fingerprint, settings.classifier_convolutions, settings.classifier_epochs]
        if start
        else [run.result("embed").figures["model"]]
    )
    unknown = [name for name in FIELDS if not run.layout.column(name)]
    content = run.content("products")
    return content_hash(CODE_VERSION, content, settings.classifier_labels, how, *([unknown] if unknown else []))


def _nothing_to_learn(rows: pa.Table, sides: np.ndarray, without: int) -> str:
    """Why there is nothing to learn from these products, which have a subCategory; empty: there is."""
    if not len(rows):
        return f"none of the {without} products has a subCategory"
    if not (sides == split.TRAIN).any():
        return f"the images of all {len(rows)} products with a subCategory are held out, as its number decides"
    return ""


def _fit(run: Run, chosen: np.ndarray, targets: Targets, sides: np.ndarray) -> tuple[Fitted, bytes, np.ndarray]:
    """Train on the features of products; the training, the model as stored, and its outputs for the test side."""
    features = read_features(run, *classifier.COLUMNS, rows=chosen)
    stages = read_features(run, classifier.COLUMNS[0], rows=chosen[:1]).shape[1]
    fitted = classifier.fit(features, targets, sides, SEED, Progress("epochs", classifier.EPOCHS).add, stages)
    data = classifier.to_bytes(fitted.model)
    saved = classifier.from_bytes(data, hashlib.sha256(data).hexdigest())  # what is measured is what later steps load
    return fitted, data, classifier.predict(saved, features[sides == split.TEST])


# Finetuning -----------------------------------------------------------------------------------------------------------


def _finetune(
    run: Run, start: Model, targets: Targets, sides: np.ndarray, hashes: pa.ChunkedArray, checkpoints: Checkpoints
) -> tuple[Fitted, bytes, np.ndarray]:
    """As `_fit`, on the images with these hashes, which are read part by part."""
    keep_freed_memory()
    import keras  # seconds, which the default does without until it trains

    from ml import finetune

    keras.utils.clear_session()  # as in `ml.classifier.fit`: layers are named from the first
    backbone = extraction.build(run.lake, start)
    samples = training.samples(run, hashes, (start.height, start.width), targets.values.__getitem__)
    options = finetune.Options(run.settings.classifier_convolutions, run.settings.classifier_epochs, SEED)
    progress = Progress("epochs", options.epochs)
    fitted = finetune.fit(backbone, targets, samples, sides, options, checkpoints, progress.reach)
    data = classifier.to_bytes(fitted.model)
    saved = classifier.from_bytes(data, hashlib.sha256(data).hexdigest())
    return fitted, data, finetune.predict(saved, samples, np.flatnonzero(sides == split.TEST))


if __name__ == "__main__":
    raise SystemExit(step.main("classify"))
