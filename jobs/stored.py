"""The stored images of a run: those rows of the table `images` that this release's recipe made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.lake import Table
from jobs.run import Run
from ml import images
from ml.ground import white
from ml.images import THUMBNAIL_SIDE

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
    return dict(iter_images(run, hashes))


def iter_images(run: Run, hashes: list[str]) -> Iterator[tuple[str, bytes]]:
    """SHA-256 and bytes of stored images, each once, of a file of the table at a time."""
    wanted, table = pa.array(sorted(set(hashes)), pa.string()), images_table(run)
    for part in table.parts:
        rows = table.read_part(part, ["image_sha256", "bytes"], CURRENT & pc.field("image_sha256").isin(wanted))
        yield from zip(rows["image_sha256"].to_pylist(), rows["bytes"].to_pylist(), strict=True)


def is_on_white(run: Run) -> bool:
    """Whether most of the run's main images show what they show on white ground."""
    hashes, found = run.products(["image_sha256"])["image_sha256"], [b""]
    table = images_table(run)
    for part in table.parts:
        rows = table.read_part(part, ["image_sha256", "thumbnail"], CURRENT)
        found += rows.filter(pc.is_in(rows["image_sha256"], value_set=hashes))["thumbnail"].to_pylist()
    return white.are_on_white(np.frombuffer(b"".join(found), np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))


def sample_images(run: Run, count: int, files: int = 8) -> list[bytes]:
    """Bytes of up to `count` of the run's main images, alike from `files` files of the table, more where these lack.

    The same run gives the same images: files are named by hashes.
    """
    hashes, table, chosen = run.products(["image_sha256"])["image_sha256"], images_table(run), list[bytes]()
    files = min(files, len(table.parts))
    for place, part in enumerate(table.parts, 1):
        if len(chosen) == count:
            break
        rows = table.read_part(part, ["image_sha256", "bytes"], CURRENT)
        rows = rows.filter(pc.is_in(rows["image_sha256"], value_set=hashes)).sort_by("image_sha256")
        chosen += rows["bytes"].slice(0, count * min(place, files) // files - len(chosen)).to_pylist()
    return chosen


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
