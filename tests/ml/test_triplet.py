"""The triplet network: hard negatives of a subCategory, and a hidden layer in which a kind lies together."""

import numpy as np
import pytest

from ml import embedding, triplet
from ml.features import Features
from ml.split import TEST, TRAIN
from ml.triplet import Likenesses, batch_hard, draw, fit, kinds_of, standardise

N, D = 900, 24
NAMES = ("articleType", "gender", "baseColour", "subCategory")


@pytest.fixture(scope="module")
def catalogue():
    """Features in which six articleTypes of three subCategories, gender and colour show beneath noise."""
    rng = np.random.default_rng(0)
    codes = {name: rng.integers(0, size, N) for name, size in (("articleType", 6), ("gender", 2), ("baseColour", 3))}
    directions = {name: rng.normal(size=(codes[name].max() + 1, D)) for name in codes}
    shown = sum(directions[name][codes[name]] for name in codes)
    average = (shown + rng.normal(size=(N, D)) + 6 * rng.normal(size=(N, 1)) * rng.normal(size=D)).astype(np.float32)
    codes["subCategory"] = codes["articleType"] // 2
    labels = {name: [f"{name} {code}" for code in codes[name]] for name in NAMES}
    labels["derivedType"] = [" ".join(both) for both in zip(labels["gender"], labels["articleType"], strict=True)]
    sides = np.where(np.arange(N) % 4 == 0, TEST, TRAIN).astype(np.int8)
    return Features(average, average + 1, average**3), labels, sides


@pytest.fixture(scope="module")
def head(catalogue):
    """Trained for so short that there is something left to learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "EPOCHS", 3)
        return embedding.fit(*catalogue, seed=1)[0]


def lit(features, random):
    """The same products as photos show them: how bright all is makes the difference."""
    light = random.normal(size=(len(features.average), 1)) * np.linspace(6, 12, D)
    return Features(*((column + light).astype(np.float32) for column in features))


@pytest.fixture(scope="module")
def likenesses(catalogue):
    features, _, sides = catalogue
    of = np.flatnonzero(sides == TRAIN)[::2]
    return Likenesses(lit(features.take(of), np.random.default_rng(3)), of)


@pytest.fixture(scope="module")
def trained(catalogue, head, likenesses):
    features, labels, sides = catalogue
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"EPOCHS": 6, "LEARNING_RATE": 2e-3, "SOFTMAX_EPOCHS": 5, "SOFTMAX_RATE": 1e-3}.items():
            patch.setattr(triplet, name, value)  # there are few steps
        return fit(head, features, likenesses, labels, sides, seed=1)


def hidden(embedder, features):
    """What the hidden layer shows of images, as unit rows."""
    x = np.maximum(standardise(embedder, features) @ embedder.arrays["hidden"] + embedder.arrays["hidden_bias"], 0)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def alike(embedder, catalogue, seen=None):
    """Share of the five nearest on the training side that have the kind of an image which was held out."""
    features, labels, sides = catalogue
    kinds, _ = kinds_of(labels, np.ones(N, bool))
    asked, known = np.flatnonzero(sides == TEST), np.flatnonzero(sides == TRAIN)
    scores = hidden(embedder, (seen or features).take(asked)) @ hidden(embedder, features.take(known)).T
    return (kinds[known[np.argsort(-scores, axis=1)[:, :5]]] == kinds[asked, None]).mean()


def test_a_kind_lies_closer_together_than_where_it_began_also_of_products_that_are_held_out(catalogue, head, trained):
    embedder, history = trained
    assert history["triplets"]["loss"][-1] < 0.7 * history["triplets"]["loss"][0]
    assert alike(embedder, catalogue) > alike(head, catalogue) + 0.05


def test_likenesses_teach_what_is_to_make_no_difference(catalogue, head, trained):
    photos = lit(catalogue[0], np.random.default_rng(4))
    assert alike(trained[0], catalogue, photos) > alike(head, catalogue, photos) + 0.1


def test_what_comes_out_tells_the_classes_apart_as_a_head_does_and_keeps_what_that_remembers(catalogue, head, trained):
    features, labels, sides = catalogue
    right = {}
    for who, embedder in (("head", head), ("triplets", trained[0])):
        said = embedder.apply(features)[sides == TEST, :6].argmax(axis=1)  # the block of the articleTypes
        right[who] = (
            embedder.arrays["articleType_classes"][said] == np.array(labels["articleType"])[sides == TEST]
        ).mean()
    assert right["triplets"] > max(0.7, right["head"] - 0.02)
    assert trained[0].arrays.keys() == head.arrays.keys()
    changed = {name for name, array in head.arrays.items() if not np.array_equal(array, trained[0].arrays[name])}
    softmaxes = {name + end for name in ("derivedType", "articleType", "gender", "baseColour") for end in ("", "_bias")}
    assert changed == {"hidden", "hidden_bias", *softmaxes}


def test_labels_of_what_is_held_out_are_not_looked_at(catalogue, head, likenesses, monkeypatch):
    monkeypatch.setattr(triplet, "EPOCHS", 1)
    monkeypatch.setattr(triplet, "SOFTMAX_EPOCHS", 1)
    features, labels, sides = catalogue
    others = {
        name: ["other" if side == TEST else value for value, side in zip(values, sides, strict=True)]
        for name, values in labels.items()
    }
    first, second = (fit(head, features, likenesses, told, sides, seed=1)[0].to_bytes() for told in (labels, others))
    assert first == second


def test_without_two_kinds_in_a_subcategory_there_is_nothing_to_learn(catalogue, head, likenesses):
    features, labels, sides = catalogue
    alone = {"articleType": labels["subCategory"], "subCategory": labels["subCategory"]}
    with pytest.raises(ValueError, match="no two of 675 products are of different kinds within a subCategory"):
        fit(head, features, likenesses, alone, sides, seed=1)


def test_a_batch_is_of_one_subcategory_and_several_kinds_and_each_product_comes_once_with_its_likeness(catalogue):
    _, labels, sides = catalogue
    labels = labels | {"baseColour": [value if at % 50 else None for at, value in enumerate(labels["baseColour"])]}
    kinds, groups = kinds_of(labels, sides == TRAIN)
    of = np.concatenate([np.flatnonzero(sides == TRAIN), np.flatnonzero(sides == TRAIN)[::3]])
    batches = draw(of, kinds, groups, np.random.default_rng(0))
    for rows in batches:
        products = np.unique(of[rows])
        assert len(np.unique(groups[products])) == 1 < len(np.unique(kinds[products]))
        assert set(np.flatnonzero(np.isin(of, products))) == set(rows)  # with all pictures
        assert len(products) <= triplet.PRODUCTS * triplet.HANDFULS
    told = np.flatnonzero(kinds[of] != embedding.MISSING)
    assert 600 < len(told) < len(of)
    drawn = np.concatenate(batches)
    assert sorted(drawn) == told.tolist()
    again = draw(of, kinds, groups, np.random.default_rng(1))
    assert len(again) == len(batches)
    assert {tuple(rows) for rows in again} != {tuple(rows) for rows in batches}


def test_most_pictures_of_a_batch_have_company_of_their_kind(catalogue):
    _, labels, sides = catalogue
    kinds, groups = kinds_of(labels, sides == TRAIN)
    batches = draw(np.flatnonzero(sides == TRAIN), kinds, groups, np.random.default_rng(0))
    of_batches = [kinds[np.flatnonzero(sides == TRAIN)[rows]] for rows in batches]
    assert np.mean(np.concatenate([np.bincount(of_batch)[of_batch] > 1 for of_batch in of_batches])) > 0.9


def slow_loss(kinds, groups, vectors, margin):
    losses = np.zeros(len(kinds))
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    for anchor in range(len(kinds)):
        positives = [d for at, d in enumerate(distances[anchor]) if at != anchor and kinds[at] == kinds[anchor]]
        negatives = [
            d for at, d in enumerate(distances[anchor]) if kinds[at] != kinds[anchor] and groups[at] == groups[anchor]
        ]
        if positives and negatives:
            losses[anchor] = max(0.0, margin + max(positives) - min(negatives))
    return losses


def test_the_loss_is_that_of_the_hardest_triplet_of_each_anchor():
    rng = np.random.default_rng(2)
    groups = np.array([0] * 9 + [1] * 3 + [2] * 2)
    kinds = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6])  # 3 and 5 are alone, 6 has no negative
    vectors = np.abs(rng.normal(size=(len(kinds), 5)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    told = np.stack([kinds, groups], axis=1).astype(np.float32)
    losses = np.asarray(batch_hard(told, vectors.astype(np.float32)))
    expected = slow_loss(kinds, groups, vectors, triplet.MARGIN)
    assert np.allclose(losses, expected, atol=1e-5)
    assert not losses[[8, 11, 12, 13]].any()
    assert (expected > 0).sum() > 4
