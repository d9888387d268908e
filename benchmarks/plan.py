"""What a refresh of 1, 10 and 100 million products takes, by the measurements of `benchmarks/scale.py`.

    python benchmarks/plan.py --folder var/scale

Fits the seconds, the largest process and the bytes written of each step to what was measured on two cores, and prints
Markdown tables for docs/scale.md: the fits, and each step's core-hours, hours and price. All but the fits' basis is
extrapolated, and the price of a core is an assumption.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np

from jobs.run import STEPS

MILLION = 1e6
ON_SPARK = ("embed", "similar")
"""Steps that keep both cores busy; the others run in one process."""
LEAST_SIZES = 4
"""Fewer say nothing about three terms."""
LEAST = 1e-3
"""What is less, in seconds or MB, counts as so much: the errors of a fit are relative."""
PLANS = {1: 16, 10: 128, 100: 1024}
"""Millions of products → cores of the Spark cluster."""
SHARES = {"all products": 1.0, "subCategory": 0.165, "articleType": 0.051}
"""What a product is compared with, all or those of its own category → the share of all pairs: the sum of the squared
shares of the categories, here of the 44,446 products of the *Fashion Product Images* catalogue."""


@dataclass(frozen=True)
class Fit:
    """start + linear · n + quadratic · n², n in millions of products; the terms are ≥ 0."""

    start: float
    linear: float
    quadratic: float

    def at(self, millions: float) -> float:
        return self.start + self.linear * millions + self.quadratic * millions**2


def fit(millions: Sequence[float], values: Sequence[float], powers: Iterable[int]) -> Fit:
    """The least squared relative error, over all choices of terms that come out ≥ 0."""
    n, wanted, best = np.array(millions), np.array(values, float), (np.inf, np.zeros(3))
    for chosen in (list(each) for count in (1, 2, 3) for each in combinations(powers, count)):
        terms = n[:, None] ** np.array(chosen) / wanted[:, None]
        found, *_ = np.linalg.lstsq(terms, np.ones(len(n)), rcond=None)
        error = float(((terms @ found - 1) ** 2).sum())
        if found.min() >= 0 and error < best[0]:
            best = error, np.bincount(chosen, found, 3)
    return Fit(*best[1])


def fits(
    measured: Mapping[int, dict], value: Callable[[dict, str], float], quadratic: Sequence[str] = ()
) -> dict[str, Fit]:
    """By step, of what `value` takes from a measurement; the steps `quadratic` may grow with the square of products."""
    millions = [products / MILLION for products in measured]
    values = {step: [max(value(found, step), LEAST) for found in measured.values()] for step in STEPS}
    return {step: fit(millions, values[step], (0, 1, 2) if step in quadratic else (0, 1)) for step in STEPS}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float) -> str:
    """Three digits, or whole; what is next to nothing is 0."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "0"


def describe(seconds: Mapping[str, Fit], peaks: Mapping[str, Fit], written: Mapping[str, Fit]) -> str:
    """The fits: what is spent on none, and on each million more."""
    head = ("step", "s: start", "+ a million", "+ a million²", "MB: start", "+ a million", "bytes a product")
    return table(
        head,
        (
            (
                step,
                *map(number, (seconds[step].start, seconds[step].linear, seconds[step].quadratic)),
                *map(number, (peaks[step].start, peaks[step].linear, written[step].linear)),
            )
            for step in STEPS
        ),
    )


def plan(seconds: Mapping[str, Fit], written: Mapping[str, Fit], millions: float, cores: int, core_hour: float) -> str:
    """A row a step and their sum: Spark's steps on so many cores, each other one on one core, as they are today."""
    rows, sums = [], np.zeros(4)
    for step in STEPS:
        used = 2 if step in ON_SPARK else 1
        core_hours = used * seconds[step].at(millions) / 3600
        hours = core_hours / (cores if step in ON_SPARK else 1)
        found = np.array([core_hours, hours, written[step].at(millions) / 1e3, core_hours * core_hour])
        rows.append((step, *map(number, found)))
        sums += found
    return table(
        ("step", "core-hours", f"hours on {cores} cores", "GB written", "$"), [*rows, ("all", *map(number, sums))]
    )


def read(folder: Path) -> tuple[dict[int, dict], list[dict]]:
    """The measurements on two cores: of drawn catalogues by their products, and of the real one."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("* on 2 cores.json"))}
    grown = {int(name.split()[0]): each for name, each in found.items() if not name.startswith("round")}
    return dict(sorted(grown.items())), [each for name, each in found.items() if name.startswith("round")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("var/scale"), help="where scale.py keeps its measurements")
    parser.add_argument("--core-hour", type=float, default=0.05, help="dollars for an hour of a core with 4 GB")
    given = parser.parse_args()
    grown, rounds = read(given.folder)
    if len(grown) < LEAST_SIZES or not rounds:
        found = f"{len(grown)} sizes of at least {LEAST_SIZES}, {len(rounds)} rounds of at least 1"
        raise SystemExit(f"{given.folder} has too few measurements on two cores: {found}; `make scale` makes them")
    seconds = fits(grown, lambda found, step: found["results"][step]["seconds"], ["catalog", "similar"])
    peaks = fits(grown, lambda found, step: found["peak_mb"].get(step, 0))
    written = fits(grown, lambda found, step: found["bytes"][step] / 1e6)
    print(describe(seconds, peaks, written))
    # The drawn images are small: a real one, at the input size that is the default, takes as long as it did in a round.
    per_second = median(found["results"]["embed"]["figures"]["images_per_s"] for found in rounds)
    seconds["embed"] = Fit(seconds["embed"].start, MILLION / per_second, 0)
    for millions, cores in PLANS.items():
        print(f"## {millions} million\n\n{plan(seconds, written, millions, cores, given.core_hour)}")
    head = ("core-hours of comparing, by what is searched", *(f"{millions} million" for millions in PLANS))
    rows = (
        (searched, *(number(2 * seconds["similar"].quadratic * share * millions**2 / 3600) for millions in PLANS))
        for searched, share in SHARES.items()
    )
    print(table(head, rows))


if __name__ == "__main__":
    main()
