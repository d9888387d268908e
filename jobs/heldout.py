"""Held-out images: how a run's models and rules do on images that none of them has learnt from.

The test side of the images (`ml.split`) is asked for, or the validation side by whoever chooses rules. The protocols
are those of `ml.protocols`; here are their tables and models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import UserError
from jobs.champion import read_embedder
from jobs.features import read_features, to_matrix
from jobs.ids import to_text
from jobs.run import Run
from jobs.serve.known import Gallery
from jobs.serve.search import BATCH, Seen, Sight, read_classifier
from jobs.stored import read_images
from ml import classifier, images, protocols, split
from ml.protocols import Catalogue, Found, copies
from ml.similarity import nearest

IMAGES_AT_ONCE = 1024
COLUMNS = ["product_id", "image_sha256", "picture", *protocols.ATTRIBUTES]
ANSWERS = pa.schema(
    [
        ("image_sha256", pa.string()),
        ("product_id", pa.string()),
        ("subCategory", pa.string()),
        ("subCategory_confidence", pa.float32()),
        ("derivedType", pa.string()),
        ("derivedType_confidence", pa.float32()),
        ("stage", pa.string()),
        ("items", pa.list_(pa.string())),
    ]
)
"""A held-out image, what it was taken for, and what was recommended; a guess that was not made is null."""


@dataclass(frozen=True)
class Products:
    """A run's n products in the order of ids.

    `ids` object, `hashes` str, `sides` int8 (n,) each; `attributes` object (n,) for each of `protocols.ATTRIBUTES`;
    `embeddings` float32 (n, e), in fixed point: by the image alone where `unlabelled`, bool (n,), else as served.
    `needed` are the attributes that an unknown image must have to be asked for: those that its catalogue is judged by.
    """

    ids: np.ndarray
    hashes: np.ndarray
    sides: np.ndarray
    attributes: dict[str, np.ndarray]
    embeddings: np.ndarray
    unlabelled: np.ndarray
    needed: tuple[str, ...] = protocols.ATTRIBUTES


@dataclass(frozen=True)
class Predictions:
    """Probabilities of the c subCategories in `labels`, float32 (n, c); rows of zeros for images not looked at."""

    labels: list[str]
    probabilities: np.ndarray


@dataclass(frozen=True)
class Asked:
    """The answers to unknown images: `rows` are the products they belong to, `searched` those of the catalogue."""

    rows: np.ndarray
    searched: np.ndarray
    answers: list[Found]
    figures: dict[str, float]
    calibration: tuple[np.ndarray, np.ndarray, np.ndarray]


def read_products(run: Run) -> Products:
    """The run's products with the embeddings that `similar` stored for measuring.

    What the run's embedder has learnt is of the training side, wherever it stands: nothing is measured by that.

    Raises:
        RuntimeError: a product has none.
    """
    rows = run.judged(COLUMNS)
    ids = rows["product_id"].to_numpy()
    embeddings = run.table("embeddings").read()
    place = pc.index_in(rows["product_id"], value_set=to_text(embeddings["product_id"]).combine_chunks())
    if place.null_count:
        raise RuntimeError(f"product {ids[pc.is_null(place).to_numpy().argmax()]} has no embedding")
    hashes, sides = rows["image_sha256"].to_pylist(), split.sides_of(rows["picture"])
    sides[np.isin(rows["picture"], read_embedder(run).learnt)] = split.TRAIN
    matrix, unlabelled = to_matrix(embeddings["embedding"]).copy(), np.zeros(len(embeddings), bool)
    if "unlabelled" in embeddings.column_names:  # earlier releases served every product so
        unlabelled = pc.is_valid(embeddings["unlabelled"]).to_numpy()
    if unlabelled.any():
        matrix[unlabelled] = to_matrix(embeddings["unlabelled"].drop_null())
    return Products(
        ids,
        np.array(hashes),
        sides,
        {name: np.array(rows[name].to_pylist(), object) for name in protocols.ATTRIBUTES},
        matrix[place.to_numpy()],
        unlabelled[place.to_numpy()],
        protocols.ATTRIBUTES if run.layout.kind else ("subCategory",),
    )


def predict(run: Run, products: Products, side: int = split.TEST) -> Predictions:
    """What the run's classifier makes of the images of a side; without one there are no labels.

    Raises:
        UserError: the classifier cannot be loaded, or it has learnt from images of that side.
    """
    rows = np.flatnonzero(products.sides == side)
    learnt = run.table("classifier").read(["train_ids"])["train_ids"].combine_chunks().flatten().cast(pa.string())
    seen = pd.Index(products.ids[rows]).isin(learnt.to_pylist()).sum()
    if seen:
        raise UserError(
            f"the classifier of run {run.name} has learnt from the images of {seen} products that are held out",
            where=f"{run.lake.uri}/classifier",
            remedy=f"run `lookalike step classify --run {run.name}`, which trains one that has not",
        )
    known = read_classifier(run)
    if known is None:
        return Predictions([], np.zeros((len(products.ids), 0), np.float32))
    probabilities = np.zeros((len(products.ids), len(known.labels)), np.float32)
    if not len(rows):
        return Predictions(known.labels, probabilities)
    if known.size is None:
        inputs = read_features(run, *classifier.COLUMNS, rows=rows)
        probabilities[rows] = classifier.subcategory_probabilities(known.model, inputs, known.labels)
    else:
        done = 0
        for stored in _stored(run, products.hashes[rows]):
            inputs = np.stack([images.load(data, *known.size) for data in stored])
            of_batch = classifier.subcategory_probabilities(known.model, inputs, known.labels)
            probabilities[rows[done : done + len(of_batch)]] = of_batch
            done += len(of_batch)
    return Predictions(known.labels, probabilities)


def ask(products: Products, predictions: Predictions, most: int, side: int = split.TEST) -> Asked:
    """Search for up to `most` images of a side as if no catalogue knew them.

    What needs a kind is NaN in a catalogue that has none.
    """
    needed = {name: products.attributes[name] for name in products.needed}
    rows = protocols.choose_queries(products.hashes, products.sides, needed, most, side)
    searched = np.flatnonzero(np.isin(products.sides, protocols.SEARCHED[side]))
    catalogue = Catalogue(products.embeddings[searched], _take(products, searched))
    answers = list(catalogue.search(products.embeddings[rows], predictions.probabilities[rows], predictions.labels))
    wanted = _take(products, rows)
    right = protocols.judge(answers, wanted, catalogue)["derived"]
    unjudged = dict.fromkeys([] if "derivedType" in needed else ("derived", "all10"), float("nan"))
    return Asked(
        rows,
        searched,
        answers,
        {"images": len(rows), "searched": len(searched), **protocols.figures(answers, wanted, catalogue), **unjudged},
        protocols.calibration(protocols.confidences_of(answers), right),
    )


def _take(products: Products, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in products.attributes.items()}


def answers(products: Products, asked: Asked) -> pa.Table:
    """Rows of `ANSWERS`, so that anyone can judge them again."""
    ids, decisions = products.ids[asked.searched], [answer.decision for answer in asked.answers]
    guesses = {
        "subCategory": [answer.subcategory for answer in decisions],
        "derivedType": [answer.derived_type for answer in decisions],
    }
    columns: dict[str, list] = {
        "image_sha256": products.hashes[asked.rows].tolist(),
        "product_id": products.ids[asked.rows].tolist(),
        "stage": [answer.stage for answer in decisions],
        "items": [ids[answer.items].tolist() for answer in asked.answers],
    }
    for name, made in guesses.items():
        columns[name] = [guess.value if guess else None for guess in made]
        columns[f"{name}_confidence"] = [guess.confidence if guess else None for guess in made]
    return pa.table({name: columns[name] for name in ANSWERS.names}, schema=ANSWERS)


def find_copies(run: Run, products: Products, most: int) -> dict[str, float]:
    """Percentage of held-out images whose copies have the original as first neighbour: either kind, and both kinds.

    Up to `most` images of the test side in the order of their hashes; the neighbours are all products, and each that
    has the same image is the original.
    """
    rows = protocols.choose_queries(products.hashes, products.sides, {}, most, split.TEST)
    told = {name: values.copy() for name, values in products.attributes.items()}
    for values in told.values():
        values[products.unlabelled] = None
    sight, hits = Sight(run, gallery=Gallery(products.embeddings, told)), []
    for stored in _stored(run, products.hashes[rows], BATCH // 2):
        made = [copies(images.decode(data)) for data in stored]
        seen = sight.see([made_of_image[kind] for kind in ("recompressed", "cropped") for made_of_image in made])
        first = [nearest(products.embeddings @ copy.embedding, 1)[0] for copy in seen if isinstance(copy, Seen)]
        hits.append(products.hashes[first].reshape(2, -1))
    same = np.concatenate(hits, axis=1) == products.hashes[rows] if hits else np.empty((2, 0), bool)
    shares = {"recompressed_first": same[0], "cropped_first": same[1], "duplicates_first": same.all(axis=0)}
    return {name: 100 * float(hit.mean()) if len(hit) else float("nan") for name, hit in shares.items()}


def _stored(run: Run, hashes: np.ndarray, size: int = IMAGES_AT_ONCE) -> Iterator[list[bytes]]:
    """The stored bytes of images in their order, `size` at a time."""
    for at in range(0, len(hashes), IMAGES_AT_ONCE):
        block = hashes[at : at + IMAGES_AT_ONCE].tolist()
        files = read_images(run, block)
        for start in range(0, len(block), size):
            yield [files[sha] for sha in block[start : start + size]]
