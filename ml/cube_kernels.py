"""The steps of `ml.cube` for a query, compiled by numba; its docstring says what they do and why the result is exact.

Indices are unsigned: numba would look whether a signed one counts from the end. Arithmetic that mixes signed and
unsigned integers would give floats, so constants are typed.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros

from ml.similarity import UNIT

K = 10
CHUNK = 16
WORDS = 4
"""Words of 64 cells that are looked at together."""
BUCKETS = 1024
KEY_BITS = 20
"""A candidate is one uint64: 24 bits of score, falling; then its rank in the panel and its atom, of 20 bits each."""
ZERO = 1 << 23
OWN = np.float32(-4.0)
"""Stands for a query's score with itself: below every score."""
NONE = np.float32(-2.0)
"""The bound of a cell with fewer than ten chunks: all scores reach it, `OWN` does not."""

U = np.uint64
_kernel = njit(nogil=True, cache=True, error_model="numpy")


@_kernel
def best_of_block(scores, panel, work, first, best, best_scores):
    starts, chunk_atoms, ranks, masks, minimal, minimal_offsets = panel
    maxima, order, histogram, buckets, open_cells, counts, bounds, atom_bounds, opened, rows, keys, ranked, found = work
    for q in range(scores.shape[0]):
        _maxima(scores[q], starts, maxima)
        _order_chunks(maxima, order, histogram, buckets)
        _bound_cells(maxima, order, chunk_atoms, masks, open_cells, counts, bounds)
        _bound_atoms(bounds, minimal, minimal_offsets, atom_bounds)
        candidates = _collect(scores[q], maxima, ranks, starts, chunk_atoms, atom_bounds, opened, rows, keys)
        _sort(keys[:candidates], ranked, histogram, buckets)
        _deal(ranked[:candidates], masks, open_cells, counts, found)
        _merge(found, counts, first, best[q], best_scores[q])


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _maxima(row, starts, maxima):
    for chunk in range(maxima.shape[0]):
        start = U(starts[chunk])
        length = np.int64(starts[chunk + 1]) - np.int64(start)
        greatest = OWN
        if length == CHUNK:
            for at in range(CHUNK):
                score = row[start + U(at)]
                greatest = score if score > greatest else greatest
        else:  # reads on: a loop of fixed length becomes code without branches
            for at in range(CHUNK):
                score = row[start + U(at)] if at < length else OWN
                greatest = score if score > greatest else greatest
        maxima[chunk] = greatest


@_kernel
def _order_chunks(maxima, order, histogram, buckets):
    """Counting sort by the greatest maximum; within a bucket in any order, which costs a little speed only."""
    low, high = maxima[0], maxima[0]
    for chunk in range(maxima.shape[0]):
        low, high = min(low, maxima[chunk]), max(high, maxima[chunk])
    low, high = max(low, NONE), max(high, NONE)  # a chunk of just the query itself has `OWN`
    scale = np.float32((BUCKETS - 1) / max(high - low, np.float32(1e-6)))
    for chunk in range(maxima.shape[0]):
        buckets[chunk] = np.uint16((high - max(maxima[chunk], low)) * scale)
    _count(buckets, maxima.shape[0], histogram)
    for chunk in range(maxima.shape[0]):
        bucket = U(buckets[chunk])
        order[U(histogram[bucket])] = chunk
        histogram[bucket] += 1


@_kernel
def _count(buckets, n, histogram):
    """After it `histogram[b]` is where bucket `b` begins."""
    histogram[:] = 0
    for at in range(n):
        histogram[U(buckets[at])] += 1
    begin = np.int32(0)
    for bucket in range(histogram.shape[0]):
        size = histogram[bucket]
        histogram[bucket] = begin
        begin += size


@_kernel
def _bound_cells(maxima, order, chunk_atoms, masks, open_cells, counts, bounds):
    """Deal the chunks to their cells until each has ten: the least maximum so far is the cell's bound."""
    bounds[:] = NONE
    counts[:] = 0
    open_cells[:] = ~U(0)
    least = np.float32(4.0)
    for place in range(order.shape[0]):
        chunk = U(order[place])
        atom = U(chunk_atoms[chunk])
        least = min(least, maxima[chunk])
        for group in range(0, masks.shape[1], WORDS):
            if not _any_open(masks, atom, open_cells, U(group)):
                continue
            for word in range(group, group + WORDS):
                bits = masks[atom, U(word)] & open_cells[U(word)]
                while bits:
                    cell = U(word) * U(64) + U(trailing_zeros(bits))
                    counts[cell] += 1
                    if counts[cell] == K:
                        bounds[cell] = max(least, NONE)
                        open_cells[U(word)] ^= bits & (~bits + U(1))
                    bits &= bits - U(1)


@_kernel
def _any_open(masks, atom, open_cells, word):
    """Whether some cell that contains the atom is open, in `WORDS` words; written out, as it must be fast."""
    first = (masks[atom, word] & open_cells[word]) | (masks[atom, word + U(1)] & open_cells[word + U(1)])
    second = masks[atom, word + U(2)] & open_cells[word + U(2)]
    return (first | second | (masks[atom, word + U(3)] & open_cells[word + U(3)])) != U(0)


@_kernel
def _bound_atoms(bounds, minimal, offsets, atom_bounds):
    at = U(0)
    for atom in range(atom_bounds.shape[0]):
        bound = np.float32(4.0)
        while at < U(offsets[atom + 1]):
            bound = min(bound, bounds[U(minimal[at])])
            at += U(1)
        atom_bounds[atom] = bound


@_kernel
def _collect(row, maxima, ranks, starts, chunk_atoms, atom_bounds, opened, rows, keys):
    # Stores without a branch: what does not pass is overwritten by what comes next.
    chunks = U(0)
    for chunk in range(maxima.shape[0]):
        opened[chunks] = chunk
        chunks += U(maxima[chunk] >= atom_bounds[U(chunk_atoms[chunk])])
    candidates = U(0)
    for place in range(np.int64(chunks)):
        chunk = U(opened[place])
        atom = U(chunk_atoms[chunk])
        bound = atom_bounds[atom]
        for at in range(U(starts[chunk]), U(starts[chunk + U(1)])):
            rows[candidates] = (atom << U(32)) | U(at)
            candidates += U(row[U(at)] >= bound)
    for place in range(np.int64(candidates)):
        atom, at = rows[place] >> U(32), rows[place] & U(0xFFFFFFFF)
        score = U(ZERO - np.int64(row[at] * np.float32(1 / UNIT**2)))
        keys[place] = (score << U(2 * KEY_BITS)) | (U(ranks[at]) << U(KEY_BITS)) | atom
    return np.int64(candidates)


@_kernel
def _sort(keys, ranked, histogram, buckets):
    """Ascending: into buckets by score, then each bucket."""
    n = keys.shape[0]
    if n == 0:
        return
    low, high = keys[0], keys[0]
    for at in range(n):
        low, high = min(low, keys[at]), max(high, keys[at])
    low, high = low >> U(2 * KEY_BITS), high >> U(2 * KEY_BITS)
    scale = np.float32(BUCKETS - 1) / np.float32(max(U(1), high - low))
    for at in range(n):
        buckets[at] = np.uint16(np.float32(np.int64((keys[at] >> U(2 * KEY_BITS)) - low)) * scale)
    _count(buckets, n, histogram)
    for at in range(n):
        bucket = U(buckets[at])
        ranked[U(histogram[bucket])] = keys[at]
        histogram[bucket] += 1
    begin = 0
    for bucket in range(BUCKETS):  # where it began, the next one stops now
        stop = np.int64(histogram[bucket])
        if stop - begin > 64:
            ranked[begin:stop].sort()
        else:
            for at in range(begin + 1, stop):
                key, place = ranked[at], at
                while place > begin and ranked[U(place - 1)] > key:
                    ranked[U(place)] = ranked[U(place - 1)]
                    place -= 1
                ranked[U(place)] = key
        begin = stop


@_kernel
def _deal(keys, masks, open_cells, counts, found):
    counts[:] = 0
    open_cells[:] = ~U(0)
    for at in range(keys.shape[0]):
        atom = keys[at] & U((1 << KEY_BITS) - 1)
        for group in range(0, masks.shape[1], WORDS):
            if not _any_open(masks, atom, open_cells, U(group)):
                continue
            for word in range(group, group + WORDS):
                bits = masks[atom, U(word)] & open_cells[U(word)]
                while bits:
                    cell = U(word) * U(64) + U(trailing_zeros(bits))
                    count = counts[cell]
                    found[cell, U(count)] = keys[at]
                    counts[cell] = count + 1
                    if count == K - 1:
                        open_cells[U(word)] ^= bits & (~bits + U(1))
                    bits &= bits - U(1)


@_kernel
def _merge(found, counts, first, best, best_scores):
    """Merge a panel's lists, indices counted from `first`, into the lists so far; both in the order of lists."""
    for cell in range(best.shape[0]):
        if best[cell, 0] < 0:
            for at in range(counts[cell]):
                best[cell, at], best_scores[cell, at] = _item(found[cell, at], first)
        else:
            for at in range(counts[cell]):
                if not _insert(best[cell], best_scores[cell], *_item(found[cell, at], first)):
                    break  # the rest ranks lower still


@_kernel
def _item(key, first):
    index = np.int32((key >> U(KEY_BITS)) & U((1 << KEY_BITS) - 1)) + np.int32(first)
    return index, np.float32(ZERO - np.int64(key >> U(2 * KEY_BITS))) * np.float32(UNIT**2)


@_kernel
def _insert(items, scores, index, score):
    """Whether the item is among the best `K`, where it then stands."""
    place = K
    while place > 0 and (
        items[place - 1] < 0 or scores[place - 1] < score or (scores[place - 1] == score and items[place - 1] > index)
    ):
        place -= 1
        if place < K - 1:
            items[place + 1], scores[place + 1] = items[place], scores[place]
    if place < K:
        items[place], scores[place] = index, score
    return place < K
