"""The lake's images by their SHA-256: bytes as they are stored, or smaller.

In the lake images stand by the thousand in Parquet files, of which one image cannot be read alone. So the files that
are asked for are copied into a folder of `scratch` as Arrow has them in memory, and mapped: all processes of a server,
and those after it, read an image of them at once. Files that were not asked for longest go when the folder is full.
"""

from __future__ import annotations

import io
import os
import re
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.lake import Table
from jobs.run import Run
from jobs.stored import CURRENT, images_table
from ml.images import KEPT_FORMATS

FOLDER = "served-images"
WIDTHS = (120, 240, 480)
QUALITY = 85
OPEN = 128
"""Files that are kept mapped."""
SHRUNK = 4096
"""Smaller images that are kept in memory: some 10 kB each."""
TYPES = {b"\xff\xd8": b"image/jpeg", b"\x89P": b"image/png", b"RI": b"image/webp"}


class Pictures:
    """Images of a run. For several threads."""

    def __init__(self, run: Run, most_bytes: int) -> None:
        """Learn which file holds which image.

        Raises:
            UserError: the lake does not hold the run's images, or an earlier release stored them.
        """
        self._table: Table = images_table(run)
        self._folder, self._most = Path(run.settings.scratch) / FOLDER, most_bytes
        self._parts = self._table.parts
        keys, places = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for number, part in enumerate(self._parts):
            stored = self._table.read_part(part, ["image_sha256"], CURRENT)["image_sha256"].to_pylist()
            keys.append(np.array([_key(sha256) for sha256 in stored], np.uint64))
            places.append(np.full(len(stored), number, np.int32))
        known = np.concatenate(keys)
        order = np.argsort(known, kind="stable")
        self._keys, self._places = known[order], np.concatenate(places)[order]
        self._opened, self._lock = lru_cache(OPEN)(self._open), Lock()
        self._shrunk = lru_cache(SHRUNK)(self._smaller)

    def read(self, sha256: str) -> bytes | None:
        """The bytes of an image; None where the run has none of this SHA-256 (hex)."""
        key = _key(sha256)
        at = int(np.searchsorted(self._keys, key))
        while at < len(self._keys) and self._keys[at] == key:
            images, place = self._opened(self._parts[self._places[at]])
            if sha256 in place:
                return images[place[sha256]].as_buffer().to_pybytes()
            at += 1
        return None

    def smaller(self, sha256: str, width: int) -> bytes | None:
        """The image at most so many pixels wide; one that is not wider as it is."""
        return self._shrunk(sha256, width) or self.read(sha256)

    def _smaller(self, sha256: str, width: int) -> bytes | None:
        """The image made smaller; None where it is not wider, or there is none: what is as stored is mapped anyway."""
        data = self.read(sha256)
        if data is None:
            return None
        image = Image.open(io.BytesIO(data), formats=KEPT_FORMATS)
        if image.width <= width:
            return None
        image.draft("RGB", (2 * width, 2 * width * image.height // image.width))
        height = max(1, round(width * image.height / image.width))
        out = io.BytesIO()
        image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()

    def _open(self, part: str) -> tuple[pa.Array, dict[str, int]]:
        """The images of a file, mapped, and the place of each."""
        path = self._folder / f"{part.removesuffix('.parquet')}.arrow"
        try:
            source = pa.memory_map(str(path))
        except FileNotFoundError:
            with self._lock:
                self._copy(part, path)
            source = pa.memory_map(str(path))
        os.utime(path)
        rows = pa.ipc.open_file(source).read_all()
        place = {sha256: at for at, sha256 in enumerate(rows["image_sha256"].to_pylist())}
        return rows["bytes"].combine_chunks() if rows["bytes"].num_chunks != 1 else rows["bytes"].chunk(0), place

    def _copy(self, part: str, path: Path) -> None:
        if path.exists():
            return
        rows = self._table.read_part(part, ["image_sha256", "bytes"], CURRENT).combine_chunks()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_room(rows.nbytes)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self._folder.glob("*.arrow"))
        size = sum(size for _, size, _ in files) + wanted
        for _, freed, file in files:
            if size <= self._most:
                return
            file.unlink(missing_ok=True)  # whoever has it mapped keeps it
            size -= freed


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 as images are named by."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def media_type(data: bytes) -> bytes:
    """What an image's bytes are."""
    return TYPES.get(data[:2], b"application/octet-stream")


def _key(sha256: str) -> int:
    return int(sha256[:16], 16)
