"""The classifier on images, as the project report describes it: a backbone whose last layers learn, flatten, dense.

Import it only where it is used: it imports Keras. Training writes a checkpoint an epoch and goes on from the last one,
with the same samples in the same order, so a killed training ends as one that was never interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from ml.classifier import Fitted, Targets, compile_for, output_layer
from ml.split import TRAIN, VALIDATION

BATCH = 32
"""Images a call, at most."""
PARTS = 8
"""Pieces of the storage whose samples are mixed: neighbours in a catalogue are alike."""
LEARNING_RATE, MOMENTUM = 0.05, 0.9
CLIP_NORM = 1.0
"""Largest norm of a gradient: the first steps of a new last layer must not wreck trained convolutions."""
PATIENCE = 3
"""Epochs without a better validation loss before training stops."""
SHIFT, ZOOM, BRIGHTNESS = 0.08, 0.15, 25
"""Largest change of a training image: shares of its size, of its size, and steps of a pixel's value."""
MIXUP = 0.2
"""Parameter of the Beta distribution of the shares in which two samples are mixed: hardly at all, for most of them."""
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_EPOCH, _WEIGHTS, _HISTORY = "epoch-", "state.weights.h5", "history.json"


@dataclass(frozen=True)
class Samples:
    """Images that are loaded when they are needed, and what is true of them.

    `parts` is int (n,): which piece of the storage holds each sample's image. `load` takes indices of samples, int
    (m,), and gives their pixels, uint8 (m, h, w, 3); `target` gives what a network is to say of them.
    """

    parts: np.ndarray
    load: Callable[[np.ndarray], np.ndarray]
    target: Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Options:
    """How to train: the last `convolutions` of the backbone learn, for at most `epochs`; `seed` decides all chance."""

    convolutions: int
    epochs: int
    seed: int


class Batches(keras.utils.PyDataset):
    """Batches of like size of (images, targets), from a few parts of the storage after the other: so few are held."""

    def __init__(self, samples: Samples, chosen: np.ndarray, seed: Sequence[int] = ()) -> None:
        """Of the samples with indices `chosen`, int (m,).

        A `seed` shuffles the parts and the samples within each and changes the images, as training wants them.
        """
        super().__init__(workers=2, max_queue_size=4)  # batches are made ready while the network works, in their order
        self._samples, self._seed = samples, seed
        rng, parts = np.random.default_rng(seed), np.unique(samples.parts[chosen])
        parts = rng.permutation(parts) if seed else parts
        self._batches: list[np.ndarray] = []
        for at in range(0, len(parts), PARTS):
            own = chosen[np.isin(samples.parts[chosen], parts[at : at + PARTS])]
            own = rng.permutation(own) if seed else own
            self._batches += np.array_split(own, -(-len(own) // BATCH))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        batch = self._batches[index]
        images = self._samples.load(batch)
        if self._seed:
            rng = np.random.default_rng([*self._seed, index])
            return mix(augment(images, rng), self._samples.target(batch), rng)
        return images, self._samples.target(batch)

    @property
    def order(self) -> np.ndarray:
        """Indices of the samples in the order in which they come, int (m,)."""
        return np.concatenate(self._batches)


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes that leave what an image shows: each mirrored or not, moved, zoomed, and lighter or darker.

    Takes and gives uint8 (m, h, w, 3). Pixels are those nearest to where they come from; the border goes on outside.
    """
    m, height, width, _ = images.shape
    zoom = rng.uniform(1 - ZOOM, 1 + ZOOM, (m, 1))

    def places(size: int) -> np.ndarray:
        centre, shift = (size - 1) / 2, rng.uniform(-SHIFT, SHIFT, (m, 1)) * size
        found = np.rint((np.arange(size) - centre) * zoom + centre + shift)
        return np.clip(found, 0, size - 1).astype(np.intp)

    rows, columns = places(height), places(width)
    mirrored = rng.random(m) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    changed = images[np.arange(m)[:, None, None], rows[:, :, None], columns[:, None, :]]
    lighter = rng.integers(-BRIGHTNESS, BRIGHTNESS, (m, 1, 1, 1), endpoint=True)
    return np.clip(changed + lighter, 0, 255).astype(np.uint8)


def mix(images: np.ndarray, target: Any, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
    """Each sample of a batch mixed with another one, images and targets in the same shares, of which its own is larger.

    Mixup (Zhang et al. 2018, arXiv:1710.09412), with the little of it that suits trained weights and tens of thousands
    of images (Kolesnikov et al. 2020, arXiv:1912.11370). Takes and gives uint8 (m, h, w, 3), and as a target an array
    (m, …) or a dict of them.
    """
    m = len(images)
    share, other = rng.beta(MIXUP, MIXUP, m).astype(np.float32), rng.permutation(m)
    share = np.maximum(share, 1 - share)

    def mixed(each: np.ndarray) -> np.ndarray:
        own = share.reshape(m, *[1] * (each.ndim - 1))
        return own * each + (1 - own) * each[other]

    return np.rint(mixed(images)).astype(np.uint8), keras.tree.map_structure(mixed, target)


def fit(  # type: ignore[no-untyped-def]  # keras.Model
    backbone,
    targets: Targets,
    samples: Samples,
    sides: np.ndarray,
    options: Options,
    checkpoints: str,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Fitted:
    """The classifier of `targets` on images, by SGD; arguments and errors otherwise as those of `train`.

    Args:
        backbone: as `ml.backbones` builds it; its layers are changed.
        targets: of all n samples; what `samples.target` takes its rows from.
        samples, sides, options, checkpoints, on_epoch: as for `train`.
    """
    keras.utils.set_random_seed(options.seed)
    model = _network(backbone, targets, options.convolutions)
    history = train(model, samples, sides, options, checkpoints, on_epoch)
    # A model of its own around the trained layers: without the optimizer.
    return Fitted(keras.Model(model.inputs, model.outputs, name="classifier"), history)


def train(  # type: ignore[no-untyped-def]  # keras.Model
    model,
    samples: Samples,
    sides: np.ndarray,
    options: Options,
    checkpoints: str,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Train until the validation loss stops falling; the model then has the weights of the best epoch.

    With nothing to validate on, the training loss decides.

    Args:
        model: compiled, from uint8 images.
        samples: all n samples.
        sides: int8 (n,), as `ml.split.sides_of` gives them. Images of the test side are not loaded.
        options: how to train; its `convolutions` are the caller's matter.
        checkpoints: folder of this training alone, which goes on from what it holds. The caller removes it.
        on_epoch: called with the number of epochs done.

    Returns:
        The history: a value an epoch of `loss`, `val_loss` and the model's metrics.

    Raises:
        ValueError: nothing to train on.
    """
    chosen, validation = np.flatnonzero(sides == TRAIN), np.flatnonzero(sides == VALIDATION)
    if not len(chosen):
        raise ValueError(f"no sample to train on, of {len(sides)}")
    history = _resume(model, checkpoints)
    while not _finished(history, options.epochs):
        epoch = len(history.get("loss", []))
        found = model.fit(
            Batches(samples, chosen, (options.seed, epoch)),
            validation_data=Batches(samples, validation) if len(validation) else None,
            shuffle=False,  # Keras would mix batches of all parts, in an order that no other process repeats
            verbose=0,
        ).history
        history = {name: [*history.get(name, []), float(value)] for name, (value,) in found.items()}
        _save(model, history, checkpoints)
        on_epoch(epoch + 1)
    model.load_weights(os.path.join(_folder(checkpoints, _best(history)), _WEIGHTS))
    return history


def predict(model, samples: Samples, chosen: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]  # keras.Model
    """Outputs, float32 (m, c), for the samples with indices `chosen`, int (m,), in that order."""
    outputs = np.empty((len(chosen), model.output_shape[1]), np.float32)
    if len(chosen):
        places = Batches(
            Samples(
                samples.parts[chosen], lambda own: samples.load(chosen[own]), lambda own: samples.target(chosen[own])
            ),
            np.arange(len(chosen)),
        )
        outputs[places.order] = model.predict(places, verbose=0)
    return outputs


# The network ----------------------------------------------------------------------------------------------------------


def _network(backbone, targets: Targets, convolutions: int):  # type: ignore[no-untyped-def]  # → keras.Model
    """The classifier's network, compiled."""
    maps = _convolutional_maps(backbone)
    freeze(maps, convolutions)
    _, height, width, channels = maps.output_shape
    # The step of a dense layer grows with its inputs, here tens of thousands: scaled, one rate fits every backbone.
    scale = float(height * width * channels) ** -0.5
    head = keras.Sequential([layers.Flatten(), layers.Rescaling(scale), output_layer(targets)], name="head")
    images = keras.Input(maps.input_shape[1:], dtype="uint8", name="images")
    # training=False: the backbone's batch normalisations keep their ImageNet statistics, also where kernels learn.
    model = keras.Model(images, head(maps(images, training=False)))
    compile_for(model, targets, keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM, global_clipnorm=CLIP_NORM))
    return model


def _convolutional_maps(backbone):  # type: ignore[no-untyped-def]  # keras.Model → keras.Model
    """The backbone up to what it pools."""
    pooling = next(layer for layer in backbone.layers if isinstance(layer, layers.GlobalMaxPooling2D))
    return keras.Model(backbone.input, pooling.input, name="backbone")


def freeze(model, convolutions: int) -> None:  # type: ignore[no-untyped-def]  # keras.Model
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
