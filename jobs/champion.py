"""The trained embedders of a lake: the one in use, and the one that a run was made with."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import structlog

from infra.errors import UserError
from infra.lake import Lake
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
    ]
)
"""The table of trained embedders, oldest first by `number`.

`model` is the fingerprint of the backbone they take features of, `base` that of the backbone as the settings have it,
and `tuned` the SHA-256 of the weights that were tuned from it, or empty.
"""


@dataclass(frozen=True)
class Champion:
    """The embedder in use and the tuned weights of its backbone, SHA-256 each; and that backbone's fingerprint."""

    embedder: str
    model: str
    tuned: str


def find_champion(lake: Lake, base: str) -> Champion:
    """The newest promoted embedder for the backbone with fingerprint `base`; before there is one, the untrained.

    One that an earlier release trained and this one cannot apply counts as none, which the log says.

    Raises:
        UserError: the file of the embedder is not what was stored.
    """
    table = lake.table("embedders")
    rows = (
        table.read(["number", "sha256", "base", "model", "tuned", "promoted"]).to_pylist() if table.version >= 0 else []
    )
    promoted = [row for row in rows if row["promoted"] and row["base"] == base]
    newest = max(promoted, key=lambda row: row["number"], default=None)
    untrained = Champion(embedding.UNTRAINED.fingerprint, base, "")
    if newest is None:
        return untrained
    try:
        _stored_embedder(lake, newest["sha256"])
    except embedding.LayoutError as error:
        structlog.get_logger().warning(
            "the champion is passed over until train_embedding trains another", why=str(error)
        )
        return untrained
    return Champion(newest["sha256"], newest["model"], newest["tuned"])


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
            remedy="restore the file from a backup, or delete its row of the table `embedders` and train again",
        ) from None
