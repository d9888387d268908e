"""Tables whose columns have types: Parquet files, and Delta tables, which are made of them.

Files wait in a local folder while they are read: both are read out of order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import disk
from infra.errors import UserError
from jobs.layout import FILE
from jobs.tables.lines import LINE_MAX, File
from jobs.tables.rows import DELTA_LOG, Reading, Record, record, text

if TYPE_CHECKING:
    from deltalake import DeltaTable

LIST_MAX = 10_000
"""Values of a list: what memory holds of them for each of the rows that are in it."""
ROWS = 256
"""Rows in memory at once."""
CHUNK = 2**20
SCRATCH = "LOOKALIKE_SCRATCH"
AS_PARQUET = "write the table as Parquet files, without it"


@dataclass(frozen=True)
class Part:
    """A Parquet file of a table: how to open it on the local disk, what all of its rows have beside it, which count.

    `kept` tells of each row whether it counts; none: all do.
    """

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    beside: Mapping[str, str] = field(default_factory=dict)
    kept: Sequence[bool] | None = None


class ColumnarTable:
    """A table of Parquet files, all of which have its columns or lack some."""

    not_utf8 = 0
    tried = "not utf-8"

    def __init__(self, name: str, columns: Sequence[str], parts: Sequence[Part], reading: Reading, kind: str) -> None:
        self.name, self.columns, self.read_as = name, list(columns), kind
        self._parts, self._reading, self._letters = parts, reading, 0

    def __iter__(self) -> Iterator[Record]:
        for part in self._parts:
            with part.open() as stream, _damage_told(part.name):
                yield from self._rows(part, stream)

    def _rows(self, part: Part, stream: IO[bytes]) -> Iterator[Record]:
        wanted, schema = self._reading.columns, pq.read_schema(stream)
        columns = [name for name in wanted if name in schema.names and name not in part.beside]
        for name in columns:
            kind = schema.field(name).type
            may_be = self._reading.nested or (_is_list(kind) and name in self._reading.lists)
            if pa.types.is_nested(kind) and not may_be:
                problem = f"has {kind} in the column {name}, where text belongs"
                remedy = f'write `lists = ["{name}"]` in {FILE}' if _is_list(kind) else "write it as text"
                raise _refused(part.name, problem, remedy)
        # As dictionaries: a text of a megabyte may be that of a million rows.
        parquet = pq.ParquetFile(
            stream, read_dictionary=[name for name in columns if _is_text(schema.field(name).type)]
        )
        row = 0
        for batch in parquet.iter_batches(ROWS, columns=columns):
            values = {name: self._texts(name, batch.column(name), part.name) for name in columns}
            for at in range(len(batch)):
                row += 1
                if part.kept is None or part.kept[row - 1]:
                    given = {name: values[name][at] if name in values else part.beside.get(name, "") for name in wanted}
                    yield record(f"{part.name}, row {row}", given)

    def _texts(self, name: str, column: pa.Array, file: str) -> list[str]:
        """The values of a column of a batch."""
        if pa.types.is_dictionary(column.type):
            longest = pc.max(pc.binary_length(column.dictionary.cast(pa.large_binary()))).as_py() or 0
            if longest > LINE_MAX:
                raise _refused(file, f"has a text of {longest:,} bytes; {LINE_MAX:,} may be", "shorten it")
            column = column.dictionary_decode()
        if _is_text(column.type):
            column = column.cast(pa.large_binary())  # text of another encoding is one row's fault
        if _is_list(column.type) and (most := pc.max(pc.list_value_length(column)).as_py() or 0) > LIST_MAX:
            raise _refused(file, f"has a list of {most:,} values; {LIST_MAX:,} may be", "shorten it")
        texts = [self._reading.text(name, value) or "" for value in column.to_pylist()]
        self._letters += sum(map(len, texts))
        if self._letters > self._reading.limit:
            raise _too_large(file, self._reading.limit)
        return texts


def _unpacked_size(metadata: pq.FileMetaData, columns: Sequence[str]) -> int:
    """Bytes that the file says its columns unpack to."""
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)


def _is_text(kind: pa.DataType) -> bool:
    checks = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(pa.types, check)(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    """Whether it is one of lists of values that are none."""
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks) and not pa.types.is_nested(kind.value_type)


@contextmanager
def open_parquet(file: File, reading: Reading) -> Iterator[ColumnarTable]:
    """The table of a Parquet file. Raises UserError where it is none."""
    with _waiting(file, reading) as stream:
        with _damage_told(file.name):
            names = pq.read_schema(stream).names
        yield ColumnarTable(file.name, names, [Part(file.name, lambda: nullcontext(stream))], reading, "Parquet")


@contextmanager
def open_delta(name: str, files: Mapping[str, File], reading: Reading) -> Iterator[ColumnarTable]:
    """The newest version of the Delta table that these files are, by their path in it.

    Raises:
        UserError: its log is damaged, or names files that are not there or features that are not read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    with _folder(reading) as folder:
        with _damage_told(name), disk.told(reading.scratch, SCRATCH):
            for path, file in files.items():
                if not path.endswith(".parquet") or path.startswith(f"{DELTA_LOG}/"):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    with (folder / path).open("wb") as copy:
                        _copy(file, copy, reading)
        try:
            delta = DeltaTable(folder)
            parts = list(_parts(delta, name, files, reading))
            columns = [column.name for column in delta.schema().fields]
            kind = f"Delta, version {delta.version()}"
        except DeltaError as error:
            raise _refused(name, f"is a Delta table that cannot be read: {disk.one_line(error)}", AS_PARQUET) from None
        yield ColumnarTable(name, columns, parts, reading, kind)


def _parts(delta: DeltaTable, name: str, files: Mapping[str, File], reading: Reading) -> Iterator[Part]:
    """The Parquet files of a version, in the order of their names."""
    if delta.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise _refused(name, "is a Delta table with column mapping, which is not read", AS_PARQUET)
    deleted = pa.table(delta.deletion_vectors()).to_pylist()
    added = sorted(pa.table(delta.get_add_actions()).to_pylist(), key=lambda row: row["path"])
    for row in added:
        path = unquote(row["path"])
        if path not in files:
            problem = f"is a Delta table whose log names {path[:200]!r}, which the source lacks"
            raise _refused(name, problem, "give all of its folder")
        kept = [found["selection_vector"] for found in deleted if unquote(found["filepath"]).endswith(f"/{path}")]
        beside = {column: text(value) or "" for column, value in (row.get("partition") or {}).items()}
        yield Part(files[path].name, partial(_waiting, files[path], reading), beside, kept[0] if kept else None)


# Files on the local disk ----------------------------------------------------------------------------------------------


@contextmanager
def _waiting(file: File, reading: Reading) -> Iterator[IO[bytes]]:
    """A copy of a file that can be read out of order."""
    with disk.told(reading.scratch, SCRATCH):
        reading.scratch.mkdir(parents=True, exist_ok=True)
        copy = tempfile.TemporaryFile(dir=reading.scratch)  # noqa: SIM115 - closed below
    with copy:
        _copy(file, copy, reading)
        yield copy


@contextmanager
def _folder(reading: Reading) -> Iterator[Path]:
    with disk.told(reading.scratch, SCRATCH):
        reading.scratch.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=reading.scratch)
    with folder as path:
        yield Path(path)


def _copy(file: File, sink: IO[bytes], reading: Reading) -> None:
    with file.open() as stream, disk.told(reading.scratch, SCRATCH):
        while chunk := stream.read(CHUNK):
            sink.write(chunk)
            if sink.tell() > reading.limit:
                raise _too_large(file.name, reading.limit)
        sink.flush()
        sink.seek(0)


# Errors ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _damage_told(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _refused(file, f"is damaged, or no Parquet file: {disk.one_line(error)}", "write it again") from None


def _too_large(file: str, limit: int) -> UserError:
    return _refused(file, f"unpacks to more than {limit:,} bytes", "if it is right, raise LOOKALIKE_STYLES_MAX_BYTES")


def _refused(file: str, problem: str, remedy: str) -> UserError:
    return UserError(f"{file.rpartition('/')[2]} {problem}", where=file, remedy=remedy)
