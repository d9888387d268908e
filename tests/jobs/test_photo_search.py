"""Image search on a small catalogue of drawn products, with the real backbone, a real lake and a real Postgres."""

import csv
import io
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from infra import store
from infra.errors import TransientError, UserError
from infra.lake import Lake
from infra.settings import ATTRIBUTES
from jobs import classify, cli, heldout, similar
from jobs.cli import app
from jobs.features import read_all_features, read_embeddings
from jobs.photo_source import Photo, open_source
from jobs.printing import Terminal
from jobs.serve.known import KIND, Gallery, Pictures, attributes_of
from jobs.serve.search import BATCH, Searcher, Seen, Sight
from jobs.step import execute
from jobs.stored import read_images, sample_images
from ml import embedding, protocols, split, stages
from ml.features import Features
from ml.ground.pasting import draw_ground
from ml.ground.placing import VIEWS
from ml.images import ImageError, decode, load
from ml.protocols import copies
from tests.catalogues import extracted, folder, manifest, open_run, row, serve, styles, write_result, write_table

RUN = "2026-01-31"
N = 96
SIZE = {"input_height": 64, "input_width": 48}
COLOURS = ("Red", "Blue")


def attributes(number: int) -> dict[str, str]:
    """Product `number`: three articleTypes of a subCategory each, two genders, two colours, all combined."""
    return row(number, gender=("Men", "Women")[number // 3 % 2], baseColour=COLOURS[number // 6 % 2])


def photo(number: int, kind: str = "JPEG", shift: int = 0, background: str = "white") -> bytes:
    """A picture of product `number`: the articleType is its shape, the gender its orientation, the rest varies."""
    picture = Image.new("RGB", (60, 80), background)
    draw, of = ImageDraw.Draw(picture), attributes(number)
    colour = {"Red": (200, 30, 40), "Blue": (30, 60, 190)}[of["baseColour"]]
    x, y = 8 + number % 5 + shift, 10 + number % 7
    box = (x, y + 24, x + 40, y + 40) if of["gender"] == "Women" else (x + 12, y, x + 28, y + 56)
    shape = {"Tshirts": draw.rectangle, "Casual Shoes": draw.ellipse, "Handbags": draw.rectangle}[of["articleType"]]
    shape(box, fill=colour if of["articleType"] != "Handbags" else None, outline=colour, width=3)
    out = io.BytesIO()
    picture.save(out, kind, quality=95)
    return out.getvalue()


def live_run(lake, uri, name=RUN):
    """A run of the drawn catalogue that is live in the store at `uri`."""
    files = {f"images/{i}.jpg": photo(i) for i in range(N)}
    run = open_run(lake, name, store=uri, **SIZE)
    extracted(run, files | {"styles.csv": styles([*map(attributes, range(N))])})
    execute("classify", run)
    execute("candidates", run)
    serve(run)
    return run


@pytest.fixture(scope="module")
def night(postgres, tmp_path_factory):
    """The live run, a connection to its store and a searcher."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE DATABASE photos")
    uri = make_conninfo(postgres, dbname="photos")
    run = live_run(Lake(tmp_path_factory.mktemp("lake").as_uri()), uri)
    with store.connect(uri, Path()) as connection:
        yield run, connection, Searcher(connection, run.settings)


def kinds(items):
    return [(of["gender"], of["articleType"]) for of in (attributes(int(item.product_id)) for item in items)]


# One photo ------------------------------------------------------------------------------------------------------------


def test_an_unseen_photo_goes_through_all_stages_and_finds_products_of_its_kind(night):
    _, connection, searcher = night
    for number in range(6):
        answer = searcher.search(connection, photo(number, shift=6), {})
        wanted = attributes(number)
        assert answer.stage == "derivedType", answer
        assert (answer.subcategory.value, answer.derived_type.value) == (
            wanted["subCategory"],
            f"{wanted['gender']} {wanted['articleType']}",
        )
        assert all(0 < guess.confidence <= 1 for guess in (answer.subcategory, answer.derived_type))
        assert kinds(answer.items) == [(wanted["gender"], wanted["articleType"])] * 10


def test_a_run_without_a_classifier_is_searched_by_filters_alone_and_the_answer_says_so(night):
    run, connection, searcher = night
    version = run.lake.table("classifier").commit([], classify.CLASSIFIER, run="bare").version
    bare = replace(run, manifest=manifest(run))
    bare.manifest["results"]["classify"] |= {"tables": {"classifier": version}}
    sight = Sight(bare)
    (seen,) = sight.see([photo(3)])
    assert np.array_equal(seen.embedding, searcher.see([photo(3)])[0].embedding)
    assert (sight.labels, len(seen.probabilities)) == ([], 0)
    decision = stages.decide(seen.probabilities, sight.labels, None)
    assert (decision.stage, decision.why) == ("filters", "the run has no classifier that could name a subCategory")


def test_a_photo_of_the_catalogue_has_its_products_embedding_to_the_bit(night):
    run, connection, searcher = night
    known = read_embeddings(run)
    for number in (0, 17, 50):
        (seen,) = searcher.see([photo(number)])
        assert np.array_equal(seen.embedding, known[number])
        assert searcher.search(connection, photo(number), {}).items[0].product_id == str(number)


def test_of_a_photo_larger_than_the_catalogues_images_no_more_is_looked_at_than_they_show(night):
    _, _, searcher = night
    assert searcher.detail == (80, 60)
    large = Image.open(io.BytesIO(photo(4))).resize((180, 240), Image.Resampling.BICUBIC)
    files = [io.BytesIO() for _ in range(2)]
    large.save(files[0], "PNG")
    large.resize((60, 80), Image.Resampling.BOX).save(files[1], "PNG")
    seen, small = searcher.see([file.getvalue() for file in files])
    assert np.array_equal(seen.embedding, small.embedding)


def test_a_photo_of_twelve_megapixels_finds_its_product(night):
    run, connection, searcher = night
    known = read_embeddings(run)
    for number in (4, 33):
        out = io.BytesIO()
        Image.open(io.BytesIO(photo(number))).resize((3000, 4000), Image.Resampling.BICUBIC).save(out, "JPEG")
        answer = searcher.search(connection, out.getvalue(), {})
        assert answer.items[0].product_id == str(number)
        assert searcher.see([out.getvalue()])[0].embedding @ known[number] > 0.97


@pytest.mark.parametrize("size", [(60, 80), (600, 800), (45, 60), (300, 300)])
def test_a_photo_that_the_catalogue_has_is_taken_for_what_that_says_in_whatever_size(night, size):
    _, connection, searcher = night
    for number in (2, 40):
        out = io.BytesIO()
        Image.open(io.BytesIO(photo(number))).resize(size).save(out, "JPEG", quality=70)
        (seen,) = searcher.see([out.getvalue()])
        assert max(seen.probabilities) == 1
        answer = searcher.search(connection, out.getvalue(), {})
        assert (answer.subcategory.value, answer.subcategory.confidence) == (attributes(number)["subCategory"], 1)
    (unseen,) = searcher.see([photo(2, shift=9)])
    assert 0 < max(unseen.probabilities) < 1


def test_a_known_photo_is_embedded_with_what_the_catalogue_says_of_it_and_others_beside_it_as_they_are(night):
    run, rng = night[0], np.random.default_rng(0)
    sight = Sight(run, Pictures.of(run))
    known = {name: [attributes(number)[name] for number in range(N)] for name in ("articleType", "gender")}
    sides = np.where(np.arange(N) % 2, split.TRAIN, split.TEST).astype(np.int8)
    features = Features(*(values + rng.normal(0, 0.1, values.shape) for values in read_all_features(run)))
    sight.embedder, _ = embedding.fit(features, known, sides, 0)
    alone, unseen = sight.see([photo(4)]), sight.see([photo(4, shift=9)])
    assert [each.embedding.tolist() for each in sight.see([photo(4), photo(4, shift=9)])] == [
        each.embedding.tolist() for each in (*alone, *unseen)
    ]
    said = {name: [values[4]] for name, values in known.items()}
    served = sight.embedder.apply(read_all_features(run).take([4]), said)[0]
    assert np.array_equal(alone[0].embedding, served)
    assert not np.array_equal(sight.embedder.apply(read_all_features(run).take([4]))[0], served)


def test_a_photo_is_seen_in_no_more_detail_than_the_catalogue_was_by_the_nights_embedder(night):
    run = replace(night[0], manifest=manifest(night[0]))
    run.manifest["results"]["embed"]["figures"] |= {"detail": [40, 90]}
    assert Sight(run).detail == (40, 60)


def test_the_items_are_the_most_similar_of_the_derived_type_as_numpy_finds_them(night):
    run, connection, searcher = night
    (seen,) = searcher.see([photo(7, shift=6)])
    answer = searcher.answer(connection, seen, {"baseColour": "Red"}, 5)
    gender, article = answer.derived_type.value.split(" ", 1)
    members = [
        i
        for i in range(N)
        if (attributes(i)["gender"], attributes(i)["articleType"], attributes(i)["baseColour"])
        == (gender, article, "Red")
    ]
    scores = read_embeddings(run)[members] @ seen.embedding
    expected = sorted(zip(-scores, members, strict=True))[:5]
    assert [(item.product_id, -item.score) for item in answer.items] == [(str(i), score) for score, i in expected]


def test_a_filter_restricts_what_a_photo_is_taken_for(night):
    _, connection, searcher = night
    answer = searcher.search(connection, photo(0, shift=6), {"gender": "Women"})
    assert answer.derived_type.value == "Women Tshirts"
    assert answer.derived_type.confidence == 1  # the only one of Topwear for women
    bags = searcher.search(connection, photo(0, shift=6), {"articleType": "Handbags"})
    assert (bags.subcategory.value, bags.subcategory.confidence) == ("Bags", 1)
    assert {article for _, article in kinds(bags.items)} == {"Handbags"}


def test_filters_that_no_product_passes_give_an_empty_answer_that_says_so(night):
    _, connection, searcher = night
    answer = searcher.search(connection, photo(0), {"baseColour": "Mauve"})
    assert (answer.stage, answer.items, answer.subcategory) == ("filters", [], None)
    assert "no product passes" in answer.why


def test_where_the_subcategory_is_unsure_only_the_filters_count(night):
    _, connection, searcher = night
    (seen,) = searcher.see([photo(3, shift=6)])
    flat = Seen(seen.embedding, np.full_like(seen.probabilities, 0.25))
    answer = searcher.answer(connection, flat, {"gender": "Men"})
    assert (answer.stage, answer.derived_type) == ("filters", None)
    assert "subCategory is uncertain" in answer.why
    assert answer.items == store.similar_items_by_vector(connection, seen.embedding, {"gender": "Men"}, 10)


def test_where_the_derived_type_is_unsure_the_subcategory_is_searched(night, monkeypatch):
    _, connection, searcher = night
    monkeypatch.setattr(stages, "DERIVED_TYPE_LEAST", 1.01)
    (seen,) = searcher.see([photo(3, shift=6)])
    answer = searcher.answer(connection, seen, {})
    assert answer.stage == "subCategory"
    assert "derivedType is uncertain" in answer.why
    wanted = {"subCategory": answer.subcategory.value}
    assert answer.items == store.similar_items_by_vector(connection, seen.embedding, wanted, 10)


def test_a_phone_photo_with_background_is_answered_by_the_same_rules(night):
    _, connection, searcher = night
    small = Image.open(io.BytesIO(photo(1, background="peru")))
    noise = np.random.default_rng(0).integers(-20, 20, (1200, 900, 3))
    big = Image.fromarray((np.asarray(small.resize((900, 1200))) + noise).clip(0, 255).astype(np.uint8))
    turned, exif = big.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # as phones store it: to be turned clockwise
    upright, rotated = io.BytesIO(), io.BytesIO()
    big.save(upright, "PNG")
    turned.save(rotated, "PNG", exif=exif)
    answers = [searcher.search(connection, file.getvalue(), {}) for file in (upright, rotated)]
    assert len(answers[0].items) == 10
    assert answers[0] == answers[1]


def on_ground(number, seed, size=(450, 600)):
    """A large photo of product `number` on a drawn ground."""
    random = np.random.default_rng(seed)
    picture = Image.open(io.BytesIO(photo(number))).resize((size[0] // 2, size[1] // 2), Image.Resampling.BICUBIC)
    product = picture.convert("RGBA")
    product.putalpha(picture.convert("L").point(lambda value: 255 * (value < 235)))
    ground = draw_ground(size, random)
    ground.paste(product, (size[0] // 4, size[1] // 4), product)
    out = io.BytesIO()
    ground.save(out, "PNG")
    return out.getvalue()


def test_a_product_on_any_ground_is_seen_as_on_white(night):
    _, connection, searcher = night
    for number in (0, 1, 3, 4, 6):  # filled shapes
        on_white = searcher.see([photo(number, shift=6)])[0]
        seen = searcher.see([on_ground(number, seed=number)])[0]
        assert float(seen.embedding @ on_white.embedding) > 0.6
        wanted = attributes(number)
        found = kinds(searcher.search(connection, on_ground(number, seed=number), {}).items)
        assert found.count((wanted["gender"], wanted["articleType"])) >= 8


@pytest.fixture(scope="module")
def trained(night):
    """A sight by a trained embedder, and a gallery of what this makes of the products."""
    run, rng = night[0], np.random.default_rng(0)
    known = {name: [attributes(number)[name] for number in range(N)] for name in KIND}
    sides = np.where(np.arange(N) % 2, split.TRAIN, split.TEST).astype(np.int8)
    features = read_all_features(run)
    noisy = Features(*(values + rng.normal(0, 0.1, values.shape) for values in features))
    sight = Sight(run)
    sight.embedder, _ = embedding.fit(noisy, known, sides, 0)
    sight.gallery = Gallery(sight.embedder.apply(features, known), attributes_of(run))
    return sight


def nearest_by_looks(sight, seen):
    looks = sight.embedder.looks
    return attributes(int((sight.gallery.embeddings[:, looks] @ seen.embedding[looks]).argmax()))


def kind_blocks(sight, seen):
    """How near each product is to what was seen, looks aside."""
    others = slice(0, sight.embedder.looks.start)
    return sight.gallery.embeddings[:, others] @ seen.embedding[others]


def test_a_photographed_product_is_of_the_kind_of_those_that_alone_look_like_it(trained, monkeypatch):
    photos = [on_ground(number, seed=number) for number in (0, 1, 3, 4, 6)]
    monkeypatch.setattr(stages, "CLEAR", -2)
    told = trained.see(photos)
    monkeypatch.setattr(stages, "CLEAR", 3)
    untold, surer = trained.see(photos), []
    for seen, alone in zip(told, untold, strict=True):
        kind = nearest_by_looks(trained, seen)
        assert (max(seen.probabilities), trained.labels[seen.probabilities.argmax()]) == (1, kind["subCategory"])
        assert 0 < max(alone.probabilities) < 1
        likeness = kind_blocks(trained, seen)
        best = attributes(int(likeness.argmax()))
        assert [best[name] for name in KIND] == [kind[name] for name in KIND]
        surer.append(likeness.max() - kind_blocks(trained, alone).max())
    assert (min(surer) >= 0, max(surer) > 0.01) == (True, True)


def test_the_kind_of_what_is_worn_is_not_told_by_looks(trained, monkeypatch):
    monkeypatch.setattr(stages, "CLEAR", -2)
    data = on_ground(1, seed=1)
    (worn,) = trained.see([data], [["Tshirts", "Handbags", "Casual Shoes"]])
    (alone,) = trained.see([data])
    assert (max(worn.probabilities) < 1, max(alone.probabilities)) == (True, 1)


def test_a_product_on_any_ground_is_shown_as_it_is_most_like_one_of_the_catalogue(night, monkeypatch):
    _, _, searcher = night
    photos = [on_ground(number, seed=number) for number in (0, 1, 3, 4, 6)]
    products = searcher._sight.gallery.embeddings

    def best():
        return np.array([(products @ seen.embedding).max() for seen in searcher.see(photos)])

    of_all = best()
    monkeypatch.setattr("ml.ground.placing.VIEWS", VIEWS[:1])
    of_first = best()
    assert (of_all >= of_first - 1e-6).all()
    assert (of_all > of_first + 0.005).any()
    assert len(VIEWS) <= BATCH  # one call of the backbone


def test_a_sample_of_the_images_is_of_the_runs_own_and_the_same_each_time(night):
    run, _, _ = night
    hashes = sorted(set(run.products(["image_sha256"])["image_sha256"].to_pylist()))
    stored = set(read_images(run, hashes).values())
    assert set(sample_images(run, 10**6)) == stored
    few = sample_images(run, 7)
    assert len(few) == 7
    assert set(few) <= stored
    assert sample_images(run, 7) == few
    assert sample_images(run, 0) == []


def test_a_photo_no_larger_than_the_catalogues_images_is_left_as_it_is(night):
    _, _, searcher = night
    data = on_ground(1, seed=1, size=(60, 80))
    whole = {name: load(data, *size, searcher.detail) for name, size in searcher.sizes.items()}
    assert np.array_equal(searcher.see([data])[0].embedding, searcher.look([whole])[0].embedding)


def test_where_the_catalogue_is_not_on_white_photos_are_left_as_they_are(night, monkeypatch):
    run, _, _ = night
    monkeypatch.setattr("ml.ground.white.LIGHT", 256)  # then nothing is white
    sight = Sight(run)
    data = on_ground(1, seed=1, size=(300, 400))
    whole = sight.look([{name: load(data, *size, sight.detail) for name, size in sight.sizes.items()}])[0]
    assert np.array_equal(sight.see([data])[0].embedding, whole.embedding)


def test_a_photo_is_seen_the_same_alone_and_among_others(night):
    _, _, searcher = night
    photos = [photo(number, shift=3) for number in range(5)]
    together = searcher.see([photos[0], b"", *photos[1:]])
    assert isinstance(together.pop(1), ImageError)
    for each, data in zip(together, photos, strict=True):
        (alone,) = searcher.see([data])
        assert np.array_equal(alone.embedding, each.embedding)
        assert np.array_equal(alone.probabilities, each.probabilities)
    assert searcher.see([b""])[0].reason == "empty"


def test_the_evaluation_answers_photos_as_the_live_search_does(night):
    """In every stage, so that what is measured in batch is what people get."""
    run, connection, searcher = night
    products = heldout.read_products(run)
    catalogue = protocols.Catalogue(products.embeddings, products.attributes)
    labels = run.table("classifier").read(["labels"])["labels"][0].as_py()
    seen = [
        searcher.see([photo(number, shift=number % 9, background=("white", "peru")[number % 2])])[0]
        for number in range(16)
    ]
    unsure = [Seen(each.embedding, np.full_like(each.probabilities, 0.25)) for each in seen[:3]]
    blank = [Seen(np.zeros_like(each.embedding), each.probabilities) for each in seen[:3]]  # as near to all
    asked = seen + unsure + blank
    found = catalogue.search(
        np.stack([each.embedding for each in asked]), np.stack([each.probabilities for each in asked]), labels
    )
    met = set()
    for each, batch in zip(asked, found, strict=True):
        live = searcher.answer(connection, each, {})
        met.add(live.stage)
        assert batch.decision == stages.Decision(live.stage, live.why, live.subcategory, live.derived_type)
        assert products.ids[batch.items].tolist() == [item.product_id for item in live.items]
    assert met >= {"derivedType", "filters"}


def test_copies_of_held_out_photos_are_looked_for_among_all_products(night):
    run, _, searcher = night
    products = heldout.read_products(run)
    asked = sorted(set(products.hashes[products.sides == split.TEST]))[:6]
    stored, found = read_images(run, asked), []
    for sha in asked:
        made = copies(decode(stored[sha]))
        seen = [searcher.see([made[kind]])[0] for kind in ("recompressed", "cropped")]
        found.append([products.hashes[(products.embeddings @ each.embedding).argmax()] == sha for each in seen])
    shares = 100 * np.mean(found, axis=0)
    assert heldout.find_copies(run, products, 6) == {
        "recompressed_first": shares[0],
        "cropped_first": shares[1],
        "duplicates_first": 100 * np.mean(np.all(found, axis=1)),
    }


# What a person can get wrong ------------------------------------------------------------------------------------------


def test_what_is_no_image_is_refused_with_the_reasons_of_the_catalogue(night):
    run, connection, searcher = night
    for data, reason in ((b"hello, world", "not an image"), (b"", "empty"), (photo(1)[:700], "damaged")):
        with pytest.raises(ImageError) as caught:
            searcher.search(connection, data, {})
        assert caught.value.reason == reason


def test_an_unknown_field_is_named_with_the_known_ones(night):
    _, connection, searcher = night
    with pytest.raises(UserError, match="unknown field 'size'") as caught:
        searcher.search(connection, photo(1), {"size": "XL"})
    assert "gender, masterCategory" in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"input_height": 96},
            ["the settings ask for efficientnet-lite0", f"but run {RUN} was made", "LOOKALIKE_INPUT_HEIGHT"],
        ),
        ({"lake": "file:///nowhere"}, [f"run {RUN}", "the lake does not hold", "LOOKALIKE_LAKE=file:///nowhere"]),
    ],
)
def test_settings_that_do_not_fit_the_live_run_are_named(night, change, expected):
    run, connection, _ = night
    with pytest.raises(UserError) as caught:
        Searcher(connection, run.settings.model_copy(update=change))
    assert all(text in str(caught.value) for text in expected), str(caught.value)


def test_without_a_live_run_it_says_how_to_publish_one(lake, connection):
    with pytest.raises(UserError, match="no run is live"):
        Searcher(connection, open_run(lake).settings)


@contextmanager
def restored(run, file):
    """The content of a file of the lake, which is there again afterwards."""
    kept = run.lake.read_bytes(file)
    try:
        yield kept
    finally:
        run.lake.write_bytes(file, kept)


def test_a_live_run_that_cannot_be_filtered_as_the_stages_need_is_named(night):
    run, connection, _ = night
    other = manifest(run)
    other["results"]["similar"]["settings"]["fields"] = ["gender", "season"]
    with connection.transaction(force_rollback=True):
        store.adopt(connection, store.live(connection).run_id, RUN, other)
        with pytest.raises(UserError, match="lack articleType, subCategory") as caught:
            Searcher(connection, run.settings)
    assert caught.value.where == "LOOKALIKE_FIELDS=gender,season"


def test_steps_run_again_under_the_live_runs_name_change_nothing_of_what_is_served(night):
    run, connection, searcher = night
    (seen,) = searcher.see([photo(1)])
    version = write_table(run, "embeddings", [{"product_id": 0, "embedding": [1.0, 0.0]}], similar.EMBEDDINGS)
    with restored(run, f"runs/{RUN}/similar.json"), restored(run, f"runs/{RUN}/classify.json"):
        write_result(run, "similar", tables={"embeddings": version})
        run.lake.write_bytes(f"runs/{RUN}/classify.json", b"{}")
        (again,) = Searcher(connection, run.settings).see([photo(1)])
    assert np.array_equal(again.embedding, seen.embedding)
    assert np.array_equal(again.probabilities, seen.probabilities)


def test_a_classifier_that_was_changed_is_refused(night):
    run, connection, _ = night
    file = run.table("classifier").read(["model_file"])["model_file"][0].as_py()
    with restored(run, file) as kept:
        run.lake.write_bytes(file, kept + b"x")
        with pytest.raises(UserError, match="cannot be loaded: the model has SHA-256"):
            Searcher(connection, run.settings)


def test_a_run_that_was_embedded_by_other_rules_is_refused(night):
    run, connection, _ = night
    version = write_table(run, "embeddings", [{"product_id": 0, "embedding": [1.0, 0.0]}], similar.EMBEDDINGS)
    other = manifest(run)
    other["results"]["similar"]["tables"] = {"embeddings": version}
    with connection.transaction(force_rollback=True):
        store.adopt(connection, store.live(connection).run_id, RUN, other)
        with pytest.raises(UserError, match="has embeddings of 2 dimensions, and this release makes 1280") as caught:
            Searcher(connection, run.settings)
    assert "refresh as another run" in caught.value.remedy


def test_a_run_that_an_earlier_release_published_is_to_be_published_again(night):
    run, connection, _ = night
    with connection.transaction(force_rollback=True):
        store.adopt(connection, store.live(connection).run_id, RUN, {})
        with pytest.raises(UserError, match="published by an earlier release") as caught:
            Searcher(connection, run.settings)
    assert "make refresh" in caught.value.remedy


def test_a_searcher_of_a_run_that_is_no_longer_live_refuses_to_answer(night):
    run, connection, searcher = night
    mine = store.live(connection).run_id
    with connection.transaction():
        products = run.products(["product_id", *ATTRIBUTES, "image_sha256"]).slice(0, 2)
        other = store.begin(connection, "another", "another", run.settings.fields, {})
        store.load_products(
            connection,
            other,
            products,
            ("productDisplayName", "articleType"),
            np.arange(2),
            np.zeros((2, 1280), np.float32),
        )
        store.attach(connection, other, {"products": 2})
        store.flip(connection, other)
    with pytest.raises(TransientError, match=f"another went live after run {RUN}"):
        searcher.search(connection, photo(1), {})
    with connection.transaction():
        store.flip(connection, mine)


def test_an_answer_is_of_one_run_though_another_goes_live_meanwhile(night, monkeypatch):
    run, connection, searcher = night
    mine, other = store.live(connection).run_id, store.stored_with(connection, "another").run_id
    expected = searcher.search(connection, photo(1), {})
    ask = store.similar_items_by_vector

    def with_a_flip_before(*arguments):
        with psycopg.connect(run.settings.store, autocommit=True) as publisher, publisher.transaction():
            store.flip(publisher, other)
        return ask(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(store, "similar_items_by_vector", with_a_flip_before)
        answer = searcher.search(connection, photo(1), {})
    assert store.live(connection).run_id == other
    with connection.transaction():
        store.flip(connection, mine)
    assert answer == expected


# Many photos ----------------------------------------------------------------------------------------------------------


def asked(run, dataset):
    """The run with these photos to search for."""
    return open_run(run.lake, run.name, dataset=str(dataset), store=run.settings.store, **SIZE)


def rows_of(run, table):
    return run.lake.table(table, run.result("search").tables[table]).read().to_pylist()


def test_every_file_of_a_folder_is_answered_or_rejected_with_its_reason(night, tmp_path):
    run, connection, searcher = night
    files = {f"{number}.jpg": photo(number, shift=6) for number in range(11)}
    others = {"deep/note.txt": b"no image", "empty.jpg": b"", "cut.jpg": photo(1)[:700]}
    folder(tmp_path, files | others)
    result = execute("search", asked(run, tmp_path))
    found, rejects = rows_of(run, "searches"), rows_of(run, "search_rejects")
    assert [each["image"] for each in found] == sorted(files)
    assert {each["image"]: each["reason"] for each in rejects} == {
        "deep/note.txt": "not an image",
        "empty.jpg": "empty",
        "cut.jpg": "damaged",
    }
    assert (result.rows, result.rejects, result.figures["photos"]) == (11, 3, 14)
    for each in found:
        alone = searcher.search(connection, files[each["image"]], {})
        assert (each["stage"], each["why"]) == (alone.stage, alone.why)
        assert (each["subCategory"], each["derivedType"]) == (alone.subcategory.value, alone.derived_type.value)
        assert each["derivedType_confidence"] == pytest.approx(alone.derived_type.confidence)
        assert list(zip(each["items"], each["scores"], strict=True)) == [(i.product_id, i.score) for i in alone.items]


def test_the_same_photos_give_the_same_rows_and_are_not_committed_twice(night, tmp_path):
    run = night[0]
    folder(tmp_path, {"a.jpg": photo(1, shift=6), "b.jpg": b"no image"})
    first = execute("search", asked(run, tmp_path))
    again = execute("search", asked(run, tmp_path))
    assert first.tables == again.tables
    folder(tmp_path, {"a.jpg": photo(2, shift=6)})
    assert execute("search", asked(run, tmp_path)).tables["searches"] == first.tables["searches"] + 1


def table_of(kind, rows):
    if kind == "parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_names_photos_with_filters_of_their_own(night, tmp_path, kind):
    run = night[0]
    rows = [
        {"image": "in/1.jpg", "gender": "Men", "baseColour": None},
        {"image": "in/1.jpg", "gender": "Women", "baseColour": "Blue"},
        {"image": str(tmp_path / "in/1.jpg"), "gender": None, "baseColour": None},
        {"image": (tmp_path / "in/1.jpg").as_uri(), "gender": None, "baseColour": None},
        {"image": "in/2.jpg", "gender": None, "baseColour": None},
        {"image": None, "gender": None, "baseColour": None},
    ]
    folder(tmp_path, {f"photos.{kind}": table_of(kind, rows), "in/1.jpg": photo(0, shift=6)})
    execute("search", asked(run, f"{tmp_path}/photos.{kind}?baseColour=Red&k=3"))
    found = rows_of(run, "searches")
    assert [json.loads(each["filters"]) for each in found] == [
        {"gender": "Men", "baseColour": "Red"},
        {"gender": "Women", "baseColour": "Blue"},
        {"baseColour": "Red"},
        {"baseColour": "Red"},
    ]
    for each in found:
        assert len(each["items"]) == 3
        for item in each["items"]:
            of = attributes(int(item))
            assert all(of[field] == value for field, value in json.loads(each["filters"]).items())
    rejects = rows_of(run, "search_rejects")
    assert [(each["image"], each["reason"]) for each in rejects] == [
        ("in/2.jpg", "missing file"),
        ("row 6", "no path"),
    ]


def test_a_table_of_photos_holds_them_or_says_row_by_row_why_not(night, tmp_path):
    run, signed = night[0], "https://user:s3cret@host/a.jpg?X-Amz-Signature=s3cret"
    data = {"bytes": photo(1, shift=6), "path": "his/own.jpg"}
    empty = {"bytes": None, "path": None}
    tables = {
        "bytes": [data["bytes"], b"", b"no image", None],
        "struct": [data, {"bytes": data["bytes"], "path": None}, {"bytes": None, "path": "in/1.jpg"}, empty],
        "numbers": [1, 2],
        "text": ["in/1.jpg", signed, "../in/1.jpg", "a\0b", ""],
    }
    expected = {
        "bytes": (["row 1"], [("row 2", "empty"), ("row 3", "not an image"), ("row 4", "no path")]),
        "struct": (["his/own.jpg", "row 2", "in/1.jpg"], [("row 4", "no path")]),
        "numbers": ([], [("row 1", "no path"), ("row 2", "no path")]),
        "text": (
            ["in/1.jpg"],
            [
                ("https://host/a.jpg", "outside the folder"),
                ("../in/1.jpg", "outside the folder"),
                ("a\N{REPLACEMENT CHARACTER}b", "no path"),
                ("row 5", "no path"),
            ],
        ),
    }
    folder(tmp_path, {"in/1.jpg": photo(0, shift=6)})
    for kind, images in tables.items():
        folder(tmp_path, {f"{kind}.parquet": table_of("parquet", [{"image": image} for image in images])})
        execute("search", asked(run, tmp_path / f"{kind}.parquet"))
        rejects = rows_of(run, "search_rejects")
        found = [each["image"] for each in rows_of(run, "searches")]
        assert (found, [(each["image"], each["reason"]) for each in rejects]) == expected[kind]
        assert "s3cret" not in str(rejects)


def test_lists_and_numbers_of_a_parquet_table_are_values_and_ids(tmp_path):
    lists = {"image": "x.jpg", "baseColour": ["Blue, light", None], "exclude": [1163, 1164], "year": 2012.0}
    none = {"image": "y.jpg", "baseColour": None, "exclude": None, "year": float("nan")}
    folder(tmp_path, {"a.parquet": table_of("parquet", [lists, none])})
    photos = open_source(f"{tmp_path}/a.parquet", ("baseColour", "year")).photos
    filters = {"baseColour": ["Blue, light", None], "year": "2012"}
    assert photos == [Photo("x.jpg", filters, exclude=("1163", "1164")), Photo("y.jpg", {})]


def test_a_row_longer_than_the_header_or_with_a_zero_byte_is_one_reject(tmp_path):
    folder(tmp_path, {"a.csv": b"image,gender\nx.jpg,Men\ny.jpg,Men,Red\nz.jpg,M\0n\n"})
    first, *others = open_source(f"{tmp_path}/a.csv", ("gender",)).photos
    assert first == Photo("x.jpg", {"gender": "Men"})
    assert [other.content.reason for other in others] == ["too many fields", "zero byte"]


OUTSIDE = [
    "/etc/passwd",
    "/no/such/file",
    "../secret.jpg",
    "in/../../secret.jpg",
    "in/../1.jpg",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file:///{folder}/%2e%2e/secret.jpg",
    "file://host/etc/passwd",
    "file://{relative}",
    "{folder}beside/1.jpg",
    "link.jpg",
    "links/1.jpg",
    "links/none.jpg",
    "s3://other/1.jpg",
    "https://host/1.jpg",
    "{folder}",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_table_cannot_name_what_lies_outside_its_folder_nor_learn_whether_it_is_there(tmp_path, monkeypatch, name):
    folder(
        tmp_path, {"photos/a.csv": b"image\n", "photosbeside/1.jpg": b"x", "secret.jpg": b"secret", "away/1.jpg": b"x"}
    )
    (tmp_path / "photos/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "photos/links").symlink_to(tmp_path / "away")
    monkeypatch.chdir(tmp_path)
    name = name.format(folder=tmp_path / "photos", relative="photos/a.csv")
    folder(tmp_path, {"photos/a.csv": table_of("csv", [{"image": name}])})
    source = open_source(f"{tmp_path}/photos/a.csv", ())
    with pytest.raises(ImageError) as caught:
        source.read(source.photos[0].name, 100)
    assert caught.value.reason == "outside the folder"
    assert caught.value.detail == "photos may lie in their table's folder or below LOOKALIKE_PHOTO_ROOTS"


def test_further_folders_may_be_allowed_and_links_within_them_are_followed(tmp_path):
    folder(tmp_path, {"photos/in/1.jpg": b"one", "archive/2.jpg": b"two", "other/3.jpg": b"three"})
    (tmp_path / "photos/1.jpg").symlink_to("in/1.jpg")
    (tmp_path / "photos/2.jpg").symlink_to(tmp_path / "archive/2.jpg")
    (tmp_path / "photos/3.jpg").symlink_to(tmp_path / "other/3.jpg")
    source = open_source(str(tmp_path / "photos"), (), (str(tmp_path / "archive"),))
    assert [photo.name for photo in source.photos] == ["1.jpg", "2.jpg", "3.jpg", "in/1.jpg"]
    assert [source.read(name, 100) for name in ("1.jpg", "2.jpg", f"{tmp_path}/archive/2.jpg")] == [
        b"one",
        b"two",
        b"two",
    ]
    with pytest.raises(ImageError, match="outside the folder"):
        source.read("3.jpg", 100)
    everything = open_source(str(tmp_path / "photos"), (), ("/",))
    assert everything.read("3.jpg", 100) == b"three"


def test_a_pipe_is_no_photo_and_is_not_waited_for(tmp_path):
    folder(tmp_path, {"a.csv": b"image\npipe\n"})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        open_source(f"{tmp_path}/a.csv", ()).read("pipe", 100)


def test_a_table_in_s3_names_what_lies_beside_it_there(bucket, tmp_path):
    client = boto3.client("s3", region_name="us-east-1")
    for key in ("in/a.csv", "in/deep/1.jpg", "secret/1.jpg", "in2/1.jpg"):
        client.put_object(Bucket=bucket, Key=key, Body=b"image\nx\n")
    folder(tmp_path, {"1.jpg": b"x"})
    source = open_source(f"s3://user:s3cret@{bucket}/in/a.csv?k=3", ())
    for name in ("deep/1.jpg", f"s3://{bucket}/in/deep/1.jpg"):
        assert source.read(name, 100) == b"image\nx\n"
    for name in ("../secret/1.jpg", f"s3://{bucket}/secret/1.jpg", f"s3://{bucket}/in2/1.jpg", f"{tmp_path}/1.jpg"):
        with pytest.raises(ImageError, match="outside the folder"):
            source.read(name, 100)
    more = open_source(f"s3://{bucket}/in/a.csv", (), (f"s3://{bucket}/secret", str(tmp_path)))
    assert more.read(f"s3://{bucket}/secret/1.jpg", 5) == b"image"
    assert more.read(f"{tmp_path}/1.jpg", 100) == b"x"
    for name in ("none.jpg", "a//b.jpg"):
        with pytest.raises((OSError, ValueError)):
            source.read(name, 100)


@pytest.mark.parametrize(
    "key", ["look #1.jpg", "what?.jpg", "a?k=3&gender=Men", "50%20.jpg", "/b.jpg", "x://y.jpg", "Größe +1.jpg"]
)
def test_a_photo_in_s3_is_the_object_of_its_key(bucket, key):
    client = boto3.client("s3", region_name="us-east-1")
    client.put_object(Bucket=bucket, Key=f"in/{key}", Body=key.encode())
    for folder_of in ("in/", "in/deep/"):  # what consoles write for a folder
        client.put_object(Bucket=bucket, Key=folder_of, Body=b"")
    for address in (f"s3://{bucket}/in", f"s3://{bucket}/in/", f"S3://{bucket}/in?k=3"):
        source = open_source(address, ())
        assert [source.read(photo.name, 100) for photo in source.photos] == [key.encode()]


@pytest.mark.parametrize(
    ("key", "asked", "k"),
    [
        ("t.csv", "t.csv?k=3", 3),
        ("new?.csv", "new?.csv?k=4&gender=Men", 4),
        ("in//t #1.csv", "in//t #1.csv", 10),
        ("t.csv", "t.csv?versionId=null&k=5", 5),
    ],
)
def test_a_table_in_s3_is_the_object_and_version_of_its_address(bucket, key, asked, k):
    client = boto3.client("s3", region_name="us-east-1")
    client.put_object(Bucket=bucket, Key=key, Body=b"image\nx.jpg\n")
    client.put_object(Bucket=bucket, Key=f"{key.rpartition('/')[0]}/x.jpg".lstrip("/"), Body=b"x")
    source = open_source(f"s3://{bucket}/{asked}", ("gender",))
    assert (source.k, [photo.name for photo in source.photos]) == (k, ["x.jpg"])


@pytest.mark.parametrize("address", ["https://user:s3cret@host/p?X-Amz-Signature=s3cret", "s3://k:s3cret@none/p"])
def test_an_address_of_photos_is_told_without_its_credentials(tmp_path, bucket, address):
    with pytest.raises(UserError) as caught:
        open_source(address, ())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "dataset", "expected"),
    [
        ({}, "absent", "no such folder or table"),
        ({"note.txt": b"x"}, "note.txt", "does not end in .csv or .parquet"),
        ({"note?.txt": b"x"}, "note?.txt", "does not end in .csv or .parquet"),
        ({"in/deep/.keep": b""}, "in/deep/none", "no such folder"),
        ({"a.csv": b"path\nx.jpg\n"}, "a.csv", "no column image"),
        ({"a.csv": b"image\nx.jpg,y,z\n"}, "a.csv", "no column image, or rows longer"),
        ({"a.csv": b"image,colour\nx.jpg,Blue\n"}, "a.csv", "'colour' is neither"),
        ({"a.csv": b"image\n\xff\xfe\n"}, "a.csv", "no table of photos"),
        ({"a.parquet": b"PAR1"}, "a.parquet", "no table of photos"),
        ({"a.csv": b"image\n"}, "a.csv", "names no photo"),
        ({"a.csv": b"image\nx.jpg\n"}, "a.csv?size=XL", "'size' is neither"),
        ({"a.csv": b"image\nx.jpg\n"}, "a.csv?k=many", "k='many' is no number"),
        ({"a.csv": b"image\nx.jpg\n"}, "a.csv?gender", "'gender' asks for nothing"),
        ({"a.csv": b"image\nx.jpg\n"}, "a.csv?exclude!=5", "'exclude!' is neither"),
        ({"a.csv": b"image,exclude!\nx.jpg,5\n"}, "a.csv", "'exclude!' is neither"),
    ],
)
def test_a_source_that_cannot_be_used_is_a_clear_error(tmp_path, files, dataset, expected):
    folder(tmp_path, files)
    with pytest.raises(UserError) as caught:
        open_source(f"{tmp_path}/{dataset}", ("gender", "baseColour"))
    assert expected in str(caught.value)


def test_a_run_that_is_not_live_is_refused_with_the_one_that_is(night, tmp_path):
    run = night[0]
    folder(tmp_path, {"a.jpg": photo(1)})
    other = open_run(run.lake, "2020-01-01", dataset=str(tmp_path), store=run.settings.store, **SIZE)
    with pytest.raises(UserError, match=f"which is {RUN} and not 2020-01-01"):
        execute("search", other)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lookalike(night, monkeypatch):
    """Runs the command line on the live run."""
    run = night[0]
    for name in ("lake", "store", "input_height", "input_width"):
        monkeypatch.setenv(f"LOOKALIKE_{name.upper()}", str(getattr(run.settings, name)))
    return lambda *arguments: CliRunner().invoke(app, ["search", *map(str, arguments)])


def test_the_command_shows_every_stage_the_products_and_the_milliseconds(lookalike, tmp_path):
    folder(tmp_path, {"a.jpg": photo(0, shift=6)})
    shown = lookalike(tmp_path / "a.jpg", "--filter", "gender=Men", "--k", 4).stdout
    assert "subCategory   Topwear, confidence" in shown
    assert "derivedType   Men Tshirts, confidence 1.00" in shown
    assert "searched in   derivedType: subCategory and derivedType are certain enough" in shown
    assert sum(f"Product {i}" in shown for i in range(N)) >= 4
    assert " ms, after " in shown


def test_on_a_terminal_the_command_says_what_it_waits_for(lookalike, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "out", Terminal(file=(shown := io.StringIO()), force_terminal=True, width=200))
    folder(tmp_path, {"[in]/a.jpg": photo(0, shift=6)})
    for place in ("[in]/a.jpg", "[in]"):
        lookalike(tmp_path / place)
    assert f"loading the models of run {RUN} …" in shown.getvalue()
    assert f"searching for {tmp_path}/[in] in run {RUN}; the models are loaded first …" in shown.getvalue()


def test_the_command_answers_a_folder_by_the_step(lookalike, tmp_path):
    folder(tmp_path, {"a.jpg": photo(0, shift=6), "b.jpg": b""})
    done = lookalike(tmp_path, "--filter", "gender=Men")
    assert done.exit_code == 0
    assert "searches (1 rows) and search_rejects (1 rows)" in done.stdout


@pytest.mark.parametrize(
    ("name", "expected"), [("absent.jpg", "the photo cannot be read: No such file"), ("bad.jpg", "not an image")]
)
def test_the_command_names_the_photo_that_cannot_be_used(lookalike, tmp_path, name, expected):
    folder(tmp_path, {"bad.jpg": b"this is no image"})
    error = lookalike(tmp_path / name).exception
    assert isinstance(error, UserError)
    assert expected in str(error)
    assert name in error.where
