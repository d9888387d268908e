"""How far a garment that was cut out is turned: a small network that sees it at a few pixels.

Import it only where it is used: it imports Keras.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers
from PIL import Image

from ml.ground import network, pasting
from ml.ground.framing import turned

SIDE = 32
"""Pixels a side of what is seen."""
SMALL = 96
"""Pixels a side, at most, that a garment is brought down to before it is turned in training."""
TURN = 22
"""Degrees that a garment is turned by in training, at most."""
TENS = 10.0
"""Degrees of what the network says."""
WIDTHS, HIDDEN, DROPOUT = (16, 32, 64), 64, 0.2
MOMENTUM = 0.99
"""Of the averages that normalise what is seen: of some hundred batches."""
BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 1e-3


def seen(garment: Image.Image) -> np.ndarray:
    """A garment, RGBA, in a square: alpha, and light on a white ground, float32 (SIDE, SIDE, 2), 0 to 1."""
    side = max(garment.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(garment, ((side - garment.width) // 2, (side - garment.height) // 2))
    small = np.asarray(square.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255
    alpha = small[..., 3]
    return np.stack([alpha, small[..., :3].mean(axis=2) + 1 - alpha], axis=2)


def turn(garment: Image.Image, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """What is `seen` of a garment, RGBA, mirrored or not, in some light and turned; and the degrees."""
    garment, degrees = garment.copy(), random.uniform(-TURN, TURN)
    garment.thumbnail((SMALL, SMALL))
    if random.random() < 0.5:
        garment = garment.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    lit = pasting.lit(garment.convert("RGB"), random.uniform(-pasting.EV, pasting.EV))
    lit.putalpha(garment.getchannel("A"))
    return seen(turned(lit, degrees)), degrees


def build():  # type: ignore[no-untyped-def]  # → keras.Model
    """The network: from (n, SIDE, SIDE, 2) to (n, 1), tens of degrees against the clock."""
    inputs = keras.Input((SIDE, SIDE, 2))
    x = inputs
    for width in WIDTHS:
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(x))
    x = layers.Dense(HIDDEN, activation="relu")(layers.Dropout(DROPOUT)(layers.Flatten()(x)))
    return keras.Model(inputs, layers.Dense(1)(x))


def fit(  # type: ignore[no-untyped-def]  # → keras.Model
    looks: np.ndarray, turns: np.ndarray, epochs: int, seed: int, on_epoch: Callable[[], None] = lambda: None
):
    """A network that has learnt the turns, float32 (n,) in degrees against the clock, of what is `seen` of n garments.

    `on_epoch` is called after each epoch.
    """
    keras.utils.set_random_seed(seed)
    learning, steps = build(), epochs * -(-len(looks) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    learning.compile(keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY), "huber")
    for _ in range(epochs):
        learning.fit(looks, turns / TENS, batch_size=BATCH, verbose=0)
        on_epoch()
    return learning


def from_bytes(data: bytes, sha256: str):  # type: ignore[no-untyped-def]  # → keras.Model
    """The network that `ml.ground.network.to_bytes` stored. Raises ValueError as `ml.ground.network.read` does."""
    learnt = build()
    learnt.set_weights(network.read(data, sha256))
    return learnt
