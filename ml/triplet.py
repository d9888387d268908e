"""A triplet network for the trained embedding: its hidden layer learns what is to lie near what, not classes.

Import it only where it is used: it imports Keras. The hidden layer of `ml.embedding`, from where that left it, goes on
learning until of three pictures, an anchor, one of its kind and one of another, the first two lie closer together by a
margin (FaceNet: Schroff et al. 2015, arXiv:1503.03832). A kind is a derivedType in a colour. Of an anchor's kind are
other products, and likenesses of them and of itself: the pictures as photos show them (`ml.likenesses`). Of another are
products of the same subCategory alone, hard negatives: whatever else there is lies far off already. So a batch holds
handfuls of products of many kinds of a subCategory; each of its pictures is an anchor, and what counts is the furthest
picture of its kind and the nearest of another (batch hard: Hermans et al. 2017, arXiv:1703.07737).

Then the softmax layers learn anew by what the hidden layer, which stays as it is, shows them. So what comes out is an
embedder like any other, in which what is known of a product has its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from ml import embedding
from ml.embedding import DROPOUT, HIDDEN, MISSING, WEIGHT_DECAY, Embedder
from ml.features import Features
from ml.split import TRAIN

KIND, WITHIN = ("articleType", "gender", "baseColour"), "subCategory"
"""Attributes that make a kind, those of them that the catalogue has, and what pictures of other kinds share."""
MARGIN = 0.2
"""Of the squared distances of unit vectors."""
PRODUCTS, HANDFULS = 4, 32
"""Most products of a handful, all of one kind, and most handfuls of a batch."""
EPOCHS, LEARNING_RATE = 2, 3e-5
"""Of the hidden layer, whose weights are some 0.006: the rate is low, so that it keeps what it knows."""
SOFTMAX_EPOCHS, SOFTMAX_RATE, SOFTMAX_BATCH = 4, 3e-4, 512
"""Of the softmax layers afterwards. All rates fall to zero by a cosine."""
History = dict[str, list[float]]


class Likenesses(NamedTuple):
    """Features of likenesses (`ml.likenesses`) of m images, and which these are, int (m,)."""

    features: Features
    of: np.ndarray


class Batches(keras.utils.PyDataset):
    """Batches of (features, their kinds and what is within reach), drawn anew each epoch."""

    def __init__(self, shown: np.ndarray, of: np.ndarray, kinds: np.ndarray, groups: np.ndarray, seed: int) -> None:
        """Of pictures, float32 (m, d), of products `of`, int (m,); arguments else as those of `draw`."""
        super().__init__()
        self._shown, self._of, self._kinds, self._groups = shown, of, kinds, groups
        self._random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._batches[index]
        products = self._of[rows]
        return self._shown[rows], np.stack([self._kinds[products], self._groups[products]], axis=1).astype(np.float32)

    def on_epoch_end(self) -> None:
        """Draw the next epoch's."""
        self._batches = draw(self._of, self._kinds, self._groups, self._random)


def fit(
    head: Embedder,
    features: Features,
    likenesses: Likenesses,
    attributes: Mapping[str, Sequence[str | None]],
    sides: np.ndarray,
    seed: int,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> tuple[Embedder, dict[str, History]]:
    """Train the hidden layer of a head by triplets, and then its softmax layers.

    Args:
        head: what `ml.embedding.fit` made of the same features, attributes and sides.
        features: of n images, finite.
        likenesses: of some of those on the training side.
        attributes, sides: as for `ml.embedding.fit`.
        seed: of all chance.
        on_epoch: called with the number 1 after each epoch of the hidden layer.

    Returns:
        The embedder and, as `triplets` and `softmaxes`, the history of each part: a value an epoch of its losses.

    Raises:
        ValueError: there is no triplet among the images.
    """
    keras.utils.set_random_seed(seed)
    learnt = sides == TRAIN
    of = np.concatenate([np.flatnonzero(learnt), likenesses.of])
    shown = np.concatenate([standardise(head, features.take(learnt)), standardise(head, likenesses.features)])
    batches = Batches(shown, of, *kinds_of(attributes, learnt), seed)
    if not len(batches):
        raise ValueError(f"no two of {learnt.sum()} products are of different kinds within a {WITHIN}")
    hidden = layers.Dense(HIDDEN, activation="relu")
    inputs = keras.Input((shown.shape[1],))
    model = keras.Model(inputs, layers.UnitNormalization()(hidden(layers.Dropout(DROPOUT[0])(inputs))))
    hidden.set_weights([head.arrays["hidden"], head.arrays["hidden_bias"]])
    model.compile(_adamw(LEARNING_RATE, EPOCHS * len(batches)), batch_hard)
    epoch_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(1))
    history = model.fit(batches, epochs=EPOCHS, callbacks=[epoch_end], shuffle=False, verbose=0).history
    kernel, bias = hidden.get_weights()
    codes = {name: codes[of] for name, (_, codes) in embedding.encode_labels(attributes, learnt).items()}
    softmaxes, after = _fit_softmaxes(head, np.maximum(shown @ kernel + bias, 0), codes)
    arrays = {**head.arrays, "hidden": kernel, "hidden_bias": bias, **softmaxes}
    return Embedder(arrays), {"triplets": history, "softmaxes": after}


def standardise(head: Embedder, features: Features) -> np.ndarray:
    """What a head's hidden layer is shown of n images, float32 (n, d)."""
    x = (np.concatenate(features, axis=1) - head.arrays["mean"]) / head.arrays["deviation"]
    return np.clip(x, -head.recipe.clip, head.recipe.clip, dtype=np.float32)


def kinds_of(attributes: Mapping[str, Sequence[str | None]], learnt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each of n products and the group that its negatives are of, int (n,) each.

    `MISSING` are the kinds of those that are not to be learnt from, bool (n,), of which a part is not known, or whose
    group is of one kind alone, and the groups of those without a `WITHIN`.
    """
    nothing = [None] * len(learnt)
    encoded = [embedding.encode(attributes.get(name, nothing), learnt) for name in KIND]
    parts = [codes for classes, codes in encoded if len(classes)]
    _, groups = embedding.encode(attributes.get(WITHIN, nothing), learnt)
    told = learnt & np.all([codes != MISSING for codes in parts], axis=0)
    kinds = np.full(len(learnt), MISSING)
    described, numbers = np.unique(np.stack([groups, *parts])[:, told], axis=1, return_inverse=True)
    kinds[told] = numbers.reshape(-1)
    with_kinds, how_many = np.unique(described[0], return_counts=True)
    kinds[np.isin(groups, with_kinds[how_many == 1])] = MISSING
    return kinds, groups


def draw(of: np.ndarray, kinds: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Batches in which each product of a known kind comes once, with all its pictures: indices of pictures, int (b,).

    How many there are follows from the kinds alone.

    Args:
        of: int (m,), the product of each picture.
        kinds, groups: int (n,), as `kinds_of` has them of the products.
        random: of which products, and of which handfuls, come together.
    """
    pictures = np.flatnonzero(kinds[of] != MISSING)
    products, product = np.unique(of[pictures], return_inverse=True)
    handful = _parcels(kinds[products], PRODUCTS, random)
    group = np.empty(handful.max(initial=-1) + 1, int)
    group[handful] = groups[products]
    batch = _parcels(group, HANDFULS, random)[handful][product]
    order = np.argsort(batch, kind="stable")
    drawn = np.split(pictures[order], np.flatnonzero(np.diff(batch[order])) + 1)
    return [drawn[at] for at in random.permutation(len(drawn)) if len(drawn[at])]


def _parcels(keys: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """The number of the parcel of each of n items, int (n,): like many of one key, at most so many, by chance."""
    order = random.permutation(len(keys))
    order = order[np.argsort(keys[order], kind="stable")]
    _, key, counts = np.unique(keys[order], return_inverse=True, return_counts=True)
    place, of_key = np.arange(len(keys)) - (np.cumsum(counts) - counts)[key], -(-counts // most)
    parcels = np.empty(len(keys), int)
    parcels[order] = (np.cumsum(of_key) - of_key)[key] + place * of_key[key] // counts[key]
    return parcels


def batch_hard(told, vectors):  # type: ignore[no-untyped-def]  # tensors of Keras
    """The loss of each anchor of a batch, (b,): how far its hardest triplet is from its margin; 0 where it has none.

    Args:
        told: (b, 2), kinds and groups.
        vectors: float (b, v), of length 1.
    """
    kinds, groups = told[:, 0], told[:, 1]
    distances = 2 - 2 * ops.matmul(vectors, ops.transpose(vectors))
    same = kinds[:, None] == kinds[None]
    positives = ops.logical_and(same, ops.logical_not(ops.eye(ops.shape(vectors)[0], dtype="bool")))
    negatives = ops.logical_and(groups[:, None] == groups[None], ops.logical_not(same))
    furthest = ops.max(ops.where(positives, distances, 0.0), axis=1)
    nearest = ops.min(ops.where(negatives, distances, 4.0), axis=1)
    whole = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))
    return ops.where(whole, ops.relu(MARGIN + furthest - nearest), 0.0)


def _fit_softmaxes(
    head: Embedder, seen: np.ndarray, codes: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], History]:
    """Softmax layers like those of a head for m images of which a hidden layer shows this, float32 (m, h)."""
    sizes = {name: head.arrays[name].shape[1] for name in codes if name in head.arrays}
    inputs = keras.Input((seen.shape[1],))
    x = layers.Dropout(DROPOUT[1])(inputs)
    model = keras.Model(inputs, {name: layers.Dense(size, name=name)(x) for name, size in sizes.items()})
    for name in sizes:
        model.get_layer(name).set_weights([head.arrays[name], head.arrays[f"{name}_bias"]])
    steps = SOFTMAX_EPOCHS * -(-len(seen) // SOFTMAX_BATCH)
    embedding.compile_heads(model, sizes, _adamw(SOFTMAX_RATE, steps))
    targets = {name: embedding.one_hot(codes[name], size) for name, size in sizes.items()}
    history = model.fit(seen, targets, batch_size=SOFTMAX_BATCH, epochs=SOFTMAX_EPOCHS, verbose=0).history
    weights = {name: model.get_layer(name).get_weights() for name in sizes}
    return {name: kernel for name, (kernel, _) in weights.items()} | {
        f"{name}_bias": bias for name, (_, bias) in weights.items()
    }, history


def _adamw(rate: float, steps: int):  # type: ignore[no-untyped-def]  # → keras.optimizers.AdamW
    return keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(rate, steps), weight_decay=WEIGHT_DECAY)
