"""What steps that train on images share: the images of the lake as samples, and a folder for checkpoints."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra.errors import TransientError, UserError
from infra.lake import Table
from infra.settings import Settings
from jobs.run import Run
from ml import images

if TYPE_CHECKING:
    from ml.finetune import Samples


def samples(run: Run, hashes: pa.ChunkedArray, size: tuple[int, int], target: Callable[[np.ndarray], Any]) -> Samples:
    """The stored images with these SHA-256 as samples of height and width `size`, read a few parts at a time.

    Raises:
        UserError: an image is not stored.
    """
    from ml import finetune  # imports Keras: seconds, which a step only spends once it trains

    table = run.table("images")
    parts, places = _locate(run, table, hashes)

    @lru_cache(maxsize=finetune.PARTS)
    def stored(part: int) -> pa.ChunkedArray:
        return table.read_part(table.parts[part], ["bytes"])["bytes"]

    def load(chosen: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(chosen), *size, 3), np.uint8)
        for part in np.unique(parts[chosen]):
            own = np.flatnonzero(parts[chosen] == part)
            files = stored(int(part)).take(places[chosen[own]]).to_pylist()
            pixels[own] = [images.load(data, *size) for data in files]
        return pixels

    return finetune.Samples(parts, load, target)


def _locate(run: Run, table: Table, hashes: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each image is stored: number of its part and row within it, int (n,) each."""
    stored = [part["image_sha256"].to_pylist() for part in table.iter_parts(["image_sha256"])]
    where = {sha: (number, row) for number, part in enumerate(stored) for row, sha in enumerate(part)}
    parts, places = np.array([where.get(sha, (-1, -1)) for sha in hashes.to_pylist()]).reshape(-1, 2).T
    if (parts < 0).any():
        raise UserError(
            f"the images of {int((parts < 0).sum())} products are not stored, such as {hashes[int(parts.argmin())]}",
            where=f"{run.lake.uri}/images",
            remedy=f"run `lookalike step catalog --run {run.name}`",
        )
    return parts, places


@contextmanager
def checkpoints(settings: Settings, name: str) -> Iterator[Path]:
    """The folder of one training's checkpoints, kept if it fails and removed when it is done.

    Raises:
        TransientError: another process on this machine works on the same training.
    """
    folder = settings.scratch / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TransientError(f"another process does the same training, with checkpoints in {folder}") from None
        yield folder
        shutil.rmtree(folder)
