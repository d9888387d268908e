"""compare-backbones: one protocol for every backbone whose weights are at hand → a table and a plot.

Reads the run's products and images, and its features where those of a backbone are there already; writes nothing to the
lake, but `backbones.csv`, `.json` and `.png` in a folder, anew after each backbone, so that what is finished is kept.
The sample, the sides and the seeds follow from the images' hashes: the same run gives the same accuracies again.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs
from rich.table import Table

from infra.allocator import keep_freed_memory
from infra.errors import UserError
from infra.lake import filesystem, reaching
from infra.settings import Settings
from jobs import charts, extraction
from jobs.champion import read_rows
from jobs.extraction import NONE, Model
from jobs.features import to_matrix
from jobs.run import Run
from jobs.stored import CURRENT, images_table
from ml import backbones, classifier, embedding, features, images, metrics, similarity, split
from ml.features import BATCH, Extractor, Features

TIMED = 10 * BATCH
"""Images that inference is timed on where the features themselves are in the lake."""
SEED = 0
SUFFIXES = (".weights.h5", ".pth")
LEAST_SIDE, MOST_SIDE = 32, 1024
"""Pixels of an input that can be asked for."""
DOWNLOAD_TIMEOUT_S = 10.0
"""Longest silence of the server that a download of weights waits through; Keras itself would wait for ever."""
QUERIES = 256
"""Queries whose scores are alive at once."""
LEARNT = tuple(embedding.LOSSES)
JUDGED = ("articleType", "gender", "baseColour")
SCRATCH = "scratch"
"""Names what was trained from scratch, among backbones that are asked for and in the table."""


class NotAtHandError(ValueError):
    """A backbone that cannot be built with its weights; the message is one line that says why."""


@dataclass(frozen=True)
class Choice:
    """A backbone of the registry and the height and width of its input in pixels; in words `name@HEIGHTxWIDTH`.

    `tuned` is the SHA-256 of the weights that it was trained to from scratch, or empty.
    """

    name: str
    height: int
    width: int
    tuned: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.height}x{self.width}{f' {SCRATCH}' if self.tuned else ''}"


@dataclass(frozen=True)
class Sample:
    """A product for each of n images, in the order of the images' hashes.

    `sides` int8 (n,) as `ml.split` gives them; `attributes` field → n values, None where missing, and `codes` of those
    that are judged, int (n,); `asked` bool (n,): the queries, which are the test side's images whose articleType has
    more than ten images in the sample, so that ten right neighbours exist.
    """

    hashes: pa.Array
    sides: np.ndarray
    attributes: dict[str, list[str | None]]
    codes: dict[str, np.ndarray]
    asked: np.ndarray


@dataclass(frozen=True)
class Row:
    """What was measured of one backbone, or why it was not: then `missing` says so and `figures` is empty."""

    backbone: str
    weights: str
    figures: dict[str, float | None]
    missing: str = ""


@dataclass(frozen=True)
class Comparison:
    """All rows so far and what they have in common."""

    run: str
    images: int
    queries: int
    device: str
    precision: str
    rows: list[Row]


# What is asked for ----------------------------------------------------------------------------------------------------


def parse_choices(text: str, trained: Sequence[Choice] = ()) -> list[Choice]:
    """The backbones that `text` names, separated by commas; empty: the whole registry, each with its own input.

    `trained` are those that were trained from scratch, which come after the registry, or where `scratch` is named.

    Raises:
        UserError: a name that is not in the registry, an input that is no `HEIGHTxWIDTH`, or `scratch` of nothing.
    """
    named = [name.strip() for name in text.split(",") if name.strip()]
    if SCRATCH in named and not trained:
        raise UserError(
            "no backbone was trained from scratch, or at another precision than the settings have",
            where=f"--backbones {text}",
            remedy="train one by `LOOKALIKE_EMBEDDING=scratch lookalike step train_embedding --run latest`",
        )
    names = named or [*backbones.BACKBONES, SCRATCH]
    return list(dict.fromkeys(chain(*(trained if name == SCRATCH else [_parse_choice(name)] for name in names))))


def find_trained(run: Run) -> list[Choice]:
    """What was trained from scratch in the run's lake, at its precision, champion or not; of each size the newest."""
    newest = dict[Model, Choice]()
    for row in read_rows(run.lake):
        asked = json.loads(row["settings"] or "{}")
        if asked.get("embedding") == SCRATCH and asked["precision"] == run.settings.precision:
            sizes = {name: asked[name] for name in ("input_height", "input_width", "embedding_backbone")}
            model = extraction.choose_drawn(run.settings.model_copy(update=sizes))
            newest[model] = Choice(model.name, model.height, model.width, row["tuned"])
    return list(newest.values())


def _parse_choice(text: str) -> Choice:
    name, at, size = text.partition("@")
    backbone = backbones.BACKBONES.get(name)
    if backbone is None:
        raise UserError(
            f"there is no backbone {name!r}",
            where=f"--backbones {text}",
            remedy=f"choose among {', '.join(backbones.BACKBONES)}",
        )
    if not at:
        return Choice(name, backbone.height, backbone.width)
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    height, width = map(int, match.groups()) if match else (0, 0)
    if not (LEAST_SIDE <= height <= MOST_SIDE and LEAST_SIDE <= width <= MOST_SIDE):
        raise UserError(
            f"{size!r} is no input size",
            where=f"--backbones {text}",
            remedy=f"write {name}@HEIGHTxWIDTH in pixels, {LEAST_SIDE} to {MOST_SIDE}, such as {name}@192x144",
        )
    return Choice(name, height, width)


def find_model(settings: Settings, choice: Choice, folder: str) -> Model:
    """The backbone with weights from its file in `folder` (a path or URI; empty: none), its package or Keras.

    One that was trained from scratch has the weights that it was trained to.

    Raises:
        UserError: `folder` is no folder.
        NotAtHandError: the file cannot be read, or the package is not installed.
    """
    asked = {
        "backbone": choice.name,
        "input_height": choice.height,
        "input_width": choice.width,
        "weights": NONE if choice.tuned else _file_in(folder, choice.name) if folder else "imagenet",
        "weights_sha256": "",
    }
    try:
        return replace(extraction.choose_model(settings.model_copy(update=asked)), tuned=choice.tuned)
    except UserError as error:
        raise NotAtHandError(error.problem) from None


def _file_in(folder: str, name: str) -> str:
    """URI of the weights file of a backbone, or `imagenet` where the folder has none."""
    uri = folder if "://" in folder else Path(folder).expanduser().resolve().as_uri()
    files, path = filesystem(uri)
    with reaching(uri):
        if files.get_file_info(path).type != fs.FileType.Directory:
            raise UserError(
                "there is no such folder of weights",
                where=f"--weights {folder}",
                remedy=f"give a folder or URI with files such as {name}{SUFFIXES[0]}",
            )
        there = [f"{name}{suffix}" for suffix in SUFFIXES if files.get_file_info(f"{path}/{name}{suffix}").is_file]
    return f"{uri.rstrip('/')}/{there[0]}" if there else "imagenet"


def take_sample(run: Run, size: int) -> Sample:
    """The first `size` images by hash, each with the first product that has it and a subCategory.

    Raises:
        UserError: they are too few to train on and to ask about, or the catalogue does not say what they are.
    """
    if missing := [part for part in ("kind", "group") if not getattr(run.layout, part)]:
        raise UserError(
            f"backbones are judged by kind and group, and the mapping names no {' and no '.join(missing)}",
            where=f"run {run.name}",
            remedy="name them in catalogue.toml, one column for both if need be, and refresh",
        )
    products = run.judged(["product_id", "image_sha256", "picture", *LEARNT])
    rows = products.filter(pc.is_valid(products["subCategory"])).sort_by(
        [("image_sha256", "ascending"), ("product_id", "ascending")]
    )
    hashes, first = np.unique(np.asarray(rows["image_sha256"].to_pylist(), object), return_index=True)
    rows, hashes = rows.take(first[:size]), hashes[:size].tolist()
    codes = {name: embedding.encode(rows[name].to_pylist())[1] for name in JUDGED}
    attributes = {name: [value or None for value in rows[name].to_pylist()] for name in LEARNT}
    types, sides = codes["articleType"], split.sides_of(rows["picture"])
    images_of_type = np.bincount(types[types >= 0], minlength=1)
    asked = (sides == split.TEST) & (types >= 0) & (images_of_type[np.maximum(types, 0)] > metrics.K)
    if not asked.any() or not (sides == split.TRAIN).any():
        raise UserError(
            f"{len(rows)} images are too few: none that is held out from training has ten others of its articleType",
            where=f"run {run.name}, --sample {size}",
            remedy="ask for a larger sample, or compare on a larger catalogue",
        )
    return Sample(pa.array(hashes, pa.string()), sides, attributes, codes, asked)


# The protocol ---------------------------------------------------------------------------------------------------------


def measure(
    run: Run, sample: Sample, choice: Choice, folder: str, on_images: Callable[[int], None] = lambda _: None
) -> Row:
    """Everything about one backbone, or why it was not measured; its memory is free again afterwards.

    Args:
        run: whose images, and at which precision.
        sample: of these images.
        choice: the backbone.
        folder: of weights files, as `find_model` takes it.
        on_images: called with the images seen so far.

    Raises:
        UserError: `folder` is no folder.
    """
    keep_freed_memory()
    features.start(_threads())
    built = None
    try:
        model = find_model(run.settings, choice, folder)
        built = _build(run, model)
        weights = run.lake.path(f"backbones/{model.tuned}.npz") if model.tuned else model.weights
        return Row(str(choice), weights, _figures(run, sample, model, built, on_images))
    except NotAtHandError as error:
        return Row(str(choice), "", {}, str(error))
    finally:
        del built
        _free()


def _build(run: Run, model: Model):  # type: ignore[no-untyped-def]  # → keras.Model
    try:
        with _impatient():
            return extraction.build(run.lake, model)
    except UserError as error:
        raise NotAtHandError(error.problem) from None


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _free() -> None:
    import keras

    keras.utils.clear_session()
    gc.collect()


def _figures(run: Run, sample: Sample, model: Model, built, on_images) -> dict[str, float | None]:  # type: ignore[no-untyped-def]
    """Every figure of a built backbone; accuracies as percentages."""
    stored = _stored(run, sample, model.fingerprint)
    timed = min(TIMED, len(sample.hashes)) if stored else len(sample.hashes)
    extracted, seconds = _extract(run, sample, Extractor(built), timed, on_images)
    figures: dict[str, float | None] = {
        "height": model.height,
        "width": model.width,
        "dimensions": extracted.average.shape[1],
        "parameters_millions": round(built.count_params() / 1e6, 3),
        "megabytes": round(sum(weights.nbytes for weights in built.get_weights()) / 1e6, 1),
        "images_timed": timed,
        "images_per_s": round(timed / seconds, 2),
    }
    features = stored or extracted
    trained, _ = embedding.fit(features, sample.attributes, sample.sides, SEED)
    figures |= _judge(embedding.UNTRAINED.apply(features), sample, "untrained")
    figures |= _judge(trained.apply(features), sample, "trained")
    return figures | {"trained_subCategory": _subcategory_accuracy(features, sample)}


def _stored(run: Run, sample: Sample, model: str) -> Features | None:
    """Features of the sample from the lake, if all are there."""
    table = run.lake.table("features")
    if table.version < 0 or not {*Features._fields} <= {*table.schema.names}:
        return None
    of_sample = (pc.field("model") == model) & pc.field("image_sha256").isin(sample.hashes)
    rows = table.read(["image_sha256", *Features._fields], of_sample)
    place = pc.index_in(sample.hashes, value_set=rows["image_sha256"].combine_chunks())
    if place.null_count:
        return None
    return Features(*(to_matrix(rows[name].take(place)) for name in Features._fields))


def _extract(run: Run, sample: Sample, extractor: Extractor, count: int, on_images: Callable[[int], None]):  # type: ignore[no-untyped-def]
    """Features of the first `count` images as they lie in the lake, and seconds of inference.

    Decoding is not timed, nor the first call, which compiles. Rows of images that were not seen are zero.
    """
    size = (extractor.height, extractor.width)
    blank = extractor(np.zeros((1, *size, 3), np.uint8))
    features = Features(*(np.zeros((len(sample.hashes), values.shape[1]), np.float32) for values in blank))
    seconds, done, pictures = 0.0, 0, islice(_pictures(run, sample.hashes), count)
    while batch := list(islice(pictures, BATCH)):
        pixels = np.stack([images.load(data, *size) for _, data in batch])
        started = perf_counter()
        of_batch = extractor(pixels)
        seconds += perf_counter() - started
        places = [place for place, _ in batch]
        for column, values in zip(features, of_batch, strict=True):
            column[places] = values
        done += len(batch)
        on_images(done)
    return features, seconds


def _pictures(run: Run, hashes: pa.Array) -> Iterator[tuple[int, bytes]]:
    """Each image of the sample: its place in `hashes` and its file's bytes, a part of the images table at a time."""
    table = images_table(run)
    for part in table.parts:
        rows = table.read_part(part, ["image_sha256", "bytes"], CURRENT & pc.field("image_sha256").isin(hashes))
        places = pc.index_in(rows["image_sha256"], value_set=hashes).to_pylist()
        yield from zip(places, rows["bytes"].to_pylist(), strict=True)


def _judge(embeddings: np.ndarray, sample: Sample, name: str) -> dict[str, float | None]:
    """Of the ten nearest of each query among the whole sample, the percentage with its articleType, and so on."""
    queries = np.flatnonzero(sample.asked)
    neighbours = np.full((len(embeddings), metrics.K), metrics.MISSING, np.int64)
    for at in range(0, len(queries), QUERIES):
        block = queries[at : at + QUERIES]
        scores = embeddings[block] @ embeddings.T
        scores[np.arange(len(block)), block] = -np.inf  # a query is not its own neighbour
        neighbours[block] = [similarity.nearest(row, metrics.K) for row in scores]
    types, genders, colours = (sample.codes[field] for field in JUDGED)
    both = metrics.hits(neighbours, types) & metrics.hits(neighbours, genders)
    figures = {
        "articleType_at_10": metrics.share_of_hits(neighbours, types, sample.asked),
        "both_at_10": 100 * float(both[sample.asked].mean()),
        "colour_at_10": metrics.share_of_hits(neighbours, colours, sample.asked),
    }
    return {f"{name}_{figure}": _plain(value) for figure, value in figures.items()}


def _subcategory_accuracy(features: Features, sample: Sample) -> float | None:
    """Percentage of the test side whose subCategory a classifier says that was trained on the training side."""
    names = [str(name) for name in sample.attributes["subCategory"]]
    targets = classifier.make_targets(names, {})
    inputs, stages = features.beside(classifier.COLUMNS), features.average.shape[1]
    fitted = classifier.fit(inputs, targets, sample.sides, SEED, stages=stages)
    test = sample.sides == split.TEST
    predicted = classifier.predict(fitted.model, inputs[test]).argmax(axis=1)
    return _plain(100 * float((predicted == targets.classes[test]).mean()))


def _plain(value: float) -> float | None:
    """A figure as JSON has it, which knows no NaN."""
    return None if math.isnan(value) else round(value, 2)


# What comes out -------------------------------------------------------------------------------------------------------


def describe(run: Run, sample: Sample, rows: list[Row]) -> Comparison:
    """The comparison so far, with what its figures depend on."""
    return Comparison(run.name, len(sample.hashes), int(sample.asked.sum()), _device(), run.settings.precision, rows)


def _device() -> str:
    """What computes: the accelerators that Keras sees, or the threads of the processor."""
    import keras

    seen = [name for name in keras.distribution.list_devices() if not name.lower().startswith("cpu")]
    return ", ".join(seen) or f"{_threads()} CPU threads"


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def write(comparison: Comparison, folder: Path) -> None:
    """Write `backbones.json`, `.csv` and, once something is measured, `.png`; each replaces the one before whole."""
    lines = [{"backbone": row.backbone, "weights": row.weights, "missing": row.missing, **row.figures}
             for row in comparison.rows]  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    files = {"json": json.dumps(asdict(comparison), indent=1).encode(), "csv": out.getvalue().encode()}
    if any(row.figures for row in comparison.rows):
        files["png"] = plot(comparison)
    for kind, content in files.items():
        temporary = folder / f".backbones.{kind}.tmp"
        temporary.write_bytes(content)
        temporary.replace(folder / f"backbones.{kind}")


COLUMNS = {
    "input": lambda f: f"{f['height']}×{f['width']}",
    "features": lambda f: f"{f['dimensions']:,}",
    "parameters\nM": lambda f: f"{f['parameters_millions']:.1f}",
    "weights\nMB": lambda f: f"{f['megabytes']:.0f}",
    "images/s\n": lambda f: f"{f['images_per_s']:.1f}",
    "both\n%": lambda f: _percent(f["untrained_both_at_10"]),
    "both,\ntrained %": lambda f: _percent(f["trained_both_at_10"]),
    "colour\n%": lambda f: _percent(f["untrained_colour_at_10"]),
    "colour,\ntrained %": lambda f: _percent(f["trained_colour_at_10"]),
    "sub-\nCategory %": lambda f: _percent(f["trained_subCategory"]),
}
"""Columns of the table: heading → its text from the figures of a row."""
WIDTH = 120
"""Characters that the table takes; a narrower terminal breaks its lines, which is better than its figures."""


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def table(comparison: Comparison) -> Table:
    """The rows as a person reads them; a backbone that was not measured has dashes."""
    shown = Table("backbone\n", box=None, pad_edge=False, header_style="bold")
    for heading in COLUMNS:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        name = re.sub("@[0-9x]+", "", row.backbone)
        if row.figures:
            shown.add_row(name, *(text(row.figures) for text in COLUMNS.values()))
        else:
            shown.add_row(name, *("–" for _ in COLUMNS), style="dim")
    return shown


def plot(comparison: Comparison) -> bytes:
    """PNG: the share of right neighbours against images a second; a marker's area shows the parameters."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    measured = [row for row in comparison.rows if row.figures]
    speeds = [float(row.figures["images_per_s"] or 0) for row in measured]
    areas = [20 + 8 * float(row.figures["parameters_millions"] or 0) for row in measured]
    with mpl.rc_context(charts.STYLE):
        figure = Figure((7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for name, colour in zip(("untrained", "trained"), charts.COLOURS, strict=False):
            values = [float(row.figures[f"{name}_both_at_10"] or 0) for row in measured]
            axes.scatter(speeds, values, areas, color=colour, alpha=0.75, label=name)
        for row, speed in zip(measured, speeds, strict=True):
            place = (speed, float(row.figures["trained_both_at_10"] or 0))
            axes.annotate(  # upright, so that names at close speeds stay legible
                row.backbone, place, (0, -8), textcoords="offset points", rotation=90, ha="center", va="top", fontsize=7
            )
        if max(speeds) > 10 * min(speeds):
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, 1.3 * max(speeds))
        axes.margins(x=0.2, y=0.25)
        axes.set_xlabel(f"images/s on {comparison.device} (area: parameters)")
        axes.set_ylabel("of the ten nearest, % right in articleType and gender")
        axes.grid(alpha=0.3, color=charts.GREY, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
