"""The classifier: training on one side only, figures equal to scikit-learn's, and a file that loads as it was saved."""

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

from ml import classifier, memory
from ml.classifier import Targets, make_targets
from ml.split import TEST, TRAIN, VALIDATION

GENDERS = ("Men", "Women")
SIDES = np.resize([TRAIN, TRAIN, TRAIN, VALIDATION, TEST], 150).astype(np.int8)


def clouds(seed=0, n=150, d=8, c=3):
    """Features in c clouds far apart, on very different scales, one of them constant; two genders in each cloud."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % c
    genders = np.arange(n) // c % 2
    features = rng.normal(size=(n, d)) + 8 * rng.normal(size=(c, d))[classes] + 8 * rng.normal(size=(2, d))[genders]
    features *= 10.0 ** rng.integers(-3, 3, d)
    features[:, 0] = 0.1
    return features.astype(np.float32), classes, genders


def learnt(classes, genders=None):
    """Targets of these classes, and of these genders where given."""
    fields = {} if genders is None else {"gender": [GENDERS[each] for each in genders]}
    return make_targets([f"class {each}" for each in classes], fields)


@pytest.fixture(scope="module")
def fitted():
    features, classes, _ = clouds()
    return classifier.fit(features, learnt(classes), SIDES, seed=0)


@pytest.fixture(scope="module")
def multi():
    features, classes, genders = clouds()
    return classifier.fit(features, learnt(classes, genders), SIDES, seed=0)


# What is learnt -------------------------------------------------------------------------------------------------------


def test_each_sample_has_one_column_for_its_subcategory_and_one_for_each_further_field():
    targets = make_targets(["Shoes", "Bags", "Shoes"], {"gender": ["Men", None, "Women"], "usage": [None, "NA", None]})
    assert (targets.labels, targets.others) == (["Bags", "Shoes"], ["gender=Men", "gender=Women", "usage=NA"])
    assert targets.values.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0]]
    assert targets.values.dtype == np.float32
    assert targets.classes.tolist() == [1, 0, 1]
    assert targets.take(np.array([2])).values.tolist() == [[0, 1, 0, 1, 0]]


# Training -------------------------------------------------------------------------------------------------------------


def test_separable_classes_are_told_apart_on_samples_never_seen(fitted):
    features, classes, _ = clouds()
    probabilities = classifier.predict(fitted.model, features[SIDES == TEST])
    assert (probabilities.argmax(axis=1) == classes[SIDES == TEST]).all()
    assert probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_the_history_has_a_value_an_epoch(fitted):
    assert set(fitted.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in fitted.history.values()} == {fitted.epochs} == {classifier.EPOCHS}
    assert fitted.history["loss"][-1] < fitted.history["loss"][0]
    assert fitted.history["val_accuracy"][-1] == 1.0


def test_no_label_of_a_held_out_side_changes_the_model(fitted):
    features, classes, _ = clouds()
    other = np.where(SIDES == TRAIN, classes, (classes + 1) % 3)
    again = classifier.fit(features, learnt(other), SIDES, seed=0)
    assert classifier.to_bytes(again.model) == classifier.to_bytes(fitted.model)


def test_training_again_gives_the_same_file_and_counts_its_epochs(fitted):
    features, classes, _ = clouds()
    epochs = []
    again = classifier.fit(features, learnt(classes), SIDES, seed=0, on_epoch=epochs.append)
    assert classifier.to_bytes(again.model) == classifier.to_bytes(fitted.model)
    assert epochs == [1] * classifier.EPOCHS


def test_a_feature_that_never_varied_in_training_cannot_decide_a_prediction(fitted):
    features, _, _ = clouds()
    changed = features[:20].copy()
    changed[:, 0] = 20.0
    before, after = (classifier.predict(fitted.model, each) for each in (features[:20], changed))
    assert after == pytest.approx(before, abs=1e-4)


def test_a_single_class_is_always_predicted():
    features = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    result = classifier.fit(features, learnt(np.zeros(10, int)), SIDES[:10], seed=0)
    assert classifier.predict(result.model, features) == pytest.approx(1)


def test_a_class_that_training_never_saw_has_a_column_all_the_same():
    features, classes, _ = clouds()
    classes = np.where(np.arange(150) == np.flatnonzero(SIDES == TEST)[0], 3, classes)
    result = classifier.fit(features, learnt(classes), SIDES, seed=0)
    assert classifier.predict(result.model, features).shape == (150, 4)


def test_nothing_to_validate_on_is_learnt_without():
    features, classes, _ = clouds(n=60)
    result = classifier.fit(features, learnt(classes), np.full(60, TRAIN, np.int8), seed=0)
    assert set(result.history) == {"loss", "accuracy"}
    assert (classifier.predict(result.model, features).argmax(axis=1) == classes).all()


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="no sample to train on, of 2"):
        classifier.fit(np.ones((2, 3), np.float32), learnt([0, 1]), np.full(2, TEST, np.int8), seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_refused_with_its_row(value):
    features, classes, _ = clouds(n=30)
    features[17, 3] = value
    with pytest.raises(ValueError, match="row 17 "):
        classifier.fit(features, learnt(classes), SIDES[:30], seed=0)


def test_half_of_what_it_says_is_what_its_memory_of_the_training_side_says(fitted, multi, monkeypatch):
    features, classes, genders = clouds()
    network, own = {}, {"one": (fitted, learnt(classes)), "multi": (multi, learnt(classes, genders))}
    for share in (0, 1):
        monkeypatch.setattr(memory, "SHARE", share)
        for name, (_, targets) in own.items():
            model = classifier.fit(features, targets, SIDES, seed=0, stages=3).model
            network[name, share] = classifier.predict(model, features)
    monkeypatch.setattr(memory, "SHARE", 0.5)
    train = SIDES == TRAIN
    mean, axes = memory.components(features[train, 3:])
    looks = memory.looks(features[:, 3:].astype(np.float64), mean, axes)
    for name, (_, targets) in own.items():
        (recalled,) = memory.recall(looks, looks[train], [targets.values[train]], memory.TEMPERATURE)
        assert network[name, 1] == pytest.approx(recalled, abs=2e-3)
        both = classifier.predict(classifier.fit(features, targets, SIDES, seed=0, stages=3).model, features)
        assert both == pytest.approx((network[name, 0] + network[name, 1]) / 2, abs=1e-5)


# The multi-label variant ----------------------------------------------------------------------------------------------


def test_one_network_tells_subcategory_and_gender_apart(multi):
    features, classes, genders = clouds()
    test = SIDES == TEST
    outputs = classifier.predict(multi.model, features[test])
    assert outputs.shape == (30, 5)
    assert (outputs[:, :3].argmax(axis=1) == classes[test]).all()
    assert (outputs[:, 3:].argmax(axis=1) == genders[test]).all()
    assert multi.history["val_accuracy"][-1] == 1.0


def test_subcategory_probabilities_read_either_variant_the_same_way(fitted, multi):
    features, classes, _ = clouds()
    labels = learnt(classes).labels
    for result in (fitted, multi):
        probabilities = classifier.subcategory_probabilities(result.model, features, labels)
        assert probabilities.shape == (150, 3)
        assert [labels[best] for best in probabilities[SIDES == TEST].argmax(axis=1)] == [
            f"class {each}" for each in classes[SIDES == TEST]
        ]
    assert classifier.subcategory_probabilities(multi.model, features[:0], labels).shape == (0, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_label_metrics_equal_those_of_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    classes, genders = rng.integers(0, 3, n), rng.integers(0, 2, n)
    outputs = rng.random((n, 5)).astype(np.float32)
    values = np.concatenate([np.eye(3)[classes], np.eye(2)[genders]], axis=1).astype(np.float32)
    targets = Targets(["a", "b", "c"], ["gender=Men", "gender=Women"], values)
    found = classifier.label_metrics(outputs, targets)
    precision, recall, _, support = precision_recall_fscore_support(values, outputs >= 0.5, zero_division=0)
    assert list(found["labels"]) == ["subCategory=a", "subCategory=b", "subCategory=c", "gender=Men", "gender=Women"]
    each = found["labels"].values()
    assert [label["precision"] for label in each] == pytest.approx(precision)
    assert [label["recall"] for label in each] == pytest.approx(recall)
    assert [label["support"] for label in each] == support.tolist()
    assert found["fields"] == {
        "subCategory": pytest.approx(accuracy_score(classes, outputs[:, :3].argmax(axis=1))),
        "gender": pytest.approx(accuracy_score(genders, outputs[:, 3:].argmax(axis=1))),
    }
    assert json.loads(json.dumps(found)) == found


def test_a_field_is_judged_on_the_samples_that_have_it():
    targets = make_targets(["a", "a", "a"], {"gender": ["Men", None, "Women"], "usage": [None, None, None]})
    found = classifier.label_metrics(np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0]], np.float32), targets)
    assert found["fields"] == {"subCategory": 1.0, "gender": 0.5}
    assert found["labels"]["gender=Men"] == {"precision": pytest.approx(1 / 3), "recall": 1.0, "support": 1}
    nobody = classifier.label_metrics(np.empty((0, 3), np.float32), targets.take(np.zeros(3, bool)))
    assert nobody["fields"] == {"subCategory": None, "gender": None}


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
    features, _, _ = clouds()
    data = classifier.to_bytes(fitted.model)
    loaded = classifier.from_bytes(data, hashlib.sha256(data).hexdigest())
    assert np.array_equal(classifier.predict(loaded, features), classifier.predict(fitted.model, features))


def test_equal_models_in_different_places_of_memory_give_equal_files(fitted):
    data = classifier.to_bytes(fitted.model)
    sha256 = hashlib.sha256(data).hexdigest()
    copies = [classifier.from_bytes(data, sha256) for _ in range(3)]
    assert {classifier.to_bytes(copy) for copy in copies} == {data}


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
