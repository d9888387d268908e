"""Ids of products: text, compared as given, in one total order that no locale changes.

First come those in canonical decimal form (no sign, no leading zero, below 2⁶³), by number; then all others by code
point. Blanks around an id are no part of it; nothing else is folded, and leading zeros are kept.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_CHARACTERS = 256
MAX_NUMBER = 2**63 - 1
NUMBER = "0|[1-9][0-9]{0,18}"
"""A number in canonical form, or a little above the largest one."""


def trimmed(text: str) -> str:
    """The id that a table's value or a file's name is, without the blanks around it."""
    return text.strip(" \t\n\r\v\f")


def fault(product_id: str) -> str:
    """Why a text is no id; empty: it is one."""
    if not product_id:
        return "it is empty"
    if len(product_id) > MAX_CHARACTERS:
        return f"it has {len(product_id):,} characters; at most {MAX_CHARACTERS} may be"
    control = next((sign for sign in product_id if unicodedata.category(sign) == "Cc"), "")
    return f"it has the control character {control!r}" if control else ""


def key(product_id: str) -> tuple[bool, int, str]:
    """What ids are sorted by."""
    is_number = re.fullmatch(NUMBER, product_id) is not None and int(product_id) <= MAX_NUMBER
    return not is_number, int(product_id) if is_number else 0, product_id


def order(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The order of ids: int64 (n,), the index of the first one, of the next, and so on.

    Args:
        ids: string (n,).
    """
    is_number = pc.match_substring_regex(ids, f"^({NUMBER})$")
    above = pc.and_(pc.equal(pc.binary_length(ids), 19), pc.greater(ids, str(MAX_NUMBER)))
    is_number = pc.and_(is_number, pc.invert(above))
    number = pc.cast(pc.if_else(is_number, ids, "0"), pa.int64())
    keys = pa.table([pc.invert(is_number), number, ids], ["text", "number", "id"])
    return pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]).to_numpy().astype(np.int64)


def to_text(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text, also those of a table of a release that knew numbers alone."""
    return ids.cast(pa.string())
