"""The trained embedding: what kind of product an image shows, for whom, in what colour, and how it looks.

A network with one hidden layer learns a product's attributes from its image's features. The kind of product and whom
it is for are learnt as one attribute too, the derivedType: a clutch is hardly ever for men, so the likeliest of both
together is right more often than the likeliest of each, and their probabilities are sums of its own. Of an image of
which they are not known, look-alikes among the training images (`ml.memory`) have half a say in them.

The embedding is made of blocks: for some attributes the square roots of the network's class probabilities, and the
leading principal components of what earlier layers see, whitened. The dot product of two such square roots is the
Bhattacharyya coefficient of the two distributions (Bhattacharyya 1943): 1 where the network takes two images for the
same, 0 where it takes them for different things, and in between where it is in doubt. The last block orders what the
attributes leave equal, and keeps two crops of one photo together: look-alikes differ by little, which counts once it is
whitened. Each block is a unit vector times its weight, so a similarity reads as a weighted mean.

A catalogue says what its products are. Where that is known, the attribute's own axis has a share in its block: what
is found is then what the catalogue, not the network, takes for the same. An image of which nothing is known, or
nothing may be used because it is held out to measure with, is embedded by what it shows alone, and its block is only as
long as the network is sure, (1 + the greatest probability) / 2. The rest of its length goes to the last block, *doubt*,
in which hardly anything but copies of one photo agree: what is guessed counts for less than what is known.

Every number that an embedding follows from is in the embedder's file, the constants as its `Recipe`, and is applied
from there: so the file's SHA-256 names the space, and a constant that changes here changes what is trained afterwards.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from ml import memory
from ml.features import Features
from ml.memory import unit
from ml.similarity import UNIT, to_embedding
from ml.split import TRAIN

JOINT, PARTS = "derivedType", ("articleType", "gender")
"""Each class of the joint attribute is of one class of each part: a part's probabilities are sums of the joint ones."""
COVERED = 0.9
"""Where less than this share of the samples of a part are of a joint class, the part has probabilities of its own."""
LOSSES = {
    "articleType": 1.2,
    "gender": 1.3,
    JOINT: 1.0,
    "baseColour": 0.55,
    "subCategory": 0.5,
    "usage": 0.2,
    "season": 0.2,
}
"""Attributes that are learnt, with their share of the loss; those without a block make the others better."""
OTHER_LOSS, OTHER_LOSSES = 0.2, 0.8
"""Share of the loss of each other label, of a catalogue that has fields of its own, and of all of them at most."""
OTHER_CLASSES, OTHER_SAMPLES = 512, 10
"""Classes of all other labels together, and samples that each class has, at least: a brand of two products would be
learnt by heart."""

HIDDEN, DROPOUT, LABEL_SMOOTHING = 1024, (0.3, 0.5), 0.05
EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 20, 2e-3, 1e-2
BATCHES, BATCH_SIZES = 64, (32, 512)
"""Batches an epoch, as far as the sizes of a batch let it: small catalogues learn in as few epochs as large ones."""
TINY = 1e-12
"""Of a probability: what nobody took an image for is not impossible, where nothing else is allowed."""
MISSING = -1
"""Code of an attribute that is not known."""
LAYOUT = 5
"""Of an embedder's file, and of how it is applied. To be raised when what was trained before can no longer be applied
or would give other embeddings; the first had none."""
UNTRAINED_NAME = "untrained"
"""Fingerprint of the embedding that is not trained. It follows from no file: to be changed when it is made otherwise,
by another `ml.similarity.UNIT` above all."""
_ROWS = 4096


class LayoutError(Exception):
    """A stored embedder has another layout than this release applies."""


@dataclass(frozen=True)
class Recipe:
    """What an embedding follows from beside arrays."""

    blocks: Mapping[str, float]
    """Attribute, or `looks` → weight of its block, in the order of the blocks."""
    joint: str
    """The attribute of which `<name>_sums` are sums."""
    clip: float
    """Standardised features are cut off at ± this many standard deviations."""
    sharpness: float
    """Probabilities are raised to this power: a block says what is likeliest, its length says how likely that is."""
    known: float
    """Share of a known attribute in its block before that is scaled to its weight; the network's view has the rest."""
    doubt: int
    """The last components of the block `looks`, of least variance, make the block `doubt`, in which images that only
    look alike differ."""
    temperature: float
    """Of the memory, as `ml.memory.TEMPERATURE` says."""
    share: float
    """Of the memory in a probability; the network has the rest."""
    unit: float
    """Embeddings are rounded to its multiples. Similarity is exact on one grid alone, that of `ml.similarity`."""

    def to_array(self) -> np.ndarray:
        """As it is stored: JSON, a string array ()."""
        return np.array(json.dumps(asdict(self)))


RECIPE = Recipe(
    blocks={"articleType": 1.5, "gender": 1.2, "baseColour": 0.8, "looks": 1.6},
    joint=JOINT,
    clip=5.0,
    sharpness=12.0,
    known=0.8,
    doubt=64,
    temperature=memory.TEMPERATURE,
    share=memory.SHARE,
    unit=UNIT,
)
"""Of what is trained now, chosen on the validation side of the real catalogue: see benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Embedder:
    """Features → embeddings; without arrays: the average-pooled features, untrained.

    `arrays` are the network's, float32, for each attribute that has a block the names of its c classes,
    `<name>_classes`, for those of `PARTS` 1 where one of the j classes of `JOINT` is of that class, `<name>_sums`
    (j, c), how the m images of the memory look, `memory` (m, c), and their classes of `PARTS`, `<name>_memory` int16
    (m,), the `recipe` by which they are applied, the `layout` of them all, the pictures it has `learnt`, int64, and the
    `detail` of their images, int32 (2,).
    """

    arrays: Mapping[str, np.ndarray]

    @cached_property
    def recipe(self) -> Recipe:
        """As it was stored."""
        return Recipe(**json.loads(str(self.arrays["recipe"])))

    @cached_property
    def _wide(self) -> dict[str, np.ndarray]:
        wide = {name: array.astype(np.float64) for name, array in self.arrays.items() if array.dtype.kind == "f"}
        for name in _remembered(self.recipe, self.arrays):
            labels = one_hot(self.arrays[f"{name}_memory"], len(self.arrays[f"{name}_classes"]))
            wide[f"{name}_memory"] = labels.astype(np.float64)
        return wide

    @property
    def learnt(self) -> np.ndarray:
        """Numbers of the pictures that it must not be judged by, int64 (p,): see `ml.pictures`."""
        return self.arrays.get("learnt", np.empty(0, np.int64))

    @property
    def detail(self) -> tuple[int, int] | None:
        """Height and width, in pixels, of the images that it has learnt from, as `ml.images.detail_of` has them.

        None where that is not told.
        """
        height, width = self.arrays.get("detail", (0, 0))
        return (int(height), int(width)) if height and width else None

    @property
    def looks(self) -> slice:
        """Where an embedding tells how an image looks, whatever it is taken for; of an untrained one all of it."""
        if not self.arrays:
            return slice(None)
        widths = [
            len(self.arrays[f"{name}_classes"]) for name in self.recipe.blocks if f"{name}_classes" in self.arrays
        ]
        return slice(sum(widths), sum(widths) + self.arrays["looks"].shape[1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file, or `UNTRAINED_NAME`."""
        return hashlib.sha256(self.to_bytes()).hexdigest() if self.arrays else UNTRAINED_NAME

    def apply(
        self,
        features: Features,
        known: Mapping[str, Sequence[str | None]] | None = None,
        among: Mapping[str, Sequence[Collection[str]]] | None = None,
    ) -> np.ndarray:
        """Embeddings of n images, float32 (n, e) in fixed point.

        In float64, so that rounding to the grid gives the same bits whatever computes it, in batches of any size.

        Args:
            features: the images'.
            known: attribute → what is known of each of the n images; None where nothing is, or nothing may be used.
            among: attribute → the values that each of the n images may have; where it has none of them, or none is
                named, any.

        Raises:
            ValueError: the features have another width than those it was trained on.
        """
        if not self.arrays:
            return to_embedding(features.average)
        width, wanted = sum(columns.shape[1] for columns in features), len(self.arrays["mean"])
        if width != wanted:
            raise ValueError(f"features have {width} dimensions, not {wanted}")
        blocks = self.recipe.blocks
        codes = {name: self._codes(name, values) for name, values in (known or {}).items() if name in blocks}
        allowed = {name: self._allowed(name, values) for name, values in (among or {}).items() if name in blocks}
        made = []
        for at in range(0, len(features.average), _ROWS):
            part = slice(at, at + _ROWS)
            of_part = [{name: values[part] for name, values in told.items()} for told in (codes, allowed)]
            made.append(to_embedding(_blocks(self.recipe, self._wide, features.take(part), *of_part)))
        return np.concatenate(made)

    def _codes(self, name: str, values: Sequence[str | None]) -> np.ndarray:
        """Place of each value among the attribute's classes, int (n,); −1 where it is none of them."""
        place = {value: code for code, value in enumerate(self.arrays.get(f"{name}_classes", np.array([])).tolist())}
        return np.array([place.get(value, MISSING) for value in values], np.int64)

    def _allowed(self, name: str, values: Sequence[Collection[str]]) -> np.ndarray:
        """Which classes of an attribute each image may be of, bool (n, c)."""
        classes = self.arrays.get(f"{name}_classes", np.array([])).tolist()
        allowed = np.array([[value in of_image for value in classes] for of_image in values], bool)
        return allowed | ~allowed.any(axis=1, keepdims=True)

    def to_bytes(self) -> bytes:
        """The arrays as a `.npz` archive; equal arrays give equal bytes."""
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **dict(sorted(self.arrays.items())))
        return out.getvalue()


UNTRAINED = Embedder({})


def from_bytes(data: bytes, sha256: str) -> Embedder:
    """The embedder that `Embedder.to_bytes` stored; nothing is unpickled.

    Raises:
        LayoutError: another release trained it, and its arrays cannot be applied.
        ValueError: the SHA-256 (hex) of `data` is not `sha256`.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise ValueError(f"the embedder has SHA-256 {actual}, expected {sha256}")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = dict(stored)
    if (layout := int(arrays.get("layout", 1))) != LAYOUT:
        raise LayoutError(f"the embedder {sha256} has layout {layout}, and this release applies layout {LAYOUT}")
    embedder = Embedder(arrays)
    if embedder.recipe.unit != UNIT:
        raise LayoutError(f"the embedder {sha256} rounds to {embedder.recipe.unit}, and this release to {UNIT}")
    return embedder


def _remembered(recipe: Recipe, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Attributes whose values the memory knows."""
    return [name for name in recipe.blocks if f"{name}_memory" in arrays]


def _blocks(
    recipe: Recipe,
    arrays: Mapping[str, np.ndarray],
    features: Features,
    known: Mapping[str, np.ndarray],
    allowed: Mapping[str, np.ndarray],
) -> np.ndarray:
    x = np.concatenate(features, axis=1).astype(np.float64)
    x = np.clip((x - arrays["mean"]) / arrays["deviation"], -recipe.clip, recipe.clip)
    x = np.maximum(x @ arrays["hidden"] + arrays["hidden_bias"], 0)
    looks = memory.looks(features.stages.astype(np.float64), arrays["looks_mean"], arrays["looks"])
    blocks, doubt = [], np.zeros(len(x))
    for name, probabilities in _probabilities(recipe, arrays, x, looks, known, allowed).items():
        greatest = probabilities.max(axis=1)
        block, sure = unit((probabilities / greatest[:, None]) ** (recipe.sharpness / 2)), (1 + greatest) / 2
        if name in known:
            at = np.flatnonzero(known[name] != MISSING)
            block[at] *= 1 - recipe.known
            block[at, known[name][at]] += recipe.known
            block, sure[at] = unit(block), 1
        blocks.append(recipe.blocks[name] * sure[:, None] * block)
        doubt += recipe.blocks[name] ** 2 * (1 - sure**2)
    blocks += [recipe.blocks["looks"] * looks, np.sqrt(doubt)[:, None] * unit(looks[:, -recipe.doubt :])]
    return np.concatenate(blocks, axis=1)


def _probabilities(
    recipe: Recipe,
    arrays: Mapping[str, np.ndarray],
    x: np.ndarray,
    looks: np.ndarray,
    known: Mapping[str, np.ndarray],
    allowed: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Of the classes of each attribute that has a block and that the training side has, float64 (n, c)."""
    probabilities = {}
    for name in [name for name in recipe.blocks if name in arrays and name != "looks"]:
        sums = arrays.get(f"{name}_sums")
        if sums is None:
            probabilities[name] = _softmax(arrays, name, x)
        else:
            others = {other: classes for other, classes in allowed.items() if other != name}
            probabilities[name] = _of_joint(recipe, arrays, x, others) @ sums
    asked = _remembered(recipe, arrays)
    nothing = np.full(len(x), MISSING)
    unknown = [known.get(name, nothing) == MISSING for name in asked]
    if np.any(unknown):
        at = np.flatnonzero(np.any(unknown, axis=0))
        labels = [arrays[f"{name}_memory"] for name in asked]
        recalled_labels = memory.recall(looks[at], arrays["memory"], labels, recipe.temperature)
        for name, recalled in zip(asked, recalled_labels, strict=True):
            opinion = probabilities[name][at]  # stands for the memory's where that knows no label
            probabilities[name][at] += recipe.share * (recalled - recalled.sum(axis=1, keepdims=True) * opinion)
    for name in allowed.keys() & probabilities.keys():
        probabilities[name] = _within(probabilities[name], allowed[name])
    return probabilities


def _of_joint(
    recipe: Recipe, arrays: Mapping[str, np.ndarray], x: np.ndarray, allowed: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Probabilities of the joint attribute, whose parts may be of the allowed classes only."""
    joint = _softmax(arrays, recipe.joint, x)
    for name in [name for name in allowed if f"{name}_sums" in arrays]:
        joint = _within(joint, allowed[name] @ arrays[f"{name}_sums"].T > 0)
    return joint


def _within(probabilities: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (n, c), given that a class is allowed, bool (n, c); as they are where none is."""
    left = np.where(allowed, probabilities + TINY, 0)
    total = left.sum(axis=1, keepdims=True)
    return np.where(total > 0, left / np.maximum(total, TINY), probabilities)


def _softmax(arrays: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    logits = x @ arrays[name] + arrays[f"{name}_bias"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def encode(values: Sequence[str | None], learnt: np.ndarray | None = None) -> tuple[list[str], np.ndarray]:
    """Classes in alphabetical order and the code of each value, int (n,); `MISSING` where it is None.

    With `learnt`, bool (n,), only those values are classes; others are missing if they are of none.
    """
    chosen = values if learnt is None else [value for value, is_learnt in zip(values, learnt, strict=True) if is_learnt]
    classes = sorted({value for value in chosen if value is not None})
    place: dict[str | None, int] = {value: code for code, value in enumerate(classes)}
    return classes, np.array([place.get(value, MISSING) for value in values], np.int64)


def one_hot(codes: np.ndarray, size: int) -> np.ndarray:
    """float32 (n, size): a row of zeros where the code is `MISSING`, which adds nothing to a cross-entropy."""
    return np.where((codes != MISSING)[:, None], np.eye(size, dtype=np.float32)[codes], np.float32(0))


def encode_labels(
    labels: Mapping[str, Sequence[str | None]], learnt: np.ndarray
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Label → its classes and codes, as `encode` gives them with `learnt`, bool (n,).

    Of a label that is none of `LOSSES` the most frequent classes, of which all such labels have `OTHER_CLASSES`.
    """
    most = OTHER_CLASSES // max(1, len(labels.keys() - LOSSES.keys()))
    return {
        name: encode(values if name in LOSSES else _frequent(values, learnt, most), learnt)
        for name, values in labels.items()
    }


def _frequent(values: Sequence[str | None], learnt: np.ndarray, most: int) -> list[str | None]:
    """The values, None where one is not among the `most` that are most frequent where they are learnt."""
    counts = Counter(value for value, is_learnt in zip(values, learnt, strict=True) if is_learnt and value is not None)
    ranked = sorted((-count, value) for value, count in counts.items() if count >= OTHER_SAMPLES)
    frequent = {value for _, value in ranked[:most]}
    return [value if value in frequent else None for value in values]


def fit(
    features: Features,
    attributes: Mapping[str, Sequence[str | None]],
    sides: np.ndarray,
    seed: int,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> tuple[Embedder, dict[str, list[float]]]:
    """Train an embedder on the training side; returns it and its history: a value an epoch of `loss` and each part.

    Args:
        features: of n images, finite.
        attributes: those of `LOSSES` that are there, and other labels by any name that is fit for a layer of Keras →
            the value of each of the n images, or None.
        sides: int8 (n,), as `ml.split.sides_of` gives them. Attributes of the other sides are not looked at.
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
    learnt = features.take(known)
    x = np.concatenate(learnt, axis=1)
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + 1e-3
    x = np.clip((x - mean) / deviation, -RECIPE.clip, RECIPE.clip).astype(np.float32)
    encoded = encode_labels(attributes, sides == TRAIN)
    sizes = {name: len(classes) for name, (classes, _) in encoded.items() if classes}
    targets = {name: one_hot(encoded[name][1][known], size) for name, size in sizes.items()}
    batch = int(np.clip(len(x) // BATCHES, *BATCH_SIZES))
    model = _network(x.shape[1], sizes, steps=EPOCHS * -(-len(x) // batch))
    epoch_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(1))
    history = model.fit(x, targets, batch_size=batch, epochs=EPOCHS, callbacks=[epoch_end], verbose=0).history
    arrays = {"layout": np.array(LAYOUT), "recipe": RECIPE.to_array()}
    arrays |= {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)} | _arrays(model)
    arrays["looks_mean"], arrays["looks"] = memory.components(learnt.stages)
    kept = memory.choose(len(known), seed)
    arrays["memory"] = memory.looks(learnt.stages[kept], arrays["looks_mean"], arrays["looks"])
    arrays |= {f"{name}_memory": encoded[name][1][known[kept]].astype(np.int16) for name in PARTS if name in sizes}
    arrays |= {f"{name}_classes": np.array(encoded[name][0]) for name in sizes if name in RECIPE.blocks}
    if JOINT in sizes:
        covered = [name for name in PARTS if targets[JOINT].sum() >= COVERED * targets[name].sum()]
        arrays |= {f"{name}_sums": _sums(targets[JOINT], targets[name]) for name in covered}
    return Embedder(arrays), {name: [float(value) for value in values] for name, values in history.items()}


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
    compile_heads(model, sizes, keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY))
    return model


def compile_heads(model, sizes: Mapping[str, int], optimizer) -> None:  # type: ignore[no-untyped-def]  # of Keras
    """Compile a network with an output of logits a label: cross-entropy each, weighted by its share of the loss."""
    import keras

    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=LABEL_SMOOTHING)
    other = min(OTHER_LOSS, OTHER_LOSSES / max(1, len(sizes.keys() - LOSSES.keys())))
    model.compile(
        optimizer,
        dict.fromkeys(sizes, loss),
        loss_weights={name: LOSSES.get(name, other) for name in sizes},
    )


def _arrays(model) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]  # keras.Model
    """Weights of the trained network; the normalisation of the hidden layer becomes part of that layer."""
    kernel, bias = model.get_layer("hidden").get_weights()
    normalised = model.get_layer("normalised")
    gamma, beta, mean, variance = normalised.get_weights()
    scale = gamma / np.sqrt(variance + normalised.epsilon)
    arrays = {"hidden": kernel * scale, "hidden_bias": (bias - mean) * scale + beta}
    for name in {*RECIPE.blocks, JOINT} & {*model.output_names}:
        arrays[name], arrays[f"{name}_bias"] = model.get_layer(name).get_weights()
    return arrays


def _sums(joint: np.ndarray, part: np.ndarray) -> np.ndarray:
    """1 where a class of `JOINT` is of a class of a part, float32 (j, c), by targets (n, j) and (n, c) of samples."""
    return (joint.T @ part > 0).astype(np.float32)
