"""The classifier on images, as the project report describes it: a backbone whose last layers learn, flatten, dense.

Import it only where it is used: it imports Keras. Training keeps a checkpoint an epoch and goes on from the last one,
with the same samples in the same order and the same chance in each epoch, so a killed training ends as one that was
never interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping, Sequence
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
"""Epochs without a better validation loss before training stops, where weights that are trained begin."""
SHIFT, ZOOM, BRIGHTNESS = 0.08, 0.15, 25
"""Largest change of a training image: shares of its size, of its size, and steps of a pixel's value."""
MIXUP = 0.2
"""Parameter of the Beta distribution of the shares in which two samples are mixed: hardly at all, for most of them."""
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
Checkpoints = MutableMapping[int, dict[str, np.ndarray]]
"""Number of an epoch, from 1 → the state of the training after it, in arrays without objects. Whoever trains says where
they are kept: a dict forgets them with the process."""
_HISTORY = "history"


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
    """How to train: the last `convolutions` of the backbone learn, for at most `epochs`; `seed` decides all chance.

    Training stops earlier after `patience` epochs without a better validation loss.
    """

    convolutions: int
    epochs: int
    seed: int
    patience: int = PATIENCE


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
            members = chosen[np.isin(samples.parts[chosen], parts[at : at + PARTS])]
            members = rng.permutation(members) if seed else members
            self._batches += np.array_split(members, -(-len(members) // BATCH))

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
        source = np.rint((np.arange(size) - centre) * zoom + centre + shift)
        return np.clip(source, 0, size - 1).astype(np.intp)

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

    def mixed(values: np.ndarray) -> np.ndarray:
        weight = share.reshape(m, *[1] * (values.ndim - 1))
        return weight * values + (1 - weight) * values[other]

    return np.rint(mixed(images)).astype(np.uint8), keras.tree.map_structure(mixed, target)


def fit(  # type: ignore[no-untyped-def]  # keras.Model
    backbone,
    targets: Targets,
    samples: Samples,
    sides: np.ndarray,
    options: Options,
    checkpoints: Checkpoints,
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
    checkpoints: Checkpoints,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Train until the validation loss stops falling; the model then has the weights of the best epoch.

    With nothing to validate on, the training loss decides.

    Args:
        model: compiled, from uint8 images.
        samples: all n samples.
        sides: int8 (n,), as `ml.split.sides_of` gives them. Images of the test side are not loaded.
        options: how to train; its `convolutions` are the caller's matter.
        checkpoints: of this training alone, which goes on from the last; it keeps that and the best.
        on_epoch: called with the number of epochs done.

    Returns:
        The history: a value an epoch of `loss`, `val_loss` and the model's metrics.

    Raises:
        ValueError: nothing to train on.
    """
    chosen, validation = np.flatnonzero(sides == TRAIN), np.flatnonzero(sides == VALIDATION)
    if not len(chosen):
        raise ValueError(f"no sample to train on, of {len(sides)}")
    history = resume(model, checkpoints)
    while not _finished(history, options):
        epoch = len(history.get("loss", []))
        seed_layers(model, (options.seed, epoch))
        fitted = model.fit(
            Batches(samples, chosen, (options.seed, epoch)),
            validation_data=Batches(samples, validation) if len(validation) else None,
            shuffle=False,  # Keras would mix batches of all parts, in an order that no other process repeats
            verbose=0,
        ).history
        history = {name: [*history.get(name, []), float(value)] for name, (value,) in fitted.items()}
        checkpoints[epoch + 1] = checkpoint(model, history)
        for earlier in checkpoints.keys() - {epoch + 1, _best(history)}:
            del checkpoints[earlier]
        on_epoch(epoch + 1)
    _set_state(model, checkpoints[_best(history)])
    return history


def predict(model, samples: Samples, chosen: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]  # keras.Model
    """Outputs, float32 (m, c), for the samples with indices `chosen`, int (m,), in that order."""
    outputs = np.empty((len(chosen), model.output_shape[1]), np.float32)
    if len(chosen):
        places = Batches(
            Samples(
                samples.parts[chosen],
                lambda batch: samples.load(chosen[batch]),
                lambda batch: samples.target(chosen[batch]),
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
    every = list(walk(model))
    learning = [layer for layer in every if isinstance(layer, CONVOLUTIONS)]
    kept = learning[: max(0, len(learning) - convolutions)]
    for layer in every:
        layer.trainable = isinstance(layer, CONVOLUTIONS) and layer not in kept


def walk(model) -> Iterator[layers.Layer]:  # type: ignore[no-untyped-def]  # keras.Model
    """Layers in the order of computation, those of models inside the model too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from walk(layer)
        else:
            yield layer


# Checkpoints ----------------------------------------------------------------------------------------------------------


def _finished(history: dict[str, list[float]], options: Options) -> bool:
    done = len(history.get("loss", []))
    return done > 0 and (done >= options.epochs or done - _best(history) >= options.patience)


def _best(history: dict[str, list[float]]) -> int:
    """Number of the epoch with the least loss, from 1; the first of equals."""
    return int(np.argmin(history.get("val_loss", history["loss"]))) + 1


def checkpoint(model, history: dict[str, list[float]]) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]  # keras.Model
    """The state of the training of a compiled model, as `Checkpoints` hold it."""
    return {_HISTORY: np.array(json.dumps(history)), **_state(model)}


def resume(model, checkpoints: Checkpoints) -> dict[str, list[float]]:  # type: ignore[no-untyped-def]  # keras.Model
    """Take the model to the last epoch, weights and optimizer; returns the history so far, empty without one."""
    if not checkpoints:
        return {}
    last = checkpoints[max(checkpoints)]
    _set_state(model, last)
    return json.loads(str(last[_HISTORY]))


def _state(model) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]  # keras.Model
    """Values of the weights and of the optimizer, by their place."""
    return {f"{at:06d}": keras.ops.convert_to_numpy(variable) for at, variable in enumerate(_variables(model))}


def _set_state(model, state: dict[str, np.ndarray]) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    for at, variable in enumerate(_variables(model)):
        variable.assign(state[f"{at:06d}"])


def _variables(model) -> list[keras.Variable]:  # type: ignore[no-untyped-def]  # keras.Model
    """Of the network and of the optimizer, in an order that an equal model has too."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.weights, *model.optimizer.variables]


def seed_layers(model, seed: Sequence[int]) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    """Let what layers do by chance, as dropout does, follow from `seed` and not from what they did before.

    A layer's chance is a state of its own, which is no weight: a process that goes on from weights would begin it anew.
    """
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    for at, variable in enumerate(states):
        variable.assign(np.random.SeedSequence([*seed, at]).generate_state(2))
