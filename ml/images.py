"""Image files → uint8 (h, w, 3): what users' catalogues hold, within limits, each failure with a named reason."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pillow_heif import register_heif_opener

register_heif_opener()  # HEIC; AVIF is Pillow's own
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIF")
"""Decoders that may run on users' bytes; Pillow has many more, rarely used and less tested."""
MAX_PIXELS = 64_000_000
LONG_SIDE = 512
"""Largest side of a stored image, in pixels."""
MAX_KEPT_BYTES = 2**20
"""Largest file that is stored as it is: 512 × 512 pixels take 0.75 MiB raw, so a larger one is mostly metadata."""
KEPT_FORMATS, KEPT_MODES = ("JPEG", "PNG", "WEBP"), ("RGB", "L")
"""Of files that are stored as they are."""
QUALITY, SUBSAMPLING = 95, 0
"""Of the JPEG that any other becomes."""
SHRINKING, FITTING = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR
"""Filters by which a large image becomes a stored one, and a stored one what a model takes."""
COARSENING, DETAILED = Image.Resampling.BOX, 0.95
"""How a photo that shows more than a catalogue's images becomes one like them, and the share of these whose size is the
most that is looked at: where nearly all have one size that is it, and where many are large they are not passed over."""
THUMBNAIL_SIDE, THUMBNAIL_FITTING, THUMBNAIL_GAP = 8, Image.Resampling.BICUBIC, 8.0
"""Of the thumbnail by which a picture is told: pixels a side, filter, and to about how many times its size a larger
image is averaged first, which is faster."""
BACKGROUND = "white"
"""Behind transparent pixels."""
RECIPE: dict[str, object] = {
    "long_side": LONG_SIDE,
    "kept": [MAX_KEPT_BYTES, KEPT_FORMATS, KEPT_MODES],
    "shrinking": SHRINKING.name,
    "jpeg": [QUALITY, SUBSAMPLING],
    "background": BACKGROUND,
}
"""All that decides the pixels of a stored image beside its source. Pillow's version is not of it, as that of no library
is of any fingerprint: its fixed-point filters have given the same pixels for years, and a test watches them."""
DRAFT_MARGIN = 2
"""Times the size wanted that a draft must still have, so that what is left to resize hides how it was made."""
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # value of the EXIF tag → what undoes it (EXIF 2.32, 4.6.4 A); not ImageOps.exif_transpose, which fails on bad EXIF
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error)
"""What Pillow's decoders raise on damaged bytes."""


_PNG = b"\x89PNG\r\n\x1a\n"
_PACKED_MAX = 64
"""Packed texts and profiles of a PNG that are looked at: a file of many more is made to keep its reader busy."""


class ImageError(ValueError):
    """A file that gives no image. `reason` is one of `empty`, `not an image`, `too many pixels`, `damaged`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return ImageError, (self.reason, self.detail)  # as it is told in another process


class Stored(NamedTuple):
    """A stored image: its file's bytes, width and height in pixels, and the thumbnail by which its picture is told."""

    data: bytes
    width: int
    height: int
    thumbnail: bytes


def recipe_hash() -> str:
    """SHA-256 (hex) of `RECIPE`: an image that was stored under another one is to be stored anew."""
    return hashlib.sha256(json.dumps(RECIPE, sort_keys=True).encode()).hexdigest()


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The first frame of an image file, upright, in RGB, transparent parts on white: uint8 (h, w, 3).

    Raises:
        ImageError: the bytes give no image within the limits.
    """
    return np.asarray(_rgb(_open(data, max_pixels)[0]))


def load(data: bytes, height: int, width: int, detail: tuple[int, int] | None = None) -> np.ndarray:
    """`decode`, then resized to uint8 (height, width, 3), whatever its own proportions. Raises ImageError.

    `detail` is the most height and width, in pixels, that is looked at: a larger image is brought down to it first.
    """
    return fit(_rgb(_open(data, MAX_PIXELS)[0]), height, width, detail)


class Views(NamedTuple):
    """`load` in several sizes, the `thumbnail`, uint8 (8, 8, 3), and `decode`, of one image."""

    fitted: dict[str, np.ndarray]
    thumbnail: np.ndarray
    decoded: np.ndarray


def views(data: bytes, sizes: Mapping[str, tuple[int, int]], detail: tuple[int, int] | None = None) -> Views:
    """An image in several sizes (height, width), and as it is. Raises ImageError."""
    image = _rgb(_open(data, MAX_PIXELS)[0])
    small = np.frombuffer(thumbnail(image), np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3)
    return Views({name: fit(image, *size, detail) for name, size in sizes.items()}, small, np.asarray(image))


def fit(image: Image.Image, height: int, width: int, detail: tuple[int, int] | None = None) -> np.ndarray:
    """An RGB image as `load` makes it, uint8 (height, width, 3)."""
    if detail:
        most_height, most_width = detail
        image = image.resize((min(image.width, most_width), min(image.height, most_height)), COARSENING)
    return np.asarray(image.resize((width, height), FITTING))


def detail_of(heights: np.ndarray, widths: np.ndarray) -> tuple[int, int] | None:
    """Height and width that `DETAILED` of n images, int (n,) each, do not exceed; None where there are none."""
    if not len(heights):
        return None
    height, width = (int(np.quantile(sizes, DETAILED, method="inverted_cdf")) for sizes in (heights, widths))
    return height, width


def coarser(own: tuple[int, int] | None, learnt: tuple[int, int] | None) -> tuple[int, int] | None:
    """What images of the detail `own` are brought down to for what has learnt from the detail `learnt`; None: nothing.

    An image that is sharper than any that was learnt from is taken for another thing; one that is less so is as it is.
    """
    if own is None or learnt is None or (own[0] <= learnt[0] and own[1] <= learnt[1]):
        return None
    return learnt


def within(data: bytes, long_side: int) -> np.ndarray:
    """`decode`, then shrunk to at most `long_side` pixels on the long side: uint8 (h, w, 3). Raises ImageError.

    A JPEG is decoded at a reduced size, of which both sides are that long or longer, where it has one.
    """
    image = _rgb(_open(data, MAX_PIXELS, long_side)[0])
    image.thumbnail((long_side, long_side), SHRINKING)
    return np.asarray(image)


def normalise(data: bytes, long_side: int = LONG_SIDE, *, draft: bool = False) -> tuple[bytes, int, int]:
    """What the lake stores of an image file: its bytes, width and height in pixels.

    A plain image within `long_side` and `MAX_KEPT_BYTES` keeps its bytes, a PNG without those that spoil it; any other
    becomes an RGB JPEG (no chroma subsampling, no metadata) of at most `long_side` pixels on the long side.

    With `draft` the decoder itself halves, quarters or eighths a JPEG of which both sides stay `DRAFT_MARGIN` times
    `long_side` or longer: a photo of 12 megapixels takes two thirds of the time or less, and its pixels then differ by
    a few of 255. Any other image gives the same bytes as without. Not for the lake: features are cached under a file's
    hash.

    Raises:
        ImageError: the bytes give no image within the limits.
    """
    stored, image = _normalised(data, long_side, draft)
    return stored, *image.size


def store(data: bytes) -> Stored:
    """What the lake keeps of an image file. Raises ImageError."""
    stored, image = _normalised(data, LONG_SIDE, draft=False)
    return Stored(stored, *image.size, thumbnail(_rgb(image)))


def thumbnail(image: Image.Image) -> bytes:
    """A small RGB image's values, uint8, row by row: `THUMBNAIL_SIDE` pixels a side, of three values each."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return image.resize(size, THUMBNAIL_FITTING, reducing_gap=THUMBNAIL_GAP).tobytes()


def _normalised(data: bytes, long_side: int, draft: bool) -> tuple[bytes, Image.Image]:
    image, data = _open(data, MAX_PIXELS, DRAFT_MARGIN * long_side if draft else 0)
    plain = image.format in KEPT_FORMATS and image.mode in KEPT_MODES and _is_plain(image)
    if plain and max(image.size) <= long_side and len(data) <= MAX_KEPT_BYTES:
        return data, image
    image = _rgb(image)
    image.thumbnail((long_side, long_side), SHRINKING)
    out = io.BytesIO()
    image.save(
        out, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING, comment=b""
    )  # else the comment of a GIF, of any length
    return out.getvalue(), image


def _open(data: bytes, max_pixels: int, draft_side: int = 0) -> tuple[Image.Image, bytes]:
    """The decoded first frame, in the file's own mode, and the bytes that it is of.

    `draft_side` pixels a side suffice, 0: decode all there are. These are `data`, or a PNG's without what spoils it.
    """
    try:
        return _decoded(data, max_pixels, draft_side), data
    except ImageError:
        mended = _without_bad_extras(data)
        if mended == data:
            raise
    return _decoded(mended, max_pixels, draft_side), mended


def _without_bad_extras(data: bytes) -> bytes:
    """A PNG without the ancillary chunks that Pillow refuses the whole file for; any other bytes as they are.

    These are such with a wrong checksum, which any reader drops (PNG specification, 13.2), and packed texts and
    profiles that unpack to more than Pillow takes.
    """
    if not data.startswith(_PNG):
        return data
    kept, at, packed = [_PNG], len(_PNG), 0
    while at + 12 <= len(data):
        length, kind = struct.unpack_from("!I4s", data, at)
        chunk = data[at : at + 12 + length]
        at += len(chunk)
        content = _packed(kind, chunk[8:-4])
        packed += content is not None
        if packed > _PACKED_MAX:
            return data
        ancillary = bool(kind[0] & 0x20)
        wrong = chunk[-4:] != struct.pack("!I", zlib.crc32(chunk[4:-4]))
        if not (ancillary and (wrong or (content is not None and _too_large(content)))):
            kept.append(chunk)
    return b"".join(kept) + data[at:]


def _packed(kind: bytes, body: bytes) -> bytes | None:
    """What is packed in a chunk; None where nothing is."""
    _, _, rest = body.partition(b"\0")
    if kind in (b"zTXt", b"iCCP"):
        return rest[1:]
    if kind == b"iTXt" and rest.startswith(b"\1"):
        return rest[2:].split(b"\0", 2)[-1]
    return None


def _too_large(content: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(content, PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return bool(unpacking.unconsumed_tail)


def _decoded(data: bytes, max_pixels: int, draft_side: int) -> Image.Image:
    if not data:
        raise ImageError("empty", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageError("too many pixels", f"{image.width} × {image.height}, at most {max_pixels:,} pixels")
        if draft_side:
            image.draft(None, (draft_side, draft_side))
        image.load()
    except UnidentifiedImageError:
        raise ImageError("not an image", f"no {', '.join(FORMATS)}; it begins with {data[:8]!r}") from None
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", str(error)) from None
    except ImageError:
        raise
    except _DAMAGE as error:
        raise ImageError("damaged", str(error)) from None
    return image


def _is_plain(image: Image.Image) -> bool:
    """Whether the pixels are as stored: not rotated by EXIF, not transparent, not animated."""
    return not (_orientation(image) in _UPRIGHT or "transparency" in image.info or getattr(image, "is_animated", False))


def _orientation(image: Image.Image) -> object:
    """Value of the EXIF tag; None where there is none or the EXIF is damaged, which leaves the pixels good."""
    try:
        return image.getexif().get(_ORIENTATION)
    except _DAMAGE:
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and _is_plain(image):
        return image
    turn = _UPRIGHT.get(_orientation(image))  # type: ignore[call-overload]
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16-bit greyscale
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")
