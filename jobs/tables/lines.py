"""The lines of a text file of unknown origin, one by one: of every system, in the encoding that is set or told.

Text is never garbled in silence. What is not told with confidence is handed on with its bytes as `surrogateescape`
writes them (`UNDECODED`), so that who reads it can refuse the rows that it concerns.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from typing import IO, NamedTuple

from infra import encodings
from infra.errors import UserError

LINE_MAX = 2**20
"""Bytes of a line."""
UNDECODED = re.compile("[\udc80-\udcff]")
"""A byte of an unknown encoding, as Python's `surrogateescape` writes it."""
UTF8_LINES_MIN, WESTERN_MIN = 0.1, 0.9
"""Shares of the lines that are no ASCII: from which on a file is UTF-8 with some damage, or Western with some."""
SAVE = "save it as UTF-8 (a spreadsheet calls that CSV UTF-8), or set LOOKALIKE_ENCODING to the encoding that it has"
_AS = "give a CSV, TSV, Parquet or JSONL file"
UNICODE = (  # UTF-32's mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""The marks that Unicode files begin with, as spreadsheets write them."""
OTHERS = (
    (b"PK\3\4", "it is a spreadsheet or a zip archive", _AS),
    (b"\xd0\xcf\x11\xe0", "it is a spreadsheet", _AS),
    (b"PAR1", "it is a Parquet file", "name it .parquet"),
    (b"\x1f\x8b", "it is packed with gzip", "name it .gz at its end, or unpack it"),
    (b"version https://git-lfs", "it is a pointer of Git LFS", "fetch the files: `git lfs pull`"),
)
"""What files that are no text begin with, what they are, and what to do."""
_ISO2022 = re.compile("\x1b\\$([@B(]|\\)[ACG])")
_ESCAPED = re.compile(r"""\\["'][^"',;|\s]""")
_SEPARATORS = re.compile(rb'[\s,;"]+')  # none of them is a part of a letter of several bytes


class File(NamedTuple):
    """A file of a source: what messages call it, and how to open it."""

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    def refused(self, problem: str, remedy: str) -> UserError:
        """The error that this file cannot be used."""
        return UserError(f"{self.name.rpartition('/')[2]} {problem}", where=self.name, remedy=remedy)


class Lines:
    """The lines of `file`, to be read once; `not_utf8` counts those of another encoding than UTF-8.

    Raises, here and where they are read:
        UserError: the file is no text, not in `encoding` (empty: to be told), unpacks to more than `limit` bytes, or
            has a line of more than LINE_MAX.
    """

    def __init__(self, file: File, limit: int, encoding: str = "") -> None:
        self._file, self._limit = file, limit
        self._again: deque[str] = deque()
        self._decode: Callable[[bytes], str] | None = None
        """Reads a line of an encoding in which ASCII is itself; None: the encoding reads the whole."""
        self.tried = "neither UTF-8 nor Windows-1252"
        """What a line is not that could not be decoded."""
        self.not_utf8 = 0
        self.escaped: bool | None = None
        """Whether quotes have a backslash before them: where they are doubled, none is between other letters."""
        self.encoding = encoding or self._marked() or self._told()
        if encoding and _keeps_ascii(encoding):
            self._strictly(encoding)
        if self.escaped is None:
            self.escaped = any(map(_is_escaped, self._text()))
        self._source = self._text()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return self._again.popleft() if self._again else next(self._source)

    @property
    def called(self) -> str:
        """The encoding, for people."""
        return self.encoding.removesuffix("-sig") or "an unknown encoding"

    def put_back(self, lines: Sequence[str]) -> None:
        """These come next, once more."""
        self._again.extendleft(reversed(lines))

    def _text(self) -> Iterator[str]:
        lines = self._read(self.encoding) if self._decode is None else map(self._decode, self._bytes())
        yield from (line.removeprefix("\ufeff") for line in islice(lines, 1))
        yield from lines

    def _read(self, encoding: str) -> Iterator[str]:
        """The lines without their ends, which may be those of every system."""
        number = 1
        with self._file.open() as stream:
            letters = io.TextIOWrapper(stream, encoding, newline=None)  # type: ignore[type-var]
            while True:
                try:
                    line = letters.readline(LINE_MAX + 1)
                except UnicodeError as error:
                    problem = f"is not in {encoding}: {error}, in line {number} or soon after"
                    raise self._file.refused(problem, SAVE) from None
                if not line:
                    return
                if stream.tell() > self._limit:
                    problem = f"unpacks to more than {self._limit:,} bytes"
                    raise self._file.refused(problem, "if it is right, raise LOOKALIKE_STYLES_MAX_BYTES")
                if len(line) > LINE_MAX:
                    problem = f"is no table: a line has more than {LINE_MAX:,} bytes"
                    raise self._file.refused(problem, f"{_AS}; look at line {number}")
                yield line.removesuffix("\n")
                number += 1

    def _bytes(self) -> Iterator[bytes]:
        """The lines as they are, in an encoding in which ASCII is itself."""
        for line in self._read("latin-1"):  # which gives each byte a letter
            yield line.encode("latin-1")

    # The encoding

    def _marked(self) -> str:
        """The encoding that the file says it has. A mark of UTF-8 says little: damaged lines are looked at."""
        with self._file.open() as stream:
            head = stream.read(64)
        for mark, problem, remedy in OTHERS:
            if head.startswith(mark):
                raise self._file.refused(f"is no text: {problem}", remedy)
        encoding = next((encoding for mark, encoding in UNICODE if head.startswith(mark)), "")
        if not encoding and b"\0" in head.split(b"\n")[0]:
            guess = "utf-16-be" if head.startswith(b"\0") else "utf-16-le"
            remedy = f"save it as UTF-8, or, if it is UTF-16 without its mark, set LOOKALIKE_ENCODING={guess}"
            raise self._file.refused("is no UTF-8: it holds zero bytes, as UTF-16 does", remedy)
        return "" if encoding == "utf-8-sig" else encoding

    def _told(self) -> str:
        """The encoding by all lines of the file."""
        words: dict[bytes, None] = {}
        utf8 = western = escaped = 0
        for number, line in enumerate(self._read("latin-1"), 1):
            escaped += "\\" in line and _is_escaped(line)
            if line.isascii():
                if "\x1b" in line and _ISO2022.search(line):
                    raise self._file.refused(
                        f"is in ISO-2022, by line {number}", "set LOOKALIKE_ENCODING, to iso2022_jp perhaps"
                    )
                continue
            data = line.encode("latin-1").removeprefix(codecs.BOM_UTF8 if number == 1 else b"")
            try:
                utf8 += not data.decode("utf-8").isascii()
            except UnicodeDecodeError:
                self.not_utf8 += 1
                western += encodings.western(data) is not None
            if len(words) < encodings.WORDS_MAX:
                words |= dict.fromkeys(word for word in _SEPARATORS.split(data) if not word.isascii())
        self.escaped = bool(escaped)
        if not self.not_utf8:
            return "utf-8-sig"
        if utf8 >= UTF8_LINES_MIN * (utf8 + self.not_utf8):
            self._decode = _as_utf8_or_western
            return "utf-8"
        told = encodings.tell(words)
        if told.certain:
            self._strictly(told.encoding)
            return told.encoding
        if told.western or (not told.encoding and western >= WESTERN_MIN * self.not_utf8):
            self._decode = _as_utf8_or_western
            return encodings.WESTERN
        self._decode = partial(_decoded, codec="ascii")  # what happens to be UTF-8 too is no more certain
        return ""

    def _strictly(self, encoding: str) -> None:
        self._decode, self.tried = partial(_decoded, codec=encoding), f"not {encoding}"


def _is_escaped(line: str) -> bool:
    return _ESCAPED.search(line) is not None


def _keeps_ascii(encoding: str) -> bool:
    text = '\n\r\t,;|"az09'
    return text.encode(encoding) == text.encode("ascii")


def _decoded(line: bytes, codec: str) -> str:
    try:
        return line.decode(codec)
    except UnicodeDecodeError:
        return line.decode("utf-8" if codec == "utf-8" else "ascii", errors="surrogateescape")


def _as_utf8_or_western(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        text = encodings.western(line)
    return line.decode("utf-8", errors="surrogateescape") if text is None else text
