"""A picture of lists: a row a query, the query first, its neighbours after it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from infra.errors import UserError

KINDS = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of the files that a picture can be written to."""
GAP, QUERY_GAP, MARGIN = 6, 22, 14
BACKGROUND = 255


def check_file(file: Path) -> None:
    """Raises UserError where no picture could be written to this file, before anybody has drawn it."""
    problem, remedy = "", f"name a file that ends in {', '.join(KINDS)}, in a folder that is there"
    if os.path.isdir(file):  # as Path's own, but false where a name is too long
        problem = f"{file} is a folder"
    elif file.suffix.lower() not in KINDS:
        problem = f"the ending of {file.name!r} is that of no picture"
    elif not os.path.isdir(file.parent):
        problem = f"there is no folder {file.parent}"
    if problem:
        raise UserError(problem, where=str(file), remedy=remedy)


def write_grid(file: Path, rows: list[list[np.ndarray]]) -> None:
    """Draw rows as `draw_grid` does, into a file. Raises UserError where it cannot be written."""
    write_picture(file, draw_grid(rows))


def write_picture(file: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 (h, w, 3). Raises UserError where it cannot be written."""
    try:
        Image.fromarray(picture).save(file)
    except OSError as error:
        raise UserError(
            f"the picture cannot be written: {error.strerror or error}", where=str(file), remedy="name another file"
        ) from None


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
