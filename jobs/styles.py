"""The products of the catalogue's table, `styles.csv` or its like: which columns it has, and which rows can be used.

A row that cannot be used is a reject with its reason, and costs no other row; a file that is no catalogue is an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from infra import encodings
from infra.errors import UserError
from infra.settings import ATTRIBUTES, Settings
from jobs.rejects import Rejects
from jobs.tables import Reading, Table
from jobs.tables.lines import SAVE, UNDECODED

COLUMNS = ("id", *ATTRIBUTES)
MAX_ID = 2**63 - 1
FILTER_MAX = 2000
"""Bytes of a row's values to filter by, together: the store's key of a filter, with the names, takes 2,704."""
NO_IDS = (
    (r"[+-]?\d+[.,]0*", "it became a decimal number, as pandas makes it where an id is missing; write ids as text"),
    (r"[+-]?\d+([.,]\d+)?[eE][+-]?\d+", "a spreadsheet shortened it, and its digits may be lost; export ids as text"),
    (r"=.*", "it is a formula of a spreadsheet; export its value alone"),
    (r"['’`]\d+", "a spreadsheet's mark of text stands before it; leave that out"),
    (r"\d{1,3}([.,’' \u00a0\u202f]\d{3})+", "it has thousands separators; leave them out"),
    (r"[+-]\d+", "leave the sign out"),
)
"""What programs make of ids, and what to do."""


def parse_id(text: str) -> int | None:
    """A product's id, of 63 bits; None where the text is none."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ID))):  # int() refuses very long texts
        return None
    return int(text) if int(text) <= MAX_ID else None


def reading(settings: Settings) -> Reading:
    """How the table is read: the published file does not quote its last column, so further commas belong to it."""
    return Reading(
        COLUMNS,
        lambda values: parse_id(values["id"]) is not None,
        "productDisplayName",
        settings.styles_max_bytes,
        Path(settings.scratch),
        settings.delimiter,
        settings.encoding,
    )


def read_styles(table: Table, rejects: Rejects, fields: Collection[str] = ()) -> list[dict]:
    """Rows as dicts of `product_id`, the nine attributes and derivedType; empty values are None and `NA` is a value.

    Values of `fields` are filtered by.

    Raises:
        UserError: the table lacks columns of a catalogue, or has no row that can be used.
    """
    _check_header(table.columns, table.name)
    rows: dict[int, dict] = {}
    for record in table:
        values = record.values
        product_id = parse_id(values["id"]) if values else None
        shown = _readable(values["id"] if values else record.first)[:40].replace("\0", "")
        if record.fault or values is None:
            rejects.product(shown, record.where, record.fault, record.detail)
        elif undecoded := [values[column] for column in COLUMNS if UNDECODED.search(values[column])]:
            rejects.product(shown, record.where, "unknown encoding", _encoding(undecoded, table.tried))
        elif product_id is None:
            rejects.product(shown, record.where, "no product id", _no_id(values["id"]))
        elif long := _too_long(values, fields):
            rejects.product(str(product_id), record.where, "values too long", long)
        elif product_id in rows:
            rejects.product(str(product_id), record.where, "duplicate id", "the first row with this id is used")
        else:
            rows[product_id] = _product(product_id, values)
    if not rows:
        raise _unusable(rejects, table.name)
    return list(rows.values())


def _check_header(header: Sequence[str], name: str) -> None:
    """Raises UserError where a column is missing, or there twice."""
    for column in COLUMNS:  # further columns are not read, so two of those do no harm
        places = [(at, found) for at, found in enumerate(header, 1) if found.casefold() == column.casefold()]
        if len(places) > 1:
            found = " and ".join(f"column {at} ({found})" for at, found in places)
            raise UserError(f"columns have one name: {found}", where=name, remedy="keep one, rename the others")
    missing = [column for column in COLUMNS if column not in header]
    if not missing:
        return
    cased = {found.casefold(): found for found in header}
    renamed = [f"{cased[column.casefold()]} to {column}" for column in missing if column.casefold() in cased]
    several = len(missing) > 1
    raise UserError(
        f"the column{'s' * several} {', '.join(missing)} {'are' if several else 'is'} "
        f"missing; found {_readable(', '.join(header))[:200] or 'nothing'}",
        where=name,
        remedy=f"rename {', '.join(renamed)}" if renamed else f"give a table with the columns {', '.join(COLUMNS)}",
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
        "no product id": "give ids that are whole numbers in digits, such as 15970, and name images by them: 15970.jpg",
        "unknown encoding": SAVE,
        "values too long": "shorten them, or leave the field out of LOOKALIKE_FIELDS",
    }
    return remedies.get(rejects.products.most_common(1)[0][0], "")


# Values ---------------------------------------------------------------------------------------------------------------


def _product(product_id: int, values: dict[str, str]) -> dict:
    attributes = {name: values[name].strip() or None for name in ATTRIBUTES}
    both = attributes["gender"] and attributes["articleType"]
    derived = f"{attributes['gender']} {attributes['articleType']}" if both else None
    return {"product_id": product_id, **attributes, "derivedType": derived}


def _too_long(values: dict[str, str], fields: Collection[str]) -> str:
    """Why no filter can name the row's values; empty: one can."""
    sizes = {field: len(values[field].strip().encode()) for field in fields}
    if (total := sum(sizes.values())) <= FILTER_MAX:
        return ""
    longest = max(sizes, key=lambda field: sizes[field])
    return f"the values to filter by have {total:,} bytes, {longest} {sizes[longest]:,}; at most {FILTER_MAX:,} may be"


def _readable(text: str) -> str:
    """The text with `\\xe9` for each byte of an unknown encoding."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _encoding(undecoded: list[str], tried: str) -> str:
    """What is known of the encoding of these values, of one row."""
    return f"{tried}; {encodings.hint(' '.join(undecoded).encode('utf-8', 'surrogateescape'))}"


def _no_id(text: str) -> str:
    """Why a text is no id."""
    why = next((reason for pattern, reason in NO_IDS if re.fullmatch(pattern, text.strip())), "")
    return f"{_readable(text)[:40]!r} is no whole number in digits{why and ': '}{why}"
