"""Time and memory of a refresh from nothing, and of a second one of the same input.

    python benchmarks/refresh.py --dataset ../shared/data/fashion-product-images-small.zip

Both run in a fresh temporary folder through the same command as `make refresh`. `peak_mb` is the largest resident set
that any single process of the refresh reached, sampled once a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.lake import Lake
from infra.telemetry import log_file
from jobs.run import STEPS

SAMPLE_S = 1.0


@dataclass(frozen=True)
class Refresh:
    """What a refresh took: seconds of all of it, the largest resident set (MB) by step, and what the steps returned."""

    wall_s: float
    peak_mb: Mapping[str, float]
    results: Mapping[str, dict]


def refresh(
    dataset: str, folder: Path, run: str, settings: Mapping[str, str] = {}, *daemons: psutil.Process
) -> Refresh:
    """One refresh with everything it writes in `folder`; `daemons` are processes outside it that work for it."""
    command = [str(Path(sys.executable).parent / "lookalike"), "refresh", "--dataset", dataset, "--run", run]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE_")} | dict(settings)
    started, peak_mb = time.perf_counter(), defaultdict[str, float](float)
    process = subprocess.Popen(command, cwd=folder, env=env)
    while process.poll() is None:
        step = newest_step(folder / "var/logs", run)
        for root in (psutil.Process(process.pid), *daemons):
            peak_mb[step] = max(peak_mb[step], largest(root) / 2**20)
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"the refresh failed with exit code {process.returncode}; see {folder}/var/logs")
    wall_s = time.perf_counter() - started
    lake = Lake(env.get("LOOKALIKE_LAKE", (folder.resolve() / "var/lake").as_uri()))
    results = {step: json.loads(lake.read_bytes(f"runs/{run}/{step}.json")) for step in STEPS}
    return Refresh(wall_s, dict(peak_mb), results)


def newest_step(logs: Path, run: str) -> str:
    """The step that wrote to its log last."""
    begun = [step for step in STEPS if log_file(logs, run, step).exists()]
    return max(begun, key=lambda step: log_file(logs, run, step).stat().st_mtime, default=STEPS[0])


def largest(root: psutil.Process) -> int:
    """The largest resident set (bytes) of a process and its descendants."""
    found = [0]
    with suppress(psutil.NoSuchProcess):
        for each in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                found.append(each.memory_info().rss)
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="sample:2000?seed=7")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in and keep; default: a temporary one")
    given = parser.parse_args()
    dataset = given.dataset if ":" in given.dataset else str(Path(given.dataset).resolve())
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        first = refresh(dataset, folder, "2026-01-01")
        second = refresh(dataset, folder, "2026-01-02")
    print(f"\n{'step':<12}{'first, s':>10}{'repeat, s':>11}{'MB':>7}")
    for step, result in first.results.items():
        print(
            f"{step:<12}{result['seconds']:>10.1f}{second.results[step]['seconds']:>11.1f}{first.peak_mb[step]:>7.0f}"
        )
    print(f"{'wall':<12}{first.wall_s:>10.1f}{second.wall_s:>11.1f}\n")
    if second.results["embed"]["figures"]["embedded"]:
        raise SystemExit("the second refresh embedded images again")
    figures = {
        "refresh_s": round(first.wall_s, 1),
        "repeat_s": round(second.wall_s, 1),
        "embed_images_per_s": first.results["embed"]["figures"]["images_per_s"],
        "peak_mb": round(max(*first.peak_mb.values(), *second.peak_mb.values())),
        "products": first.results["catalog"]["figures"]["products"],
        "similar_s": round(first.results["similar"]["seconds"], 1),
        "publish_s": round(first.results["publish"]["seconds"], 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
