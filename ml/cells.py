"""Attributes → filter combinations → cells: sets of products that a filter leaves over.

The terms are those of data cubes (Gray et al., "Data Cube", 1997): all combinations over the fields are the cuboids of
the cube. They are counted over the distinct attribute tuples, of which there are far fewer than products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

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

Value = str | Sequence[str] | None
"""What a product has in a field: a value, several of which each passes a filter, or none (None, "" or no values)."""
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


def find_cells(values: Mapping[str, Sequence[Value]], n: int, cell_min: int, depth: int = DEPTH) -> Cells:
    """The cell of the empty filter, whatever its size, and those of filter combinations with enough members.

    Args:
        values: field → what each of the n products has in it.
        n: number of products.
        cell_min: members a cell needs, the empty filter's excepted.
        depth: that of a cell; one of more than `LARGE` members has `DEEP`, if that is more.

    Combinations with the same members share one cell. Cells come in the order of their first combinations: fewest
    fields first, then by field and value. Where more qualify than `MOST_CELLS` and `MOST_MEMBERS` allow, those are kept
    whose combinations have the fewest fields, and of these the largest: few people ask by many fields, and the members
    of a filter without a cell are compared. Of their combinations the first `MOST_COMBINATIONS` in that order are
    listed, and each cell's first one.
    """
    encoded = [_encode(column) for column in values.values()]
    names = [(field, label) for field, column in zip(values, encoded, strict=True) for label in column.labels]
    offsets = np.cumsum([0, *(len(column.labels) for column in encoded)])
    chosen = _largest(encoded, cell_min)
    items = np.zeros(len(names), np.int64)
    items[chosen] = np.arange(1, len(chosen) + 1)
    reduced = [_reduced(column, items[offset:]) for offset, column in zip(offsets[:-1], encoded, strict=True)]
    tuple_of, first, counts = _groups([codes for _, codes in reduced], n)
    columns = [of_set[codes[first]] for of_set, codes in reduced]
    fields = np.append(-1, np.searchsorted(offsets, chosen, side="right") - 1)
    sets = find_closed_sets(columns, counts, fields, cell_min, (MOST_CELLS, MOST_MEMBERS * n))
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


def _largest(encoded: Sequence[_Encoded], least: int) -> np.ndarray:
    """int64, ascending: the values that enough products have, each its code after all those of the fields before."""
    sizes = np.concatenate([np.zeros(0, np.int64), *(column.sizes() for column in encoded)])
    largest = np.argsort(-sizes, kind="stable")[:MOST_VALUES]
    return np.sort(largest[sizes[largest] >= least])


def _reduced(column: _Encoded, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left of a column of the values that are items: the items of each set, int64 (s, v), and codes of sets.

    `items` has the number of each label, 0 for those that are none; so has a set's row where it has fewer than v.
    """
    left = [tuple(item for item in items[list(members)].tolist() if item) for members in column.sets]
    sets = sorted(set(left))
    place = {members: code for code, members in enumerate(sets)}
    of_set = np.zeros((len(sets), max(1, *map(len, sets))), np.int64)
    for code, members in enumerate(sets):
        of_set[code, : len(members)] = members
    return of_set, np.array([place[members] for members in left])[column.codes]


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
    positions `starts[b]` to `starts[b + 1]`. `labels` has each field's values, "" for none first, and `having` of each
    of these the base cells that have it, int64, ascending. `several` are the fields of which a product may have more
    than one value.
    """

    order: np.ndarray
    starts: np.ndarray
    labels: dict[str, list[str]]
    having: dict[str, list[np.ndarray]]
    several: frozenset[str]

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
            of_value = np.zeros_like(passing)
            of_value[self.having[field][self.labels[field].index(value)]] = True
            passing &= of_value
        return passing


def number(values: Mapping[str, Sequence[Value]], n: int) -> Numbering:
    """Number n products by their values; `values` as `find_cells` takes them."""
    encoded = {field: _encode(column) for field, column in values.items()}
    base_cells, first, sizes = _groups([column.codes for column in encoded.values()], n)
    return Numbering(
        np.argsort(base_cells, kind="stable"),
        np.append(0, np.cumsum(sizes)),
        {field: column.labels for field, column in encoded.items()},
        {field: column.having(column.codes[first]) for field, column in encoded.items()},
        frozenset(field for field, column in encoded.items() if any(len(members) > 1 for members in column.sets)),
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


def holding(members: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Which of c cells have no base cell but those of each of s sets of these: bool (s, c); `members` bool (b, c)."""
    sizes = members.sum(axis=0)
    return np.array([members[base_cells].sum(axis=0) == sizes for base_cells in sets])


@dataclass(frozen=True)
class _Encoded:
    """A column: its values in order, after "" for none; its distinct sets of these, in order, of each the codes of its
    labels, ascending, the empty set first; and the set of each product, int64 (n,)."""

    labels: list[str]
    sets: list[tuple[int, ...]]
    codes: np.ndarray

    def sizes(self) -> np.ndarray:
        """int64: how many products have each value, of "" none."""
        sizes = np.zeros(len(self.labels), np.int64)
        for members, products in zip(self.sets, np.bincount(self.codes, minlength=len(self.sets)), strict=True):
            sizes[list(members)] += products
        return sizes

    def having(self, sets: np.ndarray) -> list[np.ndarray]:
        """int64, ascending: of each label the base cells that have it; `sets` int64 (b,) are those of base cells."""
        order = np.argsort(sets, kind="stable")
        of_set = np.split(order, np.searchsorted(sets[order], np.arange(1, len(self.sets))))
        having: list[list[np.ndarray]] = [[] for _ in self.labels]
        for members, base_cells in zip(self.sets, of_set, strict=True):
            for label in members or (0,):
                having[label].append(base_cells)
        return [np.sort(np.concatenate(base_cells)) if base_cells else order[:0] for base_cells in having]


def _encode(column: Sequence[Value]) -> _Encoded:
    given = [value if isinstance(value, str) else tuple(value or ()) for value in column]
    values = {value: (value,) if isinstance(value, str) else value for value in set(given)}
    labels = sorted(set(chain.from_iterable(values.values())) - {""})
    place = {label: code for code, label in enumerate(labels, 1)}
    members = {value: tuple(sorted({place[label] for label in of_it if label})) for value, of_it in values.items()}
    sets = sorted({(), *members.values()})
    codes = {of_it: code for code, of_it in enumerate(sets)}
    return _Encoded(["", *labels], sets, np.fromiter((codes[members[value]] for value in given), np.int64, len(given)))


def _groups(columns: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with equal values in all columns: each row's group, each group's first row and size, in order of values."""
    key = np.zeros(n, np.int64)
    for column in columns:  # dense after every column, so that no product of cardinalities overflows
        key = np.unique(key * (column.max(initial=0) + 1) + column, return_inverse=True)[1]
    _, first, group, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    return group, first, counts
