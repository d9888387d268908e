"""The rows of styles.csv: what the published file and those of other programs hold, read a line at a time.

A row that cannot be used is a reject with its reason, and costs no other row; a file that is no catalogue is an error.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import IO

from infra.errors import UserError
from infra.settings import ATTRIBUTES
from jobs.rejects import Rejects

COLUMNS = ("id", *ATTRIBUTES)
MAX_ID = 2**63 - 1
LINE_MAX = 2**20
"""Bytes of a line of styles.csv."""
RECORD_MAX = 8 * 2**20
"""Letters of a row whose quoted fields span lines, such as descriptions: what memory holds until a quote closes."""
FILTER_MAX = 2000
"""Bytes of a row's values to filter by, together: the store's key of a filter, with the names, takes 2,704."""
UNSEEN = " \t\n\v\f\r\u00a0\u200b\u200c\u200d\u2060\ufeff"
"""What a name of a column may have around it and nobody sees."""
UNDECODED = re.compile("[\udc80-\udcff]")
"""A byte of another encoding, as Python's `surrogateescape` writes it."""

_SAVE = "save it as UTF-8; a spreadsheet calls that CSV UTF-8"
_EXPORT = "export it as CSV in UTF-8"
BEGINNINGS = (  # UTF-32's mark begins with that of UTF-16
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "is in UTF-32", _SAVE),
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "is in UTF-16", _SAVE),
    ((b"PK\3\4",), "is no CSV: it is a spreadsheet or a zip archive", _EXPORT),
    ((b"\xd0\xcf\x11\xe0",), "is no CSV: it is a spreadsheet", _EXPORT),
    ((b"PAR1",), "is no CSV: it is a Parquet file", _EXPORT),
    ((b"\x1f\x8b",), "is no CSV: it is packed with gzip", "unpack it"),
    ((b"version https://git-lfs",), "is no CSV: it is a pointer of Git LFS", "fetch the files: `git lfs pull`"),
)
"""What other files than CSV in UTF-8 begin with, what they are, and what to do."""

_ACCENTED, _SIGNS = "À-ÖØ-öø-ÿŒœŠšŽžŸ", "¡¢£¤¥¦§¨¬¯±¶¸¼½¾¿ƒ"
UNWESTERN = re.compile(
    "\ufffd"  # bytes that Windows-1252 does not have
    f"|[{_ACCENTED}{_SIGNS}ª²³µ¹º]{{3}}|[ª²³µ¹º][{_ACCENTED}]"
    f"|[^\\W\\d_][{_SIGNS}‚„]|[^\\W\\d_][ª²³µ¹º][^\\W\\d_]"  # signs that end a word, or stand inside one
    "|[a-zß-öø-ÿ][À-ÖØ-ÞŒŠŽŸ]"
)
"""What other encodings look like when they are read as Windows-1252, and Western words hardly ever."""
_CYRILLIC, _HAN = "\u0400-\u045f\u00a0«»–—№", "\u3000-\u30ff\u4e00-\u9fff\uff00-\uff60"
ENCODINGS = (
    ("Shift-JIS", "cp932", f"[{_HAN}]*[\u3041-\u30ff][{_HAN}]*"),  # kana tell it from the others
    ("Windows-1251", "cp1251", f"[{_CYRILLIC}]+"),
    ("KOI8-R", "koi8-r", f"[{_CYRILLIC}]+"),
    ("Windows-1253", "cp1253", "[\u0370-\u03ff\u00a0]+"),
    ("EUC-KR", "cp949", "[\uac00-\ud7a3\u3000-\u303f]+"),
    ("GB18030", "gb18030", f"[{_HAN}]+"),
)
"""Encodings that are named where all letters that are no ASCII match: the first one that does."""

csv.field_size_limit(RECORD_MAX)  # of the whole process; the module's own is 128 kB


def parse_id(text: str) -> int | None:
    """A product's id, of 63 bits; None where the text is none."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ID))):  # int() refuses very long texts
        return None
    return int(text) if int(text) <= MAX_ID else None


def read_styles(
    stream: IO[bytes], name: str, rejects: Rejects, limit: int, fields: Collection[str] = ()
) -> tuple[list[dict], int]:
    """Rows of styles.csv as dicts of `product_id`, the nine attributes and derivedType; empty values are None.

    Also returns how many lines were not UTF-8. Memory holds the rows and a few lines, not the file. Values of `fields`
    are filtered by.

    The published file does not quote its last column, so further commas in a row belong to it; `NA` is a value.

    Raises:
        UserError: the file is no CSV with the columns of a catalogue, has no row that can be used, or is larger than
            `limit` bytes.
    """
    lines = Lines(stream, name, limit)
    records = _records(lines)
    header = next(records, (0, []))[1]
    _check_header(header, name)
    rows: dict[int, dict] = {}
    for line, record in records:
        where, values = f"{name}, line {line}", _fit(record, header)
        shown = _readable(values["id"] if values else record[0])[:40].replace("\0", "")
        product_id = parse_id(values["id"]) if values else None
        if any("\0" in text for text in record):
            rejects.product(shown, where, "zero byte", "the row is damaged: text has none")
        elif values is None:
            problem = "too few fields" if len(record) < len(header) else "too many fields"
            rejects.product(shown, where, problem, f"{len(record)} instead of {len(header)}")
        elif undecoded := [values[column] for column in COLUMNS if UNDECODED.search(values[column])]:
            rejects.product(shown, where, "unknown encoding", _encoding(undecoded))
        elif product_id is None:
            rejects.product(shown, where, "no product id", f"{shown!r} is no whole number in digits")
        elif long := _too_long(values, fields):
            rejects.product(str(product_id), where, "values too long", long)
        elif product_id in rows:
            rejects.product(str(product_id), where, "duplicate id", "the first row with this id is used")
        else:
            rows[product_id] = _product(product_id, values)
    if not rows:
        raise _unusable(rejects, name)
    return list(rows.values()), lines.not_utf8


def _check_header(header: Sequence[str], name: str) -> None:
    """Raises UserError where a column is missing, or there twice."""
    remedy = f"give a CSV file with the columns {', '.join(COLUMNS)}"
    if missing := [column for column in COLUMNS if column not in header]:
        if separator := next((mark for mark in ";\t|" if set(COLUMNS) <= set(",".join(header).split(mark))), None):
            problem = f"styles.csv has {separator!r} between its columns, where a comma belongs"
            raise UserError(problem, where=name, remedy=remedy)
        several = len(missing) > 1
        raise UserError(
            f"the column{'s' * several} {', '.join(missing)} {'are' if several else 'is'} "
            f"missing; found {_readable(', '.join(header))[:200] or 'nothing'}",
            where=name,
            remedy=remedy,
        )
    for column in COLUMNS:  # further columns are not read, so two of those do no harm
        places = [(at, found) for at, found in enumerate(header, 1) if found.casefold() == column.casefold()]
        if len(places) > 1:
            found = " and ".join(f"column {at} ({found})" for at, found in places)
            raise UserError(f"columns have one name: {found}", where=name, remedy="keep one, rename the others")


def _unusable(rejects: Rejects, name: str) -> UserError:
    """No row of the file can be used."""
    found = rejects.products.total()
    if not found:
        return UserError("styles.csv has no row below its header", where=name, remedy="give a file with products")
    remedies = {
        "no product id": "give ids that are whole numbers in digits, such as 15970, and name images by them: 15970.jpg",
        "unknown encoding": _SAVE,
        "values too long": "shorten them, or leave the field out of LOOKALIKE_FIELDS",
    }
    return UserError(
        f"none of the {found:,} rows of styles.csv can be used: {rejects.of_products()}",
        where=name,
        remedy=remedies.get(rejects.products.most_common(1)[0][0], "mend the rows"),
    )


# Lines and records ----------------------------------------------------------------------------------------------------


class Lines:
    """The lines of styles.csv, read one by one; `not_utf8` counts those of another encoding.

    Raises, where they are read:
        UserError: the file is no text, unpacks to more than `limit` bytes, or has a line of more than LINE_MAX.
    """

    def __init__(self, stream: IO[bytes], name: str, limit: int) -> None:
        self._stream, self._name, self._limit = stream, name, limit
        self._again: deque[str] = deque()
        self._number = 0
        self.not_utf8 = 0

    def __iter__(self) -> Iterator[str]:
        # Latin-1 gives each byte a letter, so that lines of every system can be told before any is decoded.
        letters = io.TextIOWrapper(self._stream, encoding="latin-1", newline=None)  # type: ignore[type-var]
        while True:
            while self._again:
                yield self._again.popleft()
            line = letters.readline(LINE_MAX + 1)
            if not line:
                return
            self._number += 1
            self._check(line, self._stream.tell())
            data = line.encode("latin-1").removesuffix(b"\n")
            yield self._decode(data if self._number > 1 else self._first(data))

    def put_back(self, lines: Sequence[str]) -> None:
        """These come next, once more."""
        self._again.extendleft(reversed(lines))

    def _check(self, line: str, unpacked: int) -> None:
        if unpacked > self._limit:
            raise self._refused(
                f"unpacks to more than {self._limit:,} bytes", "if it is right, raise LOOKALIKE_STYLES_MAX_BYTES"
            )
        if len(line) > LINE_MAX:
            problem = f"is no CSV: a line has more than {LINE_MAX:,} bytes"
            raise self._refused(problem, f"give a CSV file; look at line {self._number}")

    def _first(self, line: bytes) -> bytes:
        """The first line, without a byte order mark."""
        for marks, problem, remedy in BEGINNINGS:
            if line.startswith(marks):
                raise self._refused(problem, remedy)
        if b"\0" in line:
            raise self._refused("is no CSV in UTF-8: it holds zero bytes, as UTF-16 does", _SAVE)
        return line.removeprefix(codecs.BOM_UTF8)

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self.not_utf8 += 1
        text = line.decode("cp1252", errors="replace")  # Windows' Western encoding: spreadsheets write it
        return line.decode("utf-8", errors="surrogateescape") if UNWESTERN.search(text) else text

    def _refused(self, problem: str, remedy: str) -> UserError:
        return UserError(f"styles.csv {problem}", where=self._name, remedy=remedy)


def _records(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each record; the first is the header, its names without what nobody sees.

    A quoted field may span lines, but none that is a row by itself: a stray quote opened that field. So it swallows no
    row, and its line is a record without quoted fields.
    """
    header: list[str] = []
    reading, number = iter(lines), 1
    for line in reading:
        following: list[str] = []
        record = _parse(_record_lines(line, reading, header, following)) if line.strip() else []
        if record is None:
            lines.put_back(following)
            following, record = [], line.split(",")
        if not header:
            record = header = [column.strip(UNSEEN) for column in record]
        if record:
            yield number, record
        number += 1 + len(following)


def _record_lines(line: str, reading: Iterator[str], header: list[str], following: list[str]) -> Iterator[str]:
    """`line` and those that may belong to its record, which `following` receives."""
    yield line + "\n"
    size = len(line)
    for further in reading:
        following.append(further)
        size += len(further)
        if size > RECORD_MAX or (header and _is_row(further, header)):
            return
        yield further + "\n"


def _parse(lines: Iterable[str]) -> list[str] | None:
    """The fields of the record that these lines begin with; reads no more of them. None: quotes are not in pairs."""
    try:
        return next(csv.reader(lines, strict=True))
    except csv.Error:
        return None


def _is_row(line: str, header: list[str]) -> bool:
    values = _fit(_parse([line]) or line.split(","), header)
    return values is not None and parse_id(values["id"]) is not None


def _fit(record: list[str], header: list[str]) -> dict[str, str] | None:
    """Values by column, or None where the record cannot be one of this header."""
    extra, last = len(record) - len(header), len(header) - 1
    # A quote that opens before the last column may hold a comma, so nothing tells where the last column begins.
    if extra > 0 and header[last] == "productDisplayName" and not any(text.startswith('"') for text in record[:last]):
        record = [*record[:last], ",".join(record[last:])]
    return dict(zip(header, record, strict=True)) if len(record) == len(header) else None


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


def _encoding(undecoded: list[str]) -> str:
    """What is known of the encoding of these values, of one row."""
    data = " ".join(undecoded).encode("utf-8", "surrogateescape")
    for name, codec, letters in ENCODINGS:
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        regular = not any(before.islower() and after.isupper() for before, after in pairwise(text))
        if regular and re.fullmatch(letters, "".join(letter for letter in text if not letter.isascii())):
            return f"neither UTF-8 nor Windows-1252; {text[:40]!r} if it is {name}"
    return f"neither UTF-8 nor Windows-1252: {data[:40]!r}"
