"""The nine percentages again, in plain numpy from the features table: none of our similarity or metrics code.

    python benchmarks/nine_percentages.py --lake var/lake --run 2026-01-31

Reads the run's products and features, rounds unit vectors to multiples of 2⁻¹¹, multiplies them as integers in float64,
takes ten neighbours (ties to the smaller id), and compares with what `evaluate` stored. Fails when they differ.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from deltalake import DeltaTable

BLOCK = 256


def read(lake: Path, run: str, step: str, table: str, columns: list[str]):
    result = json.loads((lake / f"runs/{run}/{step}.json").read_text())
    files = DeltaTable(str(lake / table), version=result["tables"][table]).file_uris()
    return pq.read_table(files, columns=columns), result["figures"]


def embeddings(lake: Path, run: str, hashes: list[str]) -> np.ndarray:
    rows, figures = read(lake, run, "embed", "features", ["image_sha256", "model", "average"])
    place = {
        sha: at
        for at, (sha, model) in enumerate(zip(*(rows[c].to_pylist() for c in ("image_sha256", "model")), strict=True))
        if model == figures["model"]
    }
    flat = rows["average"].combine_chunks()
    matrix = flat.flatten().to_numpy().reshape(len(flat), -1)[[place[sha] for sha in hashes]].astype(np.float64)
    return np.rint(matrix / np.linalg.norm(matrix, axis=1, keepdims=True) * 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lake", type=Path, default=Path("var/lake"))
    parser.add_argument("--run", required=True)
    given = parser.parse_args()
    products, _ = read(
        given.lake, given.run, "catalog", "products", ["product_id", "gender", "articleType", "image_sha256"]
    )
    order = np.argsort(products["product_id"].to_numpy())
    types, genders = (np.array(products[name].to_pylist(), dtype=object)[order] for name in ("articleType", "gender"))
    units = embeddings(given.lake, given.run, np.array(products["image_sha256"].to_pylist())[order].tolist())
    names, counts = np.unique(types.astype(str), return_counts=True)
    queries = np.flatnonzero(np.isin(types.astype(str), names[counts >= 500]))
    wrong = {"articleType": [], "gender": [], "both": []}
    for start in range(0, len(queries), BLOCK):
        rows = queries[start : start + BLOCK]
        # The score, then the smaller index: both in one integer-valued float64, exact below 2⁵³.
        scores = (units[rows] @ units.T) * len(units) - np.arange(len(units))
        scores[np.arange(len(rows)), rows] = -np.inf
        best = np.argpartition(-scores, 10, axis=1)[:, :10]
        same_type, same_gender = types[best] == types[rows][:, None], genders[best] == genders[rows][:, None]
        for name, hit in (("articleType", same_type), ("gender", same_gender), ("both", same_type & same_gender)):
            wrong[name].append(10 - hit.sum(axis=1))
    found = {
        f"{name}_{tolerance}": round(100 * float((np.concatenate(each) <= allowed).mean()), 2)
        for name, each in wrong.items()
        for tolerance, allowed in (("0.2", 2), ("0.1", 1), ("0", 0))
    }
    stored = json.loads((given.lake / f"runs/{given.run}/evaluate.json").read_text())["figures"]
    print(f"{'':<14}{'numpy':>8}{'stored':>8}   over {len(queries)} products")
    for name, value in found.items():
        print(f"{name:<14}{value:>8.2f}{stored[name]:>8.2f}")
    equal = all(stored[name] == value for name, value in found.items())
    print(json.dumps({**found, "products": len(queries), "equal": equal}))
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
