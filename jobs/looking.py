"""The networks of the look, loaded: what jobs.look, the training and the benchmark see persons with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from infra import pretrained
from infra.interpreter import Network
from infra.lake import Lake
from jobs import detectors
from ml.articles import CLASSES
from ml.features import Extractor
from ml.look import pose, weights
from ml.look.articles import Article, ArticleFinder
from ml.look.keypoints import Person, find_persons
from ml.look.pose import Pose
from ml.look.sight import SIZE, Sight, views
from ml.look.weights import Learnt

WEIGHTS = Path(__file__).parent / "weights/pose.npz"
"""What `jobs.train_pose` has learnt; its card is beside it."""
BACKBONE = "efficientnet-lite0"
"""Of the registry, with which persons are seen."""
MOST, LEAST = 2, 0.3
"""Articles of a class that a person wears, at most, and how sure each has to be that is answered for."""


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


class Detector:
    """The `ArticleFinder` that `train_look` has trained."""

    source = "a detector of articles"

    def __init__(self, model) -> None:  # type: ignore[no-untyped-def]  # keras.Model
        from ml import article_network

        self._models = article_network.on_canvases(model)

    def __call__(self, image: np.ndarray, persons: Sequence[Person]) -> list[list[Article]]:
        """As `ArticleFinder`."""
        boxes = np.array([person.box for person in persons]).reshape(-1, 4)
        worn = [self._worn(image, person) for person in persons]
        return [[article for article in articles if _is_own(article, boxes, at)] for at, articles in enumerate(worn)]

    def _worn(self, image: np.ndarray, person: Person) -> list[Article]:
        from ml import article_network

        found, part = article_network.find_worn(self._models, image, person.box, MOST, LEAST, masks=True)
        of_class = () if found.masks is None else tuple(found.masks)
        masks = [_spread(mask, part, image.shape[:2]) for mask in of_class]
        articles = zip(found.boxes.tolist(), found.classes.tolist(), found.confidences.tolist(), strict=True)
        worn = [Article(CLASSES[place], tuple(box), confidence, masks[place]) for box, place, confidence in articles]
        return sorted(worn, key=lambda article: -article.confidence)


def _is_own(article: Article, persons: np.ndarray, wearer: int) -> bool:
    """Whether an article's middle is in its wearer's box, or in nobody's: of boxes of persons, float (n, 4)."""
    left, top, right, bottom = article.box
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    inside = np.all((middle >= persons[:, :2]) & (middle <= persons[:, 2:]), axis=1)
    return bool(inside.take(wearer) or not inside.any())


def _spread(mask: np.ndarray, part: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """A mask of a part of a photo, float32 (r, c), over all of it, uint8 (h, w), zero elsewhere."""
    left, top, right, bottom = part
    whole = np.zeros(size, np.uint8)
    grey = Image.fromarray(np.rint(255 * mask).astype(np.uint8))
    whole[top:bottom, left:right] = np.asarray(grey.resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    return whole


class Onlooker:
    """Sees persons with a backbone of photographs, whatever the catalogue's is. Not for two threads at once."""

    def __init__(self) -> None:
        """Load the backbone.

        Raises:
            UserError: its package is not installed.
        """
        self._extractor = Extractor(detectors.build_backbone(BACKBONE, *SIZE), len(Sight._fields))

    def __call__(self, image: np.ndarray, person: Person) -> Sight:
        """What is seen of a person of a photo, uint8 (h, w, 3)."""
        return Sight(*self._extractor(views(image, person)).average)


@dataclass(frozen=True)
class Models:
    """All that sees a look: persons, their poses, for whom their clothes are, and their articles."""

    eyes: Eyes
    onlooker: Onlooker
    learnt: Learnt
    find_articles: ArticleFinder

    def stand(self, image: np.ndarray, person: Person) -> tuple[Pose, str | None]:
        """How a person of a photo stands, and for whom the clothes are, as `SightHeads.gender` has it."""
        told = pose.pose_of(person, self.learnt.orientation, self.learnt.full_shot)
        return told, self.learnt.sight.gender(self.onlooker(image, person))


def load(lake: Lake, detector: str | None = None) -> Models:
    """The models that ship with this release, and a lake's detector of articles; without one keypoints give the boxes.

    `detector` is its SHA-256, empty for none, where another than the champion is meant.

    Raises:
        UserError: a network is not here, or the detector cannot be read.
    """
    sha256 = detectors.champion(lake) if detector is None else detector
    learnt = weights.from_bytes(WEIGHTS.read_bytes())
    return Models(Eyes(), Onlooker(), learnt, Detector(detectors.read(lake, sha256)) if sha256 else learnt.boxes)
