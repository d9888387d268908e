"""The detectors of articles: those that a lake's trainings made, the champion among them, and the one that ships."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from infra.errors import UserError
from infra.lake import Lake
from jobs import extraction
from jobs.champion import read_rows
from ml import backbones

DETECTORS = pa.schema(
    [
        ("number", pa.int64()),
        ("sha256", pa.string()),
        ("file", pa.string()),
        ("run", pa.string()),
        ("photos", pa.string()),
        ("judged", pa.string()),
        ("history", pa.string()),
        ("promoted", pa.bool_()),
        ("training", pa.string()),
        ("release", pa.string()),
        ("settings", pa.string()),
        ("reason", pa.string()),
    ]
)
"""The table of trained detectors, oldest first by `number`.

They learnt from labelled photos whose hash is `photos`, under `settings` (JSON), by `release`; `training` is the
fingerprint of all that. `judged` (JSON) says how each did, `reason` why the row is promoted or not.
"""
SHIPPED = Path(__file__).parent / "weights/articles.npz"
"""The detector that ships with the release, where it has one; its SHA-256 and its card stand beside it."""


def champion(lake: Lake) -> str:
    """SHA-256 of the newest promoted detector of a lake, else of the one that ships; empty where there is neither."""
    promoted = [row["sha256"] for row in read_rows(lake, "detectors", DETECTORS) if row["promoted"]]
    return promoted[-1] if promoted else shipped()


def shipped() -> str:
    """SHA-256 of the detector that ships with the release; empty where none does."""
    told = SHIPPED.with_suffix(".sha256")
    return told.read_text().split()[0] if told.exists() else ""


def read(lake: Lake, sha256: str):  # type: ignore[no-untyped-def]  # → keras.Model
    """The detector with this SHA-256.

    Raises:
        UserError: its file holds another, or one that this release cannot apply.
    """
    from ml import article_network  # imports Keras: seconds, which only who looks for articles spends

    is_shipped, file = sha256 == shipped(), f"detectors/{sha256}.npz"
    try:
        data = SHIPPED.read_bytes() if is_shipped else lake.read_bytes(file)
        return article_network.from_bytes(data, sha256, build_backbone)
    except (ValueError, OSError) as error:
        raise UserError(
            str(error),
            where=str(SHIPPED) if is_shipped else lake.path(file),
            remedy="install the release again" if is_shipped else "restore the file from a backup, or train again",
        ) from None


def build_backbone(name: str, height: int, width: int):  # type: ignore[no-untyped-def]  # → keras.Model
    """A backbone whose weights come in a package.

    Raises:
        UserError: the package is not installed.
    """
    weights = extraction.packaged_weights(name)
    if not weights:
        raise UserError(
            f"no installed package holds weights for {name}, which articles are found with",
            where="the Python environment",
            remedy="install the release with its dependencies (`make setup`)",
        )
    return backbones.BACKBONES[name].build(extraction.read_weights(weights), height, width, "float32")
