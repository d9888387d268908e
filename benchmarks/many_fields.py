"""The store of catalogues with many fields, and with fields of many values: its bytes a product, and its answers.

    python benchmarks/many_fields.py            # all catalogues, or one: --catalogue brand

Each catalogue has 44,000 made-up products, drawn with a seed, whose embeddings follow from their first eight fields:

- `brand`: seven fields of 4 to 130 values, where one says much of the next, and a brand of 10,000, drawn by Zipf's law.
- `apart`: 60 fields of 2 to 50 values that have nothing to do with each other.
- `alike`: 60 fields of 2 to 50 values, each said by the product's kind, one of 200, but for a tenth of the products.
- `sku`: 63 such fields, and one whose value no other product has.
- `binary`: 64 fields of two values that have nothing to do with each other.

Questions are a product and one to three of the fields, for each its value (half of them), a list of three values, or
`not` two; `large` name the field of most values alone. Each is asked seven times and the fastest counts, as others may
use the machine. Every fifth answer is compared with an oracle in int64.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import catalogue
import numpy as np
import psycopg
import pyarrow as pa
from catalogue import Catalogue
from psycopg.types.json import Jsonb
from store import shortlists
from threadpoolctl import threadpool_limits

from infra import embedded, store
from infra.settings import Settings
from jobs.publish import load_filters
from ml.cells import Cells, Numbering, find_cells, number
from ml.similarity import to_embedding

PRODUCTS, DIMENSIONS, KINDS = 44_000, 256, 200
QUESTIONS, TIMES, K = 400, 7, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--catalogue", choices=CATALOGUES, action="append")
    for name in parser.parse_args().catalogue or CATALOGUES:
        rng = np.random.default_rng(7)
        codes = CATALOGUES[name](rng)
        values = {field: [f"value {code}" for code in column] for field, column in codes.items()}
        products = Catalogue(np.arange(PRODUCTS), values, embeddings(rng, codes))
        with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
            uri = embedded.uri(Path(folder) / "store")
            with store.connect(uri, Path(folder), prepares=True) as connection:
                figures = load(connection, products)
                connection.execute("VACUUM ANALYZE")
                large = max(codes, key=lambda field: codes[field].max())
                for kind, fields in (("mixed", list(codes)), ("large", [large])):
                    figures |= ask(connection, products, kind, list(questions(rng, products, fields)))
        print(name, json.dumps(figures), flush=True)


def brand(rng: np.random.Generator) -> dict[str, np.ndarray]:
    sizes, kinds = (5, 7, 40, 130, 45, 4, 8), rng.choice(130, PRODUCTS, p=zipf(130))
    codes = {f"field {at}": follow(rng, kinds, size, 0.3) for at, size in enumerate(sizes)}
    return codes | {"brand": rng.choice(10_000, PRODUCTS, p=zipf(10_000))}


def apart(rng: np.random.Generator, fields: int = 60, most: int = 50) -> dict[str, np.ndarray]:
    shares = [rng.dirichlet(np.ones(rng.integers(2, most + 1))) for _ in range(fields)]
    return {f"field {at}": rng.choice(len(share), PRODUCTS, p=share) for at, share in enumerate(shares)}


def alike(rng: np.random.Generator, fields: int = 60) -> dict[str, np.ndarray]:
    kinds = rng.choice(KINDS, PRODUCTS, p=rng.dirichlet(np.full(KINDS, 0.5)))
    return {f"field {at}": follow(rng, kinds, int(rng.integers(2, 51)), 0.1) for at in range(fields)}


CATALOGUES: dict[str, Callable[[np.random.Generator], dict[str, np.ndarray]]] = {
    "brand": brand,
    "apart": apart,
    "alike": alike,
    "sku": lambda rng: alike(rng, 63) | {"sku": np.arange(PRODUCTS)},
    "binary": lambda rng: apart(rng, 64, 2),
}


def zipf(n: int) -> np.ndarray:
    shares = 1 / np.arange(1, n + 1)
    return shares / shares.sum()


def follow(rng: np.random.Generator, kinds: np.ndarray, size: int, noise: float) -> np.ndarray:
    """A value for each kind; for a share of the products any value."""
    said = rng.integers(0, size, kinds.max() + 1)[kinds]
    return np.where(rng.random(len(kinds)) < noise, rng.integers(0, size, len(kinds)), said)


def embeddings(rng: np.random.Generator, codes: dict[str, np.ndarray]) -> np.ndarray:
    vectors = rng.normal(scale=0.5, size=(PRODUCTS, DIMENSIONS))
    for column in list(codes.values())[:8]:
        vectors += rng.normal(scale=0.6, size=(column.max() + 1, DIMENSIONS))[column]
    return to_embedding(vectors)


def load(connection: psycopg.Connection, products: Catalogue) -> dict[str, float]:
    """Compute and publish as the steps do; seconds and bytes."""
    started = time.process_time()
    cells = find_cells(products.values, PRODUCTS, Settings.model_fields["cell_min"].default)
    figures = {"cells": len(cells), "find_s": round(time.process_time() - started, 2)}
    numbering, started = number(products.values, PRODUCTS), time.process_time()
    with threadpool_limits(1):
        made = list(shortlists(products, cells))
    figures["shortlist_ms"] = round((time.process_time() - started) / PRODUCTS * 1000, 2)
    figures["items"] = round(sum(len(items) for _, _, items, _ in made) / PRODUCTS)
    figures["base_cells"], started = len(numbering.starts) - 1, time.perf_counter()
    run_id = publish(connection, products, cells, numbering, made)
    figures["load_s"] = round(time.perf_counter() - started, 1)
    tables = [f"lookalike_runs.{name}_{run_id}" for name in store.PARTITIONED if name != "catalogue"]
    query = "SELECT sum(pg_total_relation_size(name)) FROM unnest(%s::text[]) AS t(name)"
    figures["store_bytes_per_product"] = round(connection.execute(query, (tables,)).fetchone()[0] / PRODUCTS)
    return figures


def publish(
    connection: psycopg.Connection,
    products: Catalogue,
    cells: Cells,
    numbering: Numbering,
    made: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
) -> int:
    position = np.argsort(numbering.order)
    columns = {"product_id": products.ids, "image_sha256": ["0" * 64] * PRODUCTS}
    rows = pa.table(columns).take(numbering.order)
    with connection.transaction():
        store.lock(connection)
        run_id = store.begin(connection, catalogue.RUN, "benchmark", list(products.values), {})
        store.load_products(connection, run_id, rows, ("", ""), numbering.order, products.embeddings[numbering.order])
        fill, _ = load_filters(connection, run_id, numbering, cells.depths, cells.filters)
        blocks = (
            (position[at : at + len(ends) - 1], ends, places, fill(ends, places))
            for at, ends, items, _ in made
            for places in [position[items]]
        )
        store.load_shortlists(connection, run_id, PRODUCTS, blocks)
        store.attach(connection, run_id, {})
    with connection.transaction():
        store.lock(connection)
        store.flip(connection, run_id)
    return run_id


def questions(
    rng: np.random.Generator, products: Catalogue, fields: list[str]
) -> Iterator[tuple[int, dict[str, object]]]:
    """Products with filters, by the module's docstring."""
    labels = {field: sorted(set(products.values[field])) for field in fields}
    for at in rng.integers(PRODUCTS, size=QUESTIONS).tolist():
        filters: dict[str, object] = {}
        for field in rng.choice(fields, rng.integers(1, min(3, len(fields)) + 1), replace=False).tolist():
            form = rng.choice(["value", "value", "list", "not"])
            if form == "value":
                filters[field] = products.values[field][at]
            else:
                some = rng.choice(labels[field], min(3 if form == "list" else 2, len(labels[field])), replace=False)
                filters[field] = some.tolist() if form == "list" else {"not": some.tolist()}
        yield at, filters


def ask(
    connection: psycopg.Connection, products: Catalogue, kind: str, asked: list[tuple[int, dict[str, object]]]
) -> dict[str, float]:
    """Milliseconds of the answers, how many members they compared, and the share of those equal to the oracle's."""
    columns = {field: np.array(column) for field, column in products.values.items()}
    whole = (products.embeddings * 2048).astype(np.int64)
    query = "SELECT item, score::float8, scanned FROM lookalike.similar_items(%s, %s, 10)"
    fastest, compared, equal = [], [], []
    for place, (at, filters) in enumerate(asked):
        times = []
        for _ in range(TIMES):
            started = time.perf_counter()
            rows = connection.execute(query, (str(at), Jsonb(filters)), prepare=True).fetchall()
            times.append(time.perf_counter() - started)
        fastest.append(min(times) * 1000)
        compared.append(rows[0][2] if rows else 0)
        if place % 5 == 0:
            equal.append([row[:2] for row in rows] == oracle(columns, whole, at, filters))
    return {
        f"{kind}_p50_ms": round(float(np.percentile(fastest, 50)), 2),
        f"{kind}_p99_ms": round(float(np.percentile(fastest, 99)), 2),
        f"{kind}_compared_p99": round(float(np.percentile(compared, 99))),
        f"{kind}_exact": sum(equal) / len(equal),
    }


def oracle(
    columns: dict[str, np.ndarray], whole: np.ndarray, at: int, filters: dict[str, object]
) -> list[tuple[str, float]]:
    member = np.arange(PRODUCTS) != at
    for field, condition in filters.items():
        complement = isinstance(condition, dict)
        wanted = condition["not"] if complement else condition
        member &= np.isin(columns[field], wanted if isinstance(wanted, list) else [wanted]) != complement
    best = np.flatnonzero(member)
    scores = whole[best] @ whole[at]
    order = np.lexsort((best, -scores))[:K]
    return [(str(best[place]), int(scores[place]) / 2**22) for place in order]


if __name__ == "__main__":
    main()
