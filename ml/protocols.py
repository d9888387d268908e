"""Protocols that measure without a store, thousands at a time: unknown images, and copies of photos.

How good image search is for images that it has never seen: the images of one side (`ml.split`) are asked for, and the
catalogue that is searched is that of the products of the sides before it, whose candidates are chosen anew: the test
side is searched for among the training and validation sides, the validation side among the training side alone. So no
label of an image asked for is used by anything, and the same picture never stands on both sides. What is done with each
image is what the live search does (`ml.stages.decide`).

Source of the measure: the seed report's 5,000 unknown images, where a product is wrong when any of its recommendations
has a wrong gender or articleType.

Copies of a photo that are still that photo, recompressed or cropped, are what a search has to recognise.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from ml.medoids import medoids
from ml.similarity import nearest
from ml.split import TEST, TRAIN, VALIDATION
from ml.stages import DERIVED_TYPE, NEIGHBOURS, STAGES, SUBCATEGORY, Decision, Guess, Nearest, decide

K = 10
SEARCHED = {VALIDATION: (TRAIN,), TEST: (TRAIN, VALIDATION)}
"""Side whose images are asked for → sides whose products are searched."""
KIND = ("gender", "articleType")
"""What a recommendation must share with the image."""
ATTRIBUTES = (*KIND, "subCategory", "derivedType")
BINS = 10
QUALITY = 60
"""JPEG quality of the recompressed copy."""
CROPPED = 0.04
"""Share of the width and height that the cropped copy lacks at each side."""
_BLOCK = 256


@dataclass(frozen=True)
class Catalogue:
    """The n products that are searched, by ascending id.

    `embeddings` is float32 (n, e) in fixed point; `attributes` has an object array (n,) for each of `ATTRIBUTES`, None
    where a product has none.
    """

    embeddings: np.ndarray
    attributes: Mapping[str, np.ndarray]

    @cached_property
    def members(self) -> dict[str, dict[str, np.ndarray]]:
        """Indices of the products with each value of subCategory and of derivedType."""
        return {name: _members(self.attributes[name]) for name in ("subCategory", "derivedType")}

    @cached_property
    def types(self) -> dict[str, list[str]]:
        """DerivedTypes of the products of each subCategory, in alphabetical order."""
        types = self.attributes["derivedType"]
        return {name: sorted(set(types[members]) - {None}) for name, members in self.members["subCategory"].items()}

    @cached_property
    def candidates(self) -> dict[str, int]:
        """Index of each derivedType's medoid."""
        groups = self.members["derivedType"]
        rows = np.concatenate(list(groups.values())) if groups else np.empty(0, int)
        sizes = [len(members) for members in groups.values()]
        best, _ = medoids(self.embeddings[rows], np.repeat(np.arange(len(groups)), sizes))
        return dict(zip(groups, rows[best].tolist(), strict=True))

    def search(self, queries: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> Iterator[Found]:
        """What image search does with each image, without filters.

        Args:
            queries: float32 (q, e), the images' embeddings.
            probabilities: float32 (q, c), of the subCategories in `labels`.
            labels: their c names.
        """
        for at in range(0, len(queries), _BLOCK):
            scores = queries[at : at + _BLOCK] @ self.embeddings.T
            for scores_of_image, chances in zip(scores, probabilities[at : at + _BLOCK], strict=True):
                decision = decide(chances, labels, _Around(self, scores_of_image))
                yield Found(decision, self._list(decision, scores_of_image))

    def _list(self, decision: Decision, scores: np.ndarray) -> np.ndarray:
        members = np.arange(len(scores))
        if decision.stage == DERIVED_TYPE and decision.derived_type:
            members = self.members["derivedType"][decision.derived_type.value]
        elif decision.stage == SUBCATEGORY and decision.subcategory:
            members = self.members["subCategory"][decision.subcategory.value]
        return members[nearest(scores[members], K)]


def _members(values: np.ndarray) -> dict[str, np.ndarray]:
    """Ascending indices of the places of each value that is not None, by value."""
    known = np.flatnonzero(values != None)  # noqa: E711  # element by element
    names, groups = np.unique(values[known].astype(str), return_inverse=True)
    order, ends = np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups, minlength=len(names)))
    return dict(zip(names.tolist(), np.split(known[order], ends[:-1]), strict=True)) if len(names) else {}


@dataclass(frozen=True)
class _Around:
    """The catalogue as one image sees it: `ml.stages.Surroundings` from its similarities to all products, (n,)."""

    catalogue: Catalogue
    scores: np.ndarray

    @property
    def subcategories(self) -> Collection[str]:
        return self.catalogue.members["subCategory"]

    def candidates(self, subcategory: str) -> Nearest:
        types = self.catalogue.types[subcategory]
        return Nearest(types, self.scores[[self.catalogue.candidates[name] for name in types]])

    def neighbours(self, subcategory: str) -> Nearest:
        members = self.catalogue.members["subCategory"][subcategory]
        best = members[nearest(self.scores[members], NEIGHBOURS)]
        return Nearest(self.catalogue.attributes["derivedType"][best].tolist(), self.scores[best])


@dataclass(frozen=True)
class Found:
    """What became of an image: the decision, and the catalogue's indices of the products recommended, best first."""

    decision: Decision
    items: np.ndarray


def choose_queries(
    hashes: np.ndarray, sides: np.ndarray, attributes: Mapping[str, np.ndarray], most: int, side: int
) -> np.ndarray:
    """Indices of up to `most` products of a side to ask for: one an image, that of the smallest index, by hash.

    Args:
        hashes: str (n,), of the products' images.
        sides: int8 (n,), of the images.
        attributes: as in `Catalogue`; a product that lacks one cannot be judged and is not asked for.
        most: images to ask for.
        side: whose images.
    """
    known = sides == side
    for values in attributes.values():
        known &= values != None  # noqa: E711  # element by element
    rows = np.flatnonzero(known)
    _, first = np.unique(hashes[rows], return_index=True)
    return rows[first[:most]]


def figures(answers: Sequence[Found], wanted: Mapping[str, np.ndarray], catalogue: Catalogue) -> dict[str, float]:
    """How good the answers are, in percent of the images; NaN where there are none.

    `subcategory` and `derived`: the guess is right; one that was not made is wrong. `all10`: none of the products
    recommended has a wrong gender or articleType, and there is at least one. `short`: fewer than ten are recommended.
    `in_<stage>`: where was searched. `confidence` and `calibration_error`: mean confidence of the derivedTypes guessed,
    and how far it is off the share that is right, on average over ten bins (expected calibration error, Naeini, Cooper,
    Hauskrecht 2015).

    Args:
        answers: of the q images.
        wanted: attribute → object (q,), what they show.
        catalogue: that they were searched for in.
    """
    right = judge(answers, wanted, catalogue)
    confidences, sure = confidences_of(answers), right["derived"]
    counts, means, shares = calibration(confidences, sure)
    stages = np.array([answer.decision.stage for answer in answers], object)
    return {
        **{name: _percent(values) for name, values in right.items()},
        "short": _percent(np.array([len(answer.items) < K for answer in answers], bool)),
        **{f"in_{stage}": _percent(stages == stage) for stage in STAGES},
        "confidence": _percent(confidences[~np.isnan(confidences)]),
        "calibration_error": 100 * float(np.nansum(counts * np.abs(means - shares)) / counts.sum())
        if counts.sum()
        else float("nan"),
    }


def judge(answers: Sequence[Found], wanted: Mapping[str, np.ndarray], catalogue: Catalogue) -> dict[str, np.ndarray]:
    """Which answers are right, bool (q,) each: `subcategory`, `derived`, `all10`. Arguments as those of `figures`."""
    subcategories = [answer.decision.subcategory for answer in answers]
    types = [answer.decision.derived_type for answer in answers]
    all10 = [
        len(answer.items) > 0
        and all((catalogue.attributes[name][answer.items] == wanted[name][at]).all() for name in KIND)
        for at, answer in enumerate(answers)
    ]
    return {
        "subcategory": _equal(subcategories, wanted["subCategory"]),
        "derived": _equal(types, wanted["derivedType"]),
        "all10": np.array(all10, bool),
    }


def calibration(confidences: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By tenth of confidence, float (10,) each: how many guesses, their mean confidence, the share that is right.

    Args:
        confidences: float (q,), 0 to 1; NaN where no guess was made.
        right: bool (q,).
    """
    made = ~np.isnan(confidences)
    tenths = np.minimum((confidences[made] * BINS).astype(int), BINS - 1)
    counts, sums, hits = (
        np.bincount(tenths, weights=weights, minlength=BINS) for weights in (None, confidences[made], right[made])
    )
    with np.errstate(invalid="ignore"):
        return counts, sums / counts, hits / counts


def confidences_of(answers: Sequence[Found]) -> np.ndarray:
    """Of the derivedTypes guessed, float (q,); NaN where none was."""
    guesses = [answer.decision.derived_type for answer in answers]
    return np.array([guess.confidence if guess else np.nan for guess in guesses], float)


def _equal(guesses: Sequence[Guess | None], wanted: np.ndarray) -> np.ndarray:
    pairs = zip(guesses, wanted.tolist(), strict=True)
    return np.array([guess is not None and guess.value == value for guess, value in pairs], bool)


def _percent(values: np.ndarray) -> float:
    return 100 * float(values.mean()) if len(values) else float("nan")


def copies(image: np.ndarray) -> dict[str, bytes]:
    """A `recompressed` copy of an image, uint8 (h, w, 3), as JPEG and a `cropped` one, otherwise unchanged, as PNG."""
    height, width = image.shape[:2]
    y, x = round(CROPPED * height), round(CROPPED * width)
    recompressed, cropped = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(recompressed, "JPEG", quality=QUALITY)
    Image.fromarray(image[y : height - y, x : width - x]).save(cropped, "PNG")
    return {"recompressed": recompressed.getvalue(), "cropped": cropped.getvalue()}
