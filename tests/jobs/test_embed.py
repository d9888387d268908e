"""embed on a real Spark with the real backbone: each image once a model, the same features however they were cut."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import UserError
from jobs import catalog as catalog_step
from jobs import extraction, judging
from jobs.champion import Champion, append_row
from jobs.extraction import choose_model
from jobs.features import read_all_features, read_embeddings, read_features
from jobs.step import execute
from jobs.stored import read_images, sample_images
from ml import backbones, embedding, images, split
from ml import features as features_module
from ml.features import Features
from tests import catalogues
from tests.catalogues import good_files, open_run, pulled, write_result, write_table, zip_bytes

SIZE = {"input_height": 64, "input_width": 48}
STAGES = 96 + 144 + 240 + 672 + 4 * 3 * 112
EMBED = """
from jobs import extraction, step
extraction.COMMIT_S = 0
raise SystemExit(step.main("embed", ["--run", "2026-01-02"]))
"""
"""The step, committing whatever is there twice a second."""


def cataloged(lake, n, name, **settings):
    run = pulled(open_run(lake, name, **SIZE | settings), zip_bytes(good_files(n)))
    execute("catalog", run)
    return run


def embedded(lake, n, name, **settings):
    run = cataloged(lake, n, name, **settings)
    return run, execute("embed", run)


def of_an_earlier_release(run) -> None:
    """A features table as that release left it, which had no `stages`, and what embed returned for the run."""
    schema = extraction.SCHEMA.remove(extraction.SCHEMA.get_field_index("stages"))
    rows = run.table("products").read(["image_sha256"]).to_pylist()
    earlier = [{**row, "model": "earlier", "average": [1.0], "maximum": [2.0]} for row in rows]
    version = write_table(run, "features", earlier, schema)
    write_result(run, "embed", rows=len(rows), tables={"features": version}, figures={"model": "earlier"})


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
    run = cataloged(lake, 3, "2026-01-01")
    of_an_earlier_release(run)
    later, result = embedded(lake, 3, "2026-01-02")
    assert result.figures["embedded"] == 3
    assert read_all_features(later).stages.shape == (3, STAGES)
    assert read_features(run, "average").tolist() == [[1.0]] * 3


def test_a_killed_embed_goes_on_from_its_last_commit_also_where_an_earlier_releases_features_made_room(
    lake, tmp_path, monkeypatch
):
    earlier, n = cataloged(lake, 3, "2026-01-01"), 40
    of_an_earlier_release(earlier)
    monkeypatch.setattr(catalog_step, "IMAGES_A_PART", 1)
    run = cataloged(lake, n, "2026-01-02")
    settings = {f"LOOKALIKE_{name.upper()}": str(value) for name, value in {**SIZE, "lake": lake.uri}.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", EMBED],
        env={**os.environ, **settings, "LOOKALIKE_SPARK": "local[1]", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        start_new_session=True,
    )
    while process.poll() is None and lake.table("features").version < 1:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    committed = lake.table("features").read()
    assert committed.schema.names == extraction.SCHEMA.names
    assert 0 < len(committed) < n
    result = execute("embed", run)
    assert result.figures["embedded"] == n - len(committed)
    assert len(features(run)) == n
    assert read_all_features(run).stages.shape[0] == n
    assert read_features(earlier, "average").tolist() == [[1.0]] * 3


def hashes_of(run) -> list[str]:
    return run.table("products").read(["image_sha256"])["image_sha256"].to_pylist()


def write_features(run, model, images) -> list:
    """Parts of features, of so many images each, made up but the same for an image."""
    parts = []
    for at in images:
        rows = [{"image_sha256": f"{i:064}", "model": model.fingerprint, "average": [float(i)]} for i in at]
        rows = [{**row, "maximum": row["average"], "stages": row["average"]} for row in rows]
        table = pa.Table.from_pylist(rows, schema=extraction.SCHEMA)
        parts.append(run.lake.write_part("features", table))
    return parts


@pytest.mark.parametrize("before", ["no table", "a table", "a table of an earlier release"])
def test_two_writers_that_append_at_once_both_succeed_and_leave_a_row_an_image_and_model(lake, before):
    first, second = open_run(lake, "2026-01-01"), open_run(lake, "2026-01-02")
    model = choose_model(first.settings)
    other = replace(model, precision="bfloat16")
    if before == "a table":
        extraction.append(first, model, lake.table("features"), write_features(first, model, [range(5)]))
    elif before != "no table":
        of_an_earlier_release(cataloged(lake, 3, first.name))
    theirs, ours = lake.table("features"), lake.table("features")
    assert theirs.version == ours.version  # both looked
    parts = write_features(first, model, [range(10, 20), range(20, 30)])
    theirs = extraction.append(first, model, theirs, parts)
    theirs = extraction.append(first, other, theirs, write_features(first, other, [range(40, 50)]))
    assert theirs.version == ours.version + 2
    wanted = write_features(second, model, [range(10, 20), range(25, 35), range(40, 50)])
    ours = extraction.append(second, model, ours, wanted)
    of_model = [row["image_sha256"] for row in ours.read().to_pylist() if row["model"] == model.fingerprint]
    kept = range(5) if before == "a table" else []
    assert sorted(of_model) == [f"{i:064}" for i in (*kept, *range(10, 35), *range(40, 50))]
    assert len(ours.read()) == len(of_model) + 10
    assert {tuple(row["average"]) for row in ours.read().to_pylist() if row["image_sha256"] == f"{27:064}"} == {(27.0,)}


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


def test_a_backbone_without_weights_of_its_own_has_no_file_to_check_and_is_nothing_for_a_classifier(lake):
    with pytest.raises(UserError, match="none, as they are those of a champion, expected 00ff"):
        choose_model(open_run(lake, weights="none", weights_sha256="00ff").settings)
    with pytest.raises(UserError, match="a classifier learns the last layers") as caught:
        choose_model(open_run(lake, classifier_weights="none").settings, "classifier_")
    assert caught.value.where == "LOOKALIKE_CLASSIFIER_WEIGHTS=none"


@pytest.mark.parametrize("of", ["", "classifier_"])
def test_a_package_of_weights_that_is_not_installed_is_named_and_not_looked_for_elsewhere(lake, monkeypatch, of):
    lost = replace(backbones.BACKBONES["efficientnet-lite0"], package="lost_package/weights.pth")
    monkeypatch.setitem(backbones.BACKBONES, "efficientnet-lite0", lost)
    settings = open_run(lake, **{f"{of}backbone": "efficientnet-lite0", f"{of}weights": "imagenet"}).settings
    with pytest.raises(UserError, match="no installed package holds weights for efficientnet-lite0"):
        choose_model(settings, of)


def test_a_weights_file_that_does_not_fit_stops_the_step_before_any_image_is_embedded(lake, tmp_path):
    (tmp_path / "junk.pth").write_bytes(b"junk")
    run = cataloged(lake, 3, "2026-01-01", weights=str(tmp_path / "junk.pth"))
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


def test_weights_that_are_nan_stop_the_step_by_the_gates_name_though_the_network_hides_them(lake, tmp_path):
    data = bytearray(extraction.read_weights(extraction.packaged_weights("efficientnet-lite0")))
    at = len(data) * 9 // 10  # amid a late convolution
    data[at : at + 400] = b"\xff" * 400
    (tmp_path / "nan.pth").write_bytes(data)
    run = cataloged(lake, 5, "2026-01-01", weights=str(tmp_path / "nan.pth"))
    with pytest.raises(UserError, match="^gate finite: 1 arrays .* NaN or infinite values, such as conv2d") as caught:
        execute("embed", run)
    weights = (tmp_path / "nan.pth").as_uri()
    assert caught.value.where == f"efficientnet-lite0, 64 × 48 pixels, float32, weights {weights}"
    assert "LOOKALIKE_WEIGHTS" in caught.value.remedy
    assert lake.table("features").version < 0


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_tuned_weights_that_give_no_finite_features_are_named_with_an_image_and_nothing_is_committed(lake, value):
    run = cataloged(lake, 5, "2026-01-01")
    model = choose_model(run.settings)
    backbone = extraction.build(lake, model)
    bias = next(weight for weight in backbone.weights if weight.shape == (112,))  # of a layer that has no ReLU6
    bias.assign(np.full(112, value, np.float32))
    sha256 = extraction.write_tuned(lake, backbones.to_bytes(backbone))
    with pytest.raises(UserError, match="^gate finite: ") as caught:
        extraction.extract(run, replace(model, tuned=sha256))
    named = [f"such as image {sha};" in caught.value.problem for sha in hashes_of(run)]
    assert np.isnan(value) or ("5 of the 5 images in part-" in caught.value.problem and any(named))
    assert caught.value.where.endswith(f"backbones/{sha256}.npz")
    assert "lookalike champion --use" in caught.value.remedy
    assert lake.table("features").version < 0


@pytest.mark.parametrize(("learnt", "detail"), [((20, 15), [20, 15]), ((40, 30), None), ((500, 500), None)])
def test_images_are_looked_at_in_no_more_detail_than_their_embedder_has_learnt_from(lake, monkeypatch, learnt, detail):
    run = cataloged(lake, 4, "2026-01-01")
    base = choose_model(run.settings)
    embedder = embedding.Embedder({"layout": np.array(embedding.LAYOUT), "recipe": embedding.RECIPE.to_array()})
    embedder = embedding.Embedder({**embedder.arrays, "detail": np.array(learnt, np.int32)})
    lake.write_bytes(f"embedders/{embedder.fingerprint}.npz", embedder.to_bytes())
    champion = Champion(embedder.fingerprint, base.fingerprint, "")
    append_row(
        lake,
        {"sha256": champion.embedder, "base": base.fingerprint, "tuned": "", "run": run.name}
        | {"model": base.fingerprint, "promoted": True},
    )
    monkeypatch.setattr(judging, "settle", lambda *_: judging.Settled(champion))
    figures = execute("embed", run).figures
    assert (figures["detail"], figures["embedded"], figures["base"]) == (detail, 4, base.fingerprint)
    assert (figures["model"] == base.fingerprint) == (detail is None)
    stored = read_images(run, hashes_of(run))
    pixels = np.stack([images.load(stored[sha], 64, 48, detail) for sha in hashes_of(run)])
    looked_at = features_module.Extractor(extraction.build(lake, base))(pixels)
    assert np.allclose(read_features(run, "average"), looked_at.average, atol=0.02)


def test_a_sample_of_images_goes_on_in_more_files_where_the_first_ones_lack(lake):
    cataloged(lake, 3, "2026-01-01")
    run = cataloged(lake, 12, "2026-01-02")
    assert len(run.table("images").parts) > 1
    stored = read_images(run, hashes_of(run))
    assert set(sample_images(run, 12, files=1)) == set(stored.values())
    assert len(sample_images(run, 5, files=1)) == 5
    assert len(set(sample_images(run, 5))) == 5


def test_an_image_that_is_not_stored_is_named_with_the_step_that_stores_it(lake):
    run = cataloged(lake, 4, "2026-01-01")
    stored, lost = run.table("images").read().to_pylist(), min(hashes_of(run))
    version = write_table(run, "images", [row for row in stored if row["image_sha256"] != lost], catalog_step.IMAGES)
    write_result(run, "catalog", tables=run.result("catalog").tables | {"images": version})
    with pytest.raises(UserError, match=f"1 of the 4 images to embed are not stored, such as image {lost}") as caught:
        execute("embed", run)
    assert "lookalike step catalog --run 2026-01-01" in caught.value.remedy


@pytest.mark.parametrize("trained", [True, False])
def test_an_embedding_that_is_nan_is_an_error_that_names_embedder_and_model(lake, trained):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 8)).astype(np.float32)
    embedder = embedding.UNTRAINED
    if trained:
        kinds = {"articleType": ["Shirts", "Watches"] * 20}
        embedder, _ = embedding.fit(Features(values, values, values), kinds, np.full(40, split.TRAIN, np.int8), 0)
        embedder = embedding.Embedder({**embedder.arrays, "hidden": np.full_like(embedder.arrays["hidden"], np.nan)})
    else:
        values[7] = np.inf
    products = [{"product_id": i, "image_sha256": f"{i:064}"} for i in range(40)]
    rows = {product["image_sha256"]: row.tolist() for product, row in zip(products, values, strict=True)}
    run = catalogues.embedded(open_run(lake), products, rows)
    with pytest.raises(UserError, match="gate finite: .* NaN or infinite") as caught:
        read_embeddings(run, embedder)
    assert caught.value.where == f"embedder {embedder.fingerprint}, features of model model"
    assert "lookalike step embed" in caught.value.remedy
