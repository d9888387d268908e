"""The held-out figures of a lake's champion: what it recommends for pictures that no model has learnt from.

    python benchmarks/quality.py                                     # the newest run of var/lake
    python benchmarks/quality.py --dataset ../shared/data/fashion-product-images-small.zip
    python benchmarks/quality.py --side validation                   # only unknown images, to choose rules by
    python benchmarks/quality.py --final                             # the final side: for releases alone

The figures `cross_…` and `phone_derived` are of photos in another size than the catalogue's (`sizes.py`): those that
another catalogue has of the same products, `--photos`, as they are and as phones would take them (`phone.py`).

With `--dataset`, a lake whose newest run is of another source is left alone: one is made in `--folder` by a refresh, a
training and a second refresh, unless it is there. The table has each figure with its 95 % interval, and once more
without *near-duplicates*: those pictures of which the training side has one that looks nearly the same (a garment
in another colour, another crop), and which flatter whoever remembers. The last line is JSON, percentages 0 to 100, null
where there is nothing to measure: articleTypes need 500 products, and `search_ms_p50` the run to be live in its store.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import phone
import sizes
from PIL import Image
from rich.console import Console
from rich.table import Table

from infra import store
from infra.errors import UserError
from infra.settings import read_settings
from jobs import evaluate, heldout
from jobs.classify import SEED
from jobs.features import read_embeddings, read_features
from jobs.heldout import Predictions, Products
from jobs.report import UNKNOWN
from jobs.run import LATEST, Run, open_run
from jobs.serve.search import Searcher
from jobs.stored import read_images
from ml import classifier, memory, metrics, protocols, split
from ml.images import decode

PHOTOS, WARM_UP = 60, 3
PHONE = 3024, 4032
"""Width and height of a photo of 12 megapixels."""
NEAR, BLOCK = 0.65, 1024
"""Similarity of looks (`ml.memory`) above which two pictures are near-duplicates: down to there pairs of the validation
side, looked at, are one garment in another colour or from another side, and below similar garments."""
FIGURES = {
    "heldout_both_0": ("all ten neighbours have articleType and gender", "heldout_products"),
    "heldout_both_0.1": ("nine of ten", "heldout_products"),
    "heldout_both_0.2": ("eight of ten", "heldout_products"),
    "heldout_colour_share": ("neighbours of the same baseColour", "heldout_with_colour"),
    "subcategory_test": ("subCategory", "subcategory_asked"),
    "subcategory_macro_f1": ("subCategory, macro F1", ""),
    "subcategory_test_15": ("subCategory among the 15 largest", "subcategory_15_asked"),
    "unknown_derived": ("unknown images: derivedType", "unknown_images"),
    "unknown_all10": ("unknown images: no recommendation is wrong", "unknown_images"),
}
"""Figure → words, and the figure that says on how many products it was measured, where it is a share of them; that of
ten neighbours each is surer than its interval. Of unknown images the two say nearly one thing: recommendations come
from the derivedType that was guessed, and lists shorter than ten can be right."""
COPIES = 500
CLASSES = "Topwear Shoes Bags Bottomwear Watches Innerwear Jewellery Eyewear Fragrance Sandal Wallets Belts Socks Lips"
REPORT = [*CLASSES.split(), "Flip Flops"]
"""The 15 largest subCategories of the catalogue as published, those of the report: all with 500 products in styles.csv.
Of the last, a fifth has no image in the copies at hand, where Dress is larger."""
out = Console(highlight=False, width=120)


def source_of(run: Run) -> str:
    return run.table("pulls").read(["uri"])["uri"][0].as_py()


def absolute(dataset: str) -> str:
    return dataset if ":" in dataset.split("/")[0] else str(Path(dataset).resolve())


def find_run(given: argparse.Namespace) -> Run:
    """The run to measure, made first where `--dataset` asks for what is not there."""
    wanted = absolute(given.dataset) if given.dataset else ""
    places = [given.lake] if given.lake else ["", (given.folder.resolve() / "var/lake").as_uri()]
    for lake in places:
        try:
            run = open_run(given.run, **place_of(lake))
            if not wanted or wanted in (source_of(run), source_of(run).removeprefix("file://")):
                return run
        except UserError:
            if not wanted:
                raise
    if given.lake:
        raise SystemExit(f"the newest run of {given.lake} is not of {wanted}; leave out --lake to have one made")
    make(given.dataset, given.folder)
    return open_run(LATEST, **place_of(places[-1]))


def place_of(lake: str) -> dict[str, object]:
    """Settings for a lake, with the store beside it; none for the default."""
    if not lake:
        return {}
    uri = lake if "://" in lake else Path(lake).resolve().as_uri()
    beside = Path(uri.removeprefix("file://")).parent / "store"
    known = uri.startswith("file://") and beside.exists() and "LOOKALIKE_STORE_FOLDER" not in os.environ
    return {"lake": uri} | ({"store_folder": beside} if known else {})


def make(dataset: str, folder: Path) -> None:
    """Refresh, train, and refresh with what was learnt."""
    folder.mkdir(parents=True, exist_ok=True)
    lookalike = str(Path(sys.executable).parent / "lookalike")
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE_")}
    for arguments in (
        ["refresh", "--dataset", absolute(dataset), "--run", "2026-01-01"],
        ["step", "train_embedding", "--run", "2026-01-01"],
        ["refresh", "--dataset", absolute(dataset), "--run", "2026-01-02"],
    ):
        if subprocess.run([lookalike, *arguments], cwd=folder, env=env).returncode:
            raise SystemExit(f"lookalike {' '.join(arguments)} failed; see {folder}/var/logs")


def search_ms(run: Run, enlarge: bool = False) -> float | None:
    """Median milliseconds of a search, from a photo's bytes in a file to its ten products, over held-out images.

    As they are stored, or enlarged to `PHONE`: most of the time then goes into decoding.
    """
    products = heldout.read_products(run)
    rows = protocols.choose_queries(products.hashes, products.sides, {}, PHOTOS + WARM_UP, split.TEST)
    hashes, settings = products.hashes[rows].tolist(), run.settings
    stored, taken = read_images(run, hashes), []
    with tempfile.TemporaryDirectory() as folder, store.connect(settings.store, settings.store_folder) as connection:
        try:
            searcher = Searcher(connection, settings)
        except UserError as error:
            out.print(f"no search to time: {error.problem}", soft_wrap=True)
            return None
        if searcher.run.name != run.name:
            out.print(f"no search to time: the live run is {searcher.run.name}", soft_wrap=True)
            return None
        for at, sha in enumerate(hashes):
            photo = Path(folder) / f"{at}.jpg"
            photo.write_bytes(as_jpeg(stored[sha], PHONE if enlarge else None))
            started = perf_counter()
            searcher.search(connection, photo.read_bytes(), {})
            taken.append(1000 * (perf_counter() - started))
    return round(median(taken[WARM_UP:]), 1) if len(taken) > WARM_UP else None


def as_jpeg(data: bytes, size: tuple[int, int] | None) -> bytes:
    """A photo's file as it is if it is a JPEG, or in another size, with the noise of a sensor."""
    if data[:2] == b"\xff\xd8" and size is None:
        return data
    image, target = Image.fromarray(decode(data)), io.BytesIO()
    if size:
        pixels = np.asarray(image.resize(size)).astype(np.int16)
        pixels += np.random.default_rng(0).integers(-6, 7, pixels.shape, np.int16)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image.save(target, "JPEG", quality=95 if size is None else 90)
    return target.getvalue()


def read_side(run: Run, side: int) -> Products:
    """The run's products with a side in the place of the test side, which then is neither learnt from nor searched."""
    products = heldout.read_products(run)
    sides = products.sides.copy()
    sides[products.sides == side], sides[(products.sides == split.TEST) & (side != split.TEST)] = split.TEST, side
    return replace(products, sides=sides)


def near_duplicates(run: Run, products: Products) -> np.ndarray:
    """Whether the training side has a picture that looks nearly the same, bool (n,); of the test side alone."""
    stages, test = read_features(run, "stages"), np.flatnonzero(products.sides == split.TEST)
    train = products.sides == split.TRAIN
    mean, axes = memory.components(stages[train])
    remembered, near = memory.looks(stages[train], mean, axes), np.zeros(len(products.ids), bool)
    for rows in np.array_split(test, max(1, len(test) // BLOCK)):
        near[rows] = (memory.looks(stages[rows], mean, axes) @ remembered.T).max(axis=1) > NEAR
    return near


def measure(run: Run, products: Products) -> dict[str, float]:
    """Figures of the test side, in percent, and how many products each was measured on."""
    rows, lists = run.products(evaluate.COLUMNS), evaluate.read_unfiltered(run, products.ids)
    codes = {name: evaluate.encode(rows[name]) for name in evaluate.KINDS}
    predictions = heldout.predict(run, products)
    figures = evaluate.measure_heldout(run, products, predictions, lists.neighbours, codes).figures
    return figures | classifier_figures(products, predictions)


def classifier_figures(products: Products, predictions: Predictions) -> dict[str, float]:
    """Accuracy and macro F1 (both 0 to 100) of the subCategories said of the test side."""
    names = products.attributes["subCategory"]
    rows = np.flatnonzero((products.sides == split.TEST) & np.isin(names.astype(str), predictions.labels))
    place = {name: code for code, name in enumerate(predictions.labels)}
    classes = np.array([place[name] for name in names[rows]], int)
    told = classifier.metrics(predictions.probabilities[rows], classes, predictions.labels) if place else {}
    of_largest, asked = evaluate.accuracy_of_largest(products, predictions)
    return {
        "subcategory_test": percent(told.get("accuracy")),
        "subcategory_macro_f1": percent(told.get("macro_f1")),
        "subcategory_asked": len(rows),
        "subcategory_test_15": of_largest,
        "subcategory_15_asked": asked,
    }


def percent(share: object) -> float:
    return 100 * float(share) if isinstance(share, float) else float("nan")


def accuracy_in_report(run: Run) -> float | None:
    """Percentage right in the report's setting, or None without such products.

    A classifier of its own knows the classes in `REPORT` and no other, learns from all their images but the test side
    and the final one, and is asked about the test side. The nightly one tells all classes apart.
    """
    products = heldout.read_products(run)
    known = np.isin(products.attributes["subCategory"].astype(str), REPORT) & (products.sides != split.FINAL)
    return learn(run, products.attributes["subCategory"], known, products.sides == split.TEST)["accuracy"]


def article_types(run: Run) -> dict[str, float | None]:
    """Accuracy and macro F1 (0 to 100) of articleTypes said by a classifier that learnt from products of earlier years.

    Those of the last years, a fifth of the products or a little more, are asked about, but no picture that an earlier
    year has too. Beside it the same on the sides of the split, where a season's products stand on both.
    """
    rows = run.products(["articleType", "year", "picture"])
    names, pictures = np.array(rows["articleType"].to_pylist(), object), rows["picture"].to_numpy()
    years = np.array([int(year) if year and year.isdigit() else 0 for year in rows["year"].to_pylist()])
    sides = split.sides_of(pictures)
    known = (names != None) & (years > 0) & (sides != split.FINAL)  # noqa: E711  # element by element
    if not known.any():
        return {}
    last = np.sort(years[known])[::-1][known.sum() // 5]
    late = known & (years >= last)
    late_alone = late & ~np.isin(pictures, pictures[known & ~late])
    by_year = learn(run, names, (known & ~late) | late_alone, late)
    by_side = learn(run, names, known, sides == split.TEST)
    out.print(f"articleTypes of the {late_alone.sum():,} products of {last} and later, learnt from earlier years")
    return {f"articletype_by_year_{name}": value for name, value in by_year.items()} | {
        f"articletype_by_side_{name}": value for name, value in by_side.items()
    }


def learn(run: Run, names: np.ndarray, known: np.ndarray, test: np.ndarray) -> dict[str, float | None]:
    """Train on products that are `known` and not for the `test`, bool (n,) each, and ask about these."""
    rows = np.flatnonzero(known)
    asked = test[rows]
    if not asked.any() or asked.all():
        return {"accuracy": None, "macro_f1": None}
    features = read_features(run, *classifier.COLUMNS, rows=rows)
    stages = read_features(run, classifier.COLUMNS[0], rows=rows[:1]).shape[1]
    targets = classifier.make_targets(names[rows].tolist(), {})
    model = classifier.fit(features, targets, np.where(asked, split.TEST, split.TRAIN), SEED, stages=stages).model
    told = classifier.metrics(classifier.predict(model, features[asked]), targets.classes[asked], targets.labels)
    return {name: round(percent(told[name]), 2) for name in ("accuracy", "macro_f1")}


def ask_side(run: Run, side: int, most: int) -> None:
    """Print what becomes of unknown images of a side."""
    products = heldout.read_products(run)
    found = heldout.ask(products, heldout.predict(run, products, side), most, side).figures
    for name, words in UNKNOWN.items():
        out.print(f"{words:<60} {found[name]:6.2f} %")
    print(json.dumps(rounded(found)))


def ask_other_sizes(run: Run, given: argparse.Namespace, side: int) -> dict[str, float | None]:
    """The figures of photos in other sizes than the catalogue's, which are printed; null without such photos."""
    photos = given.photos or sizes.find_other(source_of(run))
    if photos is None:
        return dict.fromkeys(sizes.FIGURES)
    found = sizes.measure(run, photos, given.backgrounds if given.backgrounds.exists() else None, side)
    for name, value in found.items():
        out.print(f"{name:<60} {value:8.2f}")
    return dict.fromkeys(sizes.FIGURES) | rounded(found)


def rounded(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else round(value, 2) for name, value in figures.items()}


def show(figures: dict[str, float], others: dict[str, float]) -> None:
    """A table of figures with their intervals, and of those without near-duplicates."""
    table = Table("figure", "%", "95 % interval", "of", "without near-duplicates, %", "95 % interval", "of")
    for name, (words, size) in FIGURES.items():
        cells = []
        for values in (figures, others):
            cells.append(f"{values[name]:.2f}")
            if size:
                low, high = metrics.interval(values[name] / 100, int(values[size]))
                cells += [f"{100 * low:.1f}–{100 * high:.1f}", f"{int(values[size]):,}"]
            else:
                cells += ["", ""]
        table.add_row(words, *cells)
    out.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help="what the run must be of; default: whatever the lake holds")
    parser.add_argument("--lake", help="path or URI; default: LOOKALIKE_LAKE, or var/lake")
    parser.add_argument("--run", default=LATEST)
    parser.add_argument(
        "--folder", type=Path, default=Path("var/quality"), help="where a lake is made if one is needed"
    )
    parser.add_argument("--side", choices=["test", "validation"], default="test")
    parser.add_argument("--final", action="store_true", help="look at the final side, which is for releases alone")
    parser.add_argument(
        "--photos", type=Path, help="archive of another catalogue of the products; default: in ../shared"
    )
    parser.add_argument("--backgrounds", type=Path, default=phone.STREETS)
    given = parser.parse_args()
    run = find_run(given)
    out.print(f"run {run.name} of {source_of(run)}, lake {run.lake.uri}", soft_wrap=True)
    if given.side == "validation":
        ask_side(run, split.VALIDATION, read_settings().evaluate_queries)
        ask_other_sizes(run, given, split.VALIDATION)
        return
    products = read_side(run, split.FINAL if given.final else split.TEST)
    near = near_duplicates(run, products)
    figures = measure(run, products)
    copied = heldout.find_copies(run, products, COPIES)
    tested = products.sides == split.TEST
    alone = replace(products, sides=np.where(near, split.FINAL, products.sides))
    without = measure(run, alone)
    show(figures, without)
    served = heldout.find_copies(run, replace(products, embeddings=read_embeddings(run)), COPIES)
    found = {name: figures[name] for name in FIGURES} | {
        "duplicates_first": copied["duplicates_first"],
        "duplicates_first_served": served["duplicates_first"],
        "near_duplicates": 100 * float(near[tested].mean()),
        **{f"{name}_without_near": without[name] for name in FIGURES},
        "unknown_short": figures["unknown_short"],
    }
    told = {name.replace(".", ""): value for name, value in rounded(found).items()}
    if not given.final:
        told |= {"subcategory_test_report": accuracy_in_report(run), **article_types(run)}
        told |= ask_other_sizes(run, given, split.TEST)
    print(json.dumps(told | {"search_ms_p50": search_ms(run), "search_ms_p50_12mp": search_ms(run, enlarge=True)}))


if __name__ == "__main__":
    main()
