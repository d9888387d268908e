"""Exact cosine similarity: unit rows in fixed point, top-k with one tie rule.

An embedding is a unit vector rounded to multiples of 2⁻¹¹. A product of two entries is then a multiple of 2⁻²², and by
Cauchy–Schwarz every partial sum of a dot product of two rows stays near 1 or below: an integer under 2²³ in that unit,
which float32 holds exactly. So a dot product is the same to the bit in any order of summation: in BLAS, numba, pgvector
or int64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

UNIT = 2.0**-11


def to_embedding(features: np.ndarray) -> np.ndarray:
    """Rows of unit length, rounded to multiples of 2⁻¹¹ (half to even); a row of zeros stays zero.

    Args:
        features: float (n, d), finite.

    Returns:
        float32 (n, d).

    Raises:
        ValueError: a value is NaN or infinite; names the first such row.
    """
    out = np.empty(features.shape, np.float32)
    for start in range(0, len(features), 4096):  # float64 copies of a block, not of everything
        block = features[start : start + 4096].astype(np.float64)
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        bad = ~np.isfinite(norms[:, 0])
        if bad.any():
            raise ValueError(f"row {start + int(bad.argmax())} has a value that is NaN or infinite")
        out[start : start + 4096] = np.rint(block / np.where(norms > 0, norms, 1.0) / UNIT) * UNIT
    return out


def top_k_of_cells(
    scores: np.ndarray, own: np.ndarray, members: np.ndarray, offsets: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best members of every cell for every query: highest score first, ties to the smaller index.

    Args:
        scores: float32 (q, n), similarity of each query to each of the n products.
        own: int64 (q,), each query's own index among the n, which is never in its lists.
        members: int32 (m,), indices of the members of all cells, ascending within a cell.
        offsets: int64 (c + 1,); cell `i` is `members[offsets[i] : offsets[i + 1]]`.
        k: length of a list.

    Returns:
        int32 (q, c, k) indices, -1 past the end of a shorter list, and their float32 (q, c, k) scores, 0 there.
    """
    shape = (len(scores), len(offsets) - 1, k)
    best, best_scores = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    _scan(scores, own, members, offsets, best, best_scores)
    return best, best_scores


@njit(cache=True, nogil=True)
def _scan(scores, own, members, offsets, best, best_scores):  # type: ignore[no-untyped-def]  # pragma: no cover
    k = best.shape[2]
    for q in range(scores.shape[0]):
        row = scores[q]
        for c in range(offsets.shape[0] - 1):
            ids, values = best[q, c], best_scores[q, c]
            found = 0
            for at in range(offsets[c], offsets[c + 1]):
                index = members[at]
                score = row[index]
                # Members come in ascending order, so a later one with an equal score ranks below: `<=` skips it.
                if (found == k and score <= values[k - 1]) or index == own[q]:
                    continue
                if found < k:
                    found += 1
                place = found - 1
                while place > 0 and values[place - 1] < score:
                    values[place], ids[place] = values[place - 1], ids[place - 1]
                    place -= 1
                values[place], ids[place] = score, index
