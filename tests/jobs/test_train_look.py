"""train_look: a first detector, a challenger that must be better, photos that are not there; and what ships."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from infra.errors import UserError
from infra.lake import Lake
from jobs import detectors, looking, ship_look, train_look
from jobs.champion import append_row, read_rows
from jobs.detectors import DETECTORS
from jobs.step import execute
from ml import article_network, article_training
from ml.articles import CLASSES
from ml.look.keypoints import Person
from tests.catalogues import open_run, zip_bytes


def drawn(seed):
    rng = np.random.default_rng(seed)
    left, top, width, height = (int(value) for value in (*rng.integers(0, 30, 2), *rng.integers(16, 40, 2)))
    picture = Image.new("RGB", (80, 90), tuple(rng.integers(80, 160, 3).tolist()))
    ImageDraw.Draw(picture).rectangle([left, top, left + width, top + height], fill=(220, 30, 30))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue(), [left, top, width, height]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Photos of red rectangles: with enough of them each side has some."""
    pictures = {f"{at}.png": drawn(at) for at in range(40)}
    told = {
        "images": [{"id": name, "file_name": name, "width": 80, "height": 90, "source": "drawn"} for name in pictures],
        "categories": [{"id": at, "name": name} for at, name in enumerate(CLASSES)],
        "annotations": [{"image_id": name, "category_id": 0, "bbox": box} for name, (_, box) in pictures.items()],
    }
    content = {"boxes.json": json.dumps(told)} | {f"images/{name}": data for name, (data, _) in pictures.items()}
    path = tmp_path_factory.mktemp("photos") / "photos.zip"
    path.write_bytes(zip_bytes(content))
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def shipped(tmp_path_factory):
    """A canvas that takes a second an epoch, few variables that learn, and a release that ships nothing."""
    place = tmp_path_factory.mktemp("release") / "weights/articles.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(article_network, "HEIGHT", 96)
        patch.setattr(article_network, "WIDTH", 64)
        patch.setattr(article_training, "CONVOLUTIONS", 3)
        patch.setattr(detectors, "SHIPPED", place)
        patch.setattr(ship_look, "SHIPPED", place)
        yield place


@pytest.fixture(scope="module")
def train(archive, tmp_path_factory):
    """Trains in one lake, for so many epochs; returns the step's result."""
    folder = tmp_path_factory.mktemp("trained")
    lake = Lake((folder / "lake").as_uri())

    def run(epochs):
        return execute(
            "train_look", open_run(lake, look_dataset=archive, look_epochs=epochs, scratch=folder / "scratch")
        )

    run.lake, run.scratch = lake, folder / "scratch"
    return run


@pytest.fixture(scope="module")
def first(train):
    """What the first training said."""
    return train(1).figures


def test_without_photos_the_step_says_what_serves(lake):
    figures = execute("train_look", open_run(lake)).figures
    assert figures["promoted"] is False
    assert figures["reason"] == "LOOKALIKE_LOOK_DATASET names no labelled photos: no detector is trained"
    assert lake.table("detectors").version == -1


def test_the_first_detector_is_champion(train, first):
    assert (first["promoted"], first["reason"]) == (True, "there was none")
    assert 0 <= first["held_back_map50"] <= 1
    assert detectors.champion(train.lake) == first["detector"]
    model = detectors.read(train.lake, first["detector"])
    assert article_network.find([model], [np.zeros((50, 40, 3), np.uint8)], least=1.1)[0].boxes.shape == (0, 4)
    assert not list(train.scratch.iterdir())
    finder = looking.load(train.lake).find_articles
    nobody, person = np.zeros((96, 64, 3), np.uint8), np.full((96, 64), 255, np.uint8)
    (articles,) = finder(nobody, [Person(np.zeros((33, 3)), np.ones(33), np.ones(33), person, 1.0)])
    assert (finder.source, all(article.confidence >= looking.LEAST for article in articles)) == (
        looking.Detector.source,
        True,
    )


def test_the_same_photos_are_not_learnt_from_again(train, first):
    again = train(1)
    assert (again.skipped, again.figures) == (True, first)
    assert len(read_rows(train.lake, "detectors", DETECTORS)) == 1


def test_the_champion_ships_with_a_card_and_is_used_where_nothing_was_trained(train, first, shipped, lake):
    ship_look.ship(open_run(train.lake).settings, "Drawn rectangles; free.")
    card = shipped.with_suffix(".md").read_text()
    assert "Drawn rectangles; free." in card
    assert "| ap50_topwear_drawn | " in card
    assert shipped.stat().st_size == first["bytes"] < ship_look.MOST_BYTES
    assert detectors.champion(lake) == detectors.shipped() == first["detector"]
    assert detectors.read(lake, first["detector"]).name == "articles"
    shipped.write_bytes(b"damaged")
    with pytest.raises(UserError, match="has SHA-256") as caught:
        detectors.read(lake, first["detector"])
    assert caught.value.remedy == "install the release again"
    for file in shipped.parent.iterdir():
        file.unlink()


def test_a_challenger_is_used_only_if_it_is_better_on_the_validation_side(train, first):
    figures = train(2).figures
    better = figures["challenger_map50"] > figures["champion_map50"]
    assert figures["promoted"] is better
    assert [row["promoted"] for row in read_rows(train.lake, "detectors", DETECTORS)] == [True, better]
    assert detectors.champion(train.lake) == (figures if better else first)["detector"]


def test_the_higher_mean_average_precision_wins_and_no_equal_one():
    said = {"challenger": {"map50": (0.5, 0.4, 0.6)}, "champion": {"map50": (0.5, 0.4, 0.6)}}
    assert train_look.verdict(said) == (False, "map50 is 0.500 on the validation side, and the champion's 0.500")
    assert train_look.verdict(said | {"challenger": {"map50": (0.7, 0.6, 0.8)}}) == (True, "it is better")


def test_nothing_ships_of_a_lake_without_a_detector_or_with_too_large_a_one(lake, monkeypatch):
    settings = open_run(lake).settings
    with pytest.raises(UserError, match="no detector of articles was promoted in the lake"):
        ship_look.ship(settings, "")
    row = dict.fromkeys(DETECTORS.names) | {"promoted": True, "file": "detectors/x.npz", "run": "2026-01-31"}
    append_row(lake, row, "detectors", DETECTORS)
    lake.write_bytes("detectors/x.npz", bytes(9))
    monkeypatch.setattr(ship_look, "MOST_BYTES", 8)
    with pytest.raises(UserError, match="the detector has 9 bytes, and 8 may ship"):
        ship_look.ship(settings, "")
