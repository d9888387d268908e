"""Which sets of rows combinations of items leave over: those of enough members, as many as there is room for.

An *item* is a value of a field, a *combination* has at most one of each field, and the rows that have all its items are
the set it leaves. Those with enough members make up an iceberg cube (Beyer & Ramakrishnan, "Bottom-Up Computation of
Sparse and Iceberg CUBEs", 1999): adding an item never adds members, so a set with too few is not looked into, and the
members of a set are counted by all items at once. Combinations that leave the same set share one *closed* combination,
the items that all its members have (Pasquier et al., "Discovering Frequent Closed Itemsets for Association Rules",
1999). So sets are looked for, not combinations, of which 64 fields that say nearly the same have 2⁶⁴.

A set's *first* combination has the fewest items, then the first fields. Its own beginning is the first combination of
the set that leaves, too: were there an earlier one, that with the last item would come before. So to find each set by
its first combination it is enough to add items of later fields to first combinations. Where a row has several items of
one field that may miss a set; none is taken for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

Combination = tuple[int, ...]
"""Numbers of items, ascending."""


@dataclass
class ClosedSets:
    """Sets of the rows of a table, that of all rows first.

    `columns` has of each field int64 (r, v), the items of each row, 0 for none, and `weights` int64 (r,) are its
    members; `fields` int64 (m + 1,) is the field of each item, −1 that of 0. Of each set `inside` bool (r,) says which
    rows it has, `counts` int64 (m + 1,) how many of its members have each item (of 0: its size), and `firsts` its first
    combination.
    """

    columns: Sequence[np.ndarray]
    weights: np.ndarray
    fields: np.ndarray
    inside: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    firsts: list[Combination] = field(default_factory=list)
    of_size: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.firsts)

    def add(self, inside: np.ndarray, first: Combination) -> None:
        """Add a set."""
        rows = np.flatnonzero(inside)
        items = self._table[rows]
        members = np.repeat(self.weights[rows], items.shape[1])
        counts = np.bincount(items.ravel(), members, len(self.fields)).astype(np.int64)
        counts[0] = self.weights[rows].sum()
        self.of_size.setdefault(int(counts[0]), []).append(len(self))
        self.inside.append(inside)
        self.counts.append(counts)
        self.firsts.append(first)

    @cached_property
    def _table(self) -> np.ndarray:
        """int64 (r, i): the items of all fields side by side."""
        return np.concatenate([np.zeros((len(self.weights), 0), np.int64), *self.columns], axis=1)

    def having(self, item: int) -> np.ndarray:
        """bool (r,): the rows that have an item."""
        return (self.columns[self.fields[item]] == item).any(axis=1)

    def within(self, chosen: int, item: int) -> int | None:
        """The set of the members of one that have an item; None: it was not added."""
        size = self.counts[chosen][item]
        if size == self.counts[chosen][0]:
            return chosen
        wanted = [*self.firsts[chosen], item]  # a set lies inside both if its members have these, and is it by its size
        known = self.of_size.get(int(size), ())
        return next((other for other in known if (self.counts[other][wanted] == size).all()), None)

    def containing(self) -> np.ndarray:
        """bool (s, s): `[i, j]` where set `j` lies inside another one, `i`: it has all items of that one's first."""
        counts = np.array(self.counts)
        containing = np.array([(counts[:, list(first)] == counts[:, :1]).all(axis=1) for first in self.firsts])
        np.fill_diagonal(containing, False)
        return containing

    def later(self, combination: Combination, chosen: int, least: int) -> np.ndarray:
        """int64: the items of later fields than a combination's that at least so many members of a set have."""
        last = self.fields[combination[-1]] if combination else -1
        return np.flatnonzero((self.counts[chosen] >= least) & (self.fields > last))

    def rank(self, combination: Combination) -> tuple[object, ...]:
        """By it combinations are ordered: fewest items first, then by field and value."""
        return len(combination), self.fields[list(combination)].tolist(), combination


def find_closed_sets(
    columns: Sequence[np.ndarray], weights: np.ndarray, fields: np.ndarray, least: int, room: tuple[int, int]
) -> ClosedSets:
    """The set of all rows, and those of at least `least` members that combinations leave, in no order.

    Args:
        columns, weights, fields: as `ClosedSets` has them; items are numbered by field.
        least: members that a set needs.
        room: most sets, and most members of all but the first together. Sets are added until there is no room: those
            whose first combinations have the fewest items first, of these the largest, of these by `rank`.
    """
    sets = ClosedSets(columns, weights, fields)
    sets.add(np.ones(len(weights), bool), ())
    (most, members), level = room, [0]
    while level:
        begun = len(sets)
        for parent, item in _extensions(sets, level, least):
            if sets.within(parent, item) is not None:
                continue
            members -= int(sets.counts[parent][item])
            if len(sets) >= most or members < 0:
                return sets
            sets.add(sets.inside[parent] & sets.having(item), (*sets.firsts[parent], item))
        level = sorted(range(begun, len(sets)), key=lambda at: sets.rank(sets.firsts[at]))
    return sets


def _extensions(sets: ClosedSets, level: Sequence[int], least: int) -> list[tuple[int, int]]:
    """Sets of a level, which are in order, with items of later fields: largest first, then by rank of both together."""
    items = [sets.later(sets.firsts[parent], parent, least) for parent in level]
    places, added = np.repeat(np.arange(len(level)), [len(of_parent) for of_parent in items]), np.concatenate(items)
    sizes = np.concatenate([sets.counts[parent][of_parent] for parent, of_parent in zip(level, items, strict=True)])
    fields = [tuple(sets.fields[list(sets.firsts[parent])]) for parent in level]
    changes = [later != earlier for earlier, later in pairwise(fields)]  # by fields first, only then by items
    by_fields = np.cumsum([0, *changes])
    order = np.lexsort((added, places, sets.fields[added], by_fields[places], -sizes))
    return [(level[place], item) for place, item in zip(places[order].tolist(), added[order].tolist(), strict=True)]


def combinations(sets: ClosedSets, least: int, most: int) -> list[list[Combination]]:
    """Of each set the combinations that leave it, by `rank`: the first `most` of all together, and each set's first."""
    listed: list[list[Combination]] = [[] for _ in range(len(sets))]
    level: list[tuple[Combination, int]] = [((), 0)]
    while level and most > 0:
        level = sorted(level, key=lambda entry: sets.rank(entry[0]))[:most]
        for combination, chosen in level:
            listed[chosen].append(combination)
        most -= len(level)
        level = [
            ((*combination, item), found)
            for combination, chosen in level
            for item in sets.later(combination, chosen, least).tolist()
            if (found := sets.within(chosen, item)) is not None
        ]
    return [found or [first] for found, first in zip(listed, sets.firsts, strict=True)]
