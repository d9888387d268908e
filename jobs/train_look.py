"""train_look: labelled photos → a new detector of articles, champion if it beats the one in use.

Reads the photos that `LOOKALIKE_LOOK_DATASET` names (`jobs.labelled_photos`); trains a challenger on their training
side, judges it and the champion on the validation side, and writes it as `detectors/<sha256>.npz` with a row that says
how both did. The same photos are not learnt from again; a killed training goes on from its last epoch. Without photos
there is nothing to do: the detector that ships with the release serves, if one does.
"""

from __future__ import annotations

if __name__ == "__main__":  # before pyarrow starts a thread
    from infra.allocator import share_one_arena

    share_one_arena()

import hashlib
import json

import numpy as np
import structlog

from infra.allocator import keep_freed_memory
from infra.telemetry import Progress
from jobs import detectors, labelled_photos, step, training
from jobs.champion import append_row
from jobs.detectors import DETECTORS
from jobs.labelled_photos import SETTING, Dataset
from jobs.run import Run, StepResult, content_hash, recorded, release
from ml import average_precision, split
from ml.articles import CLASSES, Labels

CODE_VERSION = 1
SEED = 0
BATCH = 16
"""Photos looked at together while a detector is judged."""


def train_look(run: Run) -> StepResult:
    """Train a challenger and promote it if it is better than the champion."""
    settings = run.settings
    if not settings.look_dataset:
        serving = "the detector that ships with the release serves" if detectors.shipped() else "no detector is trained"
        reason = f"{SETTING} names no labelled photos: {serving}"
        return StepResult(figures={"promoted": False, "reason": reason})
    dataset, target = labelled_photos.read(settings.look_dataset), run.lake.table("detectors")
    fingerprint = content_hash(CODE_VERSION, dataset.content, dataset.sides.tolist(), settings.look_epochs)
    if done := run.done("train_look", fingerprint, {"detectors": target}):
        return done
    keep_freed_memory()
    with training.checkpoints(settings, f"train_look-{fingerprint}") as checkpoints:
        model, history = _fit(dataset, settings.look_epochs, checkpoints)
        judged = {"challenger": figures_of(model, dataset, split.VALIDATION)}
        if champion := detectors.champion(run.lake):
            judged["champion"] = figures_of(detectors.read(run.lake, champion), dataset, split.VALIDATION)
        judged["held_back"] = figures_of(model, dataset, split.TEST)
        result = _write(run, fingerprint, dataset, model, history, judged)
        return run.remember("train_look", fingerprint, result)


def _fit(dataset: Dataset, epochs: int, checkpoints):  # type: ignore[no-untyped-def]  # Checkpoints → keras.Model, …
    from ml import article_network as network
    from ml import article_training
    from ml.article_training import Options

    progress, log = Progress("epochs", epochs), structlog.get_logger()

    def on_epoch(history: dict[str, list[float]]) -> None:
        last = {name: round(values[-1], 4) for name, values in history.items() if not np.isnan(values[-1])}
        log.info("epoch", number=len(history["loss"]), **last)
        progress.reach(len(history["loss"]))

    return article_training.fit(
        detectors.build_backbone(network.BACKBONE, network.HEIGHT, network.WIDTH),
        dataset.photos,
        np.flatnonzero(dataset.sides == split.TRAIN),
        Options(epochs, SEED),
        checkpoints,
        lambda model: {name: value for name, (value, *_) in figures_of(model, dataset, split.VALIDATION).items()},
        on_epoch,
    )


def figures_of(model, dataset: Dataset, side: int) -> dict[str, tuple[float, float, float]]:  # type: ignore[no-untyped-def]  # keras.Model
    """How well a detector finds the articles of the photos of a side: average precision at half overlap, 0 to 1.

    `map50` is the mean over the classes, `ap50_<class>` that of one; with `_<source>` behind, of the photos of a source
    alone. Each comes with the ends of its 95 % interval. What has no labels is left out.
    """
    from ml import article_network as network

    chosen, found = np.flatnonzero(dataset.sides == side), []
    for at in range(0, len(chosen), BATCH):
        found += network.find([model], [dataset.photos.load(photo) for photo in chosen[at : at + BATCH].tolist()])
    labels: list[Labels] = [dataset.photos.labels[photo] for photo in chosen.tolist()]
    sources = dataset.sources[chosen]
    parts = {"": range(len(chosen))} | {f"_{name}": np.flatnonzero(sources == name) for name in {*sources} - {""}}
    figures = dict[str, tuple[float, float, float]]()
    for suffix, part in sorted(parts.items()):
        judged = average_precision.judge([found[at] for at in part], [labels[at] for at in part])
        figures[f"map50{suffix}"] = (judged.mean, *judged.interval)
        for name, value, interval in zip(CLASSES, judged.classes, judged.intervals, strict=True):
            figures[f"ap50_{name}{suffix}"] = (float(value), float(interval[0]), float(interval[1]))
    return {name: values for name, values in figures.items() if not np.isnan(values[0])}


def _write(  # type: ignore[no-untyped-def]  # keras.Model
    run: Run, fingerprint: str, dataset: Dataset, model, history: dict[str, list[float]], judged: dict[str, dict]
) -> StepResult:
    from ml import article_network

    data = article_network.to_bytes(model)
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"detectors/{sha256}.npz"
    run.lake.write_bytes(file, data)
    promoted, reason = verdict(judged)
    row = {
        "sha256": sha256,
        "file": file,
        "run": run.name,
        "photos": dataset.content,
        "judged": json.dumps(judged),
        "history": json.dumps(history),
        "promoted": promoted,
        "training": fingerprint,
        "release": release(),
        "settings": json.dumps(recorded(run.settings), sort_keys=True),
        "reason": reason,
    }
    version = append_row(run.lake, row, "detectors", DETECTORS).version
    figures: dict[str, object] = {
        f"{who}_{name}": round(values[0], 4)
        for who, said in judged.items()
        for name, values in said.items()
        if name.startswith("map50")
    }
    figures |= {"promoted": promoted, "reason": reason, "detector": sha256, "bytes": len(data)}
    return StepResult(1, files=1, tables={"detectors": version}, figures=figures)


def verdict(judged: dict[str, dict]) -> tuple[bool, str]:
    """Whether the challenger is better than the champion, and why it is promoted or not."""
    if "champion" not in judged:
        return True, "there was none"
    ours, theirs = (judged[who].get("map50", (0.0,))[0] for who in ("challenger", "champion"))
    if ours > theirs:
        return True, "it is better"
    return False, f"map50 is {ours:.3f} on the validation side, and the champion's {theirs:.3f}"


if __name__ == "__main__":
    raise SystemExit(step.main("train_look"))
