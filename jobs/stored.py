"""The stored images of a run: those rows of the table `images` that this release's recipe made."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from infra.lake import Table
from jobs.run import Run
from ml import images

CURRENT = pc.field("recipe") == images.recipe_hash()
"""Which rows of `images` to read. Those of another recipe show the same pictures in other pixels."""


def images_table(run: Run) -> Table:
    """The run's images, to be read where `CURRENT`.

    Raises:
        UserError: an earlier release stored them.
    """
    return run.table("images", "image_sha256", "bytes", "recipe")


def read_images(run: Run, hashes: list[str]) -> dict[str, bytes]:
    """Stored image bytes by SHA-256."""
    read: dict[str, bytes] = {}
    wanted, table = pa.array(sorted(set(hashes)), pa.string()), images_table(run)
    for part in table.parts:
        rows = table.read_part(part, ["image_sha256", "bytes"], CURRENT & pc.field("image_sha256").isin(wanted))
        read |= zip(rows["image_sha256"].to_pylist(), rows["bytes"].to_pylist(), strict=True)
    return read
