"""A table of a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from jobs.tables.lines import File, Lines
from jobs.tables.rows import Reading, Record, record

GIVE = 'give a JSON object a line, such as {"id": 15970, "gender": "Men"}'


class JsonTable:
    """A file of JSON lines; `columns` are the names of its objects, in the order in which they come."""

    def __init__(self, file: File, reading: Reading) -> None:
        self.name, self._reading, self._file = file.name, reading, file
        self.columns = self._names()
        self._lines = Lines(file, reading.limit, reading.encoding)
        self.not_utf8, self.tried = self._lines.not_utf8, self._lines.tried
        self.read_as = f"{self._lines.called}, JSON lines"

    def _names(self) -> list[str]:
        """The columns, by the lines down to the one with which all are found that are asked for."""
        names: dict[str, None] = {}
        first = ""
        for line in Lines(self._file, self._reading.limit, self._reading.encoding):
            first = first or line.strip()
            found = _object(line)
            names |= dict.fromkeys(found if isinstance(found, dict) else ())
            if names.keys() >= set(self._reading.columns):
                break
        if not names:
            raise self._file.refused(f"holds no JSON object in a line; it begins with {first[:40]!r}", GIVE)
        return list(names)

    def __iter__(self) -> Iterator[Record]:
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            where, found = f"{self.name}, line {number}", _object(line)
            if isinstance(found, str):
                yield Record(where, None, line.strip()[:40], "no JSON object", found)
                continue
            values = {column: self._reading.text(column, found.get(column)) for column in self._reading.columns}
            first = next(iter(values.values())) or ""
            if wrong := [column for column, value in values.items() if value is None]:
                yield Record(where, None, first, "no text", f"{wrong[0]} is {str(found[wrong[0]])[:40]}")
            else:
                yield record(where, {column: value or "" for column, value in values.items()})


def _object(line: str) -> dict[str, object] | str:
    """The object of a line, or why it is none."""
    try:
        found = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return str(error)
    return found if isinstance(found, dict) else f"it is {line.strip()[:40]}"


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these names and values. Raises ValueError where a name comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return found
