"""train_look: a first detector, a challenger that must be better, photos that are not there; and what ships."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from infra.errors import UserError
from jobs import detectors, ship_look, train_look
from jobs.champion import append_row, read_rows
from jobs.detectors import DETECTORS
from jobs.step import execute
from ml import article_network
from ml.articles import CLASSES
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


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A canvas that takes a second an epoch, and a release that ships nothing."""
    monkeypatch.setattr(article_network, "HEIGHT", 96)
    monkeypatch.setattr(article_network, "WIDTH", 64)
    monkeypatch.setattr(detectors, "SHIPPED", tmp_path / "weights/articles.npz")
    monkeypatch.setattr(ship_look, "SHIPPED", tmp_path / "weights/articles.npz")


def train(lake, archive, tmp_path, epochs=1):
    return execute("train_look", open_run(lake, look_dataset=archive, look_epochs=epochs, scratch=tmp_path / "scratch"))


def test_without_photos_the_step_says_what_serves(lake):
    figures = execute("train_look", open_run(lake)).figures
    assert figures["promoted"] is False
    assert figures["reason"].startswith("LOOKALIKE_LOOK_DATASET names no labelled photos: the detector that ships")
    assert lake.table("detectors").version == -1


def test_the_first_detector_is_champion_and_is_what_ships(lake, archive, tmp_path, small):
    figures = train(lake, archive, tmp_path).figures
    assert (figures["promoted"], figures["reason"]) == (True, "there was none")
    assert 0 <= figures["held_back_map50"] <= 1
    assert figures["bytes"] < ship_look.MOST_BYTES
    assert detectors.champion(lake) == figures["detector"]
    model = detectors.read(lake, figures["detector"])
    assert article_network.find(model, [np.zeros((50, 40, 3), np.uint8)], least=1.1)[0].boxes.shape == (0, 4)
    assert not (tmp_path / "scratch").exists() or not list((tmp_path / "scratch").iterdir())

    again = train(lake, archive, tmp_path)
    assert again.skipped
    assert len(read_rows(lake, "detectors", DETECTORS)) == 1

    ship_look.ship(open_run(lake).settings, "Drawn rectangles; free.")
    card = (tmp_path / "weights/articles.md").read_text()
    assert "Drawn rectangles; free." in card
    assert "| ap50_topwear_drawn | " in card
    assert detectors.shipped() == figures["detector"]
    empty = type(lake)((tmp_path / "empty").as_uri())
    assert detectors.champion(empty) == figures["detector"]
    assert detectors.read(empty, figures["detector"]).count_params() == model.count_params()
    detectors.SHIPPED.write_bytes(b"damaged")
    with pytest.raises(UserError, match="has SHA-256") as caught:
        detectors.read(empty, figures["detector"])
    assert caught.value.remedy == "install the release again"


def test_a_challenger_is_used_only_if_it_is_better_on_the_validation_side(lake, archive, tmp_path, small):
    first = train(lake, archive, tmp_path).figures["detector"]
    figures = train(lake, archive, tmp_path, epochs=2).figures
    better = figures["challenger_map50"] > figures["champion_map50"]
    assert figures["promoted"] is better
    assert [row["promoted"] for row in read_rows(lake, "detectors", DETECTORS)] == [True, better]
    assert detectors.champion(lake) == (figures["detector"] if better else first)
    said = {"challenger": {"map50": (0.5, 0.4, 0.6)}, "champion": {"map50": (0.6, 0.5, 0.7)}}
    assert train_look.verdict(said) == (False, "map50 is 0.500 on the validation side, and the champion's 0.600")
    assert train_look.verdict(said | {"challenger": {"map50": (0.7, 0.6, 0.8)}}) == (True, "it is better")


def test_nothing_ships_of_a_lake_without_a_detector_or_with_too_large_a_one(lake, small, monkeypatch):
    settings = open_run(lake).settings
    with pytest.raises(UserError, match="no detector of articles was promoted in the lake"):
        ship_look.ship(settings, "")
    row = dict.fromkeys(DETECTORS.names) | {"promoted": True, "file": "detectors/x.npz", "run": "2026-01-31"}
    append_row(lake, row, "detectors", DETECTORS)
    lake.write_bytes("detectors/x.npz", bytes(9))
    monkeypatch.setattr(ship_look, "MOST_BYTES", 8)
    with pytest.raises(UserError, match="the detector has 9 bytes, and 8 may ship"):
        ship_look.ship(settings, "")
