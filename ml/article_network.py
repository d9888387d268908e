"""The network that finds articles: a backbone, three of its maps fused into one, and what is said of each cell.

Import it only where it is used: it imports Keras. The maps at strides 32, 16 and 8 are added from the coarsest on (Lin
et al. 2017, arXiv:1612.03144). Batches are small, so what is new is normalised in groups of channels, a photo at a time
(Wu and He 2018, arXiv:1803.08494); the backbone comes without normalisation, or keeps its own as it was.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers, ops
from PIL import Image

from ml.articles import CLASSES, LEAST, MOST, STRIDE, Articles, decode, fuse, in_photo, letterbox

BACKBONE, HEIGHT, WIDTH = "efficientnet-lite0", 384, 256
"""Of the registry, and the canvas that photos are placed on, in pixels."""
CHANNELS, GROUP = 96, 8
"""Of the fused map, and those that are normalised together."""
COARSEST = 32
"""Stride of the coarsest map: sides of the canvas are multiples of it."""
RARE = 0.01
"""How surely an untrained network takes a cell for a middle: hardly any is."""
REACH = 32.0
"""Pixels to the side of a box that an untrained network says, about."""
FOCUS, LENIENCE = 2, 4
"""Exponents of the focal loss: `alpha` and `beta` of arXiv:1904.07850."""
SHARES = {"heat": 1.0, "sides": 2.0, "masks": 2.0}
"""Of the outputs in the loss."""
AROUND, OUTSIDE = 0.4, 0.3
"""Of a person's box, looked at around it, and so far outside may be the middle of what the person wears: a bag, or a
hat. Found on the validation side: 0.1 and 0 find fewer of them, and boxes of all others less well."""
SCALES = (1, 5 / 6, 5 / 4)
"""Of the canvas that a network was trained on, those on which it looks at a person. Validation side: AP50 0.767 with
three, and recall and precision at 0.3 of confidence 75.5 and 77.5 %; with one 0.748, 74.8 and 75.7 %."""
LAYOUT = 1
"""Of a detector's file: to be raised when what was trained before can no longer be applied."""


def build(backbone, channels: int = CHANNELS):  # type: ignore[no-untyped-def]  # keras.Model → keras.Model
    """The network around a backbone as `ml.backbones` builds it, whose layers it shares.

    It takes uint8 (n, h, w, 3) and gives `heat` (n, r, c, classes), logits; `sides` (n, r, c, classes · 4), pixels; and
    `masks` (n, r, c, classes), logits.

    Raises:
        ValueError: the backbone's input is no multiple of `COARSEST` pixels a side.
    """
    _, height, width, _ = backbone.input_shape
    if height % COARSEST or width % COARSEST:
        raise ValueError(f"the canvas is {height} × {width} pixels, and its sides are to be multiples of {COARSEST}")
    fused = _fused(stages(backbone), channels)
    heat = _convolved(fused, channels, 3)
    heat = layers.Conv2D(
        len(CLASSES), 1, bias_initializer=keras.initializers.Constant(float(np.log(RARE / (1 - RARE)))), name="heat"
    )(heat)
    reach = layers.Conv2D(4 * len(CLASSES), 1, bias_initializer="ones", name="reach")(_convolved(fused, channels, 3))
    # A middle is half a cell from the cell's at most: no side is further behind it than that.
    sides = layers.Rescaling(REACH, -STRIDE / 2, name="sides")(layers.Activation("softplus")(reach))
    masks = layers.Conv2D(len(CLASSES), 1, bias_initializer=keras.initializers.Constant(-2.0), name="masks")(fused)
    return keras.Model(backbone.input, {"heat": heat, "sides": sides, "masks": masks}, name="articles")


def stages(backbone) -> list:  # type: ignore[no-untyped-def]  # keras.Model → Keras tensors
    """The last sums of a residual backbone at the three largest strides, the finest first."""
    sums = {layer.output.shape[1:3]: layer.output for layer in backbone.layers if isinstance(layer, layers.Add)}
    return list(sums.values())[-3:]


def _fused(maps: Sequence, channels: int):  # type: ignore[no-untyped-def]  # Keras tensors
    """One map as fine as the first, which has seen them all."""
    *finer, coarsest = [layers.Conv2D(channels, 1)(one) for one in maps]
    x = _mixed(coarsest, channels)
    whole = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Add()([x, layers.Conv2D(channels, 1)(whole)])
    for one in reversed(finer):
        x = _mixed(layers.Add()([layers.UpSampling2D(2)(x), one]), channels)
    return _convolved(x, channels, 3)


def _mixed(x, channels: int):  # type: ignore[no-untyped-def]  # Keras tensors
    """A map and what each place sees around it."""
    around = layers.SeparableConv2D(channels, 5, padding="same", use_bias=False)(x)
    return layers.Add()([x, _normalised(around, channels)])


def _convolved(x, channels: int, kernel: int):  # type: ignore[no-untyped-def]  # Keras tensors
    return _normalised(layers.Conv2D(channels, kernel, padding="same", use_bias=False)(x), channels)


def _normalised(x, channels: int):  # type: ignore[no-untyped-def]  # Keras tensors
    return layers.Activation("silu")(layers.GroupNormalization(channels // GROUP)(x))


# Losses: each a value a photo, so that their mean is over all middles of a batch --------------------------------------
def heat_loss(true, logits):  # type: ignore[no-untyped-def]  # tensors
    """Penalty-reduced focal loss; `true` is (n, r, c, classes · 2), `ml.articles.Targets.heat`."""
    true = _a_class(true, logits, 2)
    wanted, counts = true[..., 0], true[..., 1]
    middle, sure = ops.cast(wanted >= 1, logits.dtype), ops.sigmoid(logits)
    missed = middle * (1 - sure) ** FOCUS * ops.log_sigmoid(logits)
    false = (1 - middle) * (1 - wanted) ** LENIENCE * sure**FOCUS * ops.log_sigmoid(-logits)
    return _a_photo(-counts * (missed + false), ops.sum(middle))


def sides_loss(true, pixels):  # type: ignore[no-untyped-def]  # tensors
    """1 − generalised IoU (Rezatofighi et al. 2019, arXiv:1902.09630); `true` is (n, r, c, classes · 5)."""
    true, found = _a_class(true, pixels, 5), _a_class(pixels, pixels, 4)
    wanted, share = true[..., :4], true[..., 4]
    shared = _area(ops.minimum(wanted, found))
    union = _area(wanted) + _area(found) - shared
    hull = _area(ops.maximum(wanted, found))
    likeness = shared / ops.maximum(union, 1e-6) - (hull - union) / ops.maximum(hull, 1e-6)
    return _a_photo(share * (1 - likeness), ops.sum(share))


def _a_class(values, like, each: int):  # type: ignore[no-untyped-def]  # tensors
    """Channels of a map, `each` of a class, as an axis of classes and one of `each`."""
    return ops.reshape(values, (-1, *like.shape[1:3], len(CLASSES), each))


def _area(sides):  # type: ignore[no-untyped-def]  # tensors
    """Of boxes around one point, by the distances of their sides."""
    return ops.relu(sides[..., 0] + sides[..., 2]) * ops.relu(sides[..., 1] + sides[..., 3])


def masks_loss(true, logits):  # type: ignore[no-untyped-def]  # tensors
    """Cross-entropy a place; `true` is (n, r, c, classes + 1): shares of a cell, and 0 where a photo has no masks."""
    wanted, counts = true[..., :-1], true[..., -1:]
    entropy = ops.softplus(logits) - wanted * logits
    return ops.mean(counts * entropy, axis=(1, 2, 3))


def _a_photo(losses, middles):  # type: ignore[no-untyped-def]  # tensors
    """The sums of each photo, so scaled that their mean is the sum a middle."""
    photos = ops.cast(ops.shape(losses)[0], losses.dtype)
    return ops.sum(losses, axis=(1, 2, 3)) * photos / ops.maximum(middles, 1.0)


LOSSES = {"heat": heat_loss, "sides": sides_loss, "masks": masks_loss}


# Use ------------------------------------------------------------------------------------------------------------------
def on_canvases(model) -> list:  # type: ignore[no-untyped-def]  # keras.Model → keras.Model
    """The network for canvases of `SCALES`; the first is that which it was trained on, and all share its weights."""
    _, height, width, _ = model.input_shape
    models = [model]
    for scale in SCALES[1:]:
        shape = (*(COARSEST * round(scale * side / COARSEST) for side in (height, width)), 3)
        canvas = keras.tree.map_structure(lambda given, shape=shape: keras.Input(shape, dtype=given.dtype), model.input)
        models.append(keras.models.clone_model(model, input_tensors=canvas, clone_function=lambda layer: layer))
    return models


def find(  # type: ignore[no-untyped-def]  # keras.Model
    models: Sequence, photos: Sequence[np.ndarray], most: int = MOST, least: float = LEAST, masks: bool = False
) -> list[Articles]:
    """The articles in photos, uint8 (h, w, 3) each, of any sizes; `most` of a class, and each as sure as `least`.

    Networks for several canvases tell together what is found, and the first of them tells the `masks`.
    """
    if not photos:
        return []
    if len(models) == 1:
        return _look(models[0], photos, most, least, masks)
    told = max(most, MOST), min(least, LEAST)
    looks = [_look(model, photos, *told, masks and model is models[0]) for model in models]
    together = [fuse(of_photo, most, least) for of_photo in zip(*looks, strict=True)]
    return [found._replace(masks=first.masks) for found, first in zip(together, looks[0], strict=True)]


def _look(  # type: ignore[no-untyped-def]  # keras.Model
    model, photos: Sequence[np.ndarray], most: int, least: float, masks: bool
) -> list[Articles]:
    """What a network for one canvas finds."""
    _, height, width, _ = model.input_shape
    pictures = [Image.fromarray(photo) for photo in photos]
    placements = [letterbox(picture.size, height, width) for picture in pictures]
    canvases = [placement.draw(picture) for placement, picture in zip(placements, pictures, strict=True)]
    said = model.predict_on_batch(np.stack([np.asarray(canvas) for canvas in canvases]))
    heat, sure = (1 / (1 + np.exp(-np.asarray(said[name], np.float32))) for name in ("heat", "masks"))
    sides = np.asarray(said["sides"], np.float32).reshape(*heat.shape, 4)
    found = []
    for at, (placement, picture) in enumerate(zip(placements, pictures, strict=True)):
        articles = decode(heat[at], sides[at], most, least)
        if masks:
            articles = articles._replace(masks=np.moveaxis(sure[at], -1, 0))
        found.append(in_photo(articles, placement, picture.size))
    return found


def find_worn(  # type: ignore[no-untyped-def]  # keras.Model
    models: Sequence,
    photo: np.ndarray,
    person: Sequence[float],
    most: int = MOST,
    least: float = LEAST,
    masks: bool = False,
) -> tuple[Articles, tuple[int, int, int, int]]:
    """The articles of one person of a photo, uint8 (h, w, 3), and the part of the photo that was looked at.

    It is what a box around the `person` holds, left, top, right and bottom, and a bit more; `masks` are a grid over it.
    What is further away than `OUTSIDE` is somebody else's. The `models` are as `find` takes them.
    """
    height, width, _ = photo.shape
    left, top, right, bottom = person
    across, down = AROUND * (right - left), AROUND * (bottom - top)
    x, y = max(0, round(left - across)), max(0, round(top - down))
    part = photo[y : max(y + 1, round(bottom + down)), x : max(x + 1, round(right + across))]
    (found,) = find(models, [np.ascontiguousarray(part)], most, least, masks)
    boxes = found.boxes + np.array([x, y, x, y], np.float32)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    slack = OUTSIDE * np.array([right - left, bottom - top])
    worn = ((middles >= [left, top] - slack) & (middles <= [right, bottom] + slack)).all(axis=1)
    looked_at = (x, y, min(width, x + part.shape[1]), min(height, y + part.shape[0]))
    return Articles(boxes[worn], found.classes[worn], found.confidences[worn], found.masks), looked_at


def to_bytes(model, backbone: str = BACKBONE) -> bytes:  # type: ignore[no-untyped-def]  # keras.Model
    """All weights in float16, and what the network is built by, as a `.npz` archive; equal ones give equal bytes."""
    _, height, width, _ = model.input_shape
    channels = model.get_layer("heat").input.shape[-1]
    recipe = {"layout": LAYOUT, "backbone": backbone, "height": height, "width": width, "channels": channels}
    arrays = {f"{at:04d}": array.astype(np.float16) for at, array in enumerate(model.get_weights())}
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, recipe=np.array(json.dumps(recipe)), **arrays)
    return out.getvalue()


def from_bytes(data: bytes, sha256: str, build_backbone: Callable[[str, int, int], object]):  # type: ignore[no-untyped-def]  # → keras.Model
    """The network that `to_bytes` stored; nothing is unpickled.

    Args:
        data: the file.
        sha256: what it must have (hex).
        build_backbone: name, height and width of an input → the backbone, with any weights.

    Raises:
        ValueError: it has another SHA-256, or another release's layout.
    """
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise ValueError(f"the detector of articles has SHA-256 {actual}, expected {sha256}")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        recipe = json.loads(str(stored["recipe"]))
        if recipe["layout"] != LAYOUT:
            raise ValueError(
                f"the detector of articles {sha256} has layout {recipe['layout']}, and this release applies {LAYOUT}"
            )
        model = build(build_backbone(recipe["backbone"], recipe["height"], recipe["width"]), recipe["channels"])
        model.set_weights([stored[name].astype(np.float32) for name in sorted(stored.files) if name != "recipe"])
    return model
