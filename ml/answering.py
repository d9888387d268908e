"""The ten most similar under a filter, from arrays: what sql/functions/best_items.sql does, step for step.

Compiled by numba. Similarities are sums of products of 12-bit integers, exact in 32 bits, so the scores are those of
Postgres to the bit, and how many products are compared follows from the same rules (`ml.cube` proves them).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

NEVER = 32767
"""The rank of what a shortlist does not reach."""

_kernel = njit(nogil=True, cache=True, error_model="numpy")


@_kernel
def best_items(place, k, left_out, passing, inside, products, shortlists, cells):
    """The k products most like the one at `place` among those that pass and are not left out.

    Args:
        place: position of the product.
        k: how many.
        left_out: int64 (x,), positions of products left out, each once, `place` first.
        passing: bool (b,), base cells that pass the filters.
        inside: bool (c,), precomputed cells that lie inside.
        products: embeddings int16 (n, d) in units of the grid, id_order int32 (n,), base_cells int32 (n,), and where
            each base cell begins, int32 (b + 1,).
        shortlists: all items int32 (m,), their ends int64 (n + 1,), and filled_at int16 (n, w).
        cells: bool (c, b) with the base cells of each, depths int32 (c,), and the widest of them, int32 (w,).

    Returns:
        positions int64 and similarities int64, in units of the grid squared, best first; and how many were compared.
    """
    embeddings, id_order, base_cell_of, starts = products
    all_items, ends, filled_at = shortlists
    members, depths, widest = cells
    items = all_items[ends[place] : ends[place + 1]]
    best, scores, count = np.empty(k, np.int64), np.empty(k, np.int64), 0
    ranks = np.empty(min(items.shape[0], k + left_out.shape[0]), np.int64)
    ranked = 0
    for rank in range(items.shape[0]):
        if ranked == ranks.shape[0]:
            break
        if passing[base_cell_of[items[rank]]]:
            ranks[ranked] = rank
            ranked += 1
    last, passed = NEVER, ranked
    for at in range(ranked):
        item = items[ranks[at]]
        if not _is_in(item, left_out):
            count = _insert(best, scores, count, item, _score(embeddings, place, item), id_order)
            if count == k:
                last, passed = ranks[at] + 1, at
                break
    if min(last - 1, items.shape[0]) < depths[0]:
        return best[:count], scores[:count], 0
    rest = _unsettled(place, items, ranks[:passed], last, base_cell_of, passing, inside, cells, filled_at)
    compared = _compare(place, left_out, rest, products, best, scores, count)
    count, total = compared
    if total == 0:
        return best[:count], scores[:count], 0
    for item in items:
        total -= rest[base_cell_of[item]]
    for position in left_out:
        if rest[base_cell_of[position]] and not _is_in(position, items):
            total -= 1
    return best[:count], scores[:count], total


@_kernel
def _unsettled(place, items, before, last, base_cell_of, passing, inside, cells, filled_at):
    """The base cells that pass and that no settled cell has, bool (b,)."""
    members, depths, widest = cells
    settled = inside.copy()
    if before.shape[0] >= 10:  # no cell is less deep
        for cell in range(settled.shape[0]):
            if settled[cell]:
                met = 0
                for rank in before:
                    met += members[cell, base_cell_of[items[rank]]]
                if depths[cell] <= met:
                    settled[cell] = False
    for at in range(widest.shape[0]):
        if last <= filled_at[place, at]:
            settled[widest[at]] = True
    rest = passing.copy()
    for cell in range(settled.shape[0]):
        if settled[cell]:
            for base_cell in range(rest.shape[0]):
                rest[base_cell] &= not members[cell, base_cell]
    return rest


@_kernel
def _compare(place, left_out, rest, products, best, scores, count):
    """Compare the members of base cells with the product: how many are best now, and how many members there are."""
    embeddings, id_order, base_cell_of, starts = products
    total = 0
    for base_cell in range(rest.shape[0]):
        if rest[base_cell]:
            total += starts[base_cell + 1] - starts[base_cell]
            for position in range(starts[base_cell], starts[base_cell + 1]):
                score = _score(embeddings, place, position)
                is_better = count < best.shape[0] or score >= scores[count - 1]
                if is_better and not _is_in(position, left_out) and not _is_in(position, best[:count]):
                    count = _insert(best, scores, count, position, score, id_order)
    return count, total


@_kernel
def _score(embeddings, one, other):
    total = np.int32(0)
    for at in range(embeddings.shape[1]):
        total += np.int32(embeddings[one, at]) * np.int32(embeddings[other, at])
    return np.int64(total)


@_kernel
def _is_in(position, positions):
    for other in positions:  # noqa: SIM110 - which numba compiles
        if other == position:
            return True
    return False


@_kernel
def _insert(best, scores, count, position, score, id_order):
    """Put a product among the best, ties to the id that comes first; returns how many there are."""
    at = count if count < best.shape[0] else count - 1
    if count == best.shape[0] and not _before(score, id_order[position], scores[at], id_order[best[at]]):
        return count
    while at > 0 and _before(score, id_order[position], scores[at - 1], id_order[best[at - 1]]):
        best[at], scores[at] = best[at - 1], scores[at - 1]
        at -= 1
    best[at], scores[at] = position, score
    return min(count + 1, best.shape[0])


@_kernel
def _before(score, order, other_score, other_order):
    return score > other_score or (score == other_score and order < other_order)
