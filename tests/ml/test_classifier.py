"""The classifier: a split that cannot leak, figures equal to scikit-learn's, and a file that loads as it was saved."""

import hashlib
import io
import json
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, top_k_accuracy_score

from ml import classifier
from ml.classifier import MIN_GROUPS, Split


def clouds(seed=0, n=150, d=8, c=3):
    """Features in c clouds far apart, on very different scales, one of them constant."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % c
    features = rng.normal(size=(n, d)) + 8 * rng.normal(size=(c, d))[classes]
    features *= 10.0 ** rng.integers(-3, 3, d)
    features[:, 0] = 0.1
    return features.astype(np.float32), classes


@pytest.fixture(autouse=True, scope="module")
def few_epochs():
    """Weights start at zero, so the first steps already point the right way; more would only take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "EPOCHS", 12)
        yield


@pytest.fixture(scope="module")
def fitted():
    features, classes = clouds()
    return classifier.fit(features, classes, classifier.split(classes, np.arange(150), 0), seed=0)


# The split ------------------------------------------------------------------------------------------------------------


@st.composite
def catalogues(draw):
    """Classes of very different sizes, and groups that may hold members of several."""
    n = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = np.minimum(rng.geometric(0.4, n) - 1, 6)
    return classes, rng.integers(0, draw(st.integers(1, 2 * n)), n)


@settings(max_examples=80, deadline=None)
@given(catalogues(), st.integers(0, 3))
def test_every_sample_is_on_one_side_and_no_group_is_divided(catalogue, seed):
    classes, groups = catalogue
    sides = classifier.split(classes, groups, seed)
    everything = np.concatenate([sides.train, sides.validation, sides.test])
    assert sorted(everything) == list(range(len(classes)))
    seen = [set(groups[side]) for side in (sides.train, sides.validation, sides.test)]
    assert sum(len(each) for each in seen) == len(set(groups))


@settings(max_examples=80, deadline=None)
@given(catalogues(), st.integers(0, 3))
def test_the_same_seed_gives_the_same_split(catalogue, seed):
    one, other = (classifier.split(*catalogue, seed) for _ in range(2))
    assert all(np.array_equal(getattr(one, side), getattr(other, side)) for side in ("train", "validation", "test"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 3))
def test_each_class_of_single_images_gives_a_fifth_to_test_and_a_fifth_of_the_rest_to_validation(sizes, seed):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    sides = classifier.split(classes, np.arange(len(classes)), seed)
    for each, n in enumerate(sizes):
        train, validation, test = (int((classes[side] == each).sum()) for side in vars(sides).values())
        if n < MIN_GROUPS:
            assert (train, validation, test) == (n, 0, 0)
        else:
            assert min(train, validation, test) >= 1
            assert test == 1 or abs(test - 0.2 * n) <= 0.5
            assert validation == 1 or abs(validation - 0.2 * (n - test)) <= 0.5


def test_large_groups_still_give_shares_near_a_fifth():
    groups = np.repeat(np.arange(250), 4)
    sides = classifier.split(np.zeros(1000, int), groups, 0)
    assert [len(side) for side in vars(sides).values()] == [640, 160, 200]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 30]), min_size=MIN_GROUPS, max_size=6), st.integers(0, 3))
def test_a_class_of_three_groups_or_more_has_one_on_every_side_however_uneven_they_are(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    assert all(len(side) for side in vars(classifier.split(np.zeros(len(groups), int), groups, seed)).values())


def test_another_seed_gives_another_split():
    classes = np.zeros(100, int)
    one, other = (classifier.split(classes, np.arange(100), seed) for seed in (0, 1))
    assert one.test.tolist() != other.test.tolist()


def test_an_image_of_a_common_and_a_rare_class_stays_where_the_rare_one_can_be_learnt():
    classes = np.array([0] * 20 + [1])
    groups = np.array([*range(20), 7])  # the only product of class 1 shares product 7's image
    for seed in range(20):
        assert {7, 20} <= set(classifier.split(classes, groups, seed).train)


# Training -------------------------------------------------------------------------------------------------------------


def test_separable_classes_are_told_apart_on_samples_never_seen(fitted):
    features, classes = clouds()
    test = classifier.split(classes, np.arange(150), 0).test
    probabilities = classifier.predict(fitted.model, features[test])
    assert (probabilities.argmax(axis=1) == classes[test]).all()
    assert probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_the_history_has_a_value_an_epoch(fitted):
    assert set(fitted.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in fitted.history.values()} == {fitted.epochs}
    assert fitted.history["loss"][-1] < fitted.history["loss"][0]


def test_training_stops_when_validation_stops_improving_and_keeps_the_best_weights():
    rng = np.random.default_rng(0)
    features, classes = rng.normal(size=(60, 200)).astype(np.float32), rng.integers(0, 2, 60)  # nothing to learn
    sides = classifier.split(classes, np.arange(60), 0)
    epochs = []
    result = classifier.fit(features, classes, sides, seed=0, on_epoch=epochs.append)
    best = int(np.argmin(result.history["val_loss"])) + 1
    assert result.epochs == best + classifier.PATIENCE == sum(epochs)
    probabilities = classifier.predict(result.model, features[sides.validation])
    loss = -np.log(probabilities[np.arange(len(sides.validation)), classes[sides.validation]]).mean()
    assert loss == pytest.approx(min(result.history["val_loss"]), rel=1e-5)


def test_training_again_gives_the_same_file(fitted):
    features, classes = clouds()
    again = classifier.fit(features, classes, classifier.split(classes, np.arange(150), 0), seed=0)
    assert classifier.to_bytes(again.model) == classifier.to_bytes(fitted.model)


def test_a_feature_that_never_varied_in_training_cannot_decide_a_prediction(fitted):
    features, _ = clouds()
    changed = features[:20].copy()
    changed[:, 0] = 0.2
    assert np.array_equal(classifier.predict(fitted.model, changed), classifier.predict(fitted.model, features[:20]))


def test_a_single_class_is_always_predicted():
    features = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    classes = np.zeros(10, int)
    result = classifier.fit(features, classes, classifier.split(classes, np.arange(10), 0), seed=0)
    assert classifier.predict(result.model, features) == pytest.approx(1)


def test_classes_too_small_to_split_are_learnt_without_validation():
    features, classes = clouds(n=6, c=3)
    sides = classifier.split(classes, np.arange(6), 0)
    assert (len(sides.train), len(sides.validation), len(sides.test)) == (6, 0, 0)
    result = classifier.fit(features, classes, sides, seed=0)
    assert (classifier.predict(result.model, features).argmax(axis=1) == classes).all()


def test_nothing_to_train_on_is_refused():
    none = np.empty(0, int)
    with pytest.raises(ValueError, match="no sample to train on, of 2"):
        classifier.fit(np.ones((2, 3), np.float32), np.zeros(2, int), Split(none, none, none), seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_refused_with_its_row(value):
    features, classes = clouds(n=30)
    features[17, 3] = value
    with pytest.raises(ValueError, match="row 17 "):
        classifier.fit(features, classes, classifier.split(classes, np.arange(30), 0), seed=0)


# Metrics --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(2, 8))
def test_metrics_equal_those_of_scikit_learn(seed, n, c):
    rng = np.random.default_rng(seed)
    classes, probabilities = rng.integers(0, c, n), rng.dirichlet(np.ones(c), n).astype(np.float32)
    found = classifier.metrics(probabilities, classes, [f"class {i}" for i in range(c)])
    predicted, every = probabilities.argmax(axis=1), np.arange(c)
    each = precision_recall_fscore_support(classes, predicted, labels=every, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert [found["classes"][f"class {i}"][name] for i in every] == pytest.approx(values)
    macro = precision_recall_fscore_support(classes, predicted, average="macro", zero_division=0)[2]
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["accuracy"] == accuracy_score(classes, predicted)
    if c > 3:
        assert found["top3_accuracy"] == top_k_accuracy_score(classes, probabilities, k=3, labels=every)
    pairs = [(int(t), int(p)) for t, p in zip(classes, predicted, strict=True) if t != p]
    expected = sorted(set(pairs), key=lambda pair: (-pairs.count(pair), pair))[: classifier.CONFUSIONS]
    assert [(row["true"], row["predicted"], row["count"]) for row in found["confusions"]] == [
        (f"class {t}", f"class {p}", pairs.count((t, p))) for t, p in expected
    ]


def test_metrics_of_no_samples_are_none_and_still_json():
    found = classifier.metrics(np.empty((0, 2), np.float32), np.empty(0, int), ["a", "b"])
    assert (found["accuracy"], found["top3_accuracy"], found["macro_f1"], found["confusions"]) == (None, None, None, [])
    assert json.loads(json.dumps(found)) == found


# The file -------------------------------------------------------------------------------------------------------------


def test_a_saved_model_predicts_the_same_to_the_bit(fitted):
    features, _ = clouds()
    data = classifier.to_bytes(fitted.model)
    loaded = classifier.from_bytes(data, hashlib.sha256(data).hexdigest())
    assert np.array_equal(classifier.predict(loaded, features), classifier.predict(fitted.model, features))


def test_the_file_holds_no_time_and_no_optimizer(fitted):
    with zipfile.ZipFile(io.BytesIO(classifier.to_bytes(fitted.model))) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(archive.read("metadata.json")) == {"keras_version": keras.__version__}
        assert json.loads(archive.read("config.json"))["compile_config"] == {}
        assert not any("optimizer" in name for name in archive.namelist())


def test_a_file_that_was_changed_is_refused(fitted):
    data = classifier.to_bytes(fitted.model)
    sha256 = hashlib.sha256(data).hexdigest()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(ValueError, match=f"expected {sha256}"):
        classifier.from_bytes(changed, sha256)


def test_a_file_with_code_in_it_is_refused_even_if_its_hash_is_the_expected_one():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    data = classifier.to_bytes(model)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        classifier.from_bytes(data, hashlib.sha256(data).hexdigest())
