"""What an image that is not in the catalogue shows, and where to look for what is like it.

The rules of image search, stage by stage: the subCategory by the classifier, the derivedType by candidates and by
vote of the nearest products, and the stage to search in. A stage that is unsure hands over to the one before it, which
asks less of the image: derivedType → subCategory → the caller's filters alone. The live search and the evaluation
(`ml.protocols`) look at the catalogue in ways of their own, and both decide by `decide`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SUBCATEGORY_LEAST, DERIVED_TYPE_LEAST = 0.3, 0.2
"""Least confidence that is acted on. In a wrong derivedType there is no right product, but where a guess is unsure a
search in the subCategory alone is all right for hardly any image: higher bounds cost lists that are all right (the
second at 0.3: none with a tuned backbone, 3 points with the untrained embedding)."""
NEIGHBOURS = 20
"""Nearest products of the subCategory that vote on the derivedType. Asking all products, so that they may overrule the
classifier, is right as often (79.3 % restricted, 79.2 % not), and takes five times as long."""
VOTE_TEMPERATURE, CANDIDATE_TEMPERATURE = 0.01, 0.09
"""How far in similarity a vote, or a candidate, must lie behind the first to count 1/e of it."""
VOTE_SHARE = 0.5
"""Weight of the vote in a confidence; that of the candidates is the rest. Tuned backbone: right for 81.9 % with a
confidence 0.08 off (expected calibration error, ten bins); weights of 0.3 and 0.7 (with a candidate temperature of
0.04) 81.7 and 82.0 %. Untrained embedding: candidates alone are right for 42 %, the vote alone for 73.9 %, both for
74.5 %.

All of these were chosen on the 3,471 images of the validation side of the real catalogue, searched for among the
products of the training side, and none on the test side: `benchmarks/quality.py --side validation`."""

CLEAR = 0.06
"""How much more an image must look like a product than like any of another kind, as cosines, to be of its kind. On the
validation side of the real catalogue: see benchmarks/RESULTS.md."""

DERIVED_TYPE, SUBCATEGORY, FILTERS = STAGES = ("derivedType", "subCategory", "filters")


@dataclass(frozen=True)
class Guess:
    """What a stage takes an image for, how sure it is, 0 to 1, and the least that is acted on."""

    value: str
    confidence: float
    least: float

    @property
    def sure(self) -> bool:
        """Whether to act on it."""
        return self.confidence >= self.least


@dataclass(frozen=True)
class Nearest:
    """Products or candidates by similarity to the image: the derivedType of each (None: it has none) and float (n,)."""

    types: Sequence[str | None]
    similarities: np.ndarray


class Surroundings(Protocol):
    """The catalogue as one image sees it: the products that pass the caller's filters, by similarity to the image."""

    @property
    def subcategories(self) -> Collection[str]:
        """SubCategories of the products."""

    def candidates(self, subcategory: str) -> Nearest:
        """The candidate of each derivedType that the products of a subCategory have, in alphabetical order."""

    def neighbours(self, subcategory: str) -> Nearest:
        """The `NEIGHBOURS` nearest products of a subCategory."""


@dataclass(frozen=True)
class Decision:
    """The stage to search in, one of `STAGES`, why, and what led there; a guess that was not asked for is None."""

    stage: str
    why: str
    subcategory: Guess | None
    derived_type: Guess | None


def clear_kind(similarities: np.ndarray, kinds: np.ndarray) -> int | None:
    """The product whose kind an image has by its looks alone: that which it looks most like, its place.

    None where one of another kind looks nearly as much like it, by less than `CLEAR`. What is told is a kind, not a
    product: two pictures of one product, or of its colours, are no doubt (a margin to the nearest of another class, as
    between the two nearest of all in Lowe 2004, section 7.1).

    Args:
        similarities: float (n,), cosines of looks.
        kinds: int (n,), which products are of one kind.
    """
    best = int(similarities.argmax())
    rivals = similarities[kinds != kinds[best]]
    return best if similarities[best] - rivals.max(initial=-1.0) >= CLEAR else None


def decide(probabilities: np.ndarray, labels: Sequence[str], around: Surroundings) -> Decision:
    """What an image is taken for, and the stage to search in: the rules of this module one after the other.

    Args:
        probabilities: float32 (c,), of each subCategory.
        labels: names of the c subCategories; none: there is no classifier.
        around: where it is looked up.
    """
    if not labels:
        return Decision(FILTERS, "the run has no classifier that could name a subCategory", None, None)
    subcategory = guess_subcategory(probabilities, labels, around.subcategories)
    derived_type = None
    if subcategory and subcategory.sure:
        name = subcategory.value
        derived_type = guess_derived_type(around.candidates(name), around.neighbours(name))
    return Decision(*choose_stage(subcategory, derived_type), subcategory, derived_type)


def guess_subcategory(probabilities: np.ndarray, labels: Sequence[str], left: Collection[str]) -> Guess | None:
    """The likeliest of the subCategories that the caller's filters leave; None where they leave none.

    Its confidence is the classifier's probability, and 1 where the filters leave no other. It is not scaled to what is
    left: an image of a shoe is no bag, though it is searched for among bags and watches.

    Args:
        probabilities: float32 (c,).
        labels: names of the c classes.
        left: subCategories of the products that pass the filters.
    """
    if not left:
        return None
    probability = dict(zip(labels, probabilities.tolist(), strict=True))
    best = min(left, key=lambda name: (-probability.get(name, 0.0), name))
    return Guess(best, 1.0 if len(left) == 1 else probability.get(best, 0.0), SUBCATEGORY_LEAST)


def guess_derived_type(candidates: Nearest, neighbours: Nearest) -> Guess | None:
    """The derivedType that candidates and neighbours speak for; None where no candidate is left.

    Its confidence is the mean, weighted by `VOTE_SHARE`, of its share of the neighbours' votes and of its candidate's
    share among all candidates, where each vote and candidate counts exp(similarity / temperature). Neighbours without a
    derivedType vote for none. The only one left is certain. Ties go to the type that comes first in `candidates`.

    Args:
        candidates: one for each derivedType that the subCategory and the caller's filters leave.
        neighbours: the products nearest to the image among those.
    """
    if not candidates.types:
        return None
    if len(candidates.types) == 1:
        return Guess(str(candidates.types[0]), 1.0, DERIVED_TYPE_LEAST)
    votes = _weights(neighbours.similarities, VOTE_TEMPERATURE)
    voted = np.zeros(len(candidates.types))
    place = {name: at for at, name in enumerate(candidates.types)}
    for name, vote in zip(neighbours.types, votes, strict=True):
        if name in place:
            voted[place[name]] += vote
    shares = VOTE_SHARE * voted + (1 - VOTE_SHARE) * _weights(candidates.similarities, CANDIDATE_TEMPERATURE)
    best = int(shares.argmax())
    return Guess(str(candidates.types[best]), float(shares[best]), DERIVED_TYPE_LEAST)


def _weights(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of similarities, float64 (n,)."""
    values = similarities.astype(np.float64)
    weights = np.exp((values - values.max(initial=-np.inf)) / temperature)
    return weights / weights.sum() if len(weights) else weights


def choose_stage(subcategory: Guess | None, derived_type: Guess | None) -> tuple[str, str]:
    """The stage to search in, one of `STAGES`, and why, in words.

    Args:
        subcategory: None where no product passes the filters.
        derived_type: None where it was not asked for, or the products that are left have none.
    """
    if subcategory is None:
        return FILTERS, "no product passes the filters"
    if not subcategory.sure:
        return FILTERS, f"the subCategory is uncertain: {_words(subcategory)}"
    if derived_type is None:
        return SUBCATEGORY, f"no product of {subcategory.value} that passes the filters has a derivedType"
    if not derived_type.sure:
        return SUBCATEGORY, f"the derivedType is uncertain: {_words(derived_type)}"
    return DERIVED_TYPE, "subCategory and derivedType are certain enough"


def _words(guess: Guess) -> str:
    return f"{guess.value} with {guess.confidence:.2f}, and {guess.least:.2f} is the least to act on"
