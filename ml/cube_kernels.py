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

CHUNK = 16
DIGITS = 5
"""Binary digits that count the members of a cell: none is deeper than 32."""
SEGMENT = 64
"""Members that are looked at, whether they are in an open cell, before they are dealt."""
BUCKETS = 1024
INDEX_BITS = 40
"""A candidate is one uint64: 24 bits of score, falling; then its index in the catalogue."""
ZERO = 1 << 23
OWN = np.float32(-4.0)
"""Stands for a query's score with itself: below every score."""
NONE = np.float32(-2.0)
"""The bound of a cell with fewer chunks than its depth: all scores reach it, `OWN` does not."""

NEVER = np.int16((1 << 15) - 1)

U = np.uint64
_kernel = njit(nogil=True, cache=True, error_model="numpy")


@_kernel
def add_block(scores, panel, first, cells, work, earlier, earlier_ends):
    """The shortlists of a block of queries, those that earlier panels gave with a panel's candidates: keys and ends."""
    starts, chunk_atoms, ranks, masks, minimal, minimal_offsets = panel
    atoms, all_masks, initial = cells
    maxima, order, histogram, buckets, floors, bounds, atom_bounds, opened, rows, keys, ranked = work
    shortlists, ends = np.empty(2 * earlier.shape[0] + 1024, np.uint64), np.zeros(scores.shape[0] + 1, np.int64)
    for q in range(scores.shape[0]):
        _maxima(scores[q], starts, maxima)
        _order_chunks(maxima, order, histogram, buckets)
        _bound_cells(maxima, order, chunk_atoms, masks, initial, floors, bounds)
        _bound_atoms(bounds, minimal, minimal_offsets, atom_bounds)
        n = _collect(scores[q], maxima, ranks, first, starts, chunk_atoms, atom_bounds, opened, rows, keys)
        _sort(keys[:n], ranked, histogram, buckets)
        candidates = ranked[:n]
        if earlier_ends[q + 1] > earlier_ends[q]:
            candidates = _merge(earlier[earlier_ends[q] : earlier_ends[q + 1]], candidates)
        if ends[q] + candidates.shape[0] > shortlists.shape[0]:
            larger = np.empty(2 * shortlists.shape[0] + candidates.shape[0], np.uint64)
            larger[: ends[q]] = shortlists[: ends[q]]
            shortlists = larger
        ends[q + 1] = ends[q] + _shorten(candidates, atoms, all_masks, initial, shortlists[ends[q] :])
    return shortlists[: ends[-1]].copy(), ends


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
def _bound_cells(maxima, order, chunk_atoms, masks, initial, floors, bounds):
    """Deal the chunks to their cells: the least maximum up to that with which a cell has its depth is its bound."""
    atoms, least = np.empty(order.shape[0], np.int32), np.float32(4.0)
    for place in range(order.shape[0]):
        chunk = U(order[place])
        atoms[place] = chunk_atoms[chunk]
        least = min(least, maxima[chunk])
        floors[place] = max(least, NONE)
    floors[order.shape[0]] = NONE
    _, filled = _deal(atoms, masks, initial)
    for cell in range(bounds.shape[0]):
        bounds[cell] = floors[U(filled[cell])]


@_kernel
def _deal(atoms, masks, initial):
    """Deal members of atoms, best first, to the cells that still lack some, 64 cells after the other.

    The counts of 64 cells, bit `c % 64` for cell `c`, are five words, one a binary digit: so all are counted at once,
    without a branch, in registers. A cell is full where its count, which begins with 32 less its depth, reaches 32;
    bits past the last cell are full from the start. `initial` uint64 (w, 6) has the digits and which are full.

    Returns bool (n,), which members some cell took, and int32 (c,), with which one each cell was full, n if with none.
    """
    n = atoms.shape[0]
    taken, filled = np.zeros(n, np.bool_), np.full(64 * masks.shape[0], n, np.int32)
    waiting = np.empty(SEGMENT + 1, np.int32)
    for word in range(U(masks.shape[0])):
        ones, twos, fours = initial[word, 0], initial[word, 1], initial[word, 2]
        eights, sixteens, full = initial[word, 3], initial[word, 4], initial[word, 5]
        for begin in range(0, n, SEGMENT):
            if full == ~U(0):
                break
            some = U(0)  # most are in no open cell: those are dropped first, without a branch
            for at in range(U(begin), U(min(begin + SEGMENT, n))):
                waiting[some] = at
                some += U((masks[word, U(atoms[at])] & ~full) != U(0))
            for place in range(some):
                at = U(waiting[place])
                carry = masks[word, U(atoms[at])] & ~full
                taken[at] |= carry != U(0)
                ones, carry = ones ^ carry, ones & carry
                twos, carry = twos ^ carry, twos & carry
                fours, carry = fours ^ carry, fours & carry
                eights, carry = eights ^ carry, eights & carry
                sixteens, carry = sixteens ^ carry, sixteens & carry
                full |= carry
                while carry:
                    filled[word * U(64) + U(trailing_zeros(carry))] = at
                    carry &= carry - U(1)
    return taken, filled


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
def _collect(row, maxima, ranks, first, starts, chunk_atoms, atom_bounds, opened, rows, keys):
    # Stores without a branch: what does not pass is overwritten by what comes next.
    chunks = U(0)
    for chunk in range(maxima.shape[0]):
        opened[chunks] = chunk
        chunks += U(maxima[chunk] >= atom_bounds[U(chunk_atoms[chunk])])
    candidates = U(0)
    for place in range(np.int64(chunks)):
        chunk = U(opened[place])
        bound = atom_bounds[U(chunk_atoms[chunk])]
        for at in range(U(starts[chunk]), U(starts[chunk + U(1)])):
            rows[candidates] = at
            candidates += U(row[U(at)] >= bound)
    for place in range(np.int64(candidates)):
        at = U(rows[place])
        score = U(ZERO - np.int64(row[at] * np.float32(1 / UNIT**2)))
        keys[place] = (score << U(INDEX_BITS)) | (U(ranks[at]) + U(first))
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
    low, high = low >> U(INDEX_BITS), high >> U(INDEX_BITS)
    scale = np.float32(BUCKETS - 1) / np.float32(max(U(1), high - low))
    for at in range(n):
        buckets[at] = np.uint16(np.float32(np.int64((keys[at] >> U(INDEX_BITS)) - low)) * scale)
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
def _merge(some, others):
    """Keys of two ascending arrays in ascending order."""
    merged = np.empty(some.shape[0] + others.shape[0], np.uint64)
    i = j = 0
    for at in range(merged.shape[0]):
        if j == others.shape[0] or (i < some.shape[0] and some[i] < others[j]):
            merged[at] = some[i]
            i += 1
        else:
            merged[at] = others[j]
            j += 1
    return merged


@_kernel
def _shorten(keys, all_atoms, masks, initial, shortlist):
    """Deal candidates, best first, to their cells; write those that a cell took, and count them."""
    atoms = np.empty(keys.shape[0], np.int32)
    for at in range(keys.shape[0]):
        atoms[at] = all_atoms[keys[at] & U((1 << INDEX_BITS) - 1)]
    taken, _ = _deal(atoms, masks, initial)
    n = U(0)
    for at in range(keys.shape[0]):
        shortlist[n] = keys[at]  # overwritten by what comes next where nobody took it
        n += U(taken[at])
    return np.int64(n)


@_kernel
def read_keys(keys):
    """The indices, int32, and the scores, float32, that keys are made of."""
    items, scores = np.empty(keys.shape[0], np.int32), np.empty(keys.shape[0], np.float32)
    for at in range(keys.shape[0]):
        items[at] = keys[at] & U((1 << INDEX_BITS) - 1)
        scores[at] = np.float32(ZERO - np.int64(keys[at] >> U(INDEX_BITS))) * np.float32(UNIT**2)
    return items, scores


@_kernel
def rank_filled(ends, base_cells, cells, offsets, depths):
    """Of each shortlist and cell the rank of the item with which it has as many of the cell as that is deep."""
    ranks = np.full((len(ends) - 1, len(depths)), NEVER, np.int16)
    for q in range(len(ends) - 1):
        counts = np.zeros(len(depths), np.int64)
        for at in range(ends[q], ends[q + 1]):
            for place in range(offsets[base_cells[at]], offsets[base_cells[at] + 1]):
                cell = cells[place]
                counts[cell] += 1
                if counts[cell] == depths[cell]:
                    ranks[q, cell] = min(at - ends[q] + 1, NEVER - 1)
    return ranks
