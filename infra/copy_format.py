"""Rows in the format of COPY BINARY (PostgreSQL manual, COPY, "Binary Format"), and their fields in the types' own."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping

import numpy as np

HEADER, END = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0), struct.pack("!h", -1)


def row(*values: bytes | None) -> bytes:
    return struct.pack("!h", len(values)) + b"".join(map(_sized, values))


def _sized(value: bytes | None) -> bytes:
    return struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value


def boolean(value: bool) -> bytes:
    return struct.pack("!?", value)


def int4(value: int) -> bytes:
    return struct.pack("!i", value)


def text(value: str | None) -> bytes | None:
    # Postgres' text cannot hold a zero character, nor can jsonb.
    return None if value is None else value.replace("\0", "").encode()


def jsonb(values: Mapping[str, str]) -> bytes:
    # jsonb_recv: a version, then the text.
    return b"\1" + json.dumps({name: value.replace("\0", "") for name, value in values.items()}).encode()


def halfvec(embedding: np.ndarray) -> bytes:
    # pgvector's halfvec_recv: dimensions, a zero, the entries as IEEE half floats.
    return struct.pack("!hh", len(embedding), 0) + embedding.astype(">f2").tobytes()


def int2_array(values: np.ndarray) -> bytes:
    return _array(values, ">i2", 21)


def int4_array(values: np.ndarray) -> bytes:
    return _array(values, ">i4", 23)


def text_array(values: Collection[str | None]) -> bytes:
    # As `_array` says.
    if not values:
        return struct.pack("!iii", 0, 0, 25)
    head = struct.pack("!iiiii", 1, int(None in values), 25, len(values), 1)
    return head + b"".join(map(_sized, map(text, values)))


def _array(values: np.ndarray, dtype: str, type_oid: int) -> bytes:
    # array_recv: dimensions, whether it has nulls, the elements' type, then size and lower bound of each dimension, and
    # the elements, each behind its length.
    if not len(values):
        return struct.pack("!iii", 0, 0, type_oid)
    elements = np.empty(len(values), [("size", ">i4"), ("value", dtype)])
    elements["size"], elements["value"] = elements.dtype["value"].itemsize, values
    return struct.pack("!iiiii", 1, 0, type_oid, len(values), 1) + elements.tobytes()


def varbit(bits: np.ndarray) -> bytes:
    # varbit_recv: how many bits, then the bytes, the first bit leftmost.
    return struct.pack("!i", len(bits)) + np.packbits(bits).tobytes()
