"""What killed attempts left in the lake: half-written files, and parts that no version of a table names.

Both are harmless and invisible to readers; they only take space. Whether a part is named is read off every log entry
and checkpoint that is there, so that no version loses one, however old: a log that was cleaned up serves fewer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq

from infra.lake import Lake

LOG = "/_delta_log/"
TEMPORARY = re.compile(r"(\.tmp|#\d+)$")
"""Ends the name that a file has until it is whole: ours, and delta-rs' (`#1` on a local disk)."""
PART = re.compile(r"[^/]+/part-[0-9a-f]{40}\.parquet")
"""A part of a table as `Lake.write_part` names it."""


def find(lake: Lake, older_than: timedelta) -> list[str]:
    """Names of the files that no reader will miss and that nobody has touched for `older_than`, sorted.

    `older_than` must be longer than any step takes: a step commits its parts at its end.
    """
    changed = lake.modified("")  # before the logs are read: what is committed meanwhile is named there
    before = datetime.now(UTC) - older_than
    old = [name for name, at in changed.items() if at < before]
    tables = {name.split(LOG)[0] for name in changed if LOG in name}
    named = {f"{table}/{part}" for table in tables for part in _named(lake, table)}
    return sorted(name for name in old if TEMPORARY.search(name) or (PART.fullmatch(name) and name not in named))


def remove(lake: Lake, older_than: timedelta) -> list[str]:
    """Delete what `find` finds, and return it; files that somebody has written again since then stay."""
    unread = find(lake, older_than)
    changed, before = lake.modified(""), datetime.now(UTC) - older_than
    gone = [name for name in unread if name in changed and changed[name] < before]
    for name in gone:
        lake.delete(name)
    return gone


def _named(lake: Lake, table: str) -> Iterator[str]:
    """Paths of the parts that the log of a table tells of, as added or as removed."""
    for name in lake.modified(f"{table}/_delta_log"):
        if name.endswith(".json"):
            yield from _paths(json.loads(line) for line in lake.read_bytes(name).splitlines() if line)
        elif name.endswith(".parquet"):
            with lake.reading(name) as stream:
                yield from _paths(pq.ParquetFile(stream).read(["add.path", "remove.path"]).to_pylist())


def _paths(actions: Iterable[dict]) -> Iterator[str]:
    for action in actions:
        for kind in ("add", "remove"):
            if action.get(kind):
                yield action[kind]["path"]
