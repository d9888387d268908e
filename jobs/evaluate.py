"""evaluate: all of the above → metrics, verdicts, answers to held-out images, report.

Reads the run's tables and the figures of the run to compare with; writes the tables `metrics`, `verdicts` and `heldout`
and a self-contained HTML report. A gate that fails does not fail this step: `publish` reads the verdicts and refuses.
It is cheap and its report shows this run's times, so it is computed anew each time. `lookalike evaluate` is this step,
asked for copies of photos too.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from infra import store
from infra.errors import UserError
from infra.store import StoredRun
from jobs import heldout, reference, shortlists, step
from jobs.features import gather, read_embeddings
from jobs.heldout import Asked, Predictions, Products
from jobs.ids import to_text
from jobs.reference import Live
from jobs.report import COMPARED, Baseline, Evaluation, Lists, render, row_of, spread
from jobs.run import STEPS, Run, StepResult, check_chain
from jobs.stored import read_images
from ml import cube, embedding, gates, metrics, split
from ml.features import Features
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
LARGEST = 15
"""Classes of the seed report's classifier: the largest."""
MOST = 10_000
"""Held-out products whose lists are measured: searching for every fifth product among all would grow quadratically."""
SHARES = ("coverage", "rejected", "classifier_accuracy")
"""Figures from 0 to 1; the others are percentages and counts."""
KINDS = ("articleType", "gender", "baseColour", "derivedType")
"""Attributes that neighbours are judged by."""
COLUMNS = list(dict.fromkeys(["product_id", "subCategory", "productDisplayName", *KINDS, *reference.UNCHANGED]))
UNTRAINED = "untrained_"
"""Begins the names of figures that a run has without its embedder."""
NO_CLASSIFIER: dict = {"accuracy": None, "classes": {}, "confusions": [], "history": {}}
"""Metrics of a run that has no classifier."""


def evaluate(run: Run) -> StepResult:
    """Measure the run, hold it against its gates and write the report."""
    check_chain(run, STEPS[: STEPS.index("evaluate")])
    known = heldout.read_products(run)
    live, before = _stored(run, known.ids)
    evaluation = _measure(run, known, live, before)
    report = f"reports/{run.name}.html"
    run.lake.write_bytes(report, render(run, evaluation).encode())
    measured = [
        {"metric": name, "value": float(value)}
        for name, value in {**evaluation.measured, **evaluation.subcategories}.items()
    ]
    tables = {
        "metrics": pa.Table.from_pylist(measured, schema=METRICS),
        "verdicts": pa.Table.from_pylist([asdict(verdict) for verdict in evaluation.verdicts], schema=VERDICTS),
        "heldout": heldout.answers(known, evaluation.asked),
    }
    failed = [verdict.gate for verdict in evaluation.verdicts if not verdict.passed]
    return StepResult(
        len(evaluation.products),
        len(tables) + 1,
        tables={name: _write(run, name, rows) for name, rows in tables.items()},
        figures={
            **_rounded(evaluation.measured),
            "trained": evaluation.trained,
            "costly": [list(pair) for pair in evaluation.costly],
            "compared_with": evaluation.baseline and evaluation.baseline.run,
            "why_other": evaluation.baseline.why_other if evaluation.baseline else "",
            "failed_gates": len(failed),
            "failed": failed,
            "gates": [[verdict.gate, verdict.state, verdict.detail] for verdict in evaluation.verdicts],
            "report": report,
            "judged_against": live and live.stored.content_hash,
            "protocol": reference.PROTOCOL,
            "new_catalogue": live and reference.why_new(run, live, len(known.ids)),
            "fields_changed": (live and reference.fields_changed(run, live)) or None,
        },
    )


def _measure(run: Run, known: Products, live: Live | None, before: StoredRun | None) -> Evaluation:
    products, lists = run.judged(COLUMNS), read_unfiltered(run, known.ids)
    codes, predictions = {name: encode(products[name]) for name in KINDS}, heldout.predict(run, known)
    tested = measure_heldout(run, known, predictions, lists.neighbours, codes)
    classifier, counted = _classifier(run), _count(run, products, lists)
    against = reference.refer(run, live, len(products))
    compared, against = _compare_lists(run, live, products, lists, against)
    measured = {
        **_of_lists(lists.neighbours, codes),
        "with_colour": int((codes["baseColour"] != metrics.MISSING).sum()),
        **tested.figures,
        **_of_classifier(known, predictions, classifier),
        "coverage": counted.coverage.value,
        "rejected": counted.rejected,
        "catalogue_shared": 100 * live.shared_share(len(products)) if live else float("nan"),
        "neighbours_kept": compared.kept,
    }
    if "heldout" in against.silent and run.layout.kind and not counted.not_finite:
        measured |= _of_untrained(run, lists, codes, tested.asked)
    subcategories = _by_subcategory(products["subCategory"], tested.shown, codes, tested.asked)
    figures = replace(
        counted,
        shares=reference.shares_of(measured) | reference.quality_of(subcategories),
        untrained=reference.shares_of(measured, UNTRAINED),
        neighbours=compared.agreed,
    )
    verdicts = gates.verdicts(figures, against, _tolerances(run))
    of_products = (products, lists, tested.shown, codes, tested.asked, measured, subcategories)
    baseline = _baseline(before, _why_other(run, live, before, against))
    return Evaluation(*of_products, verdicts, classifier, tested.unknown, _embedder(run), baseline)


@dataclass(frozen=True)
class Tested:
    """What the test side shows of a run of n products.

    `asked`, bool (n,), are those whose lists are measured, `shown`, int (n, 10), the lists: theirs are by their images
    alone; `unknown` is what became of unknown images, and `figures` are of both, in percent.
    """

    asked: np.ndarray
    shown: np.ndarray
    unknown: Asked
    figures: dict[str, float]


def measure_heldout(
    run: Run, known: Products, predictions: Predictions, neighbours: np.ndarray, codes: dict[str, np.ndarray]
) -> Tested:
    """Measure what is recommended for the products of the test side.

    Args:
        run: done up to similar.
        known: its products, with the sides that shall count.
        predictions: of the classifier for their test side.
        neighbours: their lists without filter, int (n, 10).
        codes: of `KINDS`, int (n,) each.
    """
    queries = split.choose(known.hashes, np.flatnonzero(known.sides == split.TEST), MOST)
    asked, settings = np.isin(np.arange(len(known.ids)), queries), run.settings
    shown = _with(neighbours, asked, known.embeddings) if known.unlabelled.any() else neighbours
    unknown = heldout.ask(known, predictions, settings.evaluate_queries if predictions.labels else 0)
    copies = heldout.find_copies(run, known, settings.evaluate_copies) if settings.evaluate_copies else {}
    figures = {f"unknown_{name}": value for name, value in unknown.figures.items()}
    return Tested(asked, shown, unknown, {**_of_heldout(shown, codes, asked), **figures, **copies})


def _with(neighbours: np.ndarray, asked: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Lists, int (n, 10), but those of the products in `asked`, bool (n,), by these embeddings."""
    shown = neighbours.copy()
    shown[asked] = cube.neighbours(embeddings, np.flatnonzero(asked))
    return shown


def _compare_lists(
    run: Run, live: Live | None, products: pa.Table, lists: Lists, against: gates.Reference
) -> tuple[reference.Followed, gates.Reference]:
    """How lists follow from the live run's, and the reference, which says why where that cannot be told."""
    if live is None or "neighbours" in against.silent:
        return reference.Followed(), against
    published = live.of(run)
    try:
        reference.check_there(published, "products", "shortlists")
        before = published.products(["product_id", *reference.UNCHANGED])
        then = read_unfiltered(published, before["product_id"].to_numpy()).neighbours
    except (UserError, FileNotFoundError) as error:
        return reference.Followed(), against.without("neighbours", reference.why_gone(live, error))
    followed = reference.follow(products, lists.neighbours, before, then)
    if not followed.agreed.size:
        against = against.without("neighbours", f"no product of {live.who} is unchanged")
    return followed, against


def _of_lists(
    neighbours: np.ndarray, codes: dict[str, np.ndarray], asked: np.ndarray | None = None
) -> dict[str, float]:
    """The nine percentages and the colour share of the lists of the products in `asked`, bool (n,), or of all."""
    figures = metrics.nine_percentages(neighbours, codes["articleType"], codes["gender"], asked=asked)
    return {**figures, "colour_share": metrics.share_of_hits(neighbours, codes["baseColour"], asked)}


def _of_heldout(shown: np.ndarray, codes: dict[str, np.ndarray], held_out: np.ndarray) -> dict[str, float]:
    """Figures of the lists of held-out products: the nine percentages, and those that need no large articleTypes."""
    asked = held_out & _has_kind(codes)
    wrong = metrics.wrong_neighbours(shown, codes["articleType"], codes["gender"])["both"][asked]
    figures = {
        **_of_lists(shown, codes, held_out),
        "right": 100 * (1 - float(wrong.mean()) / metrics.K) if len(wrong) else float("nan"),
        "all10": 100 * float((wrong == 0).mean()) if len(wrong) else float("nan"),
        "asked": len(wrong),
        "with_colour": int((held_out & (codes["baseColour"] != metrics.MISSING)).sum()),
    }
    return {f"heldout_{name}": value for name, value in figures.items()}


def _of_untrained(run: Run, lists: Lists, codes: dict[str, np.ndarray], held_out: np.ndarray) -> dict[str, float]:
    """The same by the features of the run's model without the embedder; nothing where there is none."""
    if run.result("embed").figures["embedder"] == embedding.UNTRAINED.fingerprint:
        return {}
    shown = _with(lists.neighbours, held_out, read_embeddings(run, embedding.UNTRAINED))
    return {f"{UNTRAINED}{name}": value for name, value in _of_heldout(shown, codes, held_out).items()}


def _has_kind(codes: dict[str, np.ndarray]) -> np.ndarray:
    """Whether a product's articleType and gender are known, bool (n,): only then neighbours can have them."""
    return (codes["articleType"] != metrics.MISSING) & (codes["gender"] != metrics.MISSING)


def _by_subcategory(
    names: pa.ChunkedArray, shown: np.ndarray, codes: dict[str, np.ndarray], held_out: np.ndarray
) -> dict[str, float]:
    """Of each subCategory: its products, those held out that have a kind, and how many neighbours have the same (%)."""
    subcategory, asked = encode(names), held_out & _has_kind(codes)
    wrong = metrics.wrong_neighbours(shown, codes["articleType"], codes["gender"])["both"]
    figures: dict[str, float] = {}
    for code, name in enumerate(names.combine_chunks().dictionary_encode().dictionary.to_pylist()):
        members = subcategory == code
        figures[f"products:{name}"] = int(members.sum())
        figures[f"heldout_asked:{name}"] = count = int((members & asked).sum())
        right = 1 - wrong[members & asked].mean() / metrics.K if count else float("nan")
        figures[f"{gates.QUALITY}{name}"] = 100 * float(right)
    return figures


def _of_classifier(known: Products, predictions: Predictions, classifier: dict) -> dict[str, float]:
    """Figures of the classifier on the test side; NaN where the run has none or nothing to measure it on."""
    accuracy = float("nan") if classifier["accuracy"] is None else classifier["accuracy"]
    return {
        "subcategory_test": 100 * accuracy,
        "subcategory_test_15": accuracy_of_largest(known, predictions)[0],
        "subcategory_asked": sum(of_class["support"] for of_class in classifier["classes"].values()),
        "classifier_accuracy": accuracy,
    }


def _classifier(run: Run) -> dict:
    """Metrics of the run's classifier, or what stands for them where it has none."""
    rows = run.table("classifier").read(["metrics"])["metrics"].to_pylist()
    return json.loads(rows[0]) if rows else NO_CLASSIFIER


def accuracy_of_largest(products: Products, predictions: Predictions) -> tuple[float, int]:
    """Accuracy (0–100) on the test side's products of the largest subCategories, told apart from each other only.

    And how many products those are.
    """
    place = {name: code for code, name in enumerate(predictions.labels)}
    classes = np.array([place.get(name, metrics.MISSING) for name in products.attributes["subCategory"]], int)
    counts = np.bincount(classes[classes != metrics.MISSING], minlength=len(place))
    test, largest = products.sides == split.TEST, np.argsort(-counts, kind="stable")[:LARGEST]
    asked = int(np.isin(classes[test], largest).sum())
    return metrics.accuracy_among(predictions.probabilities[test], classes[test], largest), asked


def _embedder(run: Run) -> dict[str, object]:
    """The row of the run's embedder, with what it was judged by and, where it was noted, how it learnt; or nothing.

    Its SHA-256 alone where somebody deleted the row: what it does is measured all the same.
    """
    sha256 = run.result("embed").figures["embedder"]
    if sha256 == embedding.UNTRAINED.fingerprint:
        return {}
    rows = run.lake.table("embedders").read().to_pylist()
    return next((row for row in rows if row["sha256"] == sha256), {"sha256": sha256})


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    """Percentages with two digits and `SHARES` with four, as JSON, which knows no NaN and is how Airflow keeps them."""
    return {
        name: None if np.isnan(value) else round(value, 4 if name in SHARES else 2) for name, value in values.items()
    }


def _write(run: Run, name: str, rows: pa.Table) -> int:
    return run.lake.table(name).commit([run.lake.write_part(name, rows)], rows.schema, run=run.name).version


def read_unfiltered(run: Run, ids: np.ndarray) -> Lists:
    """The lists without filter in the order of `ids`, object (n,); an item that `ids` lacks is missing."""
    neighbours = np.full((len(ids), metrics.K), -1, np.int64)
    scores = np.zeros((len(ids), metrics.K), np.float32)
    place_of = pd.Index(ids).get_indexer  # hashes the ids once, not once a part
    for part in shortlists.read(run.table("shortlists")):
        lengths = np.diff(part.ends)
        ranks = np.arange(part.ends[-1]) - np.repeat(part.ends[:-1], lengths)
        places = np.repeat(place_of(part.ids), lengths)
        shown = np.flatnonzero((ranks < metrics.K) & (places >= 0))
        at = places[shown], ranks[shown]
        neighbours[at] = place_of(part.items)[part.codes[shown]]
        scores[at] = part.scores[shown]
    return Lists(neighbours, scores)


def encode(column: pa.ChunkedArray) -> np.ndarray:
    """Codes of a column's values, int (n,); −1 where it is null."""
    indices = column.combine_chunks().dictionary_encode().indices
    return pc.fill_null(indices, metrics.MISSING).to_numpy(zero_copy_only=False).astype(np.int64)


def _count(run: Run, products: pa.Table, lists: Lists) -> gates.Figures:
    """The figures of the gates that are counts."""
    ids = products["product_id"].to_numpy()
    place = pd.Index(ids).get_indexer(to_text(run.table("shortlists").read(["product_id"])["product_id"]).to_numpy())
    rejected = int(str(run.result("catalog").figures["rejected_products"]))
    return gates.Figures(
        products=len(ids),
        covered=int(((lists.neighbours >= 0).sum(axis=1) >= min(metrics.K, len(ids) - 1)).sum()),
        shortlists=len(np.unique(place[place >= 0])),
        not_finite=_not_finite(run),
        rejected=rejected / max(1, len(ids) + rejected),
        subcategories=Counter(products["subCategory"].drop_null().to_pylist()),
    )


def _not_finite(run: Run) -> int:
    """Values of the products' features and embeddings that are NaN or infinite."""

    def count(_: np.ndarray, columns: list[np.ndarray]) -> list[np.ndarray]:
        return [sum(np.count_nonzero(~np.isfinite(values), axis=1, keepdims=True) for values in columns)]

    (of_features,) = gather(run, Features._fields, count)
    embeddings = run.table("embeddings").iter_parts(["embedding"])
    of_embeddings = sum(
        pc.sum(pc.invert(pc.is_finite(pc.list_flatten(rows["embedding"])))).as_py() or 0 for rows in embeddings
    )
    return int(of_features.sum()) + of_embeddings


def _stored(run: Run, ids: np.ndarray) -> tuple[Live | None, StoredRun | None]:
    """The live run, and the one to compare figures with: the live run, or where it is this one the one before."""
    try:
        with store.connect(run.settings.store, run.settings.store_folder) as connection:
            live, runs = reference.read_live(connection, ids), store.runs(connection)
    except store.OlderStoreError:  # publish prepares it, and has this step run again
        return None, None
    others = [other for other in ([live.stored] if live else []) + runs if other.run != run.name]
    return live, next((other for other in others if "evaluate" in other.manifest.get("results", {})), None)


def _why_other(run: Run, live: Live | None, before: StoredRun | None, against: gates.Reference) -> str:
    """Why differences from the run before tell nothing: by its layout or, where it is the live one, by the gates."""
    if before and (moved := reference.moved(run.layout, before)):
        return next(iter(moved.values()))
    told = live is not None and before is live.stored and "heldout" not in reference.left_out(run.layout)
    return against.silent.get("heldout", "") if told else ""


def _baseline(before: StoredRun | None, why_other: str) -> Baseline | None:
    if before is None:
        return None
    figures = reference.figures_of(before, "evaluate")
    known = {name: figures.get(name) for name in COMPARED}
    if figures.get("protocol") != reference.PROTOCOL:
        why_other = why_other or f"run {before.run} was measured by another protocol or split"
    numbers = {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
    return Baseline(before.run, numbers, why_other)


def _tolerances(run: Run) -> gates.Tolerances:
    return gates.Tolerances(**{name: getattr(run.settings, name) for name in gates.Tolerances.__dataclass_fields__})


def result_grid(run: Run, count: int) -> list[list[np.ndarray]]:
    """The images of `count` products, each followed by its neighbours': lists of uint8 (h, w, 3), for `jobs.grid`."""
    products = run.products(["product_id", "articleType", "image_sha256"])
    lists = read_unfiltered(run, products["product_id"].to_numpy())
    rows = [row_of(lists, query) for query in spread(encode(products["articleType"]), count)]
    hashes = products["image_sha256"].to_pylist()
    images = read_images(run, [hashes[index] for row in rows for index in row])
    return [[decode(images[hashes[index]]) for index in row] for row in rows]


if __name__ == "__main__":
    raise SystemExit(step.main("evaluate"))
