"""What a picture shows, whatever file it comes in: the same picture re-encoded, resized or stripped keeps its number.

A thumbnail (`ml.images.thumbnail`) of 8 × 8 pixels stands for the picture. One that differs from a thumbnail seen
before by no more than re-encoding does is the same picture and takes its number; any other gets a number of its own,
which follows from the thumbnail. So a number depends on what was seen before, as it must: whoever learnt from a picture
knows it by that.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit

from ml.images import THUMBNAIL_SIDE

WIDTH = THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3
"""Values of a thumbnail."""
NEAR = 3
"""Greatest root mean square of the differences between thumbnails of one picture, in levels of 255.

Chosen on real catalogues: the same product at 60 × 80 and at 224 × 224 pixels differs by 2.5 at most (1,500 products),
re-encoded at quality 50 by 2.2, at three quarters of the size by 1.8; 3.2 % of all pictures have another so near.
"""
_STRIDE = 77
"""Values of two thumbnails are compared so far apart, from anywhere in the picture: most pairs are told by a few."""


def identify(thumbnails: np.ndarray, seen: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The number of each of n pictures, int64 (n,), not negative: that of the nearest one before, if that is near.

    Args:
        thumbnails: uint8 (n, `WIDTH`), in the order in which they came.
        seen: uint8 (s, `WIDTH`), those of pictures that came before.
        numbers: int64 (s,), of those.
    """
    together = np.concatenate([seen, thumbnails])
    together_numbers = np.concatenate([numbers, np.zeros(len(thumbnails), np.int64)])
    for place, nearest in enumerate(_nearest_before(together, len(seen)), len(seen)):
        together_numbers[place] = together_numbers[nearest] if nearest >= 0 else _number(together[place])
    return together_numbers[len(seen) :]


def sort(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How `find` wants n thumbnails, uint8 (n, `WIDTH`): in which order, by ascending sum, and these, int (n,)."""
    sums = thumbnails.sum(axis=1, dtype=np.int64)
    order = np.argsort(sums, kind="stable")
    return order, sums[order]


def find(thumbnail: np.ndarray, thumbnails: np.ndarray, sums: np.ndarray) -> int:
    """Place of the nearest thumbnail of the same picture, the first of several, or −1.

    Args:
        thumbnail: uint8 (`WIDTH`,).
        thumbnails: uint8 (n, `WIDTH`), in the order of `sort`.
        sums: int (n,), of those.
    """
    total = int(thumbnail.sum(dtype=np.int64))
    first, end = np.searchsorted(sums, [total - NEAR * WIDTH, total + NEAR * WIDTH + 1])
    differences = thumbnails[first:end].astype(np.int32) - thumbnail
    distances = np.einsum("ij,ij->i", differences, differences)
    nearest = int(distances.argmin()) if len(distances) else 0
    return int(first) + nearest if len(distances) and distances[nearest] <= NEAR**2 * WIDTH else -1


def _number(one: np.ndarray) -> int:
    return int.from_bytes(hashlib.sha256(one.tobytes()).digest()[:8], "big") >> 1


def _nearest_before(thumbnails: np.ndarray, first: int) -> np.ndarray:
    """Index of the nearest earlier thumbnail for each from `first` on, int (n,), or −1 where none is near.

    Sums of near thumbnails differ by `NEAR` a value at most (Cauchy–Schwarz), so each is compared with few.
    """
    sums = thumbnails.sum(axis=1, dtype=np.int64)
    order = np.argsort(sums, kind="stable")
    columns = np.arange(WIDTH) * _STRIDE % WIDTH
    values = np.ascontiguousarray(thumbnails[order][:, columns])
    return _nearest(values, sums[order], order, first, NEAR**2 * WIDTH, NEAR * WIDTH)


@njit(nogil=True, cache=True)
def _nearest(
    values: np.ndarray, sums: np.ndarray, order: np.ndarray, first: int, near: int, reach: int
) -> np.ndarray:  # pragma: no cover  # compiled
    """As `_nearest_before`, of thumbnails by ascending sum; `order` says when each came."""
    nearest = np.full(len(values) - first, -1)
    for place in range(len(order)):
        if order[place] < first:
            continue
        best, least = -1, near
        for way in (-1, 1):
            other = place + way
            while 0 <= other < len(order) and abs(sums[other] - sums[place]) <= reach:
                if order[other] < order[place]:
                    distance = 0
                    for start in range(0, values.shape[1], 16):
                        for column in range(start, start + 16):
                            difference = int(values[place, column]) - int(values[other, column])
                            distance += difference * difference
                        if distance > least:
                            break
                    if distance < least or (distance == least and (best < 0 or order[other] < best)):
                        best, least = order[other], distance
                other += way
        nearest[order[place] - first] = best
    return nearest
