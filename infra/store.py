"""The lookup store (Postgres with pgvector): prepare, load a run into partitions of its own, flip, roll back, read.

A run's rows live in partitions named by its `run_id`, built beside the live ones and attached when complete. A
product's *position* is its place among the run's products ordered by base cell; shortlists hold positions and no scores
(migrations 0005 to 0007).
The pointer `lookalike.live` is flipped in one transaction. Functions take a connection and, `prune` excepted, never
commit: whoever opens the transaction does. Connections are in autocommit mode, so `with connection.transaction():` is
the transaction.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.copy import QueuedLibpqWriter
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from infra import copy_format, embedded
from infra.errors import TransientError, UserError

_INSTALLED, _CHECKOUT = (Path(__file__).resolve().parents[up] / "sql" for up in (0, 1))
SQL = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
LOCK = 0x10014C1F
"""Advisory lock that whoever changes the store takes, so that two at once come one after the other."""
PARTITIONED = (
    "catalogue",
    "attribute_names",
    "shortlists",
    "narrow_shortlists",
    "numberings",
    "cells",
    "field_values",
    "rare_values",
    "precomputed",
    "other_images",
)
NARROW = 1 << 16
"""Most products of a run whose positions take two bytes: less half of them, they are stored in `narrow_shortlists`."""
OF_LISTS = ("base_cells", "combinations", "lists")
"""Tables that releases before migration 0005 partitioned, too; they go with the last run that has such a partition."""
FORMER = ("products", *OF_LISTS)
"""Tables that runs of earlier releases have partitions of."""
FEW_VALUES = 256
"""Values of a field up to which all are `field_values`; of more those that are rare are `rare_values`."""
EDGES, KEY = 4096, 2000
"""Most edges of ranges, of four bytes, and most bytes of JSON that a precomputed filter has: an index takes 2,704. What
has more is answered as all others are. Kaggle's seven fields have 2,498 edges and 141 bytes at most."""
_FieldValues = tuple[str, Sequence[str | None], Sequence[np.ndarray], np.ndarray, np.ndarray | None]
Filters = Mapping[str, Any]
"""Field → condition, ready for JSON: a value, None for no value, a list of such, {"not": …}, or {"is": …, "not": …}."""
BATCH = 8192
"""Rows that are made and sent at once."""
FORMERLY = {"0007_text_ids.sql": "2b13c40c79b7346b865d7152fb5681f9514442a14700717e09146c812c73d371"}
"""Migrations that were edited since, with the SHA-256 that they had: what that left of a store is as good."""
LIMIT_EXCEEDED = "54"
"""Class of Postgres' SQLSTATEs for what is too long, too deep or too many."""
DDL_WAIT = "5s"
"""Longest that a migration waits for readers, who wait behind it."""
WATCHED = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2, "tcp_user_timeout": 8000}
"""Of a connection that is kept: seconds, and milliseconds, by which a server that is gone without a word is told."""
READERS_WAIT_S = 0.5
"""Longest that a flip, and each step of pruning, waits for readers, who don't wait for it; below deadlock_timeout, so
that no lookup becomes a deadlock's victim."""


class OlderStoreError(UserError):
    """An older release prepared the store: it can be read once a run of this one is published, or it is prepared."""


@dataclass(frozen=True)
class StoredRun:
    """A run that the store holds.

    Two with one `content_hash` have the same rows. `figures` are the counts it was loaded with, `manifest` says what it
    was made of (empty: an older release loaded it). `published_at` is when a publish last made it live.
    """

    run_id: int
    run: str
    content_hash: str
    figures: dict[str, object]
    manifest: dict[str, Any]
    loaded_at: datetime.datetime
    published_at: datetime.datetime | None


@dataclass(frozen=True)
class Hold:
    """Content that was rolled back from, with the name it had then: it is not to go live again."""

    content_hash: str
    run: str
    reason: str
    held_at: datetime.datetime


@dataclass(frozen=True)
class Item:
    """One ranked item of a list; `scanned` is how many members outside the shortlist were compared.

    None where the live run is one of lists, which an earlier release published.
    """

    product_id: str
    score: float
    scanned: int | None


@contextmanager
def connect(uri: str, folder: Path, *, prepares: bool = False) -> Iterator[psycopg.Connection]:
    """A connection to the store at `uri`, or to the embedded one in `folder` where `uri` is empty.

    It changes nothing, unless the caller `prepares` the store, as those do that publish. A store that nobody has
    prepared holds no run; one that a newer release has prepared can be read.

    Raises:
        UserError: `uri` cannot be understood, an older release prepared the store, a newer one did and the caller
            `prepares`, or the login may not do what is asked of it.
        TransientError: it cannot be reached, or the connection broke. No message holds a password.
    """
    place = _place(uri) if uri else str(folder)
    with _opened(uri, folder) as connection:
        try:
            if prepares:
                prepare(connection)
            else:
                _refuse_older(_prepared(connection), _files())
            yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise UserError(
                f"user {connection.info.user} may not do this in the store: {first_line(error)}",
                where=place,
                remedy="connect as a member of lookalike_loader to publish, of lookalike_reader to ask, of "
                "lookalike_keys to change keys",
            ) from error
        except psycopg.OperationalError as error:
            if (error.sqlstate or "").startswith(LIMIT_EXCEEDED):  # whoever asks again asks too much again
                raise UserError(
                    f"the store {place} takes no more than its limit: {first_line(error)}",
                    where="what was asked of it",
                    remedy="ask for less at once",
                ) from error
            raise TransientError(f"the store {place} failed: {first_line(error)}") from error


def _opened(uri: str, folder: Path, **options: object) -> psycopg.Connection:
    try:
        return psycopg.connect(uri or embedded.uri(folder), autocommit=True, connect_timeout=20, **options)  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        place = _place(uri) if uri else str(folder)
        raise TransientError(f"the store {place} cannot be reached: {first_line(error)}") from None


def reader(uri: str, folder: Path, limit_s: float) -> psycopg.Connection:
    """A connection to keep, for asking alone: as the role lookalike_reader where the login may become that.

    A statement of it ends after `limit_s`, and a server that no longer answers is given up within seconds. Where the
    role may say so, the server logs none of its errors.

    Raises:
        UserError, TransientError: as `connect` does.
    """
    if uri:
        _place(uri)
    connection = _opened(uri, folder, **WATCHED)
    try:
        _refuse_older(_prepared(connection), _files())
        with suppress(psycopg.errors.InsufficientPrivilege):  # errors repeat what was asked, which no log is to hold
            connection.execute("SET log_min_messages = log")
        member = "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = 'lookalike_reader'"
        if connection.execute(member).fetchone() == (True,):
            connection.execute("SET ROLE lookalike_reader")
        connection.execute("SET default_transaction_read_only = on")
        connection.execute("SELECT set_config('statement_timeout', %s, false)", (f"{int(1000 * limit_s)}ms",))
    except psycopg.OperationalError as error:
        connection.close()
        raise TransientError(f"the store failed: {first_line(error)}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def check(uri: str, folder: Path) -> None:
    """Try the store before work begins that ends in it: reach it, or start the embedded one, and change nothing.

    The embedded one then runs until this process ends. A store of an older release is as good as one of this: `publish`
    prepares it.

    Raises:
        UserError, TransientError: as `connect` does for a caller that `prepares`.
    """
    with suppress(OlderStoreError), connect(uri, folder) as connection:
        _refuse_newer(_prepared(connection), _files())


def _place(uri: str) -> str:
    """Host, port and database of a connection string; what libpq misreads may be a password's end and is not shown."""
    try:
        given = conninfo_to_dict(uri)
    except (psycopg.ProgrammingError, UnicodeError):
        given = {"port": "unreadable"}
    host, port, database = (str(given.get(name) or "") for name in ("host", "port", "dbname"))
    if "@" in host + database or not port.replace(",", "").isdigit() and port:
        raise UserError(
            "the store's address cannot be read as a Postgres URI",
            where="environment variable LOOKALIKE_STORE",
            remedy="write postgresql://user:password@host:5432/database; in a password @ is %40, / is %2F, : is %3A",
        )
    return f"{host or 'localhost'}:{port or 5432}/{database}"


def first_line(error: Exception) -> str:
    """What an error says, without the details that follow."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]


# Preparing ------------------------------------------------------------------------------------------------------------


def prepare(connection: psycopg.Connection) -> None:
    """Make the store what this release's `sql/` says: apply missing migrations, replace functions, views and roles.

    Where nothing is to do it reads one table and waits for nobody. A migration may not touch rows of the tables that
    `lookalike_loader` owns, whose triggers would run with the rights of whoever prepares.

    Raises:
        UserError: a newer release prepared the store, an applied migration has been edited since, or the user may not.
    """
    files = _files()
    current = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    if _prepared(connection) == current:
        return
    try:
        with connection.transaction():
            _take_lock(connection)
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(DDL_WAIT))
            connection.execute("SET LOCAL search_path = public, pg_temp")  # for migrations 0001 to 0003
            _apply(connection, files, current)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise UserError(
            f"the store cannot be prepared for this release: {first_line(error)}: {error.diag.message_detail}",
            where="the store",
            remedy="drop what was made upon it, prepare the store, and make that anew",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise UserError(
            f"the store is not prepared for this release, and user {connection.info.user} may not prepare it: "
            f"{first_line(error)}",
            where="the store",
            remedy="run `infra/docker/prepare.py store` of this release as the store's administrator",
        ) from error


def _apply(connection: psycopg.Connection, files: Mapping[str, Path], current: Mapping[str, str]) -> None:
    prepared = _prepared(connection)
    if prepared == current:  # another has done it while this one waited
        return
    _refuse_newer(prepared, files)
    for name, file in files.items():
        if not _is_migration(name) or name not in prepared:
            connection.execute(file.read_bytes())
        elif prepared[name] not in (current[name], FORMERLY.get(name)):
            raise UserError(
                f"migration {name} was edited after it was applied",
                where=str(file),
                remedy="restore it and add a new migration with the change",
            )
    connection.execute("DELETE FROM lookalike.prepared WHERE file <> ALL(%s)", (list(current),))
    connection.cursor().executemany(
        "INSERT INTO lookalike.prepared (file, sha256) VALUES (%s, %s)"
        " ON CONFLICT (file) DO UPDATE SET sha256 = excluded.sha256, applied_at = now()"
        " WHERE prepared.sha256 <> excluded.sha256",
        list(current.items()),
    )


def _files() -> dict[str, Path]:
    """The files of `sql/` by name, in the order in which they are applied."""
    folders = [sorted((SQL / folder).glob("*.sql")) for folder in ("migrations", "functions")]
    return {file.name: file for file in [*folders[0], *folders[1], SQL / "views.sql", SQL / "roles.sql"]}


def _is_migration(name: str) -> bool:
    return name[0].isdigit()


def _prepared(connection: psycopg.Connection) -> dict[str, str]:
    """The files that the store was prepared with, with their SHA-256; empty: nobody has prepared it."""
    # Not to_regclass: it may answer from a cache that does not know yet what was committed while this session waited.
    tables = "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'lookalike'"
    there = {name for (name,) in connection.execute(tables)}
    for table in ("prepared", "applied"):  # `applied`: releases before migration 0004
        if table in there:
            return dict(connection.execute(sql.SQL("SELECT file, sha256 FROM {}").format(_table(table))).fetchall())
    return {}


def _take_lock(connection: psycopg.Connection) -> None:
    connection.execute("SET LOCAL statement_timeout = 0")  # readers' limit may be the database's
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))


def _refuse_older(prepared: Collection[str], files: Collection[str]) -> None:
    missing = [name for name in files if _is_migration(name) and name not in prepared]
    if prepared and missing:
        raise OlderStoreError(
            f"an older release prepared the store: it lacks migration {missing[0]}",
            where="the store",
            remedy="publish a run with this release, or run its `infra/docker/prepare.py store` as the store's "
            "administrator; until then ask with the release that prepared it",
        )


def _refuse_newer(prepared: Collection[str], files: Collection[str]) -> None:
    unknown = _unknown(prepared, files)
    if unknown:
        raise UserError(
            f"a newer release prepared the store: it has migration {unknown[-1]}, which this one does not know",
            where="the store",
            remedy="use that release; this one can only ask",
        )


def _unknown(prepared: Collection[str], files: Collection[str]) -> list[str]:
    """The store's migrations that this release does not have."""
    return sorted(name for name in prepared if _is_migration(name) and name not in files)


# Loading --------------------------------------------------------------------------------------------------------------


def lock(connection: psycopg.Connection) -> None:
    """Wait for the right to change what is live, held until the connection's transaction ends.

    Raises:
        UserError: another release has prepared the store, be it while this one waited.
    """
    _take_lock(connection)
    prepared, files = _prepared(connection), _files()
    _refuse_older(prepared, files)
    _refuse_newer(prepared, files)


@contextmanager
def locked(connection: psycopg.Connection) -> Iterator[None]:
    """The right to change what is live for longer than a transaction. Each still begins with `lock`."""
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))


def begin(
    connection: psycopg.Connection,
    run: str,
    content_hash: str,
    fields: Sequence[str],
    manifest: Mapping[str, object],
) -> int:
    """Create a run with empty partitions, not attached yet; returns its run_id."""
    row = connection.execute(
        "INSERT INTO lookalike.runs (run, content_hash, fields, manifest) VALUES (%s, %s, %s, %s) RETURNING run_id",
        (run, content_hash, list(fields), Jsonb(dict(manifest))),
    ).fetchone()
    run_id = int(row[0])  # type: ignore[index]
    _act_as_loader(connection)
    for table in PARTITIONED:
        # The check spares ATTACH a scan of the table.
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING STORAGE INCLUDING CONSTRAINTS, CHECK (run_id = {}))").format(
                _partition(table, run_id), _table(table), sql.Literal(run_id)
            )
        )
        # What is long stays in the row as long as a page can hold it (8,160 bytes); see migrations 0003 and 0005.
        connection.execute(sql.SQL("ALTER TABLE {} SET (toast_tuple_target = 8160)").format(_partition(table, run_id)))
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
        copy.write(copy_format.HEADER)
        yield copy
        copy.write(copy_format.END)


def load_products(
    connection: psycopg.Connection,
    run_id: int,
    products: pa.Table,
    parts: tuple[str, str],
    id_order: np.ndarray,
    embeddings: np.ndarray,
) -> None:
    """Load the run's products, in the order of their positions: the members of a base cell lie side by side.

    Args:
        connection: in the transaction that began the run.
        run_id: what `begin` returned.
        products: product_id, image_sha256 (hex), and the catalogue's columns, all text or lists of it.
        parts: the columns of the name and of the kind of product; empty: there is none.
        id_order: int (n,), the place of each product's id in the order of ids, by which ties are decided.
        embeddings: float (n, d), the products' rows, multiples of 2⁻¹¹.
    """
    (name, kind), number = parts, copy_format.int4(run_id)
    beside = {"product_id", "image_sha256", *({name} - {kind})}
    attributes = [column for column in products.column_names if column not in beside]
    lists = [column for column in attributes if pa.types.is_list(products.schema.field(column).type)]
    with _copy(connection, run_id, "attribute_names", ("run_id", "attributes", "kind", "lists")) as copy:
        names = (copy_format.text_array(texts) if texts else None for texts in (attributes, lists))
        copy.write(copy_format.row(number, next(names), copy_format.text(kind or None), next(names)))
    columns = ("run_id", "position", "id_order", "product_id", "name", "image_sha256", "attributes", "embedding")
    with _copy(connection, run_id, "catalogue", columns) as copy:
        for start in range(0, len(products), BATCH):
            for position, values in enumerate(products.slice(start, BATCH).to_pylist(), start):
                values |= {name: json.dumps(values[name], ensure_ascii=False) for name in lists if values[name]}
                copy.write(
                    copy_format.row(
                        number,
                        copy_format.int4(position),
                        copy_format.int4(int(id_order[position])),
                        copy_format.text(values["product_id"]),
                        copy_format.text(values.get(name)),
                        bytes.fromhex(values["image_sha256"]),
                        copy_format.text_array([values[column] for column in attributes]),
                        copy_format.halfvec(embeddings[position]),
                    )
                )


def load_other_images(
    connection: psycopg.Connection, run_id: int, images: Iterable[tuple[int, int, str, np.ndarray | None]]
) -> None:
    """Load the images of products beside the main ones.

    Args:
        connection: in the transaction that began the run.
        run_id: what `begin` returned.
        images: the product's position, the image's number, from 2, its SHA-256 (hex), and its embedding, float (d,),
            where products are compared by the best pair of their images.
    """
    columns = ("run_id", "position", "number", "image_sha256", "embedding")
    with _copy(connection, run_id, "other_images", columns) as copy:
        for position, number, sha, embedding in images:
            numbers = map(copy_format.int4, (run_id, position, number))
            stored = None if embedding is None else copy_format.halfvec(embedding)
            copy.write(copy_format.row(*numbers, bytes.fromhex(sha), stored))


def load_filters(
    connection: psycopg.Connection,
    run_id: int,
    starts: np.ndarray,
    values: Iterable[_FieldValues],
    cells: Sequence[tuple[int, Sequence[Mapping[str, str]], np.ndarray, np.ndarray]],
    widest: np.ndarray,
    *,
    best_pair: bool = False,
) -> int:
    """Load what filters are answered with; returns how many are precomputed: those of few ranges, and no long keys.

    None where products are compared by the best pair of their images: their scores are no matter of a look-up.

    Args:
        connection: in the transaction that began the run.
        run_id: what `begin` returned.
        starts: int (b + 1,), the position at which each base cell begins, and the number of products.
        values: each field once, its v values, of which one may be None, the base cells that have each of them, int, the
            cells that have such a member, bool (v, c), and those that have no other, where a product may have several
            values: otherwise None.
        cells: of the precomputed cells the depth, the filter combinations that have just its members, its base cells,
            bool (b,), and the cells that contain it, bool (c,). The first has all products, and the combination {}.
        widest: int (w,), numbers of cells: those that `load_shortlists` tells of.
        best_pair: whether products are compared by the best pair of their images.
    """
    number, precomputed = copy_format.int4(run_id), 0
    with _copy(connection, run_id, "numberings", ("run_id", "starts", "depths", "widest", "best_pair")) as copy:
        depths = np.array([depth for depth, _, _, _ in cells])
        arrays = map(copy_format.int4_array, (starts, depths, widest))
        copy.write(copy_format.row(number, *arrays, copy_format.boolean(best_pair)))
    with _copy(connection, run_id, "cells", ("run_id", "cell", "base_cells", "supersets")) as copy:
        for cell, (_, _, *sets) in enumerate(cells):
            copy.write(copy_format.row(number, copy_format.int4(cell), *map(copy_format.varbit, sets)))
    for of_field in values:
        _load_values(connection, run_id, len(starts) - 1, of_field)
    with _copy(connection, run_id, "precomputed", ("run_id", "filters", "members")) as copy:
        for _, combinations, of_cell, _ in () if best_pair else cells:
            edges = np.flatnonzero(np.diff(np.pad(of_cell.astype(np.int8), 1)))
            members, keys = copy_format.int4_array(starts[edges]), map(copy_format.jsonb, combinations)
            for key in [key for key in keys if len(key) <= KEY and len(edges) <= EDGES]:
                copy.write(copy_format.row(number, key, members))
                precomputed += 1
    return precomputed


def _load_values(connection: psycopg.Connection, run_id: int, base_cells: int, of_field: _FieldValues) -> None:
    """Load a field's values; of many values the rare ones, which no cell has alone, by the numbers of base cells."""
    field, values, sets, having, holding = of_field
    alone = (having & (having.sum(axis=0) == 1) if holding is None else holding).any(axis=1)
    is_rare = ~alone & np.array([value is not None and len(values) > FEW_VALUES for value in values], bool)
    rare, others = np.flatnonzero(is_rare).tolist(), np.flatnonzero(~is_rare).tolist()
    rows = [(values[at], sets[at], having[at], None if holding is None else holding[at]) for at in others]
    if rare:
        rows.append(("", np.concatenate([sets[at] for at in rare]), having[rare].any(axis=0), None))
    columns, fixed = ("run_id", "field", "value", "base_cells", "cells"), (copy_format.int4(run_id), field.encode())
    with _copy(connection, run_id, "field_values", (*columns, "held")) as copy:
        for value, places, *of_cells in rows:
            bits = np.zeros(base_cells, bool)
            bits[places] = True
            strings = (None if bits is None else copy_format.varbit(bits) for bits in (bits, *of_cells))
            copy.write(copy_format.row(*fixed, copy_format.text(value), *strings))
    with _copy(connection, run_id, "rare_values", columns) as copy:
        for at in rare:
            sets_of = copy_format.int4_array(sets[at]), copy_format.varbit(having[at])
            copy.write(copy_format.row(*fixed, copy_format.text(values[at]), *sets_of))


def load_shortlists(
    connection: psycopg.Connection,
    run_id: int,
    products: int,
    blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
) -> int:
    """Load blocks of shortlists; returns how many.

    Args:
        connection: in the transaction that began the run.
        run_id: what `begin` returned.
        products: how many the run has: up to `NARROW`, positions take two bytes.
        blocks: (positions int (n,), ends int (n + 1,), items int (m,), filled int16 (n, w)): the products that the
            shortlists belong to, where each begins and the last ends, the items of all, one after the other, as
            positions, and the ranks by which they hold the depth of the widest cells.
    """
    table, to_array, less = "shortlists", copy_format.int4_array, 0
    if products <= NARROW:
        table, to_array, less = "narrow_shortlists", copy_format.int2_array, NARROW // 2
    loaded = 0
    with _copy(connection, run_id, table, ("run_id", "position", "items", "filled_at")) as copy:
        for positions, ends, items, filled in blocks:
            stored = items - less
            for at, position in enumerate(positions.tolist()):
                fixed = copy_format.int4(run_id), copy_format.int4(position)
                arrays = to_array(stored[ends[at] : ends[at + 1]]), copy_format.int2_array(filled[at])
                copy.write(copy_format.row(*fixed, *arrays))
            loaded += len(positions)
    return loaded


def counts(connection: psycopg.Connection, run_id: int) -> dict[str, int]:
    """Rows of a run's partitions, counted; shortlists only where their product is loaded too."""
    names = {table: _partition(table, run_id) for table in PARTITIONED}
    row = connection.execute(
        sql.SQL(
            "SELECT (SELECT count(*) FROM {catalogue}), (SELECT count(*) FROM {precomputed}),"
            " (SELECT count(*) FROM {shortlists} JOIN {catalogue} USING (position))"
            " + (SELECT count(*) FROM {narrow_shortlists} JOIN {catalogue} USING (position))"
        ).format(**names)
    ).fetchone()
    return dict(zip(("products", "precomputed", "shortlists"), row, strict=True))  # type: ignore[arg-type]


def attach(connection: psycopg.Connection, run_id: int, figures: Mapping[str, object]) -> None:
    """Index a run's loaded partitions, attach them, and record the figures: from here on the run can go live."""
    # Rows never change, so pages and indexes are full.
    for table, index in {
        "catalogue": "ADD PRIMARY KEY (product_id) WITH (fillfactor = 100)",
        "attribute_names": "ADD PRIMARY KEY (run_id)",
        "shortlists": "ADD PRIMARY KEY (position) WITH (fillfactor = 100)",
        "narrow_shortlists": "ADD PRIMARY KEY (position) WITH (fillfactor = 100)",
        "numberings": "ADD PRIMARY KEY (run_id)",
        "cells": "ADD PRIMARY KEY (cell) WITH (fillfactor = 100)",
        "field_values": "ADD UNIQUE (field, value) WITH (fillfactor = 100)",
        "rare_values": "ADD PRIMARY KEY (field, value) WITH (fillfactor = 100)",
        "precomputed": "ADD PRIMARY KEY (filters) WITH (fillfactor = 100)",
        "other_images": "ADD PRIMARY KEY (position, number) WITH (fillfactor = 100)",
    }.items():
        partition, value = _partition(table, run_id), sql.Literal(run_id)
        connection.execute(sql.SQL("ALTER TABLE {} {}").format(partition, sql.SQL(index)))
        connection.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})").format(_table(table), partition, value)
        )
    for statement in (
        "CREATE UNIQUE INDEX ON {catalogue} (position) WITH (fillfactor = 100)",
        *(f"ANALYZE {{{table}}}" for table in PARTITIONED if "shortlists" not in table),
        "ANALYZE {shortlists} (position)",  # what stands in the arrays takes seconds to learn, and nobody asks
        "ANALYZE {narrow_shortlists} (position)",
    ):
        partitions = {table: _partition(table, run_id) for table in PARTITIONED}
        connection.execute(sql.SQL(statement).format(**partitions))  # type: ignore[arg-type]
    connection.execute(
        "UPDATE lookalike.runs SET figures = %s, loaded_at = now() WHERE run_id = %s", (Jsonb(dict(figures)), run_id)
    )


# Runs -----------------------------------------------------------------------------------------------------------------

_RUN = "run_id, run, content_hash, figures, manifest, loaded_at, published_at"


def served(connection: psycopg.Connection, ids: np.ndarray, group: str) -> tuple[dict[str, int], int]:
    """Products of the live run by the attribute `group`, '' for none, and how many of these ids are among them."""
    grouped = "SELECT coalesce(attributes ->> %s, ''), count(*) FROM lookalike.live_products GROUP BY 1"
    counts = connection.execute(grouped, (group,)).fetchall()
    shared = "SELECT count(*) FROM lookalike.live_products WHERE product_id = ANY(%s::text[])"
    ((known,),) = connection.execute(shared, (ids.tolist(),)).fetchall()
    return dict(counts), known


def runs(connection: psycopg.Connection) -> list[StoredRun]:
    """The complete runs, newest first."""
    return _runs(connection, "lookalike.runs WHERE loaded_at IS NOT NULL ORDER BY run_id DESC")


def live(connection: psycopg.Connection) -> StoredRun | None:
    """The run that `similar_items` answers from; readers may ask too."""
    return next(iter(_runs(connection, "lookalike.live_run")), None)


def stored_with(connection: psycopg.Connection, content_hash: str) -> StoredRun | None:
    """The complete run with this content, live or not."""
    return next((run for run in runs(connection) if run.content_hash == content_hash), None)


def _runs(connection: psycopg.Connection, source: str) -> list[StoredRun]:
    if not _prepared(connection):
        return []
    cursor = connection.cursor(row_factory=class_row(StoredRun))
    return cursor.execute(f"SELECT {_RUN} FROM {source}").fetchall()  # type: ignore[arg-type]  # noqa: S608


def flip(connection: psycopg.Connection, run_id: int) -> None:
    """Publish a run: readers see the old one until the transaction commits. Call it under the lock.

    In a later transaction than `attach`, as whoever sees the run live must see its partitions, which are announced only
    after a commit shows. A transaction that has used the tables before may not learn of them at all: such are waited
    for a little. (The functions cope, see asked_run.sql; to one that stays open longer live_products can look empty.)
    """
    before = _transactions_that_read(connection)
    _in_time(lambda: not before & _transactions_that_read(connection))
    _point_to(connection, run_id)
    # Later than all others even where the clock was set back.
    connection.execute(
        "UPDATE lookalike.runs SET published_at = greatest(clock_timestamp(), (SELECT max(published_at) + '1us' FROM"
        " lookalike.runs)) WHERE run_id = %s",
        (run_id,),
    )


def _transactions_that_read(connection: psycopg.Connection) -> set[str]:
    """The transactions that have the products locked, but one's own."""
    rows = connection.execute(
        "SELECT l.virtualtransaction FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE d.datname = current_database() AND l.relation = to_regclass('lookalike.catalogue')"
        " AND l.pid <> pg_backend_pid()"
    )
    return {transaction for (transaction,) in rows}


def _point_to(connection: psycopg.Connection, run_id: int) -> None:
    connection.execute(
        "INSERT INTO lookalike.live (run_id) VALUES (%s) ON CONFLICT (one) DO UPDATE SET run_id = excluded.run_id",
        (run_id,),
    )


def adopt(connection: psycopg.Connection, run_id: int, run: str, manifest: Mapping[str, object]) -> None:
    """Give a stored run the name and the manifest of another run with the same content."""
    connection.execute(
        "UPDATE lookalike.runs SET run = %s, manifest = %s WHERE run_id = %s", (run, Jsonb(dict(manifest)), run_id)
    )


def rollback(connection: psycopg.Connection, reason: str = "") -> StoredRun:
    """Make the run live that was published last before the live one, and hold the content of the live one.

    Runs whose content is held are passed over. Going back is no publishing: once more goes further back.

    Raises:
        UserError: there is none.
    """
    with connection.transaction():
        lock(connection)
        now, is_held = live(connection), {hold.content_hash for hold in holds(connection)}
        earlier = [run for run in runs(connection) if now and _published(run) < _published(now)]
        free = [run for run in earlier if run.content_hash not in is_held | {now.content_hash if now else ""}]
        if not now or not free:
            kept = ", ".join(f"{run.run}{' (held)' * (run.content_hash in is_held)}" for run in runs(connection))
            raise UserError(
                "there is no run to go back to",
                where=f"live run: {now.run if now else 'none'}; the store holds {kept or 'none'}",
                remedy="publish a run with `make refresh`, or end a hold with `lookalike unhold`; the store keeps "
                "LOOKALIKE_KEEP_RUNS runs",
            )
        before = max(free, key=_published)
        hold(connection, now.content_hash, now.run, reason or f"rolled back to run {before.run}")
        _point_to(connection, before.run_id)
    return before


def _published(run: StoredRun) -> datetime.datetime:
    return run.published_at or datetime.datetime.min.replace(tzinfo=datetime.UTC)


# Holds ----------------------------------------------------------------------------------------------------------------


def hold(connection: psycopg.Connection, content_hash: str, run: str, reason: str) -> None:
    """Hold content, which a run of this name has, until `unhold`."""
    connection.execute(
        "INSERT INTO lookalike.holds (content_hash, run, reason) VALUES (%s, %s, %s) ON CONFLICT (content_hash)"
        " DO UPDATE SET run = excluded.run, reason = excluded.reason, held_at = excluded.held_at",
        (content_hash, run, reason),
    )


def holds(connection: psycopg.Connection) -> list[Hold]:
    """What is held, the newest hold first."""
    if not _prepared(connection):
        return []
    cursor = connection.cursor(row_factory=class_row(Hold))
    query = "SELECT content_hash, run, reason, held_at FROM lookalike.holds ORDER BY held_at DESC, content_hash"
    return cursor.execute(query).fetchall()


def held(connection: psycopg.Connection, content_hash: str) -> Hold | None:
    """The hold of this content."""
    return next((hold for hold in holds(connection) if hold.content_hash == content_hash), None)


def unhold(connection: psycopg.Connection, run: str | None) -> list[Hold]:
    """End the holds of the content that a run has or had when it was held, or all; returns them.

    Raises:
        UserError: nothing of that run is held.
    """
    with connection.transaction():
        lock(connection)
        before = holds(connection)
        contents = {stored.content_hash for stored in runs(connection) if stored.run == run}
        ended = [hold for hold in before if run in (None, hold.run) or hold.content_hash in contents]
        if run is not None and not ended:
            raise UserError(
                f"nothing of run {run} is held",
                where=f"held: {', '.join(hold.run for hold in before) or 'nothing'}",
                remedy="name one of the runs that are held; `lookalike status` shows them",
            )
        for hold in ended:
            end_hold(connection, hold.content_hash)
    return ended


def end_hold(connection: psycopg.Connection, content_hash: str) -> None:
    """End the hold of this content, if there is one, and no other that was held under the same name."""
    connection.execute("DELETE FROM lookalike.holds WHERE content_hash = %s", (content_hash,))


# Pruning --------------------------------------------------------------------------------------------------------------


def prune(connection: psycopg.Connection, keep: int) -> list[int]:
    """Drop all runs but `keep` of them, and unfinished ones; returns the ids of the dropped.

    Kept are the live run and those published last, before any that is held. Not for use in a transaction. Readers don't
    wait for it nor fail, not in an older snapshot either: what they hold stays for the next prune, as all does while
    somebody publishes, and where a newer release has prepared the store. A crash leaves a run unfinished.
    """
    if connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,)).fetchone() == (False,):
        return []
    try:
        connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{READERS_WAIT_S}s"))
        connection.execute("SET synchronous_commit = off")  # a detached partition is locked until its commit is written
        if _unknown(_prepared(connection), _files()):
            return []
        surplus, pruned = _surplus(connection, keep), list[int]()
        if surplus and _all_see_the_live_run(connection):
            pruned = list(takewhile(lambda run_id: _drop(connection, run_id), surplus))
        _drop_what_was_of_lists(connection)
        return pruned
    finally:
        if not connection.closed:
            connection.execute("RESET lock_timeout")
            connection.execute("RESET synchronous_commit")
            connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))


def _surplus(connection: psycopg.Connection, keep: int) -> list[int]:
    now, is_held = live(connection), {hold.content_hash for hold in holds(connection)}
    others = [run for run in runs(connection) if now is None or run.run_id != now.run_id]
    others.sort(key=lambda run: (run.content_hash not in is_held, _published(run)), reverse=True)
    kept = {run.run_id for run in [*([now] if now else []), *others][:keep]}
    ids = [row[0] for row in connection.execute("SELECT run_id FROM lookalike.runs ORDER BY run_id").fetchall()]
    return [run_id for run_id in ids if run_id not in kept]


def _all_see_the_live_run(connection: psycopg.Connection) -> bool:
    """Wait a little until no session's snapshot is older than the last flip: none can ask for another run then."""
    older = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity a, lookalike.live l WHERE a.datname = current_database()"
        " AND a.pid <> pg_backend_pid() AND age(a.backend_xmin) >= age(l.xmin))"
    )
    return _in_time(lambda: connection.execute(older).fetchone() == (False,))


def _in_time(is_over: Callable[[], bool]) -> bool:
    """Wait until something is over, for READERS_WAIT_S at most; says whether it is."""
    deadline = time.monotonic() + READERS_WAIT_S
    while not is_over():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _drop(connection: psycopg.Connection, run_id: int) -> bool:
    """Drop a run unless a reader holds it; says whether it is gone. Unfinished from its first step on."""
    connection.execute("UPDATE lookalike.runs SET loaded_at = NULL WHERE run_id = %s", (run_id,))
    try:
        for table in (*PARTITIONED, *FORMER):
            _detach(connection, table, run_id)
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_partition(table, run_id)))
    except psycopg.errors.LockNotAvailable:
        return False
    connection.execute("DELETE FROM lookalike.runs WHERE run_id = %s", (run_id,))
    return True


def _drop_what_was_of_lists(connection: psycopg.Connection) -> None:
    """Drop the tables that only runs of releases before migration 0005 have partitions of, once there is none."""
    parents = [f"lookalike.{table}" for table in OF_LISTS]
    partitioned = "SELECT count(*) FROM pg_inherits WHERE inhparent = ANY (%s::text[]::regclass[])"
    there = [name for name in parents if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,)]
    if there and connection.execute(partitioned, (there,)).fetchone() == (0,):
        with suppress(psycopg.errors.LockNotAvailable):
            connection.execute(f"DROP TABLE {', '.join(there)}")  # type: ignore[arg-type]


def _detach(connection: psycopg.Connection, table: str, run_id: int) -> None:
    """Detach a run's partition, or end a detaching that did not. Waits for readers of the table without locking it."""
    name = f"lookalike_runs.{table}_{run_id}"
    pending = connection.execute(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(%s)", (name,)
    ).fetchone()
    if pending:
        how = sql.SQL("FINALIZE" if pending[0] else "CONCURRENTLY")
        statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}")
        connection.execute(statement.format(_table(table), _partition(table, run_id), how))


def _table(name: str) -> sql.Identifier:
    return sql.Identifier("lookalike", name)


def _partition(table: str, run_id: int) -> sql.Identifier:
    return sql.Identifier("lookalike_runs", f"{table}_{run_id}")


# Reading --------------------------------------------------------------------------------------------------------------


@contextmanager
def one_run(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction in which all lookups, and `live`, answer from one run, whatever is published meanwhile.

    Keep it short: the store keeps every row that was deleted since it began.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def similar_items(
    connection: psycopg.Connection, product_id: str, filters: Filters, k: int, exclude: Sequence[str] = ()
) -> list[Item]:
    """The `k` products most like `product_id` among those that pass `filters`, from the live run.

    Args:
        connection: to the store.
        product_id: of a product of the live run.
        filters: field → condition, as `sql/functions/passing.sql` says.
        k: 1 to 100.
        exclude: ids of products that are left out.

    Raises:
        UserError: an unknown product or field, a wrong condition or `k`, or no run is live.
    """
    return _items(connection, "similar_items(%s::text, %s, %s, %s::text[])", product_id, filters, k, exclude)


def similar_items_by_vector(
    connection: psycopg.Connection, embedding: np.ndarray, filters: Filters, k: int, exclude: Sequence[str] = ()
) -> list[Item]:
    """The `k` products most like an embedding among those that pass `filters`, from the live run.

    Args:
        connection: to the store.
        embedding: float32 (d,); made a unit vector of multiples of 2⁻¹¹ where it is none.
        filters, k, exclude: as `similar_items` has them.

    Raises:
        UserError: the width is not that of the live run, an unknown field, a wrong condition or `k`, or no run is live.
    """
    call = "similar_items_by_vector(%s::float8[]::public.vector, %s, %s, %s::text[])"
    return _items(connection, call, embedding.tolist(), filters, k, exclude)


def _items(
    connection: psycopg.Connection, call: str, asked: object, filters: Filters, k: int, exclude: Sequence[str]
) -> list[Item]:
    """Call one of the functions; what it or the check of its arguments refuses is a UserError."""
    query = f"SELECT item, score::float8, scanned FROM lookalike.{call}"  # noqa: S608
    try:
        with _no_run_where_not_prepared():
            rows = connection.execute(query, (asked, Jsonb(filters), k, list(exclude))).fetchall()  # type: ignore[arg-type]
    except (psycopg.errors.RaiseException, psycopg.DataError) as error:
        raise UserError(
            error.diag.message_primary or str(error),
            where=call.partition("(")[0],
            remedy=error.diag.message_hint or "see docs/merchandising.md for what can be asked",
        ) from None
    return [Item(*row) for row in rows]


@contextmanager
def _no_run_where_not_prepared() -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedObject, psycopg.errors.UndefinedTable):
        raise UserError("no run is live", where="the store", remedy="publish one with make refresh") from None


def product_names(connection: psycopg.Connection, ids: Sequence[str]) -> dict[str, str]:
    """productDisplayName of products of the live run.

    Raises:
        UserError: no run is live, as nobody has prepared the store.
    """
    query = 'SELECT product_id, "productDisplayName" FROM lookalike.live_products WHERE product_id = ANY(%s::text[])'
    with _no_run_where_not_prepared():
        rows = connection.execute(query, (list(ids),)).fetchall()
    return {product_id: name or "" for product_id, name in rows}


def named(connection: psycopg.Connection, ids: Sequence[str]) -> dict[str, tuple[str | None, str]]:
    """Name and SHA-256 (hex) of the image of products of the live run."""
    query = "SELECT product_id, name, image_sha256 FROM lookalike.live_products WHERE product_id = ANY(%s::text[])"
    rows = connection.execute(query, (list(ids),)).fetchall()
    return {product_id: (name, image) for product_id, name, image in rows}


def vectors(connection: psycopg.Connection, ids: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Embeddings of products of the live run, float32 (d,), of all images that are compared, the main one first."""
    rows = connection.execute("SELECT * FROM lookalike.live_vectors(%s::text[])", (list(ids),)).fetchall()
    found: dict[str, list[np.ndarray]] = {}
    for product_id, sent in rows:
        found.setdefault(product_id, []).append(_vector(sent))
    return found


def _vector(sent: bytes) -> np.ndarray:
    """What `halfvec_send` writes: four bytes, then the entries."""
    return np.frombuffer(sent, ">f2", offset=4).astype(np.float32)


@dataclass(frozen=True)
class Copied:
    """What a reader's copy of the live run holds, by position: see sql/functions/run_copy.sql.

    `values` maps each field to its values; `starts` int (b + 1,) is the position at which each base cell begins, and
    the number of products.
    """

    run_id: int
    run: str
    tag: str
    products: list[tuple[int, str, str | None, str | None, bytes]]
    starts: np.ndarray
    values: dict[str, list[Value]]


@dataclass(frozen=True)
class Value:
    """A value of a field, None: no value, '': all that are rare together; and who has it.

    `base_cells` int (x,), and of the precomputed ones, by number, `cells` int (y,) that have such a member, and `held`
    int (z,) that have no other, where a product may have several values.
    """

    value: str | None
    base_cells: np.ndarray
    cells: np.ndarray
    held: np.ndarray
    is_rare: bool


def copied(connection: psycopg.Connection) -> Copied | None:
    """The live run's products and filters, all of one run; None where no run is live."""
    with one_run(connection):
        return _copied(connection)


def _copied(connection: psycopg.Connection) -> Copied | None:
    row = connection.execute("SELECT run_id, run, tag, fields FROM lookalike.served_run()").fetchone()
    if row is None:
        return None
    run_id, run, tag, fields = row
    (starts,) = connection.execute("SELECT lookalike.run_starts(%s)", (run_id,)).fetchone() or (None,)
    products = connection.execute("SELECT * FROM lookalike.run_products(%s)", (run_id,)).fetchall()
    rows = connection.execute("SELECT * FROM lookalike.run_values(%s)", (run_id,)).fetchall()
    values: dict[str, list[Value]] = {field: [] for field in fields}
    for field, value, bits, places, cells, held in rows:
        base_cells = np.array(places, np.int64) if bits is None else _ones(bits)
        holding = np.empty(0, np.int64) if held is None else _ones(held)
        values[field].append(Value(value, base_cells, _ones(cells), holding, bits is None))
    return Copied(run_id, run, tag, products, np.array(starts or [0], np.int64), values)


def _ones(sent: bytes) -> np.ndarray:
    """The places of the ones in a string of bits as `varbit_send` writes it: its length, four bytes, then the bits."""
    bits = np.unpackbits(np.frombuffer(sent, np.uint8, offset=4), count=int.from_bytes(sent[:4], "big"))
    return np.flatnonzero(bits)


@dataclass(frozen=True)
class Arrays:
    """What `similar_items` answers from, of the live run, by position: see `ml.answering`.

    `heads` are how products begin as items over HTTP, and `images` SHA-256; `embeddings` int16 (n, d) in units of
    2⁻¹¹; of shortlists all `items` int32, their `ends` int64 (n + 1,) and `filled_at` int16 (n, w); of the cells their
    `members` bool (c, b), `depths` int32 (c,), and the `widest` int32 (w,).
    """

    heads: list[str]
    images: list[bytes]
    embeddings: np.ndarray
    items: np.ndarray
    ends: np.ndarray
    filled_at: np.ndarray
    members: np.ndarray
    depths: np.ndarray
    widest: np.ndarray


def arrays(connection: psycopg.Connection, limit_s: float) -> tuple[Copied, Arrays] | None:
    """The live run and its arrays, all of one run; None where no run is live, or one by the best pair of images.

    Raises:
        UserError: its layout is an earlier release's.
    """
    with one_run(connection):
        connection.execute("SELECT set_config('statement_timeout', %s, true)", (f"{int(1000 * limit_s)}ms",))
        copy = _copied(connection)
        if copy is None:
            return None
        if connection.execute("SELECT lookalike.run_by_best_pair(%s)", (copy.run_id,)).fetchone() == (True,):
            return None
        n = len(copy.products)
        if not n:
            raise UserError(
                f"run {copy.run} was published by an earlier release", where="the store", remedy="publish another"
            )
        heads, images, embeddings = [], [], []
        for head, image, vector in _rows_of(connection, "run_vectors", copy.run_id):
            heads.append(head)
            images.append(image)
            embeddings.append((_vector(vector) * 2048).astype(np.int16))
        items, filled = [], []
        for narrow, shortlist, filled_at in _rows_of(connection, "run_shortlists", copy.run_id):
            items.append(
                _elements(shortlist, "i2" if narrow else "i4").astype(np.int32) + (NARROW // 2 if narrow else 0)
            )
            filled.append(_elements(filled_at, "i2").astype(np.int16))
        cells = list(_rows_of(connection, "run_cells", copy.run_id))
    members = np.zeros((len(cells), len(copy.starts) - 1), bool)
    for number, (bits, *_) in enumerate(cells):
        members[number, _ones(bits)] = True
    by_place = sorted((nth, number) for number, (_, _, is_widest, nth) in enumerate(cells) if is_widest)
    return copy, Arrays(
        heads,
        images,
        np.stack(embeddings),
        np.concatenate(items),
        np.cumsum([0, *map(len, items)]),
        np.stack(filled),
        members,
        np.array([depth for _, depth, _, _ in cells], np.int32),
        np.array([number for _, number in by_place], np.int32),
    )


def _rows_of(connection: psycopg.Connection, function: str, run_id: int) -> Iterator[tuple[Any, ...]]:
    """Rows of one of the functions about a run, a few thousand in memory at a time."""
    with connection.cursor(function, binary=True) as cursor:
        cursor.itersize = BATCH
        cursor.execute(sql.SQL("SELECT * FROM {}(%s)").format(_table(function)), (run_id,))
        yield from cursor


def _elements(sent: bytes, kind: str) -> np.ndarray:
    """The elements of an array as `array_send` writes it: a head, then of each its length and itself."""
    if len(sent) <= 20:  # no dimension
        return np.empty(0, kind)
    return np.frombuffer(sent, np.dtype([("length", ">i4"), ("element", f">{kind}")]), offset=20)["element"]


# Keys -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A key of the HTTP server; the key itself is not stored."""

    key_id: str
    name: str
    added_at: datetime.datetime
    revoked_at: datetime.datetime | None


def add_key(connection: psycopg.Connection, key_id: str, name: str, sha256: bytes) -> None:
    """Store a key by the SHA-256 of its text."""
    connection.execute(
        "INSERT INTO lookalike.api_keys (key_id, name, sha256) VALUES (%s, %s, %s)", (key_id, name, sha256)
    )


def keys(connection: psycopg.Connection) -> list[Key]:
    """All keys, the newest first."""
    cursor = connection.cursor(row_factory=class_row(Key))
    query = "SELECT key_id, name, added_at, revoked_at FROM lookalike.api_keys ORDER BY added_at DESC, key_id"
    return cursor.execute(query).fetchall()


def revoke_key(connection: psycopg.Connection, key_id: str) -> None:
    """End a key; servers know within seconds.

    Raises:
        UserError: there is no such key, or it has ended already.
    """
    query = "UPDATE lookalike.api_keys SET revoked_at = clock_timestamp() WHERE key_id = %s AND revoked_at IS NULL"
    if connection.execute(query, (key_id,)).rowcount != 1:
        raise UserError(
            f"there is no key {key_id} to revoke", where="the store", remedy="`lookalike key list` shows the keys"
        )
