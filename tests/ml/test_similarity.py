"""Similarity is exact: equal ids and equal scores, to the bit, whatever computes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.similarity import UNIT, nearest, to_embedding


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 256, 1280, 2048]))
def test_float32_products_equal_int64_products_to_the_bit_whatever_the_block(seed, d):
    rng = np.random.default_rng(seed)
    embeddings = to_embedding(rng.exponential(size=(50, d)) * (rng.random((50, d)) < 0.3))
    units = np.rint(embeddings / UNIT).astype(np.int64)
    exact = units @ units.T
    whole = embeddings @ embeddings.T
    blocks = np.concatenate([embeddings[at : at + 7] @ embeddings.T for at in range(0, 50, 7)])
    assert np.array_equal(whole.astype(np.float64) / UNIT**2, exact)
    assert np.array_equal(whole, blocks)
    assert np.array_equal(whole, embeddings[:, ::-1] @ embeddings[:, ::-1].T)


def test_an_embedding_has_unit_length_and_entries_on_the_grid():
    embeddings = to_embedding(np.random.default_rng(0).normal(size=(20, 256)))
    assert embeddings.dtype == np.float32
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() < 2e-3
    assert np.array_equal(np.rint(embeddings / UNIT) * UNIT, embeddings)


def test_a_row_of_zeros_stays_zero():
    assert not to_embedding(np.zeros((1, 4))).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(value):
    features = np.ones((5, 3))
    features[3, 1] = value
    with pytest.raises(ValueError, match="row 3 "):
        to_embedding(features)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 20))
def test_the_nearest_are_those_of_a_full_sort_with_ties_to_the_smaller_index(values, k):
    scores = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda at: (-values[at], at))[:k]
    assert nearest(scores, k).tolist() == expected
