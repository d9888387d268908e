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
from pathlib import Path

import psutil

SAMPLE_S = 1.0


def refresh(dataset: str, folder: Path, run: str) -> tuple[float, float]:
    """Wall seconds and largest resident set (MB) of one refresh in `folder`."""
    command = [str(Path(sys.executable).parent / "lookalike"), "refresh", "--dataset", dataset, "--run", run]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE_")}
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, cwd=folder, env=env)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        for each in [root, *children(root)]:
            try:
                peak = max(peak, each.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"the refresh failed with exit code {process.returncode}; see {folder}/var/logs")
    return time.perf_counter() - started, peak / 2**20


def children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def results(folder: Path, run: str) -> dict[str, dict]:
    """What the steps of a run returned, by step."""
    return {file.stem: json.loads(file.read_text()) for file in (folder / "var/lake/runs" / run).glob("*.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="sample:2000?seed=7")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in and keep; default: a temporary one")
    given = parser.parse_args()
    dataset = given.dataset if ":" in given.dataset else str(Path(given.dataset).resolve())
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        first_s, first_mb = refresh(dataset, folder, "2026-01-01")
        second_s, second_mb = refresh(dataset, folder, "2026-01-02")
        first, second = results(folder, "2026-01-01"), results(folder, "2026-01-02")
    print(f"\n{'step':<12}{'first, s':>10}{'repeat, s':>11}")
    for step, result in first.items():
        print(f"{step:<12}{result['seconds']:>10.1f}{second[step]['seconds']:>11.1f}")
    print(f"{'wall':<12}{first_s:>10.1f}{second_s:>11.1f}\n")
    if second["embed"]["figures"]["embedded"]:
        raise SystemExit("the second refresh embedded images again")
    figures = {
        "refresh_s": round(first_s, 1),
        "repeat_s": round(second_s, 1),
        "embed_images_per_s": first["embed"]["figures"]["images_per_s"],
        "peak_mb": round(max(first_mb, second_mb)),
        "products": first["catalog"]["figures"]["products"],
        "lists": first["similar"]["figures"]["lists"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
