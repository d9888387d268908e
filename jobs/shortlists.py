"""Shortlists as the lake holds them: rows of ids and scores, written and read without making a text of each item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infra.lake import Table
from jobs.ids import to_text

SHORTLISTS = pa.schema(
    [("product_id", pa.string()), ("items", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))]
)
ITEMS, SCORES = "items.list.element", "scores.list.element"
PARQUET: dict[str, Any] = {
    "use_dictionary": [ITEMS],
    "column_encoding": {SCORES: "BYTE_STREAM_SPLIT"},
    "dictionary_pagesize_limit": 2**30,
    "write_statistics": ["product_id"],
    "store_schema": False,
}
"""How they are stored: items by a dictionary, however large, and scores with their bytes apart, which makes both
smaller. Without least and greatest items and scores, which nobody asks for, and which take longer to find than all else
to write. Without Arrow's schema, so that other readers get text and no dictionary."""


@dataclass(frozen=True)
class Shortlists:
    """n shortlists: whose they are, object (n,), and where each begins and the last ends, int64 (n + 1,).

    `codes`, int (m,), index the ids of items in `items`, object (i,); `scores` are float32 (m,).
    """

    ids: np.ndarray
    ends: np.ndarray
    items: np.ndarray
    codes: np.ndarray
    scores: np.ndarray


def to_table(ids: pa.StringArray, start: int, starts: np.ndarray, items: np.ndarray, scores: np.ndarray) -> pa.Table:
    """Rows of the table for products from index `start` on, of what `ml.cube.shortlists` gives; `ids` are all ids."""
    named = np.zeros(len(ids), bool)
    named[items] = True
    codes = (np.cumsum(named, dtype=np.int32) - 1)[items]
    encoded = pa.DictionaryArray.from_arrays(pa.array(codes), ids.filter(pa.array(named)))
    offsets = pa.array(starts.astype(np.int32))
    columns = [pa.ListArray.from_arrays(offsets, values) for values in (encoded, pa.array(scores))]
    return pa.table([ids[start : start + len(starts) - 1], *columns], SHORTLISTS.names)


def read(table: Table) -> Iterator[Shortlists]:
    """The shortlists of each part of the table, also of one of a release that knew numbers alone."""
    for part in table.iter_parts(SHORTLISTS.names, encoded=[ITEMS]):
        items, scores = (part[name].combine_chunks() for name in ("items", "scores"))
        encoded = items.flatten()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.cast(pa.string()).dictionary_encode()
        yield Shortlists(
            to_text(part["product_id"]).to_numpy(),
            np.append(0, np.cumsum(items.value_lengths().to_numpy())),
            encoded.dictionary.to_numpy(zero_copy_only=False),
            encoded.indices.to_numpy(),
            scores.flatten().to_numpy(),
        )
