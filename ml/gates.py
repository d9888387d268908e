"""Gates: may this run replace the live one? Pure rules from figures to verdicts, each with what to do when it fails.

Some gates hold the run against bounds of its own, the others against the live run. The pictures that are measured
with are much the same every night, but not the same, and a figure moves with them. So a figure may fall by a set loss,
or by the noise of its sample where that is more: `allowance`, and for numbers of products `spared`. What cannot be
compared is not, and its verdict says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from statistics import NormalDist

RELATIVE = (
    "products",
    "subcategories",
    "heldout",
    "colour",
    "unknown",
    "classifier",
    "subcategory_quality",
    "neighbours",
)
"""Gates that hold the run against the live one alone."""
GATES = ("coverage", "finite", "shortlists", "rejects", *RELATIVE)
"""Every gate; a run without a verdict of each is not published."""
FIGURES = {
    "heldout": {
        "heldout_right": "neighbours of held-out products that have their articleType and gender",
        "heldout_all10": "held-out products whose ten neighbours all have their articleType and gender",
    },
    "colour": {
        "heldout_colour_share": "neighbours of held-out products that have their baseColour",
        "colour_share": "neighbours of all products that have their baseColour",
    },
    "unknown": {
        "unknown_subcategory": "unknown images whose subCategory is right",
        "unknown_derived": "unknown images whose derivedType is right",
        "unknown_all10": "unknown images whose recommendations are all right",
    },
    "classifier": {"subcategory_test": "held-out products whose subCategory the classifier names"},
}
"""Gate → the figures that it compares, and what they are shares of."""
QUALITY = "heldout_right:"
"""Begins the names of the figures of `subcategory_quality`; the subCategory follows."""
FALSE_ALARM = 1e-6
"""Most that the chance of one comparison may be to fail, where both runs are samples of the same: with 45 subCategories
a night makes a hundred comparisons, 36,500 a year, and by the union bound (Bonferroni) one fails without cause in 27
years. In truth it is far less, as two nights share most of their images, which is no noise between them."""
Z = NormalDist().inv_cdf(1 - FALSE_ALARM)
"""Standard errors that are exceeded by chance so rarely: 4.75."""
CHURN = 0.1
"""Share of the products that ordinary trade may take in a night: what leaves a subCategory is held against that."""
NAMED = 5
"""Failed figures that a verdict names; more are counted."""


@dataclass(frozen=True)
class Share:
    """A share, 0–1, and the size of the sample that it was measured on."""

    value: float
    size: int


@dataclass(frozen=True)
class Figures:
    """What the gates look at.

    Attributes:
        products: products of the run.
        covered: products whose unfiltered list has full length (ten, or all others where there are fewer).
        shortlists: shortlists in the table that belong to a product of the run.
        not_finite: values of features or embeddings that are NaN or infinite.
        rejected: share of the source's products that could not be used, 0–1.
        subcategories: products of each subCategory.
        shares: those of `FIGURES` that were measured, and of `subcategory_quality`.
        untrained: the shares of `heldout` that the run would have by its untrained features; empty: not measured.
        neighbours: the share of lists, of those that must, that agree with the live run's (`ml.metrics.agree`).
    """

    products: int
    covered: int
    shortlists: int
    not_finite: int
    rejected: float
    subcategories: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, Share] = field(default_factory=dict)
    untrained: Mapping[str, Share] = field(default_factory=dict)
    neighbours: Share = Share(0, 0)

    @property
    def coverage(self) -> Share:
        """Of the products whose unfiltered list has full length."""
        return Share(self.covered / self.products if self.products else 0.0, self.products)


@dataclass(frozen=True)
class Reference:
    """What a run is held against: the live run, called `who`, its figures, and which gates cannot be held against it.

    `silent` maps each of those to why. A gate that is not among them is compared.
    """

    who: str
    products: int
    subcategories: Mapping[str, int]
    shares: Mapping[str, Share]
    silent: Mapping[str, str]

    def without(self, gate: str, why: str) -> Reference:
        """The same, but this gate cannot be held against it."""
        return replace(self, silent={**self.silent, gate: why})


NOTHING_LIVE = Reference("", 0, {}, {}, dict.fromkeys(("coverage", *RELATIVE), "no run is live yet"))


@dataclass(frozen=True)
class Tolerances:
    """Bounds of the gates, shares 0–1; None: no threshold set, hence no verdict.

    `coverage_min` and `reject_max` are of the run itself, the others say how much of the live run's may be lost.
    """

    coverage_min: float | None
    shrink_max: float | None
    reject_max: float | None
    coverage_loss_max: float | None
    subcategory_shrink_max: float | None
    quality_loss_max: float | None
    subcategory_loss_max: float | None
    neighbours_loss_max: float | None


@dataclass(frozen=True)
class Verdict:
    """One gate's answer: the value, the bound it was held against, and words for whoever reads it at 3 a.m.

    Both are NaN where the gate compares with the live run and cannot; `detail` then says why, and it passes.
    """

    gate: str
    value: float
    bound: float
    passed: bool
    detail: str
    remedy: str

    @property
    def state(self) -> str:
        """In words: `passed`, `failed` or `not compared`."""
        return "failed" if not self.passed else "passed" if self.bound == self.bound else "not compared"


def verdicts(new: Figures, live: Reference, tolerances: Tolerances) -> list[Verdict]:
    """A verdict for each gate that has a threshold, in the order of `GATES`."""
    rules: list[tuple] = [
        (_coverage, tolerances.coverage_min, tolerances.coverage_loss_max),
        (_finite,),
        (_shortlists,),
        (_rejects, tolerances.reject_max),
        (_products, tolerances.shrink_max),
        (_subcategories, tolerances.subcategory_shrink_max),
        (_heldout, tolerances.quality_loss_max),
        (_colour, tolerances.quality_loss_max),
        (_unknown, tolerances.quality_loss_max),
        (_classifier, tolerances.quality_loss_max),
        (_subcategory_quality, tolerances.subcategory_loss_max),
        (_neighbours, tolerances.neighbours_loss_max),
    ]
    return [rule(new, live, *bounds) for rule, *bounds in rules if None not in bounds]


def allowance(before: Share, size: int, floor: float) -> float:
    """How much lower a share may be in a sample of this size than before, until it is taken for a loss.

    `floor`, or `Z` standard errors of the difference d of two proportions that are one: d² = Z² m (1 − m) 2 / n, with
    the mean m of both (NIST/SEMATECH e-Handbook of Statistical Methods, 7.3.3) and the smaller size n; solved for d, as
    m depends on it. Exact binomial sums over sizes from 5 to 2,000 give a chance below `FALSE_ALARM` for all of them,
    and with both sizes only for samples of about one size. Of shares a product, such as that of its ten neighbours, the
    variance is at most that of a proportion (Bhatia and Davis 2000).
    """
    share, c = before.value, 2 * Z**2 / min(before.size, size)
    noise = (c * (share - 0.5) + math.sqrt(c**2 / 4 + 4 * c * share * (1 - share))) / (2 + c / 2)
    return max(floor, noise)


def spared(products: int, shrink_max: float) -> int:
    """How many of so many products must be left: all but the share `shrink_max`, or but what trade may have taken.

    Of n products of which each goes with the chance `CHURN` more than this go with a chance below `FALSE_ALARM`, by
    Bernstein's inequality (Boucheron, Lugosi, Massart: Concentration Inequalities, 2013, section 2.8): half of a
    subCategory of 40 is too many, and half of one of 20 is not.
    """
    third = -math.log(FALSE_ALARM) / 3
    traded = products * CHURN + third + math.sqrt(third**2 + 6 * third * products * CHURN * (1 - CHURN))
    gone = max(traded, float(products * Fraction(str(shrink_max))))
    return math.ceil(max(0.0, products - gone))


def promotes(challenger: Mapping[str, float], champion: Mapping[str, float]) -> bool:
    """Whether an embedder replaces the champion, from the percentages of both on the same held-out queries.

    It must be right for more products in `both` (articleType and gender) on average over the three tolerances, and its
    `colour_share` may be lower by no more points than it gains there: better kinds are not bought with worse looks. A
    percentage that is NaN promotes nothing.
    """
    gain = sum(challenger[name] - champion[name] for name in ("both_0.2", "both_0.1", "both_0")) / 3
    return gain > 0 and champion["colour_share"] - challenger["colour_share"] <= gain


# A bound of its own ---------------------------------------------------------------------------------------------------


def _coverage(new: Figures, live: Reference, least: float, loss_max: float) -> Verdict:
    coverage, bound = new.coverage, least
    detail = f"{new.covered:,} of {new.products:,} products have a full list, {coverage.value:.2%}; at least "
    before = live.shares.get("coverage")
    if before and "coverage" not in live.silent and coverage.size:
        bound = max(least, before.value - allowance(before, coverage.size, loss_max))
    detail += f"{bound:.2%} must" + (f", as {live.who} has {before.value:.2%}" if bound > least and before else "")
    remedy = "Run similar again: its lists are short or belong to other products than the run's."
    return Verdict("coverage", coverage.value, bound, coverage.value >= bound, detail, remedy)


def _finite(new: Figures, _: Reference) -> Verdict:
    detail = f"{new.not_finite:,} values of features or embeddings are NaN or infinite; none may be"
    remedy = "Check the backbone's weights and precision, then run embed again under a new setting."
    return Verdict("finite", new.not_finite, 0, new.not_finite == 0, detail, remedy)


def _shortlists(new: Figures, _: Reference) -> Verdict:
    detail = f"{new.shortlists:,} shortlists for {new.products:,} products; each is due one"
    return Verdict(
        "shortlists", new.shortlists, new.products, new.shortlists == new.products, detail, "Run similar again."
    )


def _rejects(new: Figures, _: Reference, most: float) -> Verdict:
    detail = f"{new.rejected:.2%} of the source's products were rejected; at most {most:.2%} may be"
    remedy = "Look into the table rejects, mend the source, or raise LOOKALIKE_REJECT_MAX."
    return Verdict("rejects", new.rejected, most, new.rejected <= most, detail, remedy)


# Numbers of products, against the live run's --------------------------------------------------------------------------


def _products(new: Figures, live: Reference, shrink_max: float) -> Verdict:
    # The share as it was typed: in floating point 1 − 0.7 is more than 0.3. No run may be empty.
    bound, against = 1, f"not compared, as {live.silent.get('products')}"
    if "products" not in live.silent:
        bound = max(1, math.ceil(live.products * (1 - Fraction(str(shrink_max)))))
        against = f"{live.who} has {live.products:,}, of which at most {shrink_max:.0%} may go"
    detail = f"{new.products:,} products; at least {bound:,} must be there: {against}"
    remedy = "Check the source for missing products; if the loss is meant, raise LOOKALIKE_SHRINK_MAX for this run."
    return Verdict("products", new.products, bound, new.products >= bound, detail, remedy)


def _subcategories(new: Figures, live: Reference, shrink_max: float) -> Verdict:
    compared = []
    for name, before in live.subcategories.items():
        count, bound = new.subcategories.get(name, 0), spared(before, shrink_max)
        words = f"{name}: {count:,} products found, at least {bound:,} expected, as {live.who} has {before:,}"
        compared.append(_Compared(count, bound, words, (count - bound) / before))
    remedy = (
        "Check the source for products or values of subCategory that are missing; if the loss is meant, raise "
        "LOOKALIKE_SUBCATEGORY_SHRINK_MAX for this run."
    )
    return _verdict("subcategories", compared, live, remedy)


# Shares, against the live run's ---------------------------------------------------------------------------------------

_QUALITY_REMEDY = (
    "See the report: wrong labels or images in the source, another embedder or backbone? Mend that, or if the loss is "
    "meant, raise {} for this run."
)


def _heldout(new: Figures, live: Reference, loss_max: float) -> Verdict:
    if "heldout" in live.silent and new.untrained:
        untrained = replace(live, who="the run by its untrained features", shares=new.untrained, silent={})
        remedy = "The embedder is worse than none: train one on this catalogue (train_embedding), then refresh."
        compared = _compare(FIGURES["heldout"], new, untrained, lambda now, before: before.value)
        verdict = _verdict("heldout", compared, untrained, remedy)
        why = f"not compared with the live run, as {live.silent['heldout']}"
        return replace(verdict, detail=f"{verdict.detail} ({why})")
    return _quality("heldout", new, live, loss_max)


def _colour(new: Figures, live: Reference, loss_max: float) -> Verdict:
    """As `promotes` has it, colours may be worse by what kinds are better, which a new champion may have chosen."""
    both = [
        (new.shares[name], live.shares[name])
        for name in FIGURES["heldout"]
        if name in new.shares and name in live.shares and "heldout" not in live.silent
    ]
    gain = max((now.value - before.value for now, before in both), default=0.0)
    return _quality("colour", new, live, max(loss_max, gain))


def _unknown(new: Figures, live: Reference, loss_max: float) -> Verdict:
    return _quality("unknown", new, live, loss_max)


def _classifier(new: Figures, live: Reference, loss_max: float) -> Verdict:
    return _quality("classifier", new, live, loss_max)


def _quality(gate: str, new: Figures, live: Reference, loss_max: float) -> Verdict:
    compared = _compare(FIGURES[gate], new, live, _less(loss_max))
    return _verdict(gate, compared, live, _QUALITY_REMEDY.format("LOOKALIKE_QUALITY_LOSS_MAX"))


def _subcategory_quality(new: Figures, live: Reference, loss_max: float) -> Verdict:
    both = [name for name in live.shares if name.startswith(QUALITY) and name in new.shares]
    words = {name: f"{name[len(QUALITY) :]}: {FIGURES['heldout']['heldout_right']}" for name in both}
    compared = _compare(words, new, live, _less(loss_max))
    return _verdict("subcategory_quality", compared, live, _QUALITY_REMEDY.format("LOOKALIKE_SUBCATEGORY_LOSS_MAX"))


def _neighbours(new: Figures, live: Reference, loss_max: float) -> Verdict:
    """The rule is exact, so there is no noise, and the bound is the set one."""
    kept = new.neighbours
    words = (
        f"{kept.value:.2%} of {kept.size:,} unchanged products have the list that follows from that of {live.who}, "
        f"at least {1 - loss_max:.2%} expected: neighbours that are still there, in their order, as far as new or "
        "changed products leave room"
    )
    compared = [_Compared(kept.value, 1 - loss_max, words, kept.value - 1 + loss_max)] if kept.size else []
    remedy = "The same model and embedder gave unchanged products other lists: run embed and similar again."
    return _verdict("neighbours", compared, live, remedy)


@dataclass(frozen=True)
class _Compared:
    """A figure and its bound, what to say of them, and by how much it keeps it; below 0 it does not."""

    value: float
    bound: float
    words: str
    room: float


def _less(loss_max: float) -> Callable[[Share, Share], float]:
    return lambda now, before: before.value - allowance(before, now.size, loss_max)


def _compare(
    words: Mapping[str, str], new: Figures, live: Reference, bound_of: Callable[[Share, Share], float]
) -> Iterable[_Compared]:
    """Those of the figures in `words` that the live run has; one that this run lacks is a loss."""
    for name in [name for name in words if name in live.shares]:
        now, before = new.shares.get(name), live.shares[name]
        against = f"as {live.who} has {before.value:.2%} of {before.size:,}"
        if now is None:
            yield _Compared(math.nan, math.nan, f"{words[name]}: not measured in this run, {against}", -math.inf)
            continue
        bound = bound_of(now, before)
        said = f"{words[name]}: {now.value:.2%} of {now.size:,} found, at least {bound:.2%} expected, {against}"
        yield _Compared(now.value, bound, said, now.value - bound)


def _verdict(gate: str, compared: Iterable[_Compared], live: Reference, remedy: str) -> Verdict:
    """Of the figure that has least room: the failed ones are named, or where there is none the nearest to its bound."""
    ranked = sorted(compared, key=lambda one: one.room)
    if gate in live.silent or not ranked:
        why = live.silent.get(gate, f"{live.who} has nothing that it could be compared with")
        return Verdict(gate, math.nan, math.nan, True, f"not compared: {why}", "")
    failed = [one for one in ranked if one.room < 0]
    said = "; ".join(one.words for one in failed[:NAMED] or ranked[:1])
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    others = f" (of {len(ranked)} figures the nearest to its bound)" if not failed and len(ranked) > 1 else ""
    return Verdict(gate, ranked[0].value, ranked[0].bound, not failed, said + more + others, remedy)
