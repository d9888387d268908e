"""What steps that train on images share: the images of the lake as samples, and a folder for checkpoints."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, MutableMapping
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
from jobs.stored import CURRENT, images_table
from ml import images

if TYPE_CHECKING:
    from ml.finetune import Checkpoints, Samples


def samples(run: Run, hashes: pa.ChunkedArray, size: tuple[int, int], target: Callable[[np.ndarray], Any]) -> Samples:
    """The stored images with these SHA-256 as samples of height and width `size`, read a few parts at a time.

    Raises:
        UserError: an image is not stored.
    """
    from ml import finetune  # imports Keras: seconds, which a step only spends once it trains

    table = images_table(run)
    parts, places = _locate(run, table, hashes)

    @lru_cache(maxsize=finetune.PARTS)
    def stored(part: int) -> pa.ChunkedArray:
        return table.read_part(table.parts[part], ["bytes"], CURRENT)["bytes"]

    def load(chosen: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(chosen), *size, 3), np.uint8)
        for part in np.unique(parts[chosen]):
            of_part = np.flatnonzero(parts[chosen] == part)
            files = stored(int(part)).take(places[chosen[of_part]]).to_pylist()
            pixels[of_part] = [images.load(data, *size) for data in files]
        return pixels

    return finetune.Samples(parts, load, target)


def _locate(run: Run, table: Table, hashes: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each image is stored: number of its part and row within it, int (n,) each."""
    stored = [table.read_part(part, ["image_sha256"], CURRENT)["image_sha256"].to_pylist() for part in table.parts]
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
def checkpoints(settings: Settings, name: str) -> Iterator[Checkpoints]:
    """The checkpoints of one training, in a folder that is kept if the block fails and removed when it is done.

    What was trained belongs to the block until it is committed: else a commit that fails takes the training with it.

    Raises:
        TransientError: another process on this machine works on the same training.
    """
    folder = settings.scratch / name
    settings.scratch.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{name}.lock"), f"another process does the same training, in {folder}"):
        yield _Folder(folder)
        if folder.exists():
            shutil.rmtree(folder)


@contextmanager
def _locked(path: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock, whose file is there while somebody does. Raises TransientError, saying `otherwise`, if another does.

    A file that was removed between opening and locking it is nobody's lock any more: the one of that name now is.
    """
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TransientError(otherwise) from None
            if not _is_at(path, file.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class _Folder(MutableMapping[int, dict[str, np.ndarray]]):
    """Checkpoints in files, one an epoch, each of which appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _file(self, epoch: int) -> Path:
        return self._path / f"epoch-{epoch:04d}.npz"

    def __getitem__(self, epoch: int) -> dict[str, np.ndarray]:
        if not self._file(epoch).exists():
            raise KeyError(epoch)
        with np.load(self._file(epoch), allow_pickle=False) as arrays:
            return dict(arrays)

    def __setitem__(self, epoch: int, arrays: dict[str, np.ndarray]) -> None:
        self._path.mkdir(exist_ok=True)
        unfinished = self._path / "unfinished"
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._file(epoch))

    def __delitem__(self, epoch: int) -> None:
        self._file(epoch).unlink()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(file.stem.removeprefix("epoch-")) for file in self._path.glob("epoch-*.npz")))

    def __len__(self) -> int:
        return len(list(iter(self)))
