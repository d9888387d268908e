"""Training a backbone from random weights: all of it learns what the trained embedding is to tell apart.

Import it only where it is used: it imports Keras. Behind what the backbone gives stands a network as in `ml.embedding`.
Earlier layers learn through it directly too, since their maps are among what a backbone gives: deep supervision (Lee et
al. 2015, arXiv:1409.5185), which a network that knows nothing yet is helped by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import keras
import numpy as np
from keras import layers

from ml import embedding, finetune, tuning
from ml.embedding import HIDDEN
from ml.finetune import Batches, Checkpoints, Options, Samples
from ml.split import TRAIN

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 5e-2
"""The rate rises and falls as that of `ml.tuning`."""
UNDECAYED = ("gamma", "beta", "bias")
"""Names of what only scales or shifts, and does not decay."""
PATIENCE = 8
"""Epochs without a better validation loss before training stops: it is unsteady as long as the rate is high."""
NORM_MOMENTUM = 0.9
"""Of the moving averages: small catalogues have too few batches for Keras' 0.99."""
DROPOUT = (0.2, 0.4)


def fit(  # type: ignore[no-untyped-def]  # keras.Model
    backbone,
    samples: Samples,
    sizes: Mapping[str, int],
    sides: np.ndarray,
    options: Options,
    checkpoints: Checkpoints,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Train all of a backbone, in place; returns the history.

    Args:
        backbone: as `ml.backbones` builds it of `DRAWN` weights, with its batch normalisations.
        samples, sizes, sides, checkpoints, on_epoch: as for `ml.tuning.fit`.
        options: how to train; all convolutions learn, and `PATIENCE` is that of this module.

    Raises:
        ValueError: nothing to train on.
    """
    keras.utils.set_random_seed(options.seed)
    model = _network(backbone, sizes)
    steps = options.epochs * len(Batches(samples, np.flatnonzero(sides == TRAIN)))
    optimizer = tuning.adamw(steps, LEARNING_RATE, WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=UNDECAYED)
    embedding.compile_heads(model, sizes, optimizer)
    return finetune.train(model, samples, sides, replace(options, patience=PATIENCE), checkpoints, on_epoch)


def _network(backbone, sizes: Mapping[str, int]):  # type: ignore[no-untyped-def]  # → keras.Model
    """From images to the logits of every attribute."""
    for layer in finetune.walk(backbone):
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = NORM_MOMENTUM
    images = keras.Input(backbone.input_shape[1:], dtype="uint8", name="images")
    x = layers.Concatenate()(backbone(images))
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM, center=False, scale=False)(x)
    x = layers.Dense(HIDDEN)(layers.Dropout(DROPOUT[0])(x))
    x = layers.ReLU()(layers.BatchNormalization(momentum=NORM_MOMENTUM)(x))
    x = layers.Dropout(DROPOUT[1])(x)
    return keras.Model(images, {name: layers.Dense(size, name=name)(x) for name, size in sizes.items()})
