"""What a person wears, and where: boxes by class.

`ArticleFinder` is the place of whoever finds articles, which are of the classes of `ml.articles`. Until a detector is
trained, `KeypointBoxes` fills it: it draws the box that each class most often has on a body like this one, and cannot
know what is worn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ml.look.keypoints import FEET, HEAD, PLACE, Person
from ml.look.pose import FAR, Frame, frame_of

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of the photo."""


class Article(NamedTuple):
    """An article that a person wears: its class of `ml.articles`, its box, and how sure that is, 0 to 1.

    `mask`, uint8 (h, w), tells how surely a pixel of the photo is the article's; None where nobody knows.
    """

    name: str
    box: Box
    confidence: float
    mask: np.ndarray | None = None


class ArticleFinder(Protocol):
    """Finds what the persons of a photo wear; `source` says in words by what."""

    source: str

    def __call__(self, image: np.ndarray, persons: Sequence[Person]) -> list[list[Article]]:
        """The articles of each person of a photo, uint8 (h, w, 3), the surest first."""


SEEN_BY = {
    "topwear": [PLACE[f"{side} {part}"] for side in ("left", "right") for part in ("shoulder", "hip")],
    "bottomwear": [PLACE[f"{side} {part}"] for side in ("left", "right") for part in ("hip", "knee")],
    "footwear": FEET,
    "eyewear": [PLACE[name] for name in ("left eye", "right eye")],
}
"""The classes that a body has a place for, and keypoints: where these are outside the frame, the article is, too."""
PARTS = [
    HEAD,
    *([PLACE[f"left {part}"], PLACE[f"right {part}"]] for part in ("eye", "ear", "shoulder", "elbow", "wrist")),
    *([PLACE[f"left {part}"], PLACE[f"right {part}"]] for part in ("hip", "knee", "ankle", "toes")),
    FEET,
]
"""Keypoints that boxes follow from, by how far each of these reaches to the four sides."""
RIDGE = 0.001
"""Weight of the penalty on the coefficients, a sample."""
ROUNDS, NEAR = 12, 0.05
"""Of fitting, each with less weight on boxes that are far from what is drawn; and what is near, in sizes of a torso."""


class KeypointBoxes:
    """Boxes that follow from keypoints, by one linear rule a class, and how common each class is.

    `rules` holds for each class of `SEEN_BY` float (d, 4), from `box_features` to a box in the body's own frame;
    `shares` the share of persons that wear it, of those whose keypoints for it are inside the frame.
    """

    source = "boxes drawn from keypoints: where such an article is worn on most people, not whether it is"

    def __init__(self, rules: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> None:
        self.rules, self.shares = rules, shares

    def __call__(self, image: np.ndarray, persons: Sequence[Person]) -> list[list[Article]]:
        """As `ArticleFinder`; the confidence is the class's share, by how surely its keypoints are in the frame."""
        height, width = image.shape[:2]
        return [self.draw(person, height, width) for person in persons]

    def draw(self, person: Person, height: int, width: int) -> list[Article]:
        """The boxes of a person of a photo of this size in pixels."""
        frame = frame_of(person.points)
        articles = []
        for name, rule in self.rules.items():
            box = place_box(box_features(person) @ rule, frame, width, height)
            if box[0] < box[2] and box[1] < box[3]:
                articles.append(Article(name, box, self.shares[name] * in_frame(person, name)))
        return sorted(articles, key=lambda article: -article.confidence)


def fit_boxes(persons: Sequence[Person], worn: Sequence[Mapping[str, Box]]) -> KeypointBoxes:
    """The rules that fit the boxes of n persons best: least sum of distances, as a covered shirt has any box.

    Args:
        persons: the ones who wear them, of n photos.
        worn: of each the box of each class, in pixels; a class that is not worn has none.
    """
    features = np.array([box_features(person) for person in persons])
    frames = [frame_of(person.points) for person in persons]
    rules, shares = {}, {}
    for name in SEEN_BY:
        rows = [at for at, boxes in enumerate(worn) if name in boxes]
        if not rows:
            continue
        rules[name] = _fit(features[rows], np.array([_to_frame(worn[at][name], frames[at]) for at in rows]))
        seen = np.array([in_frame(person, name) for person in persons])
        shares[name] = float(seen[rows].sum() / seen.sum())
    return KeypointBoxes(rules, shares)


def _fit(features: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The linear rule, float (d, 4), from n features to n boxes, by reweighted least squares."""
    penalty = RIDGE * len(boxes) * np.eye(features.shape[1]) * (np.arange(features.shape[1]) > 0)
    weights = np.ones(len(boxes))
    for _ in range(ROUNDS):
        weighted = features * weights[:, None]
        rule = np.linalg.solve(features.T @ weighted + penalty, weighted.T @ boxes)
        weights = 1 / np.maximum(np.abs(features @ rule - boxes).mean(axis=1) / NEAR, 1)
    return rule


def box_features(person: Person) -> np.ndarray:
    """What a box follows from, float64 (d,): one, and how far each part of the body reaches, in its own frame."""
    frame = frame_of(person.points)
    places = ((person.points[:, :2] - [frame.x, frame.y]) / frame.size).clip(-FAR, FAR)
    reaches = [reach for part in PARTS for reach in (places[part].min(axis=0), places[part].max(axis=0))]
    return np.concatenate([[1.0], *reaches])


def in_frame(person: Person, name: str) -> float:
    """How surely the keypoints of a class are inside the frame, 0 to 1: the network is slow to doubt it."""
    height, width = person.mask.shape
    points = person.points[SEEN_BY[name], :2]
    inside = ((points >= 0) & (points < [width, height])).all(axis=1)
    return float((person.present[SEEN_BY[name]] * inside).mean())


def place_box(told: np.ndarray, frame: Frame, width: int, height: int) -> Box:
    """A box in a body's own frame, float (4,), in pixels of a photo, cut at its edges."""
    left, top, right, bottom = np.asarray(told) * frame.size + [frame.x, frame.y] * 2
    return max(0.0, float(left)), max(0.0, float(top)), min(float(width), right), min(float(height), bottom)


def _to_frame(box: Box, frame: Frame) -> np.ndarray:
    return (np.array(box) - [frame.x, frame.y] * 2) / frame.size
