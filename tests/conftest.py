"""Real services for the tests, one a session."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import psycopg
import pyarrow as pa
import pytest
import structlog
from psycopg.conninfo import make_conninfo

from infra import embedded, store
from infra.lake import Lake
from infra.sealing import seal
from infra.settings import ATTRIBUTES
from jobs.ids import key
from ml.cells import number

_numbers = itertools.count()
# The caller's settings and shell do not reach the tests; here, since some of these look at the environment when loaded.
for _name in [name for name in os.environ if name.startswith("LOOKALIKE_")]:
    del os.environ[_name]
seal()


@pytest.fixture(autouse=True, scope="session")
def _plain_environment() -> Iterator[None]:
    """The tests' logs do not reach the caller's folders."""
    with tempfile.TemporaryDirectory() as logs:
        os.environ["LOOKALIKE_LOGS"] = logs
        yield


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Where a test's step wrote its log is nothing to the next test: a worker that lives on has one logger."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake in a folder."""
    return Lake((tmp_path / "lake").as_uri())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk of a given size must be mounted, which only root may, and not in every container")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Connection string of an embedded Postgres server that lives as long as the session.

    Outside pytest's folder: another session closes that to the server's user, and a server that restarts would end.
    """
    with tempfile.TemporaryDirectory(prefix="lookalike-test-", ignore_cleanup_errors=True) as folder:
        yield embedded.uri(Path(folder))


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """Connection string of a new database of that server, without our schema."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield make_conninfo(postgres, dbname=name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def connection(empty_database: str, tmp_path) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode to a new, prepared store."""
    with store.connect(empty_database, tmp_path, prepares=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def load_run() -> Callable[..., int]:
    """A function that loads a run and makes it live.

    It takes (connection, run, ids, embeddings float32 (n, d) or of each product those of its images, float32 (i, d),
    values: field → n values, cells: the filter combinations that are precomputed, and how deep each or all of them
    are), and returns the run_id.
    """

    def load(connection, run, ids, embeddings, values=None, cells=({},), depth=10) -> int:
        ids = np.array([str(product_id) for product_id in ids], object)
        by_id = np.array(sorted(range(len(ids)), key=lambda at: key(ids[at])))
        columns = {name: [values[name][i] for i in by_id] for name in values or {}}
        fields = {
            name: columns.get(name, [None] * len(ids)) for name in dict.fromkeys(["gender", "baseColour", *columns])
        }
        numbering = number(fields, len(ids))
        order = by_id[numbering.order]
        known = dict.fromkeys([*ATTRIBUTES, *columns])
        texts = {name: [values[name][i] or None for i in order] if name in columns else None for name in known}
        is_list = {name: any(isinstance(value, list) for value in column or ()) for name, column in texts.items()}
        empty = pa.nulls(len(ids), pa.string())
        products = pa.table(
            {"product_id": ids[order]}
            | {
                name: empty
                if column is None
                else pa.array(column, pa.list_(pa.string()) if is_list[name] else pa.string())
                for name, column in texts.items()
            }
            | {"image_sha256": ["0" * 64] * len(ids)}
        )
        base_cells = numbering.base_cells
        passing = [numbering.passing(filters) for filters in cells]
        inside = [np.flatnonzero(of_cell[base_cells]).tolist() for of_cell in passing]
        depths = np.broadcast_to(depth, len(cells)).tolist()
        images = [np.atleast_2d(embeddings[at]) for at in order]
        shortlists = shortlists_of(numbering.order, images, inside, depths)
        values_of = []
        for field, labels in numbering.labels.items():
            having = [numbering.passing({field: label}) for label in labels]
            meeting = np.array([[np.any(of_cell & of_value) for of_cell in passing] for of_value in having])
            held = np.array([[not np.any(of_cell & ~of_value) for of_cell in passing] for of_value in having])
            sets = list(map(np.flatnonzero, having))
            held = held if field in numbering.several else None
            values_of.append((field, [label or None for label in labels], sets, meeting, held))
        containing = [[other is not cell and set(cell) <= set(other) for other in inside] for cell in inside]
        cells_of = list(zip(depths, [[filters] for filters in cells], passing, containing, strict=True))
        widest = [cell for cell, supersets in enumerate(containing) if sum(supersets) == 1]
        filled = [[rank_filled(items, inside[cell], depths[cell]) for cell in widest] for items in shortlists]
        with connection.transaction():
            store.lock(connection)
            run_id = store.begin(connection, run, f"content of {run}", list(fields), {"run": run})
            parts, main = ("productDisplayName", "articleType"), np.array([of_product[0] for of_product in images])
            store.load_products(connection, run_id, products, parts, numbering.order, main)
            others = [
                (position, number, "1" * 64, embedding)
                for position, of_product in enumerate(images)
                for number, embedding in enumerate(of_product[1:], 2)
            ]
            store.load_other_images(connection, run_id, others)
            store.load_filters(
                connection, run_id, numbering.starts, values_of, cells_of, widest, best_pair=bool(others)
            )
            ends = np.cumsum([0, *map(len, shortlists)])
            block = np.arange(len(ids)), ends, np.array([item for items in shortlists for item in items], int)
            store.load_shortlists(connection, run_id, len(ids), [(*block, filled)])
            store.attach(connection, run_id, {"products": len(ids), "cells": len(cells)})
        with connection.transaction():
            store.lock(connection)
            store.flip(connection, run_id)
        return run_id

    return load


def shortlists_of(id_order, embeddings, cells, depths) -> list[list[int]]:
    """Of each product the positions that are among its best of one of the cells, which are positions, too.

    `embeddings` has of each product those of its images, of which the best pair counts.
    """
    units = [np.rint(np.asarray(images, np.float64) * 2048).astype(np.int64) for images in embeddings]
    flat, firsts = np.concatenate(units), np.cumsum([0, *map(len, units[:-1])])
    shortlists = []
    for position, images in enumerate(units):
        scores = np.maximum.reduceat((images @ flat.T).max(axis=0), firsts)
        ranked = np.lexsort((id_order, -scores))
        ranked = ranked[ranked != position]
        ranks = [ranked[np.isin(ranked, cell)][:depth] for cell, depth in zip(cells, depths, strict=True)]
        kept = {at for cell in ranks for at in cell.tolist()}
        shortlists.append([at for at in ranked.tolist() if at in kept])
    return shortlists


def rank_filled(items: list[int], cell: list[int], depth: int) -> int:
    """The rank of the item with which a shortlist has `depth` of a cell; 32767 where it has fewer."""
    ranks = [rank for rank, item in enumerate(items, 1) if item in cell]
    return ranks[depth - 1] if len(ranks) >= depth else 32767


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 server that lives as long as the session; a process, since delta-rs may hold the GIL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as probe:
            if server.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a new bucket; the environment points pyarrow, delta-rs and boto3 to its server."""
    for name, value in {"ENDPOINT_URL": s3_endpoint, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"bucket-{next(_numbers)}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return name
