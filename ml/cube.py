"""The filter cube: for every query and every precomputed cell the ten most similar members, exactly.

A block of queries is multiplied with all products once; what follows costs a fraction of that product. Products are
ordered by atom (those that belong to the same cells) and cut into chunks of at most 16 that never cross an atom. Then,
for each query:

1. *maxima*: the greatest score of every chunk.
2. *bounds*: a cell's tenth greatest chunk maximum is a lower bound of its tenth score, because ten different members of
   the cell score at least as much. An atom's bound is the least among the cells that contain it. Only its minimal cells
   need one: a cell has no smaller tenth score than any cell inside it.
3. *collect*: a chunk is opened only if its maximum reaches its atom's bound; the scores in it that do are candidates.
4. *sort* the candidates once, best first, ties to the smaller index.
5. *deal* them out in that order to the cells of their atom until each has ten.

Exact, because (a) scores are fixed point, the same to the bit whatever the order of summation (`ml.similarity`); (b) a
product that is not a candidate scores less than the bound of its atom, so less than the tenth of every cell it belongs
to, and so is in no list: ties with the bound are candidates; (c) all candidates are dealt in the one total order of
lists, so a cell's first ten are its ten best.

The products' side is blocked too: a *panel* is a range of products whose lists are merged with those of the panels
before, in the same total order. So memory depends on the sizes of a block and a panel, not on the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ml.cells import Cells, find_cells
from ml.cube_kernels import BUCKETS, CHUNK, KEY_BITS, OWN, WORDS, K, best_of_block

BLOCK, ROWS = 256, 2048
"""Queries whose scores are alive at once, and queries whose lists are."""
PANEL, PANEL_BYTES = 1 << 17, 128 << 20
"""Most products of a panel, so that a block's scores take 128 MB, and most bytes of its embeddings."""


@dataclass(frozen=True)
class Panel:
    """A range of p products, ordered by atom: their embeddings and which cells they are in.

    `start` is the first one's index in the catalogue, `embeddings` float32 (p, d), `ranks` int32 (p,) each row's place
    in the range. Chunk `j` is rows `starts[j]` to `starts[j + 1]`, all of atom `chunk_atoms[j]`. `masks`
    uint64 (a, w) has bit `c % 64` of word `c // 64` set where cell `c` contains the atom; `minimal` from
    `minimal_offsets[a]` on lists the cells among them that no other such cell lies inside of.
    """

    start: int
    embeddings: np.ndarray
    ranks: np.ndarray
    starts: np.ndarray
    chunk_atoms: np.ndarray
    masks: np.ndarray
    minimal: np.ndarray
    minimal_offsets: np.ndarray
    cells: int


def panel_size(d: int) -> int:
    """Products of a panel of d-dimensional embeddings."""
    return min(PANEL, PANEL_BYTES // (4 * d))


def make_panel(embeddings: np.ndarray, start: int, cells: Cells) -> Panel:
    """The panel of products `start` to `start + len(embeddings)`; `embeddings` float32 (p, d) in fixed point.

    Raises:
        ValueError: more than 2²⁰ products.
    """
    if len(embeddings) >> KEY_BITS:
        raise ValueError(f"a panel has at most {1 << KEY_BITS} products, not {len(embeddings)}")
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
        len(cells),
    )


def _minimal(contains: np.ndarray, cells: Cells) -> np.ndarray:
    """bool (a, c): the cells that contain an atom and have no other such cell inside them."""
    sizes = np.bincount(cells.atoms, minlength=len(cells.contains)).astype(np.float64)
    whole = cells.contains.astype(np.float64)
    common = (whole * sizes[:, None]).T @ whole  # members that two cells share
    inside = (common == cells.sizes) & (cells.sizes < cells.sizes[:, None])  # [c, e]: e lies inside c, and is not c
    return contains & (contains.astype(np.float32) @ inside.T.astype(np.float32) == 0)


def _masks(cells_of_atoms: np.ndarray) -> np.ndarray:
    padded = np.pad(cells_of_atoms, ((0, 0), (0, -cells_of_atoms.shape[1] % (64 * WORDS))))
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def lists(queries: np.ndarray, own: np.ndarray, panels: Iterable[Panel]) -> tuple[np.ndarray, np.ndarray]:
    """The ten most similar members of every cell for every query: highest score first, ties to the smaller index.

    Args:
        queries: float32 (q, d), embeddings in fixed point.
        own: int64 (q,), each query's own index in the catalogue, which is never in its lists; -1 for none.
        panels: all panels of the catalogue, in any order; read one at a time.

    Returns:
        int32 (q, c, 10) indices, -1 past the end of a shorter list, and their float32 (q, c, 10) scores, 0 there.

    Works on one thread. To use several cores give each its own range of queries and BLAS one thread: threads of BLAS
    that wait for work take the time of those that have some.
    """
    best: np.ndarray | None = None
    for panel in panels:
        if best is None:
            best = np.full((len(queries), panel.cells, K), -1, np.int32)
            best_scores = np.zeros(best.shape, np.float32)
        _add_panel(queries, own - panel.start, panel, best, best_scores)
    if best is None:
        raise ValueError("no panel was given")
    return best, best_scores


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
    blocks = [rows[at : at + ROWS] for at in range(0, len(rows), ROWS)]
    blocks_of_lists = [lists(embeddings[block], place[block], panels)[0][:, 0] for block in blocks]
    listed = np.concatenate(blocks_of_lists) if blocks_of_lists else np.empty((0, K), np.int32)
    return listed if among is None else np.where(listed >= 0, among[listed], -1).astype(np.int32)


def _add_panel(queries: np.ndarray, own: np.ndarray, panel: Panel, best: np.ndarray, best_scores: np.ndarray) -> None:
    n, rows = len(panel.ranks), np.argsort(panel.ranks)
    # The 16 columns past the end let every chunk be read in full.
    scores = np.zeros((min(BLOCK, len(queries)), n + CHUNK), np.float32)
    work = _workspace(panel)
    for at in range(0, len(queries), BLOCK):
        block, here = queries[at : at + BLOCK], own[at : at + BLOCK]
        np.matmul(block, panel.embeddings.T, out=scores[: len(block), :n])
        owners = np.flatnonzero((here >= 0) & (here < n))
        scores[owners, rows[here[owners]]] = OWN
        best_of_block(
            scores[: len(block)],
            (panel.starts, panel.chunk_atoms, panel.ranks, panel.masks, panel.minimal, panel.minimal_offsets),
            work,
            panel.start,
            best[at : at + BLOCK],
            best_scores[at : at + BLOCK],
        )


def _workspace(panel: Panel) -> tuple[np.ndarray, ...]:
    """Arrays that the steps of a query write to, in the order in which `best_of_block` takes them apart."""
    n, chunks, (atoms, words) = len(panel.ranks), len(panel.chunk_atoms), panel.masks.shape
    return (
        np.empty(chunks, np.float32),  # maxima
        np.empty(chunks, np.int32),  # order
        np.empty(BUCKETS + 1, np.int32),  # histogram
        np.empty(n + chunks, np.uint16),  # buckets
        np.empty(words, np.uint64),  # open_cells
        np.empty(panel.cells, np.int64),  # counts
        np.empty(panel.cells, np.float32),  # bounds
        np.empty(atoms, np.float32),  # atom_bounds
        np.empty(chunks + 1, np.int32),  # opened
        np.empty(n + 1, np.uint64),  # rows
        np.empty(n, np.uint64),  # keys
        np.empty(n, np.uint64),  # sorted_keys
        np.empty((panel.cells, K), np.uint64),  # found
    )
