"""How a person stands before the camera: full-shot or not; front, back, left, right, or a detail.

Two small heads on what the keypoints tell, both logistic, learnt by `jobs.train_pose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ml.look.keypoints import FEET, HEAD, MIRRORED, PLACE, Person, sigmoid

ORIENTATIONS = ("front", "back", "left", "right", "detailed")
"""`left` is towards the picture's left edge; `detailed` a close-up, or a part of the body without the head."""
OPPOSITE = {"left": "right", "right": "left"}
"""What an orientation is called in a mirror, where that differs."""
TORSO = [PLACE[f"{side} {part}"] for side in ("left", "right") for part in ("shoulder", "hip")]
FULL_SHOT_LEAST = 0.5
"""Least probability of a full shot."""
PENALTY = 0.1
"""Of the squared weights of both heads, against the mean loss. 0.05 and 0.2 tell poses within a point as well."""
STEPS = 600
"""Of descent, after which the loss no longer falls."""
FAR, SURE, EDGE = 4.0, 1e-4, 20
"""Sizes of a body beyond which a point's place says nothing more; shares closer to 0 or 1 than this; and how much surer
a point is inside the photo by each share of its height between it and the edge."""


class Frame(NamedTuple):
    """A body's own frame: the middle of its torso and its size, in pixels."""

    x: float
    y: float
    size: float


class Pose(NamedTuple):
    """Whether a photo shows a person from head to foot, and how the person stands, each with a confidence, 0 to 1."""

    full_shot: bool
    full_shot_confidence: float
    orientation: str
    confidence: float


class Head(NamedTuple):
    """A logistic head: `mean` and `scale` float (d,) of the features, `weights` float (d, c), `bias` float (c,)."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Of features, float (n, d), the classes' logits, float (n, c)."""
        return (features - self.mean) / self.scale @ self.weights + self.bias


def frame_of(points: np.ndarray) -> Frame:
    """The frame of a body with these keypoints, float (33, 2 or more): from the middle of shoulders to that of hips."""
    shoulders, hips = (points[[PLACE[f"left {part}"], PLACE[f"right {part}"]], :2] for part in ("shoulder", "hip"))
    length = np.linalg.norm(shoulders.mean(axis=0) - hips.mean(axis=0))
    breadth = np.linalg.norm(shoulders[0] - shoulders[1])
    middle = points[TORSO, :2].mean(axis=0)
    return Frame(float(middle[0]), float(middle[1]), max(float(length), float(breadth), 1.0))


def pose_features(person: Person) -> np.ndarray:
    """What a pose is told from, float64 (d,).

    Places of the keypoints in the body's frame, how surely they are seen, in the photo and on the person, how far head
    and feet are from the photo's upper and lower edge, and how the outline fills it.
    """
    height, width = person.mask.shape
    frame = frame_of(person.points)
    places = (person.points - [frame.x, frame.y, 0]) / frame.size
    down = person.points[:, 1] / height
    edges = np.tanh(EDGE * np.concatenate([1 - down[FEET], down[HEAD]]))
    size = [frame.size / height, frame.size / width, person.score]
    seen = _logits(person.visible), _logits(person.present)
    points = places.clip(-FAR, FAR).ravel(), *seen, _on_person(person), down.clip(-1, 2)
    return np.concatenate([*points, edges, size, _filled(person)])


def _logits(shares: np.ndarray) -> np.ndarray:
    """How sure, on a scale without ends but for `SURE`: nearly all of BlazePose's shares are close to 0 or 1."""
    kept = shares.astype(np.float64).clip(SURE, 1 - SURE)
    return np.log(kept / (1 - kept))


def _on_person(person: Person) -> np.ndarray:
    """What the mask is at each keypoint, float64 (33,), 0 to 1; 0 beyond the photo, where points are guessed, too."""
    at = np.floor(person.points[:, :2]).astype(int)
    limits = np.array(person.mask.shape[::-1])
    x, y = at.clip(0, limits - 1).T
    return np.where(((at >= 0) & (at < limits)).all(axis=1), person.mask[y, x] / 255, 0)


def _filled(person: Person) -> list[float]:
    """How much of each edge of the photo the outline takes, how much of all, and where its top and bottom are."""
    outline = person.outline
    rows = np.flatnonzero(outline.any(axis=1)) / len(outline)
    sides = [float(edge.mean()) for edge in (outline[0], outline[-1], outline[:, 0], outline[:, -1])]
    return [*sides, float(outline.mean()), float(rows[0]), float(rows[-1])]


def mirrored(person: Person) -> Person:
    """The person as a mirror beside the photo shows it."""
    points = person.points[MIRRORED].copy()
    points[:, 0] = person.mask.shape[1] - points[:, 0]
    return Person(points, person.visible[MIRRORED], person.present[MIRRORED], person.mask[:, ::-1], person.score)


def pose_of(person: Person, orientation: Head, full_shot: Head) -> Pose:
    """How a person stands, by two heads."""
    features = pose_features(person)[None]
    probabilities = softmax(orientation.logits(features))[0]
    best = int(probabilities.argmax())
    full = float(sigmoid(full_shot.logits(features))[0, 0])
    is_full = full >= FULL_SHOT_LEAST
    return Pose(is_full, full if is_full else 1 - full, ORIENTATIONS[best], float(probabilities[best]))


def fit_orientation(persons: Sequence[Person], orientations: Sequence[str]) -> Head:
    """A head that tells `ORIENTATIONS`, learnt from n persons and their mirror images."""
    pairs = [*zip(persons, orientations, strict=True)]
    pairs += [(mirrored(person), OPPOSITE.get(name, name)) for person, name in pairs]
    targets = np.eye(len(ORIENTATIONS))[[ORIENTATIONS.index(name) for _, name in pairs]]
    return fit(np.array([pose_features(person) for person, _ in pairs]), targets)


def fit_full_shot(persons: Sequence[Person], full_shot: Sequence[bool], counts: Sequence[float]) -> Head:
    """A head of one output, whose sigmoid is the probability of a full shot; each person counts as much as is said."""
    both = [*persons, *map(mirrored, persons)]
    targets = np.array([*full_shot, *full_shot], float)
    features = np.array(list(map(pose_features, both)))
    head = fit(features, np.stack([targets, 1 - targets], axis=1), counts=np.array([*counts, *counts]))
    return Head(head.mean, head.scale, head.weights[:, :1] - head.weights[:, 1:], head.bias[:1] - head.bias[1:])


def fit(features: np.ndarray, targets: np.ndarray, penalty: float = PENALTY, counts: np.ndarray | None = None) -> Head:
    """A multinomial logistic head, by accelerated gradient descent from zero: the same data give the same head.

    Each class counts as much as another, however many samples it has.

    Args:
        features: float64 (n, d).
        targets: float64 (n, c), one class a row.
        penalty: of the squared weights.
        counts: float64 (n,), how much each sample counts beside others of its class; by default all the same.
    """
    counted = np.ones(len(features)) if counts is None else counts
    mean = np.average(features, axis=0, weights=counted)
    scale = np.maximum(np.sqrt(np.average((features - mean) ** 2, axis=0, weights=counted)), 1e-3)
    samples, counted = (features - mean) / scale, counted[:, None] * targets
    balance = (counted / np.maximum(counted.sum(axis=0), 1)).sum(axis=1, keepdims=True) / targets.shape[1]
    steepest = (np.linalg.norm(samples * np.sqrt(balance), 2) ** 2 + 1) / 2 + penalty
    weights, bias = np.zeros((samples.shape[1], targets.shape[1])), np.zeros(targets.shape[1])
    ahead = weights, bias
    for step in range(STEPS):
        error = balance * (softmax(samples @ ahead[0] + ahead[1]) - targets)
        new = ahead[0] - (samples.T @ error + penalty * ahead[0]) / steepest, ahead[1] - error.sum(axis=0) / steepest
        momentum = step / (step + 3)
        ahead = new[0] + momentum * (new[0] - weights), new[1] + momentum * (new[1] - bias)
        weights, bias = new
    return Head(mean, scale, weights, bias)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float (n, c), of logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
