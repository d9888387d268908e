"""The trained embedding: what kind of product an image shows, for whom, in what colour, and how it looks.

A network with one hidden layer learns a product's attributes from its image's features. The embedding is made of
blocks: for each attribute of `BLOCKS` the square roots of the network's class probabilities, and the leading principal
components of the features themselves. The dot product of two such square roots is the Bhattacharyya coefficient of
the two distributions (Bhattacharyya 1943): 1 where the network takes two images for the same, 0 where it takes them
for different things, and in between where it is in doubt. The last block orders what the attributes leave equal, and
keeps two crops of one photo together. Each block is a unit vector times its weight, so a similarity reads as a weighted
mean.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ml.similarity import to_embedding
from ml.split import TRAIN

BLOCKS = {"articleType": 1.0, "gender": 1.0, "baseColour": 0.6, "looks": 0.5}
"""Weight of each block, chosen on the validation side of the real catalogue: see benchmarks/RESULTS.md."""
AUXILIARY = {"subCategory": 0.5, "usage": 0.2, "season": 0.2}
"""Attributes that are learnt beside those of the blocks, with their share of the loss: they make the others better."""
LOOKS = 64
"""Principal components of the block `looks`."""
SHARPNESS = 2.0
"""Probabilities are raised to this power: above 1 the likeliest class counts for more."""

HIDDEN, DROPOUT, LABEL_SMOOTHING = 1024, (0.3, 0.5), 0.05
EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 20, 2e-3, 1e-2
BATCHES, BATCH_SIZES = 64, (32, 512)
"""Batches an epoch, as far as the sizes of a batch let it: small catalogues learn in as few epochs as large ones."""
CLIP = 5.0
"""Standardised features are cut off at ± this many standard deviations."""
_ROWS = 4096


@dataclass(frozen=True)
class Embedder:
    """Features → embeddings. `arrays` are the network's, float32; none: the average-pooled features, untrained."""

    arrays: Mapping[str, np.ndarray]

    @cached_property
    def _wide(self) -> dict[str, np.ndarray]:
        return {name: array.astype(np.float64) for name, array in self.arrays.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the arrays, or `untrained`."""
        return hashlib.sha256(self.to_bytes()).hexdigest() if self.arrays else "untrained"

    def apply(self, average: np.ndarray, maximum: np.ndarray) -> np.ndarray:
        """Embeddings, float32 (n, e) in fixed point, of average- and maximum-pooled features, float32 (n, d) each.

        In float64, so that rounding to the grid gives the same bits whatever computes it, in batches of any size.

        Raises:
            ValueError: the features have another width than those it was trained on.
        """
        if not self.arrays:
            return to_embedding(average)
        if 2 * average.shape[1] != len(self.arrays["mean"]):
            raise ValueError(f"features have {average.shape[1]} dimensions, not {len(self.arrays['mean']) // 2}")
        blocks = [
            _blocks(self._wide, average[at : at + _ROWS], maximum[at : at + _ROWS])
            for at in range(0, len(average), _ROWS)
        ]
        return np.concatenate([to_embedding(block) for block in blocks])

    def to_bytes(self) -> bytes:
        """The arrays as a `.npz` archive; equal arrays give equal bytes."""
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **dict(sorted(self.arrays.items())))
        return out.getvalue()


UNTRAINED = Embedder({})


def from_bytes(data: bytes, sha256: str) -> Embedder:
    """The embedder that `Embedder.to_bytes` stored; nothing is unpickled.

    Raises:
        ValueError: the SHA-256 (hex) of `data` is not `sha256`.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"the embedder has SHA-256 {found}, expected {sha256}")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Embedder(dict(arrays))


def _blocks(arrays: Mapping[str, np.ndarray], average: np.ndarray, maximum: np.ndarray) -> np.ndarray:
    x = np.concatenate([average, maximum], axis=1).astype(np.float64)
    x = np.clip((x - arrays["mean"]) / arrays["deviation"], -CLIP, CLIP)
    x = np.maximum(x @ arrays["hidden"] + arrays["hidden_bias"], 0)
    blocks = []
    for name, weight in BLOCKS.items():
        if name == "looks":
            block = (average - arrays["looks_mean"]) @ arrays["looks"]
        else:
            logits = x @ arrays[name] + arrays[f"{name}_bias"]
            block = np.exp((logits - logits.max(axis=1, keepdims=True)) * (SHARPNESS / 2))
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        blocks.append(weight * block / np.where(norms > 0, norms, 1.0))
    return np.concatenate(blocks, axis=1)


def fit(
    average: np.ndarray,
    maximum: np.ndarray,
    labels: Mapping[str, np.ndarray],
    sides: np.ndarray,
    seed: int,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Embedder:
    """Train an embedder on the training side.

    Args:
        average, maximum: float32 (n, d), finite.
        labels: attribute → int (n,) codes, −1 where it is missing; those of `BLOCKS` and `AUXILIARY` that are there.
        sides: int8 (n,), as `ml.split.sides_of` gives them. Labels of the test side are not looked at.
        seed: of weights and of the order of the samples in each epoch.
        on_epoch: called after each epoch with the number 1.

    Raises:
        ValueError: nothing to train on.
    """
    import keras

    known = np.flatnonzero(sides == TRAIN)
    if not len(known):
        raise ValueError(f"no image to train on, of {len(sides)}")
    keras.utils.set_random_seed(seed)
    x = np.concatenate([average[known], maximum[known]], axis=1)
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + 1e-3
    x = np.clip((x - mean) / deviation, -CLIP, CLIP).astype(np.float32)
    sizes = {name: int(codes.max(initial=0)) + 1 for name, codes in labels.items()}
    batch = int(np.clip(len(x) // BATCHES, *BATCH_SIZES))
    model = _network(x.shape[1], sizes, steps=EPOCHS * -(-len(x) // batch))
    # A missing label is a row of zeros: it adds nothing to the loss.
    targets = {name: np.eye(sizes[name], dtype=np.float32)[codes[known]] for name, codes in labels.items()}
    for name, codes in labels.items():
        targets[name][codes[known] < 0] = 0
    epoch_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(1))
    model.fit(x, targets, batch_size=batch, epochs=EPOCHS, callbacks=[epoch_end], verbose=0)
    scaling = {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}
    return Embedder({**scaling, **_arrays(model), **_principal_components(average[known])})


def _network(width: int, sizes: Mapping[str, int], steps: int):  # type: ignore[no-untyped-def]  # → keras.Model
    """A hidden layer, and from it a softmax layer an attribute."""
    import keras
    from keras import layers

    inputs = keras.Input((width,))
    x = layers.Dropout(DROPOUT[0])(inputs)
    x = layers.Dense(HIDDEN, name="hidden")(x)
    x = layers.BatchNormalization(name="normalised")(x)
    x = layers.Dropout(DROPOUT[1])(layers.ReLU()(x))
    model = keras.Model(inputs, {name: layers.Dense(size, name=name)(x) for name, size in sizes.items()})
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=LABEL_SMOOTHING)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY),
        dict.fromkeys(sizes, loss),
        loss_weights={name: BLOCKS.get(name) or AUXILIARY[name] for name in sizes},
    )
    return model


def _arrays(model) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]  # keras.Model
    """Weights of the trained network; the normalisation of the hidden layer becomes part of that layer."""
    kernel, bias = model.get_layer("hidden").get_weights()
    normalised = model.get_layer("normalised")
    gamma, beta, mean, variance = normalised.get_weights()
    scale = gamma / np.sqrt(variance + normalised.epsilon)
    arrays = {"hidden": kernel * scale, "hidden_bias": (bias - mean) * scale + beta}
    for name in BLOCKS:
        if name != "looks":
            arrays[name], arrays[f"{name}_bias"] = model.get_layer(name).get_weights()
    return arrays


def _principal_components(features: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and the leading components of the training side's features, each feature vector of unit length first."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = (features - mean).astype(np.float32)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return {"looks_mean": mean.astype(np.float32), "looks": axes[:, ::-1][:, :LOOKS].astype(np.float32)}
