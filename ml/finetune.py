"""The classifier on images, as the project report describes it: a backbone whose last layers learn, flatten, dense.

Import it only where it is used: it imports Keras. Training writes a checkpoint an epoch and goes on from the last one,
with the same samples in the same order, so a killed training ends as one that was never interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from ml.classifier import Fitted, Targets, compile_for, output_layer
from ml.split import TRAIN, VALIDATION

BATCH = 32
"""Images a call, at most."""
LEARNING_RATE, MOMENTUM = 0.05, 0.9
CLIP_NORM = 1.0
"""Largest norm of a gradient: the first steps of a new last layer must not wreck trained convolutions."""
PATIENCE = 3
"""Epochs without a better validation loss before training stops."""
SHIFT, ZOOM, BRIGHTNESS = 0.05, 0.1, 0.1
"""Largest change of a training image: shares of its size, of its size, and of the range of pixel values."""
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_EPOCH, _WEIGHTS, _HISTORY = "epoch-", "state.weights.h5", "history.json"


@dataclass(frozen=True)
class Samples:
    """Images that are loaded when they are needed, and what is true of them.

    `parts` is int (n,): which piece of the storage holds each sample's image. `load` takes indices of samples of one
    part, int (m,), and gives their pixels, uint8 (m, h, w, 3).
    """

    parts: np.ndarray
    load: Callable[[np.ndarray], np.ndarray]
    targets: Targets


@dataclass(frozen=True)
class Options:
    """How to train: the last `convolutions` of the backbone learn, for at most `epochs`; `seed` decides all chance."""

    convolutions: int
    epochs: int
    seed: int


class Batches(keras.utils.PyDataset):
    """Batches of (images, targets): part after part, so that only one is held, each cut into batches of like size."""

    def __init__(self, samples: Samples, chosen: np.ndarray, rng: np.random.Generator | None = None) -> None:
        """Of the samples with indices `chosen`, int (m,); `rng` shuffles the parts and the samples within each."""
        super().__init__()
        self._samples = samples
        parts = np.unique(samples.parts[chosen])
        self._batches: list[np.ndarray] = []
        for part in parts if rng is None else rng.permutation(parts):
            own = chosen[samples.parts[chosen] == part]
            own = own if rng is None else rng.permutation(own)
            self._batches += np.array_split(own, -(-len(own) // BATCH))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self._batches[index]
        return self._samples.load(batch), self._samples.targets.values[batch]

    @property
    def order(self) -> np.ndarray:
        """Indices of the samples in the order in which they come, int (m,)."""
        return np.concatenate(self._batches)


def fit(  # type: ignore[no-untyped-def]  # keras.Model
    backbone,
    samples: Samples,
    sides: np.ndarray,
    options: Options,
    checkpoints: str,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """Train with SGD until the validation loss stops falling; the model has the weights of the best epoch.

    With nothing to validate on, the training loss decides.

    Args:
        backbone: as `ml.backbones` builds it; its layers are changed.
        samples: all n samples.
        sides: int8 (n,), as `ml.split.sides_of` gives them. Images of the test side are not loaded.
        options: how to train.
        checkpoints: folder of this training alone, which goes on from what it holds. The caller removes it.
        on_epoch: called with the number of epochs done.

    Raises:
        ValueError: nothing to train on.
    """
    train, validation = np.flatnonzero(sides == TRAIN), np.flatnonzero(sides == VALIDATION)
    if not len(train):
        raise ValueError(f"no sample to train on, of {len(sides)}")
    keras.utils.set_random_seed(options.seed)
    model, trained = _networks(backbone, samples.targets, options.convolutions)
    history = _resume(model, checkpoints)
    while not _finished(history, options.epochs):
        epoch = len(history.get("loss", []))
        _reseed(model, options.seed, epoch)
        found = model.fit(
            Batches(samples, train, np.random.default_rng([options.seed, epoch])),
            validation_data=Batches(samples, validation) if len(validation) else None,
            shuffle=False,  # Keras would mix batches of all parts, in an order that no other process repeats
            verbose=0,
        ).history
        history = {name: [*history.get(name, []), float(value)] for name, (value,) in found.items()}
        _save(model, history, checkpoints)
        on_epoch(epoch + 1)
    model.load_weights(os.path.join(_folder(checkpoints, _best(history)), _WEIGHTS))
    return Fitted(trained, history)


def predict(model, samples: Samples, chosen: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]  # keras.Model
    """Outputs, float32 (m, c), for the samples with indices `chosen`, int (m,), in that order."""
    outputs = np.empty((len(chosen), model.output_shape[1]), np.float32)
    if len(chosen):
        places = Batches(
            Samples(samples.parts[chosen], lambda own: samples.load(chosen[own]), samples.targets.take(chosen)),
            np.arange(len(chosen)),
        )
        outputs[places.order] = model.predict(places, verbose=0)
    return outputs


# The network ----------------------------------------------------------------------------------------------------------


def _networks(backbone, targets: Targets, convolutions: int):  # type: ignore[no-untyped-def]  # → two keras.Model
    """The network to train, compiled, with augmentation, and around the same weights the one to use, without."""
    maps = _convolutional_maps(backbone)
    _freeze(maps, convolutions)
    _, height, width, channels = maps.output_shape
    # The step of a dense layer grows with its inputs, here tens of thousands: scaled, one rate fits every backbone.
    scale = float(height * width * channels) ** -0.5
    head = keras.Sequential([layers.Flatten(), layers.Rescaling(scale), output_layer(targets)], name="head")
    images = keras.Input(maps.input_shape[1:], dtype="uint8", name="images")
    changed = ops.cast(ops.round(_augmentation()(images)), "uint8")
    # training=False: the backbone's batch normalisations keep their ImageNet statistics, also where kernels learn.
    model = keras.Model(images, head(maps(changed, training=False)))
    trained = keras.Model(images, head(maps(images, training=False)), name="classifier")
    compile_for(model, targets, keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM, global_clipnorm=CLIP_NORM))
    return model, trained


def _convolutional_maps(backbone):  # type: ignore[no-untyped-def]  # keras.Model → keras.Model
    """The backbone up to what it pools."""
    pooling = next(layer for layer in backbone.layers if isinstance(layer, layers.GlobalAveragePooling2D))
    return keras.Model(backbone.input, pooling.input, name="backbone")


def _freeze(model, convolutions: int) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    """Let the last `convolutions` learn and nothing else."""
    every = list(_layers(model))
    learning = [layer for layer in every if isinstance(layer, CONVOLUTIONS)]
    kept = learning[: max(0, len(learning) - convolutions)]
    for layer in every:
        layer.trainable = isinstance(layer, CONVOLUTIONS) and layer not in kept


def _layers(model) -> Iterator[layers.Layer]:  # type: ignore[no-untyped-def]  # keras.Model
    """Layers in the order of computation, those of models inside the model too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _augmentation() -> keras.Sequential:
    """Changes of a training image that leave its subCategory: mirrored, moved, zoomed, lighter or darker."""
    return keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(SHIFT, SHIFT, fill_mode="nearest"),
            layers.RandomZoom(ZOOM, fill_mode="nearest"),
            layers.RandomBrightness(BRIGHTNESS),
        ],
        name="augmentation",
    )


def _reseed(model, seed: int, epoch: int) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    """Let the augmentation of an epoch follow from its number alone, whichever process trains it."""
    for place, layer in enumerate(model.get_layer("augmentation").layers):
        layer.generator.state.assign(np.random.default_rng([seed, epoch, place]).integers(0, 2**31, 2))


# Checkpoints ----------------------------------------------------------------------------------------------------------


def _finished(history: dict[str, list[float]], epochs: int) -> bool:
    done = len(history.get("loss", []))
    return done > 0 and (done >= epochs or done - _best(history) >= PATIENCE)


def _best(history: dict[str, list[float]]) -> int:
    """Number of the epoch with the least loss, from 1; the first of equals."""
    return int(np.argmin(history.get("val_loss", history["loss"]))) + 1


def _folder(checkpoints: str, epoch: int) -> str:
    return os.path.join(checkpoints, f"{_EPOCH}{epoch:04d}")


def _save(model, history: dict[str, list[float]], checkpoints: str) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    """Keep this epoch, which appears whole or not at all, and of the earlier ones only the best."""
    epoch, unfinished = len(history["loss"]), os.path.join(checkpoints, "unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    os.makedirs(unfinished)
    model.save_weights(os.path.join(unfinished, _WEIGHTS))
    with open(os.path.join(unfinished, _HISTORY), "w") as file:
        json.dump(history, file)
    os.rename(unfinished, _folder(checkpoints, epoch))
    for earlier in range(1, epoch):
        if earlier != _best(history):
            shutil.rmtree(_folder(checkpoints, earlier), ignore_errors=True)


def _resume(model, checkpoints: str) -> dict[str, list[float]]:  # type: ignore[no-untyped-def]  # keras.Model
    """Load the last complete epoch, weights and optimizer; returns the history so far, empty without one."""
    os.makedirs(checkpoints, exist_ok=True)
    complete = sorted(name for name in os.listdir(checkpoints) if name.startswith(_EPOCH))
    if not complete:
        return {}
    model.optimizer.build(model.trainable_variables)
    model.load_weights(os.path.join(checkpoints, complete[-1], _WEIGHTS))
    with open(os.path.join(checkpoints, complete[-1], _HISTORY)) as file:
        return json.load(file)
