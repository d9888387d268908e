"""Filters as people write them, `baseColour=Blue,Navy Blue` and `baseColour!=Yellow`, and as the store takes them.

A filter maps fields to conditions, ready for JSON: a value to have, None for no value, a list of such of which one is
to be had, {"not": …} of any of these, its complement, or {"is": …, "not": …}, both. In writing, `field=a,b` is a list,
`field=` no value, `field!=` any value; `\\,` and `\\\\` are a comma and a backslash inside a value, any other backslash
is itself. A field that comes again adds to its list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
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
        wanted, out = list(dict.fromkeys(had.get(field, ()))), list(dict.fromkeys(not_had.get(field, ())))
        if not wanted:
            filters[field] = {"not": _plain(out)}
            continue
        refused = set(out)
        left = [value for value in wanted if value not in refused]
        if not left:
            raise UserError(
                f"every value that {field} is to have is one that it is not to have",
                where=where,
                remedy=f"leave a value out of {field}!=…",
            )
        filters[field] = {"is": _plain(left), "not": _plain(out)} if out else _plain(left)
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
        for complement, values in parts(condition):
            pairs.append((f"{field}!" if complement else field, join(values)))
    return pairs


def join(values: Iterable[str | None]) -> str:
    """Values as they are written: `a,b`; None is no value."""
    return ",".join(re.sub(r"([,\\])", r"\\\1", value or "") for value in values)


def passing(rows: pa.Table, filters: Filters) -> pa.Table:
    """The rows that pass the filters; null, "" and no values are no value."""
    for field, condition in filters.items():
        for complement, values in parts(condition):
            mask = _has_one(rows[field], pa.array([value or "" for value in values], pa.string()))
            rows = rows.filter(pc.invert(mask) if complement else mask)
    return rows


def parts(condition: Any) -> list[tuple[bool, list[str | None]]]:
    """What a condition asks for: values of which one is to be had, and after True those of which none is."""
    named = condition if isinstance(condition, Mapping) else {"is": condition}
    return [(name == "not", values if isinstance(values, list) else [values]) for name, values in named.items()]


def _has_one(column: pa.ChunkedArray, wanted: pa.Array) -> pa.ChunkedArray | pa.Array:
    """Which rows of a column, of texts or lists of them, have one of the wanted values, of which "" is none."""
    if not pa.types.is_list(column.type):
        return pc.is_in(pc.fill_null(column, ""), value_set=wanted)
    lists = column.combine_chunks()
    hits = pc.is_in(lists.flatten(), value_set=wanted)
    mask = np.zeros(len(lists), bool)
    mask[pc.list_parent_indices(lists).filter(hits).to_numpy()] = True
    if "" in wanted.to_pylist():
        mask |= pc.fill_null(pc.list_value_length(lists), 0).to_numpy() == 0
    return pa.array(mask)


def _values(text: str) -> list[str | None]:
    values: list[list[str]] = [[]]
    for sign in re.findall(r"\\[,\\]|.", text, re.DOTALL):
        if sign == ",":
            values.append([])
        else:
            values[-1].append(sign[-1])
    return ["".join(signs) or None for signs in values]


def _plain(values: list[str | None]) -> str | None | list[str | None]:
    return values[0] if len(values) == 1 else values
