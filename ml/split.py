"""Which images a model may learn from: train, validation or test, for good.

The side follows from the image's hash alone, so the same picture never stands on two sides, whatever catalogue, product
or run it comes with, and every model of the pipeline leaves out the same images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TRAIN, VALIDATION, TEST = range(3)
TEST_SHARE, VALIDATION_SHARE = 20, 8
"""Percent of all images."""


def sides_of(hashes: Sequence[str]) -> np.ndarray:
    """int8 (n,): `TRAIN`, `VALIDATION` or `TEST` for each image's SHA-256 (hex).

    The first 32 bits of the hash, modulo 100, are below 20 for test, then below 28 for validation.
    """
    place = np.fromiter((int(sha[:8], 16) % 100 for sha in hashes), np.int64, len(hashes))
    return np.where(
        place < TEST_SHARE, TEST, np.where(place < TEST_SHARE + VALIDATION_SHARE, VALIDATION, TRAIN)
    ).astype(np.int8)


def choose(hashes: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """Those `most` among `rows`, indices into `hashes`, whose hashes come first, int (m,), ascending.

    A rule that depends on nothing else takes nearly the same images every night, and favours no kind of product.
    """
    return np.sort(rows[np.argsort(hashes[rows], kind="stable")[:most]])
