"""train_embedding: features + products → a new embedder, champion if it beats the one in use.

Reads the run's products and features; trains a challenger on the training side of the images, judges it and what the
night goes by (`jobs.judging.settle`) on the validation side, and writes the challenger as `embedders/<sha256>.npz` with
a row that says what it learnt from and how both did. The newest promoted row of the run's model is the champion, which
the next refresh uses where it is better than nothing; a backbone that learnt from scratch is a model of its own, whose
champion those nights use that are told to. The same products and model are not trained on again; a training that was
killed after its row was written ends by that row.
"""

from __future__ import annotations

if __name__ == "__main__":  # before pyarrow starts a thread
    from infra.allocator import share_one_arena

    share_one_arena()

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.allocator import keep_freed_memory
from infra.errors import UserError
from infra.settings import Settings
from infra.telemetry import Progress
from jobs import extraction, judging, step, training
from jobs.champion import Champion, append_row, find_champion, read_embedder, read_rows
from jobs.extraction import Model
from jobs.features import read_all_features, read_embeddings
from jobs.run import LATEST, Run, StepResult, content_hash, first_values, recorded, release
from jobs.stored import detail_of, iter_images
from ml import backbones, embedding, images, split
from ml.embedding import Embedder
from ml.features import BATCH, Extractor, Features
from ml.likenesses import liken

if TYPE_CHECKING:
    from ml.finetune import Checkpoints, Options, Samples
    from ml.triplet import Likenesses

CODE_VERSION = 8
SEED = 0
LIKENESSES = 6_000
"""Most images of which triplets hold a likeness, too."""
ATTRIBUTES = tuple(embedding.LOSSES)
EPOCHS = {"finetune": 11, "scratch": 30}
"""Most epochs on images, where the settings do not say."""


@dataclass(frozen=True)
class Challenger:
    """A trained embedder, the fingerprint of the backbone that it takes features of, what tuned that, and histories."""

    embedder: Embedder
    model: str
    tuned: str
    history: dict[str, dict[str, list[float]]]


def train_embedding(run: Run) -> StepResult:
    """Train a challenger and promote it if it is better than what the night goes by."""
    _check_catalogue(run)
    if unjudged := judging.why_unjudged(run.layout):
        return StepResult(figures={"promoted": False, "reason": unjudged})
    settings, embedded = run.settings, run.result("embed").figures
    drawn = settings.embedding == "scratch"
    base = extraction.choose_drawn(settings) if drawn else extraction.choose_model(settings)
    if embedded["base"] != base.fingerprint and not drawn:
        raise UserError(
            f"run {run.name} was embedded with {embedded.get('backbone', 'another backbone')}, or with other weights "
            f"or another size than the settings have now: {base.name}, {base.height} × {base.width} pixels",
            where="LOOKALIKE_BACKBONE, _WEIGHTS, _INPUT_HEIGHT, _INPUT_WIDTH, _PRECISION",
            remedy="refresh with these settings and train then, or set them as they were",
        )
    champion, target = find_champion(run.lake, base.fingerprint), run.lake.table("embedders")
    versions = [CODE_VERSION, embedding.LAYOUT, asdict(embedding.RECIPE)]
    unknown = [name for name in ATTRIBUTES if not run.layout.column(name)]
    fingerprint = content_hash(
        *(versions, run.content("products"), _how(settings, str(embedded["model"]), base, champion)),
        *([unknown] if unknown else []),  # a mapping may make them fields, of the same products
        *([fields] if (fields := run.layout.labels) else []),
    )
    if done := run.done("train_embedding", fingerprint, {"embedders": target}):
        return done
    if row := _killed(run):
        return run.remember("train_embedding", row["training"], _result(row, target.version))
    rows = run.products(["image_sha256", "picture"])
    sides = split.sides_of(rows["picture"])
    if not {split.TRAIN, split.VALIDATION} <= set(sides.tolist()):
        raise UserError(
            f"{len(rows)} products are too few to train an embedding on: some must be left to judge it with",
            where=f"run {run.name}",
            remedy="train on a larger catalogue; until then similarity is that of the untrained features",
        )
    if settings.embedding == "triplet":
        _check_kinds(run, sides)
    # Kept until the row is committed: a training that is killed while it is judged need not begin anew.
    with training.checkpoints(settings, f"train_embedding-{fingerprint}") as checkpoints:
        rival = _rival(run, champion, base)
        if drawn:
            challenger = learn_anew(run, rows, sides, base, checkpoints)
        elif settings.embedding == "finetune":
            origin = read_embedder(run, rival.embedder)
            challenger = tune(run, rows, sides, replace(base, tuned=rival.tuned), origin, checkpoints)
        else:
            model = replace(base, tuned=str(embedded["tuned"]))
            extraction.extract(run, model)  # where the night has looked at less, for another's embedder
            embedder, history = fit(run, rows, sides, model.fingerprint, read_embedder(run))
            challenger = Challenger(embedder, model.fingerprint, model.tuned, {"head": history})
            if settings.embedding == "triplet":
                challenger = learn_triplets(run, rows, sides, model, challenger)
        judged = _judge(run, sides == split.VALIDATION, challenger, rival, base)
        return run.remember("train_embedding", fingerprint, _write(run, fingerprint, base, challenger, judged))


def _check_catalogue(run: Run) -> None:
    """Check that the lake holds the catalogue that is live, where none was named.

    Raises:
        UserError: it holds another under the live run's name.
    """
    if run.manifest and run.table("products").content != run.content("products"):
        raise UserError(
            f"run {run.name}, which is live in the store, was made of another catalogue than the lake's run {run.name}",
            where=f"LOOKALIKE_LAKE={run.lake.uri}, LOOKALIKE_STORE",
            remedy="set both to those of one installation, or name the run to learn from in place of "
            f"`{LATEST}`: `lookalike step train_embedding --run {run.name}`",
        )


def _check_kinds(run: Run, sides: np.ndarray) -> None:
    """Check that the catalogue has what triplets tell apart.

    Raises:
        UserError: it has no two kinds.
    """
    from ml import triplet

    kinds, _ = triplet.kinds_of(read_labels(run), sides == split.TRAIN)
    if (kinds == embedding.MISSING).all():
        raise UserError(
            f"no two of {int((sides == split.TRAIN).sum()):,} products to learn from are of one {triplet.WITHIN} and "
            f"differ in {', '.join(triplet.KIND)}: triplets need both",
            where=f"LOOKALIKE_EMBEDDING=triplet, run {run.name}",
            remedy="train with LOOKALIKE_EMBEDDING=head",
        )


def _how(settings: Settings, embedded: str, base: Model, champion: Champion) -> object:
    """What a training follows from beside the products; `embedded` is the fingerprint of the run's model."""
    match settings.embedding:
        case "head":
            return embedded
        case "triplet" as way:
            return [way, LIKENESSES, embedded]
        case "finetune":
            return [settings.embedding_convolutions, _epochs(settings), base.fingerprint, champion.tuned]
        case way:
            return [way, _epochs(settings), base.fingerprint]


def _epochs(settings: Settings) -> int:
    return settings.embedding_epochs or EPOCHS[settings.embedding]


def _rival(run: Run, champion: Champion, base: Model) -> Champion:
    """What the challenger has to beat: what the night goes by, or where that has no weights yet, what the run does."""
    if base.weights == extraction.NONE and not champion.tuned:
        embedded = run.result("embed").figures
        return Champion(str(embedded["embedder"]), str(embedded["model"]), str(embedded["tuned"]))
    return judging.settle(run, champion, base).champion


def _killed(run: Run) -> dict | None:
    """The row of a training of this run and these settings that was killed before it could store its result."""
    wanted = {"run": run.name, **_provenance(run)}
    trained = [row for row in read_rows(run.lake) if row["training"] and wanted.items() <= row.items()]
    row = trained[-1] if trained else None
    if row and run.lake.exists(f"runs/{run.name}/train_embedding.json"):
        return None if run.result("train_embedding").tables.get("embedders", -1) >= row["number"] else row
    return row


def _provenance(run: Run) -> dict[str, str]:
    settings = json.dumps(recorded(run.settings), sort_keys=True)
    return {"catalogue": run.content("products"), "release": release(), "settings": settings}


def _judge(
    run: Run, held_out: np.ndarray, challenger: Challenger, rival: Champion, base: Model
) -> dict[str, dict[str, float]]:
    """What `judging.judge` says of the challenger and of its rival, by images that neither has learnt."""
    rows = run.judged(["picture", *judging.KINDS])
    learnt_of = replace(base, tuned=challenger.tuned)
    extraction.extract(run, learnt_of)
    contenders = {
        "champion": (read_embedder(run, rival.embedder), _features_of(run, rival, base)),
        "challenger": (challenger.embedder, learnt_of.fingerprint),
    }
    asked = held_out
    for embedder, _ in contenders.values():
        asked = asked & ~np.isin(rows["picture"], embedder.learnt)
    return {
        who: judging.judge(read_embeddings(run, embedder, model, learnt=True), rows, asked)
        for who, (embedder, model) in contenders.items()
    }


def _features_of(run: Run, champion: Champion, base: Model) -> str:
    """The fingerprint of the features that a champion is applied to, which there are then of all images."""
    if champion.model == run.result("embed").figures["model"]:  # it may be of another base
        return champion.model
    model = judging.model_of(run, champion, base)
    extraction.extract(run, model)
    return model.fingerprint


def read_labels(run: Run) -> dict[str, list[str | None]]:
    """Label → its value for every product, in order: `ATTRIBUTES`, and as `field_0` … the catalogue's own fields.

    A field's name need not be fit for a layer of Keras; nothing of these labels is in the embedder.
    """
    rows, fields = run.products(ATTRIBUTES), first_values(run.attributes(run.layout.labels))
    labels = {name: rows[name].to_pylist() for name in ATTRIBUTES}
    return labels | {f"field_{at}": fields[name].to_pylist() for at, name in enumerate(run.layout.labels)}


def fit(
    run: Run, rows: pa.Table, sides: np.ndarray, model: str, origin: Embedder
) -> tuple[Embedder, dict[str, list[float]]]:
    """An embedder on the features of a model, and its history. It has learnt what `origin`, the model's, has."""
    features = read_all_features(run, model)
    embedder, history = embedding.fit(features, read_labels(run), sides, SEED, Progress("epochs", embedding.EPOCHS).add)
    learnt = np.union1d(rows["picture"].filter(sides == split.TRAIN), origin.learnt)
    detail = np.array(detail_of(run) or (0, 0), np.int32)
    return Embedder({**embedder.arrays, "learnt": learnt, "detail": detail}), history


def learn_triplets(run: Run, rows: pa.Table, sides: np.ndarray, model: Model, head: Challenger) -> Challenger:
    """Train the network of a head on by triplets of the train side's pictures and likenesses of them."""
    from ml import triplet

    likenesses, progress = make_likenesses(run, rows, sides, model), Progress("epochs", triplet.EPOCHS)
    features, labels = read_all_features(run, model.fingerprint), read_labels(run)
    embedder, histories = triplet.fit(head.embedder, features, likenesses, labels, sides, SEED, progress.add)
    return replace(head, embedder=embedder, history=head.history | histories)


def make_likenesses(run: Run, rows: pa.Table, sides: np.ndarray, model: Model) -> Likenesses:
    """Features of a likeness each of some images of the train side; which, follows from their SHA-256 alone.

    Raises:
        UserError: an image is not stored.
    """
    from ml.triplet import Likenesses

    hashes = np.array(rows["image_sha256"].to_pylist(), object)
    _, first = np.unique(hashes, return_index=True)
    chosen = split.choose(hashes, first[sides[first] == split.TRAIN], LIKENESSES)
    place = {hashes[row]: int(row) for row in chosen}
    progress, extractor = Progress("likenesses", len(place)), Extractor(extraction.build(run.lake, model))
    detail, made, of = model.detail or detail_of(run), list[Features](), list[int]()
    stored = iter_images(run, list(place))
    while batch := list(islice(stored, BATCH)):
        seen = [images.fit(_likeness(sha, data), model.height, model.width, detail) for sha, data in batch]
        made.append(extractor(np.stack(seen)))
        of += [place[sha] for sha, _ in batch]
        progress.add(len(batch))
    if missing := len(place) - len(of):
        raise UserError(
            f"{missing:,} of {len(place):,} images are not stored as this release stores them",
            where=f"{run.lake.uri}/images",
            remedy=f"run `lookalike step catalog --run {run.name}`",
        )
    order = np.argsort(of)  # in which files images are stored is not to matter
    return Likenesses(Features(*map(np.concatenate, zip(*made, strict=True))).take(order), np.array(of)[order])


def _likeness(sha256: str, data: bytes) -> Image.Image:
    """A likeness of a stored image, drawn by its SHA-256."""
    return liken(Image.fromarray(images.decode(data)), np.random.default_rng([SEED, int(sha256[:16], 16)]))


def tune(
    run: Run, rows: pa.Table, sides: np.ndarray, model: Model, origin: Embedder, checkpoints: Checkpoints
) -> Challenger:
    """Tune a backbone, embed all images with it, and train an embedder on those features.

    It goes on from the champion's weights, if those were tuned and the night goes by it: once a challenger is not
    promoted, the next one would begin where it did, and the step has nothing left to do until the products change.
    """
    keep_freed_memory()
    from ml import tuning

    extraction.extract(run, model)
    head, before = fit(run, rows, sides, model.fingerprint, origin)
    samples, sizes = _samples(run, rows, sides, model)
    options, backbone = _options(run.settings), extraction.build(run.lake, model)
    progress = Progress("epochs", options.epochs)
    history = tuning.fit(backbone, head, samples, sizes, sides, options, checkpoints, progress.reach)
    tuned = _keep(run, model, backbone)
    embedder, after = fit(run, rows, sides, tuned.fingerprint, origin)
    histories = {"head before tuning": before, "tuning": history, "head": after}
    return Challenger(embedder, tuned.fingerprint, tuned.tuned, histories)


def learn_anew(run: Run, rows: pa.Table, sides: np.ndarray, model: Model, checkpoints: Checkpoints) -> Challenger:
    """Train a backbone from random weights, embed all images with it, and train an embedder on those features."""
    keep_freed_memory()
    from ml import scratch

    samples, sizes = _samples(run, rows, sides, model)
    options, backbone = _options(run.settings), extraction.draw(model, SEED)
    progress = Progress("epochs", options.epochs)
    history = scratch.fit(backbone, samples, sizes, sides, options, checkpoints, progress.reach)
    learnt = _keep(run, model, backbone)
    embedder, after = fit(run, rows, sides, learnt.fingerprint, embedding.UNTRAINED)
    return Challenger(embedder, learnt.fingerprint, learnt.tuned, {"from scratch": history, "head": after})


def _samples(run: Run, rows: pa.Table, sides: np.ndarray, model: Model) -> tuple[Samples, dict[str, int]]:
    """The products' images, with what a network is to say of each; and how many classes each attribute has."""
    codes = embedding.encode_labels(read_labels(run), sides == split.TRAIN)
    sizes = {name: len(classes) for name, (classes, _) in codes.items() if classes}
    samples = training.samples(
        run,
        rows["image_sha256"],
        (model.height, model.width),
        lambda chosen: {name: embedding.one_hot(codes[name][1][chosen], size) for name, size in sizes.items()},
    )
    return samples, sizes


def _options(settings: Settings) -> Options:
    from ml.finetune import Options

    return Options(settings.embedding_convolutions, _epochs(settings), SEED)


def _keep(run: Run, model: Model, backbone) -> Model:  # type: ignore[no-untyped-def]  # keras.Model
    """The model that a backbone has become which has learnt, its weights stored and all images embedded with it."""
    learnt = replace(model, tuned=extraction.write_tuned(run.lake, backbones.to_bytes(backbone)))
    extraction.extract(run, learnt)
    return learnt


def _write(
    run: Run, fingerprint: str, base: Model, challenger: Challenger, judged: dict[str, dict[str, float]]
) -> StepResult:
    data = challenger.embedder.to_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"embedders/{sha256}.npz"
    run.lake.write_bytes(file, data)
    refused = judging.no_better(judged["challenger"], judged["champion"])
    better = "it is better"
    if run.settings.embedding == "scratch":
        sizes = extraction.size_settings(base)
        better = f"it is better, and used with LOOKALIKE_BACKBONE={base.name} LOOKALIKE_WEIGHTS=none {sizes}"
    row = {
        "sha256": sha256,
        "file": file,
        "base": base.fingerprint,
        "tuned": challenger.tuned,
        "model": challenger.model,
        "run": run.name,
        "judged": json.dumps(judged),
        "history": json.dumps(challenger.history),
        "promoted": not refused,
        "training": fingerprint,
        "reason": refused or better,
        **_provenance(run),
    }
    return _result(row, append_row(run.lake, row).version)


def _result(row: dict, version: int) -> StepResult:
    figures = judging.flat(json.loads(row["judged"]))
    figures |= {"promoted": row["promoted"], "reason": row["reason"], "embedder": row["sha256"], "tuned": row["tuned"]}
    return StepResult(1, files=2, tables={"embedders": version}, figures=figures)


if __name__ == "__main__":
    raise SystemExit(step.main("train_embedding"))
