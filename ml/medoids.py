"""Medoids: the member of a group that is most similar to the group as a whole."""

from __future__ import annotations

import numpy as np


def medoids(embeddings: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The medoid of every group: the member with the largest sum of similarities to all members, itself included.

    By linearity that sum is one dot product of the member with the group's summed vector, so the work is linear in n.
    The result is exact: entries are multiples of 2⁻¹¹, so every partial sum is a multiple of 2⁻²² of at most n
    (Cauchy–Schwarz), which float64's 53 bits hold for n up to 2³¹. Ties are true ties and go to the smaller index.

    Args:
        embeddings: float32 (n, d), unit rows as `ml.similarity.to_embedding` makes them.
        groups: int (n,), the group of each row, 0 … g - 1; each has a member.

    Returns:
        int64 (g,) index of each group's medoid, and float64 (g,) its mean similarity to the members.
    """
    by_group = np.argsort(groups, kind="stable")  # ascending indices within a group
    members_of = np.split(by_group, np.cumsum(np.bincount(groups))[:-1]) if len(groups) else []
    chosen, similarity = np.empty(len(members_of), np.int64), np.empty(len(members_of))
    for group, members in enumerate(members_of):
        rows = embeddings[members]
        # einsum widens to float64 a buffer at a time; `rows @ total` would copy all rows.
        sums = np.einsum("ij,j->i", rows, rows.sum(axis=0, dtype=np.float64), dtype=np.float64)
        best = int(sums.argmax())
        chosen[group], similarity[group] = members[best], sums[best] / len(members)
    return chosen, similarity
