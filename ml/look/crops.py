"""An article cut out of a photo, as a catalogue would show it: alone, upright, on white."""

from __future__ import annotations

import numpy as np

from ml.look.articles import Article, Box

MARGIN = 0.04
"""Of a box's sides, left around it: boxes are seldom exact."""
ASPECT, FILLED = 3 / 4, 0.9
"""Width by height of the picture, that of most catalogues', and the share of it that the article takes one way."""
COVERED_LEAST = 0.1
"""Least share of a box that is the person's; a mask that leaves less has missed the article."""
WHITE = 255
DOUBTFUL, CERTAIN = 0.2, 0.5
"""How sure an article's mask is of pixels that are not kept at all, and of those that are kept as they are: its edges
are as coarse as the detector's cells."""
CARRIED = "bag"
"""Its class of article, which no person's outline need hold."""


def crop(image: np.ndarray, outline: np.ndarray, article: Article) -> np.ndarray:
    """The part of a photo that an article is in, without the background, and, if its mask is told, without the rest of
    the person.

    Args:
        image: uint8 (h, w, 3).
        outline: uint8 (h, w), how surely a pixel is the person's.
        article: with its box, and perhaps its mask, in pixels of the photo.

    Returns:
        uint8 (H, W, 3) with `ASPECT`.
    """
    rows, columns = _slices(article.box, *image.shape[:2])
    mask = None if article.mask is None else article.mask[rows, columns]
    part, kept = image[rows, columns], _kept(outline[rows, columns], mask, article.name)[..., None]
    if kept.mean() >= COVERED_LEAST:
        part = np.rint(kept * part + (1 - kept) * WHITE).astype(np.uint8)
    height, width = part.shape[:2]
    whole = max(height, width / ASPECT) / FILLED
    picture = np.full((round(whole), round(whole * ASPECT), 3), WHITE, np.uint8)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    picture[top : top + height, left : left + width] = part
    return picture


def _kept(outline: np.ndarray, mask: np.ndarray | None, name: str) -> np.ndarray:
    """How much of each pixel is the article's, float32 (h, w), 0 to 1, by the person's outline and its own mask."""
    of_person = outline.astype(np.float32) / 255
    if mask is None:
        return of_person
    sure = ((mask.astype(np.float32) / 255 - DOUBTFUL) / (CERTAIN - DOUBTFUL)).clip(0, 1)
    return sure if name == CARRIED else sure * of_person


def _slices(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a box with its margin, one of each at least, inside a photo."""
    left, top, right, bottom = box
    across, down = MARGIN * (right - left), MARGIN * (bottom - top)
    first_row, first_column = (
        min(max(0, int(start)), size - 1) for start, size in ((top - down, height), (left - across, width))
    )
    rows = slice(first_row, max(first_row + 1, min(height, round(bottom + down))))
    return rows, slice(first_column, max(first_column + 1, min(width, round(right + across))))
