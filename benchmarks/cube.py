"""The filter cube against its peers, side by side: the ten most similar members of every precomputed cell, exactly.

    python benchmarks/cube.py --dataset ../shared/data/fashion-product-images-small.zip
    python benchmarks/cube.py --dataset … --growth docs/cube-growth.png

In each of three rounds, in turn: ours, shortlists written to a lake on disk; faiss IndexFlatIP with an index per cell
(the best exact peer); one matrix product for all cells with numpy's argpartition in each; faiss on the empty filter
alone; the bare matrix product. Medians and ratios of the rounds are printed. With `--growth` instead: time and memory
of a worker from 44,000 to 500,000 products, which are the dataset's with noise.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import catalogue
import faiss
import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from infra.lake import Lake
from jobs.shortlists import PARQUET, to_table
from ml import cube
from ml.cells import Cells, find_cells
from ml.similarity import UNIT, to_embedding

FIELDS = ("gender", "articleType", "baseColour", "season", "usage")
ROUNDS, TASK = 3, 1024
THREADS = len(os.sched_getaffinity(0))


def on_all_cores(work: Callable[[int], object], starts: Iterable[int]) -> None:
    """Each thread its own task, BLAS one thread in each."""
    with threadpool_limits(1), ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, starts))


def ours(whole: catalogue.Catalogue, cells: Cells, panels: list[cube.Panel], lake: Lake) -> None:
    def task(start: int) -> None:
        own = np.arange(start, min(start + TASK, len(whole.ids)))
        made = cube.shortlists(whole.embeddings[own], own, panels, cells)
        lake.write_part("shortlists", to_table(whole.ids, start, *made), **PARQUET)

    on_all_cores(task, range(0, len(whole.ids), TASK))


def product(embeddings: np.ndarray) -> None:
    """All scores, in blocks as ours has them; nothing is done with them."""

    def task(start: int) -> None:
        out = np.empty((cube.BLOCK, len(embeddings)), np.float32)
        for at in range(start, min(start + TASK, len(embeddings)), cube.BLOCK):
            block = embeddings[at : min(at + cube.BLOCK, start + TASK)]
            np.matmul(block, embeddings.T, out=out[: len(block)])

    on_all_cores(task, range(0, len(embeddings), TASK))


def argpartition_per_cell(embeddings: np.ndarray, members: list[np.ndarray]) -> None:
    """The product once, and from it the ten greatest of each cell, ordered; ties come as numpy has them."""

    def task(start: int) -> None:
        out = np.empty((cube.BLOCK, len(embeddings)), np.float32)
        for at in range(start, min(start + TASK, len(embeddings)), cube.BLOCK):
            block = embeddings[at : min(at + cube.BLOCK, start + TASK)]
            scores = np.matmul(block, embeddings.T, out=out[: len(block)])
            scores[np.arange(len(block)), np.arange(at, at + len(block))] = -np.inf
            for inside in members:
                of_cell = scores[:, inside]
                greatest = np.argpartition(of_cell, max(0, len(inside) - 10), axis=1)[:, -10:]
                order = np.argsort(-np.take_along_axis(of_cell, greatest, 1), axis=1, kind="stable")
                inside[np.take_along_axis(greatest, order, 1)]

    on_all_cores(task, range(0, len(embeddings), TASK))


def faiss_flat(embeddings: np.ndarray, members: np.ndarray) -> None:
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings[members])
    index.search(embeddings, min(11, len(members)))  # the query itself may be among them


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds over the number of threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, (time.process_time() - cpu) / THREADS


def exact_share(embeddings: np.ndarray, cells: Cells, panels: list[cube.Panel], queries: int = 60) -> float:
    """Share of shortlists equal to an int64 oracle in ids and scores, of random queries."""
    chosen = np.random.default_rng(0).choice(len(embeddings), min(queries, len(embeddings)), replace=False)
    starts, items, scores = cube.shortlists(embeddings[chosen], chosen, panels, cells)
    units, members = np.rint(embeddings / UNIT).astype(np.int64), [cells.members(cell) for cell in range(len(cells))]
    equal = 0
    for place, query in enumerate(chosen):
        whole, kept = units @ units[query], set[int]()
        for inside, depth in zip(members, cells.depths, strict=True):
            inside = inside[inside != query]
            kept.update(inside[np.lexsort((inside, -whole[inside]))[:depth]].tolist())
        expected = np.array(sorted(kept, key=lambda item: (-whole[item], item)))
        here = slice(starts[place], starts[place + 1])
        same_scores = np.array_equal(scores[here] / np.float32(UNIT**2), whole[expected])
        equal += np.array_equal(items[here], expected) and same_scores
    return equal / len(chosen)


def compare(whole: catalogue.Catalogue, cell_min: int) -> None:
    embeddings, n = whole.embeddings, len(whole.ids)
    started = time.perf_counter()
    cells = find_cells(whole.values, n, cell_min)
    size = cube.panel_size(embeddings.shape[1])
    panels = [cube.make_panel(embeddings[at : at + size], at, cells) for at in range(0, n, size)]
    prepared = time.perf_counter() - started
    print(f"{n} products, {embeddings.shape[1]} dimensions, {len(cells)} cells, {cells.sizes.sum()} members")
    print(f"{len(cells) * n} products × cells, {len(cells.contains)} atoms; cells and panels made in {prepared:.2f} s")
    exact = exact_share(embeddings, cells, panels)  # compiles the kernels too
    members = [cells.members(cell) for cell in range(len(cells))]
    folder = tempfile.TemporaryDirectory(prefix="lookalike-bench-")
    lake = Lake(Path(folder.name).as_uri())
    contestants = {
        "ours": lambda: ours(whole, cells, panels, lake),
        "faiss_per_cell": lambda: [faiss_flat(embeddings, inside) for inside in members],
        "argpartition": lambda: argpartition_per_cell(embeddings, members),
        "faiss_empty": lambda: faiss_flat(embeddings, members[0]),
        "gemm": lambda: product(embeddings),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(ROUNDS):
        for name, work in contestants.items():
            seconds[name].append(timed(work))
            elapsed, cpu = seconds[name][-1]
            print(f"round {number + 1}  {name:<15}{elapsed:>9.2f} s wall{cpu:>9.2f} s CPU")
    wall, busy = ({name: median(each[i] for each in all_) for name, all_ in seconds.items()} for i in (0, 1))

    def ratio(over: str, under: str, figures: dict[str, float]) -> float:
        return round(figures[over] / figures[under], 3)

    ratios = (
        ("ratio_vs_faiss_per_cell", "faiss_per_cell", "ours"),
        ("ratio_vs_argpartition_per_cell", "argpartition", "ours"),
        ("ratio_vs_faiss_empty", "ours", "faiss_empty"),
        ("ratio_vs_gemm", "ours", "gemm"),
    )
    figures = {name: ratio(over, under, wall) for name, over, under in ratios}
    figures |= {f"{name}_cpu": ratio(over, under, busy) for name, over, under in ratios}
    figures |= {"wall_s": round(wall["ours"], 2), "cpu_s_over_threads": round(busy["ours"], 2), "threads": THREADS}
    figures |= {"pairs_per_s": round(n * len(cells) / wall["ours"]), "cells": len(cells), "exact": exact}
    folder.cleanup()
    print(json.dumps(figures))


def grown(whole: catalogue.Catalogue, n: int) -> tuple[np.ndarray, Cells]:
    """`n` products: the catalogue's, drawn again and again with noise; as many cells, in which all sizes grow."""
    rng = np.random.default_rng(n)
    drawn = rng.integers(0, len(whole.ids), n)
    embeddings = np.empty((n, whole.embeddings.shape[1]), np.float32)
    for at in range(0, n, 1 << 15):
        block = whole.embeddings[drawn[at : at + (1 << 15)]]
        embeddings[at : at + len(block)] = to_embedding(block + rng.normal(0, 0.02, block.shape).astype(np.float32))
    values = {field: [column[i] for i in drawn] for field, column in whole.values.items()}
    return embeddings, find_cells(values, n, max(2, 1000 * n // 44072))


@dataclass
class Worker:
    """One worker's part of a catalogue, a panel after the other, with the CPU seconds and the memory that it took."""

    embeddings: np.ndarray
    cells: Cells
    gemm_s: float = 0.0
    peak: int = 0

    def panels(self, queries: np.ndarray) -> Iterator[cube.Panel]:
        size = cube.panel_size(self.embeddings.shape[1])
        out = np.empty((cube.BLOCK, min(size, len(self.embeddings))), np.float32)
        for at in range(0, len(self.embeddings), size):
            panel = cube.make_panel(self.embeddings[at : at + size], at, self.cells)
            started = time.process_time()
            for first in range(0, len(queries), cube.BLOCK):
                block = queries[first : first + cube.BLOCK]
                np.matmul(block, panel.embeddings.T, out=out[: len(block), : len(panel.embeddings)])
            self.gemm_s += time.process_time() - started
            yield panel
            self.peak = max(self.peak, psutil.Process().memory_info().rss)

    def run(self, queries: int) -> dict[str, float]:
        """CPU microseconds a query of the product and of all else, and MB beside the embeddings it was given."""
        before, started, own = psutil.Process().memory_info().rss, time.process_time(), np.arange(queries)
        with threadpool_limits(1):
            cube.shortlists(self.embeddings[own], own, self.panels(self.embeddings[own]), self.cells)
        rest_s = time.process_time() - started - 2 * self.gemm_s  # the product was made twice, once to time it
        return {
            "products": len(self.embeddings),
            "cells": len(self.cells),
            "gemm_us": self.gemm_s / queries * 1e6,
            "rest_us": rest_s / queries * 1e6,
            "worker_mb": (self.peak - before) / 2**20,
        }


def growth(whole: catalogue.Catalogue, plot: Path, queries: int = 2048) -> None:
    """Measure a worker on catalogues of growing size and draw what it took: the medians of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes, rows = (44_072, 88_000, 176_000, 352_000, 500_000), []
    Worker(*grown(whole, 2000)).run(1)  # compiles the kernels
    for n in sizes:
        rounds = [Worker(*given).run(queries) for given in [grown(whole, n)] * ROUNDS]
        rows.append({name: median(each[name] for each in rounds) for name in rounds[0]})
        print({name: round(value, 1) for name, value in rows[-1].items()})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, label in (("gemm_us", "matrix product"), ("rest_us", "all else")):
        left.loglog(sizes, [row[name] for row in rows], "o-", label=label)
    left.set(xlabel="products", ylabel="CPU µs a query", title="Time")
    left.legend()
    right.plot(sizes, [row["worker_mb"] for row in rows], "o-")
    right.set(xlabel="products", ylabel="MB", ylim=(0, None), title="Memory of a worker beside its input")
    figure.savefig(plot, dpi=120)
    exponents = {
        name: round(float(np.polyfit(np.log(sizes), np.log([row[name] for row in rows]), 1)[0]), 2)
        for name in ("gemm_us", "rest_us")
    }
    print(json.dumps({"exponents_a_query": exponents, "worker_mb": round(max(row["worker_mb"] for row in rows))}))


def main() -> None:
    parser = catalogue.parser(__doc__.splitlines()[0])
    parser.add_argument("--fields", default=",".join(FIELDS), help="fields of the filter combinations")
    parser.add_argument("--cell-min", type=int, default=1000, help="members a precomputed cell needs")
    parser.add_argument("--growth", type=Path, help="measure growth instead, and draw it into this file")
    given = parser.parse_args()
    whole = catalogue.load(given.dataset, given.folder, given.fields.split(","))
    if given.growth:
        growth(whole, given.growth)
    else:
        compare(whole, given.cell_min)


if __name__ == "__main__":
    main()
