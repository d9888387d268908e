"""Gates: may this run replace the live one? Pure rules from figures to verdicts, each with what to do when it fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

GATES = ("coverage", "finite", "lists", "products", "rejects")
"""Every gate; a run without a verdict of each is not published."""


@dataclass(frozen=True)
class Figures:
    """What the gates look at.

    Attributes:
        products: products of the run.
        covered: products whose unfiltered list has full length (ten, or all others where there are fewer).
        cells: precomputed cells.
        lists: lists in the table that belong to a product of the run.
        not_finite: values of features or embeddings that are NaN or infinite.
        rejected: share of the source's products that could not be used, 0–1.
    """

    products: int
    covered: int
    cells: int
    lists: int
    not_finite: int
    rejected: float


@dataclass(frozen=True)
class Tolerances:
    """Bounds of the gates, shares 0–1; None: no threshold set, hence no verdict."""

    coverage_min: float | None
    shrink_max: float | None
    reject_max: float | None


@dataclass(frozen=True)
class Verdict:
    """One gate's answer: the value, the bound it was held against, and words for whoever reads it at 3 a.m."""

    gate: str
    value: float
    bound: float
    passed: bool
    detail: str
    remedy: str


def verdicts(new: Figures, live_products: int | None, tolerances: Tolerances) -> list[Verdict]:
    """A verdict for each gate that has a threshold; `live_products` is None where no run is live yet."""
    found = [_finite(new), _lists(new)]
    if tolerances.coverage_min is not None:
        found.append(_coverage(new, tolerances.coverage_min))
    if tolerances.shrink_max is not None:
        found.append(_products(new, live_products, tolerances.shrink_max))
    if tolerances.reject_max is not None:
        found.append(_rejects(new, tolerances.reject_max))
    return found


def promotes(challenger: Mapping[str, float], champion: Mapping[str, float]) -> bool:
    """Whether an embedder replaces the champion, from the percentages of both on the same held-out queries.

    It must be right for more products in `both` (articleType and gender) on average over the three tolerances, and its
    `colour_share` may be lower by no more points than it gains there: better kinds are not bought with worse looks. A
    percentage that is NaN promotes nothing.
    """
    gain = sum(challenger[name] - champion[name] for name in ("both_0.2", "both_0.1", "both_0")) / 3
    return gain > 0 and champion["colour_share"] - challenger["colour_share"] <= gain


def _coverage(new: Figures, least: float) -> Verdict:
    share = new.covered / new.products if new.products else 0.0
    detail = f"{new.covered:,} of {new.products:,} products have a full list, {share:.2%}; at least {least:.2%} must"
    remedy = "Run similar again: its lists are short or belong to other products than the run's."
    return Verdict("coverage", share, least, share >= least, detail, remedy)


def _finite(new: Figures) -> Verdict:
    detail = f"{new.not_finite:,} values of features or embeddings are NaN or infinite; none may be"
    remedy = "Check the backbone's weights and precision, then run embed again under a new setting."
    return Verdict("finite", new.not_finite, 0, new.not_finite == 0, detail, remedy)


def _lists(new: Figures) -> Verdict:
    expected = new.products * new.cells
    detail = f"{new.lists:,} lists for {new.products:,} products in {new.cells:,} cells; {expected:,} are due"
    return Verdict("lists", new.lists, expected, new.lists == expected, detail, "Run similar again.")


def _products(new: Figures, live: int | None, shrink_max: float) -> Verdict:
    # The share as it was typed: in floating point 1 − 0.7 is more than 0.3. No run may be empty.
    bound = max(1, math.ceil((live or 0) * (1 - Fraction(str(shrink_max)))))
    against = "no run is live yet" if live is None else f"the live run has {live:,}; at most {shrink_max:.0%} may go"
    detail = f"{new.products:,} products; {against}"
    remedy = "Check the source for missing products; if the loss is meant, raise LOOKALIKE_SHRINK_MAX for this run."
    return Verdict("products", new.products, bound, new.products >= bound, detail, remedy)


def _rejects(new: Figures, most: float) -> Verdict:
    detail = f"{new.rejected:.2%} of the source's products were rejected; at most {most:.2%} may be"
    remedy = "Look into the table rejects, mend the source, or raise LOOKALIKE_REJECT_MAX."
    return Verdict("rejects", new.rejected, most, new.rejected <= most, detail, remedy)
