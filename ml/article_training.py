"""How a detector of articles learns: photos placed anew in each epoch, and weights averaged over the steps.

Import it only where it is used: it imports Keras. A training keeps a checkpoint an epoch and goes on from the last one,
with the same photos changed in the same ways, so a killed training ends as one that was never interrupted.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from ml import article_network as network
from ml import finetune
from ml.articles import CLASSES, STRIDE, Labels, Photos, Placement, areas, letterbox, targets
from ml.finetune import Checkpoints

BATCH = 16
"""Photos a step."""
LEARNING_RATE, BACKBONE_SHARE, WARM_UP, WEIGHT_DECAY = 1e-3, 0.25, 0.03, 1e-2
"""The highest rate, reached after a share `WARM_UP` of the steps, of which trained convolutions have a share; from
there it falls to zero by a cosine."""
CLIP_NORM = 5.0
"""Largest norm of a gradient."""
CONVOLUTIONS = 36
"""Last convolutions of the backbone that learn: all but those at strides 2 and 4 of efficientnet-lite0, whose edges and
colours any photo has, and which take a third of the time."""
AVERAGED = 0.05
"""Share of the steps that the weights are averaged over: so many have a say of e⁻¹ or more."""
JUDGED_EVERY = 4
"""Epochs between two looks at photos that are held out; the last epoch is looked at too."""

PLAIN = 0.2
"""Share of photos that are only mirrored, as they come when articles are looked for."""
ZOOM, ASPECT, SHIFT = (0.65, 1.7), 1.15, 0.05
"""Least and greatest size against that of the whole photo on the canvas; how much one side may be stretched against the
other; and how far a photo may lie outside its place, as a share of the canvas."""
SEEN, GLIMPSED, SMALL = 0.5, 0.02, 3.0
"""Articles of which so much is on the canvas are learnt, others not, nor taken for a mistake but where hardly any of
them is there; and pixels of the shorter side below which none is."""
LIGHT, HUE = (0.7, 1.35), 8
"""Least and greatest factor of brightness, contrast and colour, and steps of 256 round the circle of hues."""
BLUR, QUALITY = 1.2, (25, 85)
"""Greatest deviation of a blur, in pixels, and qualities of a JPEG."""
SPOILT = 0.3
"""Share of photos that each of these changes comes to, beside light."""


@dataclass(frozen=True)
class Options:
    """How to train; `seed` decides all chance."""

    epochs: int
    seed: int = 0


Judge = Callable[[keras.Model], dict[str, float]]
"""How good a network is, on photos that it does not learn from."""


class Batches(keras.utils.PyDataset):
    """Batches of (canvases, targets) of the photos at `chosen`, int (m,), all changed as `seed` decides."""

    def __init__(self, photos: Photos, chosen: np.ndarray, size: tuple[int, int], seed: Sequence[int]) -> None:
        super().__init__(workers=2, max_queue_size=4)
        self._photos, self._size, self._seed = photos, size, seed
        order = np.random.default_rng(seed).permutation(chosen)
        self._batches = np.array_split(order, -(-len(order) // BATCH))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rng, made = np.random.default_rng([*self._seed, index]), []
        for at in self._batches[index].tolist():
            photo = Image.fromarray(self._photos.load(at))
            placement = place(photo.size, *self._size, rng)
            canvas = spoil(placement.draw(photo), rng)
            made.append((np.asarray(canvas), *told(self._photos.labels[at], self._photos.regions(at), placement)))
        canvases, heat, sides, masks = (np.stack(parts) for parts in zip(*made, strict=True))
        return canvases, {"heat": heat, "sides": sides, "masks": masks}


def told(labels: Labels, regions: np.ndarray | None, placement: Placement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network is to say of a photo on its canvas, as `ml.article_network.LOSSES` take it."""
    height, width = placement.height, placement.width
    heat, sides = targets(visible(labels, placement), height, width)
    shape = (height // STRIDE, width // STRIDE)
    masks = np.zeros((*shape, len(CLASSES) + 1), np.float32)
    if regions is not None:
        placed = np.asarray(placement.draw(Image.fromarray(regions), 0, Image.Resampling.NEAREST))
        cells = placed.reshape(shape[0], STRIDE, shape[1], STRIDE)
        for at in range(len(CLASSES)):
            masks[..., at] = (cells == at + 1).mean(axis=(1, 3))
        masks[..., -1] = 1
    return heat.reshape(*shape, -1), sides.reshape(*shape, -1), masks


def visible(labels: Labels, placement: Placement) -> Labels:
    """The labels of a photo on its canvas, cut at its edges; those of which little is left are ignored."""
    whole = placement.onto(labels.boxes)
    boxes = whole.clip(0, np.tile([placement.width, placement.height], 2)).astype(np.float32)
    share = areas(boxes) / areas(whole).clip(1e-9)
    small = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) < SMALL
    there = (share > GLIMPSED) & (areas(boxes) > 0)
    ignored = labels.ignored | (share < SEEN) | small
    return Labels(boxes[there], labels.classes[there], ignored[there])


def place(size: tuple[int, int], height: int, width: int, rng: np.random.Generator) -> Placement:
    """A photo of `size`, width and height, somewhere on a canvas: mirrored or not, nearer or farther, a bit stretched.

    Some photos are only mirrored or not.
    """
    mirrored = bool(rng.random() < 0.5)
    whole = letterbox(size, height, width)
    if rng.random() < PLAIN:
        return Placement(height, width, whole.scale, whole.offset, mirrored)
    zoom = whole.scale[0] * np.exp(rng.uniform(*np.log(ZOOM)))
    stretched = np.exp(rng.uniform(-0.5, 0.5) * np.log(ASPECT))
    scale = np.array([zoom * stretched, zoom / stretched])
    canvas = np.array([width, height])
    room = canvas - scale * size
    offset = room * rng.random(2) + canvas * rng.uniform(-SHIFT, SHIFT, 2)
    return Placement(height, width, (scale[0], scale[1]), (offset[0], offset[1]), mirrored)


def spoil(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A canvas in another light, and of less quality."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        canvas = enhance(canvas).enhance(rng.uniform(*LIGHT))
    hue, blur, packed = rng.random(3) < SPOILT
    if hue:
        turn = int(rng.integers(-HUE, HUE, endpoint=True))
        tone, *others = canvas.convert("HSV").split()
        canvas = Image.merge("HSV", (tone.point(lambda value: (value + turn) % 256), *others)).convert("RGB")
    if blur:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
    if packed:
        file = io.BytesIO()
        canvas.save(file, "JPEG", quality=int(rng.integers(*QUALITY)))
        canvas = Image.open(file).convert("RGB")
    return canvas


def fit(  # type: ignore[no-untyped-def]  # keras.Model → keras.Model
    backbone,
    photos: Photos,
    chosen: np.ndarray,
    options: Options,
    checkpoints: Checkpoints,
    judge: Judge = lambda _: {},
    on_epoch: Callable[[dict[str, list[float]]], None] = lambda _: None,
):
    """A detector of articles, and its history.

    Args:
        backbone: as `ml.backbones` builds it; its layers are changed.
        photos: all photos; those at `chosen`, int (m,), are learnt from.
        options: how to train.
        checkpoints: of this training alone, which goes on from the last; it keeps that.
        judge: asked every `JUDGED_EVERY` epochs and of the last one.
        on_epoch: called with the history of the epochs done.

    Returns:
        The network with its averaged weights, and a value an epoch of the losses and of what `judge` says, NaN where
        it was not asked.

    Raises:
        ValueError: nothing to learn from.
    """
    if not len(chosen):
        raise ValueError(f"no photo to learn from, of {len(photos.names)}")
    keras.utils.set_random_seed(options.seed)
    known = keras.Model(backbone.input, network.stages(backbone))
    finetune.freeze(known, CONVOLUTIONS)
    model = network.build(backbone)
    optimizer = Averaging(options.epochs * -(-len(chosen) // BATCH), known.trainable_variables)
    model.compile(optimizer, network.LOSSES, loss_weights=network.SHARES)
    history = finetune.resume(model, checkpoints)
    size = model.input_shape[1:3]
    for epoch in range(len(history.get("loss", [])), options.epochs):
        finetune.seed_layers(model, (options.seed, epoch))
        batches = Batches(photos, chosen, size, (options.seed, epoch))
        fitted = model.fit(batches, shuffle=False, verbose=0).history
        said = {name: float(value) for name, (value,) in fitted.items()}
        if (epoch + 1) % JUDGED_EVERY == 0 or epoch + 1 == options.epochs:
            with _averaged(model):
                said |= judge(model)
        history = _longer(history, said, epoch)
        checkpoints[epoch + 1] = finetune.checkpoint(model, history)
        for earlier in checkpoints.keys() - {epoch + 1}:
            del checkpoints[earlier]
        on_epoch(history)
    _average(model)
    return keras.Model(model.inputs, model.output, name=model.name), history  # without the optimizer


def _longer(history: dict[str, list[float]], said: dict[str, float], epoch: int) -> dict[str, list[float]]:
    """A history with the values of one more epoch."""
    nothing = float("nan")
    names = dict.fromkeys([*history, *said])
    return {name: [*history.get(name, [nothing] * epoch), said.get(name, nothing)] for name in names}


class Averaging(keras.optimizers.AdamW):
    """AdamW at a lower rate for some variables, which averages the weights beside and does not go on from there."""

    def __init__(self, steps: int, slow: Sequence[keras.Variable]) -> None:
        warm_up = max(1, int(WARM_UP * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warm_up), warmup_target=LEARNING_RATE, warmup_steps=warm_up
        )
        momentum = 1 - 1 / max(1.0, AVERAGED * steps)
        super().__init__(
            rate, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM, use_ema=True, ema_momentum=momentum
        )
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self._slow = frozenset(id(form) for variable in slow for form in (variable, variable.value))

    def update_step(self, gradient, variable, learning_rate) -> None:  # type: ignore[no-untyped-def]  # tensors
        """A step of one variable."""
        share = BACKBONE_SHARE if id(variable) in self._slow else 1.0
        super().update_step(gradient, variable, learning_rate * share)

    def finalize_variable_values(self, var_list: list) -> None:
        """Nothing: Keras would let the weights go on from their average, after each epoch."""


def _average(model) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    """Give a network the average of its weights."""
    keras.optimizers.Optimizer.finalize_variable_values(model.optimizer, model.trainable_variables)


@contextmanager
def _averaged(model) -> Iterator[None]:  # type: ignore[no-untyped-def]  # keras.Model
    """The network has the average of its weights inside the block."""
    own = [keras.ops.convert_to_numpy(variable).copy() for variable in model.trainable_variables]
    _average(model)
    try:
        yield
    finally:
        for variable, values in zip(model.trainable_variables, own, strict=True):
            variable.assign(values)
