"""Persons of a photo with their keypoints and outlines: the arithmetic around the two networks of BlazePose.

The detector finds in the photo, shrunk to 224 pixels, each person's hips, and a point that says how large the person is
and which way is up. Of that square, turned upright, the other network names 39 points and the person's mask. Both come
in a package (`infra.pretrained`) and are called here as functions. The numbers are those that the networks were taught
with: Bazarevsky et al., BlazePose: On-device Real-time Body Pose Tracking, arXiv 2006.10204, and the graphs of
github.com/google-ai-edge/mediapipe, mediapipe/modules/pose_detection and pose_landmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import atan2, cos, hypot, pi, sin
from typing import NamedTuple

import numpy as np
from PIL import Image

Network = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""A batch of one image, float32 (1, h, w, 3), to the network's outputs by name."""

NAMES = (
    *("nose", "left eye, inner", "left eye", "left eye, outer", "right eye, inner", "right eye", "right eye, outer"),
    *("left ear", "right ear", "mouth, left", "mouth, right", "left shoulder", "right shoulder", "left elbow"),
    *("right elbow", "left wrist", "right wrist", "left pinky", "right pinky", "left index", "right index"),
    *("left thumb", "right thumb", "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
    *("left heel", "right heel", "left toes", "right toes"),
)
"""The keypoints in their order; left and right are the person's own."""
PLACE = {name: place for place, name in enumerate(NAMES)}
HEAD = [PLACE[name] for name in ("nose", "left eye", "right eye", "left ear", "right ear")]
FEET = [PLACE[f"{side} {part}"] for side in ("left", "right") for part in ("ankle", "heel", "toes")]
MIRRORED = [
    PLACE[name.replace("left", "\0").replace("right", "left").replace("\0", "right")] for name in NAMES
]  # in a mirror, the point that is called as the one at this place
DETECTOR_SIDE, LANDMARKS_SIDE = 224, 256
"""Pixels a side of what the two networks take."""
ANCHORS = ((28, 2), (14, 2), (7, 6))
"""Cells a side of the detector's maps, and how many boxes it tells for each cell."""
PERSON_LEAST = 0.5
"""Least score of a person, of either network. A second look at photos without one finds some, and spoils more: by 0.3,
on a padded photo or on squares of it, every third to fifth picture of shoes comes out as a person, and
full shots of all are told no better (benchmarks/RESULTS.md)."""
SAME_PERSON = 0.3
"""Overlap (IoU) from which two boxes are of one person."""
SAME_OUTLINE = 0.5
"""Overlap (IoU) from which two outlines are."""
AROUND = 1.25
"""The square looked at, by the square around the circle that the detector puts around a person."""
MASK_LEAST = 128
"""Least value of a mask at which a pixel is the person's."""
PERSONS = 6
"""Persons of a photo that are looked at, surest first."""
LOGIT_MAX = 80.0
"""Beyond it a sigmoid is 0 or 1 in float32 anyway, and its exponential would overflow."""


class Region(NamedTuple):
    """A square of a photo: its centre, its side, both in pixels, and its angle in radians, clockwise."""

    x: float
    y: float
    side: float
    angle: float


@dataclass(frozen=True)
class Person:
    """A person of a photo of h × w pixels.

    `points` float32 (33, 3): x and y in pixels, z towards the camera from the hips on the same scale, negative before
    them. `visible` and `present` float32 (33,), 0 to 1: seen, and inside the frame, seen or not. `mask` uint8 (h, w),
    how surely a pixel is the person's. `score`, 0 to 1: that this is a person.
    """

    points: np.ndarray
    visible: np.ndarray
    present: np.ndarray
    mask: np.ndarray
    score: float

    @property
    def outline(self) -> np.ndarray:
        """Which pixels are the person's, bool (h, w)."""
        return self.mask >= MASK_LEAST

    @property
    def area(self) -> float:
        """Pixels of the person."""
        return float(self.outline.sum())

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the outline, in pixels."""
        rows, columns = (np.flatnonzero(self.outline.any(axis=axis)) for axis in (1, 0))
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def find_persons(image: np.ndarray, detect: Network, landmarks: Network) -> list[Person]:
    """The persons of a photo, the largest first.

    Args:
        image: uint8 (h, w, 3).
        detect: the network `pose_detection`.
        landmarks: the network `pose_landmark_full`.
    """
    photo, persons = Image.fromarray(image), list[Person]()
    for region in find_regions(photo, detect)[:PERSONS]:
        person = _look_at(photo, region, landmarks)
        if person.score >= PERSON_LEAST and person.area and not any(_is_same(person, other) for other in persons):
            persons.append(person)
    return sorted(persons, key=lambda person: -person.area)


def find_regions(photo: Image.Image, detect: Network) -> list[Region]:
    """Where in a photo persons are, the surest first."""
    scale = DETECTOR_SIDE / max(photo.size)
    width, height = (max(1, round(side * scale)) for side in photo.size)
    canvas = Image.new("RGB", (DETECTOR_SIDE, DETECTOR_SIDE))
    left, top = (DETECTOR_SIDE - width) // 2, (DETECTOR_SIDE - height) // 2
    canvas.paste(photo.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    outputs = detect(np.asarray(canvas, np.float32)[None] / 127.5 - 1)
    found = decode_detections(outputs["Identity"][0], outputs["Identity_1"][0, :, 0])
    points = (found - [left, top]) * [photo.width / width, photo.height / height]
    return [_region(hips, rim) for hips, rim in points]


def decode_detections(raw: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Hips and rim of each person found, float64 (p, 2, 2), x and y in the detector's pixels, the surest first.

    Boxes that overlap are one person, whose points are their mean, weighted by score.

    Args:
        raw: float32 (2254, 12), of each anchor: centre and size of a box, then four points, relative to the anchor.
        logits: float32 (2254,).
    """
    scores = sigmoid(logits)
    likely = np.flatnonzero(scores >= PERSON_LEAST)
    scores, told, centres = scores[likely], raw[likely].astype(np.float64), anchors()[likely]
    corners = centres + told[:, :2] - told[:, 2:4] / 2
    boxes = np.hstack([corners, corners + told[:, 2:4]])
    points = centres[:, None] + told[:, 4:8].reshape(-1, 2, 2)
    left, found = np.argsort(-scores, kind="stable"), []
    while len(left):
        same = overlaps(boxes[left[0]], boxes[left]) > SAME_PERSON
        same[0] = True  # a box without an area overlaps nothing
        found.append(np.average(points[left[same]], axis=0, weights=scores[left[same]]))
        left = left[~same]
    return np.array(found).reshape(-1, 2, 2)


def anchors() -> np.ndarray:
    """Centres of the anchors in the detector's pixels, float64 (2254, 2)."""
    centres = []
    for cells, boxes in ANCHORS:
        at = (np.arange(cells) + 0.5) * DETECTOR_SIDE / cells
        grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, boxes, axis=0))
    return np.concatenate(centres)


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box, float (4,), with each of n, float (n, 4): left, top, right, bottom."""
    corners = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(corners[1] - corners[0], 0, None).prod(axis=1)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    own = np.clip(box[2:] - box[:2], 0, None).prod()
    return shared / np.maximum(own + areas - shared, 1e-9)


def _region(hips: np.ndarray, rim: np.ndarray) -> Region:
    """The square around a person, whose up leads from the hips to the rim of the circle around the person."""
    across, down = rim - hips
    return Region(float(hips[0]), float(hips[1]), 2 * AROUND * hypot(across, down), pi / 2 - atan2(-down, across))


def _look_at(photo: Image.Image, region: Region, landmarks: Network) -> Person:
    outputs = landmarks(cut(photo, region)[None])
    told = outputs["Identity"].reshape(-1, 5)[: len(NAMES)]
    points = np.empty((len(NAMES), 3), np.float32)
    points[:, :2] = to_photo(told[:, :2] / LANDMARKS_SIDE, region)
    points[:, 2] = told[:, 2] * region.side / LANDMARKS_SIDE
    mask = sigmoid(outputs["Identity_2"][0, :, :, 0])
    score = float(outputs["Identity_1"].reshape(()))
    return Person(points, sigmoid(told[:, 3]), sigmoid(told[:, 4]), paste(mask, region, photo.size), score)


def cut(photo: Image.Image, region: Region) -> np.ndarray:
    """A square of a photo, upright, black beyond its edges: float32 (256, 256, 3), 0 to 1."""
    smaller = max(1, int(region.side // LANDMARKS_SIDE))
    if smaller > 1:  # what follows looks at four pixels around a place
        photo = photo.reduce(smaller)
    place = Region(region.x / smaller, region.y / smaller, region.side / smaller, region.angle)
    right, down, origin = _axes(place)
    step = right / LANDMARKS_SIDE, down / LANDMARKS_SIDE
    coefficients = (step[0][0], step[1][0], origin[0], step[0][1], step[1][1], origin[1])
    size = (LANDMARKS_SIDE, LANDMARKS_SIDE)
    found = photo.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(found, np.float32) / 255


def paste(mask: np.ndarray, region: Region, size: tuple[int, int]) -> np.ndarray:
    """A mask of a square, float32 (256, 256), 0 to 1, in the photo of `size` (width, height): uint8 (h, w)."""
    right, down, origin = _axes(region)
    per_pixel = LANDMARKS_SIDE / region.side**2
    rows = [axis * per_pixel for axis in (right, down)]
    coefficients = [value for row in rows for value in (row[0], row[1], -row @ origin)]
    grey = Image.fromarray(np.rint(255 * mask).astype(np.uint8))
    return np.asarray(grey.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))


def to_photo(points: np.ndarray, region: Region) -> np.ndarray:
    """Points of a square, float (n, 2), 0 to 1, in pixels of the photo, float64 (n, 2)."""
    right, down, origin = _axes(region)
    return origin + points[:, :1] * right + points[:, 1:] * down


def _axes(region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square's upper and left edge as vectors, and its upper left corner, float64 (2,) each."""
    right = region.side * np.array([cos(region.angle), sin(region.angle)])
    down = np.array([-right[1], right[0]])
    return right, down, np.array([region.x, region.y]) - (right + down) / 2


def _is_same(person: Person, other: Person) -> bool:
    own, others = person.outline, other.outline
    return (own & others).sum() > SAME_OUTLINE * (own | others).sum()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x), float32."""
    return (1 / (1 + np.exp(-np.clip(logits, -LOGIT_MAX, LOGIT_MAX)))).astype(np.float32)
