"""Images → features in the lake, by the backbone that the settings ask for or one tuned from it (Spark).

What the steps share that embed images: embed for a refresh, train_embedding for a challenger. Tasks write parts, which
the driver appends as they come, so a killed or repeated task leaves nothing behind that a reader sees, and a killed
step what is committed; an image that has features of a model is never embedded with it again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import spark as engine
from infra.allocator import keep_freed_memory
from infra.errors import StaleError, UserError
from infra.lake import Lake, Part, Table, filesystem
from infra.settings import Settings
from infra.telemetry import Progress
from jobs.features import to_lists
from jobs.run import Run
from jobs.stored import CURRENT, images_table
from ml import backbones, features, images

SCHEMA = pa.schema(
    [
        ("image_sha256", pa.string()),
        ("model", pa.string()),
        ("average", pa.list_(pa.float32())),
        ("maximum", pa.list_(pa.float32())),
        ("stages", pa.list_(pa.float32())),
    ]
)

NONE = "none"
"""In place of a weights file: a backbone that has the weights of a champion, trained from random ones, and no other."""
OFFLINE = "efficientnet-lite0"
"""A backbone whose ImageNet weights come in a package."""
COMMIT_S, COMMIT_SHARE = 30, 0.05
"""A commit is due when the last is so many seconds past, and this share of the time so far: that much, a killed step
loses, and twelve hours make some hundred commits."""
UNKNOWN = {"imagenet": "not known before Keras downloads them", NONE: "none, as they are those of a champion"}
"""What is said of the SHA-256 of weights that are in no file."""
TRIES = 10
"""Of a commit, when other writers keep coming first: it takes a second, and each of them comes once in `COMMIT_S`."""
SECONDS = ("load_s", "read_s", "decode_wait_s", "inference_s", "write_s")
"""Where the workers' time goes, in their figures and summed up."""


@dataclass(frozen=True)
class Model:
    """A backbone: what a worker needs to build it, and the fingerprint that its features are kept under.

    `tuned` is the SHA-256 of the weights that take the place of `weights`, or empty, and `detail` the most height and
    width of an image that it looks at. `base` is the fingerprint without both.
    """

    name: str
    weights: str
    weights_sha256: str
    height: int
    width: int
    precision: str
    tuned: str = ""
    detail: tuple[int, int] | None = None

    @property
    def base(self) -> str:
        """Fingerprint of the backbone as the settings have it."""
        return replace(self, tuned="", detail=None).fingerprint

    @property
    def fingerprint(self) -> str:
        """Fingerprint of what its features follow from."""
        return backbones.fingerprint(
            self.name, self.weights_sha256, self.height, self.width, self.precision, self.tuned, self.detail
        )


@dataclass(frozen=True)
class Extracted:
    """The features table that holds every image asked for, how many were new, and figures of how they came there."""

    table: Table
    new: int
    files: int = 0
    figures: dict[str, object] = field(default_factory=dict)


def extract(run: Run, model: Model, asked: pa.Array | None = None) -> Extracted:
    """Give every image of the run's products a row of features of a model, or those asked for, by SHA-256.

    Raises:
        UserError: an image is not stored, the weights do not fit, or an image's features are NaN or infinite.
        StaleError: other writers came first again and again.
    """
    table = run.lake.table("features")
    wanted = asked
    if wanted is None:
        wanted = images_of(run)
    pending = pc.filter(wanted, pc.invert(pc.is_in(wanted, value_set=_embedded(table, model.fingerprint))))
    if not len(pending):
        return Extracted(table, 0)
    files = _files_of(run, pending)
    if model.weights != packaged_weights(model.name):
        engine.take_gpu()
        build(run.lake, model)  # before Spark starts, and where Keras downloads the weights, once for all workers
    started = perf_counter()
    spark = engine.context("embed", run.settings.spark)
    try:
        broadcast = spark.broadcast(files)
        uri = run.lake.uri

        def work(part: str) -> Iterator[engine.Written]:
            yield embed_file(Lake(uri), part, broadcast.value[part], model)

        table, written = _commit_all(run, model, table, engine.map_to_parts(spark, list(files), work), len(pending))
    finally:
        spark.stop()
    figures: dict[str, object] = {key: round(sum(of_task[key] for _, of_task in written), 1) for key in SECONDS}
    figures["images_per_s"] = round(len(pending) / (perf_counter() - started), 1)
    return Extracted(table, len(pending), len(written), figures)


def images_of(run: Run) -> pa.Array:
    """The images of the run's products, by SHA-256, each once."""
    if not run.layout.image:
        return pc.unique(run.products(["image_sha256"])["image_sha256"])
    return pc.unique(run.attributes(["images"])["images"].combine_chunks().flatten())


def _embedded(table: Table, fingerprint: str) -> pa.Array:
    if table.version < 0:
        return pa.array([], pa.string())
    return table.read(["image_sha256"], [("model", "=", fingerprint)])["image_sha256"].combine_chunks()


def _files_of(run: Run, pending: pa.Array) -> dict[str, pa.Array]:
    """Committed files of the images table that hold a pending image → the SHA-256 of those in it.

    Raises:
        UserError: one is not stored.
    """
    table, missing, files = images_table(run), set(pending.to_pylist()), {}
    for name in table.parts:
        stored = table.read_part(name, ["image_sha256"], CURRENT)["image_sha256"].to_pylist()
        held = [sha for sha in stored if sha in missing]
        if held:
            files[name] = pa.array(held, pa.string())
            missing.difference_update(held)
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(pending)} images to embed are not stored, such as image {min(missing)}",
            where=f"{run.lake.uri}/images, version {table.version}",
            remedy=f"run `lookalike step catalog --run {run.name}`, which stores the images of the run's products",
        )
    return files


def _commit_all(
    run: Run, model: Model, table: Table, finished: Iterable[list[engine.Written]], total: int
) -> tuple[Table, list[engine.Written]]:
    """Append to the features, as they come, what tasks wrote of `total` images; returns the table that holds it all."""
    progress, written, waiting = Progress("images", total), list[engine.Written](), list[Part]()
    started = committed = perf_counter()
    for news in finished:
        written += news
        waiting += [part for part, _ in news]
        progress.add(sum(part.rows for part, _ in news))
        now = perf_counter()
        if now - committed >= max(COMMIT_S, COMMIT_SHARE * (now - started)):
            table, waiting, committed = append(run, model, table, waiting), [], now
    return append(run, model, table, waiting), written


def append(run: Run, model: Model, table: Table, parts: list[Part]) -> Table:
    """Append parts of features of a model; returns the version of the table that holds them.

    Where another writer came first, what it did not bring is appended to what it left.

    Args:
        run: for whoever reads the log.
        model: the features'.
        table: the version that holds no image of `parts`.
        parts: written to the lake.

    Raises:
        StaleError: other writers came first, `TRIES` times.
    """
    for _ in range(TRIES):
        # Features of an earlier release had other columns. No model of this one made them, and older runs, which look
        # at the table as it was for them, keep them.
        mode = "append" if _fits(table) else "rewrite"
        try:
            return table.commit(parts, SCHEMA, run=run.name, mode=mode)
        except StaleError as error:
            stale = error
        newest = run.lake.table("features")
        if _fits(newest):
            parts = _not_brought(parts, table, newest, model)
        table = newest
    raise stale


def _fits(table: Table) -> bool:
    return table.version < 0 or table.schema.names == SCHEMA.names


def _not_brought(parts: list[Part], table: Table, newest: Table, model: Model) -> list[Part]:
    """What of `parts` no other writer brought since `table`; those it brought in part are written anew, without."""
    news = set(newest.parts) - set(table.parts)
    of_model = [("model", "=", model.fingerprint)]
    brought = pa.concat_tables(
        [SCHEMA.empty_table().select(["image_sha256"])]
        + [newest.read_part(name, ["image_sha256"], of_model) for name in sorted(news)]
    )["image_sha256"]
    left = []
    for part in parts:
        still_new = pc.invert(
            pc.is_in(newest.read_part(part.path, ["image_sha256"])["image_sha256"], value_set=brought)
        )
        if pc.all(still_new).as_py():
            left.append(part)
        elif pc.any(still_new).as_py():
            rows = newest.read_part(part.path).filter(still_new).cast(SCHEMA)
            left.append(newest.lake.write_part("features", rows))
    return left


def embed_file(lake: Lake, part: str, pending: pa.Array, model: Model) -> engine.Written:
    """Worker: read one file of images, decode ahead while the backbone works, write one part of features.

    Raises:
        UserError: the weights or the features are NaN or infinite; nothing is written.
    """
    began = perf_counter()
    extractor = _extractor(lake.uri, model)
    started = perf_counter()
    load_s = started - began
    rows = lake.table("images").read_part(part, ["image_sha256", "bytes"], CURRENT)
    rows = rows.filter(pc.is_in(rows["image_sha256"], value_set=pending))
    seconds = {"load_s": load_s, "read_s": perf_counter() - started, "decode_wait_s": 0.0, "inference_s": 0.0}
    batches_of_features = []
    with ThreadPoolExecutor(1) as pool:  # one batch ahead: the next is decoded while this one is embedded
        batches = [rows["bytes"].slice(at, features.BATCH) for at in range(0, len(rows), features.BATCH)]
        ahead = pool.submit(_decode, batches[0], model)
        for following in [*batches[1:], None]:
            started = perf_counter()
            batch = ahead.result()
            seconds["decode_wait_s"] += perf_counter() - started
            if following is not None:
                ahead = pool.submit(_decode, following, model)
            started = perf_counter()
            batches_of_features.append(extractor(batch))
            seconds["inference_s"] += perf_counter() - started
    columns = [np.concatenate(batches) for batches in zip(*batches_of_features, strict=True)]
    finite = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in columns])
    if not finite.all():
        raise _not_finite(
            f"{np.count_nonzero(~finite):,} of the {len(rows):,} images in {part} have features that are NaN or "
            f"infinite, such as image {rows['image_sha256'][int(finite.argmin())]}",
            lake,
            model,
        )
    lists = [to_lists(values) for values in columns]
    out = pa.table([rows["image_sha256"], pa.repeat(model.fingerprint, len(rows)), *lists], schema=SCHEMA)
    started = perf_counter()
    written = lake.write_part("features", out)
    return written, seconds | {"write_s": perf_counter() - started}


def _not_finite(problem: str, lake: Lake, model: Model) -> UserError:
    weights = model.weights
    remedy = "set LOOKALIKE_WEIGHTS and LOOKALIKE_PRECISION to what gives finite features, or unset them,"
    if model.tuned:
        weights = lake.path(f"backbones/{model.tuned}.npz")
        remedy = "go back to an embedder without these weights by `lookalike champion --use`"
    return UserError(
        f"gate finite: {problem}; nothing of it is committed, and the live run serves on",
        where=f"{model.name}, {model.height} × {model.width} pixels, {model.precision}, weights {weights}",
        remedy=f"{remedy} and run the step again",
    )


@lru_cache(maxsize=1)
def _extractor(lake: str, model: Model) -> features.Extractor:
    """Made once a worker process, which Spark keeps from task to task, for the GPU or the cores that its tasks get."""
    engine.take_gpu()
    keep_freed_memory()
    features.start(threads=engine.task_threads())
    return features.Extractor(build(Lake(lake), model))


def build(lake: Lake, model: Model):  # type: ignore[no-untyped-def]  # → keras.Model
    """The backbone itself, with every one of its weights.

    Raises:
        UserError: the weights are not those of this backbone, are NaN or infinite, cannot be read, or cannot be
            downloaded; or it has none.
    """
    if model.weights == NONE and not model.tuned:
        raise _not_trained(lake, model)
    built = _network(model)
    if model.tuned:
        backbones.set_weights(built, read_tuned(lake, model.tuned))
    # Looked at here, since a network may hide them: ReLU6 makes a number of NaN.
    arrays = zip(built.weights, built.get_weights(), strict=True)  # type: ignore[attr-defined]  # keras.Model
    if bad := [weight.path for weight, array in arrays if not np.isfinite(array).all()]:
        raise _not_finite(f"{len(bad)} arrays of weights hold NaN or infinite values, such as {bad[0]}", lake, model)
    return built


def draw(model: Model, seed: int):  # type: ignore[no-untyped-def]  # → keras.Model
    """The backbone with weights drawn at random, which a training begins with.

    Raises:
        UserError: it cannot be built for such images.
    """
    engine.take_gpu()
    import keras

    keras.utils.set_random_seed(seed)
    return _network(replace(model, weights=NONE, tuned=""))


def _network(model: Model):  # type: ignore[no-untyped-def]  # → keras.Model
    """The backbone without what was tuned."""
    data, size = read_weights(model.weights), f"{model.height} × {model.width} pixels"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*freshly-initialized weights")  # Keras would leave some to chance
            return backbones.BACKBONES[model.name].build(data, model.height, model.width, model.precision)
    except Exception as error:  # a bare one where Keras cannot download, and many kinds where a file does not fit
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if model.weights == NONE:
            problem, remedy = f"cannot be built: {said}", "set LOOKALIKE_INPUT_HEIGHT and LOOKALIKE_INPUT_WIDTH to more"
            raise UserError(problem, where=f"{model.name}, {size}", remedy=remedy) from error
        raise UserError(
            f"{model.weights} does not fit: {said}" if data else f"not to be had through Keras: {said}",
            where=f"the weights of {model.name}, {size}",
            remedy=f"give a file as docs/backbones.md says, or choose {OFFLINE}, whose weights come in a package",
        ) from error


def _not_trained(lake: Lake, model: Model) -> UserError:
    asked = f"LOOKALIKE_EMBEDDING_BACKBONE={model.name} {size_settings(model)}"
    size = f"{model.height} × {model.width} pixels"
    return UserError(
        f"LOOKALIKE_WEIGHTS=none asks for {model.name}, {size}, {model.precision}, trained from scratch, and no such "
        "champion is there",
        where=f"LOOKALIKE_BACKBONE, LOOKALIKE_WEIGHTS, {lake.path('embedders')}",
        remedy=f"train one by `LOOKALIKE_EMBEDDING=scratch {asked} lookalike step train_embedding --run latest`, use "
        "one that was no better by `lookalike champion --use`, or unset LOOKALIKE_WEIGHTS",
    )


def size_settings(model: Model) -> str:
    """The settings that a model's input size follows from, as a shell takes them."""
    return f"LOOKALIKE_INPUT_HEIGHT={model.height} LOOKALIKE_INPUT_WIDTH={model.width}"


def write_tuned(lake: Lake, data: bytes) -> str:
    """Keep tuned weights in the lake; returns their SHA-256 (hex)."""
    sha256 = hashlib.sha256(data).hexdigest()
    lake.write_bytes(f"backbones/{sha256}.npz", data)
    return sha256


def read_tuned(lake: Lake, sha256: str) -> bytes:
    """The tuned weights with this SHA-256.

    Raises:
        UserError: the file holds others.
    """
    data = lake.read_bytes(f"backbones/{sha256}.npz")
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise UserError(
            f"the tuned weights have SHA-256 {actual}",
            where=lake.path(f"backbones/{sha256}.npz"),
            remedy="restore the file from a backup, or go back to another embedder by `lookalike champion --use`",
        )
    return data


def _decode(batch: pa.ChunkedArray, model: Model) -> np.ndarray:
    return np.stack([images.load(data, model.height, model.width, model.detail) for data in batch.to_pylist()])


def choose_model(settings: Settings, of: str = "") -> Model:
    """The model that the settings ask for, with its weights found and checked.

    Args:
        settings: of the run.
        of: what the names of the settings begin with: nothing for the embedding's, `classifier_` for the classifier's.

    Raises:
        UserError: an unknown backbone, weights that are not there, or weights with another SHA-256 than asked for.
    """
    name, asked, sha256 = (getattr(settings, f"{of}{setting}") for setting in ("backbone", "weights", "weights_sha256"))
    if of and asked == NONE:
        raise UserError(
            "a classifier learns the last layers of a backbone that has weights",
            where=f"LOOKALIKE_{of.upper()}WEIGHTS={NONE}",
            remedy=f"set LOOKALIKE_{of.upper()}WEIGHTS to a file or URI, or to imagenet where a download is possible",
        )
    return _model(settings, name, asked, sha256, f"LOOKALIKE_{of.upper()}")


def choose_drawn(settings: Settings) -> Model:
    """The model that the settings ask to train from scratch; as nights have it by `LOOKALIKE_WEIGHTS=none`.

    Raises:
        UserError: an unknown backbone.
    """
    return _model(settings, settings.embedding_backbone, NONE, "", "LOOKALIKE_EMBEDDING_")


def _model(settings: Settings, name: str, asked: str, sha256: str, variable: str) -> Model:
    """Of this name, with the weights that were asked for, if they have this SHA-256; `variable` begins the settings."""
    backbone = backbones.BACKBONES.get(name)
    if backbone is None:
        raise UserError(
            f"there is no backbone {name!r}",
            where=f"{variable}BACKBONE",
            remedy=f"choose one of {', '.join(backbones.BACKBONES)}",
        )
    weights = _find_weights(name, asked, f"{variable}WEIGHTS")
    data = read_weights(weights)
    actual = hashlib.sha256(data).hexdigest() if data else weights
    if sha256 and actual != sha256.lower():
        raise UserError(
            f"the weights of {name} have SHA-256 {actual if data else UNKNOWN[weights]}, expected {sha256}",
            where=f"{variable}WEIGHTS, {variable}WEIGHTS_SHA256",
            remedy=f"set {variable}WEIGHTS to the file that was meant, or correct or unset the SHA-256",
        )
    height, width = settings.input_height or backbone.height, settings.input_width or backbone.width
    return Model(name, weights, actual, height, width, settings.precision)


def _find_weights(backbone: str, asked: str, variable: str) -> str:
    """`imagenet`, `NONE`, or the URI of a weights file."""
    if asked == NONE:
        return asked
    if asked not in ("package", "imagenet"):
        return asked if "://" in asked else Path(asked).resolve().as_uri()
    uri = packaged_weights(backbone)
    if not uri and (asked == "package" or backbones.BACKBONES[backbone].package):
        raise UserError(
            f"no installed package holds weights for {backbone}",
            where=f"{variable}={asked}",
            remedy=f"set {variable} to a file or URI, or to imagenet where a download is possible",
        )
    return uri or "imagenet"


def packaged_weights(backbone: str) -> str:
    """URI of the ImageNet weights of a backbone in an installed package; empty without one."""
    package, _, file = backbones.BACKBONES[backbone].package.partition("/")
    spec = importlib.util.find_spec(package) if package else None
    return (Path(spec.origin).parent / file).as_uri() if spec and spec.origin else ""


def read_weights(uri: str) -> bytes | None:
    """Content of a weights file; None where Keras downloads it, `DRAWN` where there is none."""
    if uri == "imagenet":
        return None
    if uri == NONE:
        return backbones.DRAWN
    files, path = filesystem(uri)
    try:
        with files.open_input_file(path) as stream:
            return stream.read()
    except OSError as error:
        raise UserError(
            f"the weights file cannot be read: {error}", where=uri, remedy="give a file that exists, or `imagenet`"
        ) from None
