"""Where on a white picture a catalogue would show a garment: as it shows those of like shape.

An embedding sees a garment that stands a few hundredths of the picture higher, or smaller, as another one. So a garment
has several views, and whoever searches with it takes that in which it is most like anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ml.ground.framing import turned
from ml.ground.pasting import COVERED, covered

CELLS = 16
"""Of a shape, a side."""
SIZE = (60, 80)
"""Width and height at which a catalogue's pictures are looked at."""
NEAREST = 7
"""Garments of like shape whose places count."""
SHOWN = 0.9
"""Least share of a garment's height and width that there is room for: those of like shape may reach the edges."""
MARGIN = 0.03
"""Left at the sides that a garment reaches, where the catalogue shows nothing on white."""

VIEWS = (
    *((1, 0, 0), (1, 0.04, 0), (1, 0, 3), (1, 0, -3)),
    *((size, lower, 0) for size in (0.94, 1.06) for lower in (-0.04, 0.04)),
)
"""Of a garment: its size against that of those of like shape, how much lower it stands, as a share of the picture's
height, and degrees by which it is turned against the clock."""


@dataclass(frozen=True)
class Places:
    """Where a catalogue shows n garments: shapes, uint8 (n, `CELLS`²), and boxes, float32 (n, 4).

    A shape is how much of each cell of a square around the garment it covers. A box is the garment's middle, across and
    down, its width and its height, in shares of the picture's.
    """

    shapes: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, pictures: Iterable[Image.Image]) -> Places:
        """Those of pictures on white ground; of others nothing is learnt."""
        shapes, boxes = [np.empty((0, CELLS**2), np.uint8)], [np.empty((0, 4), np.float32)]
        for picture in pictures:
            there = covered(np.asarray(picture.convert("RGB").resize(SIZE, Image.Resampling.BOX)))
            if COVERED[0] <= there.mean() <= COVERED[1]:
                rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
                top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
                garment = Image.fromarray(255 * there[top:bottom, left:right].astype(np.uint8))
                shapes.append(shape(garment)[None])
                middle_and_size = np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
                boxes.append((middle_and_size / np.tile(SIZE, 2)).astype(np.float32)[None])
        return cls(np.concatenate(shapes), np.concatenate(boxes))

    def views(self, garment: Image.Image, aspect: float) -> Iterator[Image.Image]:
        """The `VIEWS` of a garment, RGBA, that is upright: first the one that `put` gives."""
        for size, lower, degrees in VIEWS:
            yield self.put(turned(garment, degrees) if degrees else garment, aspect, size, lower)

    def put(self, garment: Image.Image, aspect: float, size: float = 1, lower: float = 0) -> Image.Image:
        """A garment, RGBA, on a white picture of a width by height, as the catalogue shows those of like shape.

        Its `size` is against that of these, and it stands `lower` than they, in shares of the picture's height.
        """
        if not len(self.boxes):
            return on_canvas(garment, aspect)
        away = ((self.shapes.astype(np.float32) - shape(garment.getchannel("A"))) ** 2).sum(axis=1)
        x, y, width, height = np.median(self.boxes[np.argsort(away, kind="stable")[:NEAREST]], axis=0).tolist()
        # The picture's height in pixels of the garment, whose proportions stay, and most of which is shown.
        tall = float(np.sqrt(garment.width * garment.height / (width * height * aspect)))
        tall = max(tall, SHOWN * garment.height, SHOWN * garment.width / aspect) / size
        canvas = Image.new("RGB", (max(1, round(aspect * tall)), max(1, round(tall))), "white")
        left, top = x * canvas.width - garment.width / 2, (y + lower) * canvas.height - garment.height / 2
        corner = (round(left), round(top))
        canvas.paste(garment, corner, garment)
        return canvas


def shape(alpha: Image.Image) -> np.ndarray:
    """How much of each cell of a square around a garment it covers, uint8 (`CELLS`²,)."""
    side = max(alpha.size)
    square = Image.new("L", (side, side))
    square.paste(alpha, ((side - alpha.width) // 2, (side - alpha.height) // 2))
    return np.asarray(square.resize((CELLS, CELLS), Image.Resampling.BOX)).ravel()


def on_canvas(garment: Image.Image, aspect: float) -> Image.Image:
    """A garment, RGBA, on a white picture of a width by height, as large as a margin leaves it."""
    height = max(garment.height, garment.width / aspect) / (1 - 2 * MARGIN)
    canvas = Image.new("RGB", (max(1, round(aspect * height)), max(1, round(height))), "white")
    canvas.paste(garment, ((canvas.width - garment.width) // 2, (canvas.height - garment.height) // 2), garment)
    return canvas
