"""Average precision: a worked example, scikit-learn's steps, ignored boxes, and intervals."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from ml.articles import Articles, Labels
from ml.average_precision import area, judge, match

BOX, APART = [0, 0, 10, 10], [50, 50, 60, 60]


def found(*boxes):
    """Boxes of class 0 as (confidence, box)."""
    boxes = sorted(boxes, key=lambda box: -box[0])
    corners = np.array([box for _, box in boxes], np.float32).reshape(-1, 4)
    return Articles(corners, np.zeros(len(boxes), int), np.array([sure for sure, _ in boxes], np.float32))


def labelled(*boxes, ignored=()):
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Labels(corners, np.zeros(len(boxes), int), np.isin(np.arange(len(boxes)), ignored))


def precision(findings, labels):
    return judge(findings, labels, [0]).classes[0]


def test_a_worked_example():
    """Right, wrong, right, right of five: precisions 1, 1/2, 2/3, 3/4; raised to what comes later 1, 3/4, 3/4."""
    findings = [found((0.9, BOX)), found((0.8, APART)), found((0.7, BOX)), found((0.6, BOX)), found()]
    labels = [labelled(BOX)] * 5
    assert precision(findings, labels) == pytest.approx((1 + 0.75 + 0.75) / 5)


def test_a_box_is_right_once_from_an_overlap_of_a_half_on():
    half, less = [0, 0, 10, 5], [0, 0, 10, 4.9]
    assert precision([found((0.9, half))], [labelled(BOX)]) == 1
    assert precision([found((0.9, less))], [labelled(BOX)]) == 0
    assert precision([found((0.9, BOX), (0.8, half), (0.7, APART))], [labelled(BOX, APART)]) == pytest.approx(5 / 6)


def test_each_found_box_takes_the_one_that_it_fits_best():
    near, nearer = [0, 0, 10, 9], [0, 0, 10, 10]
    both = found((0.9, nearer), (0.8, near))
    assert precision([both], [labelled(near, nearer)]) == 1


def test_what_lies_on_an_ignored_box_counts_neither_way():
    labels = [labelled(BOX, APART, ignored=[1])]
    assert precision([found((0.9, APART), (0.8, APART), (0.7, BOX))], labels) == 1
    assert precision([found((0.9, APART))], labels) == 0
    assert np.isnan(precision([found((0.9, APART))], [labelled(APART, ignored=[0])]))


def test_a_class_without_labels_does_not_count_in_the_mean():
    judged = judge([found((0.9, BOX))], [labelled(BOX)])
    assert judged.mean == 1
    assert np.isnan(judged.classes[1:]).all()


def test_it_is_the_area_under_scikit_learns_curve_once_that_falls_nowhere():
    rng = np.random.default_rng(0)
    sure, right = rng.permutation(np.linspace(0.1, 0.9, 60)), rng.random(60) < 0.6
    findings = [found((confidence, BOX if hit else APART)) for confidence, hit in zip(sure, right, strict=True)]
    labels = [labelled(BOX) if hit else labelled() for hit in right]
    precisions, recalls, _ = precision_recall_curve(right, sure)
    falling = np.maximum.accumulate(precisions)
    assert precision(findings, labels) == pytest.approx(-(np.diff(recalls) * falling[:-1]).sum())


def test_an_interval_holds_the_value_and_narrows_with_more_photos():
    def width(n):
        findings = [found((0.9 - at / 1000, BOX if at % 3 else APART)) for at in range(n)]
        judged = judge(findings, [labelled(BOX)] * n)
        (low, high), value = judged.intervals[0], judged.classes[0]
        assert low < value < high
        assert judged.interval == pytest.approx((low, high))  # of one class the mean is its own
        return high - low

    assert width(30) > 2 * width(300)


def test_a_photo_that_is_drawn_twice_counts_twice():
    findings, labels = [found((0.9, BOX)), found((0.8, APART))], [labelled(BOX)] * 2
    twice = match([findings[0], *findings], [labels[0], *labels], 0)
    assert area(match(findings, labels, 0), np.array([2, 1])) == area(twice, np.ones(3, int)) == pytest.approx(2 / 3)
