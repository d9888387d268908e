"""The live run as arrays in files that all processes of a server map: look-alikes without asking the store.

One process makes the files, others wait for it; memory holds them once. What is answered is what the store would
answer, byte for byte, and only while the run of the files is the live one; whatever is odd about a question, an unknown
id or field, is left to the store, which says what is wrong.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psycopg

from infra import store
from infra.compiled import find_place
from infra.store import Arrays, Copied, Value
from jobs.filters import Filters

FOLDER = "LOOKALIKE_SERVE_FOLDER"
"""Variable by which the server tells its processes where their common files lie."""
UNIT = 2.0**-22
"""Of similarities: that of embeddings, squared."""
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
        with (folder / "rest.pickle").open("rb") as file:  # written by a process of this server, in its own folder
            rest = pickle.load(file)  # noqa: S301
        self.tag: str = rest["tag"]
        self._head: bytes = rest["head"]
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in NAMES}
        self._products = tuple(arrays[name] for name in ("embeddings", "id_order", "base_cells", "starts"))
        self._shortlists = tuple(arrays[name] for name in ("items", "ends", "filled_at"))
        self._cells = tuple(arrays[name] for name in ("members", "depths", "widest"))
        self._heads: list[bytes] = rest["heads"]
        self._tails: list[bytes] = rest["tails"]
        self._quoted: list[bytes] = rest["quoted"]
        self._place: dict[str, int] = rest["place"]
        self._values: dict[str, list[Value]] = rest["values"]
        self._by_value = {field: {each.value: each for each in values} for field, values in self._values.items()}
        shape = arrays["members"].shape
        self._all = np.ones(shape[1], bool), np.ones(shape[0], bool)
        self.similar("", {}, 1, [])  # compiled by now

    def similar(self, product_id: str, filters: Filters, k: int, exclude: Sequence[str]) -> bytes | None:
        """The answer as the store gives it; None where the store has to say what is wrong."""
        place = self._place.get(product_id, 0 if not product_id else None)
        passing = self._passing(filters)
        if place is None or passing is None:
            return None
        out = [place]
        for other in exclude:
            at = self._place.get(other)
            if at is not None and at not in out:
                out.append(at)
        left_out = np.array(out, np.int64)
        positions, scores, compared = self._best_items(
            place, k, left_out, *passing, self._products, self._shortlists, self._cells
        )
        items = [
            b'{"rank":%d,%b%b%b' % (rank, self._heads[at], _number(score * UNIT), self._tails[at])
            for rank, (at, score) in enumerate(zip(positions.tolist(), scores.tolist(), strict=True), 1)
        ]
        parts = self._head, self._quoted[place], b",".join(items), compared if items else 0
        return b'%b"product_id":%b,"items":[%b],"scanned":%d}' % parts

    def _passing(self, filters: Filters) -> tuple[np.ndarray, np.ndarray] | None:
        """The base cells that pass, bool (b,), and the cells that lie inside, bool (c,): sql/functions/passing.sql."""
        passing, inside = self._all
        for field, condition in filters.items():
            values = self._by_value.get(field)
            if values is None:
                return None
            complement = isinstance(condition, Mapping)
            told = condition["not"] if complement else condition
            wanted = {value for value in (told if isinstance(told, list) else [told]) if value != ""}
            having = np.zeros(len(passing), bool)
            for value in wanted:
                if value in values:
                    having[values[value].base_cells] = True
            left = np.ones(len(inside), bool)
            for value in _leaving_out(self._values[field], values, wanted, complement):
                left[value.cells] = False
            passing, inside = passing & (~having if complement else having), inside & left
        return passing, inside


def _leaving_out(
    all_values: Sequence[Value], by_value: Mapping[str | None, Value], wanted: set[str | None], complement: bool
) -> list[Value]:
    """The values of which a cell that lies inside has no member; for what is wanted rare ones count as one."""
    if complement:
        return [by_value[value] for value in wanted if value in by_value]
    return [value for value in all_values if not value.is_rare and value.value not in wanted]


def _number(score: float) -> bytes:
    """A number as Postgres writes it."""
    return repr(score).removesuffix(".0").encode()


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
        np.save(folder / f"{name}.npy", derived.get(name, getattr(arrays, name, None)), allow_pickle=False)
    ids = [product[1] for product in copy.products]
    run = json.dumps(copy.run, ensure_ascii=False)
    rest = {
        "tag": copy.tag,
        "head": f'{{"run":{{"run_id":{copy.run_id},"run":{run}}},'.encode(),
        "heads": arrays.heads,
        "tails": [b',"image":"/images/%b"}' % image.hex().encode() for image in arrays.images],
        "quoted": [head.removeprefix(b'"product_id":').partition(b',"name":')[0] for head in arrays.heads],
        "place": {product_id: at for at, product_id in enumerate(ids)},
        "values": copy.values,
    }
    with (folder / "rest.pickle").open("wb") as file:
        pickle.dump(rest, file, protocol=pickle.HIGHEST_PROTOCOL)
