"""The rules of image search: what is guessed, how sure it is, and where that leads."""

import numpy as np
import pytest

from ml import stages
from ml.stages import DERIVED_TYPE, FILTERS, SUBCATEGORY, Guess, Nearest

LABELS = ["Bags", "Shoes", "Watches"]
P = np.array([0.2, 0.7, 0.1], np.float32)


def guess(confidence: float, value: str = "x", least: float = 0.5) -> Guess:
    return Guess(value, confidence, least)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (LABELS, ("Shoes", 0.7)),
        (["Bags", "Watches"], ("Bags", 0.2)),  # not scaled to what is left
        (["Watches"], ("Watches", 1.0)),  # nothing else is left
        (["Belts", "Watches"], ("Watches", 0.1)),  # one that the classifier does not know
        (["Belts", "Caps"], ("Belts", 0.0)),
    ],
)
def test_the_likeliest_subcategory_that_the_filters_leave_is_guessed(left, expected):
    found = stages.guess_subcategory(P, LABELS, left)
    assert (found.value, found.confidence) == (expected[0], pytest.approx(expected[1]))


def test_without_a_classifier_the_filters_alone_decide_and_the_answer_says_so():
    decision = stages.decide(np.empty(0, np.float32), [], None)
    assert (decision.stage, decision.subcategory, decision.derived_type) == (FILTERS, None, None)
    assert "has no classifier" in decision.why


def test_no_subcategory_is_guessed_where_no_product_passes():
    assert stages.guess_subcategory(P, LABELS, []) is None


def nearest(**similarities: float) -> Nearest:
    """Products or candidates `type_number=similarity`."""
    types = [name.split("_")[0] for name in similarities]
    return Nearest([None if name == "none" else name for name in types], np.array(list(similarities.values())))


def by_the_formula(candidates: Nearest, neighbours: Nearest) -> dict[str, float]:
    """Share of each candidate's type, written out."""
    votes = [np.exp(s / stages.VOTE_TEMPERATURE) for s in neighbours.similarities]
    near = [np.exp(s / stages.CANDIDATE_TEMPERATURE) for s in candidates.similarities]
    return {
        name: stages.VOTE_SHARE * sum(v for v, t in zip(votes, neighbours.types, strict=True) if t == name) / sum(votes)
        + (1 - stages.VOTE_SHARE) * own / sum(near)
        for name, own in zip(candidates.types, near, strict=True)
    }


@pytest.mark.parametrize(
    ("candidates", "neighbours"),
    [
        (nearest(a=0.9, b=0.2), nearest(a_1=0.9, a_2=0.88, b_1=0.85)),
        (nearest(a=0.9, b=0.2), nearest(b_1=0.9, b_2=0.9, a_1=0.85)),
        (nearest(a=0.4, b=0.5, c=0.6), nearest(a_1=0.7, none_1=0.7, c_1=0.69)),
        (nearest(a=0.4, b=0.5), nearest(c_1=0.7, none_1=0.7)),  # no vote for a candidate: the nearer one
        (nearest(a=0.4, b=0.5), nearest()),
    ],
)
def test_votes_and_candidates_decide_the_derived_type_together(candidates, neighbours):
    found = stages.guess_derived_type(candidates, neighbours)
    if len(neighbours.types):
        shares = by_the_formula(candidates, neighbours)
        assert found.value == max(shares, key=shares.get)
        assert found.confidence == pytest.approx(shares[found.value])
    else:
        assert found.value == "b"
    assert 0 <= found.confidence <= 1


def test_the_only_derived_type_left_is_certain_and_none_left_is_none():
    assert stages.guess_derived_type(nearest(a=-0.3), nearest(none_1=0.2)).confidence == 1
    assert stages.guess_derived_type(nearest(), nearest(none_1=0.2)) is None


def test_equal_candidates_go_to_the_first_in_order():
    assert stages.guess_derived_type(nearest(a=0.5, b=0.5), nearest(a_1=0.9, b_1=0.9)).value == "a"


@pytest.mark.parametrize(
    ("subcategory", "derived_type", "stage", "words"),
    [
        (None, None, FILTERS, ["no product passes"]),
        (guess(0.49, "Bags"), None, FILTERS, ["subCategory is uncertain", "Bags with 0.49", "0.50"]),
        (guess(0.5), None, SUBCATEGORY, ["no product of x", "derivedType"]),
        (
            guess(0.5),
            guess(0.39, "Men Bags", 0.4),
            SUBCATEGORY,
            ["derivedType is uncertain", "Men Bags with 0.39", "0.40"],
        ),
        (guess(0.5), guess(0.4, "Men Bags", 0.4), DERIVED_TYPE, ["certain enough"]),
    ],
)
def test_an_unsure_stage_hands_over_to_the_one_before_it_and_says_why(subcategory, derived_type, stage, words):
    found, why = stages.choose_stage(subcategory, derived_type)
    assert found == stage
    assert all(word in why for word in words), why


class Shelf:
    """Surroundings written out: subCategory → candidates and neighbours."""

    def __init__(self, **shelves):
        self.subcategories, self._shelves = list(shelves), shelves

    def candidates(self, subcategory):
        return self._shelves[subcategory][0]

    def neighbours(self, subcategory):
        return self._shelves[subcategory][1]


def test_the_derived_type_is_sought_in_the_guessed_subcategory():
    bags, shoes = (nearest(a=0.9), nearest(a_1=0.9)), (nearest(b=0.2, c=0.3), nearest(b_1=0.2, c_1=0.3))
    found = stages.decide(P, LABELS, Shelf(Bags=bags, Shoes=shoes))
    assert (found.subcategory.value, found.derived_type.value, found.stage) == ("Shoes", "c", DERIVED_TYPE)


def test_where_the_classifier_is_unsure_no_derived_type_is_asked_for():
    found = stages.decide(P, LABELS, Shelf(Bags=None, Belts=None))
    assert (found.stage, found.derived_type, found.subcategory.value) == (FILTERS, None, "Bags")


@pytest.mark.parametrize(
    ("similarities", "expected"),
    [
        ([0.3, 0.9, 0.89, 0.2], 1),  # what is nearly as much like it is of the same kind
        ([0.3, 0.84, 0.2, 0.9], 3),
        ([0.3, 0.85, 0.2, 0.9], None),
        ([-0.2, -0.4, -0.3, -0.5], 0),
    ],
)
def test_a_kind_is_clear_where_no_product_of_another_looks_nearly_as_much_alike(similarities, expected):
    assert pytest.approx(0.06) == stages.CLEAR
    assert stages.clear_kind(np.array(similarities), np.array([0, 1, 1, 2])) == expected


def test_where_all_products_are_of_one_kind_it_is_clear():
    assert stages.clear_kind(np.array([0.1, 0.2]), np.array([7, 7])) == 1
