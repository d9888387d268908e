"""Attributes → filter combinations → cells: sets of products that a filter leaves over.

The terms are those of data cubes (Gray et al., "Data Cube", 1997): all combinations over the fields are the cuboids of
the cube. They are counted over the distinct attribute tuples, of which there are far fewer than products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

DEPTH = 10
"""Items of an answer, which a shortlist gives under every filter that is made of precomputed cells."""
DEEP, LARGE = 20, 6000
"""Depth of cells of more members than that: to compare them all, as too many are left out by their ids, takes long."""


@dataclass(frozen=True)
class Cells:
    """The precomputed cells, and which of them each product belongs to.

    `filters[i]` lists the filter combinations (field → value) that have just the members of cell `i`; `sizes` int64
    (c,) counts those; `depths` int32 (c,) says how many of them, the most similar ones, every shortlist holds. An
    *atom* is the set of products that belong to exactly the same cells: `atoms` int32 (n,) is each product's atom, and
    `contains` bool (a, c) says which cells contain an atom.
    """

    filters: list[list[dict[str, str]]]
    sizes: np.ndarray
    depths: np.ndarray
    atoms: np.ndarray
    contains: np.ndarray

    def __len__(self) -> int:
        return len(self.filters)

    def members(self, cell: int) -> np.ndarray:
        """int64, ascending: indices of the products of a cell."""
        return np.flatnonzero(self.contains[:, cell][self.atoms])


def find_cells(values: Mapping[str, Sequence[str | None]], n: int, cell_min: int, depth: int = DEPTH) -> Cells:
    """The cell of the empty filter, whatever its size, and that of every filter combination with enough members.

    Args:
        values: field → the n products' values; None or "" never matches a filter.
        n: number of products.
        cell_min: members a cell needs, the empty filter's excepted.
        depth: that of a cell; one of more than `LARGE` members has `DEEP`, if that is more.

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
    sizes = (counts @ contains).astype(np.int64)
    return Cells(
        [filters for _, filters in cells.values()],
        sizes,
        np.where(sizes > LARGE, max(depth, DEEP), depth).astype(np.int32),
        atom_of_tuple.ravel()[tuple_of].astype(np.int32),
        atoms,
    )


@dataclass(frozen=True)
class Numbering:
    """Products numbered in the order of their base cells, these sorted by the fields, missing values first.

    `order` int64 (n,): the product at each position; within a base cell they keep their order. Base cell `b` is
    positions `starts[b]` to `starts[b + 1]`; `labels` has each field's values, "" for none first, and `codes` int64
    (b,) for each field the place in them of a base cell's value.
    """

    order: np.ndarray
    starts: np.ndarray
    labels: dict[str, list[str]]
    codes: dict[str, np.ndarray]

    @property
    def base_cells(self) -> np.ndarray:
        """int64 (n,): the base cell of each position."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def passing(self, filters: Mapping[str, str]) -> np.ndarray:
        """bool (b,): the base cells that have all these values ("": none).

        Raises:
            ValueError: no product has one of them.
        """
        passing = np.ones(len(self.starts) - 1, bool)
        for field, value in filters.items():
            passing &= self.codes[field] == self.labels[field].index(value)
        return passing


def number(values: Mapping[str, Sequence[str | None]], n: int) -> Numbering:
    """Number n products by their values; `values` as `find_cells` takes them."""
    labels, codes = zip(*map(_encode, values.values()), strict=True) if values else ((), ())
    base_cells, first, sizes = _groups(codes, n)
    return Numbering(
        np.argsort(base_cells, kind="stable"),
        np.append(0, np.cumsum(sizes)),
        dict(zip(values, labels, strict=True)),
        {field: column[first] for field, column in zip(values, codes, strict=True)},
    )


def supersets(members: np.ndarray) -> np.ndarray:
    """Which other cells contain each of c cells: bool (c, c); `members` bool (c, b) are a cell's base cells."""
    counted = members.astype(np.float32)
    containing = counted @ counted.T == counted.sum(axis=1)[:, None]
    np.fill_diagonal(containing, False)
    return containing


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
