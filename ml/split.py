"""Which pictures a model may learn from: train, validation, test or final, for good.

The side follows from the picture's number (`ml.pictures`) alone, so the same picture never stands on two sides,
whatever file, catalogue, product or run it comes with, and every model of the pipeline leaves out the same pictures.
Labelled photos of people, which come in no catalogue, are in folds by their names.
"""

from __future__ import annotations

import hashlib

import numpy as np

TRAIN, VALIDATION, TEST, FINAL = range(4)
PLACES = 100
FINAL_PLACES, TEST_PLACES, VALIDATION_PLACES = range(10), range(10, 20), range(20, 28)
"""Of the `PLACES` places, those whose pictures are held out. Choices are made by the validation side, figures told of
the test side, and the final side is looked at for releases only."""


def sides_of(pictures: np.ndarray) -> np.ndarray:
    """int8 (n,): `TRAIN`, `VALIDATION`, `TEST` or `FINAL` for each picture's number, int64 (n,), by its last digits."""
    sides = np.full(PLACES, TRAIN, np.int8)
    for side, places in ((FINAL, FINAL_PLACES), (TEST, TEST_PLACES), (VALIDATION, VALIDATION_PLACES)):
        sides[list(places)] = side
    return sides[np.asarray(pictures) % PLACES]


def fold_of(name: str, folds: int) -> int:
    """Which of so many folds the photo of a name is in, by the first 32 bits of the name's SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % folds


def choose(hashes: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """Those `most` among `rows`, indices into `hashes`, whose hashes come first, int (m,), ascending.

    A rule that depends on nothing else takes nearly the same images every night, and favours no kind of product.
    """
    return np.sort(rows[np.argsort(hashes[rows], kind="stable")[:most]])
