"""What becomes of a photo whose garment has been told from its ground: the garment alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 160
"""Pixels a side of what is looked at for a mask, whatever a photo's proportions."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of a photo."""
Find = Callable[[np.ndarray], np.ndarray]
"""A photo, uint8 (SIDE, SIDE, 3) → how surely each part of it is the garment's, float32 (r, c), 0 to 1."""
SURE = 0.5
"""Of a part of the mask that counts."""
PART = 0.2
"""Share of the largest connected part that another has at least: a pair of shoes is one garment, specks are none."""
SMALLEST, LARGEST = 0.01, 0.95
"""Share of a photo that a garment takes, else the mask is in doubt."""
CLEAR = 0.6
"""Share of all that a mask covers which is the garment's parts', else it is too scattered."""
AROUND = 0.2
"""What a second look has around the garment, in shares of its sides."""
SOFT = 0.25
"""How surely a pixel is the garment's that is half white goes from `SURE` less to `SURE` more than this."""


class _Seen(NamedTuple):
    """What a look at a part of a photo tells: how surely each place is the garment's, others 0, and its box."""

    sure: np.ndarray
    box: Box


def cut_out(photo: Image.Image, find: Find) -> Image.Image | None:
    """The garment of a photo, RGBA, as large as it is there; None where its mask is in doubt.

    A first look tells where it is, a second one, from near by, where it ends.
    """
    frame: Box = (0, 0, *photo.size)
    if seen := _look(photo, frame, find):
        frame = _wider(seen.box, AROUND, photo.size)
        seen = _look(photo, frame, find)
    return _alone(photo, frame, seen) if seen else None


def _look(photo: Image.Image, frame: Box, find: Find) -> _Seen | None:
    sure = find(np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=frame)))
    kept = _garment(sure)
    if kept is None:
        return None
    return _Seen(np.where(ndimage.binary_dilation(kept), sure, 0), _box_of(kept, frame))


def _garment(sure: np.ndarray) -> np.ndarray | None:
    """Which parts are the garment's, bool (r, c), of how surely they are; None where that is in doubt."""
    parts, count = ndimage.label(sure >= SURE)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    kept = np.isin(parts, 1 + np.flatnonzero(sizes >= PART * sizes.max()))
    if not SMALLEST <= kept.mean() <= LARGEST or sure[kept].sum() < CLEAR * sure.sum():
        return None
    return kept


def _box_of(kept: np.ndarray, frame: Box) -> Box:
    left, top, right, bottom = frame
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    high, wide = (bottom - top) / kept.shape[0], (right - left) / kept.shape[1]
    return (
        left + wide * columns[0],
        top + high * rows[0],
        left + wide * (columns[-1] + 1),
        top + high * (rows[-1] + 1),
    )


def _wider(box: Box, share: float, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    across, down = share * (right - left), share * (bottom - top)
    return max(0, left - across), max(0, top - down), min(size[0], right + across), min(size[1], bottom + down)


def _alone(photo: Image.Image, frame: Box, seen: _Seen) -> Image.Image:
    """What was seen in a frame of a photo, RGBA."""
    sure = seen.sure.astype(np.float32)
    left, top, right, bottom = (round(value) for value in seen.box)
    left, top = min(left, photo.width - 1), min(top, photo.height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    scale_x, scale_y = sure.shape[1] / (frame[2] - frame[0]), sure.shape[0] / (frame[3] - frame[1])
    within = (
        max(0, scale_x * (left - frame[0])),
        max(0, scale_y * (top - frame[1])),
        min(sure.shape[1], scale_x * (right - frame[0])),
        min(sure.shape[0], scale_y * (bottom - frame[1])),
    )
    surely = Image.fromarray(sure).resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=within)
    alpha = np.clip((np.asarray(surely) - SURE + SOFT) / (2 * SOFT), 0, 1)
    picture = photo.crop((left, top, right, bottom)).convert("RGB")
    picture.putalpha(Image.fromarray(np.rint(255 * alpha).astype(np.uint8)))
    return picture


def turned(garment: Image.Image, degrees: float) -> Image.Image:
    """A garment, RGBA, turned against the clock; no larger than what is there of it."""
    whole = garment.convert("RGBa")  # premultiplied: edges stay clean
    whole = whole.rotate(degrees, Image.Resampling.BICUBIC, expand=True).convert("RGBA")
    there = whole.getchannel("A").point(lambda alpha: 255 * (alpha >= 128))
    return whole.crop(there.getbbox() or (0, 0, *whole.size))
