"""The nine percentages against the protocol spelled out in loops."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.metrics import (
    accuracy_among,
    agree,
    confusions,
    hits,
    interval,
    nine_percentages,
    recall_at_k,
    share_of_hits,
    share_right,
    wrong_neighbours,
)


def reference(neighbours, types, genders, least):
    """The protocol in fractions: for each product the error 1 − share, right when error ≤ tolerance."""
    counts = Counter(t for t in types if t != -1)
    chosen = [i for i, t in enumerate(types) if t != -1 and counts[t] >= least]
    right = Counter()
    for i in chosen:
        shares = Counter()
        for j in neighbours[i]:
            same_type = j >= 0 and types[j] == types[i]
            same_gender = j >= 0 and genders[j] == genders[i] != -1
            shares["articleType"] += same_type
            shares["gender"] += same_gender
            shares["both"] += same_type and same_gender
        for name in ("articleType", "gender", "both"):
            error = 1 - Fraction(shares[name], 10)
            for tolerance in ("0.2", "0.1", "0"):
                right[f"{name}_{tolerance}"] += error <= Fraction(tolerance)
    return len(chosen), right


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 20))
def test_percentages_equal_the_protocol_in_exact_fractions(seed, n, least):
    rng = np.random.default_rng(seed)
    types, genders = rng.integers(-1, 3, n), rng.integers(-1, 2, n)
    neighbours = rng.integers(0, n, (n, 10))
    neighbours[rng.random((n, 10)) < 0.1] = -1
    found = nine_percentages(neighbours, types, genders, least)
    chosen, right = reference(neighbours, types, genders, least)
    assert found.pop("products") == chosen
    assert len(found) == 9
    for name, value in found.items():
        assert value == pytest.approx(100 * right[name] / chosen) if chosen else math.isnan(value)


def test_eight_of_ten_are_right_at_a_fifth_and_wrong_at_a_tenth():
    neighbours = np.array([[1, 1, 1, 1, 1, 1, 1, 1, 2, 2]] * 3)
    found = nine_percentages(neighbours, np.array([0, 0, 1]), np.zeros(3, int), min_products=2)
    assert (found["articleType_0.2"], found["articleType_0.1"], found["gender_0"]) == (100, 0, 100)


def test_an_attribute_that_is_missing_equals_nothing():
    assert not hits(np.array([[1], [0]]), np.array([-1, -1])).any()


def test_a_list_that_is_too_short_has_wrong_neighbours():
    found = nine_percentages(np.array([[1] + [-1] * 9, [0] + [-1] * 9]), np.zeros(2, int), np.zeros(2, int), 1)
    assert found["both_0.2"] == 0


def test_the_curve_rises_to_everything_and_meets_the_percentages():
    rng = np.random.default_rng(0)
    neighbours, types, genders = rng.integers(0, 50, (50, 10)), rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    found = nine_percentages(neighbours, types, genders, 1)
    for name, wrong in wrong_neighbours(neighbours, types, genders).items():
        curve = share_right(wrong)
        assert (np.diff(curve) >= 0).all()
        assert curve[10] == 100
        assert curve[:3].tolist() == [found[f"{name}_0"], found[f"{name}_0.1"], found[f"{name}_0.2"]]


def test_recall_is_the_mean_share_of_the_exact_items_that_were_found():
    exact = np.array([[1, 2, 3, 4], [5, 6, -1, -1]])
    assert recall_at_k(np.array([[4, 3, 9, 9], [5, 6, 7, 8]]), exact) == pytest.approx((0.5 + 1) / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 6), st.integers(1, 6))
def test_recall_equals_that_of_sets(seed, n, wide, k):
    rng = np.random.default_rng(seed)
    found = np.array([rng.permutation(8)[:wide] for _ in range(n)], int).reshape(n, wide)
    exact = np.array([rng.permutation(8)[:k] for _ in range(n)], int).reshape(n, k)
    found[rng.random(found.shape) < 0.3] = -1
    exact[rng.random(exact.shape) < 0.4] = -1
    pairs = [(set(f) - {-1}, set(e) - {-1}) for f, e in zip(found.tolist(), exact.tolist(), strict=True)]
    shares = [len(f & e) / len(e) for f, e in pairs if e]
    value = recall_at_k(found, exact)
    assert value == pytest.approx(sum(shares) / len(shares)) if shares else math.isnan(value)


def test_only_the_products_asked_for_are_judged_but_all_count_for_the_size_of_an_article_type():
    neighbours = np.array([[1, 2], [0, 2], [0, 1]]).repeat(5, axis=1)
    types, genders = np.zeros(3, int), np.array([0, 0, 1])
    found = nine_percentages(neighbours, types, genders, min_products=3, asked=np.array([True, False, True]))
    assert (found["products"], found["gender_0"], found["articleType_0"]) == (2, 0.0, 100.0)


def test_the_share_of_hits_is_over_the_queries_that_have_the_attribute():
    neighbours = np.array([[1, 2], [0, -1], [0, 1]])
    codes = np.array([0, 0, -1])
    assert share_of_hits(neighbours, codes) == 50.0
    assert share_of_hits(neighbours, codes, np.array([True, False, True])) == 50.0
    assert np.isnan(share_of_hits(neighbours, codes, np.array([False, False, True])))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_the_costliest_confusions_are_those_that_loops_count(seed, n):
    rng = np.random.default_rng(seed)
    codes, asked = rng.integers(-1, 4, n), rng.random(n) < 0.7
    neighbours = rng.integers(-1, n, (n, 10))
    counted = Counter(
        (int(codes[i]), int(other))
        for i in range(n)
        for other in {codes[j] for j in neighbours[i] if j >= 0}
        if asked[i] and codes[i] >= 0 and other >= 0 and other != codes[i]
    )
    found = confusions(neighbours, codes, asked, 3)
    assert [count for _, _, count in found] == sorted(counted.values(), reverse=True)[:3]
    assert all(counted[own, other] == count for own, other, count in found)


def test_accuracy_among_some_classes_leaves_out_the_others_as_truth_and_as_answer():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]], np.float32)
    classes = np.array([1, 2, 0, -1])
    assert accuracy_among(probabilities, classes, np.array([0, 1, 2])) == pytest.approx(200 / 3)
    assert accuracy_among(probabilities, classes, np.array([2, 1])) == 100  # the first is 1 once 0 is no answer
    assert math.isnan(accuracy_among(probabilities, np.full(4, -1), np.array([0, 1])))


@pytest.mark.parametrize(
    ("before", "after", "agreed"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], True),
        ([1, 2, 3, 4], [-1, 1, -1, 2], True),  # two new products pushed out 3 and 4
        ([-1, 2, -1, 4], [2, 4, 5, 6], True),  # 1 and 3 are gone, and 5 and 6 moved up
        ([1, 2, 3, 4], [-1, -1, -1, -1], True),
        ([1, 2, 3, 4], [1, 3, 4, 5], False),  # 2 is still there, and nothing new took its place
        ([1, 2, 3, 4], [1, 3, 2, 4], False),
        ([1, 2, 3, 4], [-1, 1, 3, -1], False),
        ([-1, 2, 3, 4], [5, 2, 3, 4], False),  # 5 came after 4, and does now
    ],
)
def test_lists_agree_when_what_both_catalogues_have_comes_in_one_order(before, after, agreed):
    assert agree(np.array([before]), np.array([after])).tolist() == [agreed]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_true_lists_of_a_catalogue_with_births_and_deaths_agree_always_and_those_of_other_scores_hardly_ever(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 40, (60, 60))  # with ties, which go to the smaller index

    def lists(scores, there):
        ranked = np.argsort(-np.where(there & ~np.eye(60, dtype=bool), scores, -1), axis=1, kind="stable")[:, :10]
        return ranked, np.where(there_before[ranked] & there_after[ranked], ranked, -1)

    there_before, there_after = random.random(60) < 0.8, random.random(60) < 0.8
    both = there_before & there_after
    before, after = lists(scores, there_before)[1], lists(scores, there_after)[1]
    assert agree(before, after)[both].all()
    other = lists(random.integers(0, 40, (60, 60)), there_after)[1]
    assert agree(before, other)[both].mean() < 0.3


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (81, 263, 0.2553, 0.3662)],  # Newcombe 1998
)
def test_the_interval_of_a_share_is_wilsons(right, n, low, high):
    assert interval(right / n, n) == pytest.approx((low, high), abs=5e-5)


def test_a_share_of_nothing_has_no_interval():
    assert np.isnan(interval(float("nan"), 0)).all()
