"""evaluate: all of the above → metrics, verdicts, report.

Reads the run's tables and the live run's figures from the store; writes the tables `metrics` and `verdicts` and a
self-contained HTML report. A gate that fails does not fail this step: `publish` reads the verdicts and refuses. It is
cheap and its report shows this run's times, so it is computed anew each time.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader

from infra import store
from jobs import charts, step
from jobs.step import Run, StepResult
from ml import embedding, gates, metrics, split
from ml.images import decode, normalise

METRICS = pa.schema([("metric", pa.string()), ("value", pa.float64())])
VERDICTS = pa.schema(
    [
        ("gate", pa.string()),
        ("value", pa.float64()),
        ("bound", pa.float64()),
        ("passed", pa.bool_()),
        ("detail", pa.string()),
        ("remedy", pa.string()),
    ]
)
GRID_QUERIES = 24
THUMBNAIL = 200
"""Longest side of an image in the report, in pixels: twice what it is shown at."""
COLUMNS = ["product_id", "gender", "articleType", "baseColour", "productDisplayName", "image_sha256"]


@dataclass(frozen=True)
class Lists:
    """The unfiltered lists as arrays: indices of products int (n, 10), −1 past the end, and scores float32 (n, 10)."""

    neighbours: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What the report tells of a run; `codes` are those of `encode`, `classifier` the metrics of the classifier."""

    products: pa.Table
    lists: Lists
    codes: dict[str, np.ndarray]
    measured: dict[str, float]
    verdicts: list[gates.Verdict]
    classifier: dict


def evaluate(run: Run) -> StepResult:
    """Measure the run, hold it against its gates and write the report."""
    products = run.table("products").read(COLUMNS)
    lists = read_unfiltered(run, products["product_id"].to_numpy())
    codes = {name: encode(products[name]) for name in ("articleType", "gender", "baseColour")}
    quality = metrics.nine_percentages(lists.neighbours, codes["articleType"], codes["gender"])
    held_out = split.sides_of(products["image_sha256"].to_pylist()) == split.TEST
    unseen = metrics.nine_percentages(lists.neighbours, codes["articleType"], codes["gender"], asked=held_out)
    figures = _figures(run, products, lists)
    verdicts = gates.verdicts(figures, _live_products(run), _tolerances(run))
    classifier = json.loads(run.table("classifier").read(["metrics"])["metrics"][0].as_py())
    percentages = {
        **quality,
        "colour_share": metrics.share_of_hits(lists.neighbours, codes["baseColour"]),
        **{f"heldout_{name}": value for name, value in unseen.items()},
        "heldout_colour_share": metrics.share_of_hits(lists.neighbours, codes["baseColour"], held_out),
    }
    shares = {
        "coverage": figures.covered / max(1, figures.products),
        "rejected": figures.rejected,
        "classifier_accuracy": float("nan") if classifier["accuracy"] is None else classifier["accuracy"],
    }
    measured = percentages | shares
    report = f"reports/{run.name}.html"
    page = render(run, Evaluation(products, lists, codes, measured, verdicts, classifier))
    run.lake.write_bytes(report, page.encode())
    versions = {
        "metrics": _write(run, "metrics", [{"metric": k, "value": float(v)} for k, v in measured.items()], METRICS),
        "verdicts": _write(run, "verdicts", [asdict(verdict) for verdict in verdicts], VERDICTS),
    }
    failed = [verdict.gate for verdict in verdicts if not verdict.passed]
    return StepResult(
        len(products),
        3,
        tables=versions,
        figures={
            **_rounded(percentages, 2),
            **_rounded(shares, 4),
            "failed_gates": len(failed),
            "failed": failed,
            "report": report,
            "judged": step.content(run),
        },
    )


def _rounded(values: dict[str, float], digits: int) -> dict[str, float | None]:
    """Figures as JSON, which knows no NaN and is how Airflow keeps them."""
    return {name: None if np.isnan(value) else round(value, digits) for name, value in values.items()}


def _write(run: Run, name: str, rows: list[dict], schema: pa.Schema) -> int:
    table = run.lake.table(name)
    mark = step.fingerprint(name, run.name, rows)
    if table.fingerprint == mark:
        return table.version
    part = run.lake.write_part(name, pa.Table.from_pylist(rows, schema=schema), salt=mark)
    return table.commit([part], schema, run=run.name, fingerprint=mark).version


def read_unfiltered(run: Run, ids: np.ndarray) -> Lists:
    """The lists of the empty filter's cell in the order of `ids` (ascending); an item that `ids` lacks is missing."""
    cells, table = run.table("cells").read(["cell", "filters"]).to_pylist(), run.table("lists")
    cell = next((row["cell"] for row in cells if {} in json.loads(row["filters"])), None)
    neighbours = np.full((len(ids), metrics.K), -1, np.int64)
    scores = np.zeros((len(ids), metrics.K), np.float32)
    for part in table.parts:
        rows = table.read_part(part, ["product_id", "items", "scores"], pc.field("cell") == cell)
        rows = rows.filter(pa.array(_places(ids, rows["product_id"].to_numpy()) >= 0)).combine_chunks()
        if not len(rows):
            continue
        items, values = rows["items"].combine_chunks(), rows["scores"].combine_chunks()
        lengths = items.value_lengths().to_numpy()
        places = np.repeat(_places(ids, rows["product_id"].to_numpy()), lengths)
        ranks = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        neighbours[places, ranks] = _places(ids, items.flatten().to_numpy())
        scores[places, ranks] = values.flatten().to_numpy()
    return Lists(neighbours, scores)


def _places(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where in `ids` (ascending) each value stands, −1 where it does not."""
    if not len(ids):
        return np.full(len(values), -1)
    found = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    return np.where(ids[found] == values, found, -1)


def encode(column: pa.ChunkedArray) -> np.ndarray:
    """Codes of a column's values, int (n,); −1 where it is null."""
    indices = column.combine_chunks().dictionary_encode().indices
    return pc.fill_null(indices, metrics.MISSING).to_numpy(zero_copy_only=False).astype(np.int64)


def _figures(run: Run, products: pa.Table, lists: Lists) -> gates.Figures:
    ids = products["product_id"].to_numpy()
    rejected = int(str(run.result("catalog").figures["rejected_products"]))
    return gates.Figures(
        products=len(ids),
        covered=int(((lists.neighbours >= 0).sum(axis=1) >= min(metrics.K, len(ids) - 1)).sum()),
        cells=len(run.table("cells").read(["cell"])),
        lists=sum(
            int((_places(ids, rows["product_id"].to_numpy()) >= 0).sum())
            for rows in run.table("lists").iter_parts(["product_id"])
        ),
        not_finite=_not_finite(run, products["image_sha256"]),
        rejected=rejected / max(1, len(ids) + rejected),
    )


def _not_finite(run: Run, hashes: pa.ChunkedArray) -> int:
    """Values of the run's features and embeddings that are NaN or infinite."""
    own = (pc.field("model") == run.result("embed").figures["model"]) & pc.field("image_sha256").isin(hashes)
    count = 0
    for name, columns, where in (("features", ["average", "maximum"], own), ("embeddings", ["embedding"], None)):
        table = run.table(name)
        for part in table.parts:
            rows = table.read_part(part, columns, where)
            for column in columns:
                values = pc.list_flatten(rows[column])
                count += len(values) - (pc.sum(pc.is_finite(values)).as_py() or 0)
    return count


def _live_products(run: Run) -> int | None:
    with store.connect(run.settings.store, run.settings.store_folder) as connection:
        live = store.live(connection)
    return int(str(live.figures["products"])) if live else None


def _tolerances(run: Run) -> gates.Tolerances:
    settings = run.settings
    return gates.Tolerances(settings.coverage_min, settings.shrink_max, settings.reject_max)


# The report -----------------------------------------------------------------------------------------------------------


def render(run: Run, evaluation: Evaluation) -> str:
    """The HTML report: no script, no outside resource, every text escaped."""
    page = Environment(loader=PackageLoader("jobs", "."), autoescape=True).get_template("report.html.j2")
    results = {name: result for name, result in run.results().items() if name not in ("evaluate", "publish")}
    rejects = run.table("rejects").read()
    given = {verdict.gate for verdict in evaluation.verdicts}
    return page.render(
        run=run.name,
        dataset=run.table("pulls").read(["uri"])["uri"][0].as_py(),
        measured=evaluation.measured,
        rows=("articleType", "gender", "both"),
        tolerances=("0.2", "0.1", "0"),
        verdicts=evaluation.verdicts,
        missing=[gate for gate in gates.GATES if gate not in given],
        results=results,
        seconds=sum(result.seconds for result in results.values()),
        classifier=evaluation.classifier,
        trained=run.result("embed").figures["embedder"] != embedding.UNTRAINED.fingerprint,
        reject_reasons=Counter(rejects["reason"].to_pylist()).most_common(),
        reject_examples=rejects.slice(0, 10).to_pylist(),
        charts=_charts(evaluation, {name: result.seconds for name, result in results.items()}),
        grid=grid(run, evaluation),
    )


def _charts(evaluation: Evaluation, seconds: dict[str, float]) -> list[charts.Chart]:
    codes, products = evaluation.codes, evaluation.products
    right = metrics.share_right(evaluation.lists.neighbours, codes["articleType"], codes["gender"])
    curves = dict(zip(("same articleType", "same gender", "both"), right, strict=True))

    def largest(column: str) -> dict[str, int]:
        return {name or "(none)": count for name, count in Counter(products[column].to_pylist()).most_common(20)}

    return [
        charts.lines("Products right, by wrong neighbours allowed", curves, "wrong neighbours", "% of all products"),
        charts.bars("Time of each step", seconds, "seconds"),
        charts.bars("The largest articleTypes", largest("articleType"), "products"),
        charts.bars("The largest baseColours", largest("baseColour"), "products"),
    ]


def grid(run: Run, evaluation: Evaluation, count: int = GRID_QUERIES) -> list[list[dict]]:
    """Products spread over the articleTypes, each followed by its neighbours: their columns, score, image, `wrong`."""
    products, lists, codes = evaluation.products, evaluation.lists, evaluation.codes
    queries = spread(codes["articleType"], count)
    hashes = products["image_sha256"].to_pylist()
    images = _images(run, [hashes[index] for query in queries for index in _row(lists, query)])
    shown = {sha: _data_uri(normalise(data, THUMBNAIL)[0]) for sha, data in images.items()}
    same = {name: metrics.hits(lists.neighbours, codes[name]) for name in ("articleType", "gender")}

    def card(index: int, **more: object) -> dict:
        return {**{name: products[name][index].as_py() for name in COLUMNS}, "image": shown[hashes[index]], **more}

    def neighbour(query: int, rank: int) -> dict:
        wrong = [name for name, hit in same.items() if not hit[query, rank]]
        return card(int(lists.neighbours[query, rank]), score=float(lists.scores[query, rank]), wrong=wrong)

    return [
        [card(query), *(neighbour(query, rank) for rank in np.flatnonzero(lists.neighbours[query] >= 0).tolist())]
        for query in queries
    ]


def _row(lists: Lists, query: int) -> list[int]:
    """A product and its neighbours."""
    return [query, *(int(index) for index in lists.neighbours[query] if index >= 0)]


def spread(codes: np.ndarray, count: int) -> list[int]:
    """Indices of `count` products (or all): by turns one of each of the largest groups, evenly spaced in its group."""
    groups = [np.flatnonzero(codes == code) for code, _ in Counter(codes.tolist()).most_common(count)]
    turns = [(turn, at) for turn in range(count) for at, group in enumerate(groups) if turn < len(group)][:count]
    quota = Counter(at for _, at in turns)
    return [int(groups[at][(2 * turn + 1) * len(groups[at]) // (2 * quota[at])]) for turn, at in turns]


def result_grid(run: Run, count: int) -> list[list[np.ndarray]]:
    """The images of `count` products, each followed by its neighbours': lists of uint8 (h, w, 3), for `ml.grid`."""
    products = run.table("products").read(["product_id", "articleType", "image_sha256"])
    lists = read_unfiltered(run, products["product_id"].to_numpy())
    rows = [_row(lists, query) for query in spread(encode(products["articleType"]), count)]
    hashes = products["image_sha256"].to_pylist()
    images = _images(run, [hashes[index] for row in rows for index in row])
    return [[decode(images[hashes[index]]) for index in row] for row in rows]


def _images(run: Run, hashes: list[str]) -> dict[str, bytes]:
    """Stored image bytes by SHA-256."""
    found: dict[str, bytes] = {}
    wanted, table = pa.array(sorted(set(hashes))), run.table("images")
    for part in table.parts:
        rows = table.read_part(part, ["image_sha256", "bytes"], pc.field("image_sha256").isin(wanted))
        found |= zip(rows["image_sha256"].to_pylist(), rows["bytes"].to_pylist(), strict=True)
    return found


def _data_uri(data: bytes) -> str:
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


if __name__ == "__main__":
    raise SystemExit(step.main("evaluate"))
