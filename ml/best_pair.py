"""Products of several images: two are as alike as the most alike pair of their images.

An image's *layer* is its number among those of its product, from 0. Of each layer of queries and each layer of products
`ml.cube` gives the shortlists, as if products had those images alone. Together they hold every item that the best pair
asks for, with its score: let q be among the n best of a cell by best pair, n its depth, and i and j be the images that
make up its pair. A product whose image in the layer of j is more like i than j is has a best pair of at least that, so
it ranks before q; there are fewer than n such. So q is among the n best of the cell by image i in the layer of j, with
the score of its pair. What else is there has at most its true score, and so no place among the n best of any cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ml.cells import Cells

_Shortlists = tuple[np.ndarray, np.ndarray, np.ndarray]


def layer_members(images: np.ndarray, layer: int) -> np.ndarray:
    """int64, ascending: the products that have an image in a layer; `images` int (n,) counts those of each."""
    return np.flatnonzero(images > layer)


def layer_cells(cells: Cells, members: np.ndarray) -> Cells:
    """The cells as `ml.cube` takes them for a layer, whose products are numbered in the order of its members."""
    return replace(cells, atoms=cells.atoms[members])


def merge(found: Sequence[tuple[np.ndarray, _Shortlists]], own: np.ndarray, cells: Cells) -> _Shortlists:
    """The shortlists of q queries by best pair, from those of all pairs of layers.

    Args:
        found: of each pair the query that each of its shortlists is of, int64 (r,), and the shortlists, as
            `ml.cube.shortlists` gives them, with items numbered as the catalogue has them.
        own: int64 (q,), each query's own index in the catalogue.
        cells: those of all products.

    Returns:
        As `ml.cube.shortlists`: where each begins, int64 (q + 1,), int32 items, float32 scores.
    """
    queries = np.concatenate([np.repeat(of, np.diff(starts)) for of, (starts, _, _) in found])
    items, scores = (np.concatenate([shortlists[at] for _, shortlists in found]) for at in (1, 2))
    kept = items != own[queries]
    queries, items, scores = queries[kept], items[kept], scores[kept]
    order = np.lexsort((-scores, items, queries))
    queries, items, scores = queries[order], items[order], scores[order]
    first = np.ones(len(items), bool)
    first[1:] = (queries[1:] != queries[:-1]) | (items[1:] != items[:-1])
    queries, items, scores = queries[first], items[first], scores[first]
    order = np.lexsort((items, -scores, queries))
    queries, items, scores = queries[order], items[order], scores[order]
    starts = np.searchsorted(queries, np.arange(len(own) + 1))
    by_query = [_taken(items[start:end], cells) for start, end in zip(starts[:-1], starts[1:], strict=True)]
    sizes = [int(of_query.sum()) for of_query in by_query]
    taken = np.concatenate([np.zeros(0, bool), *by_query])
    return np.append(0, np.cumsum(sizes, dtype=np.int64)), items[taken].astype(np.int32), scores[taken]


def _taken(items: np.ndarray, cells: Cells) -> np.ndarray:
    """bool: which items, best first, at least one cell takes before it has its depth."""
    inside = cells.contains[cells.atoms[items]]
    return (inside & (np.cumsum(inside, axis=0) <= cells.depths)).any(axis=1)
