"""The lookup store (Postgres with pgvector): migrate, load a run into partitions of its own, flip, roll back, read.

A run's rows live in partitions named by its `run_id`, built beside the live ones and attached when complete. A
product's *position* is its place among the run's by ascending id; lists hold positions and no scores (migration 0003).
The pointer `lookalike.live` is flipped in one transaction. Functions take a connection and never commit: whoever opens
the transaction does. Connections are in autocommit mode, so `with connection.transaction():` is the transaction.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.copy import QueuedLibpqWriter
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infra import embedded
from infra.errors import TransientError, UserError

_INSTALLED, _CHECKOUT = (Path(__file__).resolve().parents[up] / "sql" for up in (0, 1))
SQL = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
LOCK = 0x10014C1E
"""Advisory lock that migrations and publishing take, so that two at once come one after the other."""
COPY_HEADER, COPY_END = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0), struct.pack("!h", -1)
PARTITIONED = ("products", "base_cells", "combinations", "lists")
BATCH = 8192
"""Rows that are made and sent at once."""
DROP_WAIT = "200ms"
"""Longest that dropping an old run waits for readers; below deadlock_timeout, so that no lookup becomes a victim."""


@dataclass(frozen=True)
class StoredRun:
    """A run that the store holds; `figures` are the counts it was loaded with."""

    run_id: int
    run: str
    fingerprint: str
    figures: dict[str, object]
    loaded_at: datetime.datetime


@dataclass(frozen=True)
class Item:
    """One ranked item of a list; `precomputed` says whether it was looked up or computed on read."""

    product_id: int
    score: float
    precomputed: bool


@contextmanager
def connect(uri: str, folder: Path) -> Iterator[psycopg.Connection]:
    """A connection to the store at `uri`, or to the embedded one in `folder` where `uri` is empty; migrated.

    Raises:
        UserError: `uri` cannot be understood.
        TransientError: it cannot be reached, or the connection broke. No message holds a password.
    """
    place = _place(uri) if uri else str(folder)
    try:
        connection = psycopg.connect(uri or embedded.uri(folder), autocommit=True, connect_timeout=20)
    except psycopg.OperationalError as error:
        raise TransientError(f"the store {place} cannot be reached: {_first_line(error)}") from None
    with connection:
        try:
            with connection.transaction():
                migrate(connection)
            yield connection
        except psycopg.OperationalError as error:
            raise TransientError(f"the store {place} failed: {_first_line(error)}") from error


def _place(uri: str) -> str:
    """Host, port and database of a connection string; what libpq misreads may be a password's end and is not shown."""
    try:
        given = conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        given = {"port": "unreadable"}
    host, port, database = (str(given.get(name) or "") for name in ("host", "port", "dbname"))
    if "@" in host + database or not port.replace(",", "").isdigit() and port:
        raise UserError(
            "the store's address cannot be read as a Postgres URI",
            where="environment variable LOOKALIKE_STORE",
            remedy="write postgresql://user:password@host:5432/database; in a password @ is %40, / is %2F, : is %3A",
        )
    return f"{host or 'localhost'}:{port or 5432}/{database}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]


def migrate(connection: psycopg.Connection) -> None:
    """Apply the migrations that are missing and, where a file of `sql/` changed, its functions, views and roles.

    Raises:
        UserError: a migration that was applied has been edited since.
    """
    files = sorted((SQL / "migrations").glob("*.sql"))
    replaceable = [*sorted((SQL / "functions").glob("*.sql")), SQL / "views.sql", SQL / "roles.sql"]
    current = {file.name: _sha256(file) for file in [*files, *replaceable]}
    if _applied(connection) == current:
        return
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    applied = _applied(connection)
    for file in files:
        if file.name not in applied:
            connection.execute(file.read_bytes())
        elif applied[file.name] != current[file.name]:
            raise UserError(
                f"migration {file.name} was edited after it was applied",
                where=str(file),
                remedy="restore it and add a new migration with the change",
            )
    for file in replaceable:
        connection.execute(file.read_bytes())
    connection.cursor().executemany(
        "INSERT INTO lookalike.applied (file, sha256) VALUES (%s, %s)"
        " ON CONFLICT (file) DO UPDATE SET sha256 = excluded.sha256",
        list(current.items()),
    )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _applied(connection: psycopg.Connection) -> dict[str, str]:
    # Not to_regclass: it may answer from a cache that does not know yet what was committed while this session waited.
    found = "SELECT FROM pg_tables WHERE schemaname = 'lookalike' AND tablename = 'applied'"
    if connection.execute(found).fetchone() is None:
        return {}
    return dict(connection.execute("SELECT file, sha256 FROM lookalike.applied").fetchall())


# Loading --------------------------------------------------------------------------------------------------------------


def lock(connection: psycopg.Connection) -> None:
    """Wait for the right to publish, held until the connection's transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))


def begin(connection: psycopg.Connection, run: str, fingerprint: str, fields: Sequence[str]) -> int:
    """Create a run with empty partitions, not attached yet; returns its run_id."""
    row = connection.execute(
        "INSERT INTO lookalike.runs (run, fingerprint, fields) VALUES (%s, %s, %s) RETURNING run_id",
        (run, fingerprint, list(fields)),
    ).fetchone()
    run_id = int(row[0])  # type: ignore[index]
    _act_as_loader(connection)
    for table in PARTITIONED:
        # The check spares ATTACH a scan of the table.
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING STORAGE, CHECK (run_id = {}))").format(
                _partition(table, run_id), _table(table), sql.Literal(run_id)
            )
        )
    # Embeddings stay in the row as long as a page can hold it (8,160 bytes); see migration 0003.
    connection.execute(sql.SQL("ALTER TABLE {} SET (toast_tuple_target = 8160)").format(_partition("products", run_id)))
    return run_id


def _act_as_loader(connection: psycopg.Connection) -> None:
    """Until the transaction ends, create and drop as `lookalike_loader`, the owner of the tables: any member can."""
    member = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = 'lookalike_loader'"
    if connection.execute(member).fetchone() == (True,):
        connection.execute("SET LOCAL ROLE lookalike_loader")


@contextmanager
def _copy(connection: psycopg.Connection, run_id: int, table: str, columns: Sequence[str]) -> Iterator[psycopg.Copy]:
    """A binary COPY into a run's partition. A thread sends, so that rows are made while the server takes the last ones.

    FREEZE writes the rows as vacuum would leave them; otherwise the first readers rewrite, and log, every page.
    """
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary, FREEZE)").format(_partition(table, run_id), names)
    cursor = connection.cursor()
    with cursor.copy(statement, writer=QueuedLibpqWriter(cursor)) as copy:
        copy.write(COPY_HEADER)
        yield copy
        copy.write(COPY_END)


def load_products(connection: psycopg.Connection, run_id: int, products: pa.Table, embeddings: np.ndarray) -> None:
    """Load the run's products and base cells, ordered by base cell: the members of a small cell lie side by side.

    Args:
        connection: in the transaction that began the run.
        run_id: what `begin` returned.
        products: product_id, strictly ascending, then text columns named as those of the table `products`.
        embeddings: float (n, d), the products' rows, multiples of 2⁻¹¹.

    Raises:
        ValueError: the ids do not ascend.
    """
    ids = products["product_id"].to_numpy()
    if not (ids[1:] > ids[:-1]).all():
        raise ValueError("the ids of the products do not ascend strictly, so their places are no positions")
    fields = connection.execute("SELECT fields FROM lookalike.runs WHERE run_id = %s", (run_id,)).fetchone()[0]  # type: ignore[index]
    base_cell, attributes = _base_cells(products.select(fields))
    with _copy(connection, run_id, "base_cells", ("run_id", "base_cell", "attributes")) as copy:
        for number, values in enumerate(attributes):
            copy.write(_row(_int(run_id), _int(number), _jsonb(values)))
    order = np.argsort(base_cell, kind="stable")
    columns = ("run_id", "position", "base_cell", *products.column_names, "embedding")
    with _copy(connection, run_id, "products", columns) as copy:
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            rows = zip(batch.tolist(), base_cell[batch].tolist(), products.take(batch).to_pylist(), strict=True)
            for position, cell, values in rows:
                product_id, *texts = values.values()
                fixed = (_int(run_id), _int(position), _int(cell), struct.pack("!q", product_id))
                copy.write(_row(*fixed, *map(_text, texts), _halfvec(embeddings[position])))


def _base_cells(columns: pa.Table) -> tuple[np.ndarray, list[dict[str, str]]]:
    """The number of every row's base cell, int (n,), and each base cell's values without the missing ones."""
    codes = [column.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy() for column in columns.columns]
    _, first, numbers = np.unique(np.stack(codes, axis=1), axis=0, return_index=True, return_inverse=True)
    attributes = [{field: value for field, value in row.items() if value} for row in columns.take(first).to_pylist()]
    return numbers.ravel(), attributes


# A row in the format of COPY BINARY (PostgreSQL manual, COPY, "Binary Format") and its fields in the types' own.


def _row(*values: bytes | None) -> bytes:
    fields = (struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values)
    return struct.pack("!h", len(values)) + b"".join(fields)


def _int(value: int) -> bytes:
    return struct.pack("!i", value)


def _text(value: str | None) -> bytes | None:
    # Postgres' text cannot hold a zero character, nor can jsonb.
    return None if value is None else value.replace("\0", "").encode()


def _jsonb(values: Mapping[str, str]) -> bytes:
    # jsonb_recv: a version, then the text.
    return b"\1" + json.dumps({name: value.replace("\0", "") for name, value in values.items()}).encode()


def _halfvec(embedding: np.ndarray) -> bytes:
    # pgvector's halfvec_recv: dimensions, a zero, the entries as IEEE half floats.
    return struct.pack("!hh", len(embedding), 0) + embedding.astype(">f2").tobytes()


def load_combinations(connection: psycopg.Connection, run_id: int, rows: Iterable[tuple[dict[str, str], int]]) -> None:
    """Load (filter combination, cell) rows."""
    with _copy(connection, run_id, "combinations", ("run_id", "filters", "cell")) as copy:
        for filters, cell in rows:
            copy.write(_row(_int(run_id), _jsonb(filters), _int(cell)))


def load_lists(
    connection: psycopg.Connection,
    run_id: int,
    blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
) -> int:
    """Load blocks of lists; returns the number of lists.

    A block is (cell int (n,), position int (n,), lengths int (n,), items int (m,)): the products that the lists belong
    to and the items of all lists one after the other, both as positions.
    """
    loaded = 0
    with _copy(connection, run_id, "lists", ("run_id", "cell", "position", "items")) as copy:
        for cell, position, lengths, items in blocks:
            starts = np.cumsum(lengths) - lengths
            for length in np.unique(lengths):  # lists of one length make rows of one width: a structured array
                same = np.flatnonzero(lengths == length)
                for at in range(0, len(same), BATCH):
                    chosen = same[at : at + BATCH]
                    places = starts[chosen, None] + np.arange(length)
                    copy.write(_list_rows(run_id, cell[chosen], position[chosen], items[places]))
            loaded += len(cell)
    return loaded


def _list_rows(run_id: int, cell: np.ndarray, position: np.ndarray, items: np.ndarray) -> bytes:
    """Rows of `lists`, all of one length, in the format of COPY BINARY."""
    k, int4 = items.shape[1], 23  # the type's oid
    value = [("size", ">i4"), ("value", ">i4")]
    # array_recv: dimensions, whether it has nulls, the elements' type, then size and lower bound of each dimension.
    head = (1, 0, int4, k, 1) if k else (0, 0, int4)
    rows = np.empty(
        len(cell),
        [
            ("fields", ">i2"),
            *((name, value) for name in ("run_id", "cell", "position")),
            ("array", [("size", ">i4"), ("head", ">i4", (len(head),)), ("items", value, (k,))]),
        ],
    )
    rows["fields"] = 4
    for name, values in {"run_id": run_id, "cell": cell, "position": position}.items():
        rows[name]["size"], rows[name]["value"] = 4, values
    array = rows["array"]
    array["size"], array["head"] = 4 * len(head) + 8 * k, head
    array["items"]["size"], array["items"]["value"] = 4, items
    return rows.tobytes()


def counts(connection: psycopg.Connection, run_id: int) -> dict[str, int]:
    """Rows of a run's partitions, counted; lists only where their product is loaded too."""
    names = {table: _partition(table, run_id) for table in PARTITIONED}
    row = connection.execute(
        sql.SQL(
            "SELECT (SELECT count(*) FROM {products}), (SELECT count(*) FROM {combinations}),"
            " (SELECT count(*) FROM {lists} JOIN {products} USING (position))"
        ).format(**names)
    ).fetchone()
    return dict(zip(("products", "combinations", "lists"), row, strict=True))  # type: ignore[arg-type]


def attach(connection: psycopg.Connection, run_id: int, figures: Mapping[str, object]) -> None:
    """Index a run's loaded partitions, attach them, and record the figures: from here on the run can go live."""
    # Rows never change, so pages and indexes are full.
    for table, index in {
        "products": "ADD PRIMARY KEY (product_id) WITH (fillfactor = 100)",
        "base_cells": "ADD PRIMARY KEY (base_cell) WITH (fillfactor = 100)",
        "combinations": "ADD PRIMARY KEY (filters) WITH (fillfactor = 100)",
        "lists": "ADD PRIMARY KEY (position, cell) WITH (fillfactor = 100)",
    }.items():
        partition, value = _partition(table, run_id), sql.Literal(run_id)
        connection.execute(sql.SQL("ALTER TABLE {} {}").format(partition, sql.SQL(index)))
        connection.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})").format(_table(table), partition, value)
        )
    for statement in (
        "CREATE UNIQUE INDEX ON {products} (position) WITH (fillfactor = 100)",
        "CREATE INDEX ON {products} (base_cell) WITH (fillfactor = 100)",
        "CREATE INDEX ON {base_cells} USING gin (attributes jsonb_path_ops) WITH (fastupdate = off)",
        *(f"ANALYZE {{{table}}}" for table in PARTITIONED),
    ):
        partitions = {table: _partition(table, run_id) for table in PARTITIONED}
        connection.execute(sql.SQL(statement).format(**partitions))  # type: ignore[arg-type]
    connection.execute(
        "UPDATE lookalike.runs SET figures = %s, loaded_at = now() WHERE run_id = %s", (Jsonb(dict(figures)), run_id)
    )


# Runs -----------------------------------------------------------------------------------------------------------------

_RUN_COLUMNS = "run_id, run, fingerprint, figures, loaded_at"


def served(connection: psycopg.Connection, ids: np.ndarray) -> tuple[dict[str, int], int]:
    """Products of the live run by subCategory, '' for those without one, and how many of these ids are among them."""
    counts = connection.execute(
        """SELECT coalesce("subCategory", ''), count(*) FROM lookalike.live_products GROUP BY 1"""
    ).fetchall()
    shared = "SELECT count(*) FROM lookalike.live_products WHERE product_id = ANY(%s)"
    ((known,),) = connection.execute(shared, (ids.tolist(),)).fetchall()
    return dict(counts), known


def runs(connection: psycopg.Connection) -> list[StoredRun]:
    """The complete runs, newest first."""
    cursor = connection.cursor(row_factory=class_row(StoredRun))
    query = f"SELECT {_RUN_COLUMNS} FROM lookalike.runs WHERE loaded_at IS NOT NULL ORDER BY run_id DESC"  # noqa: S608
    return cursor.execute(query).fetchall()  # type: ignore[arg-type]


def live(connection: psycopg.Connection) -> StoredRun | None:
    """The run that `similar_items` answers from."""
    pointer = connection.execute("SELECT run_id FROM lookalike.live").fetchone()
    return next((run for run in runs(connection) if pointer == (run.run_id,)), None)


def flip(connection: psycopg.Connection, run_id: int) -> None:
    """Make a run live; readers see the old pointer until the transaction commits."""
    connection.execute(
        "INSERT INTO lookalike.live (run_id) VALUES (%s) ON CONFLICT (one) DO UPDATE SET run_id = excluded.run_id",
        (run_id,),
    )


def rollback(connection: psycopg.Connection) -> StoredRun:
    """Make the newest run older than the live one live.

    Raises:
        UserError: there is none.
    """
    now = live(connection)
    older = [run for run in runs(connection) if now and run.run_id < now.run_id]
    if not older:
        raise UserError(
            "there is no older run to go back to",
            where=f"live run: {now.run if now else 'none'}",
            remedy="publish a run with `make refresh`; the store keeps LOOKALIKE_KEEP_RUNS of them",
        )
    flip(connection, older[0].run_id)
    return older[0]


def rename(connection: psycopg.Connection, run_id: int, run: str) -> None:
    """Give a stored run the name of a later run with the same content."""
    connection.execute("UPDATE lookalike.runs SET run = %s WHERE run_id = %s", (run, run_id))


def prune(connection: psycopg.Connection, keep: int) -> list[int]:
    """Drop all but the live run and the newest others, `keep` in all, and unfinished ones; returns the dropped ids.

    Dropping a partition locks its table, and lookups queue behind a lock that waits. So it waits `DROP_WAIT` only: what
    a long-running reader holds stays for the next prune. Call it last in a transaction.
    """
    _act_as_loader(connection)
    now = live(connection)
    others = [run.run_id for run in runs(connection) if now is None or run.run_id != now.run_id]
    kept = {*others[: keep - (now is not None)], *([now.run_id] if now else [])}
    ids = [row[0] for row in connection.execute("SELECT run_id FROM lookalike.runs ORDER BY run_id").fetchall()]
    return [run_id for run_id in ids if run_id not in kept and _drop(connection, run_id)]


def _drop(connection: psycopg.Connection, run_id: int) -> bool:
    """Drop a run unless a reader holds it; says whether it is gone."""
    try:
        with connection.transaction():  # within the caller's: a savepoint
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(DROP_WAIT))
            for table in PARTITIONED:
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_partition(table, run_id)))
            connection.execute("DELETE FROM lookalike.runs WHERE run_id = %s", (run_id,))
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def _table(name: str) -> sql.Identifier:
    return sql.Identifier("lookalike", name)


def _partition(table: str, run_id: int) -> sql.Identifier:
    return sql.Identifier("lookalike", f"{table}_{run_id}")


# Reading --------------------------------------------------------------------------------------------------------------


def similar_items(connection: psycopg.Connection, product_id: int, filters: dict[str, str], k: int) -> list[Item]:
    """The `k` products most like `product_id` among those that pass `filters`, from the live run.

    Raises:
        UserError: an unknown product or field, a wrong `k`, or no run is live.
    """
    return _items(connection, "similar_items(%s::bigint, %s, %s)", product_id, filters, k)


def similar_items_by_vector(
    connection: psycopg.Connection, embedding: np.ndarray, filters: dict[str, str], k: int
) -> list[Item]:
    """The `k` products most like an embedding among those that pass `filters`, from the live run.

    Args:
        connection: to the store.
        embedding: float32 (d,); made a unit vector of multiples of 2⁻¹¹ where it is none.
        filters: field → value.
        k: 1 to 100.

    Raises:
        UserError: the width is not that of the live run, an unknown field, a wrong `k`, or no run is live.
    """
    return _items(connection, "similar_items_by_vector(%s::float8[]::vector, %s, %s)", embedding.tolist(), filters, k)


def _items(connection: psycopg.Connection, call: str, asked: object, filters: dict[str, str], k: int) -> list[Item]:
    """Call one of the functions; what it or the check of its arguments refuses is a UserError."""
    query = f"SELECT item, score::float8, precomputed FROM lookalike.{call}"  # noqa: S608
    try:
        rows = connection.execute(query, (asked, Jsonb(filters), k)).fetchall()  # type: ignore[arg-type]
    except (psycopg.errors.RaiseException, psycopg.DataError) as error:
        raise UserError(
            error.diag.message_primary or str(error),
            where=call.partition("(")[0],
            remedy=error.diag.message_hint or "see docs/merchandising.md for what can be asked",
        ) from None
    return [Item(*row) for row in rows]


def product_names(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, str]:
    """productDisplayName of products of the live run."""
    query = 'SELECT product_id, "productDisplayName" FROM lookalike.live_products WHERE product_id = ANY(%s)'
    return {product_id: name or "" for product_id, name in connection.execute(query, (list(ids),)).fetchall()}
