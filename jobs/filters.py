"""Filters as people write them, `baseColour=Blue,Navy Blue` and `baseColour!=Yellow`, and as the store takes them.

A filter maps fields to conditions, ready for JSON: a value to have, None for no value, a list of such of which one is
to be had, or {"not": …} of any of these, its complement. In writing, `field=a,b` is a list, `field=` no value,
`field!=` any value; `\\,` and `\\\\` are a comma and a backslash inside a value, any other backslash is itself. A field
that comes again adds to its list; what is to be had and not to be had at once is not to be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import UserError
from infra.store import Filters
from jobs import ids


def read(pairs: Iterable[tuple[str, str]], where: str) -> dict[str, Any]:
    """The filters of pairs (field, or field with `!` at its end; values), which came from `where`.

    Raises:
        UserError: a field's list leaves nothing to have.
    """
    had: dict[str, list[str | None]] = {}
    not_had: dict[str, list[str | None]] = {}
    for name, text in pairs:
        field, values = name.removesuffix("!"), had if not name.endswith("!") else not_had
        values.setdefault(field, []).extend(_values(text))
    filters: dict[str, Any] = {}
    for field in dict.fromkeys([*had, *not_had]):
        out = dict.fromkeys(not_had.get(field, ()))
        if field not in had:
            filters[field] = {"not": _plain(list(out))}
            continue
        left = [value for value in dict.fromkeys(had[field]) if value not in out]
        if not left:
            raise UserError(
                f"every value that {field} is to have is one that it is not to have",
                where=where,
                remedy=f"leave a value out of {field}!=…",
            )
        filters[field] = _plain(left)
    return filters


def read_ids(texts: Iterable[str], where: str) -> list[str]:
    """Ids of products to leave out, separated by commas; with `\\,` and `\\\\` as in values.

    Raises:
        UserError: one is no product id.
    """
    named = [ids.trimmed(value or "") for value in _values(",".join(texts))]
    for product_id in filter(None, named):
        if why := ids.fault(product_id):
            problem = f"{product_id[:40]!r} is no product id: {why}"
            raise UserError(problem, where=where, remedy="write ids separated by commas: 123,456")
    return [product_id for product_id in named if product_id]


def write(filters: Filters) -> list[tuple[str, str]]:
    """The pairs that `read` makes these filters of."""
    pairs = []
    for field, condition in filters.items():
        complement = isinstance(condition, Mapping)
        values = condition["not"] if complement else condition
        values = values if isinstance(values, list) else [values]
        pairs.append((f"{field}!" if complement else field, join(values)))
    return pairs


def join(values: Iterable[str | None]) -> str:
    """Values as they are written: `a,b`; None is no value."""
    return ",".join(re.sub(r"([,\\])", r"\\\1", value or "") for value in values)


def passing(rows: pa.Table, filters: Filters) -> pa.Table:
    """The rows that pass the filters; null and "" are no value."""
    for field, condition in filters.items():
        complement = isinstance(condition, Mapping)
        values = condition["not"] if complement else condition
        wanted = pa.array([value or "" for value in (values if isinstance(values, list) else [values])], pa.string())
        mask = pc.is_in(pc.fill_null(rows[field], ""), value_set=wanted)
        rows = rows.filter(pc.invert(mask) if complement else mask)
    return rows


def _values(text: str) -> list[str | None]:
    values = [""]
    for sign in re.findall(r"\\[,\\]|.", text, re.DOTALL):
        if sign == ",":
            values.append("")
        else:
            values[-1] += sign[-1]
    return [value or None for value in values]


def _plain(values: list[str | None]) -> str | None | list[str | None]:
    return values[0] if len(values) == 1 else values
