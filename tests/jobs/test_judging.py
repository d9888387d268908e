"""A night goes by the champion only if that beats the untrained features on the night's own held-out images."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from infra.lake import Lake
from jobs import judging
from jobs.champion import append_row, find_champion, read_embedder, read_rows
from jobs.extraction import choose_model
from jobs.features import read_embeddings, read_features
from jobs.judging import draw, judge, least_products, no_better
from jobs.run import StepResult
from jobs.step import execute
from ml import metrics, split
from ml.embedding import Embedder
from ml.similarity import to_embedding
from tests.catalogues import embedded, mapped, open_run, picture_of, sides_of_images

N, D = 2_000, 16
GENDERS, COLOURS = ("Men", "Women"), ("Red", "Blue")


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def catalogue(lake, name, kind, noise, n=N):
    """A run of n shirts; which directions of its features show gender and colour depends on the kind of catalogue."""
    rng = np.random.default_rng(sum(kind.encode()))
    directions, spread = rng.normal(size=(4, D)), noise * rng.normal(size=(4, D))
    products, features = [], {}
    for number in range(n):
        gender, colour = rng.integers(0, 2, 2)
        shown = directions[gender] + directions[2 + colour] + rng.normal(size=D) + rng.normal(size=4) @ spread
        image = sha(f"{kind} {number}")
        features[image] = shown.astype(np.float32).tolist()
        product = {"product_id": number, "gender": GENDERS[gender], "articleType": "Shirts", "image_sha256": image}
        products.append(product | {"subCategory": "Topwear", "baseColour": COLOURS[colour]})
    run = open_run(lake, name)
    return embedded(run, products, features, choose_model(run.settings).fingerprint)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A lake whose champion has learnt from run 2026-01-01 of catalogue `one`."""
    folder = tmp_path_factory.mktemp("trained") / "lake"
    execute("train_embedding", catalogue(Lake(folder.as_uri()), "2026-01-01", "one", noise=4))
    return folder


@pytest.fixture
def lake(trained, tmp_path):
    """A copy of it."""
    shutil.copytree(trained, tmp_path / "lake")
    return Lake((tmp_path / "lake").as_uri())


def champion_of(lake):
    return find_champion(lake, choose_model(open_run(lake).settings).fingerprint).embedder


def told(capsys):
    """What was logged as a warning."""
    return [line for line in capsys.readouterr().out.splitlines() if "the champion is not used" in line]


def test_a_champion_of_another_catalogue_is_not_used_and_the_night_goes_on_without_it(lake, capsys):
    night = catalogue(lake, "2026-01-02", "another", noise=0.1)
    figures = execute("embed", night).figures
    shown = (figures["champion_used"], figures["embedder"], figures["champion"])
    assert shown == (False, "untrained", champion_of(lake))
    assert figures["champion_both_0"] < figures["untrained_both_0"]
    assert "it is no better" in figures["champion_refused"]
    assert len(told(capsys)) == 1
    assert np.array_equal(read_embeddings(night), to_embedding(read_features(night, "average")))


def test_a_champion_of_the_night_s_own_catalogue_is_used(lake):
    figures = execute("embed", catalogue(lake, "2026-01-02", "one", noise=4)).figures
    shown = (figures["champion_used"], figures["champion_refused"], figures["embedder"])
    assert shown == (True, "", champion_of(lake))
    assert figures["champion_both_0"] > figures["untrained_both_0"]
    assert figures["champion_products"] == figures["untrained_products"] >= judging.LEAST_ASKED


def test_an_embedder_is_judged_by_the_kind_alone_where_the_catalogue_does_not_say_for_whom(tmp_path):
    lake, parts = Lake((tmp_path / "shop").as_uri()), {"kind": "gender", "for_whom": ""}
    trained = execute("train_embedding", mapped(catalogue(lake, "2026-01-01", "one", noise=4), **parts)).figures
    assert (trained["promoted"], trained["champion_gender_0"]) == (True, 100)
    figures = execute("embed", mapped(catalogue(lake, "2026-01-02", "one", noise=4), **parts)).figures
    assert (figures["champion_used"], figures["embedder"]) == (True, trained["embedder"])


def test_where_the_catalogue_tells_no_kind_no_embedder_is_trained_or_used_and_why_is_said(lake):
    night = mapped(catalogue(lake, "2026-01-02", "one", noise=4), kind="")
    why = "the catalogue's mapping names no kind, by which look-alikes are judged"
    assert execute("embed", night).figures["champion_refused"] == why
    assert execute("train_embedding", night).figures == {"promoted": False, "reason": why}
    assert len(read_rows(lake)) == 1


def test_the_same_products_and_champion_are_asked_about_once(lake, monkeypatch):
    run, asked = catalogue(lake, "2026-01-02", "one", noise=4), []
    ask = judging._ask

    def counted(*arguments):
        asked.append(1)
        return ask(*arguments)

    monkeypatch.setattr(judging, "_ask", counted)
    first = execute("embed", run).figures
    again = execute("embed", catalogue(lake, "2026-01-03", "one", noise=4)).figures
    assert (len(asked), again) == (1, first)
    execute("embed", catalogue(lake, "2026-01-04", "one", noise=4, n=N - 1))
    assert len(asked) == 2


@pytest.mark.parametrize(("every", "used"), [(25, True), (3, False)])
def test_pictures_that_the_champion_has_learnt_are_not_asked_and_many_of_them_end_its_use(lake, every, used):
    run = catalogue(lake, "2026-01-02", "one", noise=4)
    rows = run.products(["image_sha256", "picture"])
    queries, _ = draw(rows["image_sha256"], rows["picture"])
    learnt = rows["picture"].to_numpy()[queries[::every]]
    promote(lake, {"learnt": learnt})
    figures = execute("embed", run).figures
    assert figures["champion_used"] == used
    if used:
        assert figures["champion_products"] == len(queries) - len(learnt)
    else:
        assert f"it has learnt {len(learnt)} of the {len(queries)} images" in figures["champion_refused"]
        assert "champion_both_0" not in figures


def promote(lake, arrays):
    """Make an embedder champion that is the present one but for these arrays."""
    row = read_rows(lake)[-1]
    embedder = read_embedder(open_run(lake), row["sha256"])
    data = Embedder({**embedder.arrays, **arrays}).to_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    lake.write_bytes(f"embedders/{sha256}.npz", data)
    append_row(lake, row | {"sha256": sha256, "file": f"embedders/{sha256}.npz", "promoted": True})


def test_a_training_says_which_pictures_it_has_learnt(lake):
    run = catalogue(lake, "2026-01-02", "one", noise=4)
    embedder, pictures = read_embedder(run, champion_of(lake)), run.products(["picture"])["picture"]
    train = pictures.to_numpy()[split.sides_of(pictures) == split.TRAIN]
    assert embedder.learnt.tolist() == sorted(set(train.tolist()))


def test_a_champion_that_cannot_be_judged_is_not_used(lake):
    figures = execute("embed", catalogue(lake, "2026-01-02", "one", noise=4, n=300)).figures
    assert not figures["champion_used"]
    assert "held-out products are there to judge it by, and 100 are needed" in figures["champion_refused"]


def test_a_challenger_has_to_beat_the_untrained_features_where_the_champion_does_not(lake):
    run, foreign = catalogue(lake, "2026-01-02", "another", noise=0.1), champion_of(lake)
    figures = execute("train_embedding", run).figures
    rows = run.table("products").read(["image_sha256", *judging.KINDS])
    asked = sides_of_images(rows["image_sha256"].to_pylist()) == split.VALIDATION
    untrained = judge(to_embedding(read_features(run, "average")), rows, asked)
    assert figures["champion_both_0"] == round(untrained["both_0"], 2)
    assert champion_of(lake) == (figures["embedder"] if figures["promoted"] else foreign)


def test_the_sample_asks_the_validation_side_and_the_training_side_answers_one_product_an_image(monkeypatch):
    monkeypatch.setattr(judging, "SAMPLE", 60)
    monkeypatch.setattr(judging, "ASKED", 20)
    images = [sha(str(number)) for number in range(600)]
    hashes = [*images[::-1], *images]  # two products an image
    pictures = [picture_of(sha) for sha in hashes]
    queries, answering = draw(_column(hashes), _column(pictures))
    sides = sides_of_images(hashes)
    assert (len(queries), len(answering)) == (20, 40)
    assert set(sides[queries]) == {split.VALIDATION}
    assert set(sides[answering]) == {split.TRAIN}
    assert max(*queries, *answering) < 600  # the first of both
    validation = sorted(image for image, side in zip(images, sides_of_images(images), strict=True) if side == 1)
    assert sorted(hashes[at] for at in queries) == validation[:20]
    more = draw(_column([*hashes, sha("another")]), _column([*pictures, picture_of(sha("another"))]))[0]
    assert len(set(more) & set(queries)) >= 19  # nearly the same


def _column(values):
    return pa.chunked_array([values])


def test_lists_are_made_of_those_that_answer():
    rng = np.random.default_rng(0)
    embeddings = to_embedding(rng.normal(size=(90, 8)).astype(np.float32))
    rows = pa.table(
        {"articleType": ["Shirts"] * 90, "gender": [GENDERS[i % 2] for i in range(90)], "baseColour": COLOURS * 45}
    )
    asked = np.arange(90) < 30
    found = judge(embeddings, rows, asked, ~asked)
    codes = np.arange(90) % 2
    nearest = np.array([30 + np.lexsort((np.arange(60), -(embeddings[30:] @ row)))[:10] for row in embeddings[:30]])
    right = (codes[nearest] == codes[:30, None]).mean(axis=1)
    assert found["products"] == 30
    assert found["gender_0.2"] == pytest.approx(100 * np.mean(right >= 0.8))
    assert found["colour_share"] == pytest.approx(100 * right.mean())


@pytest.mark.parametrize(("n", "least"), [(100, 20), (2_000, 23), (6_000, 68), (44_072, 500), (200_000, 500)])
def test_an_article_type_needs_the_protocol_s_share_of_products(n, least):
    assert least_products(n) == least
    assert least >= 2 * metrics.K


def test_what_cannot_be_judged_or_is_not_better_says_why():
    good = {"both_0.2": 60.0, "both_0.1": 50.0, "both_0": 40.0, "colour_share": 50.0, "products": 200}
    bad = {**good, "both_0": 28.4}
    assert no_better(good, bad) == ""
    assert "for 28.4 % of 200 held-out products, and for 40.0 %" in no_better(bad, good)
    assert "only 99 held-out products" in no_better({**good, "products": 99}, bad)
    nothing = dict.fromkeys(good, float("nan")) | {"products": 0}
    assert "only 0 held-out products" in no_better(nothing, nothing)
    stored = json.loads(json.dumps(StepResult(figures=judging.flat({"champion": nothing})).figures, allow_nan=False))
    assert stored["champion_both_0"] is None
