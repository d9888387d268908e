"""A picture of the answer to a photo: the photo with boxes, and beside it a row of products for each article."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from jobs.look import Look, Worn

TILE = 90, 120
"""Width and height of a product."""
GAP, MARGIN, LINE, LABEL = 6, 14, 3, 15
"""Pixels between tiles, around all, of a box's edge, and of a label's letters."""
COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be123c", "#4d7c0f")
"""Of the articles in turn, each readable on white."""
ROW = LABEL + GAP + TILE[1] + 2 * GAP


class Row(NamedTuple):
    """A row of the picture: what it is of, its colour, and the ids of its products."""

    label: str
    colour: str
    items: list[str]


def draw(image: np.ndarray, look: Look, pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """The picture of an answer.

    Args:
        image: the photo, uint8 (h, w, 3), of the size of the answer.
        look: the answer.
        pictures: product id → its image, uint8 (h, w, 3); one without is left blank.

    Returns:
        uint8 (H, W, 3).
    """
    rows = rows_of(look)
    height = max(4 * ROW, len(rows) * ROW)
    photo = _boxed(image, look, height)
    columns = max((len(row.items) for row in rows), default=0)
    size = photo.width + 3 * MARGIN + columns * (TILE[0] + GAP), height + 2 * MARGIN
    canvas = Image.new("RGB", size, "white")
    canvas.paste(photo, (MARGIN, MARGIN))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(LABEL)
    for number, row in enumerate(rows):
        left, top = photo.width + 2 * MARGIN, MARGIN + number * ROW
        pen.text((left, top), row.label, row.colour, font)
        for at, item in enumerate(row.items):
            if item in pictures:
                tile = ImageOps.contain(Image.fromarray(pictures[item]), TILE, Image.Resampling.LANCZOS)
                canvas.paste(tile, (left + at * (TILE[0] + GAP), top + LABEL + GAP))
    return np.asarray(canvas)


def rows_of(look: Look) -> list[Row]:
    """The rows of the picture of an answer, in the order of its articles."""
    if look.answer:
        return [Row("the whole photo", COLOURS[0], [item.product_id for item in look.answer.items])]
    return [
        Row(
            f"{worn.article.name} {worn.article.confidence:.2f}" + ("" if worn.answer else f": {worn.says}"),
            colour,
            [item.product_id for item in worn.answer.items] if worn.answer else [],
        )
        for worn, colour in coloured(look)
    ]


def coloured(look: Look) -> list[tuple[Worn, str]]:
    """The articles of all persons, each with its colour."""
    return [(each, COLOURS[number % len(COLOURS)]) for number, each in enumerate(look.worn)]


def _boxed(image: np.ndarray, look: Look, height: int) -> Image.Image:
    """The photo so high, with the boxes of its articles."""
    scale = height / image.shape[0]
    photo = Image.fromarray(image).resize((max(1, round(image.shape[1] * scale)), height), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(photo)
    for worn, colour in coloured(look):
        pen.rectangle([round(value * scale) for value in worn.article.box], outline=colour, width=LINE)
    return photo
