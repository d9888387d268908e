"""The stored images of a run: those rows of the table `images` that this release's recipe made."""

from __future__ import annotations

import numpy as np
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


def measure_detail(table: Table, hashes: pa.Array) -> tuple[int, int] | None:
    """`ml.images.detail_of` the images in `table` with these SHA-256, as they are stored; None: there is none."""
    sizes = [np.empty((0, 2), np.int32)]
    for part in table.parts:
        rows = table.read_part(part, ["image_sha256", "height", "width"], CURRENT)
        rows = rows.filter(pc.is_in(rows["image_sha256"], value_set=hashes))
        sizes.append(np.column_stack([rows["height"], rows["width"]]))
    return images.detail_of(*np.concatenate(sizes).T)


def detail_of(run: Run, step: str = "catalog") -> tuple[int, int] | None:
    """The detail that a step told of the run's images; None where it did not, as an earlier release.

    That of catalog is what they show, that of embed what they were brought down to.
    """
    told = run.result(step).figures.get("detail")
    if not isinstance(told, list | tuple):
        return None
    height, width = told
    return int(height), int(width)
