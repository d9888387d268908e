"""Likenesses of catalogue pictures, as photos of the products show them: turned, lit, framed otherwise, less sharp."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from ml.ground.pasting import covered, lit

PHOTOGRAPHED = 0.6
"""Share of likenesses that are turned, lit and framed anew; the others are the same picture, less sharp."""
TURN, EV, SIZES, OFF = 15, 1.0, (0.75, 1.1), 0.06
"""Degrees, light, size by the picture's own, share of a side off its place."""
SMALLER, SHORTEST = 0.4, 40
"""Least share of the size that a likeness is made of, and the least pixels on its short side."""
BLURRED, BLUR = 0.4, (0.2, 0.9)
COMPRESSED, QUALITY = 0.8, (30, 96)
"""Shares of likenesses that are blurred and compressed, pixels of the blur's radius, and the JPEG's quality."""
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def liken(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """A likeness of an RGB picture; of the same size, or smaller."""
    if random.random() < PHOTOGRAPHED:
        picture = _photographed(picture, random)
    least = min(1.0, max(SMALLER, SHORTEST / min(picture.size)))
    scale = random.uniform(least, 1)
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    picture = picture.resize(size, FILTERS[random.integers(len(FILTERS))])
    if random.random() < BLURRED:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(*BLUR)))
    if random.random() < COMPRESSED:
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=int(random.integers(*QUALITY)))
        picture = Image.open(out).convert("RGB")
    return picture


def _photographed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """What a picture shows in another light, turned, and framed otherwise; white ground stays white."""
    pixels = np.asarray(picture)
    mask = Image.fromarray(255 * covered(pixels).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))
    bright = lit(picture, random.uniform(-EV, EV))
    scale = random.uniform(*SIZES)
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    angle = random.uniform(-TURN, TURN)
    turned, kept = (
        image.resize(size, Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BICUBIC) for image in (bright, mask)
    )
    x, y = random.uniform(-OFF, OFF, 2) * picture.size
    framed = Image.new("RGB", picture.size, "white")
    framed.paste(turned, (round((picture.width - size[0]) / 2 + x), round((picture.height - size[1]) / 2 + y)), kept)
    return framed
