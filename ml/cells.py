"""Attributes → filter combinations → cells: sets of products that a filter leaves over.

The terms are those of data cubes (Gray et al., "Data Cube", 1997): all combinations over the fields are the cuboids of
the cube. They are counted over the distinct attribute tuples, of which there are far fewer than products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.closed_sets import combinations, find_closed_sets

DEPTH = 10
"""Items of an answer, which a shortlist gives under every filter that is made of precomputed cells."""
DEEP, LARGE = 20, 6000
"""Depth of cells of more members than that: to compare them all, as too many are left out by their ids, takes long."""
MOST_CELLS, MOST_MEMBERS = 512, 96
"""Of cells, so that a shortlist takes some 4 kB; and of cells that a product is in, on average: with that the time
grows that its shortlist takes. Kaggle's seven fields have 440 and 30 (benchmarks/RESULTS.md)."""
MOST_VALUES, MOST_COMBINATIONS = 8192, 2048
"""Of values, those of most products, that cells are made with; and of filter combinations that are listed."""

ROOM = MOST_CELLS, MOST_MEMBERS, MOST_VALUES, MOST_COMBINATIONS
"""What the cells of a catalogue follow from beside it."""
BLOCK = 8192
"""Base cells that are looked at at once, so that memory does not grow with them."""


@dataclass(frozen=True)
class Cells:
    """The precomputed cells, and which of them each product belongs to.

    `filters[i]` lists the filter combinations (field → value) that have just the members of cell `i`; `sizes` int64
    (c,) counts those; `depths` int32 (c,) says how many of them, the most similar ones, every shortlist holds. An
    *atom* is the set of products that belong to exactly the same cells: `atoms` int32 (n,) is each product's atom, and
    `contains` bool (a, c) says which cells contain an atom. `inside` bool (c, c) has `[i, j]` set where cell `j` lies
    inside another cell `i`.
    """

    filters: list[list[dict[str, str]]]
    sizes: np.ndarray
    depths: np.ndarray
    atoms: np.ndarray
    contains: np.ndarray
    inside: np.ndarray

    def __len__(self) -> int:
        return len(self.filters)

    def members(self, cell: int) -> np.ndarray:
        """int64, ascending: indices of the products of a cell."""
        return np.flatnonzero(self.contains[:, cell][self.atoms])


def find_cells(values: Mapping[str, Sequence[str | None]], n: int, cell_min: int, depth: int = DEPTH) -> Cells:
    """The cell of the empty filter, whatever its size, and those of filter combinations with enough members.

    Args:
        values: field → the n products' values; None or "" never matches a filter.
        n: number of products.
        cell_min: members a cell needs, the empty filter's excepted.
        depth: that of a cell; one of more than `LARGE` members has `DEEP`, if that is more.

    Combinations with the same members share one cell. Cells come in the order of their first combinations: fewest
    fields first, then by field and value. Where more qualify than `MOST_CELLS` and `MOST_MEMBERS` allow, those are kept
    whose combinations have the fewest fields, and of these the largest: few people ask by many fields, and the members
    of a filter without a cell are compared. Of their combinations the first `MOST_COMBINATIONS` in that order are
    listed, and each cell's first one.
    """
    labels, codes = zip(*map(_encode, values.values()), strict=True) if values else ((), ())
    names = [(field, label) for field, of_field in zip(values, labels, strict=True) for label in of_field]
    offsets = np.cumsum([0, *map(len, labels)])
    chosen = _largest(codes, offsets[:-1], cell_min)
    items = np.zeros(len(names), np.int64)
    items[chosen] = np.arange(1, len(chosen) + 1)
    columns = [items[offset + column] for offset, column in zip(offsets[:-1], codes, strict=True)]
    tuple_of, first, counts = _groups(columns, n)
    table = np.array([column[first] for column in columns], np.int64).reshape(len(columns), len(first)).T
    fields = np.append(-1, np.searchsorted(offsets, chosen, side="right") - 1)
    sets = find_closed_sets(np.ascontiguousarray(table), counts, fields, cell_min, (MOST_CELLS, MOST_MEMBERS * n))
    listed = combinations(sets, cell_min, MOST_COMBINATIONS)
    order = sorted(range(len(sets)), key=lambda at: sets.rank(listed[at][0]))
    atoms, atom_of_tuple = _distinct_rows(np.array([sets.inside[at] for at in order]).T)
    sizes = np.array([sets.counts[at][0] for at in order])
    return Cells(
        [[dict(names[chosen[item - 1]] for item in combination) for combination in listed[at]] for at in order],
        sizes,
        np.where(sizes > LARGE, max(depth, DEEP), depth).astype(np.int32),
        atom_of_tuple[tuple_of].astype(np.int32),
        atoms,
        sets.containing()[np.ix_(order, order)],
    )


def _largest(codes: Sequence[np.ndarray], offsets: np.ndarray, least: int) -> np.ndarray:
    """int64, ascending: the values that enough products have, each its code after the offset of its field's codes."""
    sizes = np.concatenate([np.zeros(0, np.int64), *(np.bincount(column, minlength=1) for column in codes)])
    sizes[offsets] = 0  # a missing value never matches
    largest = np.argsort(-sizes, kind="stable")[:MOST_VALUES]
    return np.sort(largest[sizes[largest] >= least])


def _distinct_rows(contains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of bool (t, c), in order, and int64 (t,), which one each row is."""
    packed = np.packbits(contains, axis=1)  # compared eight at a time
    keys = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").ravel()
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return contains[first], which


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

    def by_value(self, field: str) -> list[np.ndarray]:
        """int64, ascending: of each of a field's labels the base cells that have it."""
        codes = self.codes[field]
        order = np.argsort(codes, kind="stable")
        return np.split(order, np.searchsorted(codes[order], np.arange(1, len(self.labels[field]))))


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
    containing = ~np.eye(len(members), dtype=bool)
    for at in range(0, members.shape[1], BLOCK):
        counted = members[:, at : at + BLOCK].astype(np.float32)
        containing &= counted @ counted.T == counted.sum(axis=1)[:, None]
    return containing


def meeting(members: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Which of c cells have a base cell of each of s sets of these: bool (s, c); `members` bool (b, c)."""
    meeting = np.zeros((len(sets), members.shape[1]), bool)
    filled = [at for at, base_cells in enumerate(sets) if len(base_cells)]
    starts = np.cumsum([0, *(len(sets[at]) for at in filled[:-1])])
    meeting[filled] = np.logical_or.reduceat(members[np.concatenate(sets)], starts, axis=0)
    return meeting


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
