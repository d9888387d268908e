"""Rows in the format of COPY BINARY (PostgreSQL manual, COPY, "Binary Format"), and their fields in the types' own."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np

HEADER, END = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0), struct.pack("!h", -1)


def row(*values: bytes | None) -> bytes:
    fields = (struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values)
    return struct.pack("!h", len(values)) + b"".join(fields)


def int4(value: int) -> bytes:
    return struct.pack("!i", value)


def int8(value: int) -> bytes:
    return struct.pack("!q", value)


def text(value: str | None) -> bytes | None:
    # Postgres' text cannot hold a zero character, nor can jsonb.
    return None if value is None else value.replace("\0", "").encode()


def jsonb(values: Mapping[str, str]) -> bytes:
    # jsonb_recv: a version, then the text.
    return b"\1" + json.dumps({name: value.replace("\0", "") for name, value in values.items()}).encode()


def halfvec(embedding: np.ndarray) -> bytes:
    # pgvector's halfvec_recv: dimensions, a zero, the entries as IEEE half floats.
    return struct.pack("!hh", len(embedding), 0) + embedding.astype(">f2").tobytes()


def list_rows(run_id: int, cell: np.ndarray, position: np.ndarray, items: np.ndarray) -> bytes:
    """Rows of `lists`, all of one length, in the format of COPY BINARY."""
    k, oid = items.shape[1], 23  # of int4
    value = [("size", ">i4"), ("value", ">i4")]
    # array_recv: dimensions, whether it has nulls, the elements' type, then size and lower bound of each dimension.
    head = (1, 0, oid, k, 1) if k else (0, 0, oid)
    rows = np.empty(
        len(cell),
        [
            ("fields", ">i2"),
            *((name, value) for name in ("run_id", "cell", "position")),
            ("array", [("size", ">i4"), ("head", ">i4", (len(head),)), ("items", value, (k,))]),
        ],
    )
    rows["fields"] = 4
    for name, values in {"run_id": run_id, "cell": cell, "position": position}.items():
        rows[name]["size"], rows[name]["value"] = 4, values
    array = rows["array"]
    array["size"], array["head"] = 4 * len(head) + 8 * k, head
    array["items"]["size"], array["items"]["value"] = 4, items
    return rows.tobytes()
