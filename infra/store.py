"""The lookup store (Postgres with pgvector): migrate, load a run into partitions of its own, flip, roll back, read.

A run's rows live in partitions named by its `run_id`, built beside the live ones and attached when complete. The
pointer `lookalike.live` is flipped in one transaction. Functions take a connection and never commit: whoever opens the
transaction does. Connections are in autocommit mode, so `with connection.transaction():` is the transaction.
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
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infra import embedded
from infra.errors import TransientError, UserError

SQL = Path(__file__).resolve().parents[1] / "sql"
LOCK = 0x10014C1E
"""Advisory lock that migrations and publishing take, so that two at once come one after the other."""
COPY_HEADER, COPY_END = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0), struct.pack("!h", -1)
PARTITIONED = ("products", "combinations", "lists")
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
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)").format(
                _partition(table, run_id), _table(table)
            )
        )
    # Embeddings stay in the row as long as a page can hold it (8,160 bytes); see migration 0002.
    connection.execute(sql.SQL("ALTER TABLE {} SET (toast_tuple_target = 8160)").format(_partition("products", run_id)))
    return run_id


def _act_as_loader(connection: psycopg.Connection) -> None:
    """Until the transaction ends, create and drop as `lookalike_loader`, the owner of the tables: any member can."""
    member = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = 'lookalike_loader'"
    if connection.execute(member).fetchone() == (True,):
        connection.execute("SET LOCAL ROLE lookalike_loader")


def load_products(connection: psycopg.Connection, run_id: int, rows: Iterable[tuple]) -> None:
    """Load (product_id, the nine attributes, derivedType, image_sha256, embedding float32 (d,)) rows by binary COPY."""
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(_partition("products", run_id))
    with connection.cursor().copy(statement) as copy:
        copy.write(COPY_HEADER)
        for product_id, *texts, embedding in rows:
            # halfvec's own format (pgvector, halfvec_recv): dimensions, a zero, the entries as IEEE half floats.
            vector = struct.pack("!hh", len(embedding), 0) + embedding.astype(">f2").tobytes()
            values = [struct.pack("!i", run_id), struct.pack("!q", product_id), *map(_text, texts), vector]
            copy.write(struct.pack("!h", len(values)) + b"".join(map(_field, values)))
        copy.write(COPY_END)


def _text(value: str | None) -> bytes | None:
    # Postgres' text cannot hold a zero character.
    return None if value is None else value.replace("\0", "").encode()


def _field(value: bytes | None) -> bytes:
    return struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value


def load_combinations(connection: psycopg.Connection, run_id: int, rows: Iterable[tuple[dict[str, str], int]]) -> None:
    """Load (filter combination, cell) rows."""
    with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(_partition("combinations", run_id))) as copy:
        for filters, cell in rows:
            copy.write_row((run_id, json.dumps(filters), cell))


def load_lists(  # noqa: PLR0913
    connection: psycopg.Connection,
    run_id: int,
    blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
) -> int:
    """Load blocks of lists by binary COPY; returns the number of lists.

    A block is (cell int32 (n,), product_id int64 (n,), lengths int (n,), items int64 (m,), scores float32 (m,)), where
    items and scores are those of all lists one after the other.
    """
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(_partition("lists", run_id))
    loaded = 0
    with connection.cursor().copy(statement) as copy:
        copy.write(COPY_HEADER)
        for cell, product_id, lengths, items, scores in blocks:
            ends = np.cumsum(lengths)
            for length in np.unique(lengths):  # lists of one length make rows of one width: a structured array
                chosen = np.flatnonzero(lengths == length)
                places = (ends[chosen] - length)[:, None] + np.arange(length)
                copy.write(_binary_rows(run_id, cell[chosen], product_id[chosen], items[places], scores[places]))
            loaded += len(cell)
        copy.write(COPY_END)
    return loaded


def _binary_rows(run_id: int, cell: np.ndarray, product_id: np.ndarray, items: np.ndarray, scores: np.ndarray) -> bytes:
    """Rows of `lists` in the format of COPY BINARY (PostgreSQL manual, COPY, "Binary Format")."""
    k = items.shape[1]

    def array_of(oid: int, values: np.ndarray, element: str) -> tuple[list[tuple], dict[str, object]]:
        size = np.dtype(element).itemsize
        if not k:  # an array without dimensions
            return [("bytes", ">i4"), ("head", ">i4", (3,))], {"bytes": 12, "head": (0, 0, oid)}
        items_type = [("size", ">i4"), ("value", element)]
        fields = [("bytes", ">i4"), ("head", ">i4", (5,)), ("elements", items_type, (k,))]
        return fields, {"bytes": 20 + k * (4 + size), "head": (1, 0, oid, k, 1), "size": size, "value": values}

    parts = {"items": array_of(20, items, ">i8"), "scores": array_of(700, scores, ">f4")}  # oids of int8, float4
    fixed = [
        ("fields", ">i2"),
        ("n0", ">i4"),
        ("run", ">i4"),
        ("n1", ">i4"),
        ("cell", ">i4"),
        ("n2", ">i4"),
        ("id", ">i8"),
    ]
    rows = np.empty(len(cell), [*fixed, *((name, fields) for name, (fields, _) in parts.items())])
    rows["fields"], rows["n0"], rows["run"], rows["n1"], rows["cell"] = 5, 4, run_id, 4, cell
    rows["n2"], rows["id"] = 8, product_id
    for name, (_, values) in parts.items():
        rows[name]["bytes"], rows[name]["head"] = values["bytes"], values["head"]
        if k:
            rows[name]["elements"]["size"], rows[name]["elements"]["value"] = values["size"], values["value"]
    return rows.tobytes()


def counts(connection: psycopg.Connection, run_id: int) -> dict[str, int]:
    """Rows of a run's partitions, counted; lists only where their product is loaded too."""
    names = {table: _partition(table, run_id) for table in PARTITIONED}
    row = connection.execute(
        sql.SQL(
            "SELECT (SELECT count(*) FROM {products}), (SELECT count(*) FROM {combinations}),"
            " (SELECT count(*) FROM {lists} JOIN {products} USING (product_id))"
        ).format(**names)
    ).fetchone()
    return dict(zip(PARTITIONED, row, strict=True))  # type: ignore[arg-type]


def attach(connection: psycopg.Connection, run_id: int, figures: Mapping[str, object]) -> None:
    """Index a run's loaded partitions, attach them, and record the figures: from here on the run can go live."""
    keys = {
        "products": ("run_id", "product_id"),
        "combinations": ("run_id", "filters"),
        "lists": ("run_id", "product_id", "cell"),
    }
    for table, key in keys.items():
        partition, value = _partition(table, run_id), sql.Literal(run_id)
        # The check spares ATTACH a scan of the table.
        connection.execute(sql.SQL("ALTER TABLE {} ADD CHECK (run_id = {})").format(partition, value))
        columns = sql.SQL(", ").join(map(sql.Identifier, key))
        connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(partition, columns))
        connection.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})").format(_table(table), partition, value)
        )
        connection.execute(sql.SQL("ANALYZE {}").format(partition))
    connection.execute(
        "UPDATE lookalike.runs SET figures = %s, loaded_at = now() WHERE run_id = %s", (Jsonb(dict(figures)), run_id)
    )


# Runs -----------------------------------------------------------------------------------------------------------------

_RUN_COLUMNS = "run_id, run, fingerprint, figures, loaded_at"


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
        UserError: an unknown product or field, or no run is live.
    """
    try:
        rows = connection.execute(
            "SELECT item, score::float8, precomputed FROM lookalike.similar_items(%s, %s, %s)",
            (product_id, Jsonb(filters), k),
        ).fetchall()
    except psycopg.errors.RaiseException as error:
        raise UserError(
            error.diag.message_primary or str(error), where="similar_items", remedy=error.diag.message_hint or ""
        ) from None
    return [Item(*row) for row in rows]


def product_names(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, str]:
    """productDisplayName of products of the live run."""
    query = 'SELECT product_id, "productDisplayName" FROM lookalike.live_products WHERE product_id = ANY(%s)'
    return {product_id: name or "" for product_id, name in connection.execute(query, (list(ids),)).fetchall()}
