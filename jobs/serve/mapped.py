"""The live run as arrays in files that all processes of a server map: look-alikes without asking the store.

One process makes the files, others wait for it; memory holds them once. What is answered is what the store would
answer, byte for byte, and only while the run of the files is the live one; whatever is odd about a question, an unknown
id or field, is left to the store, which says what is wrong.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import psycopg

from infra import store
from infra.compiled import find_place
from infra.store import Arrays, Copied, Value
from jobs.filters import Filters, parts

FOLDER = "LOOKALIKE_SERVE_FOLDER"
"""Variable by which the server tells its processes where their common files lie."""
UNIT = 2.0**-22
"""Of similarities: that of embeddings, squared."""
SETS_BYTES = 32 * 2**20
"""What sets of base cells that single values of a field have may take in memory."""
LIMIT_S = 600.0
"""Longest that the store may take to give a whole run."""
NAMES = ("embeddings", "items", "ends", "filled_at", "members", "depths", "widest", "id_order", "base_cells", "starts")


class Mapped:
    """A run, mapped. For one thread."""

    def __init__(self, folder: Path) -> None:
        """Map what `make` made."""
        find_place()
        from ml.answering import best_items  # numba takes its time to load

        self._best_items = best_items
        rest = json.loads((folder / "rest.json").read_bytes())
        self.tag: str = rest["tag"]
        self._head: str = rest["head"]
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in NAMES}
        self._products = tuple(arrays[name] for name in ("embeddings", "id_order", "base_cells", "starts"))
        self._shortlists = tuple(arrays[name] for name in ("items", "ends", "filled_at"))
        self._cells = tuple(arrays[name] for name in ("members", "depths", "widest"))
        self._heads: list[str] = rest["heads"]
        self._tails: list[str] = rest["tails"]
        self._quoted: list[str] = rest["quoted"]
        self._place: dict[str, int] = {product_id: at for at, product_id in enumerate(rest["ids"])}
        shape = arrays["members"].shape
        self._fields = {field: _Field(values, *shape) for field, values in _read_values(folder, rest["values"])}
        self._all = np.ones(shape[1], bool), np.ones(shape[0], bool)
        self.similar("", {}, 1, [])  # compiled by now

    def similar(self, product_id: str, filters: Filters, k: int, exclude: Sequence[str]) -> bytes | None:
        """The answer as the store gives it; None where the store has to say what is wrong."""
        place = self._place.get(product_id, 0 if not product_id else None)
        passing = self._passing(filters)
        if place is None or passing is None:
            return None
        out = dict.fromkeys([place, *(self._place[other] for other in exclude if other in self._place)])
        positions, scores, compared = self._best_items(
            place, k, np.array(list(out), np.int64), *passing, self._products, self._shortlists, self._cells
        )
        heads, tails = self._heads, self._tails
        items = [
            f'{{"rank":{rank},{heads[at]}{_number(score)}{tails[at]}'
            for rank, (at, score) in enumerate(zip(positions.tolist(), (scores * UNIT).tolist(), strict=True), 1)
        ]
        scanned = compared if items else 0
        listed = f'{self._head}"product_id":{self._quoted[place]},"items":[{",".join(items)}],"scanned":{scanned}}}'
        return listed.encode()

    def _passing(self, filters: Filters) -> tuple[np.ndarray, np.ndarray] | None:
        """The base cells that pass, bool (b,), and the cells that lie inside, bool (c,): sql/functions/passing.sql."""
        passing, inside = self._all
        for name, condition in filters.items():
            field = self._fields.get(name)
            if field is None:
                return None
            for complement, wanted in parts(condition):
                having, left = field.passing({value for value in wanted if value != ""}, complement)
                passing, inside = passing & having, inside & left
        return passing, inside


class _Field:
    """A field's values, and the sets of base cells and of cells that conditions leave."""

    def __init__(self, values: Sequence[Value], cells: int, base_cells: int) -> None:
        self._values = {each.value: each for each in values}
        self._base_cells, self._cells = base_cells, cells
        self._present = np.zeros(cells, np.int64)
        for each in values:
            if not each.is_rare:  # rare ones count as one
                self._present[each.cells] += 1
        # Of one value each: a set of a byte a base cell, and there are as many as fields have values.
        self._single = lru_cache(max(16, SETS_BYTES // base_cells))(self._of)

    def passing(self, wanted: set[str | None], complement: bool) -> tuple[np.ndarray, np.ndarray]:
        """The base cells that pass a condition, bool (b,), and the cells that have no other member, bool (c,)."""
        known = [value for value in wanted if value in self._values]  # others are not worth their place in memory
        if len(known) == 1:
            return self._single(known[0], complement)
        lacking, without = np.ones(self._base_cells, bool), np.ones(self._cells, bool)
        for value in known:
            of_base_cells, of_cells = self._single(value, True)
            lacking &= of_base_cells
            without &= of_cells
        if complement:
            return lacking, without
        had = np.zeros(self._cells, np.int64)
        for value in known:
            if not self._values[value].is_rare:
                had[self._values[value].cells] += 1
        return ~lacking, (self._present == had) | self._held(known)

    def _of(self, value: str | None, complement: bool) -> tuple[np.ndarray, np.ndarray]:
        found = self._values[value]
        having, cells = np.zeros(self._base_cells, bool), np.zeros(self._cells, bool)
        having[found.base_cells], cells[found.cells] = True, True
        if complement:
            return ~having, ~cells
        counted = np.zeros(self._cells, bool) if found.is_rare else cells
        return having, (self._present == counted) | self._held([value])

    def _held(self, wanted: Iterable[str | None]) -> np.ndarray:
        """The cells all of whose members have one of these values, bool (c,), where products may have several."""
        held = np.zeros(self._cells, bool)
        for value in wanted:
            held[self._values[value].held] = True
        return held


def _number(score: float) -> str:
    """A number as Postgres writes it."""
    text = repr(score)
    return text[:-2] if text.endswith(".0") else text


def make(folder: Path, connection: psycopg.Connection) -> Path | None:
    """The files of the live run below a folder, made unless they are there; None where no run is live.

    Raises:
        UserError: the run's layout is an earlier release's.
    """
    folder.mkdir(exist_ok=True, mode=0o700)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        row = connection.execute("SELECT tag FROM lookalike.served_run()").fetchone()
        if row is None:
            return None
        if (target := folder / row[0]).exists():
            return target
        read = store.arrays(connection, LIMIT_S)
        if read is None:
            return None
        target, temporary = folder / read[0].tag, folder / f"{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write(temporary, *read)
        for old in folder.glob("[0-9a-f]*"):
            if old.is_dir() and len(old.name) == len(target.name) and old != target:
                shutil.rmtree(old, ignore_errors=True)  # whoever has them mapped keeps them
        if not target.exists():
            temporary.rename(target)
        return target


def _write(folder: Path, copy: Copied, arrays: Arrays) -> None:
    """Write the files of a run."""
    starts = copy.starts.astype(np.int32)
    order = np.array([product[0] for product in copy.products], np.int32)
    derived = {"id_order": order, "starts": starts}
    derived["base_cells"] = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    for name in NAMES:
        np.save(folder / f"{name}.npy", derived[name] if name in derived else getattr(arrays, name), allow_pickle=False)
    ids = [product[1] for product in copy.products]
    run = json.dumps(copy.run, ensure_ascii=False)
    rest = {
        "tag": copy.tag,
        "head": f'{{"run":{{"run_id":{copy.run_id},"run":{run}}},',
        "heads": arrays.heads,
        "tails": [f',"image":"/images/{image.hex()}"}}' for image in arrays.images],
        "quoted": [head.removeprefix('"product_id":').partition(',"name":')[0] for head in arrays.heads],
        "ids": ids,
        "values": {field: [[each.value, each.is_rare] for each in values] for field, values in copy.values.items()},
    }
    (folder / "rest.json").write_text(json.dumps(rest), encoding="utf-8")
    sets = [(each.base_cells, each.cells, each.held) for values in copy.values.values() for each in values]
    flat = [np.empty(0, np.int64), *(places for of_value in sets for places in of_value)]
    np.savez(folder / "values.npz", places=np.concatenate(flat), ends=np.cumsum([0, *map(len, flat[1:])]))


def _read_values(folder: Path, told: Mapping[str, Sequence]) -> Iterator[tuple[str, list[Value]]]:
    """The values of each field, as `_write` wrote them."""
    with np.load(folder / "values.npz", allow_pickle=False) as stored:
        places, ends = stored["places"], stored["ends"]
    sets = iter([places[start:end] for start, end in pairwise(ends.tolist())])
    for field, values in told.items():
        yield field, [Value(value, next(sets), next(sets), next(sets), is_rare) for value, is_rare in values]
