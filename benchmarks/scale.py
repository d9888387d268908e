"""How a refresh grows with the catalogue, and what a cluster and a lake on S3 cost.

    python benchmarks/scale.py --folder var/scale --dataset ../shared/data/fashion-product-images-small.zip

Refreshes of drawn catalogues on one core, on two, and on a Spark cluster of two workers with one core each; then rounds
of the dataset's refresh on `local[2]`, on the cluster, and with the lake on an S3 server of this machine, in turn. All
go through the command of `make refresh`; only the environment differs. Hours: what `--folder` holds is not measured
again, and one that stops is gone on with. The drawn catalogues are zips that lie ready. Their images are resized to
64 × 48 pixels, and an embedding trained on a small one is used, as a catalogue in production has one. A cell is
precomputed from 2 % of the products on, so that as many cells are at every size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from zipfile import ZipFile

import numpy as np
import psutil
import pyspark
import requests
from refresh import Refresh, refresh

from jobs.run import STEPS, WRITES
from jobs.sample import COLUMNS, sample

RUN, SEED = "2026-01-01", 7
SMALLEST, SIZES = 2_000, (20_000, 50_000, 100_000, 200_000)
LEARNT = 10_000
"""Products that the embedding is trained on: fewer have too few of an articleType to judge it by."""
CELL_SHARE = 0.02
IMAGES = {"LOOKALIKE_INPUT_HEIGHT": "64", "LOOKALIKE_INPUT_WIDTH": "48"}
WRITTEN_BY = {**WRITES, "raw": "pull", "models": "classify", "reports": "evaluate", "heldout": "evaluate"}
"""Folder of the lake → the step that writes it."""
SPARK = Path(pyspark.__file__).parent


@dataclass(frozen=True)
class Place:
    """Where a refresh runs: its environment, the CPUs it may use, and processes outside it that work for it."""

    settings: Mapping[str, str]
    cpus: Sequence[int]
    daemons: Sequence[psutil.Process] = ()


def on(master: str) -> dict[str, str]:
    """Settings of a refresh whose Spark steps run there; an executor has 1 GB unless told otherwise."""
    return {"LOOKALIKE_SPARK": master, "SPARK_LOCAL_IP": "127.0.0.1"}


@contextmanager
def one_core(_: Path) -> Iterator[Place]:
    yield Place(on("local[1]"), cpus(1))


@contextmanager
def two_cores(_: Path) -> Iterator[Place]:
    yield Place(on("local[2]"), cpus(2))


@contextmanager
def cluster(work: Path) -> Iterator[Place]:
    """A standalone master and two workers of one core each."""
    port = free_port()
    master = f"spark://127.0.0.1:{port}"
    common = [str(SPARK / "bin/spark-class"), "org.apache.spark.deploy.{}", "--host", "127.0.0.1", "--webui-port", "0"]
    worker = ("worker.Worker", "--cores", "1", "--memory", "1g", "--work-dir", str(work / "executors"), master)
    with daemons(
        [
            [part.format(role) for part in common] + arguments
            for role, *arguments in (("master.Master", "--port", str(port)), worker, worker)
        ],
        port,
        SPARK_HOME=str(SPARK),
        SPARK_DAEMON_MEMORY="256m",
        PYSPARK_PYTHON=sys.executable,
    ) as started:
        yield Place(on(master), cpus(2), started)


@contextmanager
def on_s3(_: Path) -> Iterator[Place]:
    """`local[2]`, and the lake in a bucket of a moto server, which takes its share of the two cores."""
    port = free_port()
    keys = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"}
    keys |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    with daemons([[str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]], port):
        requests.put(f"{keys['AWS_ENDPOINT_URL']}/scale", timeout=60).raise_for_status()  # makes the bucket
        os.environ |= keys  # for this process too, which reads what the steps returned
        try:
            yield Place(on("local[2]") | {"LOOKALIKE_LAKE": "s3://scale/lake"}, cpus(2))
        finally:
            for name in keys:
                del os.environ[name]


def cpus(number: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))[:number]


Start = Callable[[Path], AbstractContextManager[Place]]
PLACES: dict[str, Start] = {"1 core": one_core, "2 cores": two_cores, "cluster": cluster}
"""How each is started, given a folder to work in."""


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@contextmanager
def daemons(commands: Sequence[Sequence[str]], port: int, **env: str) -> Iterator[list[psutil.Process]]:
    """Start processes, the first of which answers at `port`, and end them."""
    started: list[subprocess.Popen] = []
    try:
        for command in commands:
            started.append(
                subprocess.Popen(
                    command,
                    env=os.environ | env,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            while not answers(port):
                if started[0].poll() is not None:
                    raise SystemExit(f"{commands[0]} ended with {started[0].returncode}")
                time.sleep(0.1)
        yield [psutil.Process(process.pid) for process in started]
    finally:
        for process in started:
            for each in psutil.Process(process.pid).children(recursive=True):
                each.kill()
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def measured(folder: Path, name: str, start: Start, measure: Callable[[Place, Path], dict]) -> dict:
    """What `measure` finds at a place, in a folder of its own; or what it found before under this name."""
    kept, work = folder / f"{name}.json", folder / "work"
    if not kept.exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        with start(work) as place:
            found = measure(place, work)
        kept.write_text(json.dumps(found))
        shutil.rmtree(work)
        print(f"{name}: {found['wall_s']:.0f} s", flush=True)
    return json.loads(kept.read_text())


def at(place: Place, work: Path, dataset: str, settings: Mapping[str, str]) -> dict:
    """A refresh at a place: seconds, largest process (MB) and bytes written by step, and what the steps returned."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, place.cpus)  # what is started inherits it
    try:
        found: Refresh = refresh(dataset, work, RUN, {**settings, **place.settings}, *place.daemons)
    finally:
        os.sched_setaffinity(0, everywhere)
    written = dict.fromkeys(STEPS, 0) | {"publish": size(work / "var/store/base")}
    for name, step in WRITTEN_BY.items():
        if step in written:
            written[step] += size(work / "var/lake" / name)
    return asdict(found) | {"bytes": written}


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# Growth ---------------------------------------------------------------------------------------------------------------


def trained(place: Place, work: Path) -> dict:
    """Train an embedding on a drawn catalogue; keeps the lake's `embedders` beside the measurements."""
    settings = settings_of(LEARNT)
    found = at(place, work, str(work.parent / f"{LEARNT}.zip"), settings)
    command = [str(Path(sys.executable).parent / "lookalike"), "step", "train_embedding", "--run", RUN]
    subprocess.run(command, cwd=work, env=os.environ | settings, check=True)
    trained = json.loads((work / f"var/lake/runs/{RUN}/train_embedding.json").read_text())
    if not trained["figures"]["promoted"]:
        raise SystemExit("the embedding trained on a drawn catalogue was not promoted, so none would be used")
    shutil.copytree(work / "var/lake/embedders", work.parent / "embedders", dirs_exist_ok=True)
    return found


def draw_catalogues(folder: Path, sizes: Collection[int]) -> None:
    """The beginnings of one drawn catalogue as `<size>.zip`, unless they are there: drawing takes minutes."""
    missing = [products for products in sizes if not (folder / f"{products}.zip").exists()]
    lines = [",".join(COLUMNS)]
    with ExitStack() as stack:
        drawn = {products: stack.enter_context(ZipFile(folder / f"{products}.part", "w")) for products in missing}
        for product in sample(max(missing), SEED) if missing else ():
            lines.append(",".join(product.row))
            for products, archive in drawn.items():
                if len(lines) <= products + 1 and product.image is not None:
                    archive.writestr(f"images/{product.row[0]}.jpg", product.image)
        for products, archive in drawn.items():
            archive.writestr("styles.csv", "".join(line + "\n" for line in lines[: products + 1]))
    for products in missing:
        (folder / f"{products}.part").rename(folder / f"{products}.zip")


def settings_of(products: int) -> dict[str, str]:
    return IMAGES | {"LOOKALIKE_CELL_MIN": str(int(products * CELL_SHARE))}


def grown(place: Place, work: Path, products: int) -> dict:
    """The refresh of a drawn catalogue with so many products."""
    shutil.copytree(work.parent / "embedders", work / "var/lake/embedders")
    return at(place, work, str(work.parent / f"{products}.zip"), settings_of(products))


def exponent(products: np.ndarray, seconds: np.ndarray) -> float:
    """The c of start + factor · products^c, with start and factor ≥ 0, that has the least squared relative error."""

    def misfit(power: float) -> float:
        terms = np.stack([np.ones(len(products)), (products / products[-1]) ** power], axis=1) / seconds[:, None]
        best, *_ = np.linalg.lstsq(terms, np.ones(len(products)), rcond=None)
        if best.min() < 0:  # the best of those that are allowed has no start
            best = np.array([0, terms[:, 1].sum() / (terms[:, 1] ** 2).sum()])
        return float(((terms @ best - 1) ** 2).sum())

    return round(float(min(np.arange(0.3, 2.5, 0.01), key=misfit)), 2)


def draw(growth: Mapping[int, Mapping[str, dict]], plot: Path) -> None:
    """Seconds by step over products, a panel a place, both axes logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    places = list(next(iter(growth.values())))
    figure, (panels,) = pyplot.subplots(1, len(places), figsize=(3 + 3 * len(places), 4), sharey=True, squeeze=False)
    for name, panel in zip(places, panels, strict=True):
        for step in STEPS:
            panel.loglog(list(growth), [row[name]["results"][step]["seconds"] for row in growth.values()], label=step)
        panel.set(title=name, xlabel="products")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    panels[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(plot, dpi=120)


def report(growth: Mapping[int, Mapping[str, dict]]) -> dict[str, float]:
    """Print a table a size and return the exponents by step, on two cores."""
    for products, row in growth.items():
        print(f"\n{products} products\n{'step':<12}" + "".join(f"{name + ', s':>12}" for name in row), end="")
        print(f"{'MB':>8}{'MB written':>12}")
        for step in STEPS:
            seconds = "".join(f"{found['results'][step]['seconds']:>12.1f}" for found in row.values())
            both = row["2 cores"]
            print(f"{step:<12}{seconds}{both['peak_mb'].get(step, 0):>8.0f}{both['bytes'][step] / 1e6:>12.1f}")
        print(f"{'wall':<12}" + "".join(f"{found['wall_s']:>12.1f}" for found in row.values()))
    sizes = np.array([*growth], float)
    return {
        step: exponent(sizes, np.array([row["2 cores"]["results"][step]["seconds"] for row in growth.values()]))
        for step in STEPS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="sample:2000?seed=7", help="the catalogue that places are compared on")
    parser.add_argument("--folder", type=Path, default=Path("var/scale"), help="measurements, kept from run to run")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison; medians are printed")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="products of the drawn catalogues")
    parser.add_argument("--places", nargs="+", default=[*PLACES], choices=PLACES, help="beside '2 cores'")
    parser.add_argument("--plot", type=Path, help="draw the growth into this file")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    draw_catalogues(folder, {SMALLEST, LEARNT, *given.sizes})
    measured(folder, "trained", two_cores, trained)
    growth = {
        products: {
            name: measured(folder, f"{products} on {name}", PLACES[name], partial(grown, products=products))
            for name in PLACES
            if name in {*given.places, "2 cores"}
        }
        for products in (SMALLEST, *given.sizes)
    }
    exponents = report(growth)
    if given.plot:
        draw(growth, given.plot)
    dataset = given.dataset if ":" in given.dataset else str(Path(given.dataset).resolve())
    compared = {"2 cores": two_cores, "cluster": cluster, "s3": on_s3}
    rounds = [
        {
            name: measured(folder, f"round {turn + 1} on {name}", start, partial(at, dataset=dataset, settings={}))
            for name, start in compared.items()
        }
        for turn in range(given.rounds)
    ]
    seconds = {name: median(found[name]["wall_s"] for found in rounds) for name in compared}
    peaks = [value for row in growth.values() for found in row.values() for value in found["peak_mb"].values()]
    figures = {
        "exponents": exponents,
        "cluster_vs_local": round(seconds["cluster"] / seconds["2 cores"], 3),
        "s3_vs_file": round(seconds["s3"] / seconds["2 cores"], 3),
        "peak_mb": round(max(peaks)),
    }
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()
