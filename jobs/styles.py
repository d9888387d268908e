"""The products of the catalogue's table, `styles.csv` or its like: which columns it has, and which rows can be used.

A row that cannot be used is a reject with its reason, and costs no other row; a file that is no catalogue is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from infra import encodings
from infra.errors import UserError
from infra.settings import Settings
from jobs import ids
from jobs.layout import FILE, Layout, band
from jobs.rejects import Rejects
from jobs.tables import Reading, Table
from jobs.tables.lines import SAVE, UNDECODED

FILTER_MAX = 2000
"""Bytes of a value to filter by: the store's key of one, with its field's name, takes 2,704."""
VALUES_MAX = 256
"""Values of a field that a product may have."""
SPOILT = (
    (r"[+-]?\d+\.0*", "it became a decimal number, as pandas makes it where an id is missing; write ids as text"),
    (r"[+-]?\d+([.,]\d+)?[eE][+-]?\d+", "a spreadsheet shortened it, and its digits may be lost; export ids as text"),
    (r"=.*", "it is a formula of a spreadsheet; export its value alone"),
)
"""What programs make of ids, and what to do: taken as they stand, such would be other products' ids tomorrow."""


def why_no_id(text: str) -> str:
    """Why a value of the table is no product's id; empty: it is one."""
    return ids.fault(text) or next((reason for pattern, reason in SPOILT if re.fullmatch(pattern, text)), "")


def _has_code(product_id: str) -> bool:
    """Whether an id is one that the first word of a description is not: it has a digit, and no blank."""
    return not why_no_id(product_id) and re.fullmatch(r"\S*\d\S*", product_id) is not None


def reading(settings: Settings, layout: Layout) -> Reading:
    """How the table is read: the published file does not quote its last column, so further commas belong to it."""
    return Reading(
        layout.columns,
        lambda values: _has_code(ids.trimmed(values[layout.id])),
        layout.name,
        settings.styles_max_bytes,
        Path(settings.scratch),
        settings.delimiter,
        settings.encoding,
        {*layout.lists, *layout.image},
    )


def read_styles(table: Table, rejects: Rejects, layout: Layout) -> list[dict]:
    """Rows as dicts of `product_id`, what the layout stores, derivedType, and `images`, what columns of images hold.

    Empty values are None, and `NA` is a value.

    Raises:
        UserError: the table lacks columns of the layout, or has no row that can be used.
    """
    _check_header(table.columns, table.name, layout.columns)
    rows: dict[str, dict] = {}
    several = [column for column in layout.columns if column in {*layout.lists, *layout.image}]
    unbanded: dict[str, str] = {}
    for record in table:
        values = record.values
        product_id = ids.trimmed(values[layout.id]) if values else ""
        shown = _readable(values[layout.id] if values else record.first)[:40].replace("\0", "")
        if record.fault or values is None:
            rejects.product(shown, record.where, record.fault, record.detail)
        elif undecoded := [values[column] for column in layout.columns if UNDECODED.search(values[column])]:
            rejects.product(shown, record.where, "unknown encoding", _encoding(undecoded, table.tried))
        elif why := why_no_id(product_id):
            rejects.product(shown, record.where, "no product id", f"{_readable(product_id)[:40]!r}: {why}")
        elif product_id in rows:
            rejects.product(product_id, record.where, "duplicate id", "the first row with this id is used")
        else:
            try:
                lists = {column: layout.values(column, values[column].strip()) for column in several}
            except ValueError as error:
                rejects.product(product_id, record.where, "no text", str(error))
                continue
            if long := _too_long({field: lists.get(field, [values[field].strip()]) for field in layout.fields}):
                rejects.product(product_id, record.where, "values too long", long)
                continue
            reject = partial(rejects.file, product_id, record.where)
            rows[product_id] = _product(product_id, values, lists, layout, reject)
            unbanded |= {column: values[column] for column in layout.bands if values[column].strip()}
    if not rows:
        raise _unusable(rejects, table.name)
    _check_bands(unbanded, rows.values(), table.name)
    return list(rows.values())


def _check_header(header: Sequence[str], name: str, columns: Sequence[str]) -> None:
    """Raises UserError where a column is missing, or there twice."""
    for column in columns:  # further columns are not read, so two of those do no harm
        places = [(at, found) for at, found in enumerate(header, 1) if found.casefold() == column.casefold()]
        if len(places) > 1:
            found = " and ".join(f"column {at} ({found})" for at, found in places)
            raise UserError(f"columns have one name: {found}", where=name, remedy="keep one, rename the others")
    missing = [column for column in columns if column not in header]
    if not missing:
        return
    cased = {found.casefold(): found for found in header}
    renamed = [f"{cased[column.casefold()]} to {column}" for column in missing if column.casefold() in cased]
    several = len(missing) > 1
    raise UserError(
        f"the column{'s' * several} {', '.join(missing)} {'are' if several else 'is'} "
        f"missing; found {_readable(', '.join(header))[:200] or 'nothing'}",
        where=name,
        remedy=f"rename {', '.join(renamed)}"
        if renamed
        else f"give a table with the columns {', '.join(columns)}, or say in {FILE} what its columns are",
    )


def _check_bands(samples: Mapping[str, str], rows: Collection[dict], name: str) -> None:
    """Raises UserError where a field of bands has values, such as its sample, and none of them is a number."""
    for column, value in samples.items():
        if not any(row[column] for row in rows):
            raise UserError(
                f"no value of {column}, which has bands, is a number: {_readable(value.strip())[:40]!r} is none",
                where=name,
                remedy="write numbers such as 1299.9, without a currency or a sign between thousands, or take the "
                f"column out of the bands in {FILE}: then filters name its values",
            )


def _unusable(rejects: Rejects, name: str) -> UserError:
    """No row of the table can be used."""
    found, file = rejects.products.total(), name.rpartition("/")[2]
    if not found:
        return UserError(f"{file} has no row below its header", where=name, remedy="give a file with products")
    problem = f"none of the {found:,} rows of {file} can be used: {rejects.of_products()}"
    return UserError(problem, where=name, remedy=remedy(rejects) or "mend the rows")


def remedy(rejects: Rejects) -> str:
    """What to do about the most frequent reason; empty: the reason says it."""
    remedies = {
        "no product id": "give ids such as 15970 or B07XJ8C8F5 as text, and name images by them: 15970.jpg",
        "unknown encoding": SAVE,
        "values too long": f"shorten them, or leave the field out of LOOKALIKE_FIELDS or {FILE}",
    }
    return remedies.get(rejects.products.most_common(1)[0][0], "")


# Values ---------------------------------------------------------------------------------------------------------------


def _product(
    product_id: str,
    values: Mapping[str, str],
    lists: Mapping[str, list[str]],
    layout: Layout,
    reject: Callable[[str, str], None],
) -> dict:
    """A row's product; `reject` is told the reason and detail of a value that stays out."""
    stored: dict[str, Any] = {}
    for column in layout.stored:
        stored[column] = (lists[column] if column in layout.lists else values[column].strip()) or None
        if column in layout.bands and (value := stored[column]):
            try:
                stored[column] = band(value, layout.bands[column])
            except ValueError:
                stored[column] = None
                reject("no number", f"{column} is {_readable(value)[:40]!r}, and the product has no band of it")
    kind = [stored[column] for column in (layout.for_whom, layout.kind) if column]
    derived = " ".join(filter(None, kind)) if layout.kind and all(kind) else None
    images = dict.fromkeys(path for column in layout.image for path in lists[column])
    return {"product_id": product_id, **stored, "derivedType": derived, "images": list(images)}


def _too_long(values: Mapping[str, Sequence[str]]) -> str:
    """Why no filter can name one of the row's values, by field; empty: one can."""
    for field, of_field in values.items():
        if len(of_field) > VALUES_MAX:
            return f"{field} has {len(of_field):,} values; a field may have {VALUES_MAX:,}"
        if (longest := max((len(value.encode()) for value in of_field), default=0)) > FILTER_MAX:
            return f"{field} has {longest:,} bytes; a value to filter by may have {FILTER_MAX:,}"
    return ""


def _readable(text: str) -> str:
    """The text with `\\xe9` for each byte of an unknown encoding."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _encoding(undecoded: list[str], tried: str) -> str:
    """What is known of the encoding of these values, of one row."""
    return f"{tried}; {encodings.hint(' '.join(undecoded).encode('utf-8', 'surrogateescape'))}"
