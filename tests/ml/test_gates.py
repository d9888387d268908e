"""May a run be published? The truth table of the gates, and how often noise alone would fail one."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ml import gates
from ml.gates import GATES, NOTHING_LIVE, QUALITY, Figures, Reference, Share, Tolerances, promotes, verdicts

SHARES = {
    "heldout_right": Share(0.9, 2000),
    "heldout_all10": Share(0.7, 2000),
    "heldout_colour_share": Share(0.5, 2000),
    "colour_share": Share(0.6, 9000),
    "unknown_subcategory": Share(0.95, 2000),
    "unknown_derived": Share(0.85, 2000),
    "unknown_all10": Share(0.8, 2000),
    "subcategory_test": Share(0.96, 2000),
    f"{QUALITY}Topwear": Share(0.9, 800),
    f"{QUALITY}Ties": Share(0.8, 20),
}
SUBCATEGORIES = {"Topwear": 600, "Shoes": 360, "Ties": 40}
GOOD = Figures(
    products=1000,
    covered=1000,
    shortlists=1000,
    not_finite=0,
    rejected=0.01,
    subcategories=SUBCATEGORIES,
    shares=SHARES,
    neighbours=Share(1, 900),
)
LIVE = Reference("run 2026-01-30", 1000, SUBCATEGORIES, SHARES | {"coverage": Share(1, 1000)}, {})
BOUNDS = Tolerances(0.95, 0.2, 0.05, 0.01, 0.3, 0.02, 0.05, 0.001)


def failed(new, live=LIVE, tolerances=BOUNDS):
    return [verdict.gate for verdict in verdicts(new, live, tolerances) if not verdict.passed]


def verdict_of(gate, new, live=LIVE, tolerances=BOUNDS):
    return next(verdict for verdict in verdicts(new, live, tolerances) if verdict.gate == gate)


def having(products):
    return replace(LIVE, products=products)


def measuring(**shares):
    """The good run with other shares; None: not measured."""
    return replace(GOOD, shares={name: value for name, value in (SHARES | shares).items() if value})


@pytest.mark.parametrize(
    ("change", "live", "expected"),
    [
        ({}, LIVE, []),
        ({}, NOTHING_LIVE, []),
        ({"covered": 950}, NOTHING_LIVE, []),
        ({"covered": 949}, NOTHING_LIVE, ["coverage"]),
        ({"covered": 975}, LIVE, ["coverage"]),
        ({"not_finite": 1}, LIVE, ["finite"]),
        ({"shortlists": 999}, LIVE, ["shortlists"]),
        ({"shortlists": 1001}, LIVE, ["shortlists"]),
        ({}, having(1250), []),
        ({}, having(1251), ["products"]),
        ({}, having(0), []),
        ({"rejected": 0.05}, LIVE, []),
        ({"rejected": 0.051}, LIVE, ["rejects"]),
        ({"products": 0, "covered": 0, "shortlists": 0}, NOTHING_LIVE, ["coverage", "products"]),
        ({"covered": 0, "not_finite": 9}, having(9000), ["coverage", "finite", "products"]),
        ({"neighbours": Share(0.998, 900)}, LIVE, ["neighbours"]),
        ({"subcategories": SUBCATEGORIES | {"Topwear": 420, "Ties": 21}}, LIVE, []),
        ({"subcategories": SUBCATEGORIES | {"Topwear": 419}}, LIVE, ["subcategories"]),
        ({"subcategories": SUBCATEGORIES | {"Ties": 20}}, LIVE, ["subcategories"]),
        ({"subcategories": {"Tops": 600, "Shoes": 360, "Ties": 40}}, LIVE, ["subcategories"]),
    ],
)
def test_a_run_fails_just_the_gates_that_it_breaks(change, live, expected):
    assert failed(replace(GOOD, **change), live) == expected


@pytest.mark.parametrize(
    ("figure", "held", "lost", "gate"),
    [
        ("heldout_right", 0.86, 0.85, "heldout"),
        ("heldout_all10", 0.64, 0.62, "heldout"),
        ("heldout_colour_share", 0.43, 0.42, "colour"),
        ("colour_share", 0.57, 0.56, "colour"),
        ("unknown_subcategory", 0.92, 0.90, "unknown"),
        ("unknown_derived", 0.80, 0.78, "unknown"),
        ("unknown_all10", 0.75, 0.73, "unknown"),
        ("subcategory_test", 0.93, 0.92, "classifier"),
        (f"{QUALITY}Topwear", 0.84, 0.81, "subcategory_quality"),
        (f"{QUALITY}Ties", 0.1, 0.0, "subcategory_quality"),
    ],
)
def test_a_share_may_fall_by_the_noise_of_its_sample_and_no_further(figure, held, lost, gate):
    size = SHARES[figure].size
    assert failed(measuring(**{figure: Share(held, size)})) == []
    assert failed(measuring(**{figure: Share(lost, size)})) == [gate]
    assert failed(measuring(**{figure: None})) == ([] if ":" in figure else [gate])  # what was measured must be still


def test_a_failed_verdict_says_what_was_found_what_was_expected_against_which_run_and_what_to_do():
    verdict = verdict_of("heldout", measuring(heldout_all10=Share(0.2, 2000), heldout_right=Share(0.5, 2000)))
    mean = (0.7 + verdict.bound) / 2
    assert verdict.value == 0.2
    assert verdict.bound == pytest.approx(0.7 - gates.Z * math.sqrt(mean * (1 - mean) / 1000))
    assert "20.00% of 2,000 found, at least 62.90% expected, as run 2026-01-30 has 70.00% of 2,000" in verdict.detail
    assert "50.00% of 2,000 found" in verdict.detail
    assert "LOOKALIKE_QUALITY_LOSS_MAX" in verdict.remedy
    verdict = verdict_of("subcategories", replace(GOOD, subcategories={"Shoes": 360}))
    assert (verdict.value, verdict.bound, verdict.state) == (0, 420, "failed")
    assert "Topwear: 0 products found, at least 420 expected, as run 2026-01-30 has 600; Ties: 0 " in verdict.detail


def test_the_worst_of_many_subcategories_are_named_and_the_others_counted():
    many = {f"Kind {number}": 1000 for number in range(12)}
    new = replace(GOOD, subcategories={name: 100 * at for at, name in enumerate(many)})
    detail = verdict_of("subcategories", new, replace(LIVE, subcategories=many)).detail
    assert [f"Kind {number}" in detail for number in range(12)] == [True] * 5 + [False] * 7
    assert detail.endswith("; and 2 more")


def test_what_cannot_be_compared_passes_and_says_why():
    found = verdicts(GOOD, LIVE.without("unknown", "run 2026-01-30 was measured by another protocol or split"), BOUNDS)
    verdict = next(verdict for verdict in found if verdict.gate == "unknown")
    assert (verdict.passed, verdict.state) == (True, "not compared")
    assert verdict.detail == "not compared: run 2026-01-30 was measured by another protocol or split"
    assert [verdict.gate for verdict in found if verdict.state == "not compared"] == ["unknown"]


def test_without_the_live_runs_figures_a_trained_run_is_held_against_its_own_untrained_features():
    new = replace(GOOD, untrained={"heldout_right": Share(0.91, 2000), "heldout_all10": Share(0.7, 2000)})
    assert failed(new, LIVE) == []
    live = replace(LIVE, silent=dict.fromkeys(NOTHING_LIVE.silent, "the catalogue is new"))
    verdict = verdict_of("heldout", new, live)
    assert (verdict.value, verdict.bound, verdict.state) == (0.9, 0.91, "failed")
    assert "as the run by its untrained features has 91.00% of 2,000" in verdict.detail
    assert "not compared with the live run, as the catalogue is new" in verdict.detail
    assert "train" in verdict.remedy
    assert failed(replace(new, untrained={"heldout_right": Share(0.9, 2000)}), live) == []


def test_colours_may_be_worse_by_what_kinds_are_better_as_when_a_champion_is_promoted():
    worse = {"heldout_colour_share": Share(0.38, 2000)}
    assert failed(measuring(**worse)) == ["colour"]
    assert failed(measuring(**worse, heldout_all10=Share(0.83, 2000))) == []


@pytest.mark.parametrize(("left", "expected"), [(3, []), (2, ["products"]), (0, ["coverage", "products"])])
def test_a_share_is_the_decimal_that_was_typed(left, expected):
    new = replace(GOOD, products=left, covered=left, shortlists=left)
    live = LIVE.without("coverage", "too small")
    assert failed(new, replace(live, products=10), replace(BOUNDS, shrink_max=0.7)) == expected


def test_an_empty_run_is_refused_even_where_everything_may_go():
    new = replace(GOOD, products=0, covered=0, shortlists=0)
    everything = replace(BOUNDS, coverage_min=0, shrink_max=1, reject_max=1, coverage_loss_max=1)
    assert failed(new, having(10), everything) == ["products"]


@pytest.mark.parametrize("figure", ["rejected", "covered"])
def test_a_figure_that_is_no_number_does_not_pass(figure):
    assert failed(replace(GOOD, **{figure: float("nan")})) == [{"rejected": "rejects", "covered": "coverage"}[figure]]


def test_every_gate_has_a_verdict_when_every_threshold_is_set_whatever_is_live():
    for live in (LIVE, NOTHING_LIVE, replace(LIVE, shares={}, subcategories={})):
        assert [verdict.gate for verdict in verdicts(GOOD, live, BOUNDS)] == list(GATES)


@pytest.mark.parametrize(
    ("unset", "without"),
    [
        ("coverage_min", {"coverage"}),
        ("coverage_loss_max", {"coverage"}),
        ("shrink_max", {"products"}),
        ("reject_max", {"rejects"}),
        ("subcategory_shrink_max", {"subcategories"}),
        ("quality_loss_max", {"heldout", "colour", "unknown", "classifier"}),
        ("subcategory_loss_max", {"subcategory_quality"}),
        ("neighbours_loss_max", {"neighbours"}),
    ],
)
def test_no_threshold_set_means_no_verdict(unset, without):
    found = {verdict.gate for verdict in verdicts(GOOD, LIVE, replace(BOUNDS, **{unset: None}))}
    assert set(GATES) - found == without


# Noise ----------------------------------------------------------------------------------------------------------------


def chances(size, share):
    """Chance of each number of hits in so many draws, float (size + 1,)."""
    logs = np.array([math.lgamma(number + 1) for number in range(size + 1)])
    hits = np.arange(size + 1)
    return np.exp(logs[size] - logs - logs[::-1] + hits * math.log(share) + (size - hits) * math.log1p(-share))


@pytest.mark.parametrize(
    ("size", "size_before"), [(5, 5), (20, 20), (20, 30), (100, 80), (300, 300), (5, 300), (300, 20), (60, 600)]
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_two_independent_samples_of_the_same_fail_less_than_once_in_a_million(size, size_before, share):
    """Exact, by the binomial distribution. A hundred comparisons a night are then wrong once in 27 years."""
    least_hits = []
    for hits_before in range(size_before + 1):
        before = Share(hits_before / size_before, size_before)
        held = [hits / size >= before.value - gates.allowance(before, size, 0) for hits in range(size + 1)]
        least_hits.append(held.index(True))
        assert all(held[least_hits[-1] :])
    below = np.cumsum(chances(size, share))
    fails = np.array([below[least - 1] if least else 0.0 for least in least_hits])
    assert float(fails @ chances(size_before, share)) < gates.FALSE_ALARM


@pytest.mark.parametrize("products", [1, 5, 20, 40, 100, 1000, 5000])
def test_ordinary_trade_takes_too_much_of_a_subcategory_less_than_once_in_a_million(products):
    gone = products - gates.spared(products, 0)  # so many may go
    assert 1 - float(chances(products, gates.CHURN)[: gone + 1].sum()) < gates.FALSE_ALARM + 1e-9


def test_a_year_of_nights_with_a_tenth_of_the_catalogue_renewed_each_night_is_not_refused():
    """365 nights of held-out products, of which each is right with a chance of its own, that stay until they go."""
    random = np.random.default_rng(7)
    kinds = np.repeat(np.arange(45), np.geomspace(10, 800, 45).astype(int))

    def born(count):
        return random.beta(4, 1, count)

    chance, refused, before = born(len(kinds)), 0, None
    for _ in range(365):
        gone = random.random(len(kinds)) < 0.1
        chance[gone] = born(int(gone.sum()))
        shares = {
            f"{QUALITY}{kind}": Share(float(chance[kinds == kind].mean()), int((kinds == kind).sum()))
            for kind in range(45)
        }
        shares["heldout_right"] = Share(float(chance.mean()), len(kinds))
        if before:
            live = Reference("the night before", 1000, {}, before, {})
            refused += bool(failed(replace(GOOD, shares=shares), live, replace(BOUNDS, quality_loss_max=0)))
        before = shares
    assert refused == 0


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
