"""Similarity is exact: equal ids and equal scores, to the bit, whatever computes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.similarity import UNIT, to_embedding, top_k_of_cells


def reference(embeddings, query, members, k):
    """Ten lines of int64: every score, sorted by (−score, index)."""
    units = np.rint(embeddings.astype(np.float64) / UNIT).astype(np.int64)
    scored = [(-int(units[query] @ units[m]), int(m)) for m in members if m != query]
    return [(m, -s) for s, m in sorted(scored)[:k]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 3, 10]))
def test_lists_equal_an_integer_reference_with_ties_duplicates_and_tiny_cells(seed, n, d, k):
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 3, (n, d)).astype(np.float32)  # few values: many ties
    features[rng.integers(0, n, n // 3)] = features[0]  # duplicates of one image
    embeddings = to_embedding(features)
    cells = [np.flatnonzero(rng.random(n) < share).astype(np.int32) for share in (0, 0.1, 0.5, 1)]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    own = np.arange(n)
    best, scores = top_k_of_cells(embeddings @ embeddings.T, own, np.concatenate(cells), offsets, k)
    for query in range(n):
        for cell, members in enumerate(cells):
            ranked = zip(best[query, cell], scores[query, cell], strict=True)
            found = [(m, round(float(s) / UNIT**2)) for m, s in ranked if m >= 0]
            assert found == reference(embeddings, query, members, k)


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
