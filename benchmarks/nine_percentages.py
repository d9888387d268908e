"""The nine percentages again, in plain numpy from the lake's tables: none of our similarity or metrics code.

    python benchmarks/nine_percentages.py --lake var/lake --run 2026-01-31

Reads the run's products and features, rounds unit vectors to multiples of 2⁻¹¹ (where the embedder is trained, it reads
its output, the table `embeddings`: of those held out, what their images show alone), multiplies them as integers in
float64, takes ten neighbours (ties to the smaller id), for all products and for those whose pictures are of the
test side, and compares with what `evaluate` stored. Counts the right answers in the table `heldout` too: what unknown
images were taken for and what was recommended, by no product whose image is held out. Fails when any figure differs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

BLOCK = 256
HELD_OUT = 10_000
"""Held-out products that are measured: those with the first image hashes."""


def read(lake: Path, run: str, step: str, table: str, columns: list[str] | None):
    result = json.loads((lake / f"runs/{run}/{step}.json").read_text())
    files = DeltaTable(str(lake / table), version=result["tables"][table]).file_uris()
    return pq.read_table(files, columns=columns), result["figures"]


def by_id(rows: pa.Table) -> pa.Table:
    """The rows of a catalogue whose ids are numbers, as Kaggle's are, in their order."""
    return rows.take(np.argsort(rows["product_id"].cast(pa.int64()).to_numpy()))


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


def trained_embeddings(lake: Path, run: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As they are served, and as they are measured."""
    rows = by_id(read(lake, run, "similar", "embeddings", None)[0])
    assert np.array_equal(rows["product_id"].to_numpy(), ids), "embeddings of other products"
    served = to_units(rows["embedding"].combine_chunks())
    measured, held_out = served.copy(), rows["unlabelled"].is_valid().to_numpy()
    if held_out.any():
        measured[held_out] = to_units(rows["unlabelled"].drop_null().combine_chunks())
    return served, measured


def to_units(column) -> np.ndarray:
    return np.rint(column.flatten().to_numpy().reshape(len(column), -1).astype(np.float64) * 2048)


def wrong_neighbours(
    units: np.ndarray, queries: np.ndarray, types: np.ndarray, genders: np.ndarray
) -> dict[str, np.ndarray]:
    """How many of the ten neighbours of each query have another articleType, another gender, or either."""
    wrong: dict[str, list[np.ndarray]] = {"articleType": [], "gender": [], "both": []}
    for start in range(0, len(queries), BLOCK):
        rows = queries[start : start + BLOCK]
        # The score, then the smaller index: both in one integer-valued float64, exact below 2⁵³.
        scores = (units[rows] @ units.T) * len(units) - np.arange(len(units))
        scores[np.arange(len(rows)), rows] = -np.inf
        best = np.argpartition(-scores, 10, axis=1)[:, :10]
        same_type, same_gender = types[best] == types[rows][:, None], genders[best] == genders[rows][:, None]
        for name, hit in (("articleType", same_type), ("gender", same_gender), ("both", same_type & same_gender)):
            wrong[name].append(10 - hit.sum(axis=1))
    return {name: np.concatenate(each) for name, each in wrong.items()}


def is_held_out(picture: int) -> bool:
    """Whether a picture is of the test side or the final one, by the last two digits of its number."""
    return picture % 100 < 20


def is_tested(picture: int) -> bool:
    return 10 <= picture % 100 < 20


def count_unknown(lake: Path, run: str, products: dict[int, dict]) -> dict[str, float]:
    """Shares of the answers to unknown images that are right, in percent."""
    answers = read(lake, run, "evaluate", "heldout", None)[0].to_pylist()
    right = {"unknown_subcategory": 0, "unknown_derived": 0, "unknown_all10": 0}
    for answer in answers:
        own, items = products[answer["product_id"]], [products[item] for item in answer["items"]]
        assert own["image_sha256"] == answer["image_sha256"]
        assert is_tested(own["picture"])
        assert not any(is_held_out(item["picture"]) for item in items), "a held-out product was recommended"
        kind = own["gender"], own["articleType"]
        right["unknown_subcategory"] += answer["subCategory"] == own["subCategory"]
        right["unknown_derived"] += answer["derivedType"] == " ".join(kind)
        right["unknown_all10"] += bool(items) and all((item["gender"], item["articleType"]) == kind for item in items)
    return {name: round(100 * count / len(answers), 2) for name, count in right.items()} if answers else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lake", type=Path, default=Path("var/lake"))
    parser.add_argument("--run", required=True)
    given = parser.parse_args()
    columns = ["product_id", "gender", "articleType", "subCategory", "image_sha256", "picture"]
    products, _ = read(given.lake, given.run, "catalog", "products", columns)
    products = by_id(products)
    types, genders = (np.array(products[name].to_pylist(), dtype=object) for name in ("articleType", "gender"))
    hashes = products["image_sha256"].to_pylist()
    figures = json.loads((given.lake / f"runs/{given.run}/embed.json").read_text())["figures"]
    if figures["embedder"] == "untrained":
        served = measured = embeddings(given.lake, given.run, hashes)
    else:
        served, measured = trained_embeddings(given.lake, given.run, products["product_id"].to_numpy())
    names, counts = np.unique(types.astype(str), return_counts=True)
    queries = np.flatnonzero(np.isin(types.astype(str), names[counts >= 500]))
    tested = [at for at, picture in enumerate(products["picture"].to_pylist()) if is_tested(picture)]
    test_side = sorted((hashes[at], at) for at in tested)[:HELD_OUT]
    held_out = np.intersect1d(queries, [at for _, at in test_side])
    found = {
        f"{prefix}{name}_{tolerance}": round(100 * float((wrong <= allowed).mean()), 2)
        for prefix, units, asked in (("", served, queries), ("heldout_", measured, held_out))
        if len(asked)
        for name, wrong in wrong_neighbours(units, asked, types, genders).items()
        for tolerance, allowed in (("0.2", 2), ("0.1", 1), ("0", 0))
    }
    found |= count_unknown(given.lake, given.run, {each["product_id"]: each for each in products.to_pylist()})
    stored = json.loads((given.lake / f"runs/{given.run}/evaluate.json").read_text())["figures"]
    print(f"{'':<24}{'numpy':>8}{'stored':>8}   over {len(queries)} products, {len(held_out)} of them held out")
    for name, value in found.items():
        print(f"{name:<24}{value:>8.2f}{stored[name]:>8.2f}")
    equal = all(stored[name] == value for name, value in found.items())
    print(json.dumps({**found, "products": len(queries), "equal": equal}))
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
