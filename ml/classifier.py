"""The subCategory classifier: a network on features, or on images (`ml.finetune`), trained, measured and saved.

Its outputs are the subCategories' probabilities, and in the multi-label variant after them those of every gender and
masterCategory. `subcategory_probabilities` reads either variant on either input.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ml import memory
from ml.split import TRAIN, VALIDATION

COLUMNS = ("average", "stages")
"""Of `ml.features.Features`: what it learns on, side by side. The maximum besides adds nothing (see
benchmarks/RESULTS.md)."""
HIDDEN, DROPOUT, LABEL_SMOOTHING = 512, (0.2, 0.5), 0.05
EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 12, 2e-3, 1e-2
BATCHES = 64
"""Batches an epoch, as far as `BATCH_SIZES` lets them: small catalogues learn in as few epochs as large ones."""
BATCH_SIZES = (16, 512)
CLIP = 5.0
"""Standardised features are cut off at ± this many standard deviations."""
CONSTANT = 1e30
"""Variance that stands for that of a feature which never varied in training: it can then decide nothing."""
NORM_MOMENTUM = 0.9
"""Of the moving averages: small catalogues have too few batches for Keras' 0.99."""

PREDICTED_AT_ONCE = {2: 512, 4: 32}
"""Samples a call by the rank of the input: features (n, d), of which each is compared with all of the memory, or images
(n, h, w, 3)."""
CONFUSIONS = 20
_METADATA, _CONFIG = "metadata.json", "config.json"
_SHARED = re.compile(rb', "shared_object_id": \d+')
"""The address by which Keras notes that layers share a dtype policy; each loads as well with one of its own."""


@dataclass(frozen=True)
class Targets:
    """What a network is to say of each sample: 1 where the label is true, 0 where it is not or is unknown.

    `values` is float32 (n, c + m): a column for each of the c subCategories in `labels`, then for each of the m in
    `others`, spelt `field=value`. With `others` a network has a sigmoid a label, without a softmax over all.
    """

    labels: list[str]
    others: list[str]
    values: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """Index of each sample's subCategory in `labels`, int (n,)."""
        return self.values[:, : len(self.labels)].argmax(axis=1)

    def take(self, chosen: np.ndarray) -> Targets:
        """Those of some samples: int or bool indices."""
        return Targets(self.labels, self.others, self.values[chosen])


@dataclass(frozen=True)
class Fitted:
    """A trained `keras.Model`, not compiled, and its history: a value an epoch of `loss`, `accuracy`, `val_loss`, …

    `accuracy` is that of the subCategory, whatever else is learnt, and all values are the network's without a memory.
    """

    model: object
    history: dict[str, list[float]]

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.history["loss"])


def make_targets(subcategories: Sequence[str], fields: Mapping[str, Sequence[str | None]]) -> Targets:
    """Targets of samples by their subCategory and, for the multi-label variant, further fields; None is unknown."""
    labels, classes = np.unique(np.asarray(subcategories, object), return_inverse=True)
    blocks, others = [np.eye(len(labels), dtype=np.float32)[classes]], []
    for name, column in fields.items():
        values = np.array(sorted({value for value in column if value is not None}), object)
        blocks.append((np.asarray(column, object)[:, None] == values).astype(np.float32))
        others += [f"{name}={value}" for value in values]
    return Targets(labels.tolist(), others, np.concatenate(blocks, axis=1))


def fit(
    features: np.ndarray,
    targets: Targets,
    sides: np.ndarray,
    seed: int,
    on_epoch: Callable[[int], None] = lambda _: None,
    stages: int = 0,
) -> Fitted:
    """Train a network with one hidden layer on the training side; the validation side is only measured.

    Features are scaled inside the model, so that a saved model takes them raw. Once it is trained, look-alikes among
    the training images get half a say in its outputs (`ml.memory`), within the model too.

    Args:
        features: float32 (n, d), finite.
        targets: of the n samples.
        sides: int8 (n,), as `ml.split.sides_of` gives them. Labels of the test side are not looked at.
        seed: of weights, dropout and the order of the samples in each epoch.
        on_epoch: called after each epoch with the number 1.
        stages: column from which on the features are those of earlier stages, which tell how an image looks.

    Raises:
        ValueError: nothing to train on, or a feature is NaN or infinite.
    """
    import keras

    train, validation = sides == TRAIN, sides == VALIDATION
    if not train.any():
        raise ValueError(f"no sample to train on, of {len(sides)}")
    finite = np.isfinite(features.sum(axis=1))
    if not finite.all():
        raise ValueError(f"row {int(finite.argmin())} has a value that is NaN or infinite")
    keras.utils.clear_session()  # layers are named from the first again: equal models are equal files
    keras.utils.set_random_seed(seed)
    known = features[train]
    batch = int(np.clip(len(known) // BATCHES, *BATCH_SIZES))
    model = _feature_network(known, targets)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * -(-len(known) // batch))
    compile_for(model, targets, keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY))
    history = model.fit(
        known,
        targets.values[train],
        batch_size=batch,
        epochs=EPOCHS,
        validation_data=(features[validation], targets.values[validation]) if validation.any() else None,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(1))],
        verbose=0,
    ).history
    remembering = _remember(model, known, targets.values[train], stages, seed)
    return Fitted(remembering, {name: [float(value) for value in values] for name, values in history.items()})


def _feature_network(known: np.ndarray, targets: Targets):  # type: ignore[no-untyped-def]  # → keras.Model
    """Square root, standardising by the training side `known`, and a hidden layer."""
    import keras
    from keras import layers, ops

    inputs = keras.Input((known.shape[1],), name="features")
    roots = np.sign(known) * np.sqrt(np.abs(known))
    mean, variance = roots.mean(axis=0, dtype=np.float64), roots.var(axis=0, dtype=np.float64)
    variance[np.ptp(known, axis=0) == 0] = CONSTANT
    x = ops.sign(inputs) * ops.sqrt(ops.abs(inputs))
    x = layers.Normalization(mean=mean.astype(np.float32), variance=variance.astype(np.float32))(x)
    x = layers.Dropout(DROPOUT[0])(ops.clip(x, -CLIP, CLIP))
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM)(layers.Dense(HIDDEN)(x))
    x = layers.Dropout(DROPOUT[1])(layers.ReLU()(x))
    return keras.Model(inputs, output_layer(targets)(x))


def _remember(model, known: np.ndarray, labels: np.ndarray, stages: int, seed: int):  # type: ignore[no-untyped-def]
    """The trained network and the memory of `ml.memory` in one model, float32: → keras.Model, without an optimizer.

    Args:
        model: from features to the labels.
        known: the training side's features, float32 (n, d).
        labels: what those are, float32 (n, c + m).
        stages, seed: as for `fit`.
    """
    import keras
    from keras import layers

    def constant(x, kernel, bias=None):  # type: ignore[no-untyped-def]
        layer = layers.Dense(kernel.shape[1], use_bias=bias is not None, kernel_initializer="zeros", trainable=False)
        y = layer(x)
        layer.set_weights([kernel] if bias is None else [kernel, bias])
        return y

    kept = memory.choose(len(known), seed)
    mean, axes = memory.components(known[:, stages:])
    remembered = memory.looks(known[kept, stages:], mean, axes)
    looks = layers.UnitNormalization()(model.inputs[0][:, stages:])
    looks = layers.UnitNormalization()(constant(looks, axes, -mean @ axes))
    weights = layers.Softmax()(constant(looks, remembered.T / memory.TEMPERATURE))
    recalled = constant(weights, labels[kept])
    outputs = memory.SHARE * recalled + (1 - memory.SHARE) * model.outputs[0]
    return keras.Model(model.inputs, outputs, name="classifier")


def output_layer(targets: Targets):  # type: ignore[no-untyped-def]  # → keras.layers.Dense
    """The last layer: a softmax over the subCategories, or a sigmoid for each label of the multi-label variant."""
    from keras import layers

    return layers.Dense(targets.values.shape[1], activation="sigmoid" if targets.others else "softmax", name="labels")


def compile_for(model, targets: Targets, optimizer) -> None:  # type: ignore[no-untyped-def]  # keras.Model, optimizer
    """Compile with the loss that fits `output_layer`: cross-entropy, of one choice or summed over the labels."""
    import keras

    c = len(targets.labels)

    def right(true, predicted):  # type: ignore[no-untyped-def]
        return keras.ops.equal(keras.ops.argmax(true[:, :c], axis=1), keras.ops.argmax(predicted[:, :c], axis=1))

    if targets.others:
        loss, weight = keras.losses.BinaryCrossentropy(), targets.values.shape[1]
    else:
        loss, weight = keras.losses.CategoricalCrossentropy(label_smoothing=LABEL_SMOOTHING), 1
    accuracy = keras.metrics.MeanMetricWrapper(right, name="accuracy")
    model.compile(optimizer, loss, loss_weights=[float(weight)], metrics=[accuracy])


def predict(model, inputs: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]  # keras.Model
    """All outputs of the network, float32 (n, c + m), for features, float32 (n, d), or images, uint8 (n, h, w, 3)."""
    if not len(inputs):
        return np.empty((0, model.output_shape[1]), np.float32)
    return model.predict(inputs, batch_size=PREDICTED_AT_ONCE[inputs.ndim], verbose=0)


def subcategory_probabilities(model, inputs: np.ndarray, labels: Sequence[str]) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Probability of each subCategory, float32 (n, c), whichever variant was trained.

    A row sums to 1 for the subCategory variant. In the multi-label variant each value is a probability by itself: a row
    with no large one is an image that the network takes for none of them.

    Args:
        model: as `from_bytes` gives it.
        inputs: what the stored row's `input` names: `features`, those in `COLUMNS`, float32 (n, d), or `images`, uint8
            (n, h, w, 3), resized as `ml.images.load` does to the height and width in `model.input_shape`.
        labels: the stored row's `labels`, the names of the c columns.
    """
    return predict(model, inputs)[:, : len(labels)]


def metrics(probabilities: np.ndarray, classes: np.ndarray, labels: list[str]) -> dict[str, object]:
    """How good predictions are, ready for JSON.

    `accuracy`, `top3_accuracy` (the class is among the three likeliest) and `macro_f1` are shares, None where there is
    no sample; `classes` has precision, recall, f1 and support of each label, 0 where undefined; `confusions` has the 20
    most frequent wrong pairs. Precision, recall and F1 as in scikit-learn's `precision_recall_fscore_support` with
    `zero_division=0`; `macro_f1` is the mean over the labels that are true or predicted at least once.

    Args:
        probabilities: float32 (n, c).
        classes: int (n,), true classes.
        labels: names of the c classes.
    """
    n, c = len(classes), len(labels)
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    matrix = np.bincount(classes * c + ranked[:, 0], minlength=c * c).reshape(c, c)  # true, predicted
    right, support, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    wrong = matrix - np.diag(right)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [(*divmod(int(cell), c), int(wrong.flat[cell])) for cell in worst]
    return {
        "accuracy": float(right.sum() / n) if n else None,
        "top3_accuracy": float((ranked[:, :3] == classes[:, None]).any(axis=1).mean()) if n else None,
        "macro_f1": float(f1[support + predicted > 0].mean()) if n else None,
        "classes": {
            label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for label, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
        },
        "confusions": [
            {"true": labels[true], "predicted": labels[other], "count": count} for true, other, count in pairs if count
        ],
    }


def label_metrics(outputs: np.ndarray, targets: Targets) -> dict[str, object]:
    """How good the multi-label variant is on every field and label, ready for JSON.

    `fields` has, for each field, the share of the samples with a value whose likeliest label of that field is right, or
    None where no sample has one. `labels` has precision, recall and support of each label `field=value`, predicted
    where its probability is at least one half; 0 where undefined.

    Args:
        outputs: float32 (n, c + m), as `predict` gives them.
        targets: of the n samples.
    """
    names = [f"subCategory={label}" for label in targets.labels] + targets.others
    true, predicted = targets.values > 0, outputs >= 0.5
    right, support = (true & predicted).sum(axis=0), true.sum(axis=0)
    fields: dict[str, float | None] = {}
    for field, group in groupby(range(len(names)), lambda at: names[at].split("=", 1)[0]):
        columns = list(group)
        known = true[:, columns].any(axis=1)
        hits = outputs[:, columns].argmax(axis=1) == true[:, columns].argmax(axis=1)
        fields[field] = float(hits[known].mean()) if known.any() else None
    precision, recall = right / np.maximum(predicted.sum(axis=0), 1), right / np.maximum(support, 1)
    return {
        "fields": fields,
        "labels": {
            name: {"precision": float(p), "recall": float(r), "support": int(s)}
            for name, p, r, s in zip(names, precision, recall, support, strict=True)
        },
    }


def to_bytes(model) -> bytes:  # type: ignore[no-untyped-def]  # keras.Model
    """The model as a `.keras` archive. Equal models give equal bytes: no time or address is in it."""
    import keras

    out = io.BytesIO()
    with tempfile.NamedTemporaryFile(suffix=".keras") as file:  # Keras saves to a path only
        keras.saving.save_model(model, file.name)
        with zipfile.ZipFile(file.name) as saved, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as plain:
            for name in saved.namelist():
                content = saved.read(name)
                if name == _METADATA:
                    content = json.dumps({"keras_version": json.loads(content)["keras_version"]}).encode()
                elif name == _CONFIG:
                    content = _SHARED.sub(b"", content)
                plain.writestr(zipfile.ZipInfo(name), content)  # ZipInfo's own date is fixed: 1980
    return out.getvalue()


def from_bytes(data: bytes, sha256: str):  # type: ignore[no-untyped-def]  # → keras.Model
    """The model of a `.keras` archive, loaded only if it is the one expected and without running code from it.

    Raises:
        ValueError: the SHA-256 (hex) of `data` is not `sha256`.
    """
    import keras

    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise ValueError(f"the model has SHA-256 {actual}, expected {sha256}")
    with tempfile.NamedTemporaryFile(suffix=".keras") as file:
        file.write(data)
        file.flush()
        return keras.saving.load_model(file.name, compile=False, safe_mode=True)
