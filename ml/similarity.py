"""Exact cosine similarity: unit rows in fixed point.

An embedding is a unit vector rounded to multiples of 2⁻¹¹. A product of two entries is then a multiple of 2⁻²², and by
Cauchy–Schwarz every partial sum of a dot product of two rows stays near 1 or below: an integer under 2²³ in that unit,
which float32 holds exactly. So a dot product is the same to the bit in any order of summation: in BLAS, numba, pgvector
or int64.
"""

from __future__ import annotations

import numpy as np

UNIT = 2.0**-11


class NotFiniteError(ValueError):
    """A value is NaN or infinite."""


def to_embedding(features: np.ndarray) -> np.ndarray:
    """Rows of unit length, rounded to multiples of 2⁻¹¹ (half to even); a row of zeros stays zero.

    Args:
        features: float (n, d), finite.

    Returns:
        float32 (n, d).

    Raises:
        NotFiniteError: names the first such row.
    """
    out = np.empty(features.shape, np.float32)
    for start in range(0, len(features), 4096):  # float64 copies of a block, not of everything
        block = features[start : start + 4096].astype(np.float64)
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        bad = ~np.isfinite(norms[:, 0])
        if bad.any():
            raise NotFiniteError(f"row {start + int(bad.argmax())} has a value that is NaN or infinite")
        out[start : start + 4096] = np.rint(block / np.where(norms > 0, norms, 1.0) / UNIT) * UNIT
    return out


def nearest(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the `k` greatest of scores, float32 (n,), or of all where there are fewer: ties to the smaller."""
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        reaching = np.flatnonzero(scores >= least)
    else:
        reaching = np.arange(len(scores))
    return reaching[np.argsort(-scores[reaching], kind="stable")][:k]
