"""The step classify: a trained, measured and saved classifier, from a small hand-made lake."""

import hashlib
import json

import numpy as np
import pytest

from infra.lake import Lake
from jobs import classify, step
from jobs.serve.search import read_classifier
from ml import classifier, split
from tests.catalogues import embedded, good_files, open_run, pulled, sides_of_images, zip_bytes

KINDS = ("Bags", "Shoes", "Watches")
N = 120


def sha(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def catalogue():
    """120 products in three separable kinds, each fourth on the image of another of its kind, then two unlabelled."""
    rng = np.random.default_rng(0)
    centres = 8 * rng.normal(size=(3, 6))
    rows = []
    for i in range(N):
        image = i - 3 if i % 4 == 3 else i
        rows.append((100 + i, KINDS[i % 3], sha(image)))
    features = {sha(i): (rng.normal(size=6) + centres[i % 3]).tolist() for i in range(N + 2)}
    return [*rows, (100 + N, None, sha(N)), (101 + N, None, sha(N + 1))], features


def lake_with(folder, rows, features, name="night"):
    """A run whose catalog and embed are done: what those steps would have committed."""
    products = [{"product_id": i, "subCategory": label, "image_sha256": image} for i, label, image in rows]
    return embedded(open_run(Lake((folder / "lake").as_uri()), name), products, features)


@pytest.fixture(autouse=True, scope="module")
def few_epochs():
    """Weights start at zero, so the first steps already point the right way; more would only take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "EPOCHS", 12)
        yield


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A run with its classifier trained: (folder, run, the step's result, the table's row)."""
    folder = tmp_path_factory.mktemp("classify")
    run = lake_with(folder, *catalogue())
    result = step.execute("classify", run)
    return folder, run, result, run.table("classifier").read().to_pylist()[0]


def test_separable_kinds_are_told_apart_and_the_figures_say_so(night):
    _, _, result, row = night
    figures = result.figures
    assert (result.rows, result.skipped) == (1, False)
    assert (figures["test_accuracy"], figures["macro_f1"], figures["classes"]) == (1.0, 1.0, 3)
    assert figures["without_subcategory"] == 2
    assert (figures["train"], figures["validation"], figures["test"]) == tuple(
        len(row[side]) for side in ("train_ids", "validation_ids", "test_ids")
    )
    assert row["labels"] == list(KINDS)
    metrics = json.loads(row["metrics"])
    assert metrics["accuracy"] == 1.0
    assert metrics["classes"]["Bags"]["support"] > 0
    assert len(metrics["history"]["val_loss"]) == figures["epochs"]


def test_of_too_many_products_those_with_the_first_image_hashes_are_learnt_from_and_the_others_counted(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(classify, "MOST", 60)
    rows, features = catalogue()
    run = lake_with(tmp_path, rows, features)
    result = step.execute("classify", run)
    row = run.table("classifier").read().to_pylist()[0]
    learnt = {*row["train_ids"], *row["validation_ids"], *row["test_ids"]}
    labelled = [(image, product) for product, label, image in rows if label]
    assert learnt == {str(product) for _, product in sorted(labelled)[:60]}
    assert (result.figures["left_out"], result.figures["without_subcategory"]) == (60, 2)
    assert result.figures["test_accuracy"] == 1.0


def test_the_sides_hold_every_labelled_product_once_and_never_share_an_image(night):
    row = night[3]
    sides = [row[side] for side in ("train_ids", "validation_ids", "test_ids")]
    assert sorted(sum(sides, [])) == [str(number) for number in range(100, 100 + N)]
    image = {str(number): name for number, _, name in catalogue()[0]}
    train, validation, test = ({image[product_id] for product_id in side} for side in sides)
    assert len(train) + len(validation) + len(test) == len(train | validation | test) == 90


def test_the_saved_file_is_named_by_its_hash_and_gives_the_metrics_in_the_table(night):
    _, run, _, row = night
    assert row["model_file"] == f"models/{row['model_sha256']}.keras"
    model = classifier.from_bytes(run.lake.read_bytes(row["model_file"]), row["model_sha256"])
    rows, features = catalogue()
    kind, image = ({str(row[0]): row[column] for row in rows} for column in (1, 2))
    beside = len(classifier.COLUMNS)  # the fixture's features are the same in every column
    vectors = np.array([features[image[product_id]] * beside for product_id in row["test_ids"]], np.float32)
    predicted = [row["labels"][best] for best in classifier.predict(model, vectors).argmax(axis=1)]
    right = np.mean([found == kind[product_id] for found, product_id in zip(predicted, row["test_ids"], strict=True)])
    assert right == json.loads(row["metrics"])["accuracy"]


def test_a_model_file_that_was_tampered_with_is_refused(night):
    _, run, _, row = night
    data = bytearray(run.lake.read_bytes(row["model_file"]))
    data[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match=row["model_sha256"]):
        classifier.from_bytes(bytes(data), row["model_sha256"])


def test_the_same_products_and_model_are_skipped_whatever_the_run_is_called(night):
    folder, _, first, _ = night
    again = step.execute("classify", lake_with(folder, *catalogue(), name="next"))
    assert again.skipped
    assert (again.tables, again.rows, again.figures) == (first.tables, first.rows, first.figures)


def test_training_again_elsewhere_gives_the_same_row_and_file(night, tmp_path):
    run = lake_with(tmp_path, *catalogue())
    step.execute("classify", run)
    assert run.table("classifier").read().to_pylist() == [night[3]]
    assert run.lake.exists(night[3]["model_file"])


def test_a_changed_label_trains_anew_and_replaces_the_row(night):
    folder, _, _, before = night
    rows, features = catalogue()
    run = lake_with(folder, [(rows[0][0], KINDS[1], rows[0][2]), *rows[1:]], features, name="changed")
    assert not step.execute("classify", run).skipped
    (after,) = run.table("classifier").read().to_pylist()
    assert after["fingerprint"] != before["fingerprint"]
    assert after["model_sha256"] != before["model_sha256"]


def test_where_there_is_nothing_to_learn_the_run_has_no_classifier_and_the_figures_say_why(night):
    rows, features = catalogue()
    folder, _, _, _ = night
    run = lake_with(folder, [(product_id, None, image) for product_id, _, image in rows], features, name="none")
    result = step.execute("classify", run)
    assert result.figures["classifier"] == "none: none of the 122 products has a subCategory"
    assert run.table("classifier").read().num_rows == 0  # not that of the run before
    assert read_classifier(run) is None
    assert step.execute("classify", run).skipped


def test_where_all_labelled_images_are_held_out_the_run_has_no_classifier(tmp_path):
    rows, features = catalogue()
    held_out = [at for at in rows if sides_of_images([at[2]])[0] == split.TEST][:3]
    result = step.execute("classify", lake_with(tmp_path, held_out, features))
    assert result.figures["classifier"].startswith("none: the images of all 3 products with a subCategory are held out")


def test_a_catalogue_too_small_to_hold_out_is_learnt_and_its_accuracy_is_unknown(tmp_path):
    rows, features = catalogue()
    result = step.execute("classify", lake_with(tmp_path, [rows[at] for at in (0, 2, 5)], features))
    assert result.figures["test_accuracy"] is None
    assert (result.figures["train"], result.figures["validation"], result.figures["test"]) == (3, 0, 0)


# On images ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A run whose classifier was finetuned on images, and the step's result."""
    folder = tmp_path_factory.mktemp("finetune")
    run = on_images(folder, "first")
    return run, step.execute("classify", run)


def on_images(folder, name, **settings):
    """A run of 90 drawn products in three subCategories, whose classifier is to be finetuned."""
    asked = {
        "classifier": "finetune",
        "classifier_backbone": "efficientnet-lite0",
        "classifier_epochs": 1,
        "input_height": 64,
        "input_width": 48,
        "scratch": folder / "scratch",
    }
    run = open_run(Lake((folder / "lake").as_uri()), name, **asked | settings)
    run = pulled(run, zip_bytes(good_files(90)))
    step.execute("catalog", run)
    return run


def test_finetuning_learns_on_images_and_keeps_a_model_that_takes_them(finetuned):
    run, result = finetuned
    (row,) = run.table("classifier").read().to_pylist()
    assert (row["input"], row["labels"]) == ("images", ["Bags", "Shoes", "Topwear"])
    assert (result.figures["input"], result.figures["epochs"]) == ("images", 1)
    model = classifier.from_bytes(run.lake.read_bytes(row["model_file"]), row["model_sha256"])
    assert (model.input_shape, model.output_shape) == ((None, 64, 48, 3), (None, 3))
    assert not list(run.settings.scratch.iterdir())  # checkpoints are of no use once the model is stored


def test_the_same_finetuning_is_not_done_again_and_another_backbone_is(finetuned, tmp_path):
    run, _ = finetuned
    folder = run.settings.scratch.parent
    assert step.execute("classify", on_images(folder, "same")).skipped
    assert not step.execute("classify", on_images(folder, "other", classifier_backbone="efficientnet-lite1")).skipped


def test_the_multi_label_variant_is_finetuned_too(tmp_path):
    run = on_images(tmp_path, "multi", classifier_labels="multi")
    assert step.execute("classify", run).figures["learnt"] == "multi"
    (row,) = run.table("classifier").read().to_pylist()
    assert {"Men", "Women", "Apparel"} <= {label.split("=")[-1] for label in row["other_labels"]}
