"""The filter cube: a shortlist for every query, from which the answer under every filter is read, exactly.

A *shortlist* holds, best first, each product that is among the most similar members of at least one precomputed cell:
among its first `depths` of them. A block of queries is multiplied with all products once; what follows costs a fraction
of that product. Products are ordered by atom (those that belong to the same cells) and cut into chunks of at most 16
that never cross an atom. Then, for each query:

1. *maxima*: the greatest score of every chunk.
2. *bounds*: a cell's n-th greatest chunk maximum, n its depth, is a lower bound of its n-th score, because n different
   members of the cell score at least as much. An atom's bound is the least among the cells that contain it. Only its
   minimal cells need one: a cell's is no smaller than that of any cell inside it that is as deep.
3. *collect*: a chunk is opened only if its maximum reaches its atom's bound; the scores in it that do are candidates.
4. *sort* the candidates once, best first, ties to the smaller index.
5. *deal* them out in that order to the cells of their atom until each has its depth. The shortlist is those that at
   least one cell took.

Exact, because (a) scores are fixed point, the same to the bit whatever the order of summation (`ml.similarity`); (b) a
product that is not a candidate scores less than the bound of its atom, so less than the n-th of every cell it belongs
to, and so is in no shortlist: ties with the bound are candidates; (c) all candidates are dealt in the one total order,
so what a cell takes are its best.

The products' side is blocked too: a *panel* is a range of products. What the panels before gave is dealt again with a
panel's candidates, which loses nothing: a cell's best of all are among its best of their panel. So memory depends on
the sizes of a block and a panel, not on the catalogue.

The rule
--------
Let a filter leave the set F, and let E be left out by id. Read the shortlist, best first, until k of its items are in F
and not in E; the last of these is y. What was read before y (all, if there is no y) is *before*. A cell, inside F or
not, is *settled* if fewer items of before are in it than it is deep. The answer is the best k of the items found so and
of F's members outside all settled cells, without E.

Proof. Let z be an item of the answer that is neither in the shortlist nor outside all settled cells: it is in a settled
cell c. As it is not in the shortlist, it is not among the best n of c, n the depth of c: these are in the shortlist and
rank before z. If there is a y, z ranks before it, as otherwise k items that are in F and not in E are better than z. So
n items of before are in c, and c is not settled: a contradiction. Everything else is compared, in the one total order.

If fewer items come before y than the cell of all products is deep, that is settled and nothing is compared. If cells
inside F cover it, E is empty and k is at most the least depth, neither: fewer than k items of before are in F.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ml.cells import DEPTH, Cells, find_cells
from ml.cube_kernels import BUCKETS, CHUNK, DIGITS, OWN, add_block, rank_filled, read_keys

BLOCK, ROWS = 256, 2048
"""Queries whose scores are alive at once, and queries whose shortlists are."""
PANEL, PANEL_BYTES = 1 << 17, 128 << 20
"""Most products of a panel, so that a block's scores take 128 MB, and most bytes of its embeddings."""


@dataclass(frozen=True)
class Panel:
    """A range of p products, ordered by atom: their embeddings and which cells they are in.

    `start` is the first one's index in the catalogue, `embeddings` float32 (p, d), `ranks` int32 (p,) each row's place
    in the range. Chunk `j` is rows `starts[j]` to `starts[j + 1]`, all of atom `chunk_atoms[j]`. `masks`
    uint64 (w, a) has bit `c % 64` of word `c // 64` set where cell `c` contains the atom; `minimal` from
    `minimal_offsets[a]` on lists the cells among them that no other such cell, as deep, lies inside of.
    """

    start: int
    embeddings: np.ndarray
    ranks: np.ndarray
    starts: np.ndarray
    chunk_atoms: np.ndarray
    masks: np.ndarray
    minimal: np.ndarray
    minimal_offsets: np.ndarray


def panel_size(d: int) -> int:
    """Products of a panel of d-dimensional embeddings."""
    return min(PANEL, PANEL_BYTES // (4 * d))


def make_panel(embeddings: np.ndarray, start: int, cells: Cells) -> Panel:
    """The panel of products `start` to `start + len(embeddings)`; `embeddings` float32 (p, d) in fixed point."""
    present, atoms = np.unique(cells.atoms[start : start + len(embeddings)], return_inverse=True)
    contains = cells.contains[present]
    ranks = np.argsort(atoms, kind="stable")
    sizes = np.bincount(atoms, minlength=len(present))
    chunks = -(-sizes // CHUNK)
    chunk_atoms = np.repeat(np.arange(len(present)), chunks)
    within = np.arange(len(chunk_atoms)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    starts = np.repeat(np.cumsum(sizes) - sizes, chunks) + within * CHUNK
    minimal = _minimal(contains, cells)
    return Panel(
        start,
        np.ascontiguousarray(embeddings[ranks]),
        ranks.astype(np.int32),
        np.append(starts, len(ranks)).astype(np.int32),
        chunk_atoms.astype(np.int32),
        _masks(contains),
        np.nonzero(minimal)[1].astype(np.int32),
        np.append(0, np.cumsum(minimal.sum(axis=1))).astype(np.int32),
    )


def _minimal(contains: np.ndarray, cells: Cells) -> np.ndarray:
    """bool (a, c): the cells that contain an atom and have no other such cell, as deep, inside them."""
    inside = (cells.inside & (cells.depths >= cells.depths[:, None])).T.astype(np.float32)
    blocks = [contains[at : at + ROWS] for at in range(0, len(contains), ROWS)]
    return np.concatenate([block & (block.astype(np.float32) @ inside == 0) for block in blocks])


def _masks(bits: np.ndarray) -> np.ndarray:
    """uint64 (w, n): bit `c % 64` of `[c // 64, i]` is `bits[i, c]`; `bits` bool (n, c)."""
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 64)))
    return np.ascontiguousarray(np.packbits(padded, axis=1, bitorder="little").view(np.uint64).T)


def shortlists(
    queries: np.ndarray, own: np.ndarray, panels: Iterable[Panel], cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shortlist of every query: highest score first, ties to the smaller index.

    Args:
        queries: float32 (q, d), embeddings in fixed point.
        own: int64 (q,), each query's own index in the catalogue, which is never in its shortlist; -1 for none.
        panels: all panels of the catalogue, in any order; read one at a time.
        cells: the cells that the panels were made with.

    Returns:
        int64 (q + 1,), where the shortlist of each query begins and the last ends, int32 (m,) indices and their float32
        (m,) scores.

    Raises:
        ValueError: a cell is deeper than 32.

    Works on one thread. To use several cores give each its own range of queries and BLAS one thread: threads of BLAS
    that wait for work take the time of those that have some.
    """
    if cells.depths.max() > 1 << DIGITS:
        raise ValueError(f"a cell is {cells.depths.max()} deep: {1 << DIGITS} is the most")
    blocks = [slice(at, at + BLOCK) for at in range(0, len(queries), BLOCK)]
    sizes = [len(queries[block]) for block in blocks]
    kept = [(np.empty(0, np.uint64), np.zeros(size + 1, np.int64)) for size in sizes]
    digits = (1 << DIGITS) - cells.depths >> np.arange(DIGITS)[:, None] & 1 == 1
    initial = np.hstack([_masks(digits), ~_masks(np.ones((1, len(cells)), bool))])
    of_cells = cells.atoms, _masks(cells.contains), initial
    for panel in panels:
        kept = _add_panel([(queries[block], own[block]) for block in blocks], panel, of_cells, kept)
    keys = np.concatenate([keys for keys, _ in kept]) if kept else np.empty(0, np.uint64)
    lengths = np.concatenate([np.diff(ends) for _, ends in kept]) if kept else np.empty(0, np.int64)
    return np.append(0, np.cumsum(lengths)), *read_keys(keys)


def filled_at(ends: np.ndarray, base_cells: np.ndarray, contains: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """At which item shortlists hold as many members of cells as these are deep; whether one is settled follows from it.

    Args:
        ends: int64 (n + 1,), where each shortlist begins and the last ends.
        base_cells: int64 (m,), that of each item of all.
        contains: bool (b, w), which of the cells contain a base cell.
        depths: int32 (w,), those of the cells.

    Returns:
        int16 (n, w), that item's rank from 1, 32,767 where there is none. A cell is settled if y, of the rule above,
        ranks no later. (A later rank than 32,766 is given as that: then the cell is not taken for settled.)
    """
    offsets = np.append(0, np.cumsum(contains.sum(axis=1)))
    return rank_filled(ends, base_cells, np.nonzero(contains)[1], offsets, depths)


def neighbours(embeddings: np.ndarray, rows: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """The ten most similar of n products for those in `rows`, without filter: int32 (m, 10), −1 past a shorter end.

    Args:
        embeddings: float32 (n, d), in fixed point.
        rows: int64 (m,), indices among the n.
        among: int (p,), ascending, indices of the products that are searched; None: all.
    """
    searched, place = embeddings, np.arange(len(embeddings))
    if among is not None:
        searched, place = embeddings[among], np.full(len(embeddings), -1)
        place[among] = np.arange(len(among))
    cells, size = find_cells({}, len(searched), 1), panel_size(embeddings.shape[1])
    panels = [make_panel(searched[at : at + size], at, cells) for at in range(0, len(searched), size)]
    listed = np.full((len(rows), DEPTH), -1, np.int32)
    for at in range(0, len(rows), ROWS):
        block = rows[at : at + ROWS]
        starts, items, _ = shortlists(embeddings[block], place[block], panels, cells)
        rank = np.arange(len(items)) - np.repeat(starts[:-1], np.diff(starts))
        query = np.repeat(np.arange(at, at + len(block)), np.diff(starts))
        listed[query[rank < DEPTH], rank[rank < DEPTH]] = items[rank < DEPTH]
    return listed if among is None else np.where(listed >= 0, among[listed], -1).astype(np.int32)


def _add_panel(
    blocks: Sequence[tuple[np.ndarray, np.ndarray]],
    panel: Panel,
    of_cells: tuple[np.ndarray, ...],
    kept: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The keys of shortlists and their ends, a block of queries each, after another panel."""
    n, rows, added = len(panel.ranks), np.empty_like(panel.ranks), []
    rows[panel.ranks] = np.arange(n)
    # The 16 columns past the end let every chunk be read in full.
    scores = np.zeros((max((len(block) for block, _ in blocks), default=0), n + CHUNK), np.float32)
    of_panel = (panel.starts, panel.chunk_atoms, panel.ranks, panel.masks, panel.minimal, panel.minimal_offsets)
    work = _workspace(panel)
    for (block, own), (keys, ends) in zip(blocks, kept, strict=True):
        np.matmul(block, panel.embeddings.T, out=scores[: len(block), :n])
        here = own - panel.start
        owners = np.flatnonzero((here >= 0) & (here < n))
        scores[owners, rows[here[owners]]] = OWN
        added.append(add_block(scores[: len(block)], of_panel, panel.start, of_cells, work, keys, ends))
    return added


def _workspace(panel: Panel) -> tuple[np.ndarray, ...]:
    """Arrays that the steps of a query write to, in the order in which `add_block` takes them apart."""
    n, chunks, (words, atoms) = len(panel.ranks), len(panel.chunk_atoms), panel.masks.shape
    return (
        np.empty(chunks, np.float32),  # maxima
        np.empty(chunks, np.int32),  # order
        np.empty(BUCKETS + 1, np.int32),  # histogram
        np.empty(n + chunks, np.uint16),  # buckets
        np.empty(chunks + 1, np.float32),  # floors
        np.empty(64 * words, np.float32),  # bounds
        np.empty(atoms, np.float32),  # atom_bounds
        np.empty(chunks + 1, np.int32),  # opened
        np.empty(n + 1, np.int32),  # rows
        np.empty(n, np.uint64),  # keys
        np.empty(n, np.uint64),  # ranked
    )
