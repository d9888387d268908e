"""The trained embedding: it groups what the labels group, and is stored and applied to the bit."""

import hashlib
import io
from dataclasses import fields, replace

import numpy as np
import pytest

from ml import embedding, memory
from ml.embedding import LAYOUT, RECIPE, UNTRAINED, Embedder, LayoutError, fit, from_bytes
from ml.features import Features
from ml.similarity import UNIT, to_embedding
from ml.split import TEST, TRAIN

N, D = 900, 24


@pytest.fixture(scope="module")
def catalogue():
    """Features in which the attributes show, but not as what varies most."""
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(0, size, N) for name, size in (("articleType", 6), ("gender", 3), ("baseColour", 4))}
    labels["season"] = np.where(rng.random(N) < 0.3, -1, rng.integers(0, 4, N))
    directions = {name: rng.normal(size=(codes.max() + 1, D)) for name, codes in labels.items()}
    shown = sum(directions[name][codes] for name, codes in labels.items() if name != "season")
    features = 1.3 * shown + rng.normal(size=(N, D)) + 8 * rng.normal(size=(N, 1)) * rng.normal(size=D)
    average = features.astype(np.float32)
    labels = {name: [f"{name} {code}" if code >= 0 else None for code in codes] for name, codes in labels.items()}
    sides = np.where(np.arange(N) % 4 == 0, TEST, TRAIN).astype(np.int8)
    return Features(average, average + 1, average**3), labels, sides


@pytest.fixture(scope="module")
def embedder(catalogue):
    features, labels, sides = catalogue
    return fit(features, labels, sides, seed=1)[0]


def cooked(embedder, **changes):
    """The same arrays, applied otherwise."""
    return Embedder({**embedder.arrays, "recipe": replace(embedder.recipe, **changes).to_array()})


def neighbours(embeddings, queries):
    scores = embeddings[queries] @ embeddings.T
    scores[np.arange(len(queries)), queries] = -2
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def share_alike(values, found, queries):
    values = np.array(values)
    return (values[found] == values[queries, None]).mean()


def test_neighbours_of_images_it_has_not_learnt_from_are_of_the_same_kind_more_often(catalogue, embedder):
    features, labels, sides = catalogue
    queries = np.flatnonzero(sides == TEST)
    shares = {}
    for name, each in (("untrained", UNTRAINED), ("trained", embedder)):
        found = neighbours(each.apply(features), queries)
        shares[name] = [share_alike(labels[field], found, queries) for field in ("articleType", "gender")]
    assert shares["trained"][0] > shares["untrained"][0] + 0.1
    assert shares["trained"][1] > shares["untrained"][1] + 0.05


def test_what_only_the_earlier_stages_show_is_learnt(catalogue):
    features, labels, sides = catalogue
    noise = np.random.default_rng(5).normal(size=(N, D)).astype(np.float32)
    shown, _ = fit(Features(noise, noise, features.average), labels, sides, seed=1)
    said = shown.apply(Features(noise, noise, features.average))[:, :6].argmax(axis=1)  # the block of the articleTypes
    right = np.array([f"articleType {code}" for code in said]) == labels["articleType"]
    assert right[sides == TEST].mean() > 0.5


def test_embeddings_are_unit_rows_on_the_grid(catalogue, embedder):
    found = embedder.apply(catalogue[0])
    assert found.shape == (N, 6 + 3 + 4 + D + D)  # looks and doubt: as many components as there are
    assert np.array_equal(np.rint(found / UNIT) * UNIT, found)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 2e-3


def test_an_embedding_does_not_depend_on_the_others_in_its_batch(catalogue, embedder, monkeypatch):
    features = catalogue[0]
    whole = embedder.apply(features)
    assert np.array_equal(embedder.apply(features.take([7]))[0], whole[7])
    monkeypatch.setattr(embedding, "_ROWS", 13)
    assert np.array_equal(embedder.apply(features), whole)


def test_labels_of_the_test_side_are_not_looked_at(catalogue, embedder):
    features, labels, sides = catalogue
    spoilt = {
        name: ["spoilt" if side == TEST else value for value, side in zip(values, sides, strict=True)]
        for name, values in labels.items()
    }
    again, history = fit(features, spoilt, sides, seed=1)
    assert again.fingerprint == embedder.fingerprint
    assert len(history["loss"]) == embedding.EPOCHS
    assert history["loss"][-1] < history["loss"][0]


def test_a_label_of_a_shop_has_its_most_frequent_values_as_classes_and_makes_no_block(catalogue, embedder, monkeypatch):
    features, labels, sides = catalogue
    brands = np.random.default_rng(3).geometric(0.1, N)
    shown = [f"brand {brand}" if brand else None for brand in brands]
    of_learnt = np.unique(brands[sides == TRAIN], return_counts=True)
    enough = {f"brand {brand}" for brand, count in zip(*of_learnt, strict=True) if count >= embedding.OTHER_SAMPLES}
    classes, codes = embedding.encode_labels(labels | {"field_0": shown}, sides == TRAIN)["field_0"]
    assert set(classes) == enough
    assert [classes[code] if code >= 0 else None for code in codes] == [
        each if each in enough else None for each in shown
    ]
    monkeypatch.setattr(embedding, "OTHER_CLASSES", 6)
    two = embedding.encode_labels(labels | {"field_0": shown, "field_1": shown}, sides == TRAIN)
    most = sorted(of_learnt[0][np.argsort(-of_learnt[1], kind="stable")[:3]])
    assert [two[name][0] for name in ("field_0", "field_1")] == [[f"brand {brand}" for brand in most]] * 2
    for name, values in labels.items():
        assert np.array_equal(two[name][1], embedding.encode(values, sides == TRAIN)[1])
    again, history = fit(features, labels | {"field_0": labels["articleType"]}, sides, seed=1)
    assert history["field_0_loss"][-1] < history["field_0_loss"][0]
    assert again.arrays.keys() == embedder.arrays.keys()


def test_what_is_known_of_an_image_counts_and_only_there(catalogue, embedder):
    features, labels, sides = catalogue
    plain = embedder.apply(features)
    known = {
        name: [value if side == TRAIN else None for value, side in zip(labels[name], sides, strict=True)]
        for name in ("articleType", "gender")
    }
    found = embedder.apply(features, known)
    changed = (found != plain).any(axis=1)
    assert not changed[sides == TEST].any()
    assert changed[sides == TRAIN].mean() > 0.5
    queries = np.flatnonzero(sides == TEST)
    before, after = (share_alike(labels["articleType"], neighbours(each, queries), queries) for each in (plain, found))
    assert after > before


def test_a_guess_counts_for_less_than_what_is_known(catalogue, embedder):
    features, labels, sides = catalogue
    known = {
        "articleType": [v if side == TRAIN else None for v, side in zip(labels["articleType"], sides, strict=True)]
    }
    kinds = embedder.apply(features, known)[:, :6]  # the block of the articleTypes
    lengths = np.linalg.norm(kinds, axis=1)
    whole = RECIPE.blocks["articleType"] / np.linalg.norm(list(RECIPE.blocks.values()))
    assert np.abs(lengths[sides == TRAIN] - whole).max() < 1e-3
    assert lengths[sides == TEST].max() < whole
    assert lengths[sides == TEST].min() > whole / 2


def test_a_copy_of_a_guess_is_as_near_as_a_photo_to_itself(catalogue, embedder):
    features = catalogue[0]
    found = embedder.apply(features)
    again = embedder.apply(Features(*(each * np.float32(1.0001) for each in features)))
    assert np.abs((found * again).sum(axis=1) - 1).max() < 5e-3


def test_an_image_is_taken_for_nothing_but_what_it_may_be(catalogue, embedder):
    features, _, _ = catalogue
    classes = embedder.arrays["articleType_classes"].tolist()
    kinds = embedder.apply(features, among={"articleType": [("articleType 2", "articleType 4")] * N})[:, :6]
    taken = {classes[place] for place in np.unique(kinds.argmax(axis=1))}
    assert taken == {"articleType 2", "articleType 4"}
    plain = embedder.apply(features)[:, :6].argmax(axis=1)
    within = np.isin(plain, [classes.index(name) for name in sorted(taken)])
    assert np.array_equal(kinds.argmax(axis=1)[within], plain[within])


@pytest.mark.parametrize("values", [(), ("nothing that was learnt",)])
def test_an_image_that_may_be_anything_is_seen_as_any(catalogue, embedder, values):
    features, _, _ = catalogue
    assert np.array_equal(embedder.apply(features, among={"articleType": [values] * N}), embedder.apply(features))


def test_a_value_that_was_never_learnt_is_not_known(catalogue, embedder):
    features = catalogue[0].take(slice(3))
    nothing = {"articleType": ["new", None, "new"], "season": ["season 1"] * 3}
    assert np.array_equal(embedder.apply(features, nothing), embedder.apply(features))


def test_an_attribute_that_nothing_is_known_of_is_left_out(catalogue):
    features, labels, sides = catalogue
    bare, _ = fit(features, {**labels, "baseColour": [None] * N}, sides, seed=1)
    assert bare.apply(features).shape == (N, 6 + 3 + D + D)


def joined(labels):
    return [f"{kind}, {gender}" for kind, gender in zip(labels["articleType"], labels["gender"], strict=True)]


def test_the_probability_of_a_part_is_the_sum_over_the_joint_classes_that_are_of_it(catalogue):
    features, labels, sides = catalogue
    embedder, alone = (
        cooked(fit(features, labels | also, sides, seed=1)[0], share=0)  # the network, without the memory
        for also in ({"derivedType": joined(labels)}, {})
    )
    wide, x = embedder._wide, np.concatenate(features, axis=1)
    x = np.clip((x - wide["mean"]) / wide["deviation"], -RECIPE.clip, RECIPE.clip)
    x = np.maximum(x @ wide["hidden"] + wide["hidden_bias"], 0)
    odds = np.exp(x @ wide["derivedType"] + wide["derivedType_bias"]).reshape(N, 6, 3)  # in the order of their names
    said = odds.sum(axis=2) / odds.sum(axis=(1, 2))[:, None]
    found, before = embedder.apply(features)[:, :6], alone.apply(features)[:, :6]
    assert np.array_equal(found.argmax(axis=1), said.argmax(axis=1))
    assert not np.array_equal(found.argmax(axis=1), before.argmax(axis=1))
    whole = RECIPE.blocks["articleType"] / np.linalg.norm(list(RECIPE.blocks.values()))
    assert np.linalg.norm(found, axis=1) == pytest.approx(whole * (1 + said.max(axis=1)) / 2, abs=1e-3)


def test_kinds_that_are_for_one_gender_only_are_told_apart_better_by_learning_both_as_one():
    rng, kinds = np.random.default_rng(3), np.arange(N) * 7 % 6
    features = rng.normal(size=(6, D))[kinds] * 0.5 + rng.normal(size=(3, D))[kinds % 3] * 0.5 + rng.normal(size=(N, D))
    features = Features(*[features.astype(np.float32)] * 3)
    labels = {"articleType": [f"kind {k}" for k in kinds], "gender": [f"gender {k % 3}" for k in kinds]}
    sides = np.where(np.arange(N) % 4 == 0, TEST, TRAIN).astype(np.int8)
    right = {}
    for name, also in (("each", {}), ("as one", {"derivedType": joined(labels)})):
        found = fit(features, labels | also, sides, seed=1)[0].apply(features)
        both = (found[:, :6].argmax(axis=1) == kinds) & (found[:, 6:9].argmax(axis=1) == kinds % 3)
        right[name] = both[sides == TEST].mean()
    assert right["as one"] > right["each"]


def test_a_joint_attribute_that_is_known_of_few_products_says_nothing_of_its_parts(catalogue):
    features, labels, sides = catalogue
    seldom = [value if at % 2 else None for at, value in enumerate(joined(labels))]
    embedder, _ = fit(features, {**labels, "derivedType": seldom}, sides, seed=1)
    assert "articleType_sums" not in embedder.arrays
    said = embedder.apply(features)[:, :6].argmax(axis=1)
    right = np.array([f"articleType {code}" for code in said]) == labels["articleType"]
    assert right[sides == TEST].mean() > 0.5


def test_look_alikes_among_the_training_images_tell_what_no_network_can_learn():
    rng = np.random.default_rng(8)
    images = rng.normal(size=(300, 12))
    kinds = rng.integers(0, 6, 300)  # whatever they look like
    seen = np.concatenate([images, images + 0.03 * rng.normal(size=images.shape)]).astype(np.float32)
    features = Features(seen[:, :5], seen[:, :5], seen)
    labels = {"articleType": [f"kind {kind}" for kind in np.tile(kinds, 2)]}
    sides = np.repeat([TRAIN, TEST], 300).astype(np.int8)
    embedder, _ = fit(features, labels, sides, seed=0)
    asked = features.take(np.flatnonzero(sides == TEST))
    right = {}
    for share in (0, memory.SHARE):
        right[share] = (cooked(embedder, share=share).apply(asked)[:, :6].argmax(axis=1) == kinds).mean()
    assert right[0] < 0.8 < 0.95 < right[0.5], right


def test_what_the_catalogue_knows_is_not_looked_up_in_the_memory(catalogue, embedder):
    features, labels, _ = catalogue
    forgetful = cooked(embedder, share=0)
    assert np.array_equal(forgetful.apply(features, labels), embedder.apply(features, labels))
    assert not np.array_equal(forgetful.apply(features), embedder.apply(features))


# What the file says of itself -----------------------------------------------------------------------------------------

OTHERWISE = {
    "blocks": {"articleType": 1.0, "gender": 1.2, "baseColour": 0.8, "looks": 1.6},
    "joint": "another",
    "clip": 1.0,
    "sharpness": 6.0,
    "known": 0.5,
    "doubt": 3,
    "temperature": 0.3,
    "share": 0.25,
    "unit": 2.0**-10,
}


def test_the_constants_of_a_release_change_only_what_it_trains(catalogue, embedder, monkeypatch):
    features, labels, _ = catalogue
    data, before = embedder.to_bytes(), embedder.apply(features, {"gender": labels["gender"]})
    monkeypatch.setattr(embedding, "RECIPE", replace(RECIPE, **OTHERWISE))
    for name in ("TEMPERATURE", "SHARE"):
        monkeypatch.setattr(memory, name, 0.1)
    again = from_bytes(data, embedder.fingerprint)
    assert again.recipe == RECIPE
    assert np.array_equal(again.apply(features, {"gender": labels["gender"]}), before)


def test_what_is_trained_has_the_constants_of_its_release(catalogue, embedder, monkeypatch):
    features, labels, sides = catalogue
    monkeypatch.setattr(embedding, "RECIPE", replace(RECIPE, known=0.5))
    other, _ = fit(features, labels, sides, seed=1)
    assert other.recipe.known == 0.5
    same = [np.array_equal(other.arrays[name], array) for name, array in embedder.arrays.items() if name != "recipe"]
    assert all(same)
    assert np.array_equal(other.apply(features), embedder.apply(features))
    assert not np.array_equal(other.apply(features, labels), embedder.apply(features, labels))


@pytest.mark.parametrize("name", [field.name for field in fields(RECIPE)])
def test_every_constant_is_in_the_fingerprint(embedder, name):
    assert cooked(embedder, **{name: OTHERWISE[name]}).fingerprint != embedder.fingerprint


def test_an_embedder_of_another_layout_or_grid_cannot_be_applied(embedder):
    for other, said in (
        (
            Embedder({**embedder.arrays, "layout": np.array(4)}),
            f"has layout 4, and this release applies layout {LAYOUT}",
        ),
        (Embedder({"mean": np.zeros(3, np.float32)}), "has layout 1"),
        (cooked(embedder, unit=2.0**-10), f"rounds to {2.0**-10}, and this release to {UNIT}"),
    ):
        with pytest.raises(LayoutError, match=said):
            from_bytes(other.to_bytes(), other.fingerprint)


def pattern(*shape, of, by):
    """Numbers from −1 to 1 that no library draws: the same for ever."""
    return (np.arange(np.prod(shape)).reshape(shape) * by % of / of * 2 - 1).astype(np.float32)


GOLDEN_RECIPE = """{"blocks": {"gender": 1.25, "articleType": 1.5, "looks": 1.75}, "joint": "derivedType", "clip": 1.5,
    "sharpness": 6.0, "known": 0.75, "doubt": 3, "temperature": 0.25, "share": 0.375, "unit": 0.00048828125}"""
GOLDEN = {
    "layout": np.array(5),
    "recipe": np.array(GOLDEN_RECIPE),
    "mean": pattern(14, of=11, by=3),
    "deviation": pattern(14, of=13, by=5) / 4 + 0.5,
    "hidden": pattern(14, 7, of=101, by=37),
    "hidden_bias": pattern(7, of=7, by=3),
    "derivedType": pattern(7, 4, of=29, by=11),
    "derivedType_bias": pattern(4, of=5, by=2),
    "articleType": pattern(7, 3, of=23, by=7),
    "articleType_bias": pattern(3, of=3, by=2),
    "articleType_sums": np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32),
    "gender": pattern(7, 2, of=17, by=5),
    "gender_bias": pattern(2, of=3, by=1),
    "looks_mean": pattern(6, of=19, by=4) / 8,
    "looks": pattern(6, 5, of=31, by=12),
    "memory": memory.unit(pattern(9, 5, of=43, by=17)),
    "articleType_memory": np.array([0, 1, 2, 0, -1, 1, 2, 2, 0], np.int16),
    "gender_memory": np.array([1, 0, 0, 1, 1, -1, 0, 1, 0], np.int16),
    "articleType_classes": np.array(["Bags", "Shirts", "Watches"]),
    "gender_classes": np.array(["Men", "Women"]),
}
GOLDEN_SHA256 = "0348ec6890f90f72f43e0bb48b43e009d9e7fa4fe15424ddacfca767c5e7587e"
UNTRAINED_SHA256 = "0ea18ba6a69376be47540356e86bd04dc52d0c9594b301961d7bfae44bdda4e8"


def sha256(embeddings):
    return hashlib.sha256(np.ascontiguousarray(embeddings, "<f4").tobytes()).hexdigest()


def test_a_stored_embedder_gives_the_same_embeddings_for_ever():
    features = Features(pattern(40, 4, of=89, by=31), pattern(40, 4, of=97, by=41), pattern(40, 6, of=83, by=29))
    known = {"articleType": ["Shirts", None, "Hats", "Bags"] * 10, "gender": ["Men", None] * 20}
    embedder = Embedder(GOLDEN)
    said = sha256(np.concatenate([embedder.apply(features), embedder.apply(features, known)]))
    assert said == GOLDEN_SHA256, (
        "an embedder that was trained before is applied in another way: its embeddings no longer compare with those "
        "that are published, under one fingerprint. Raise LAYOUT in ml/embedding.py, and store the new hash here."
    )
    assert sha256(UNTRAINED.apply(features)) == UNTRAINED_SHA256, (
        "untrained embeddings are made in another way: change UNTRAINED_NAME in ml/embedding.py with them."
    )
    assert (int(GOLDEN["layout"]), UNTRAINED.fingerprint) == (LAYOUT, "untrained"), "store the new hashes here"


def test_it_is_stored_and_read_again_to_the_bit_and_unpickles_nothing(catalogue, embedder):
    data = embedder.to_bytes()
    again = from_bytes(data, embedder.fingerprint)
    assert again.to_bytes() == data
    assert np.array_equal(again.apply(catalogue[0]), embedder.apply(catalogue[0]))
    out = io.BytesIO()
    np.savez(out, hidden=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        from_bytes(out.getvalue(), hashlib.sha256(out.getvalue()).hexdigest())


def test_another_file_than_the_expected_one_is_refused(embedder):
    with pytest.raises(ValueError, match=r"SHA-256 .* expected abc"):
        from_bytes(embedder.to_bytes(), "abc")


def test_features_of_another_backbone_are_refused(embedder):
    with pytest.raises(ValueError, match="15 dimensions, not 72"):
        embedder.apply(Features(*[np.ones((2, 5), np.float32)] * 3))


def test_without_training_it_is_the_average_pooled_features():
    average = np.abs(np.random.default_rng(2).normal(size=(5, 8))).astype(np.float32)
    assert UNTRAINED.fingerprint == "untrained"
    assert np.array_equal(UNTRAINED.apply(Features(average, average * 2, average)), to_embedding(average))


def test_nothing_to_train_on_is_an_error():
    ones = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="no image to train on, of 3"):
        fit(Features(ones, ones, ones), {"gender": ["Men"] * 3}, np.full(3, TEST, np.int8), seed=0)
