"""The networks of the look, loaded: what jobs.look, the training and the benchmark see persons with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra import pretrained
from infra.interpreter import Network
from ml.look import pose, weights
from ml.look.articles import ArticleFinder
from ml.look.keypoints import Person, find_persons
from ml.look.pose import Pose
from ml.look.weights import Learnt

WEIGHTS = Path(__file__).parent / "weights/pose.npz"
"""What `jobs.train_pose` has learnt; its card is beside it."""


class Eyes:
    """Finds the persons of photos. Not for two threads at once."""

    def __init__(self) -> None:
        """Load the networks.

        Raises:
            UserError: one is not here.
        """
        self._detect = Network(pretrained.read("pose_detection"))
        self._landmarks = Network(pretrained.read("pose_landmark_full"))

    def __call__(self, image: np.ndarray) -> list[Person]:
        """The persons of a photo, uint8 (h, w, 3), the largest first."""
        return find_persons(image, self._detect, self._landmarks)


@dataclass(frozen=True)
class Models:
    """All that sees a look: persons, their poses and their articles."""

    eyes: Eyes
    learnt: Learnt
    find_articles: ArticleFinder

    def pose(self, person: Person) -> Pose:
        """How a person stands."""
        return pose.pose_of(person, self.learnt.orientation, self.learnt.full_shot)


def load() -> Models:
    """The models that ship with this release; boxes are drawn from keypoints until there is a detector of articles.

    Raises:
        UserError: a network is not here.
    """
    learnt = weights.from_bytes(WEIGHTS.read_bytes())
    return Models(Eyes(), learnt, learnt.boxes)
