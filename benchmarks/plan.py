"""What the measured growth comes to at a million products and more: hours, gigabytes and cost by step.

    python benchmarks/plan.py --folder var/scale

Fits what `benchmarks/scale.py` measured on two cores, by non-negative least squares of the relative errors: start +
a · products for every step, and + b · products² for `similar`. Images are embedded at the rate of the dataset's rounds,
since those of the drawn catalogues are small. What is printed stands in docs/scale.md; all of it is extrapolated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from scipy.optimize import nnls

from jobs.step import STEPS

MEASURED_ON = 2
"""Cores."""
SPARK, QUADRATIC = ("embed", "similar"), "similar"
SIZES = {10**6: 32, 10**7: 512, 10**8: 4096}
"""Products → executor cores that a refresh is planned with."""
DRIVER_CORES = 8
VCPU_HOUR, GB_MONTH = 0.05, 0.10
"""USD, of the order of list prices on demand: a virtual core with 4 GB; a GB of a database's disk. Put yours here."""


@dataclass(frozen=True)
class Growth:
    """A step's seconds on two cores, bytes written and largest process (MB), as functions of the products."""

    start: float
    linear: float
    squared: float
    bytes: float
    mb: tuple[float, float]

    def core_hours(self, products: int) -> float:
        """What a step that runs on Spark spends in all, its start left out."""
        return MEASURED_ON * (self.linear * products + self.squared * products**2) / 3600

    def hours(self, step: str, products: int, cores: int) -> float:
        """How long a step takes: on `cores` if it runs on Spark, else as measured, on one machine."""
        if step in SPARK:
            return self.start / 3600 + self.core_hours(products) / cores
        return (self.start + self.linear * products) / 3600


def fit(products: np.ndarray, values: np.ndarray, *powers: int) -> np.ndarray:
    """Factors ≥ 0 of these powers of `products` whose sum has the least squared relative error from `values`."""
    terms = np.stack([products**power for power in powers], axis=1) / values[:, None]
    scale = terms.max(axis=0)
    return nnls(terms / scale, np.ones(len(products)))[0] / scale


def read(folder: Path) -> dict[str, Growth]:
    """The growth of every step."""
    found = {
        int(file.name.split()[0]): json.loads(file.read_text())
        for file in folder.glob("* on 2 cores.json")
        if file.name.split()[0].isdigit()
    }
    products = np.array(sorted(found), float)

    def each(value: Callable[[dict], float]) -> np.ndarray:
        return np.array([value(found[int(n)]) for n in products])

    growth = {}
    for step in STEPS:
        seconds = each(lambda row, step=step: row["results"][step]["seconds"])
        powers = (0, 1, 2) if step == QUADRATIC else (0, 1)
        factors = np.append(fit(products, seconds, *powers), 0.0)
        written = fit(products, each(lambda row, step=step: row["bytes"][step] + 1), 1)[0]
        peak = fit(products, each(lambda row, step=step: row["peak_mb"][step]), 0, 1)
        growth[step] = Growth(*factors[:3], written, tuple(peak))
    return growth


def with_images_of(dataset_rounds: list[dict], drawn: Growth) -> Growth:
    """The growth of `embed` on the images of the dataset: the seconds of an image are those of the rounds."""
    seconds = [
        (row["results"]["embed"]["seconds"] - drawn.start) / row["results"]["embed"]["figures"]["embedded"]
        for row in dataset_rounds
    ]
    return replace(drawn, linear=median(seconds))


def usd(step: str, growth: Growth, products: int, cores: int) -> float:
    """Executors for what they compute, or the driver for as long as it works."""
    cores_used = growth.core_hours(products) if step in SPARK else DRIVER_CORES * growth.hours(step, products, cores)
    return VCPU_HOUR * cores_used


def table(heading: str, growth: dict[str, Growth], value: Callable[[str, Growth, int, int], str]) -> None:
    """A table in Markdown: a row a step, a column a size."""
    columns = [f"{products // 10**6} M" for products in SIZES]
    print(f"\n| {heading} | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for step, grown in growth.items():
        print(f"| {step} | {' | '.join(value(step, grown, *size) for size in SIZES.items())} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("var/scale"), help="what `benchmarks/scale.py` measured")
    folder = parser.parse_args().folder
    growth = read(folder)
    rounds = [json.loads(file.read_text()) for file in folder.glob("round * on 2 cores.json")]
    growth["embed"] = with_images_of(rounds, growth["embed"])
    print(
        f"executor cores: {', '.join(map(str, SIZES.values()))}; driver of {DRIVER_CORES}; {VCPU_HOUR} USD a core-hour"
    )
    table("hours", growth, lambda step, grown, n, cores: f"{grown.hours(step, n, cores):.2g}")
    table("USD", growth, lambda step, grown, n, cores: f"{usd(step, grown, n, cores):.2g}")
    table("GB written", growth, lambda _, grown, n, __: f"{grown.bytes * n / 1e9:.3g}")
    table("largest process, GB", growth, lambda _, grown, n, __: f"{np.dot(grown.mb, (1, n)) / 1e3:.2g}")


if __name__ == "__main__":
    main()
