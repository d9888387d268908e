"""An article cut out of a photo, as a catalogue would show it: alone, upright, on white."""

from __future__ import annotations

import numpy as np

from ml.look.articles import Box

MARGIN = 0.04
"""Of a box's sides, left around it: boxes are seldom exact."""
ASPECT, FILLED = 3 / 4, 0.9
"""Width by height of the picture, that of most catalogues', and the share of it that the article takes one way."""
COVERED_LEAST = 0.1
"""Least share of a box that is the person's; a mask that leaves less has missed the article."""
WHITE = 255


def crop(image: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """The part of a photo inside a box, without its background.

    Args:
        image: uint8 (h, w, 3).
        mask: uint8 (h, w), how surely a pixel is the person's.
        box: in pixels.

    Returns:
        uint8 (H, W, 3) with `ASPECT`.
    """
    rows, columns = _slices(box, *image.shape[:2])
    part, kept = image[rows, columns], mask[rows, columns, None].astype(np.float32) / 255
    if kept.mean() >= COVERED_LEAST:
        part = np.rint(kept * part + (1 - kept) * WHITE).astype(np.uint8)
    height, width = part.shape[:2]
    whole = max(height, width / ASPECT) / FILLED
    picture = np.full((round(whole), round(whole * ASPECT), 3), WHITE, np.uint8)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    picture[top : top + height, left : left + width] = part
    return picture


def _slices(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a box with its margin, one of each at least, inside a photo."""
    left, top, right, bottom = box
    across, down = MARGIN * (right - left), MARGIN * (bottom - top)
    first_row, first_column = (
        min(max(0, int(start)), size - 1) for start, size in ((top - down, height), (left - across, width))
    )
    rows = slice(first_row, max(first_row + 1, min(height, round(bottom + down))))
    return rows, slice(first_column, max(first_column + 1, min(width, round(right + across))))
