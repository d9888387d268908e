"""The network that tells a garment from its ground: a backbone's maps, fused from the coarsest on, a mask of half size.

Import it only where it is used: it imports Keras. The backbone stays as it came and is no part of what is stored.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers, ops

from ml.features import compiled
from ml.ground.framing import SIDE

STRIDE = 2
"""Pixels a side, of the `SIDE` that are seen, of a cell of the mask."""
STRIDES = (2, 4, 8, 16)
"""Of the maps that are fused."""
WIDTHS = (12, 24, 32, 48)
"""Channels of the fused map at each of `STRIDES`."""
MOMENTUM = 0.99
"""Of the averages that normalise what is seen: of some hundred batches."""
ROUNDING = np.float16
"""Of the stored weights."""
BATCH, LEARNING_RATE, WEIGHT_DECAY, OVERLAP = 32, 3e-3, 1e-3, 0.5
"""Of the training; `OVERLAP` is the share of the masks' overlap in the loss, beside that of their cells."""


def look(backbone):  # type: ignore[no-untyped-def]  # keras.Model → keras.Model
    """What is seen of photos, uint8 (n, SIDE, SIDE, 3): a map of a backbone at each of `STRIDES`, the finest first.

    It is the last sum of a residual backbone at that stride, or the one of fewest channels where there is no sum.
    """
    maps = []
    for stride in STRIDES:
        at = [layer for layer in backbone.layers if getattr(layer.output, "shape", ())[1:3] == (SIDE // stride,) * 2]
        sums = [layer for layer in at if isinstance(layer, layers.Add)]
        maps.append(sums[-1].output if sums else min((layer.output for layer in at), key=lambda map_: map_.shape[3]))
    return keras.Model(backbone.input, maps)


def see(seeing, photos: np.ndarray, on_batch: Callable[[int], None] = lambda _: None) -> list[np.ndarray]:  # type: ignore[no-untyped-def]  # keras.Model
    """The maps of n photos by what `look` gives, float16, each (n, r, c, channels)."""
    call, made = compiled(seeing), []
    for at in range(0, len(photos), BATCH):
        made.append([np.asarray(map_).astype(ROUNDING) for map_ in call(photos[at : at + BATCH])])
        on_batch(len(made[-1][0]))
    return [np.concatenate(column) for column in zip(*made, strict=True)]


def build(channels: tuple[int, ...]):  # type: ignore[no-untyped-def]  # → keras.Model
    """The network on maps of so many channels, at `STRIDES`; it gives logits (n, SIDE / 2, SIDE / 2, 1)."""
    inputs = [
        keras.Input((SIDE // stride, SIDE // stride, count)) for stride, count in zip(STRIDES, channels, strict=True)
    ]
    *finer, coarsest = [
        layers.BatchNormalization(momentum=MOMENTUM, name=f"seen_{stride}")(each)
        for stride, each in zip(STRIDES, inputs, strict=True)
    ]
    x = layers.Conv2D(WIDTHS[-1], 1, activation="relu")(coarsest)
    whole = layers.Dense(WIDTHS[-1])(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = _mixed(layers.Add()([x, whole]), WIDTHS[-1], 5)
    for each, width in zip(finer[::-1], WIDTHS[-2::-1], strict=True):
        x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(width, 1)(x))
        x = layers.Add()([x, layers.Conv2D(width, 1)(each)])
        x = _mixed(layers.ReLU()(x), width, 3)
    return keras.Model(inputs, layers.Conv2D(1, 3, padding="same", name="garment")(x))


def _mixed(x, width: int, kernel: int):  # type: ignore[no-untyped-def]  # Keras tensors
    """A map and what each place sees around it."""
    around = layers.Conv2D(width, kernel, padding="same", use_bias=False)(x)
    return layers.Add()([x, layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(around))])


def fit(  # type: ignore[no-untyped-def]  # → keras.Model
    maps: Sequence[np.ndarray], masks: np.ndarray, epochs: int, seed: int, on_epoch: Callable[[], None] = lambda: None
):
    """A network that has learnt the masks of photos.

    Args:
        maps: of n photos, as `look` gives them.
        masks: how much of each pixel is the garment's, uint8 (n, SIDE / STRIDE, SIDE / STRIDE).
        epochs: how often each photo is looked at.
        seed: of the weights, and of the order of the photos in each epoch.
        on_epoch: called after each.
    """
    keras.utils.set_random_seed(seed)
    network = build(tuple(each.shape[3] for each in maps))
    order, steps = np.random.default_rng(seed), epochs * -(-len(masks) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    network.compile(keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY), _loss)
    for _ in range(epochs):
        shuffled = order.permutation(len(masks))
        for at in range(0, len(masks), BATCH):
            rows = np.sort(shuffled[at : at + BATCH])
            wanted = masks[rows][..., None].astype(np.float32) / 255
            network.train_on_batch([each[rows].astype(np.float32) for each in maps], wanted)
        on_epoch()
    return network


def _loss(wanted, logits):  # type: ignore[no-untyped-def]  # tensors
    """Cross-entropy of cells, and 1 − the overlap of masks as a whole (soft Jaccard): a value a photo."""
    cells = ops.mean(keras.losses.binary_crossentropy(wanted, logits, from_logits=True), axis=(1, 2))
    found = ops.sigmoid(logits)
    shared = ops.sum(wanted * found, axis=(1, 2, 3))
    union = ops.sum(wanted + found, axis=(1, 2, 3)) - shared
    return cells + OVERLAP * (1 - shared / ops.maximum(union, 1.0))


def to_bytes(network) -> bytes:  # type: ignore[no-untyped-def]  # keras.Model
    """All weights as a `.npz` archive, of `ROUNDING`."""
    out = io.BytesIO()
    arrays = {f"{at:04d}": array.astype(ROUNDING) for at, array in enumerate(network.get_weights())}
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def from_bytes(data: bytes, sha256: str, backbone):  # type: ignore[no-untyped-def]  # keras.Model → keras.Model
    """The network that `to_bytes` stored, behind the backbone whose maps it takes: photos in, logits out.

    Raises:
        ValueError: as `read`, or it is of another network.
    """
    seeing = look(backbone)
    network = build(tuple(each.shape[3] for each in seeing.outputs))
    network.set_weights(read(data, sha256))
    return keras.Model(seeing.input, network(seeing.outputs))


def read(data: bytes, sha256: str) -> list[np.ndarray]:
    """The weights that `to_bytes` stored, float32.

    Raises:
        ValueError: the SHA-256 (hex) of `data` is not `sha256`.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise ValueError(f"the weights have SHA-256 {actual}, expected {sha256}")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return [arrays[name].astype(np.float32) for name in sorted(arrays.files)]
