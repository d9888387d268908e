"""A group's medoid is exact: what a quadratic reference in integers finds, to the bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.medoids import medoids
from ml.similarity import UNIT, to_embedding


def reference(embeddings, groups):
    """Every pair, in integers: (−sum of similarities, index) of the best member of each group."""
    units = np.rint(embeddings.astype(np.float64) / UNIT).astype(np.int64)
    best = []
    for group in range(groups.max() + 1):
        members = np.flatnonzero(groups == group)
        best.append(min((-sum(int(units[i] @ units[j]) for j in members), int(i)) for i in members))
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.integers(1, 8))
def test_medoids_and_their_similarity_equal_an_integer_reference_with_ties_and_duplicates(seed, n, d, g):
    rng = np.random.default_rng(seed)
    features = rng.integers(-1, 3, (n, d))  # few values: many ties, and rows of zeros
    features[rng.integers(0, n, n // 3)] = features[0]  # duplicates of one image
    embeddings = to_embedding(features.astype(np.float32))
    groups = np.unique(rng.integers(0, g, n), return_inverse=True)[1]
    found, similarity = medoids(embeddings, groups)
    expected = reference(embeddings, groups)
    assert found.tolist() == [index for _, index in expected]
    assert similarity.tolist() == [
        -total * UNIT**2 / n for (total, _), n in zip(expected, np.bincount(groups), strict=True)
    ]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_result_does_not_depend_on_the_order_in_which_dimensions_are_summed(seed):
    rng = np.random.default_rng(seed)
    embeddings = to_embedding(rng.exponential(size=(200, 1280)))
    groups = rng.integers(0, 3, 200)
    shuffled = embeddings[:, rng.permutation(1280)]
    for one, other in zip(medoids(embeddings, groups), medoids(shuffled, groups), strict=True):
        assert np.array_equal(one, other)


def test_the_medoid_is_the_middle_one_and_not_the_odd_one_out():
    features = np.array([[1, 0.2], [1, 0], [-1, 0], [1, -0.2]], np.float32)
    assert medoids(to_embedding(features), np.zeros(4, int))[0].tolist() == [1]


def test_a_group_of_one_is_its_own_medoid_and_resembles_itself_fully():
    found, similarity = medoids(to_embedding(np.eye(3, dtype=np.float32)), np.array([2, 0, 1]))
    assert found.tolist() == [1, 2, 0]
    assert similarity.tolist() == [1, 1, 1]


def test_equal_members_give_the_one_with_the_smallest_index():
    embeddings = to_embedding(np.ones((5, 7), np.float32))
    assert medoids(embeddings, np.array([1, 0, 1, 0, 0]))[0].tolist() == [1, 0]


def test_no_products_have_no_medoids():
    found, similarity = medoids(np.empty((0, 4), np.float32), np.empty(0, int))
    assert len(found) == len(similarity) == 0
