"""The HTML report of a run, and the words for its figures: no script, no outside resource, every text escaped."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader

from jobs import charts
from jobs.heldout import Asked
from jobs.run import Run
from jobs.stored import read_images
from ml import gates, metrics
from ml.images import normalise

GRID_QUERIES = 24
THUMBNAIL = 200
"""Longest side of an image in the report, in pixels: twice what it is shown at."""
COSTLY = 12
"""Confusions that are shown."""
SHOWN = ["product_id", "gender", "articleType", "baseColour", "productDisplayName", "image_sha256"]
ROWS, TOLERANCES = ("articleType", "gender", "both"), ("0.2", "0.1", "0")
COMPARED = {
    "heldout_right": "held out: neighbours of the same articleType and gender",
    "heldout_all10": "held out: products whose ten neighbours all have them",
    "heldout_both_0.2": "held out: articleType and gender right, tolerance 0.2",
    "heldout_both_0.1": "held out: articleType and gender right, tolerance 0.1",
    "heldout_both_0": "held out: articleType and gender right, tolerance 0",
    "heldout_colour_share": "held out: neighbours of the same baseColour",
    "subcategory_test": "subCategory classifier, test side",
    "subcategory_test_15": "subCategory classifier, test side, the 15 largest classes alone",
    "unknown_subcategory": "unknown images: subCategory right",
    "unknown_derived": "unknown images: derivedType right",
    "unknown_all10": "unknown images: all recommendations right",
    "both_0": "all products: articleType and gender right, tolerance 0",
    "colour_share": "all products: neighbours of the same baseColour",
    "duplicates_first": "photos found first by both their copies",
}
"""Figures that are compared between runs, in percent, and what they are called."""
UNKNOWN = {
    "subcategory": "subCategory right",
    "derived": "derivedType right",
    "all10": "all recommendations right",
    "in_derivedType": "searched in the derivedType",
    "in_subCategory": "searched in the subCategory alone",
    "in_filters": "searched in the whole catalogue",
    "short": "fewer than ten recommended",
    "confidence": "mean confidence of the derivedType",
    "calibration_error": "calibration error: how far confidences are off the share right",
}
"""Figures of unknown images, in percent, and what they are called."""
COPIES = {
    "recompressed_first": "recompressed (JPEG quality 60): the original comes first",
    "cropped_first": "cropped by 4 % at each side: the original comes first",
    "duplicates_first": "both copies: the original comes first",
}
LEARNT = "whose attributes count in their embedding"
"""What is to be said beside each figure of all products where the embedder is trained."""


@dataclass(frozen=True)
class Lists:
    """The unfiltered lists as arrays: indices of products int (n, 10), −1 past the end, and scores float32 (n, 10)."""

    neighbours: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Baseline:
    """The run to compare with, and those of its figures in `COMPARED` that it has.

    `why_other` says why the differences tell nothing, as where it is of another catalogue; empty: they do.
    """

    run: str
    figures: dict[str, float]
    why_other: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What the report tells of a run.

    `shown` are neighbours as in `lists`, but those of held-out products are by what their images show alone. `codes`
    are those of `evaluate.encode`, `held_out` bool (n,), `classifier` the metrics of the classifier, `embedder` the row
    of the trained embedder, empty where it is untrained. `subcategories` has what is measured of each, by names such as
    `heldout_right:Topwear`.
    """

    products: pa.Table
    lists: Lists
    shown: np.ndarray
    codes: dict[str, np.ndarray]
    held_out: np.ndarray
    measured: dict[str, float]
    subcategories: dict[str, float]
    verdicts: list[gates.Verdict]
    classifier: dict
    asked: Asked
    embedder: dict
    baseline: Baseline | None

    @property
    def trained(self) -> bool:
        """Whether similarity is measured on a trained embedding."""
        return bool(self.embedder)

    @cached_property
    def wrong(self) -> dict[str, np.ndarray]:
        """Wrong neighbours of each product, as `metrics.wrong_neighbours`."""
        return metrics.wrong_neighbours(self.lists.neighbours, self.codes["articleType"], self.codes["gender"])

    @cached_property
    def wrong_shown(self) -> dict[str, np.ndarray]:
        """The same, of held-out products by what their images show alone."""
        return metrics.wrong_neighbours(self.shown, self.codes["articleType"], self.codes["gender"])

    @cached_property
    def costly(self) -> list[tuple[str, str, int]]:
        """derivedType, another that its held-out products have among their neighbours, how many of them: most first."""
        codes, names = self.codes["derivedType"], self.products["derivedType"]
        first = dict(zip(*(column.tolist() for column in np.unique(codes, return_index=True)), strict=True))
        pairs = metrics.confusions(self.shown, codes, self.held_out, COSTLY)
        return [(names[first[code]].as_py(), names[first[other]].as_py(), count) for code, other, count in pairs]


def render(run: Run, evaluation: Evaluation) -> str:
    """The HTML report."""
    page = Environment(loader=PackageLoader("jobs", "."), autoescape=True).get_template("report.html.j2")
    results = {name: result for name, result in run.results().items() if name not in ("evaluate", "publish")}
    rejects = run.table("rejects").read()
    given = {verdict.gate for verdict in evaluation.verdicts}
    return page.render(
        run=run.name,
        dataset=run.table("pulls").read(["uri"])["uri"][0].as_py(),
        measured=evaluation.measured,
        rows=ROWS,
        tolerances=TOLERANCES,
        verdicts=evaluation.verdicts,
        missing=[gate for gate in gates.GATES if gate not in given],
        results=results,
        seconds=sum(result.seconds for result in results.values()),
        classifier=evaluation.classifier,
        trained=evaluation.trained,
        learnt=LEARNT,
        unknown=UNKNOWN,
        copies=COPIES,
        tenths=list(zip(*(column.tolist() for column in evaluation.asked.calibration), strict=True)),
        costly=evaluation.costly,
        kinds=kinds(evaluation),
        subcategories=_by_subcategory(evaluation.subcategories),
        classes=sorted((evaluation.classifier.get("classes") or {}).items(), key=lambda named: -named[1]["support"]),
        baseline=evaluation.baseline,
        changes=changes(evaluation.measured, evaluation.baseline.figures if evaluation.baseline else {}),
        reject_reasons=Counter(rejects["reason"].to_pylist()).most_common(),
        reject_examples=rejects.slice(0, 10).to_pylist(),
        charts=_charts(evaluation, {name: result.seconds for name, result in results.items()}),
        grid=grid(run, evaluation),
    )


def _by_subcategory(measured: Mapping[str, float]) -> list[dict[str, object]]:
    """A row a subCategory, the largest first: its products, those asked for, and how many neighbours are right (%)."""
    names = [name.removeprefix("products:") for name in measured if name.startswith("products:")]
    rows = [
        {
            "name": name,
            **{key: measured[f"{key}:{name}"] for key in ("products", "heldout_asked", "heldout_right")},
        }
        for name in names
    ]
    return sorted(rows, key=lambda row: -float(str(row["products"])))


def changes(measured: Mapping[str, float | None], before: Mapping[str, float]) -> list[tuple[str, str, float, float]]:
    """Key in `COMPARED`, its words, this run's value and the other's, for the figures that both have."""
    both = [(name, words, measured.get(name), before.get(name)) for name, words in COMPARED.items()]
    return [
        (name, words, new, old) for name, words, new, old in both if new is not None and new == new and old is not None
    ]


def kinds(evaluation: Evaluation) -> list[dict[str, object]]:
    """A row an articleType, the largest first: products, held-out ones, and the shares of both that are right."""
    codes = evaluation.codes["articleType"]
    known = codes != metrics.MISSING
    size = int(codes.max(initial=-1)) + 1
    names = dict(
        zip(codes[known].tolist(), evaluation.products["articleType"].filter(pa.array(known)).to_pylist(), strict=True)
    )
    counted = {"": (known, evaluation.wrong), "held_out_": (known & evaluation.held_out, evaluation.wrong_shown)}
    columns: dict[str, np.ndarray] = {}
    for prefix, (asked, wrong) in counted.items():
        columns[f"{prefix}products"] = np.bincount(codes[asked], minlength=size)
        columns[f"{prefix}hits"] = np.bincount(codes[asked & (wrong["both"] == 0)], minlength=size)
    rows: list[dict[str, object]] = []
    for code in np.argsort(-columns["products"], kind="stable").tolist():
        row: dict[str, object] = {"name": names[code]}
        for prefix in counted:
            products, hits = int(columns[f"{prefix}products"][code]), int(columns[f"{prefix}hits"][code])
            row |= {
                f"{prefix}products": products,
                f"{prefix}right": 100 * hits / products if products else float("nan"),
            }
        rows.append(row)
    return rows


# Charts ---------------------------------------------------------------------------------------------------------------


def _charts(evaluation: Evaluation, seconds: dict[str, float]) -> list[charts.Chart]:
    note = f" ({LEARNT})" if evaluation.trained else ""
    drawn = [
        _curves("Held-out products right, by wrong neighbours allowed", evaluation.wrong_shown, evaluation.held_out),
        _curves(f"All products{note} right, by wrong neighbours allowed", evaluation.wrong),
        *_history("Classifier", evaluation.classifier.get("history") or {}),
        *_history("Embedder", json.loads(evaluation.embedder.get("history") or "{}")),
        charts.bars("Time of each step", seconds, "seconds"),
        *(_largest(evaluation.products, column) for column in ("articleType", "baseColour")),
    ]
    return [chart for chart in drawn if chart]


def _curves(title: str, wrong: Mapping[str, np.ndarray], asked: np.ndarray | None = None) -> charts.Chart | None:
    if asked is not None and not asked.any():
        return None
    chosen = slice(None) if asked is None else asked
    names = {"articleType": "same articleType", "gender": "same gender", "both": "both"}
    curves = {words: metrics.share_right(wrong[name][chosen]).tolist() for name, words in names.items()}
    return charts.lines(title, curves, "wrong neighbours", "% of these products")


def _history(who: str, history: Mapping[str, Sequence[float]]) -> list[charts.Chart]:
    """How a network learnt, as Keras notes it: a value an epoch of `loss`, `val_loss`, `accuracy`, …"""
    accuracies = [name for name in history if name.endswith("accuracy")][:3]
    named = {name: name.replace("val_", "validation ").replace("_", " ") for name in history}
    losses = {named[name]: history[name] for name in ("loss", "val_loss") if name in history}
    shares = {named[name]: [100 * value for value in history[name]] for name in accuracies}
    return [
        *([charts.lines(f"{who}: loss by epoch", losses, "epoch", "loss", 1, None)] if losses else []),
        *([charts.lines(f"{who}: accuracy by epoch", shares, "epoch", "%", 1)] if shares else []),
    ]


def _largest(products: pa.Table, column: str) -> charts.Chart:
    counts = Counter(products[column].to_pylist()).most_common(20)
    return charts.bars(f"The largest {column}s", {name or "(none)": count for name, count in counts}, "products")


# Products and their neighbours ----------------------------------------------------------------------------------------


def grid(run: Run, evaluation: Evaluation, count: int = GRID_QUERIES) -> list[list[dict]]:
    """Products spread over the articleTypes, each followed by its neighbours: their columns, score, image, `wrong`."""
    products, lists, codes = evaluation.products, evaluation.lists, evaluation.codes
    queries = spread(codes["articleType"], count)
    hashes = products["image_sha256"].to_pylist()
    images = read_images(run, [hashes[index] for query in queries for index in row_of(lists, query)])
    shown = {sha: _data_uri(normalise(data, THUMBNAIL)[0]) for sha, data in images.items()}
    same = {name: metrics.hits(lists.neighbours, codes[name]) for name in ("articleType", "gender")}

    def card(index: int, **more: object) -> dict:
        return {**{name: products[name][index].as_py() for name in SHOWN}, "image": shown[hashes[index]], **more}

    def neighbour(query: int, rank: int) -> dict:
        wrong = [name for name, hit in same.items() if not hit[query, rank]]
        return card(int(lists.neighbours[query, rank]), score=float(lists.scores[query, rank]), wrong=wrong)

    return [
        [card(query), *(neighbour(query, rank) for rank in np.flatnonzero(lists.neighbours[query] >= 0).tolist())]
        for query in queries
    ]


def row_of(lists: Lists, query: int) -> list[int]:
    """A product and its neighbours."""
    return [query, *(int(index) for index in lists.neighbours[query] if index >= 0)]


def spread(codes: np.ndarray, count: int) -> list[int]:
    """Indices of `count` products (or all): by turns one of each of the largest groups, evenly spaced in its group."""
    groups = [np.flatnonzero(codes == code) for code, _ in Counter(codes.tolist()).most_common(count)]
    turns = [(turn, at) for turn in range(count) for at, group in enumerate(groups) if turn < len(group)][:count]
    quota = Counter(at for _, at in turns)
    return [int(groups[at][(2 * turn + 1) * len(groups[at]) // (2 * quota[at])]) for turn, at in turns]


def _data_uri(data: bytes) -> str:
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
