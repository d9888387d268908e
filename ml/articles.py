"""Articles of clothing in a photo: what a detector is taught of a labelled photo, and how what it says is read.

A photo is placed on a canvas, which is seen in cells of `STRIDE` pixels. Of each cell the detector says, for each class
by itself, how surely the middle of such an article is there (heat), and how far from the cell's middle its four sides
are: a shirt under a jacket has the same middle and other sides. So a box is a peak of the heat (Zhou et al. 2019,
arXiv:1904.07850), and the cells around a middle learn the sides too (Liu et al. 2020, arXiv:1909.00700).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("topwear", "outerwear", "dress", "bottomwear", "footwear", "bag", "eyewear", "headwear")
STRIDE = 8
"""Pixels of the canvas a cell, each way."""
CORE = 0.54
"""Share of a box, each way, whose cells are about its middle: `alpha` and `beta` of arXiv:1909.00700."""
GREY = (127, 127, 127)
"""Of the canvas where the photo is not: nothing to a network whose pixels are scaled to both sides of zero."""
APART = 0.6
"""Boxes of one class that share more, as intersection over union, are of one article."""
MOST, LEAST = 4, 0.05
"""Articles of a class that are told, at most, and how sure the least of them is: whoever asks may want fewer."""


class Labels(NamedTuple):
    """What is known of a photo: boxes float32 (n, 4), left, top, right and bottom in its pixels; classes int64 (n,),
    places in `CLASSES`; and which are `ignored`, bool (n,): such an article is neither to be found nor a mistake.
    """

    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray


class Articles(NamedTuple):
    """What is found in a photo, the surest first: boxes and classes as those of `Labels`, and confidences float32 (n,).

    `masks` is float32 (classes, rows, columns), how surely such an article is seen at each place of a grid over the
    whole photo; None where nobody asked.
    """

    boxes: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray
    masks: np.ndarray | None = None


@dataclass(frozen=True)
class Photos:
    """Labelled photos by their places: `load` gives one's pixels, uint8 (h, w, 3), and `regions` the class of each, as
    place in `CLASSES` + 1, 0 for none, uint8 (h, w), or None where nobody drew them.
    """

    names: Sequence[str]
    labels: Sequence[Labels]
    load: Callable[[int], np.ndarray]
    regions: Callable[[int], np.ndarray | None]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each box, (n, 4), with each other one, (m, 4): float (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    return shared / (areas(boxes)[:, None] + areas(others)[None] - shared).clip(1e-9)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Of boxes (n, 4), (n,)."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)


# The canvas -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Placement:
    """Where a photo lies on a canvas of `height` × `width` pixels: its x is at `scale`[0] · x + `offset`[0], and so y.

    With `mirrored` the canvas is turned round afterwards.
    """

    height: int
    width: int
    scale: tuple[float, float]
    offset: tuple[float, float]
    mirrored: bool = False

    def onto(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the photo, (n, 4), on the canvas; parts of them may lie outside."""
        return self._turned(boxes * np.tile(self.scale, 2) + np.tile(self.offset, 2)).astype(np.float32)

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the canvas, (n, 4), in pixels of the photo."""
        return ((self._turned(boxes) - np.tile(self.offset, 2)) / np.tile(self.scale, 2)).astype(np.float32)

    def _turned(self, boxes: np.ndarray) -> np.ndarray:
        if not self.mirrored:
            return boxes
        left, top, right, bottom = boxes.T
        return np.stack([self.width - right, top, self.width - left, bottom], axis=1)

    def draw(
        self,
        photo: Image.Image,
        background: int | tuple[int, ...] = GREY,
        by: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> Image.Image:
        """The canvas with the photo on it."""
        canvas = Image.new(photo.mode, (self.width, self.height), background)
        scale, offset = np.array(self.scale), np.array(self.offset)
        first, last = (
            np.clip(np.rint(corner), 0, canvas.size).astype(int) for corner in (offset, offset + scale * photo.size)
        )
        if (first < last).all():
            seen = np.concatenate([(first - offset) / scale, (last - offset) / scale]).clip(0, np.tile(photo.size, 2))
            size = tuple((last - first).tolist())
            canvas.paste(photo.resize(size, by, tuple(seen.tolist()), reducing_gap=3.0), tuple(first.tolist()))
        return canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else canvas


def letterbox(size: tuple[int, int], height: int, width: int) -> Placement:
    """The whole of a photo of `size`, its width and height, in the middle of a canvas, as large as fits."""
    scale = min(width / size[0], height / size[1])
    return Placement(height, width, (scale, scale), ((width - scale * size[0]) / 2, (height - scale * size[1]) / 2))


# What is taught -------------------------------------------------------------------------------------------------------
class Targets(NamedTuple):
    """Of a canvas of r × c cells, float32: heat (r, c, classes, 2), how much of a middle a cell is, 1 at most, and 0
    where that is not to be learnt, else 1; sides (r, c, classes, 5), pixels from the cell's middle to the left, top,
    right and bottom side, and the cell's share in that box.
    """

    heat: np.ndarray
    sides: np.ndarray


def targets(labels: Labels, height: int, width: int) -> Targets:
    """What a detector is to say of labels on a canvas. The smaller of two boxes of a class has the cells of both."""
    rows, columns = height // STRIDE, width // STRIDE
    heat, sides = np.zeros((rows, columns, len(CLASSES), 2)), np.zeros((rows, columns, len(CLASSES), 5))
    heat[..., 1] = 1
    across, down = _middles(columns), _middles(rows)
    for at in np.argsort(-areas(labels.boxes), kind="stable"):
        box, of_class = labels.boxes[at], labels.classes[at]
        if labels.ignored[at]:
            continue
        near = _bump(box[1], box[3], rows)[:, None] * _bump(box[0], box[2], columns)
        heat[..., of_class, 0] = np.maximum(heat[..., of_class, 0], near)
        told = np.stack(
            np.broadcast_arrays(
                across[None] - box[0], down[:, None] - box[1], box[2] - across[None], box[3] - down[:, None]
            ),
            axis=-1,
        )
        core = near > 0
        sides[core, of_class] = np.concatenate([told, (near / near.sum())[..., None]], axis=-1)[core]
    for box, of_class in zip(labels.boxes[labels.ignored], labels.classes[labels.ignored], strict=True):
        inside = _inside(box[1], box[3], rows)[:, None] & _inside(box[0], box[2], columns)
        heat[inside & (heat[..., of_class, 0] < 1), of_class, 1] = 0
    return Targets(heat.astype(np.float32), sides.astype(np.float32))


def _middles(cells: int) -> np.ndarray:
    """Of a row of cells, in pixels."""
    return (np.arange(cells) + 0.5) * STRIDE


def _middle(low: float, high: float, cells: int) -> int:
    """The cell that the middle of a box lies in."""
    return int(np.clip((low + high) / 2 // STRIDE, 0, cells - 1))


def _bump(low: float, high: float, cells: int) -> np.ndarray:
    """How much each of a row of cells is a middle, float (cells,): 1 where it is, less around it, 0 outside the core.

    A Gaussian; its deviation is so that the core's reach is three of them.
    """
    reach = CORE * (high - low) / STRIDE / 2
    away = np.abs(np.arange(cells) - _middle(low, high, cells))
    return np.exp(-0.5 * (away / ((2 * reach + 1) / 6)) ** 2) * (away <= reach)


def _inside(low: float, high: float, cells: int) -> np.ndarray:
    """The cells whose middles a side of a box holds, and its middle's, bool (cells,)."""
    middles = _middles(cells)
    inside = (middles >= low) & (middles <= high)
    inside[_middle(low, high, cells)] = True
    return inside


# What is said ---------------------------------------------------------------------------------------------------------
def decode(heat: np.ndarray, sides: np.ndarray, most: int = MOST, least: float = LEAST) -> Articles:
    """The articles on a canvas of r × c cells.

    Args:
        heat: float (r, c, classes), how surely a cell is an article's middle.
        sides: float (r, c, classes, 4), pixels from the cell's middle to the sides.
        most: articles of a class, at most.
        least: how sure one is, at least.
    """
    rows, columns, _ = heat.shape
    around = np.pad(heat, ((1, 1), (1, 1), (0, 0)))
    highest = np.max([around[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)
    row, column, classes = np.nonzero((heat >= highest) & (heat >= least))
    confidences = heat[row, column, classes]
    x, y, reach = _middles(columns)[column], _middles(rows)[row], sides[row, column, classes]
    boxes = np.stack([x, y, x, y], axis=1) + reach * [-1, -1, 1, 1]
    return _surest(Articles(boxes.astype(np.float32), classes, confidences.astype(np.float32)), most, least)


def _surest(found: Articles, most: int, least: float) -> Articles:
    """The `most` of each class, the surest first, each as sure as `least`; of boxes of one article one."""
    kept: list[int] = []
    for at in np.argsort(-found.confidences, kind="stable").tolist():
        rivals = [other for other in kept if found.classes[other] == found.classes[at]]
        is_told = len(rivals) == most or (rivals and overlaps(found.boxes[[at]], found.boxes[rivals]).max() > APART)
        if found.confidences[at] >= least and not is_told:
            kept.append(at)
    return Articles(found.boxes[kept], found.classes[kept], found.confidences[kept])


def fuse(looks: Sequence[Articles], most: int = MOST, least: float = LEAST) -> Articles:
    """What several looks at one photo find together, without masks: the arguments as those of `decode`.

    Boxes of a class from different looks that share more than `APART` are one article: its box is their mean, by how
    sure they are, and it is as sure as they are on average over all looks, so that what one of them misses is less so
    (weighted boxes fusion: Solovyev et al. 2021, arXiv:1910.13302).
    """
    found = Articles(*(np.concatenate([look[column] for look in looks]) for column in range(3)))
    look_of = np.repeat(np.arange(len(looks)), [len(look.classes) for look in looks])
    groups: list[list[int]] = []
    fused = np.empty((0, 4), np.float32)
    for at in np.argsort(-found.confidences, kind="stable").tolist():
        may_join = [
            found.classes[group[0]] == found.classes[at] and look_of[at] not in look_of[group] for group in groups
        ]
        shared = np.where(np.array(may_join, bool), overlaps(found.boxes[[at]], fused)[0], 0.0)
        if shared.max(initial=0.0) > APART:
            place = int(shared.argmax())
            groups[place].append(at)
            fused[place] = np.average(found.boxes[groups[place]], axis=0, weights=found.confidences[groups[place]])
        else:
            groups.append([at])
            fused = np.concatenate([fused, found.boxes[[at]]])
    sure = np.array([found.confidences[group].sum() / len(looks) for group in groups], np.float32)
    return _surest(Articles(fused, found.classes[[group[0] for group in groups]], sure), most, least)


def in_photo(found: Articles, placement: Placement, size: tuple[int, int]) -> Articles:
    """What was found on a canvas, in a photo of `size`, its width and height: boxes cut at its edges."""
    boxes = placement.back(found.boxes).clip(0, np.tile(size, 2)).astype(np.float32)
    masks = None if found.masks is None else np.stack([_uncovered(mask, placement, size) for mask in found.masks])
    return found._replace(boxes=boxes, masks=masks)


def _uncovered(mask: np.ndarray, placement: Placement, size: tuple[int, int]) -> np.ndarray:
    """The part of a map of the canvas, float32 (r, c), that the photo covers."""
    (left, top), scale = np.array(placement.offset) / STRIDE, np.array(placement.scale) / STRIDE
    width, height = scale * size
    shape = (max(1, round(width)), max(1, round(height)))
    box = (max(0.0, left), max(0.0, top), min(mask.shape[1], left + width), min(mask.shape[0], top + height))
    return np.asarray(Image.fromarray(mask).resize(shape, Image.Resampling.BILINEAR, box))
