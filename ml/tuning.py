"""Tuning a backbone to a catalogue: its last convolutions learn what the trained embedding is to tell apart.

Import it only where it is used: it imports Keras. The network is the backbone, and behind what it gives that of
`ml.embedding`, which has learnt on the features of the backbone as it was: trained from there, the convolutions keep
what they know (linear probing, then fine-tuning: Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import layers, ops

from ml import embedding, finetune
from ml.embedding import HIDDEN, Embedder
from ml.finetune import Batches, Checkpoints, Options, Samples
from ml.split import TRAIN

LEARNING_RATE, WARM_UP, WEIGHT_DECAY = 1e-4, 0.05, 1e-2
"""The highest rate, reached after a share `WARM_UP` of the steps; from there it falls to zero by a cosine."""
CLIP_NORM = 1.0
"""Largest norm of a gradient."""
DROPOUT = (0.2, 0.4)


def fit(  # type: ignore[no-untyped-def]  # keras.Model
    backbone,
    embedder: Embedder,
    samples: Samples,
    sizes: Mapping[str, int],
    sides: np.ndarray,
    options: Options,
    checkpoints: Checkpoints,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Train the last convolutions of a backbone, in place; returns the history.

    Args:
        backbone: as `ml.backbones` builds it.
        embedder: trained on its features.
        samples: all n samples; a target is attribute → float32 (m, classes), as `ml.embedding.one_hot` makes it.
        sizes: attribute → its classes; those of the embedder in its order.
        sides, options, checkpoints, on_epoch: as for `ml.finetune.train`.

    Raises:
        ValueError: nothing to train on.
    """
    keras.utils.set_random_seed(options.seed)
    model = _network(backbone, embedder, sizes, options.convolutions)
    steps = options.epochs * len(Batches(samples, np.flatnonzero(sides == TRAIN)))
    embedding.compile_heads(model, sizes, adamw(steps, LEARNING_RATE, WEIGHT_DECAY))
    return finetune.train(model, samples, sides, options, checkpoints, on_epoch)


def adamw(steps: int, highest: float, decay: float):  # type: ignore[no-untyped-def]  # → keras.optimizers.AdamW
    """AdamW, not built yet, whose rate is `highest` once a share `WARM_UP` of the steps is past."""
    warm_up = int(WARM_UP * steps)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=highest, warmup_steps=warm_up)
    return keras.optimizers.AdamW(rate, weight_decay=decay, global_clipnorm=CLIP_NORM)


def _network(backbone, embedder: Embedder, sizes: Mapping[str, int], convolutions: int):  # type: ignore[no-untyped-def]  # → keras.Model
    """From images to the logits of every attribute; what the embedder has learnt is where it starts."""
    finetune.freeze(backbone, convolutions)
    arrays, clip = embedder.arrays, embedder.recipe.clip
    images = keras.Input(backbone.input_shape[1:], dtype="uint8", name="images")
    # training=False: the backbone's batch normalisations keep their ImageNet statistics, also where kernels learn.
    x = layers.Concatenate()(backbone(images, training=False))
    x = ops.clip((x - arrays["mean"]) / arrays["deviation"], -clip, clip)
    hidden = layers.Dense(HIDDEN, name="hidden")
    x = layers.ReLU()(hidden(layers.Dropout(DROPOUT[0])(x)))
    x = layers.Dropout(DROPOUT[1])(x)
    model = keras.Model(images, {name: layers.Dense(size, name=name)(x) for name, size in sizes.items()})
    hidden.set_weights([arrays["hidden"], arrays["hidden_bias"]])
    for name in sizes.keys() & arrays.keys():
        model.get_layer(name).set_weights([arrays[name], arrays[f"{name}_bias"]])
    return model
