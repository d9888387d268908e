"""What every form of table hands on: rows of text by column, each with its place or its fault."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

Values = dict[str, str]

DELTA_LOG = "_delta_log"
"""The folder in a folder that makes it a Delta table."""

WHOLE_MAX = 2**53
"""Whole numbers below it are exact as floats."""
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # `surrogateescape` uses the others


class Record(NamedTuple):
    """A row: where it is (file and line or row), its values by column, and why it is none that can be used, if so."""

    where: str
    values: Values | None
    first: str
    """What its first column has, to show where nothing else can be."""
    fault: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Reading:
    """How a table is read: the columns that are asked for, the most bytes it may unpack to, and where files may wait.

    `is_row` tells of the values of a line whether it is a row for certain. `free` is the column of free text, which,
    where it is the last, takes up what follows further unquoted delimiters. `delimiter` and `encoding` are empty where
    they are to be told. `lists` are columns in which a list is no fault; with `nested` nothing is one.
    """

    columns: Sequence[str]
    is_row: Callable[[Mapping[str, str]], bool]
    free: str
    limit: int
    scratch: Path
    delimiter: str = ""
    encoding: str = ""
    lists: Collection[str] = ()
    nested: bool = False

    def text(self, column: str, value: object) -> str | None:
        """A value of a column as `text` gives it, or what is nested as JSON where it is no fault."""
        written = text(value, listed=column in self.lists)
        return json.dumps(value, ensure_ascii=False, default=str) if written is None and self.nested else written


class Table(Protocol):
    """A table that is open: its columns as they are called in it, how it is read, and its rows, to be read once."""

    name: str
    columns: list[str]
    read_as: str
    not_utf8: int
    """Lines that were not UTF-8."""
    tried: str
    """What a line is not that could not be decoded."""

    def __iter__(self) -> Iterator[Record]: ...


def text(value: object, *, listed: bool = False) -> str | None:
    """A value as text, a missing one empty; None: it is none that text stands for, such as a list.

    A list of texts as JSON where it may be one (`listed`).

    A whole number that is stored as a float is written as the whole number that it is, while floats tell those apart.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return str(value).lower()
        case float():
            if math.isnan(value):
                return ""
            return str(int(value)) if value.is_integer() and abs(value) < WHOLE_MAX else repr(value)
        case bytes():
            return value.decode("utf-8", errors="surrogateescape")
        case list() if listed:
            items = [text(item) for item in value]
            return None if None in items else json.dumps(items, ensure_ascii=False)
        case list() | dict():
            return None
    return str(value)


def record(where: str, values: Values) -> Record:
    """A row of these values, or its fault where they are damaged."""
    first = next(iter(values.values()), "")
    for column, value in values.items():
        if "\0" in value:
            return Record(where, values, first, "zero byte", "the row is damaged: text has none")
        if not value.isascii() and _HALF.search(value):
            shown = first.encode("utf-8", "replace").decode()
            return Record(where, None, shown, "damaged text", f"{column} holds half a letter of UTF-16")
    return Record(where, values, first)
