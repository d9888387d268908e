"""Image files → uint8 (h, w, 3): what users' catalogues hold, within limits, each failure with a named reason."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Decoders that may run on users' bytes; Pillow has many more, rarely used and less tested."""
MAX_PIXELS = 64_000_000
LONG_SIDE = 512
"""Largest side of a stored image, in pixels."""
_ORIENTATION = 0x0112  # EXIF tag


class ImageError(ValueError):
    """A file that gives no image. `reason` is one of `empty`, `not an image`, `too many pixels`, `damaged`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The first frame of an image file, upright, in RGB, transparent parts on white: uint8 (h, w, 3).

    Raises:
        ImageError: the bytes give no image within the limits.
    """
    return np.asarray(_rgb(_open(data, max_pixels)))


def load(data: bytes, height: int, width: int) -> np.ndarray:
    """`decode`, then resized (bilinear) to uint8 (height, width, 3). Raises ImageError."""
    return np.asarray(_rgb(_open(data, MAX_PIXELS)).resize((width, height), Image.Resampling.BILINEAR))


def normalise(data: bytes, long_side: int = LONG_SIDE) -> tuple[bytes, int, int]:
    """What the lake stores of an image file: its bytes, width and height in pixels.

    A plain image within `long_side` keeps its bytes; any other becomes an RGB JPEG (quality 95, no chroma subsampling)
    of at most `long_side` pixels on the long side.

    Raises:
        ImageError: the bytes give no image within the limits.
    """
    image = _open(data, MAX_PIXELS)
    plain = image.format in ("JPEG", "PNG", "WEBP") and image.mode in ("RGB", "L") and _is_plain(image)
    if plain and max(image.size) <= long_side:
        return data, *image.size
    image = _rgb(image)
    image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue(), *image.size


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The decoded first frame, in the file's own mode."""
    if not data:
        raise ImageError("empty", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageError("too many pixels", f"{image.width} × {image.height}, at most {max_pixels:,} pixels")
        image.load()
    except UnidentifiedImageError:
        raise ImageError("not an image", f"no {', '.join(FORMATS)}; it begins with {data[:8]!r}") from None
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels", str(error)) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError("damaged", str(error)) from None  # Pillow's decoders raise all of these on damaged bytes
    return image


def _is_plain(image: Image.Image) -> bool:
    """Whether the pixels are as stored: not rotated by EXIF, not transparent, not animated."""
    rotated = image.getexif().get(_ORIENTATION, 1) != 1
    return not (rotated or "transparency" in image.info or getattr(image, "is_animated", False))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and _is_plain(image):
        return image
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit greyscale
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")
