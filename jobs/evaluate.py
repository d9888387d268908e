"""evaluate: all of the above → metrics, verdicts, report.

Reads the run's tables and the live run's figures from the store; writes the tables `metrics` and `verdicts` and a
self-contained HTML report. A gate that fails does not fail this step: `publish` reads the verdicts and refuses. It is
cheap and its report shows this run's times, so it is computed anew each time.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader

from infra import store
from infra.lake import Table
from jobs import step
from jobs.step import Run, StepResult
from ml import gates, metrics
from ml.images import decode

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
COLUMNS = ["product_id", "gender", "articleType", "baseColour", "productDisplayName", "image_sha256"]


@dataclass(frozen=True)
class Lists:
    """The unfiltered lists as arrays: indices of products int (n, 10), −1 past the end, and scores float32 (n, 10)."""

    neighbours: np.ndarray
    scores: np.ndarray


def evaluate(run: Run) -> StepResult:
    """Measure the run, hold it against its gates and write the report."""
    products = run.table("products").read(COLUMNS)
    lists = read_unfiltered(run.table("lists"), products["product_id"].to_numpy())
    codes = {name: encode(products[name]) for name in ("articleType", "gender", "baseColour")}
    quality = metrics.nine_percentages(lists.neighbours, codes["articleType"], codes["gender"])
    colour = metrics.hits(lists.neighbours, codes["baseColour"])[codes["baseColour"] != metrics.MISSING]
    figures = _figures(run, lists)
    verdicts = gates.verdicts(figures, _live_products(run), _tolerances(run))
    classifier = json.loads(run.table("classifier").read(["metrics"])["metrics"][0].as_py())
    measured = {
        **quality,
        "colour_share": 100 * float(colour.mean()) if len(colour) else float("nan"),
        "coverage": figures.covered / max(1, figures.products),
        "rejected": figures.rejected,
        "classifier_accuracy": float("nan") if classifier["accuracy"] is None else classifier["accuracy"],
    }
    report = f"reports/{run.name}.html"
    run.lake.write_bytes(report, render(run, products, lists, codes, measured, verdicts, classifier).encode())
    versions = {
        "metrics": _write(run, "metrics", [{"metric": k, "value": float(v)} for k, v in measured.items()], METRICS),
        "verdicts": _write(run, "verdicts", [asdict(verdict) for verdict in verdicts], VERDICTS),
    }
    failed = [verdict.gate for verdict in verdicts if not verdict.passed]
    # JSON knows no NaN, and Airflow keeps figures as JSON.
    shown = {name: None if np.isnan(value) else round(value, 2) for name, value in measured.items()}
    return StepResult(
        len(products),
        3,
        tables=versions,
        figures={**shown, "failed_gates": len(failed), "failed": failed, "report": report, "judged": step.content(run)},
    )


def _write(run: Run, name: str, rows: list[dict], schema: pa.Schema) -> int:
    table = run.lake.table(name)
    mark = step.fingerprint(name, run.name, rows)
    if table.fingerprint == mark:
        return table.version
    part = run.lake.write_part(name, pa.Table.from_pylist(rows, schema=schema), salt=mark)
    return table.commit([part], schema, run=run.name, fingerprint=mark).version


def read_unfiltered(lists: Table, ids: np.ndarray) -> Lists:
    """The lists of the empty filter's cell, which is cell 0, in the order of `ids` (ascending)."""
    neighbours = np.full((len(ids), metrics.K), -1, np.int64)
    scores = np.zeros((len(ids), metrics.K), np.float32)
    for part in lists.parts:
        rows = lists.read_part(part, where=[("cell", "=", 0)])
        if not len(rows):
            continue
        rows = rows.combine_chunks()
        items, values = rows["items"].combine_chunks(), rows["scores"].combine_chunks()
        lengths = items.value_lengths().to_numpy()
        places = np.repeat(np.searchsorted(ids, rows["product_id"].to_numpy()), lengths)
        ranks = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        neighbours[places, ranks] = np.searchsorted(ids, items.flatten().to_numpy())
        scores[places, ranks] = values.flatten().to_numpy()
    return Lists(neighbours, scores)


def encode(column: pa.ChunkedArray) -> np.ndarray:
    """Codes of a column's values, int (n,); −1 where it is null."""
    indices = column.combine_chunks().dictionary_encode().indices
    return pc.fill_null(indices, metrics.MISSING).to_numpy(zero_copy_only=False).astype(np.int64)


def _figures(run: Run, lists: Lists) -> gates.Figures:
    n = len(lists.neighbours)
    full = min(metrics.K, n - 1)
    catalogued, similar = run.result("catalog"), run.result("similar")
    rejected = int(str(catalogued.figures["rejected_products"]))
    return gates.Figures(
        products=n,
        covered=int(((lists.neighbours >= 0).sum(axis=1) >= full).sum()) if full > 0 else 0,
        cells=int(str(similar.figures["cells"])),
        lists=sum(len(run.table("lists").read_part(part, ["cell"])) for part in run.table("lists").parts),
        not_finite=_not_finite(run),
        rejected=rejected / max(1, n + rejected),
    )


def _not_finite(run: Run) -> int:
    count, model = 0, run.result("embed").figures["model"]
    for table, columns in (("features", ["average", "maximum"]), ("embeddings", ["embedding"])):
        snapshot = run.table(table)
        for part in snapshot.parts:
            where = [("model", "=", model)] if table == "features" else None
            rows = snapshot.read_part(part, columns, where)
            count += sum(int((~np.isfinite(step.to_matrix(rows[name]))).sum()) for name in columns if len(rows))
    return count


def _live_products(run: Run) -> int | None:
    with store.connect(run.settings.store, run.settings.store_folder) as connection:
        live = store.live(connection)
    return int(str(live.figures["products"])) if live else None


def _tolerances(run: Run) -> gates.Tolerances:
    settings = run.settings
    return gates.Tolerances(settings.coverage_min, settings.shrink_max, settings.reject_max)


# The report -----------------------------------------------------------------------------------------------------------


def render(run, products, lists, codes, measured, verdicts, classifier) -> str:  # type: ignore[no-untyped-def]  # noqa: PLR0913
    """The HTML report: no script, no outside resource, every text escaped."""
    page = Environment(loader=PackageLoader("jobs", "."), autoescape=True).get_template("report.html.j2")
    results = run.results()
    right = metrics.share_right(lists.neighbours, codes["articleType"], codes["gender"])
    tolerance = {"same articleType": right[0], "same gender": right[1], "both": right[2]}
    types = Counter(products["articleType"].to_pylist()).most_common(25)
    rejects = run.table("rejects").read()
    return page.render(
        run=run.name,
        dataset=run.table("pulls").read(["uri"])["uri"][0].as_py(),
        measured=measured,
        rows=("articleType", "gender", "both"),
        tolerances=("0.2", "0.1", "0"),
        verdicts=verdicts,
        results=results,
        backbone=results["embed"].figures["backbone"],
        classifier=classifier,
        reject_reasons=Counter(rejects["reason"].to_pylist()).most_common(),
        reject_examples=rejects.slice(0, 10).to_pylist(),
        plots={
            "Products right, by wrong neighbours allowed": _lines(
                tolerance, "wrong neighbours allowed", "% of products"
            ),
            "Seconds a step": _bars({name: result.seconds for name, result in results.items()}, "s"),
            "Products by articleType, the 25 largest": _bars({str(name): count for name, count in types}, "products"),
        },
        grid=grid(run, products, lists, codes),
    )


def grid(
    run: Run, products: pa.Table, lists: Lists, codes: dict[str, np.ndarray], count: int = GRID_QUERIES
) -> list[dict]:
    """Query products spread over the articleTypes, with their neighbours: names, scores, hits, images as data URIs."""
    queries = spread(codes["articleType"], count)
    shown = sorted({*queries, *(int(i) for query in queries for i in lists.neighbours[query] if i >= 0)})
    sources = _images(run, [products["image_sha256"][i].as_py() for i in shown])
    same_type = metrics.hits(lists.neighbours, codes["articleType"])
    same_gender = metrics.hits(lists.neighbours, codes["gender"])

    def card(index: int, score: float | None = None, marks: tuple[str, ...] = ()) -> dict:
        row = {name: products[name][index].as_py() for name in COLUMNS}
        return {**row, "score": score, "wrong": marks, "image": _data_uri(sources[row["image_sha256"]])}

    return [
        {
            "query": card(query),
            "neighbours": [
                card(
                    int(index),
                    float(lists.scores[query, rank]),
                    tuple(
                        name
                        for name, hit in (("articleType", same_type), ("gender", same_gender))
                        if not hit[query, rank]
                    ),
                )
                for rank, index in enumerate(lists.neighbours[query])
                if index >= 0
            ],
        }
        for query in queries
    ]


def spread(codes: np.ndarray, count: int) -> list[int]:
    """Indices of up to `count` products: as many of each of the largest groups, spread evenly over the group."""
    groups = [np.flatnonzero(codes == code) for code, _ in Counter(codes.tolist()).most_common(count)]
    each = -(-count // len(groups)) if groups else 0
    chosen = [int(group[(2 * turn + 1) * len(group) // (2 * each)]) for turn in range(each) for group in groups]
    return list(dict.fromkeys(chosen))[:count]


def result_grid(run: Run, count: int) -> list[list[np.ndarray]]:
    """The images of `count` products, each followed by its neighbours': lists of uint8 (h, w, 3), for `ml.grid`."""
    products = run.table("products").read(["product_id", "articleType", "image_sha256"])
    lists = read_unfiltered(run.table("lists"), products["product_id"].to_numpy())
    rows = [
        [query, *(int(i) for i in lists.neighbours[query] if i >= 0)]
        for query in spread(encode(products["articleType"]), count)
    ]
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


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure  # imported late, and without pyplot: no window system, no state

    figure = Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure) -> str:  # type: ignore[no-untyped-def]
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    # As an image the drawing can neither run nor load anything, and its ids meet no other drawing's.
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue().encode()).decode()


def _bars(values: dict[str, float], unit: str) -> str:
    figure, axes = _figure(6.4, 0.6 + 0.24 * len(values))
    bars = axes.barh(list(values), list(values.values()), color="#3b6ea8")
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8, color="#777777")
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    return _svg(_neutral(figure, axes))


def _lines(series: dict[str, np.ndarray], x: str, y: str) -> str:
    figure, axes = _figure(6.4, 3.2)
    for (name, values), colour in zip(series.items(), ("#3b6ea8", "#c2703d", "#5a8f52"), strict=True):
        axes.plot(range(len(values)), values, marker="o", markersize=3, label=name, color=colour)
    axes.set(xlabel=x, ylabel=y, ylim=(0, 102))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, labelcolor="#777777")
    return _svg(_neutral(figure, axes))


def _neutral(figure, axes):  # type: ignore[no-untyped-def]
    """Greys that can be read on a light and on a dark page."""
    axes.tick_params(colors="#777777", labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color("#777777")
    for spine in axes.spines.values():
        spine.set_color("#777777")
    return figure


if __name__ == "__main__":
    raise SystemExit(step.main("evaluate"))
