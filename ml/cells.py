"""Attributes → filter combinations → cells: sets of products that a filter leaves over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cells:
    """Precomputed cells; cell `i` is `members[offsets[i] : offsets[i + 1]]`, ascending int32 product indices.

    `filters[i]` lists the filter combinations (field → value) that have just these members.
    """

    filters: list[list[dict[str, str]]]
    members: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.filters)

    @property
    def sizes(self) -> np.ndarray:
        """int64 (c,): members of each cell."""
        return np.diff(self.offsets)


def single_field_cells(values: dict[str, list[str | None]], n: int, cell_min: int) -> Cells:
    """The cell of the empty filter, whatever its size, and that of every `field = value` with enough members.

    Args:
        values: field → the n products' values; None never matches a filter.
        n: number of products.
        cell_min: members a cell needs, the empty filter's excepted.

    Combinations with the same members share one cell; cells come in the order they are met: the empty filter first,
    then by field and value.
    """
    found: dict[bytes, tuple[np.ndarray, list[dict[str, str]]]] = {}
    everything = np.arange(n, dtype=np.int32)
    found[everything.tobytes()] = (everything, [{}])
    for name, column in values.items():
        labels = np.array([value or "" for value in column], dtype=object)
        known = sorted({value for value in column if value})
        for value in known:
            members = np.flatnonzero(labels == value).astype(np.int32)
            if len(members) >= cell_min:
                found.setdefault(members.tobytes(), (members, []))[1].append({name: value})
    sets = [members for members, _ in found.values()]
    offsets = np.concatenate([[0], np.cumsum([len(members) for members in sets])]).astype(np.int64)
    return Cells([filters for _, filters in found.values()], np.concatenate(sets), offsets)
