"""What a backbone of photographs sees of a person: for whom the clothes are.

Two small logistic heads, learnt by `jobs.train_pose`, tell it by the whole person and by the head. Their opinions are
multiplied, as if each came from somebody else (a product of experts, Hinton 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ml.look.keypoints import HEAD, Person
from ml.look.pose import Head, fit, softmax

SIZE = (160, 120)
"""Height and width of what the backbone sees, in pixels."""
AROUND = 0.05
"""Of a person's box, seen around it."""
HEAD_WIDE, HEAD_LEAST = 1.6, 0.13
"""How far to each side of the face's middle a head is seen, by how wide the face's keypoints are, and by the person's
height at least: hair and shoulders tell something, too."""
ABOVE, BELOW = 1.2, 1.6
"""How far above and below, by how far to each side."""
PENALTY = 1.0
"""Of the heads' squared weights."""
GENDERS = ("Women", "Men")
SURE = 0.9
"""Least probability of a gender that is told."""


class Sight(NamedTuple):
    """Features of a person and of the head, float32 (d,) each."""

    body: np.ndarray
    head: np.ndarray


class SightHeads(NamedTuple):
    """What tells the gender by the whole person, and by the head."""

    body_gender: Head
    head_gender: Head

    def gender(self, sight: Sight) -> str | None:
        """For whom the clothes are, one of `GENDERS`; None where that is not sure."""
        by_body, by_head = (
            softmax(head.logits(features[None].astype(np.float64)))[0]
            for head, features in ((self.body_gender, sight.body), (self.head_gender, sight.head))
        )
        both = by_body * by_head
        best = int(both.argmax())
        return GENDERS[best] if both[best] >= SURE * both.sum() else None


def views(image: np.ndarray, person: Person) -> np.ndarray:
    """A person of a photo, uint8 (h, w, 3), and the head: uint8 (2, *`SIZE`, 3)."""
    left, top, right, bottom = person.box
    across, down = AROUND * (right - left), AROUND * (bottom - top)
    face = person.points[HEAD, :2]
    x, y = face.mean(axis=0)
    reach = max(HEAD_WIDE * float(np.ptp(face[:, 0])), HEAD_LEAST * (bottom - top))
    boxes = (
        (left - across, top - down, right + across, bottom + down),
        (x - reach, y - ABOVE * reach, x + reach, y + BELOW * reach),
    )
    return np.stack([_part(image, box) for box in boxes])


def _part(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """What a box holds of a photo, or the pixel nearest to it, uint8 (*`SIZE`, 3)."""
    height, width = image.shape[:2]
    left, top = (int(np.clip(round(low), 0, side - 1)) for low, side in zip(box[:2], (width, height), strict=True))
    right, bottom = (int(np.clip(round(high), low + 1, side)) for high, low, side in zip(
        box[2:], (left, top), (width, height), strict=True
    ))  # fmt: skip
    part = Image.fromarray(image[top:bottom, left:right])
    return np.asarray(part.resize(SIZE[::-1], Image.Resampling.BILINEAR, reducing_gap=3.0))


def fit_sight(sights: Sequence[Sight], genders: Sequence[str]) -> SightHeads:
    """Heads learnt from n persons of known genders."""
    targets = np.eye(len(GENDERS))[[GENDERS.index(name) for name in genders]]
    body, head = (np.array(views, np.float64) for views in zip(*sights, strict=True))
    return SightHeads(fit(body, targets, PENALTY), fit(head, targets, PENALTY))
