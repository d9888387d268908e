"""What an image that is not in the catalogue shows, and where to look for what is like it.

The rules of image search, stage by stage: the subCategory by the classifier, the derivedType by candidates and by
vote of the nearest products, and the stage to search in. A stage that is unsure hands over to the one before it, which
asks less of the image: derivedType → subCategory → the caller's filters alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

SUBCATEGORY_LEAST, DERIVED_TYPE_LEAST = 0.5, 0.4
"""Least confidence that is acted on. Of 3,000 images of the validation side, 33 % of the subCategories below it were
right and 37 % of the derivedTypes (trained embedding: 21 %). In a wrong derivedType there is no right product, in the
subCategory there may be some; but each tenth that the second bound is raised by costs lists that are all right."""
NEIGHBOURS = 20
"""Nearest products of the subCategory that vote on the derivedType."""
VOTE_TEMPERATURE, CANDIDATE_TEMPERATURE = 0.02, 0.1
"""How far in similarity a vote, or a candidate, must lie behind the first to count 1/e of it."""
VOTE_SHARE = 0.8
"""Weight of the vote in a confidence; that of the candidates is the rest. On those 3,000 images (untrained embedding /
trained): candidates alone 42 / 72 % right, vote alone 73.9 / 75.5 % with its confidence 0.08 / 0.16 off, both together
74.0 / 75.5 % and 0.05 / 0.10 off (expected calibration error, ten bins). Chosen there, not on the test side."""

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
