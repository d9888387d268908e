"""Records of delimited text (CSV, TSV and their kin), whichever of the usual dialects they are in, a line at a time."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeGuard

from infra.errors import UserError
from jobs.tables.lines import File, Lines
from jobs.tables.rows import Reading, Record, Values

DELIMITERS = ",;\t|"
"""What may stand between columns without being set."""
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
RECORD_MAX = 8 * 2**20
"""Letters of a row whose quoted fields span lines, such as descriptions: what memory holds until a quote closes."""
PATIENCE = 4 * RECORD_MAX
"""Letters of a file that may be read in vain for quotes that a backslash hides."""
UNSEEN = " \t\n\v\f\r\u00a0\u200b\u200c\u200d\u2060\ufeff"
"""What a name of a column may have around it and nobody sees."""
_SEP = re.compile('"?sep=(.)"?', re.IGNORECASE)

csv.field_size_limit(RECORD_MAX)  # of the whole process; the module's own is 128 kB

IsRow = Callable[[Sequence[str], Sequence[str]], bool]


class Delimited:
    """(line number, fields) of each record of `lines`; the first is the header, its names without what nobody sees.

    A quoted field may span lines, but none that is a row by itself, by `is_row(fields, header)`: a stray quote opened
    that field. So it swallows no row, and its line is a record without quoted fields. Quotes inside of fields are
    doubled, or have a backslash before them: in a file that shows it, and where a record has as many fields as the
    header only so.

    Raises, where they are read:
        UserError: it cannot be told what stands between the columns.
    """

    def __init__(self, lines: Lines, name: str, is_row: IsRow, delimiter: str = "") -> None:
        self._lines, self._name, self._is_row = lines, name, is_row
        self._quote, self._patience = '"', PATIENCE
        self.delimiter = delimiter
        self.header: list[str] = []

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        number = 0
        for line in self._lines:
            number += 1
            if not line.strip() or (not self.header and self._is_told(line, number)):
                continue
            record, following = self._record(line)
            if not self.header:
                record = self.header = [column.strip(UNSEEN) for column in record]
            yield number, record
            number += len(following)

    def _is_told(self, line: str, number: int) -> bool:
        """Take up the dialect from the first lines; whether this one says nothing else, as Excel's `sep=;` does."""
        if number == 1 and (said := _SEP.fullmatch(line.strip())):
            self.delimiter = self.delimiter or said[1]
            return True
        self.delimiter = self.delimiter or _delimiter(line, self._name)
        self._quote = "'" if line.startswith("'") else '"'
        return False

    def _record(self, line: str) -> tuple[list[str], list[str]]:
        """Fields of the record that begins with `line`, and its further lines."""
        if self._quote not in line and "\\" not in line:
            return line.split(self.delimiter), []
        record, following = self._attempt(line, bool(self._lines.escaped))
        if self._fits(record):
            return record, following
        if self._lines.escaped or any("\\" in part for part in (line, *following)):
            self._lines.put_back(following)
            record, following = self._attempt(line, not self._lines.escaped)
            if self._fits(record):
                return record, following
            if not self._lines.escaped:
                self._lines.put_back(following)
                record, following = self._attempt(line)
        if record is None:
            self._lines.put_back(following)
            return line.split(self.delimiter), []
        return record, following

    def _fits(self, record: list[str] | None) -> TypeGuard[list[str]]:
        return record is not None and len(record) == len(self.header or record)

    def _attempt(self, line: str, escaped: bool = False) -> tuple[list[str] | None, list[str]]:
        """The fields, or None where quotes are not in pairs, and the lines read for them.

        `escaped`: a backslash hides a quote. That many lines may be read for it in vain is bounded.
        """
        following: list[str] = []
        letters = min(RECORD_MAX, self._patience) if escaped else RECORD_MAX
        lines = self._record_lines(line, following, letters)
        record = self._parse(map(self._other_backslashes, lines), "\\") if escaped else self._parse(lines)
        if escaped and not self._fits(record):
            self._patience -= sum(map(len, following))
        return record, following

    def _other_backslashes(self, line: str) -> str:
        """The line with two backslashes for each that hides nothing, but stands for itself, as in `C:\\temp`."""
        hidden = f"\\{self.delimiter}{self._quote}"
        return re.sub(r"\\(.)", lambda pair: pair[0] if pair[1] in hidden else f"\\{pair[0]}", line, flags=re.DOTALL)

    def _record_lines(self, line: str, following: list[str], letters: int) -> Iterator[str]:
        """`line` and those that may belong to its record, which `following` receives."""
        yield line + "\n"
        size = len(line)
        for further in self._lines:
            following.append(further)
            size += len(further)
            if size > letters or (self.header and self._begins_row(further)):
                return
            yield further + "\n"

    def _begins_row(self, line: str) -> bool:
        return self._is_row(self._parse([line]) or line.split(self.delimiter), self.header)

    def _parse(self, lines: Iterable[str], escape: str | None = None) -> list[str] | None:
        """The fields of the record that these lines begin with; reads no more of them."""
        try:
            return next(
                csv.reader(
                    lines,
                    delimiter=self.delimiter,
                    quotechar=self._quote,
                    doublequote=not escape,
                    escapechar=escape,
                    strict=True,
                )
            )
        except (csv.Error, StopIteration):
            return None


def _delimiter(line: str, name: str) -> str:
    """What stands between the columns: what splits the header into the most.

    Names hold none of these marks, as values do: `csv.Sniffer` and clevercsv, which look at both, told no more.
    """
    counts = {mark: len(next(csv.reader([line], delimiter=mark))) for mark in DELIMITERS}
    most = max(counts.values())
    best = [mark for mark in DELIMITERS if counts[mark] == most]
    if len(best) > 1 < most:
        found = " or ".join(NAMES[mark] for mark in best)
        raise UserError(
            f"it cannot be told whether {found} stand between the columns of {line[:200]!r}",
            where=name,
            remedy="set LOOKALIKE_DELIMITER to the one",
        )
    return best[0]


class DelimitedTable:
    """A file of delimited text."""

    def __init__(self, file: File, reading: Reading, delimiter: str = "") -> None:
        self.name, self._free = file.name, reading.free
        self._lines = Lines(file, reading.limit, reading.encoding)

        def is_row(fields: Sequence[str], header: Sequence[str]) -> bool:
            values = self._fit(fields, header)
            return values is not None and reading.is_row(values)

        self._text = Delimited(self._lines, file.name, is_row, reading.delimiter or delimiter)
        self._records = iter(self._text)
        self.columns = next(self._records, (0, []))[1]
        self.not_utf8, self.tried = self._lines.not_utf8, self._lines.tried
        mark = self._text.delimiter
        self.read_as = f"{self._lines.called}, {NAMES.get(mark, repr(mark))}"

    def __iter__(self) -> Iterator[Record]:
        header = self.columns
        for line, fields in self._records:
            where, values = f"{self.name}, line {line}", self._fit(fields, header)
            if any("\0" in text for text in fields):
                yield Record(where, values, fields[0], "zero byte", "the row is damaged: text has none")
            elif values is None:
                fault = "too few fields" if len(fields) < len(header) else "too many fields"
                yield Record(where, None, fields[0], fault, f"{len(fields)} instead of {len(header)}")
            else:
                yield Record(where, values, fields[0])

    def _fit(self, fields: Sequence[str], header: Sequence[str]) -> Values | None:
        """Values by column, or None where the fields cannot be a row of this header."""
        extra, last = len(fields) - len(header), len(header) - 1
        # A quote that opens before the last column may hold a delimiter, so nothing tells where that column begins.
        is_free = self._free and header[last] == self._free
        if extra > 0 and is_free and not any(text.startswith('"') for text in fields[:last]):
            fields = [*fields[:last], self._text.delimiter.join(fields[last:])]
        return dict(zip(header, fields, strict=True)) if len(fields) == len(header) else None
