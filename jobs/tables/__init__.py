"""A table of any usual form, whatever its columns are called: CSV and its kin, JSON lines, Parquet, Delta.

Each value is a text, a missing one is empty. What is no row of the table is handed on with its fault and costs no
other; a file that is no table is an error. Memory holds a few rows.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, cast

from jobs.tables.delimited import DelimitedTable
from jobs.tables.jsonlines import JsonTable
from jobs.tables.lines import File
from jobs.tables.rows import DELTA_LOG, Reading, Record, Table

__all__ = ["SUFFIXES", "File", "Reading", "Record", "Table", "among", "named", "opened"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")
"""How the name of a table's file ends."""


def among(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """The tables among the files of a source, by their path, `.` where the source itself is one.

    Each with its files by their path in it: one, without such a path, or those of a folder.
    """
    paths, log = list(paths), f"/{DELTA_LOG}/"
    folders = dict.fromkeys(f"/{path}".partition(log)[0].removeprefix("/") for path in paths if log in f"/{path}")
    tables: dict[str, dict[str, str]] = {}
    for folder in folders:
        inside = [path for path in paths if not folder or path.startswith(f"{folder}/")]
        names = ((path.removeprefix(f"{folder}/") if folder else path, path) for path in inside)
        tables[folder or "."] = {
            name: path for name, path in names if name.endswith(".parquet") or name.startswith(f"{DELTA_LOG}/")
        }
    parts = {path for files in tables.values() for path in files.values()}
    return tables | {path: {"": path} for path in paths if path.endswith(SUFFIXES) and path not in parts}


def named(name: str, paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """The tables `among` the files of a source that are called `name`, but for their endings."""
    endings = {name, *(f"{name}{suffix}" for suffix in SUFFIXES)}
    return {path: files for path, files in among(paths).items() if path.rpartition("/")[2] in endings}


@contextmanager
def opened(name: str, files: Mapping[str, File], reading: Reading) -> Iterator[Table]:
    """The table of this name: its file, or the files by their path below it where it is a folder.

    Raises, here and where it is read:
        UserError: it is damaged, too large, or no table.
    """
    file, kind = files.get(""), name.removesuffix(".gz").rpartition(".")[2]
    if file and name.endswith(".gz"):
        file = _unpacked(file)
    if file is None or kind == "parquet":
        from jobs.tables import columnar  # which takes 50 MB, and a CSV file does not need it

        columns = columnar.open_parquet(file, reading) if file else columnar.open_delta(name, files, reading)
        with columns as table:
            yield table
    elif kind in ("jsonl", "ndjson"):
        yield JsonTable(file, reading)
    else:
        yield DelimitedTable(file, reading, "\t" if kind == "tsv" else "")


def _unpacked(file: File) -> File:
    """What a gzip file holds."""

    @contextmanager
    def unpacked() -> Iterator[IO[bytes]]:
        try:
            with file.open() as stream, gzip.GzipFile(fileobj=stream) as inside:
                yield cast(IO[bytes], inside)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise file.refused(f"is damaged: {error}", "pack it again") from None

    return File(file.name, unpacked)
