"""compare-backbones with the real backbone on a small catalogue: the same figures again, and no weights by chance."""

import csv
import io
import json

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from infra.errors import UserError
from infra.lake import Lake
from jobs import compare_backbones as comparing
from jobs import extraction
from jobs.champion import append_row
from jobs.cli import app
from jobs.compare_backbones import Choice, measure, parse_choices, take_sample
from jobs.run import recorded
from jobs.step import execute
from ml import backbones, features, images, split
from tests.catalogues import image, mapped, open_run, pulled, row, styles, write_table, zip_bytes

RUN = "2026-01-31"
N = 90
SMALL = Choice("efficientnet-lite0", 64, 48)


def catalogue() -> bytes:
    """`N` good products, and one more with the image of the first."""
    rows = [row(number) for number in range(1, N + 2)]
    size = (57, 83)  # at which the drawings are different pictures, and some of them are held out
    files = {f"images/{shown['id']}.jpg": image(int(shown["id"]), shown["baseColour"], size) for shown in rows}
    files[f"images/{N + 1}.jpg"] = files["images/1.jpg"]
    return zip_bytes(files | {"styles.csv": styles(rows)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose catalogue is read and not embedded."""
    run = open_run(Lake((tmp_path_factory.mktemp("compare") / "lake").as_uri()), RUN)
    execute("catalog", pulled(run, catalogue()))
    return run


@pytest.fixture(scope="module")
def sample(run):
    return take_sample(run, N)


@pytest.fixture(scope="module")
def pooled(run, sample):
    """Features of the sample, extracted here."""
    settings = run.settings.model_copy(update={"input_height": SMALL.height, "input_width": SMALL.width})
    extractor = features.Extractor(extraction.build(run.lake, extraction.choose_model(settings)))
    files = {each["image_sha256"]: each["bytes"] for each in run.table("images").read().to_pylist()}
    pixels = [images.load(files[sha], SMALL.height, SMALL.width) for sha in sample.hashes.to_pylist()]
    found = [extractor(np.stack(pixels[at : at + 32])) for at in range(0, N, 32)]
    return features.Features(*(np.concatenate(each) for each in zip(*found, strict=True)))


def call(run, out, *arguments):
    fixed = ["compare-backbones", "--run", run.name, "--sample", str(N), "--backbones", str(SMALL), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_LAKE", run.lake.uri)
        return CliRunner().invoke(app, [*fixed, *map(str, arguments)])


@pytest.fixture(scope="module")
def interrupted(run, tmp_path_factory):
    """The command's result and folder: of three backbones one has no weights and the last is interrupted."""
    folder = tmp_path_factory.mktemp("interrupted")
    counted = keras.Model.count_params

    def count_until_interrupted(model):
        if (folder / "backbones.png").exists():
            raise KeyboardInterrupt
        return counted(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("https_proxy", "http://127.0.0.1:9")  # a download is refused at once
        patch.setattr(keras.src.backend.config, "_KERAS_DIR", str(folder / "an empty cache"))
        patch.setattr(keras.Model, "count_params", count_until_interrupted)
        return call(run, folder, "--backbones", f"xception,{SMALL},efficientnet-lite0@64x64"), folder


@pytest.fixture(scope="module")
def measured(interrupted):
    """The figures of the one backbone that was measured."""
    return json.loads((interrupted[1] / "backbones.json").read_text())["rows"][1]["figures"]


# What is asked for ----------------------------------------------------------------------------------------------------


def test_nothing_named_is_the_whole_registry_and_an_input_size_can_be_asked_for():
    assert {choice.name for choice in parse_choices("")} == set(backbones.BACKBONES)
    assert parse_choices("resnet50, efficientnet-lite0@192x144,resnet50@224x224") == [
        Choice("resnet50", 224, 224),
        Choice("efficientnet-lite0", 192, 144),
    ]
    assert str(parse_choices("efficientnet-lite0@192x144")[0]) == "efficientnet-lite0@192x144"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet50,vgg16", ["no backbone 'vgg16'", "efficientnet-lite0, efficientnet-lite1"]),
        ("resnet50@", ["'' is no input size", "resnet50@192x144"]),
        ("resnet50@192", ["'192' is no input size", "HEIGHTxWIDTH"]),
        ("resnet50@0x0", ["'0x0' is no input size", "32 to 1024"]),
        ("resnet50@192x144x3", ["'192x144x3' is no input size"]),
        ("resnet50@99999x99", ["'99999x99' is no input size"]),
    ],
)
def test_a_backbone_that_is_named_wrongly_is_a_clear_error(text, expected):
    with pytest.raises(UserError) as caught:
        parse_choices(text)
    assert all(part in str(caught.value) for part in expected), str(caught.value)


def test_the_sample_is_the_first_images_by_hash_each_once(run, sample):
    hashes = sample.hashes.to_pylist()
    products = run.table("products").read(["image_sha256"])["image_sha256"].to_pylist()
    assert (len(products), len(hashes)) == (N + 1, N)
    assert hashes == sorted(set(products))
    assert take_sample(run, 60).hashes.to_pylist() == hashes[:60]


def test_queries_are_held_out_and_have_ten_others_of_their_kind(sample):
    types = sample.codes["articleType"]
    expected = [side == split.TEST and (types == own).sum() > 10 for side, own in zip(sample.sides, types, strict=True)]
    assert sample.asked.tolist() == expected
    assert 0 < sample.asked.sum() < len(sample.asked)


def test_a_catalogue_without_kinds_has_nothing_to_compare_backbones_by(lake):
    run = pulled(open_run(lake), catalogue())
    execute("catalog", run)
    with pytest.raises(UserError, match="judged by kind and group, and the mapping names no kind"):
        take_sample(mapped(run, kind=""), 60)


def test_a_sample_that_is_too_small_to_ask_about_is_a_clear_error(run):
    with pytest.raises(UserError, match="8 images are too few") as caught:
        take_sample(run, 8)
    assert "--sample 8" in str(caught.value)


# The protocol ---------------------------------------------------------------------------------------------------------


def test_the_shares_are_those_of_the_nearest_by_their_definition(sample, pooled, measured):
    average = pooled[0].astype(np.float64)
    units = np.rint(average / np.linalg.norm(average, axis=1, keepdims=True) * 2048)
    scores = units @ units.T
    both, colour = [], []
    types, genders, colours = (sample.codes[name] for name in ("articleType", "gender", "baseColour"))
    for query in np.flatnonzero(sample.asked):
        order = [other for other in np.argsort(-scores[query], kind="stable") if other != query][:10]
        both += [types[other] == types[query] and genders[other] == genders[query] for other in order]
        colour += [colours[other] == colours[query] for other in order]
    assert measured["untrained_both_at_10"] == round(100 * np.mean(both), 2)
    assert measured["untrained_colour_at_10"] == round(100 * np.mean(colour), 2)


def test_a_measured_backbone_has_every_figure_and_the_lake_is_as_before(run, measured):
    assert (measured["height"], measured["width"]) == (64, 48)
    assert (measured["dimensions"], measured["images_timed"]) == (1280, N)
    assert measured["parameters_millions"] == pytest.approx(3.35, abs=0.01)
    assert measured["megabytes"] == pytest.approx(4 * measured["parameters_millions"], abs=0.1)
    assert measured["images_per_s"] > 0
    assert 0 <= measured["trained_subCategory"] <= 100
    assert run.lake.table("features").version == -1


def test_features_that_the_lake_holds_give_the_same_accuracies_and_a_few_images_the_speed(
    lake, sample, pooled, measured, monkeypatch
):
    run = open_run(lake, RUN)
    execute("catalog", pulled(run, catalogue()))
    mark = comparing.find_model(run.settings, SMALL, "").fingerprint
    rows = [
        {"image_sha256": sha, "model": mark, **{name: row.tolist() for name, row in own._asdict().items()}}
        for sha, own in zip(
            sample.hashes.to_pylist(), map(features.Features._make, zip(*pooled, strict=True)), strict=True
        )
    ]
    version = write_table(run, "features", rows[::-1], extraction.SCHEMA)
    monkeypatch.setattr(comparing, "TIMED", 32)
    seen = []
    found = measure(run, sample, SMALL, "", seen.append).figures
    assert seen == [32]
    assert found["images_timed"] == 32
    accuracies = [name for name in measured if name.startswith(("untrained", "trained"))]
    assert {name: found[name] for name in accuracies} == {name: measured[name] for name in accuracies}
    assert run.lake.table("features").version == version


# Weights --------------------------------------------------------------------------------------------------------------


def test_weights_in_the_folder_are_those_of_the_backbone(run, tmp_path):
    network = keras.applications.ResNet50V2(include_top=False, weights=None)
    network.save_weights(tmp_path / "resnet50v2.weights.h5")
    model = comparing.find_model(run.settings, Choice("resnet50v2", 32, 32), str(tmp_path))
    assert model.weights == (tmp_path / "resnet50v2.weights.h5").as_uri()
    built = extraction.build(run.lake, model)
    assert built.input_shape == (None, 32, 32, 3)
    assert all(np.array_equal(*pair) for pair in zip(built.get_weights(), network.get_weights(), strict=True))


def test_a_backbone_without_a_file_in_the_folder_has_its_package(run, tmp_path):
    found = comparing.find_model(run.settings, SMALL, str(tmp_path))
    assert found.weights.endswith("/efficientnet-lite0-57934424.pth")
    assert found == comparing.find_model(run.settings, SMALL, "")


@pytest.mark.parametrize(
    ("name", "file", "content", "expected"),
    [
        ("xception", "xception.weights.h5", b"junk", "does not fit"),
        ("efficientnet-lite0", "efficientnet-lite0.pth", b"junk", "no weights file in torch's legacy format"),
    ],
)
def test_a_file_without_the_weights_is_a_row_that_says_so(run, sample, tmp_path, name, file, content, expected):
    (tmp_path / file).write_bytes(content)
    found = measure(run, sample, Choice(name, 96, 96), tmp_path.as_uri())
    assert (found.figures, found.weights) == ({}, "")
    assert (tmp_path / file).as_uri() in found.missing
    assert expected in found.missing
    assert "\n" not in found.missing


def test_weights_of_another_network_are_not_filled_up_by_chance(run, sample, tmp_path):
    keras.applications.MobileNetV2(include_top=False, weights=None).save_weights(tmp_path / "resnet50v2.weights.h5")
    found = measure(run, sample, Choice("resnet50v2", 32, 32), str(tmp_path))
    assert found.figures == {}
    assert "does not fit" in found.missing


def test_weights_that_cannot_be_downloaded_are_a_row_beside_those_that_are_there(interrupted):
    result, folder = interrupted
    missing, there = csv.DictReader(io.StringIO((folder / "backbones.csv").read_text()))
    assert (missing["backbone"], there["backbone"]) == ("xception@299x299", str(SMALL))
    assert "not to be had through Keras: URL fetch failure" in missing["missing"]
    assert missing["images_per_s"] == ""
    assert float(there["images_per_s"]) > 0
    assert "xception@299x299 was not measured" in result.output
    assert f"{N} images of run {RUN}" in result.output


def test_what_was_trained_from_scratch_stands_beside_the_others_the_newest_of_a_size(run, sample):
    asked = {"embedding": "scratch", "embedding_backbone": SMALL.name, "input_height": 64, "input_width": 48}
    settings, tuned = run.settings.model_copy(update=asked), []
    with pytest.raises(UserError, match="no backbone was trained from scratch"):
        parse_choices("resnet50,scratch", comparing.find_trained(run))
    for seed in (0, 1):
        drawn = extraction.draw(extraction.choose_drawn(settings), seed)
        tuned.append(extraction.write_tuned(run.lake, backbones.to_bytes(drawn)))
        append_row(run.lake, {"run": run.name, "tuned": tuned[-1], "settings": json.dumps(recorded(settings))})
    (trained,) = comparing.find_trained(run)
    assert trained == Choice(SMALL.name, 64, 48, tuned[1])
    assert parse_choices("scratch,resnet50@64x64", [trained]) == [trained, Choice("resnet50", 64, 64)]
    assert [choice for choice in parse_choices("", [trained]) if choice.tuned] == [trained]
    found = measure(run, sample, trained, "")
    assert (found.backbone, found.missing) == ("efficientnet-lite0@64x48 scratch", "")
    assert found.weights.endswith(f"/backbones/{tuned[1]}.npz")
    assert found.figures["trained_both_at_10"] >= 0
    table = comparing.table(comparing.describe(run, sample, [found]))
    assert list(table.columns[0].cells) == ["efficientnet-lite0 scratch"]


# Stopping and mistakes ------------------------------------------------------------------------------------------------


def test_an_interruption_keeps_what_is_finished(interrupted):
    result, folder = interrupted
    assert result.exit_code == 130
    assert "2 of 3 backbones are done" in result.output
    told = json.loads((folder / "backbones.json").read_text())
    assert (told["run"], told["images"]) == (RUN, N)
    assert [row["backbone"] for row in told["rows"]] == ["xception@299x299", str(SMALL)]
    assert f"{told['rows'][1]['figures']['images_per_s']:.1f}" in result.output
    assert Image.open(folder / "backbones.png").format == "PNG"


def test_without_any_weights_there_is_a_table_and_no_plot(run, tmp_path):
    (tmp_path / "xception.weights.h5").write_bytes(b"junk")
    result = call(run, tmp_path / "out", "--backbones", "xception", "--weights", tmp_path)
    assert result.exit_code == 0, result.output
    assert "xception@299x299 was not measured" in result.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["backbones.csv", "backbones.json"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backbones", "vgg16"], "no backbone 'vgg16'"),
        (["--run", "2020-01-01"], "run 2020-01-01 has no result of step 'catalog'"),
        (["--sample", "8"], "8 images are too few"),
        (["--weights", "/nowhere"], "no such folder of weights"),
        (["--out", "/proc/out"], "the folder cannot be made"),
    ],
)
def test_a_mistake_of_the_caller_is_a_clear_error(run, tmp_path, arguments, expected):
    result = call(run, tmp_path, *arguments)
    assert isinstance(result.exception, UserError)
    assert expected in str(result.exception)
