"""The memory of training images: what is looked up in it, and what it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import memory


def drawn(seed, n, d=12):
    return np.random.default_rng(seed).gamma(2.0, size=(n, d)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 300))
def test_what_it_says_is_the_mean_of_the_labels_weighted_by_similarity(seed, m, n):
    rng = np.random.default_rng(seed)
    remembered, seen = (memory.unit(rng.normal(size=(rows, 5))) for rows in (m, n))
    labels = np.eye(3)[rng.integers(0, 3, m)]
    labels[rng.random(m) < 0.2] = 0  # not known
    (found,) = memory.recall(seen, remembered, [labels], 0.1)
    assert found.shape == (n, 3)
    for row, own in zip(found, seen, strict=True):
        weights = [np.exp(float(own @ each) / 0.1) for each in remembered]
        wanted = sum(weight * each for weight, each in zip(weights, labels, strict=True)) / sum(weights)
        assert row == pytest.approx(wanted, abs=1e-9)


def test_an_image_that_is_remembered_is_taken_for_what_it_is():
    stages, labels = drawn(0, 60), np.eye(60)
    looks = memory.looks(stages.astype(np.float64), *memory.components(stages))
    (found,) = memory.recall(looks, looks, [labels], memory.TEMPERATURE)
    assert found.diagonal().min() > 0.95


def test_components_have_unit_variance_and_one_that_never_varied_is_no_noise():
    stages = np.concatenate([drawn(1, 300), np.zeros((300, 2), np.float32)], axis=1)
    mean, axes = memory.components(stages)
    seen = (memory.unit(stages) - mean) @ axes
    scale = seen.std(axis=0)
    assert (mean.dtype, axes.dtype) == (np.float32, np.float32)
    assert scale[:11] == pytest.approx(np.ones(11), abs=0.05)  # on a sphere, the last direction hardly varies
    assert scale[12:] == pytest.approx(np.zeros(2), abs=1e-3)
    assert np.linalg.norm(memory.looks(stages, mean, axes), axis=1) == pytest.approx(np.ones(300), abs=1e-4)


def test_fewer_images_than_stages_have_the_components_that_all_stages_give():
    stages = drawn(2, 40)
    wide = np.concatenate([stages, np.zeros((40, 60), np.float32)], axis=1)  # what is always zero changes nothing
    looks, same = (memory.looks(each.astype(np.float64), *memory.components(each)) for each in (stages, wide))
    assert looks @ looks.T == pytest.approx(same @ same.T, abs=1e-3)


def test_it_keeps_all_images_or_as_many_as_it_has_room_for(monkeypatch):
    assert memory.choose(7, seed=0).tolist() == list(range(7))
    monkeypatch.setattr(memory, "SIZE", 50)
    chosen = memory.choose(200, seed=3)
    assert len(set(chosen.tolist())) == 50
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, memory.choose(200, seed=3))
    assert not np.array_equal(chosen, memory.choose(200, seed=4))
