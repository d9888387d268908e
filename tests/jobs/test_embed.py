"""embed on a real Spark with the real backbone: each image once a model, the same features however they were cut."""

from dataclasses import replace

import numpy as np
import pytest

from infra.errors import UserError
from jobs import catalog as catalog_step
from jobs import extraction
from jobs.extraction import choose_model
from jobs.features import read_all_features, read_features
from jobs.step import execute
from ml import backbones
from tests.catalogues import good_files, open_run, pulled, write_result, write_table, zip_bytes

SIZE = {"input_height": 64, "input_width": 48}
STAGES = 96 + 144 + 240 + 672 + 4 * 3 * 112


def embedded(lake, n, name, **settings):
    run = pulled(open_run(lake, name, **SIZE | settings), zip_bytes(good_files(n)))
    execute("catalog", run)
    return run, execute("embed", run)


def features(run) -> dict[tuple[str, str], np.ndarray]:
    rows = run.table("features").read().to_pylist()
    found = {
        (each["image_sha256"], each["model"]): np.array(each["average"] + each["maximum"] + each["stages"])
        for each in rows
    }
    assert len(found) == len(rows)  # no image twice
    return found


def test_only_images_without_features_of_the_model_are_embedded(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_step, "IMAGES_A_PART", 7)
    run, first = embedded(lake, 20, "2026-01-01")
    assert (first.rows, first.figures["embedded"]) == (20, 20)
    run, second = embedded(lake, 26, "2026-01-02")
    assert second.figures["embedded"] == 6
    run, third = embedded(lake, 26, "2026-01-03")
    assert (third.skipped, third.figures["embedded"]) == (True, 0)
    in_pieces = features(run)
    assert all(len(vector) == 2 * 1280 + STAGES and np.isfinite(vector).all() for vector in in_pieces.values())
    monkeypatch.setattr(catalog_step, "IMAGES_A_PART", 1024)
    from infra.lake import Lake

    other, at_once = embedded(Lake((tmp_path / "other").as_uri()), 26, "2026-01-01")
    assert at_once.figures["embedded"] == 26
    whole = features(other)
    assert whole.keys() == in_pieces.keys()
    assert all(np.array_equal(whole[key], in_pieces[key]) for key in whole)


def test_another_model_has_features_of_its_own_beside_the_first(lake):
    run, _ = embedded(lake, 3, "2026-01-01")
    run, second = embedded(lake, 3, "2026-01-02", input_height=96)
    assert second.figures["embedded"] == 3
    assert len({model for _, model in features(run)}) == 2


def test_features_of_a_release_with_other_columns_make_room_and_older_runs_keep_them(lake):
    run = pulled(open_run(lake, "2026-01-01", **SIZE), zip_bytes(good_files(3)))
    execute("catalog", run)
    schema = extraction.SCHEMA.remove(extraction.SCHEMA.get_field_index("stages"))
    rows = run.table("products").read(["image_sha256"]).to_pylist()
    earlier = [{**row, "model": "earlier", "average": [1.0], "maximum": [2.0]} for row in rows]
    version = write_table(run, "features", earlier, schema)
    write_result(run, "embed", rows=3, tables={"features": version}, figures={"model": "earlier"})
    later, result = embedded(lake, 3, "2026-01-02")
    assert result.figures["embedded"] == 3
    assert read_all_features(later).stages.shape == (3, STAGES)
    assert read_features(run, "average").tolist() == [[1.0]] * 3


@pytest.mark.parametrize("of", ["", "classifier_"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backbone": "vgg"}, ["no backbone 'vgg'", "_BACKBONE", "efficientnet-lite0, efficientnet-lite1"]),
        (
            {"backbone": "resnet50", "weights": "package"},
            ["no installed package holds weights for resnet50", "_WEIGHTS=package"],
        ),
        ({"weights": "/nowhere/x.pth"}, ["cannot be read", "/nowhere/x.pth"]),
        (
            {"backbone": "efficientnet-lite0", "weights": "imagenet", "weights_sha256": "00ff"},
            ["expected 00ff", "_WEIGHTS_SHA256"],
        ),
        (
            {"backbone": "resnet50", "weights": "imagenet", "weights_sha256": "00ff"},
            ["not known before Keras downloads them", "expected 00ff"],
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_a_clear_error(lake, of, settings, expected):
    asked = {f"{of}{name}": value for name, value in settings.items()}
    with pytest.raises(UserError) as caught:
        choose_model(open_run(lake, **asked).settings, of)
    expected = [f"LOOKALIKE_{of.upper()}{text[1:]}" if text.startswith("_") else text for text in expected]
    assert all(text in str(caught.value) for text in expected), str(caught.value)


@pytest.mark.parametrize("of", ["", "classifier_"])
def test_a_package_of_weights_that_is_not_installed_is_named_and_not_looked_for_elsewhere(lake, monkeypatch, of):
    lost = replace(backbones.BACKBONES["efficientnet-lite0"], package="lost_package/weights.pth")
    monkeypatch.setitem(backbones.BACKBONES, "efficientnet-lite0", lost)
    settings = open_run(lake, **{f"{of}backbone": "efficientnet-lite0", f"{of}weights": "imagenet"}).settings
    with pytest.raises(UserError, match="no installed package holds weights for efficientnet-lite0"):
        choose_model(settings, of)


def test_a_weights_file_that_does_not_fit_stops_the_step_before_any_image_is_embedded(lake, tmp_path):
    (tmp_path / "junk.pth").write_bytes(b"junk")
    run = pulled(open_run(lake, weights=str(tmp_path / "junk.pth"), **SIZE), zip_bytes(good_files(3)))
    execute("catalog", run)
    with pytest.raises(UserError, match=r"junk\.pth does not fit") as caught:
        execute("embed", run)
    assert caught.value.where == "the weights of efficientnet-lite0, 64 × 48 pixels"
    assert run.lake.table("features").version < 0


def test_precision_and_weights_are_part_of_the_fingerprint(lake, tmp_path):
    half = choose_model(open_run(lake, precision="bfloat16").settings)
    full = choose_model(open_run(lake).settings)
    other = tmp_path / "other.pth"
    other.write_bytes(b"weights")
    assert (
        len({half.fingerprint, full.fingerprint, choose_model(open_run(lake, weights=str(other)).settings).fingerprint})
        == 3
    )
