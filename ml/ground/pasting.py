"""Garments cut from catalogue pictures, and pasted on other grounds: photos of which the garment's mask is known."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

RATIO = 4 / 3
"""Height by width of a catalogue picture that was squashed to a square."""
WHITE, SPECK = 240, 0.002
"""Least value of all channels that counts as white ground where it reaches the border, and the share of a picture that
a part which does not belong to the garment stays below."""
COVERED = (0.02, 0.9)
"""Share of a picture that is a garment's, where its ground is white and was found."""
LONG_SIDE = 256
"""Of the photos that are put together, in pixels."""
ASPECTS = (3 / 4, 3 / 4, 1.0, 4 / 3, 9 / 16)
"""Width by height of photos."""
SIZES, TURN, OFF, EV = (0.3, 0.95), 25, 0.2, 1.3
"""Of a pasted garment: share of the photo's height or width, degrees, share of the photo off its middle, light."""
SCALES = (2, 5, 12, 40, 120)
"""Pixels of the grains of a drawn ground."""
SHADOW, NOISE, BLURRED, COMPRESSED = 0.4, 8.0, 0.4, 0.7
"""Share of garments that cast a shadow, levels of noise at most, and shares of blurred and of compressed photos."""
CLOSER = 0.5
"""Share of photos of which only a frame around the garment is seen, as once it has been found."""
MARGINS = (0.02, 0.35)
"""Of such a frame, a side, in shares of the garment's."""


def cut(data: bytes) -> Image.Image:
    """The garment of a catalogue picture, RGBA, in the picture's own proportions and no larger than it is."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.resize((picture.width, round(picture.width * RATIO)), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    garment = covered(pixels)
    if not garment.any():
        garment[:] = True
    alpha = np.clip(2 * ndimage.gaussian_filter(garment.astype(np.float32), 1) - 0.9, 0, 1)  # edges are half white
    rows, columns = np.flatnonzero(garment.any(axis=1)), np.flatnonzero(garment.any(axis=0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return Image.fromarray(np.dstack([pixels, (255 * alpha).astype(np.uint8)])).crop(box)


def covered(pixels: np.ndarray) -> np.ndarray:
    """Which pixels of a picture, uint8 (h, w, 3), aren't of its white ground, bool (h, w)."""
    parts, _ = ndimage.label(pixels.min(axis=2) >= WHITE)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    garment = ~np.isin(parts, border[border > 0])
    parts, _ = ndimage.label(garment)
    sizes = np.bincount(parts.ravel())
    return garment & (sizes[parts] >= SPECK * garment.size)


def is_cut(garment: Image.Image, of: int) -> bool:
    """Whether `cut` found a ground and something on it, in a picture of so many pixels."""
    share = float(np.asarray(garment.getchannel("A")).sum()) / 255 / of
    return COVERED[0] <= share <= COVERED[1]


def lit(photo: Image.Image, ev: float) -> Image.Image:
    """A photo in so many times twice the light, by the transfer function of sRGB (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) * 2**ev
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return photo.point(np.rint(255 * encoded).astype(int).tolist() * 3)


def draw_ground(size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A ground of some colour, shaded and grained at several scales, of a width and height in pixels."""
    width, height = size
    pixels = np.full((height, width, 3), random.uniform(0, 255, 3) if random.random() < 0.5 else random.uniform(0, 255))
    for scale in SCALES:
        channels = 3 if random.random() < 0.3 else 1
        grains = random.normal(size=(max(2, height // scale), max(2, width // scale), channels))
        grains *= random.uniform(0, 40) * random.random()
        for channel in range(3):
            layer = Image.fromarray(grains[..., channel % channels].astype(np.float32))
            pixels[..., channel] += np.asarray(layer.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def enlarge_part(picture: Image.Image, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A part of another picture as a ground of a width and height in pixels, tinted."""
    scale = random.uniform(0.2, 0.6) * min(picture.width / size[0], picture.height / size[1])
    width, height = scale * size[0], scale * size[1]
    x, y = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
    part = picture.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
    return Image.fromarray((np.asarray(part) * random.uniform(0.4, 1, 3)).astype(np.uint8))


def photo_size(random: np.random.Generator) -> tuple[int, int]:
    """Width and height of a photo to put together."""
    aspect = ASPECTS[random.integers(len(ASPECTS))]
    return (round(LONG_SIDE * min(1, aspect)), round(LONG_SIDE * min(1, 1 / aspect)))


def paste(
    garment: Image.Image, ground: Image.Image, side: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A photo of a garment, RGBA, on a ground, RGB, squashed to a square of `side` pixels.

    Returns:
        The photo, uint8 (side, side, 3), and how much of each pixel is the garment's, uint8 (side, side).
    """
    size = ground.size
    scale = random.uniform(*SIZES) * min(size[0] / garment.width, size[1] / garment.height)
    fitted = (max(2, round(scale * garment.width)), max(2, round(scale * garment.height)))
    if random.random() < 0.5:
        garment = garment.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = garment.convert("RGBa").resize(fitted, Image.Resampling.BICUBIC)  # premultiplied: edges stay clean
    turned = turned.rotate(random.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True).convert("RGBA")
    x, y = (along * (0.5 + random.uniform(-OFF, OFF)) for along in size)
    corner = (round(x - turned.width / 2), round(y - turned.height / 2))
    mask, photo = Image.new("L", size), ground.copy()
    mask.paste(turned.getchannel("A"), corner)
    if random.random() < SHADOW:
        photo = _shaded(photo, mask, random)
    photo.paste(turned, corner, turned)
    photo = _degraded(lit(photo, random.uniform(-EV, EV)), random)
    box = _frame(mask, random) if random.random() < CLOSER else (0, 0, *size)
    return tuple(  # type: ignore[return-value]
        np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box)) for image in (photo, mask)
    )


def _shaded(photo: Image.Image, mask: Image.Image, random: np.random.Generator) -> Image.Image:
    """A photo with the soft shadow of what a mask covers."""
    shadow = mask.filter(ImageFilter.GaussianBlur(random.uniform(2, 12)))
    shifted = np.roll(np.asarray(shadow), random.integers(-8, 9, 2), axis=(0, 1)) / 255
    darker = 1 - random.uniform(0.1, 0.6) * shifted[..., None]
    return Image.fromarray((np.asarray(photo) * darker).astype(np.uint8))


def _degraded(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    if random.random() < BLURRED:
        photo = photo.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.5)))
    noise = random.normal(scale=random.uniform(0, NOISE), size=(photo.height, photo.width, 3))
    photo = Image.fromarray(np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8))
    if random.random() < COMPRESSED:
        out = io.BytesIO()
        photo.save(out, "JPEG", quality=int(random.integers(25, 95)))
        photo = Image.open(out).convert("RGB")
    return photo


def _frame(mask: Image.Image, random: np.random.Generator) -> tuple[float, float, float, float]:
    """A frame around what a mask covers, inside it."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    a, b, c, d = random.uniform(*MARGINS, 4) * [right - left, bottom - top, right - left, bottom - top]
    return max(0, left - a), max(0, top - b), min(mask.width, right + c), min(mask.height, bottom + d)
