"""The registry, its offline backbone, and weights files that are read without running what they name."""

import importlib.util
import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np
import pytest

from ml import backbones, features, finetune
from ml import images as image_files
from ml.backbones import (
    BACKBONES,
    DRAWN,
    LITE_BLOCKS,
    fingerprint,
    lite_repeats,
    read_torch_weights,
    set_weights,
    to_bytes,
)

SIZE = (96, 64)


def packaged(name: str) -> bytes:
    package, _, file = BACKBONES[name].package.partition("/")
    return (Path(importlib.util.find_spec(package).origin).parent / file).read_bytes()


@pytest.fixture(scope="module")
def weights() -> bytes:
    return packaged("efficientnet-lite0")


@pytest.fixture(scope="module")
def extractor(weights):
    features.start(threads=2)
    return features.Extractor(BACKBONES["efficientnet-lite0"].build(weights, *SIZE, "float32"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).integers(0, 256, (features.BATCH, *SIZE, 3), dtype=np.uint8)


def same_pad(x, kernel, stride):
    """TensorFlow's SAME padding: the odd pixel goes to the end."""
    pads = []
    for size in x.shape[:2]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, (*pads, (0, 0)))


def convolve(x, filters, stride, groups):
    """A convolution of one image by its definition: filters (out, in / groups, k, k)."""
    out, _, kernel, _ = filters.shape
    windows = np.lib.stride_tricks.sliding_window_view(same_pad(x, kernel, stride), (kernel, kernel), axis=(0, 1))
    windows = windows[::stride, ::stride]  # h, w, channels, k, k
    if groups == 1:
        return np.einsum("hwcij,ocij->hwo", windows, filters, optimize=True)
    return np.einsum("hwcij,cij->hwc", windows, filters[:, 0], optimize=True)


def in_places(found, rows=4, columns=3):
    """Averages of a map in each place of a grid, from ⌊i·h/rows⌋ up to ⌈(i+1)·h/rows⌉, as PyTorch defines it."""
    height, width, _ = found.shape

    def span(at, size, count):
        return slice(at * size // count, -(-(at + 1) * size // count))

    grid = [(span(row, height, rows), span(column, width, columns)) for row in range(rows) for column in range(columns)]
    return np.concatenate([found[place].mean((0, 1)) for place in grid])


def reference_features(image, tensors, depth):
    """EfficientNet-Lite by its definition, in float64 numpy, with batch normalisation as a step of its own."""

    def layer(x, name, norm, stride=1, groups=1, activate=True):
        x = convolve(x, tensors[f"{name}.weight"].astype(np.float64), stride, groups)
        mean, variance = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
        x = (x - mean) / np.sqrt(variance + 1e-3) * tensors[f"{norm}.weight"] + tensors[f"{norm}.bias"]
        return np.clip(x, 0, 6) if activate else x

    x = layer((image.astype(np.float64) - 127) / 128, "_conv_stem", "_bn0", 2)
    index, stages, places = 0, [], np.empty(0)
    for repeats, (_, _, stride, expansion, _) in zip(lite_repeats(depth), LITE_BLOCKS, strict=True):
        for repeat in range(repeats):
            block, y = f"_blocks.{index}.", x
            if expansion != 1:
                y = layer(y, block + "_expand_conv", block + "_bn0")
            if stride == 2 and not repeat:  # the next convolution halves the map
                stages.append(y.mean((0, 1)))
                places = in_places(x)
            y = layer(y, block + "_depthwise_conv", block + "_bn1", 1 if repeat else stride, groups=y.shape[2])
            y = layer(y, block + "_project_conv", block + "_bn2", activate=False)
            x = x + y if repeat else y
            index += 1
    x = layer(x, "_conv_head", "_bn1")
    return x.mean((0, 1)), x.max((0, 1)), np.concatenate([*stages, places])


@pytest.mark.parametrize(
    ("name", "depth", "parameters"),  # those of the definition, with the last layer's 1,281,000
    [
        ("efficientnet-lite0", 1.0, 4_652_008),
        ("efficientnet-lite1", 1.1, 5_416_680),
        ("efficientnet-lite2", 1.2, 6_092_072),
    ],
)
def test_efficientnet_lite_computes_what_its_definition_says(images, name, depth, parameters):
    tensors = read_torch_weights(packaged(name))
    found = features.Extractor(BACKBONES[name].build(packaged(name), *SIZE, "float32"))(images[:2])
    for each, expected in zip(found, reference_features(images[0], tensors, depth), strict=True):
        np.testing.assert_allclose(each[0], expected, rtol=2e-3, atol=2e-3)
    learnt = sum(each.size for key, each in tensors.items() if "running" not in key and "num_batches" not in key)
    assert learnt == parameters


def test_an_image_has_the_same_features_whatever_batch_it_is_in(extractor, images):
    whole = extractor(images)
    order = np.random.default_rng(1).permutation(len(images))
    for chosen in (order, [0], [7], [len(images) - 1]):
        assert all(map(np.array_equal, extractor(images[chosen]), whole.take(chosen)))


def test_images_of_another_shape_are_refused_with_both_shapes(extractor):
    with pytest.raises(ValueError, match=r"\(96, 64, 3\).*\(1, 10, 10, 3\)"):
        extractor(np.zeros((1, 10, 10, 3), np.uint8))


def test_bfloat16_features_point_where_float32_features_do(extractor, images, weights):
    half = features.Extractor(BACKBONES["efficientnet-lite0"].build(weights, *SIZE, "bfloat16"), batch=4)
    average, exact = half(images[:4]).average, extractor(images[:4]).average
    cosine = (average * exact).sum(1) / np.linalg.norm(average, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.98
    assert not np.array_equal(average, exact)


def test_every_part_of_a_model_changes_its_fingerprint():
    base = ("efficientnet-lite0", "aa", 192, 144, "float32")
    others = [("resnet50", *base[1:]), (base[0], "bb", *base[2:]), (*base[:2], 96, *base[3:]), (*base[:4], "bfloat16")]
    assert len({fingerprint(*each) for each in [base, *others]}) == 5


def test_images_that_are_looked_at_in_less_detail_have_features_of_their_own(monkeypatch):
    given = ("efficientnet-lite0", "aa", 160, 120, "float32", "")
    assert fingerprint(*given, None) == fingerprint(*given)
    seen = [fingerprint(*given, detail) for detail in (None, (80, 60), (60, 80))]
    monkeypatch.setattr(image_files, "COARSENING", image_files.SHRINKING)
    seen += [fingerprint(*given, detail) for detail in (None, (80, 60))]
    assert seen[0] == seen[3]
    assert len({*seen}) == 4


@pytest.mark.parametrize("name", BACKBONES)
def test_every_constant_of_a_backbone_changes_its_fingerprint(monkeypatch, name):
    given = (name, "aa", 160, 120, "float32")
    constants = backbones.recipe(name)
    seen = {fingerprint(*given)}
    for constant in constants:
        monkeypatch.setattr(backbones, "recipe", lambda _, constant=constant: {**constants, constant: "another"})
        seen.add(fingerprint(*given))
    assert len(seen) == 1 + len(constants)


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (image_files, "FITTING", image_files.SHRINKING),
        (backbones, "GRIDS", ((1, 1),)),
        (backbones, "WIDEST", 1),
        (backbones, "SMALLER", 4),
        (backbones, "ROUNDING", "float32"),
        (backbones, "BATCH", 16),
    ],
)
def test_a_constant_counts_by_its_value(monkeypatch, where, name, value):
    before = fingerprint("resnet50", "aa", 160, 120, "float32")
    monkeypatch.setattr(where, name, value)
    assert fingerprint("resnet50", "aa", 160, 120, "float32") != before


def test_images_that_are_stored_otherwise_have_features_of_their_own(monkeypatch):
    before = fingerprint("efficientnet-lite0", "aa", 160, 120, "float32")
    monkeypatch.setitem(image_files.RECIPE, "long_side", 1024)
    assert fingerprint("efficientnet-lite0", "aa", 160, 120, "float32") != before


GOLDEN = {
    "fingerprint": "0311b9305fd6fd7067359cefb16bf8d6c9ad0488c39ba2aad7d63e3a1e21d62b",
    "average": [0, 0.1344, 0, 0, 0, 2.824, 0, 0],
    "maximum": [0, 0.8066, 0, 0, 0, 5.18, 0, 0],
    "stages": [0.1377, 1.035, 0.498, 1.071, -8.922, 6.582, 4.148, 3.646],
}
"""Of the image below; features of other processors and libraries differ by less than 1 %."""


def test_an_image_has_the_same_features_for_ever(extractor):
    rows, columns = np.indices(SIZE)
    image = np.stack([rows * columns // 11, rows * 2 + columns, (rows // 12 + columns // 12) * 90], axis=2) % 256
    found = extractor(image[None].astype(np.uint8))
    assert [each.shape[1] for each in found] == [1280, 1280, 96 + 144 + 240 + 672 + 12 * 112]
    named = fingerprint("efficientnet-lite0", "the package's", *SIZE, "float32")
    for name, each in zip(found._fields, found, strict=True):
        shown = each[0, :: each.shape[1] // 8][:8].tolist()
        assert (named, shown) == (GOLDEN["fingerprint"], pytest.approx(GOLDEN[name], rel=0.01, abs=0.01)), (
            f"{name} is made in another way. What changed must be a value of `backbones.recipe`, or features of two "
            "kinds have one fingerprint; then store both here."
        )


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("resnet50", "resnet"),
        ("resnet50v2", "resnet_v2"),
        ("resnet152", "resnet"),
        ("xception", "xception"),
        ("inceptionv3", "inception_v3"),
        ("inceptionresnetv2", "inception_resnet_v2"),
        ("nasnetlarge", "nasnet"),
    ],
)
def test_a_keras_application_sees_pixels_as_it_was_trained_to(images, name, module):
    expected = getattr(keras.applications, module).preprocess_input(images.astype(np.float32))
    found = np.asarray(backbones._scaled(keras.ops.convert_to_tensor(images), BACKBONES[name].scaling))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)


def test_a_keras_application_of_the_registry_builds_and_pools(tmp_path):
    import keras

    core = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(64, 64, 3))
    core.save_weights(tmp_path / "x.weights.h5")
    model = BACKBONES["resnet50"].build((tmp_path / "x.weights.h5").read_bytes(), 64, 64, "float32")
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    found = features.Extractor(model, batch=1)(images)
    names = ("conv1_relu", *[f"conv{at}_out" for at in ("2_block3", "3_block4", "4_block6")], "conv4_block6_add")
    outputs = [core.get_layer(name).output for name in (*names, "conv5_block3_out")]
    floats = keras.applications.resnet.preprocess_input(images.astype(np.float32))
    maps = [np.asarray(each)[0] for each in keras.Model(core.input, outputs)(floats)]
    np.testing.assert_allclose(found.average[0], maps[-1].mean((0, 1)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.maximum[0], maps[-1].max((0, 1)), rtol=1e-3, atol=1e-3)
    expected = np.concatenate([*[each.mean((0, 1)) for each in maps[:4]], in_places(maps[4], 2, 2)])
    np.testing.assert_allclose(found.stages[0], expected, rtol=1e-3, atol=1e-3)


# Weights drawn at random ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"])
def test_a_drawn_efficientnet_lite_is_the_packaged_one_with_its_batch_normalisations(name):
    def kernels(model):
        return [tuple(weight.shape) for weight in model.weights if weight.name == "kernel"]

    drawn, trained = (BACKBONES[name].build(weights, *SIZE, "float32") for weights in (DRAWN, packaged(name)))
    assert kernels(drawn) == kernels(trained)
    assert drawn.output_shape == trained.output_shape
    norms = [layer for layer in finetune.walk(drawn) if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == len(kernels(drawn))
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in finetune.walk(trained))


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50"])
def test_a_backbone_is_drawn_by_the_seed_and_takes_what_it_was_trained_to(name):
    drawn = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        drawn.append(BACKBONES[name].build(DRAWN, 32, 32, "float32"))
    first, again, other = map(to_bytes, drawn)
    assert first == again != other
    set_weights(drawn[2], first)
    assert to_bytes(drawn[2]) == first


class Evil:
    def __reduce__(self):
        return (print, ("pwned",))


def legacy_file(state: object) -> bytes:
    out = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {}, state):
        pickle.dump(value, out, protocol=2)
    return out.getvalue()


def test_a_weights_file_that_names_code_is_refused_and_the_code_does_not_run(capsys):
    with pytest.raises(ValueError, match="may not refer to"):
        read_torch_weights(legacy_file(OrderedDict(weight=Evil())))
    assert "pwned" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04zip", b"\x80\x02K\x01.", legacy_file({})[:-4]])
def test_what_is_no_weights_file_is_refused(data):
    with pytest.raises(ValueError, match="no weights file"):
        read_torch_weights(data)


def test_a_tensor_that_reaches_past_its_storage_is_refused():
    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", "FloatStorage", "0", "cpu", 4, None) if isinstance(value, Storage) else None

    class Tensor:
        def __reduce__(self):
            return (rebuild, (Storage(), 0, (100,), (1,), False, None))

    import sys
    import types

    rebuild = types.FunctionType((lambda *a: a).__code__, {}, "_rebuild_tensor_v2")
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    module = types.ModuleType("torch._utils")
    module._rebuild_tensor_v2 = rebuild
    sys.modules["torch"], sys.modules["torch._utils"] = types.ModuleType("torch"), module
    try:
        out = io.BytesIO()
        for value in (0x1950A86A20F9469CFC6C, 1001, {}):
            pickle.dump(value, out, protocol=2)
        pickler = Pickler(out, protocol=2)
        pickler.dump(OrderedDict(weight=Tensor()))
        pickle.dump(["0"], out, protocol=2)
        out.write(struct.pack("<q", 4) + bytes(16))
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]
    with pytest.raises(ValueError, match=r"shape \(100,\) reaches past"):
        read_torch_weights(out.getvalue())


# Tuned weights --------------------------------------------------------------------------------------------------------


def test_tuned_weights_are_stored_and_set_to_the_bit_and_unpickle_nothing(weights, images):
    tuned, other = (BACKBONES["efficientnet-lite0"].build(weights, *SIZE, "float32") for _ in range(2))
    last = [layer for layer in tuned.layers if layer.get_weights()][-1]
    last.set_weights([array * 1.25 for array in last.get_weights()])
    data = to_bytes(tuned)
    assert data == to_bytes(tuned) != to_bytes(other)
    set_weights(other, data)
    assert all(map(np.array_equal, tuned.get_weights(), other.get_weights()))
    small = to_bytes(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="weights"):
        set_weights(other, small)
    out = io.BytesIO()
    np.savez(out, **{"0000": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="pickle"):
        set_weights(other, out.getvalue())


def test_tuning_changes_the_fingerprint_and_none_leaves_it():
    given = ("efficientnet-lite0", "ab", 160, 120, "float32")
    assert fingerprint(*given) == fingerprint(*given, "") != fingerprint(*given, "cd")
