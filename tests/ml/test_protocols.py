"""The protocol for unknown images against the rules spelled out in loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import protocols, stages
from ml.protocols import Catalogue, Found
from ml.similarity import to_embedding
from ml.split import TEST, TRAIN, VALIDATION
from ml.stages import Decision, Guess, Nearest

LABELS = ["Bags", "Shoes", "Watches"]


def objects(*values):
    return np.array(values, object)


def attributes(rng, n):
    """Random attributes, some missing; a derivedType is `gender articleType`, as everywhere."""
    found = {
        "gender": rng.choice(objects("Men", "Women", None), n, p=[0.5, 0.4, 0.1]),
        "articleType": rng.choice(objects("Clutches", "Heels", "Totes", None), n, p=[0.3, 0.3, 0.3, 0.1]),
        "subCategory": rng.choice(objects("Bags", "Shoes", "Belts", None), n, p=[0.4, 0.3, 0.2, 0.1]),
    }
    kinds = zip(found["gender"], found["articleType"], strict=True)
    return found | {"derivedType": objects(*(f"{g} {a}" if g and a else None for g, a in kinds))}


class Loops:
    """The catalogue as one image sees it, by loops over all products."""

    def __init__(self, embeddings, of, query):
        self.of, self.embeddings = of, embeddings
        self.scores = [float(embedding @ query) for embedding in embeddings]
        self.subcategories = {name for name in of["subCategory"] if name}

    def members(self, field, value):
        return [i for i, name in enumerate(self.of[field]) if name == value]

    def best(self, members, k):
        return sorted(members, key=lambda i: (-self.scores[i], i))[:k]

    def candidates(self, subcategory):
        types = sorted({self.of["derivedType"][i] for i in self.members("subCategory", subcategory)} - {None})
        return Nearest(types, np.array([self.scores[self.medoid(name)] for name in types]))

    def medoid(self, name):
        members = self.members("derivedType", name)
        return max(members, key=lambda i: (sum(float(self.embeddings[i] @ self.embeddings[j]) for j in members), -i))

    def neighbours(self, subcategory):
        best = self.best(self.members("subCategory", subcategory), stages.NEIGHBOURS)
        return Nearest([self.of["derivedType"][i] for i in best], np.array([self.scores[i] for i in best]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_each_image_is_answered_as_by_loops_over_all_products(seed, n):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 6))
    embeddings, queries = (to_embedding(centres[rng.integers(0, 4, m)] + 0.3 * rng.normal(size=(m, 6))) for m in (n, 9))
    probabilities = rng.dirichlet([0.4] * 3, 9).astype(np.float32)
    of = attributes(rng, n)
    found = list(Catalogue(embeddings, of).search(queries, probabilities, LABELS))
    assert len(found) == 9
    for query, chances, answer in zip(queries, probabilities, found, strict=True):
        loops = Loops(embeddings, of, query)
        decision = stages.decide(chances, LABELS, loops)
        assert answer.decision == decision
        members = list(range(n))
        if decision.stage == stages.DERIVED_TYPE:
            members = loops.members("derivedType", decision.derived_type.value)
        elif decision.stage == stages.SUBCATEGORY:
            members = loops.members("subCategory", decision.subcategory.value)
        assert answer.items.tolist() == loops.best(members, 10)


def test_one_product_of_each_image_of_the_side_is_asked_for_in_the_order_of_the_hashes():
    hashes = np.array(["d", "b", "b", "a", "c", "e"])
    sides = np.array([TEST, TEST, TEST, TRAIN, TEST, TEST])
    of = {name: objects(*"xxxxxx") for name in protocols.ATTRIBUTES} | {
        "gender": objects("x", "x", "x", "x", "x", None)
    }
    assert protocols.choose_queries(hashes, sides, of, 10, TEST).tolist() == [1, 4, 0]
    assert protocols.choose_queries(hashes, sides, of, 2, TEST).tolist() == [1, 4]
    assert protocols.choose_queries(hashes, sides, of, 2, VALIDATION).tolist() == []


def answer(stage, subcategory, derived_type, items, confidence=0.9):
    guess = Guess(derived_type, confidence, 0.3) if derived_type else None
    return Found(Decision(stage, "", Guess(subcategory, 0.8, 0.3), guess), np.array(items, int))


def test_the_figures_count_right_guesses_right_lists_and_stages():
    of = {
        "gender": objects("Men", "Men", "Women"),
        "articleType": objects("Heels", "Heels", "Heels"),
        "subCategory": objects("Shoes", "Shoes", "Shoes"),
        "derivedType": objects("Men Heels", "Men Heels", "Women Heels"),
    }
    catalogue = Catalogue(np.zeros((3, 2), np.float32), of)
    found = [
        answer("derivedType", "Shoes", "Men Heels", [0, 1]),
        answer("derivedType", "Bags", "Women Heels", [2]),  # the derivedType is wrong, and so is the subCategory
        answer("filters", "Shoes", None, [0, 2]),  # a neighbour of the wrong gender
        answer("subCategory", "Shoes", "Men Heels", [], 0.5),  # right, but nothing is recommended
    ]
    wanted = {name: values[[0, 0, 0, 0]] for name, values in of.items()}
    figures = protocols.figures(found, wanted, catalogue)
    assert (figures["subcategory"], figures["derived"], figures["all10"]) == (75, 50, 25)
    assert (figures["in_derivedType"], figures["in_subCategory"], figures["in_filters"]) == (50, 25, 25)
    assert figures["short"] == 100
    assert figures["confidence"] == pytest.approx(100 * 2.3 / 3)
    assert figures["calibration_error"] == pytest.approx(100 * (2 * abs(0.9 - 0.5) + abs(0.5 - 1)) / 3)


def test_without_an_image_the_figures_are_nan():
    catalogue = Catalogue(np.zeros((0, 2), np.float32), {name: objects() for name in protocols.ATTRIBUTES})
    figures = protocols.figures([], {name: objects() for name in protocols.ATTRIBUTES}, catalogue)
    assert all(math.isnan(value) for value in figures.values())


def test_calibration_leaves_out_guesses_that_were_not_made_and_tenths_that_are_empty():
    counts, means, shares = protocols.calibration(
        np.array([0.31, 0.39, 1.0, np.nan]), np.array([True, False, True, True])
    )
    assert counts.tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    assert (means[3], shares[3]) == (pytest.approx(0.35), 0.5)
    assert (means[9], shares[9]) == (1, 1)
    assert np.isnan(means[0])
