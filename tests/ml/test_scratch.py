"""Training from scratch: all of a drawn backbone learns, from one side alone, and a killed training goes on."""

import keras
import numpy as np
import pytest
from keras import layers

from ml import embedding, finetune, scratch
from ml.backbones import LITE, _maps, _pooled, _scaled
from ml.features import Extractor
from ml.finetune import Options, Samples
from ml.split import TEST, TRAIN, VALIDATION

SIZE, N = (32, 24), 120
SIDES = np.resize([TRAIN, TRAIN, TRAIN, VALIDATION, TEST], N).astype(np.int8)
TYPES = [("Shirts", "Watches")[at % 2] for at in range(N)]
CODES = embedding.encode(TYPES, SIDES == TRAIN)[1]


class KilledError(Exception):
    """Stands for the signal that ends a training between two epochs."""


def pixels(chosen):
    """Noise under stripes, which lie in the one kind and stand in the other."""
    shown = np.random.default_rng(1).integers(0, 120, (N, *SIZE, 3))
    shown[::2, np.arange(SIZE[0]) // 3 % 2 == 0] += 100
    shown[1::2, :, np.arange(SIZE[1]) // 3 % 2 == 0] += 100
    return shown.astype(np.uint8)[chosen]


def samples(load=pixels):
    return Samples(np.arange(N) // 25, load, lambda chosen: {"articleType": embedding.one_hot(CODES[chosen], 2)})


@pytest.fixture
def backbone():
    """A small network in the form of those of the registry, drawn anew, and the same each time."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    images = keras.Input((*SIZE, 3), dtype="uint8")
    x = _scaled(images, LITE)
    for channels in (8, 16):
        x = layers.Conv2D(channels, 3, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return _pooled(images, _maps(keras.Model(images, x)))


def train(backbone, epochs, checkpoints, on_epoch=lambda _: None, load=pixels):
    return scratch.fit(backbone, samples(load), {"articleType": 2}, SIDES, Options(0, epochs, 0), checkpoints, on_epoch)


def test_every_weight_learns_from_the_training_side_and_the_kinds_are_told_apart(backbone):
    asked, before = [], [weight.numpy() for weight in backbone.weights]
    history = train(backbone, 12, {}, load=lambda chosen: asked.extend(chosen) or pixels(chosen))
    assert set(asked) == set(np.flatnonzero(SIDES != TEST))
    assert all(not np.array_equal(old, new.numpy()) for old, new in zip(before, backbone.weights, strict=True))
    assert len(history["loss"]) == len(history["val_loss"]) <= 12
    assert min(history["val_loss"]) < 0.4 < history["val_loss"][0]
    average = np.concatenate([Extractor(backbone)(pixels(np.arange(at, at + 30))).average for at in range(0, N, 30)])
    centres = [average[(code == CODES) & (SIDES == TRAIN)].mean(axis=0) for code in (0, 1)]
    nearer = np.argmin([np.linalg.norm(average - centre, axis=1) for centre in centres], axis=0)
    assert (nearer == CODES)[SIDES == TEST].mean() > 0.9


def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(backbone):
    def kill(done):
        if done == 2:
            raise KilledError

    drawn, checkpoints = backbone.get_weights(), {}
    history = train(backbone, 4, {})
    whole = backbone.get_weights()
    backbone.set_weights(drawn)
    with pytest.raises(KilledError):
        train(backbone, 4, checkpoints, kill)
    assert 2 in checkpoints
    backbone.set_weights([weights + 1 for weights in drawn])  # what it was drawn as no longer counts
    assert train(backbone, 4, checkpoints) == history
    assert all(map(np.array_equal, backbone.get_weights(), whole))


def test_it_does_not_stop_at_the_first_epochs_that_are_no_better(backbone):
    rng = np.random.default_rng(0)
    chance = embedding.one_hot(rng.integers(0, 2, N), 2)
    nothing_to_learn = Samples(np.arange(N) // 25, pixels, lambda chosen: {"articleType": chance[chosen]})
    history = scratch.fit(backbone, nothing_to_learn, {"articleType": 2}, SIDES, Options(0, 40, 0), {})
    best = int(np.argmin(history["val_loss"])) + 1
    assert len(history["loss"]) == min(40, best + scratch.PATIENCE) > best + finetune.PATIENCE
