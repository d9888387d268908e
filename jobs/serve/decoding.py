"""A photo → the pixels that models take, in a process of its own: where a decoder crashes, one answer is lost.

The process reads photos from its input, one at a time, and writes arrays to its output. It holds no connection and no
key, can open no file and no socket, and has bounded memory; whoever started it ends it where a photo takes too long.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image

from infra.privacy import keep_to_itself
from ml import images
from ml.ground import white
from ml.images import LONG_SIDE, ImageError

MEMORY = 3 * 2**30
"""Address space that the process may take, in bytes: a photo of 64 megapixels with transparency takes a third."""
LIMIT_S = 15.0
"""Longest that a photo may take."""
SAID_MAX = 65_536
"""Most bytes in which the process says what is wrong with a photo."""
_LENGTH = struct.Struct("!II")
THUMBNAIL, PHOTO = "thumbnail", "photo"
"""Names of pixels beside those of sizes: what tells the picture, and a photo that isn't on white, as it is stored."""
Size = tuple[int, int]
Sizes = Mapping[str, Size]
_Read = TypeVar("_Read")
_UNLIKE_IT = (OSError, EOFError, ValueError, LookupError, TypeError)
"""What comes of it where the process ended, or says what nobody wrote it to say."""


class DecoderEndedError(Exception):
    """The process ended at a photo, or had to be ended."""


def pixels(photo: bytes, limit: int, sizes: Sizes, detail: Size | None = None) -> dict[str, np.ndarray]:
    """Pixels of each size (height, width), uint8 (h, w, 3), as the catalogue would have them of this photo.

    A large JPEG is decoded at a reduced size, which is faster and differs by a few of 255 at most. No more of it than
    `detail` is looked at, as `ml.images.load` has it. `THUMBNAIL` tells the picture (`ml.pictures`), and a photo that
    is not on white ground comes as `PHOTO`, too, of `ml.images.LONG_SIDE` pixels at most.

    Raises:
        ImageError: the bytes, of which at most `limit` may be, give no image.
    """
    fitted, thumbnail, whole = images.views(normalised(photo, limit), sizes, detail)
    beside = {} if white.is_on_white(whole) else {PHOTO: whole}
    return {**fitted, THUMBNAIL: thumbnail, **beside}


def normalised(photo: bytes, limit: int) -> bytes:
    """A photo of at most `limit` bytes, as the catalogue would store it. Raises ImageError where it is none."""
    _check_size(photo, limit)
    return images.normalise(photo, draft=True)[0]


def within(photo: bytes, limit: int, long_side: int) -> np.ndarray:
    """The pixels of a photo of at most `limit` bytes, uint8 (h, w, 3), at most `long_side` on its long side.

    Raises:
        ImageError: the bytes give no image.
    """
    _check_size(photo, limit)
    return images.within(photo, long_side)


def _check_size(photo: bytes, limit: int) -> None:
    if len(photo) > limit:
        raise ImageError("file too large", f"more than {limit:,} bytes (LOOKALIKE_IMAGE_MAX_BYTES)")


class Decoder:
    """The process, started when it is needed. For several threads, one photo at a time."""

    def __init__(self, limit: int, sizes: Sizes, detail: Size | None) -> None:
        """Of photos of at most `limit` bytes; `sizes` and `detail` as `pixels` has them."""
        self.wanted = (dict(sizes), detail)
        self._question = {"limit": limit, "sizes": sizes, "detail": detail}
        self._shapes = {**sizes, THUMBNAIL: (images.THUMBNAIL_SIDE, images.THUMBNAIL_SIDE)}
        self._most = SAID_MAX + sum(3 * height * width for height, width in [*self._shapes.values(), (LONG_SIDE,) * 2])
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __call__(self, photo: bytes) -> dict[str, np.ndarray]:
        """As `pixels`.

        Raises:
            ImageError: the bytes give no image.
            DecoderEndedError: the process ended, or took too long.
        """
        return self._decoded(self._question, photo, self._most, self._arrays)

    def within(self, photo: bytes, long_side: int) -> np.ndarray:
        """As the function `within`. Raises as `__call__` does."""
        question = {"limit": self._question["limit"], "long_side": long_side}
        most = SAID_MAX + 3 * long_side**2
        return self._decoded(question, photo, most, lambda told, data: _picture(told["shape"], data, long_side))

    def _decoded(
        self, question: Mapping[str, Any], photo: bytes, most: int, read: Callable[[Mapping[str, Any], bytes], _Read]
    ) -> _Read:
        with self._lock:
            process = self._alive()
            watch = threading.Timer(LIMIT_S, process.kill)
            watch.start()
            try:
                _write(process.stdin, json.dumps(question).encode(), photo)  # type: ignore[arg-type]
                head, data = _read(process.stdout, most)  # type: ignore[arg-type]
                told = json.loads(head)
                if "reason" not in told:
                    return read(told, data)
            except _UNLIKE_IT:
                self.close()
                raise DecoderEndedError from None
            finally:
                watch.cancel()
        raise ImageError(str(told["reason"]), str(told["detail"]))

    def _arrays(self, told: Mapping, data: bytes) -> dict[str, np.ndarray]:
        arrays, at, shapes = {}, 0, self._shapes
        if PHOTO in told:
            height, width = told[PHOTO]
            if not (0 < int(height) <= LONG_SIDE and 0 < int(width) <= LONG_SIDE):
                raise ValueError
            shapes = {**shapes, PHOTO: (int(height), int(width))}
        for name, (height, width) in shapes.items():
            size = 3 * height * width
            arrays[name] = np.frombuffer(data, np.uint8, size, at).reshape(height, width, 3)
            at += size
        return arrays

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            env = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
            env["OPENBLAS_NUM_THREADS"] = "1"
            root = Path(__file__).resolve().parents[2]
            env["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [env.get("PYTHONPATH")])])
            command = [sys.executable, "-m", "jobs.serve.decoding"]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env)
        return self._process

    def start(self) -> None:
        """Have the process there before the first photo comes."""
        with self._lock:
            self._alive()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _picture(shape: Sequence[int], data: bytes, long_side: int) -> np.ndarray:
    """A picture of this height and width. Raises ValueError where it is none of at most `long_side` pixels a side."""
    height, width = shape
    if not (1 <= height <= long_side and 1 <= width <= long_side):
        raise ValueError(shape)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _write(stream: BinaryIO, head: bytes, data: bytes) -> None:
    stream.write(_LENGTH.pack(len(head), len(data)))
    stream.write(head)
    stream.write(data)
    stream.flush()


def _read(stream: BinaryIO, most: int) -> tuple[bytes, bytes]:
    lengths = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if sum(lengths) > most:
        raise EOFError
    head, data = (_exactly(stream, length) for length in lengths)
    return head, data


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def main() -> None:
    """Decode what comes, until the input ends."""
    keep_to_itself()
    _load_decoders()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # which would hold the photo
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # what is open stays so, and nothing else can be opened
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            head, photo = _read(stdin, 2**33)
        except EOFError:
            return
        _write(stdout, *_decoded(json.loads(head), photo))


def _load_decoders() -> None:
    """Load what is else loaded with the first image of a kind, when no file can be opened any more."""
    Image.init()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for kind in images.FORMATS:
        out = io.BytesIO()
        Image.new("RGB", (16, 16)).save(out, kind, exif=exif)
        pixels(out.getvalue(), len(out.getvalue()), {"": (8, 8)})


def _decoded(question: Mapping, photo: bytes) -> tuple[bytes, bytes]:
    try:
        if "long_side" in question:
            image = within(photo, question["limit"], question["long_side"])
            return json.dumps({"shape": image.shape[:2]}).encode(), image.tobytes()
        sizes = {name: tuple(size) for name, size in question["sizes"].items()}
        found = pixels(photo, question["limit"], sizes, question["detail"])
    except ImageError as error:
        return json.dumps({"reason": error.reason, "detail": error.detail}).encode(), b""
    except MemoryError:
        return json.dumps({"reason": "too many pixels", "detail": "it takes too much memory"}).encode(), b""
    told = {PHOTO: found[PHOTO].shape[:2]} if PHOTO in found else {}
    return json.dumps(told).encode(), b"".join(array.tobytes() for array in found.values())


if __name__ == "__main__":
    main()
