"""A picture of lists: a row a query, the query first, its neighbours after it."""

from __future__ import annotations

import numpy as np
from PIL import Image

GAP, QUERY_GAP, MARGIN = 6, 22, 14
BACKGROUND = 255


def draw_grid(rows: list[list[np.ndarray]], height: int = 120, width: int = 90) -> np.ndarray:
    """One picture of all rows of images, each fitted into `height` × `width` pixels on white.

    Args:
        rows: for each query a list of uint8 (h, w, 3) images: the query, then its neighbours.

    Returns:
        uint8 (H, W, 3).
    """
    columns = max(len(row) for row in rows)
    size = (
        2 * MARGIN + len(rows) * (height + GAP) - GAP,
        2 * MARGIN + columns * (width + GAP) - GAP + QUERY_GAP,
        3,
    )
    picture = np.full(size, BACKGROUND, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            tile = _fit(image, height, width)
            top = MARGIN + y * (height + GAP) + (height - tile.shape[0]) // 2
            left = MARGIN + x * (width + GAP) + (QUERY_GAP if x else 0) + (width - tile.shape[1]) // 2
            picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return picture


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
