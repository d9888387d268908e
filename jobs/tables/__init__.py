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

__all__ = ["SUFFIXES", "File", "Reading", "Record", "Table", "named", "opened"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")
"""How the name of a table's file ends."""


def named(name: str, paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """The tables that are called `name`, but for their endings, among the files of a source, by their path.

    Each with its files by their path in it: one, without such a path, or those of a folder.
    """
    endings, log, paths = {f"{name}{suffix}" for suffix in SUFFIXES}, f"/{name}/{DELTA_LOG}/", list(paths)
    found: dict[str, dict[str, str]] = {
        path[: at + len(name)]: {} for path in paths if (at := f"/{path}".find(log)) >= 0
    }
    folders = tuple(f"{folder}/" for folder in found)
    for path in paths:
        if path.startswith(folders):
            folder = next(folder for folder in folders if path.startswith(folder))
            found[folder.removesuffix("/")][path.removeprefix(folder)] = path
        elif path.rpartition("/")[2] in endings:
            found[path] = {"": path}
    return found


def placed(name: str, paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """The tables that lie at `name`, in whatever folder, as `named` gives them."""
    paths, found = list(paths), dict[str, dict[str, str]]()
    for path in paths:
        if f"/{path}".endswith(f"/{name}"):
            found[path] = {"": path}
        elif (at := f"/{path}".find(f"/{name}/{DELTA_LOG}/")) >= 0:
            folder = path[: at + len(name)]
            found[folder] = {
                inside.removeprefix(f"{folder}/"): inside for inside in paths if inside.startswith(f"{folder}/")
            }
    return found


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
