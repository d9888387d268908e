"""Attributes → filter combinations → cells: sets of products that a filter leaves over.

The terms are those of data cubes (Gray et al., "Data Cube", 1997): all combinations over the fields are the cuboids of
the cube. They are counted over the distinct attribute tuples, of which there are far fewer than products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np


@dataclass(frozen=True)
class Cells:
    """The precomputed cells, and which of them each product belongs to.

    `filters[i]` lists the filter combinations (field → value) that have just the members of cell `i`; `sizes` int64
    (c,) counts those. An *atom* is the set of products that belong to exactly the same cells: `atoms` int32 (n,) is
    each product's atom, and `contains` bool (a, c) says which cells contain an atom.
    """

    filters: list[list[dict[str, str]]]
    sizes: np.ndarray
    atoms: np.ndarray
    contains: np.ndarray

    def __len__(self) -> int:
        return len(self.filters)

    def members(self, cell: int) -> np.ndarray:
        """int64, ascending: indices of the products of a cell."""
        return np.flatnonzero(self.contains[:, cell][self.atoms])


def find_cells(values: Mapping[str, Sequence[str | None]], n: int, cell_min: int) -> Cells:
    """The cell of the empty filter, whatever its size, and that of every filter combination with enough members.

    Args:
        values: field → the n products' values; None or "" never matches a filter.
        n: number of products.
        cell_min: members a cell needs, the empty filter's excepted.

    Combinations with the same members share one cell. Cells come in the order they are met: fewest fields first, then
    by field and value.
    """
    names = list(values)
    labels, codes = zip(*(_encode(values[name]) for name in names), strict=True) if names else ((), ())
    tuple_of, first, counts = _groups(codes, n)
    tuples = [column[first] for column in codes]
    cells: dict[bytes, tuple[np.ndarray, list[dict[str, str]]]] = {}
    for fields in chain.from_iterable(combinations(range(len(names)), size) for size in range(len(names) + 1)):
        known = np.arange(len(first))  # the tuples that have a value in each of these fields
        for f in fields:
            known = known[tuples[f][known] > 0]
        group, representative, _ = _groups([tuples[f][known] for f in fields], len(known))
        members = np.bincount(group, weights=counts[known], minlength=len(representative))
        for chosen in np.flatnonzero(members >= cell_min) if fields else range(len(representative)):
            inside = np.zeros(len(first), bool)
            inside[known[group == chosen]] = True
            at = known[representative[chosen]]
            combination = {names[f]: labels[f][tuples[f][at]] for f in fields}
            cells.setdefault(np.packbits(inside).tobytes(), (inside, []))[1].append(combination)
    contains = np.array([inside for inside, _ in cells.values()], bool).T.reshape(len(first), len(cells))
    atoms, atom_of_tuple = np.unique(contains, axis=0, return_inverse=True)
    return Cells(
        [filters for _, filters in cells.values()],
        (counts @ contains).astype(np.int64),
        atom_of_tuple.ravel()[tuple_of].astype(np.int32),
        atoms,
    )


def _encode(column: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """Labels, and int64 codes that index them; the missing value is code 0, the others follow in order."""
    labels = ["", *sorted({value for value in column if value})]
    place = {label: code for code, label in enumerate(labels)}
    return labels, np.fromiter((place[value or ""] for value in column), np.int64, len(column))


def _groups(columns: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with equal values in all columns: each row's group, each group's first row and size, in order of values."""
    key = np.zeros(n, np.int64)
    for column in columns:  # dense after every column, so that no product of cardinalities overflows
        key = np.unique(key * (column.max(initial=0) + 1) + column, return_inverse=True)[1]
    _, first, group, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    return group, first, counts
