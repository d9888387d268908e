"""The trained embedders of a lake: the champion, the one that a run was made with, and the table of them all."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import structlog

from infra.errors import StaleError, UserError
from infra.lake import Lake, Table
from jobs.run import Run
from ml import embedding

EMBEDDERS = pa.schema(
    [
        ("number", pa.int64()),
        ("sha256", pa.string()),
        ("file", pa.string()),
        ("base", pa.string()),
        ("tuned", pa.string()),
        ("model", pa.string()),
        ("run", pa.string()),
        ("judged", pa.string()),
        ("history", pa.string()),
        ("promoted", pa.bool_()),
        ("catalogue", pa.string()),
        ("training", pa.string()),
        ("release", pa.string()),
        ("settings", pa.string()),
        ("reason", pa.string()),
    ]
)
"""The table of trained embedders, oldest first by `number`.

`model` is the fingerprint of the backbone they take features of, `base` that of the backbone as the settings have it,
and `tuned` the SHA-256 of the weights that were tuned from it, or empty. They learnt from the products of `run`, whose
content is `catalogue`, under `settings` (JSON), by `release`; `training` is the fingerprint of all that, null where a
person chose; `reason` is why the row is promoted or not. Columns that an earlier release did not write are null.
"""
TRIES = 10
"""Of appending a row, when other writers keep coming first: each takes a moment, and comes once a training."""


@dataclass(frozen=True)
class Champion:
    """The embedder in use and the tuned weights of its backbone, SHA-256 each; and that backbone's fingerprint."""

    embedder: str
    model: str
    tuned: str


def find_champion(lake: Lake, base: str) -> Champion:
    """The newest promoted embedder for the backbone with fingerprint `base`; before there is one, the untrained.

    Of one that an earlier release trained and this one cannot apply the weights of the backbone alone count, which the
    log says.

    Raises:
        UserError: the file of the embedder is not what was stored.
    """
    promoted = [row for row in read_rows(lake) if row["promoted"] and row["base"] == base]
    untrained = Champion(embedding.UNTRAINED.fingerprint, base, "")
    newest = promoted[-1] if promoted else None
    if newest is None or newest["sha256"] == untrained.embedder:
        return untrained
    try:
        _stored_embedder(lake, newest["sha256"])
    except embedding.LayoutError as error:
        structlog.get_logger().warning(
            "the champion is passed over until train_embedding trains another", why=str(error)
        )
        return Champion(untrained.embedder, newest["model"], newest["tuned"])
    return Champion(newest["sha256"], newest["model"], newest["tuned"])


def read_rows(lake: Lake, name: str = "embedders", schema: pa.Schema = EMBEDDERS) -> list[dict]:
    """The rows of a table of what was trained, oldest first; None in columns that it does not have yet."""
    return _rows_of(lake.table(name), schema)


def _rows_of(table: Table, schema: pa.Schema) -> list[dict]:
    rows = table.read().to_pylist() if table.version >= 0 else []
    return sorted((dict.fromkeys(schema.names) | row for row in rows), key=lambda row: row["number"])


def append_row(lake: Lake, row: dict, name: str = "embedders", schema: pa.Schema = EMBEDDERS) -> Table:
    """Append a row with the next number, also where other writers come first; returns the version that holds it.

    A table of an earlier release gets its missing columns by that.

    Raises:
        StaleError: others came first, `TRIES` times.
    """
    for _ in range(TRIES):
        table = lake.table(name)
        rows, mode = [row | {"number": table.version + 1}], "append"
        if table.version >= 0 and table.schema.names != schema.names:
            rows, mode = [*_rows_of(table, schema), *rows], "rewrite"
        part = lake.write_part(name, pa.Table.from_pylist(rows, schema=schema))
        try:
            return table.commit([part], schema, run=row["run"], mode=mode)
        except StaleError as error:
            stale = error
    raise stale


def parse_number(text: str) -> int | None:
    """The number in `lookalike champion --use`; None for `untrained`.

    Raises:
        UserError: it is neither.
    """
    if text == embedding.UNTRAINED.fingerprint:
        return None
    if not text.isdecimal():
        raise UserError(f"{text!r} is no embedder", where="--use", remedy="give a number that is listed, or untrained")
    return int(text)


def use(lake: Lake, base: str, number: int | None) -> None:
    """Make an embedder champion of the backbone with fingerprint `base` again, or without number the untrained one.

    Raises:
        UserError: there is none of this number, it is of another backbone, or this release cannot apply it.
    """
    if number is None:
        sha256 = embedding.UNTRAINED.fingerprint
        row = {"sha256": sha256, "file": "", "base": base, "model": base, "tuned": "", "run": ""}
    else:
        row = _usable_row(lake, base, number)
    append_row(lake, row | {"promoted": True, "training": None, "reason": "chosen by hand"})


def _usable_row(lake: Lake, base: str, number: int) -> dict:
    remedy = "see `lookalike champion` for those that there are"
    row = next((row for row in read_rows(lake) if row["number"] == number), None)
    if row is None:
        raise UserError(f"there is no embedder {number}", where="--use", remedy=remedy)
    if row["base"] != base:
        problem = f"embedder {number} takes features of another backbone than the settings ask for"
        raise UserError(
            problem, where="--use", remedy=f"set LOOKALIKE_BACKBONE and its weights as they were, or {remedy}"
        )
    if row["sha256"] != embedding.UNTRAINED.fingerprint:
        try:
            _stored_embedder(lake, row["sha256"])
        except embedding.LayoutError as error:
            raise UserError(str(error), where=f"--use {number}", remedy=remedy) from None
    return row


def read_embedder(run: Run, sha256: str | None = None) -> embedding.Embedder:
    """The embedder with this SHA-256; without one, the run's: the champion when its images were embedded.

    Raises:
        UserError: it is of an earlier release, or its file is not what was stored.
    """
    wanted = sha256 or str(run.result("embed").figures["embedder"])
    if wanted == embedding.UNTRAINED.fingerprint:
        return embedding.UNTRAINED
    try:
        return _stored_embedder(run.lake, wanted)
    except embedding.LayoutError as error:
        raise UserError(
            str(error),
            where=f"run {run.name}",
            remedy=f"run `lookalike step embed --run {run.name}` and the steps after it, or refresh as another run",
        ) from None


def _stored_embedder(lake: Lake, sha256: str) -> embedding.Embedder:
    file = f"embedders/{sha256}.npz"
    try:
        return embedding.from_bytes(lake.read_bytes(file), sha256)
    except ValueError as error:
        raise UserError(
            str(error),
            where=lake.path(file),
            remedy="restore the file from a backup, or go back to another by `lookalike champion --use`",
        ) from None
