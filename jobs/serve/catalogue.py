"""A copy of the live run's products and filters in memory: browsing, finding by name or id, and counts of values.

Products stand by position, so that the members of a base cell lie side by side; what a filter leaves is a set of base
cells, as in sql/functions/passing.sql. A copy is of one run, never changes, and may be read by several threads.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.store import Copied, Value
from jobs.filters import Filters, parts
from jobs.serve.problems import Problem, wrong

TEXT_MAX, WORDS_MAX = 200, 8
"""Of what is looked for: most characters, and words that count."""
VALUES_MAX = 500
"""Values of a field that are counted out, the most frequent; of the others it is said how many there are."""


@dataclass(frozen=True)
class _Field:
    """Values of a field, and the base cells that have them, one after the other: `starts` (v,), `cells` (c,), int."""

    values: list[str | None]
    starts: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, values: Sequence[Value]) -> _Field:
        """The same with what no base cell has left out, as `np.add.reduceat` needs it."""
        having = [(each.value, each.base_cells) for each in values if each.value != "" and len(each.base_cells)]
        ends = np.cumsum([0, *(len(cells) for _, cells in having)])
        return cls(
            [value for value, _ in having],
            ends[:-1],
            np.concatenate([np.empty(0, np.int64), *(cells for _, cells in having)]),
        )

    def counts(self, weights: np.ndarray) -> np.ndarray:
        """The sum of the weights of each value's base cells, int (v,)."""
        if not self.values:
            return np.empty(0, np.int64)
        return np.add.reduceat(weights[self.cells], self.starts)

    def having(self, wanted: Collection[str | None], base_cells: int) -> np.ndarray:
        """The base cells that have one of some values, bool (b,)."""
        mask = np.zeros(base_cells, bool)
        ends = [*self.starts[1:], len(self.cells)]
        for value, start, end in zip(self.values, self.starts, ends, strict=True):
            if value in wanted:
                mask[self.cells[start:end]] = True
        return mask


class Catalogue:
    """The copy."""

    def __init__(self, copied: Copied) -> None:
        """Arrange what the store gave."""
        self.run: dict[str, object] = {"run_id": copied.run_id, "run": copied.run}
        self.tag = copied.tag
        order = [product[0] for product in copied.products]
        self.ids = [product[1] for product in copied.products]
        self.names = [product[2] for product in copied.products]
        self.kinds = [product[3] for product in copied.products]
        self.images = [product[4] for product in copied.products]
        self._by_id = np.argsort(np.array(order, np.int64), kind="stable")
        self._sizes = np.diff(copied.starts)
        self._base_cells = np.repeat(np.arange(len(self._sizes)), self._sizes)
        self._fields = {field: _Field.of(values) for field, values in copied.values.items()}
        self._lowered = pc.utf8_lower(pa.array(self.names, pa.string()))
        self._ids = pa.array(self.ids, pa.string())

    def page(self, filters: Filters, text: str, exclude: Sequence[str], limit: int, cursor: str) -> dict[str, object]:
        """The products that pass and are not excluded, in the order of ids, from where a cursor says on."""
        start = self._place(cursor)
        # Places among all products, so that a cursor stays where it is whatever the filters are.
        places = np.flatnonzero((self._passing(filters) & self._found(text, exclude))[self._by_id])
        first = int(np.searchsorted(places, start))
        chosen = self._by_id[places[first : first + limit]]
        more = first + limit < len(places)
        return {
            "run": self.run,
            "products": [self._product(at) for at in chosen.tolist()],
            "next": self._cursor(int(places[first + limit])) if more else None,
            "total": len(places),
        }

    def _product(self, at: int) -> dict[str, object]:
        image = f"/images/{self.images[at].hex()}"
        return {"product_id": self.ids[at], "name": self.names[at], "kind": self.kinds[at], "image": image}

    def _cursor(self, place: int) -> str:
        return base64.urlsafe_b64encode(f"{self.tag}.{place}".encode()).decode().rstrip("=")

    def _place(self, cursor: str) -> int:
        if not cursor:
            return 0
        try:
            told = base64.b64decode(f"{cursor}{'=' * (-len(cursor) % 4)}", b"-_", validate=True).decode("ascii")
        except ValueError:
            told = ""
        known = re.fullmatch(r"([0-9a-f]{16})\.([0-9]{1,10})", told)
        if known is None:
            raise wrong(
                "it is no cursor", value=cursor, place="query: cursor", remedy="take the one of the last answer"
            )
        if known[1] != self.tag:
            raise Problem(
                410,
                "the cursor is of a run that no longer answers",
                value=cursor,
                place="query: cursor",
                remedy="begin again without a cursor",
            )
        return int(known[2])

    def facets(self, filters: Filters, text: str, exclude: Sequence[str]) -> dict[str, object]:
        """Of each field the values with how many products have them, given the other fields' filters, most first."""
        weights = self._sizes
        if text or exclude:
            weights = np.bincount(self._base_cells[self._found(text, exclude)], minlength=len(weights))
        masks = self._masks(filters)
        fields = []
        for name, field in self._fields.items():
            left = weights
            for other, mask in masks.items():
                if other != name:
                    left = left * mask
            fields.append({"field": name, **_ranked(field, field.counts(left), _named(filters.get(name, [])))})
        return {"run": self.run, "fields": fields}

    def _passing(self, filters: Filters) -> np.ndarray:
        """Which products pass, bool (n,)."""
        left = np.ones(len(self._sizes), bool)
        for mask in self._masks(filters).values():
            left &= mask
        return left[self._base_cells]

    def _found(self, text: str, exclude: Sequence[str]) -> np.ndarray:
        """Which products a text finds, all where there is none, but those excluded, bool (n,)."""
        found = self._matching(text) if text else np.ones(len(self.ids), bool)
        if exclude:
            found = found & ~pc.is_in(self._ids, pa.array(exclude, pa.string())).to_numpy(zero_copy_only=False)
        return found

    def _masks(self, filters: Filters) -> dict[str, np.ndarray]:
        """Of each condition the base cells that pass it, bool (b,). Raises Problem where a field is unknown."""
        masks = {}
        for name, condition in filters.items():
            if name not in self._fields:
                raise wrong(
                    f"unknown field {name!r}",
                    value=name,
                    place="query",
                    remedy=f"known fields: {', '.join(self._fields)}",
                )
            masks[name] = np.ones(len(self._sizes), bool)
            for complement, wanted in parts(condition):
                having = self._fields[name].having({value for value in wanted if value != ""}, len(self._sizes))
                masks[name] &= ~having if complement else having
        return masks

    def _matching(self, text: str) -> np.ndarray:
        """Which products have all these words at the beginning of words of their names, or an id that begins so."""
        if len(text) > TEXT_MAX:
            raise wrong(
                f"it has {len(text)} characters", place="query: text", remedy=f"look for {TEXT_MAX} characters at most"
            )
        asked = text.strip()
        found = pc.fill_null(pc.starts_with(self._ids, asked), False)
        words = re.findall(r"\w+", asked.lower())[:WORDS_MAX]
        if words:
            in_name = pc.fill_null(_begins_a_word(self._lowered, words[0]), False)
            for word in words[1:]:
                in_name = pc.and_(in_name, pc.fill_null(_begins_a_word(self._lowered, word), False))
            found = pc.or_(found, in_name)
        return found.to_numpy(zero_copy_only=False)


def _begins_a_word(names: pa.Array, word: str) -> pa.Array:
    return pc.match_substring_regex(names, rf"(^|[^\pL\pN_]){re.escape(word)}")


def _named(condition: object) -> set[str | None]:
    """The values that a condition names; "" is none that a product has."""
    return {value for _, wanted in parts(condition) for value in wanted if value != ""}


def _ranked(field: _Field, counts: np.ndarray, named: Collection[str | None]) -> dict[str, object]:
    """Values with their counts, most first; without those that no product has, unless they are named."""
    pairs = [
        (value, count)
        for value, count in zip(field.values, counts.tolist(), strict=True)
        if count or value is not None and value in named
    ]
    pairs.sort(key=lambda pair: (-pair[1], pair[0] is None, pair[0] or ""))
    told: dict[str, object] = {"values": [{"value": value, "count": count} for value, count in pairs[:VALUES_MAX]]}
    return told | ({"more": len(pairs) - VALUES_MAX} if len(pairs) > VALUES_MAX else {})
