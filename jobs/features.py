"""Features and embeddings of a run's products, in the order of the products table, and list columns as matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from infra.errors import UserError
from infra.settings import ATTRIBUTES
from jobs.champion import read_embedder
from jobs.run import Run
from ml import embedding, split
from ml.features import Features
from ml.similarity import NotFiniteError, to_embedding


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
    images: np.ndarray | None = None,
) -> list[np.ndarray]:
    """What `make` gives for the products of each part of the features, put together in the order of products.

    Of one part after the other, so that memory holds what is made and little else. `make` takes indices of products,
    or of those `asked` for, int (m,), and the float32 (m, d) features in each of `columns`; it gives arrays of m rows.
    `images`, SHA-256 in hex (m,), are what is looked up of those asked for; None: their main images.

    Raises:
        UserError: an image of a product has no features.
    """
    if images is None:
        images = np.array(run.products(["image_sha256"])["image_sha256"].to_pylist(), "S64")
        images = images if asked is None else images[asked]
    hashes = images.astype("S64")
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
        row, of_image = (
            np.repeat(np.arange(len(wanted)), [len(products_of_image) for products_of_image in sharing]),
            np.concatenate(sharing),
        )
        rows = rows.take(wanted)
        for at, values in enumerate(make(of_image, [to_matrix(rows[column])[row] for column in columns])):
            if at == len(made):
                made.append(np.empty((len(hashes), values.shape[1]), values.dtype))
            made[at][of_image] = values
    if not seen.all():
        raise UserError(
            f"{int((~seen).sum())} of {len(seen)} images have no features of model {model}, such as "
            f"{images[np.argmin(seen)].decode()}",
            where=f"{run.lake.uri}/features",
            remedy=f"run `lookalike step embed --run {run.name}`",
        )
    return made


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
    images: np.ndarray | None = None,
) -> np.ndarray:
    """What similarity is measured on: an embedder's output for every product, in order, float32 (n, e), fixed point.

    Args:
        run: the run; its steps catalog and embed are done.
        embedder: None: the run's.
        model: fingerprint of what its features are of; empty: the run's.
        learnt: whether attributes count for the training side alone, as whatever measures models must have it, or
            wherever the catalogue knows them.
        rows: int (n,), indices of the products asked for; None: all.
        images: SHA-256 (hex) of an image of each of `rows`, which may name a product more than once; None: the main
            ones.

    Raises:
        UserError: an image of a product has no features, or an embedding would be NaN or infinite.
    """
    embedder = embedder or read_embedder(run)
    trained = bool(embedder.arrays)
    known = read_known(run, embedder, learnt) if trained else {}
    known = {name: column if rows is None else column[rows] for name, column in known.items()}

    def apply(products: np.ndarray, values: list[np.ndarray]) -> list[np.ndarray]:
        if not trained:
            return [to_embedding(values[0])]
        return [embedder.apply(Features(*values), {name: column[products].tolist() for name, column in known.items()})]

    columns = Features._fields if trained else ["average"]  # the others need not be read
    try:
        return gather(run, columns, apply, model, rows, images)[0]
    except NotFiniteError as error:
        model = model or str(run.result("embed").figures["model"])
        raise UserError(
            f"gate finite: no embeddings can be made: {error}",
            where=f"embedder {embedder.fingerprint}, features of model {model}",
            remedy="go back to another embedder by `lookalike champion --use`, or where the features are to blame set "
            f"other weights (LOOKALIKE_WEIGHTS), then run `lookalike step embed --run {run.name}` and those after it",
        ) from None


def read_known(run: Run, embedder: embedding.Embedder, learnt: bool) -> dict[str, np.ndarray]:
    """Attribute of a block of the embedder → its value for every product, in order, object (n,), or None.

    With `learnt` also where its image may not be learnt from.
    """
    names = [name for name in embedder.recipe.blocks if name in ATTRIBUTES]
    rows = run.products(["picture", *names])
    known = {name: np.array(rows[name].to_pylist(), object) for name in names}
    if learnt:
        hidden = split.sides_of(rows["picture"]) != split.TRAIN
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
