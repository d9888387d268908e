"""classify: features + products → the subCategory classifier.

Reads the run's products and features; writes the trained model as `models/<sha256>.keras` and one row that vouches for
it: hash, labels, split and metrics. Products without a subCategory are left out and counted. The file is named by its
content and the row is committed last, so a broken attempt leaves nothing in use; the same products and model are not
trained on again.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import UserError
from infra.telemetry import Progress
from jobs import step
from jobs.step import Run, StepResult
from ml import classifier

CODE_VERSION = 1
SEED = 0
CLASSIFIER = pa.schema(
    [
        ("model_file", pa.string()),
        ("model_sha256", pa.string()),
        ("fingerprint", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("train_ids", pa.list_(pa.int64())),
        ("validation_ids", pa.list_(pa.int64())),
        ("test_ids", pa.list_(pa.int64())),
        ("metrics", pa.string()),
    ]
)


def classify(run: Run) -> StepResult:
    """Train the subCategory classifier on the run's labelled products and measure it on those held out."""
    products, target = run.table("products"), run.lake.table("classifier")
    mark = step.fingerprint(CODE_VERSION, products.fingerprint, run.result("embed").figures["model"])
    if target.fingerprint == mark:
        return StepResult(1, skipped=True, tables={"classifier": target.version}, figures=target.figures)
    rows = products.read(["product_id", "subCategory", "image_sha256"])
    labelled = pc.is_valid(rows["subCategory"]).to_numpy()
    if not labelled.any():
        raise UserError(
            f"none of the {len(rows)} products has a subCategory, so there is nothing to learn",
            where="column subCategory of styles.csv",
            remedy="fill the column subCategory for at least some products",
        )
    features, rows = step.read_features(run, "average")[labelled], rows.filter(labelled)
    labels, classes = np.unique(rows["subCategory"].to_numpy(), return_inverse=True)
    images = rows["image_sha256"].combine_chunks().dictionary_encode().indices.to_numpy()
    sides = classifier.split(classes, images, SEED)
    fitted = classifier.fit(features, classes, sides, SEED, Progress("epochs", classifier.EPOCHS).add)
    data = classifier.to_bytes(fitted.model)
    sha256 = hashlib.sha256(data).hexdigest()
    saved = classifier.from_bytes(data, sha256)  # what is measured is what later steps load
    metrics = classifier.metrics(classifier.predict(saved, features[sides.test]), classes[sides.test], labels.tolist())
    file, ids = f"models/{sha256}.keras", rows["product_id"].to_numpy()
    row = {
        "model_file": file,
        "model_sha256": sha256,
        "fingerprint": mark,
        "labels": labels.tolist(),
        "train_ids": ids[sides.train],
        "validation_ids": ids[sides.validation],
        "test_ids": ids[sides.test],
        "metrics": json.dumps({**metrics, "history": fitted.history}),
    }
    figures = {
        "test_accuracy": metrics["accuracy"],
        "top3_accuracy": metrics["top3_accuracy"],
        "macro_f1": metrics["macro_f1"],
        "classes": len(labels),
        "epochs": fitted.epochs,
        "train": len(sides.train),
        "validation": len(sides.validation),
        "test": len(sides.test),
        "without_subcategory": int((~labelled).sum()),
    }
    run.lake.write_bytes(file, data)
    part = run.lake.write_part("classifier", pa.Table.from_pylist([row], schema=CLASSIFIER), salt=mark)
    target = target.commit([part], CLASSIFIER, run=run.name, fingerprint=mark, figures=figures)
    return StepResult(1, files=2, tables={"classifier": target.version}, figures=figures)


if __name__ == "__main__":
    raise SystemExit(step.main("classify"))
