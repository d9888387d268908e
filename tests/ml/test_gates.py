"""May a run be published? The truth table of the gates."""

from dataclasses import replace

import pytest

from ml.gates import GATES, Figures, Tolerances, promotes, verdicts

GOOD = Figures(products=1000, covered=1000, cells=5, lists=5000, not_finite=0, rejected=0.01)
BOUNDS = Tolerances(coverage_min=0.95, shrink_max=0.2, reject_max=0.05)


def failed(new, live=1000, tolerances=BOUNDS):
    return [verdict.gate for verdict in verdicts(new, live, tolerances) if not verdict.passed]


@pytest.mark.parametrize(
    ("change", "live", "expected"),
    [
        ({}, 1000, []),
        ({}, None, []),
        ({"covered": 950}, 1000, []),
        ({"covered": 949}, 1000, ["coverage"]),
        ({"not_finite": 1}, 1000, ["finite"]),
        ({"lists": 4999}, 1000, ["lists"]),
        ({"lists": 5001}, 1000, ["lists"]),
        ({}, 1250, []),
        ({}, 1251, ["products"]),
        ({}, 0, []),
        ({"rejected": 0.05}, 1000, []),
        ({"rejected": 0.051}, 1000, ["rejects"]),
        ({"products": 0, "covered": 0, "lists": 0}, None, ["coverage", "products"]),
        ({"covered": 0, "not_finite": 9}, 9000, ["finite", "coverage", "products"]),
    ],
)
def test_a_run_fails_just_the_gates_that_it_breaks(change, live, expected):
    assert failed(replace(GOOD, **change), live) == expected


@pytest.mark.parametrize(("left", "expected"), [(3, []), (2, ["products"]), (0, ["coverage", "products"])])
def test_a_share_is_the_decimal_that_was_typed(left, expected):
    new = replace(GOOD, products=left, covered=left, lists=left * 5)
    assert failed(new, 10, replace(BOUNDS, shrink_max=0.7)) == expected


def test_an_empty_run_is_refused_even_where_everything_may_go():
    new = replace(GOOD, products=0, covered=0, lists=0)
    assert failed(new, 10, Tolerances(coverage_min=0, shrink_max=1, reject_max=1)) == ["products"]


@pytest.mark.parametrize("figure", ["rejected", "covered"])
def test_a_figure_that_is_no_number_does_not_pass(figure):
    assert failed(replace(GOOD, **{figure: float("nan")})) == [{"rejected": "rejects", "covered": "coverage"}[figure]]


def test_every_gate_has_a_verdict_when_every_threshold_is_set():
    assert {verdict.gate for verdict in verdicts(GOOD, 1000, BOUNDS)} == set(GATES)


@pytest.mark.parametrize(
    ("unset", "gate"), [("coverage_min", "coverage"), ("shrink_max", "products"), ("reject_max", "rejects")]
)
def test_no_threshold_set_means_no_verdict(unset, gate):
    assert gate not in {verdict.gate for verdict in verdicts(GOOD, 1000, replace(BOUNDS, **{unset: None}))}


def test_a_failed_verdict_says_by_how_much_and_what_to_do():
    verdict = next(v for v in verdicts(replace(GOOD, covered=900), 1000, BOUNDS) if v.gate == "coverage")
    assert (verdict.value, verdict.bound) == (0.9, 0.95)
    assert "900 of 1,000" in verdict.detail
    assert verdict.remedy


@pytest.mark.parametrize(
    ("both", "colour", "promoted"),
    [
        ((51, 41, 31), 40, True),
        ((51, 41, 31), 39, True),
        ((51, 41, 31), 38.9, False),
        ((54, 43, 32), 37, True),
        ((54, 43, 32), 36.9, False),
        ((50, 40, 30), 60, False),
        ((70, 40, 9), 40, False),
        ((float("nan"),) * 3, 40, False),
        ((51, 41, 31), float("nan"), False),
    ],
)
def test_a_challenger_is_promoted_when_it_is_right_more_often_and_keeps_the_colours(both, colour, promoted):
    def figures(both, colour):
        return {
            **{f"both_{t}": value for t, value in zip(("0.2", "0.1", "0"), both, strict=True)},
            "colour_share": colour,
        }

    assert promotes(figures(both, colour), figures((50, 40, 30), 40)) is promoted
