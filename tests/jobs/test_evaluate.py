"""evaluate: figures, verdicts and a report that anyone may open, from a small lake made by hand."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from infra import store
from infra.errors import UserError
from infra.settings import ATTRIBUTES
from jobs import candidates, catalog, classify, evaluate, heldout, reference, similar
from jobs.champion import EMBEDDERS
from jobs.cli import app
from jobs.extraction import SCHEMA as FEATURES
from jobs.headline import headline
from jobs.publish import refused_gates
from jobs.report import GRID_QUERIES, THUMBNAIL, spread
from jobs.run import STEPS
from jobs.step import execute
from ml import cube, embedding, split
from ml.classifier import to_bytes
from ml.similarity import to_embedding
from tests.catalogues import PULLS, image, mapped, open_run, row, sides_of_images, write_result, write_table

N = 60
LABELS = ["Bags", "Shoes", "Topwear"]
TEST = range(1, 13)
"""Products whose images are held out: those whose hash begins with less than 20, modulo 100."""
EMBEDDER_FILE = embedding.Embedder(
    {"layout": np.array(embedding.LAYOUT), "recipe": embedding.RECIPE.to_array()}
).to_bytes()
EMBEDDER = hashlib.sha256(EMBEDDER_FILE).hexdigest()
"""Of a trained embedder that is not applied: what it makes of images is in the table embeddings."""
HOSTILE = "<script>alert('x')</script> & \"quotes\""


def sha(number: int) -> str:
    """Hash of a product's image: that of product 1 places it at 1 of 100, 13 at 20, 18 at 28."""
    place = number if number < 13 else number + 7 if number < 18 else number + 10
    return f"{place:08x}{number:056d}"


@pytest.fixture(scope="module")
def classifier_file() -> bytes:
    """A classifier of features whose average names the subCategory, one of three."""
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.set_weights([np.vstack([5 * np.eye(3)[::-1], np.zeros(3)]), np.zeros(3)])
    return to_bytes(model)


def features_of(number: int) -> list[float]:
    """The subCategory that an image shows; that of product 7 shows another."""
    return np.eye(3)[(number + (number == 7)) % 3].tolist()


def embedding_of(number: int) -> list[float]:
    """What kind an image shows, of six, and a little of its own; that of product 9 looks like another kind."""
    own = np.array([np.sin(number), np.cos(number)])
    return to_embedding(np.append(np.eye(6)[(number + (number == 9)) % 6], 0.2 * own)[None])[0].tolist()


@pytest.fixture
def small_run(lake, empty_database, classifier_file):
    """A function that makes a run whose steps before evaluate are done; `damage` may spoil its tables' rows."""

    def make(damage=lambda tables: None, **settings):
        run = open_run(lake, store=empty_database, **settings)
        tables = good_tables()
        damage(tables)
        write_run(run, tables, classifier_file)
        return run

    return make


def good_tables() -> dict[str, list[dict]]:
    """Rows of the tables, in each the row of product `n` at n − 1."""
    tables: dict[str, list[dict]] = {
        name: [] for name in ("products", "images", "features", "embeddings", "shortlists", "embedders")
    }
    for number in range(1, N + 1):
        attributes = {name: value for name, value in row(number).items() if name != "id"}
        kind = f"{attributes['gender']} {attributes['articleType']}"
        product = {"product_id": number, **attributes, "derivedType": kind, "image_sha256": sha(number)}
        drawn = {"bytes": image(number, attributes["baseColour"]), "width": 30, "height": 40}
        pooled = {"average": features_of(number), "maximum": [1.0, 2.0], "stages": [1.0]}
        others = [str(other) for other in range(1, N + 1) if other != number][:10]
        tables["products"].append(product)
        tables["images"].append({"image_sha256": sha(number), **drawn})
        tables["features"].append({"image_sha256": sha(number), "model": "m", **pooled})
        tables["embeddings"].append({"product_id": number, "embedding": embedding_of(number), "unlabelled": None})
        tables["shortlists"].append({"product_id": number, "items": others, "scores": [0.5] * 10})
    tables["products"][0] |= {"productDisplayName": HOSTILE, "articleType": "$\\frac$ <i>\x01"}
    tables["products"][1] |= {"productDisplayName": None, "articleType": None, "gender": None, "derivedType": None}
    tables["cells"] = [{"cell": 0, "members": N, "depth": 10, "filters": "[{}]"}]
    tables["rejects"] = [
        {"product_id": "77", "file": "images/77.jpg", "reason": "damaged", "detail": "<b>cut</b>"},
        {"product_id": "99", "file": "images/99.jpg", "reason": "no row", "detail": ""},
    ]
    metrics = {
        "accuracy": 0.9,
        "confusions": [{"true": "Bags", "predicted": "Shoes", "count": 3}],
        "classes": {name: {"precision": 0.5, "recall": 0.25, "f1": 0.333, "support": 4} for name in LABELS},
        "history": {"loss": [1.5, 0.5], "accuracy": [0.5, 0.75], "val_loss": [2.0, 1.0], "val_accuracy": [0.25, 0.5]},
    }
    learnt = [str(number) for number in range(1, N + 1) if number not in TEST]
    tables["classifier"] = [
        {"train_ids": learnt, "input": "features", "labels": LABELS, "metrics": json.dumps(metrics)}
    ]
    return tables


def write_run(run, tables: dict[str, list[dict]], classifier_file: bytes, uri: str = "sample:60") -> None:
    """Commit the tables and the results of the steps that would have written them."""
    digest = hashlib.sha256(classifier_file).hexdigest()
    run.lake.write_bytes(f"models/{digest}.keras", classifier_file)
    for each in tables["classifier"]:
        each |= {"model_file": f"models/{digest}.keras", "model_sha256": digest}
    trained = tables.pop("embedders")
    if trained:
        write_table(run, "embedders", trained, EMBEDDERS)
        run.lake.write_bytes(f"embedders/{EMBEDDER}.npz", EMBEDDER_FILE)
    count = len(tables["products"])
    figures = {
        "pull": {"uri": uri},
        "catalog": {"products": count, "rejected_products": 1},
        "embed": {
            "model": "m",
            "backbone": "efficientnet-lite0",
            "embedder": trained[0]["sha256"] if trained else "untrained",
        },
        "similar": {"cells": 1, "products": count, "shortlist_items": 10.0},
    }
    schemas = {
        "pull": {"pulls": PULLS},
        "catalog": {"products": catalog.PRODUCTS, "images": catalog.IMAGES, "rejects": catalog.REJECTS},
        "embed": {"features": FEATURES},
        "classify": {"classifier": classify.CLASSIFIER},
        "candidates": {"candidates": candidates.CANDIDATES},
        "similar": {"embeddings": similar.EMBEDDINGS, "cells": similar.CELLS, "shortlists": similar.SHORTLISTS},
    }
    tables |= {"pulls": [{"uri": uri}], "candidates": []}
    for name, written in schemas.items():
        versions = {table: write_table(run, table, tables[table], schema) for table, schema in written.items()}
        rejected = 2 if name == "catalog" else 0
        write_result(run, name, tables=versions, figures=figures.get(name, {}), seconds=1.5, rejects=rejected)


def verdicts(run) -> dict[str, bool]:
    return {each["gate"]: each["passed"] for each in run.table("verdicts").read().to_pylist()}


def test_a_good_run_passes_every_gate_and_its_figures_are_those_of_its_lists(small_run):
    run = small_run()
    result = execute("evaluate", run)
    assert set(verdicts(run).values()) == {True}
    assert result.figures["failed_gates"] == 0
    assert result.figures["coverage"] == 1
    measured = {each["metric"]: each["value"] for each in run.table("metrics").read().to_pylist()}
    assert measured["rejected"] == pytest.approx(1 / (N + 1))  # the image without a row is no product
    products = {p["product_id"]: p for p in run.table("products").read().to_pylist()}
    same = [
        products[item]["baseColour"] == products[each["product_id"]]["baseColour"]
        for each in run.table("shortlists").read().to_pylist()
        for item in each["items"]
    ]
    assert measured["colour_share"] == pytest.approx(100 * np.mean(same))
    assert refused_gates(run) == []


def spoil_features(tables):
    tables["features"][3]["average"] = [float("nan"), 1.0, 0.0]


def drop_a_shortlist(tables):
    tables["shortlists"].pop()


def shorten_shortlists(tables):
    for each in tables["shortlists"][:5]:
        each["items"], each["scores"] = each["items"][:9], each["scores"][:9]


def list_products_that_are_gone(tables):
    for shortlist in tables["shortlists"][:5]:
        shortlist["items"][0] = "gone"


def keep_shortlists_of_products_that_are_gone(tables):
    for shortlist in tables["shortlists"][:5]:
        shortlist["product_id"] = f"gone {shortlist['product_id']}"


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        (spoil_features, {"finite"}),
        (drop_a_shortlist, {"shortlists", "coverage"}),
        (shorten_shortlists, {"coverage"}),
        (list_products_that_are_gone, {"coverage"}),
        (keep_shortlists_of_products_that_are_gone, {"coverage", "shortlists"}),
    ],
)
def test_a_damaged_run_fails_its_gate_and_is_refused_by_publish_in_words(small_run, damage, failed):
    run = small_run(damage, coverage_min=0.99)
    execute("evaluate", run)
    assert {gate for gate, passed in verdicts(run).items() if not passed} == failed
    refusals = refused_gates(run)
    assert len(refusals) == len(failed)
    assert all("is not published, the old run serves on" in str(refusal) for refusal in refusals)


def test_features_of_images_and_models_that_the_run_does_not_use_cannot_fail_it(small_run, lake):
    def add_features_of_others(tables):
        spoilt = {"average": [float("nan"), 1.0], "maximum": [1.0, float("inf")], "stages": [1.0]}
        tables["features"].append({"image_sha256": "f" * 64, "model": "m", **spoilt})
        tables["features"].append({"image_sha256": sha(1), "model": "another", **spoilt})

    run = small_run(add_features_of_others)
    assert execute("evaluate", run).figures["failed"] == []


def test_evaluating_again_changes_nothing(small_run, lake):
    run = small_run()
    first = execute("evaluate", run)
    page = lake.read_bytes(first.figures["report"])
    again = execute("evaluate", run)
    assert (again.figures, again.tables) == (first.figures, first.tables)
    assert lake.read_bytes(again.figures["report"]) == page


def test_large_images_are_shown_small(small_run, lake):
    def enlarge(tables):
        for number, each in enumerate(tables["images"], 1):
            each |= {"bytes": image(number, size=(400, 500)), "width": 400, "height": 500}

    page = lake.read_bytes(execute("evaluate", small_run(enlarge)).figures["report"]).decode()
    shown = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(shown) == GRID_QUERIES * 11
    assert {max(Image.open(io.BytesIO(base64.b64decode(each))).size) for each in set(shown)} == {THUMBNAIL}


def test_the_report_stands_alone_and_escapes_what_users_wrote(small_run, lake):
    run = small_run()
    result = execute("evaluate", run)
    page = lake.read_bytes(result.figures["report"]).decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    assert "&lt;b&gt;cut&lt;/b&gt;" in page
    assert "<i>" not in page
    assert "None" not in re.sub(r"base64,[^\"]*", "", page).replace("<p>None.</p>", "")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert not re.search(r"url\(|@import|https?:", page)
    assert page.count('class="list"') == GRID_QUERIES
    assert page.count("data:image/jpeg;base64,") == GRID_QUERIES * 11
    assert "Bags" in page
    assert "sample:60" in page


# Held-out images ------------------------------------------------------------------------------------------------------


def answered(run) -> list[dict]:
    return run.lake.table("heldout", run.result("evaluate").tables["heldout"]).read().to_pylist()


def test_the_figures_of_unknown_images_follow_from_the_table_of_their_answers(small_run):
    run = small_run()
    figures = execute("evaluate", run).figures
    products = {each["product_id"]: each for each in run.table("products").read().to_pylist()}
    found = answered(run)
    assert [each["product_id"] for each in found] == [str(n) for n in TEST if n != 2]  # 2 has no derivedType
    kind = ("gender", "articleType")
    right, all10 = 0, 0
    for each in found:
        own = products[each["product_id"]]
        assert each["image_sha256"] == own["image_sha256"]
        right += each["derivedType"] == own["derivedType"]
        all10 += all(products[item][name] == own[name] for item in each["items"] for name in kind)
    assert figures["unknown_images"] == len(found) == 11
    assert figures["unknown_derived"] == round(100 * right / 11, 2)
    assert figures["unknown_all10"] == round(100 * all10 / 11, 2)
    assert figures["unknown_subcategory"] == round(100 * 10 / 11, 2)  # all but product 7
    assert figures["subcategory_test_15"] == round(100 * 11 / 12, 2)
    assert 0 < all10 < 11


def test_no_image_that_is_held_out_is_recommended_or_a_candidate(small_run):
    run = small_run()
    execute("evaluate", run)
    hashes = {each["product_id"]: each["image_sha256"] for each in run.table("products").read().to_pylist()}
    items = [item for each in answered(run) for item in each["items"]]
    assert items
    assert split.TEST not in set(sides_of_images([hashes[item] for item in items]))


def test_pictures_that_the_embedder_has_learnt_and_those_of_the_final_side_are_not_asked(small_run, lake):
    run = small_run()
    before = heldout.read_products(run)
    assert np.flatnonzero(before.sides == split.TEST).tolist() == [number - 1 for number in TEST]
    learnt = embedding.Embedder(
        {
            "layout": np.array(embedding.LAYOUT),
            "recipe": embedding.RECIPE.to_array(),
            "learnt": np.array([10**12 + 113]),
        }
    ).to_bytes()
    sha256 = hashlib.sha256(learnt).hexdigest()
    lake.write_bytes(f"embedders/{sha256}.npz", learnt)

    def change(tables):
        tables["embedders"].append(dict.fromkeys(EMBEDDERS.names) | {"sha256": sha256, "number": 0})
        tables["products"][0]["picture"], tables["products"][1]["picture"] = 10**12 + 113, 7

    sides = heldout.read_products(small_run(change)).sides
    assert (sides[0], sides[1]) == (split.TRAIN, split.FINAL)
    assert np.flatnonzero(sides == split.TEST).tolist() == [number - 1 for number in TEST if number > 2]


def test_labels_of_held_out_images_change_nothing_but_the_verdict_on_them(small_run, lake):
    run = small_run()
    execute("evaluate", run)
    before = answered(run)

    def relabel(tables):
        for number in TEST:
            swapped = {"gender": "Unisex", "articleType": "Hats", "subCategory": "Caps", "derivedType": "Unisex Hats"}
            tables["products"][number - 1] |= swapped if number != 2 else {}

    execute("evaluate", small_run(relabel))
    assert answered(run) == before
    assert run.result("evaluate").figures["unknown_derived"] == 0


def test_held_out_products_are_measured_by_what_their_images_show_alone(small_run):
    run = small_run()
    served = execute("evaluate", run).figures

    def hide(tables):
        for number in TEST:
            tables["embeddings"][number - 1]["unlabelled"] = embedding_of(number + 1)

    measured = execute("evaluate", small_run(hide)).figures
    assert measured["colour_share"] == served["colour_share"]
    embeddings = np.array([embedding_of(number + (number in TEST)) for number in range(1, N + 1)])
    scores = embeddings @ embeddings.T - 9 * np.eye(N)
    colours = np.array([row(number)["baseColour"] for number in range(1, N + 1)])
    same = [
        colours[np.argsort(-scores[number - 1], kind="stable")[:10]] == colours[number - 1] for number in sorted(TEST)
    ]
    assert measured["heldout_colour_share"] == round(100 * np.mean(same), 2) != served["heldout_colour_share"]


def test_of_too_many_held_out_products_those_with_the_first_image_hashes_are_measured(small_run, monkeypatch):
    run = small_run()
    all_of_them = execute("evaluate", run).figures["heldout_colour_share"]
    monkeypatch.setattr(evaluate, "MOST", 3)
    lists = {each["product_id"]: each["items"] for each in run.table("shortlists").read().to_pylist()}
    products = run.table("products").read(["product_id", "image_sha256", "baseColour"]).to_pylist()
    colours = {each["product_id"]: each["baseColour"] for each in products}
    first = [each["product_id"] for each in sorted(products, key=lambda each: each["image_sha256"])]
    same = [
        np.mean([colours[item] == colours[product_id] for item in lists[product_id]])
        for product_id in [product_id for product_id in first if int(product_id) in TEST][:3]
    ]
    assert execute("evaluate", run).figures["heldout_colour_share"] == round(100 * np.mean(same), 2) != all_of_them


def test_fewer_images_can_be_asked_for_and_are_the_first_by_hash(small_run):
    run = small_run(evaluate_queries=3)
    assert execute("evaluate", run).figures["unknown_images"] == 3
    assert [each["product_id"] for each in answered(run)] == ["1", "3", "4"]


def test_a_classifier_that_has_learnt_from_held_out_images_is_refused(small_run):
    run = small_run(lambda tables: tables["classifier"][0]["train_ids"].append("5"))
    with pytest.raises(UserError, match="has learnt from the images of 1 products that are held out") as caught:
        execute("evaluate", run)
    assert "lookalike step classify" in caught.value.remedy


def test_figures_of_a_trained_embedder_say_what_it_has_learnt_from(small_run, lake):
    def train(tables):
        history = {"loss": [3.5, 1.25], "articleType_accuracy": [0.5, 0.625]}
        trained = {"sha256": EMBEDDER, "number": 0, "promoted": True, "history": json.dumps(history)}
        tables["embedders"].append(dict.fromkeys(EMBEDDERS.names) | trained)

    page = lake.read_bytes(execute("evaluate", small_run(train)).figures["report"]).decode()
    assert "All products, whose attributes count in their embedding" in page
    assert "All products (whose attributes count in their embedding) right, by wrong neighbours allowed" in page
    assert "Classifier: loss by epoch, loss at 1, 2, 3, … epoch: loss 1.5, 0.5; validation loss 2, 1" in page
    assert "Embedder: accuracy by epoch, % at 1, 2, 3, … epoch: articleType accuracy 50, 62" in page


def test_a_run_whose_embedder_has_no_row_any_more_is_measured_all_the_same(small_run, lake):
    def train(tables):
        tables["embedders"].append(dict.fromkeys(EMBEDDERS.names) | {"sha256": EMBEDDER, "number": 0})

    run = small_run(train)
    write_table(run, "embedders", [], EMBEDDERS)
    result = execute("evaluate", run)
    assert result.figures["trained"]
    page = lake.read_bytes(result.figures["report"]).decode()
    assert "All products, whose attributes count in their embedding" in page
    assert "Embedder:" not in page


def test_a_run_is_compared_with_the_live_one_and_the_live_one_with_the_one_before(small_run, empty_database, tmp_path):
    run = small_run()
    assert execute("evaluate", run).figures["compared_with"] is None
    for name, value in (("2026-01-29", 10.0), ("2026-01-30", 99.0), (run.name, 50.0)):
        with store.connect(empty_database, tmp_path) as connection:
            store.prepare(connection)
            make_live(connection, run, name, {"unknown_all10": value})
    result = execute("evaluate", run)
    assert result.figures["compared_with"] == "2026-01-30"  # this one is live
    page = run.lake.read_bytes(result.figures["report"]).decode()
    assert "Against run 2026-01-30" in page
    assert f"{result.figures['unknown_all10'] - 99:+.2f}" in page


def make_live(connection, run, name: str, figures: dict[str, object]) -> None:
    """Make a run of this name live whose evaluation has these figures."""
    with connection.transaction():
        manifest = {"run": name, "release": "test", "results": {"evaluate": {"figures": figures}}}
        run_id = store.begin(connection, name, name, run.settings.fields, manifest)
        products = run.products(["product_id", *ATTRIBUTES, "image_sha256"])
        parts, embeddings = ("productDisplayName", "articleType"), np.zeros((len(products), 8), np.float32)
        store.load_products(connection, run_id, products, parts, np.arange(len(products)), embeddings)
        store.attach(connection, run_id, {"products": N})
        store.flip(connection, run_id)


def test_the_command_shows_what_was_measured_and_where_the_images_are_named(small_run, empty_database, monkeypatch):
    run = small_run()
    monkeypatch.setenv("LOOKALIKE_LAKE", run.lake.uri)
    monkeypatch.setenv("LOOKALIKE_STORE", empty_database)
    shown = (
        CliRunner()
        .invoke(app, ["evaluate", "--run", run.name, "--queries", "5", "--copies", "0"], catch_exceptions=False)
        .stdout
    )
    figures = run.result("evaluate").figures
    assert "5 held-out images, searched for as unknown" in shown
    assert re.search(rf"all recommendations right +{figures['unknown_all10']:.2f}", shown)
    assert re.search(r"both +– +– +–", shown)  # no articleType has 500 products
    assert re.search(r"^all products *$", shown, re.M)  # nothing is learnt
    assert f"{run.name}.html" in shown
    assert "table heldout of" in shown


# Gates ----------------------------------------------------------------------------------------------------------------

SHOP = "https://shop.example/catalogue.zip"


@pytest.fixture
def night(lake, empty_database, classifier_file):
    """A function that makes a night's run of the shop: its steps before evaluate are done on these products.

    `spoil` may change what became of them; settings of `write_run` and of the run are passed on.
    """

    def make(date: str, numbers, spoil=lambda shop: None, uri: str = SHOP):
        run, shop = open_run(lake, date, store=empty_database), Shop(numbers)
        spoil(shop)
        write_run(run, shop.tables(), classifier_file, uri)
        return mapped(run, **shop.mapping) if shop.mapping else run

    return make


class Shop:
    """Products by ascending number, what their images show, and what they are embedded by."""

    def __init__(self, numbers) -> None:
        self.numbers = list(numbers)
        self.rows = [{name: value for name, value in row(number).items() if name != "id"} for number in self.numbers]
        self.shown = [np.eye(3)[number % 3] for number in self.numbers]
        self.embedded = [
            np.concatenate(
                [np.eye(6)[number % 6], np.eye(4)[number % 4] / 2, np.random.default_rng(number).random(4) / 5]
            )
            for number in self.numbers
        ]
        self.embedder = "untrained"
        self.classified = True
        self.mapping: dict[str, str] = {}

    def drop(self, dropped) -> None:
        kept = [at for at, number in enumerate(self.numbers) if number not in dropped]
        for name in ("numbers", "rows", "shown", "embedded"):
            setattr(self, name, [getattr(self, name)[at] for at in kept])

    def tables(self) -> dict[str, list[dict]]:
        embeddings = to_embedding(np.array(self.embedded))
        ids = np.array([str(number) for number in self.numbers], object)
        items = ids[cube.neighbours(embeddings, np.arange(len(embeddings)))].tolist()
        hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in self.numbers]
        tables: dict[str, list[dict]] = {"rejects": [], "embedders": [], "classifier": [self.classifier(hashes)]}
        kinds = [
            own["articleType"] if self.mapping.get("for_whom") == "" else f"{own['gender']} {own['articleType']}"
            for own in self.rows
        ]
        if self.mapping.get("kind") == "":
            kinds = [None] * len(kinds)
        tables["products"] = [
            {"product_id": number, **own, "derivedType": kind, "image_sha256": sha}
            for number, own, kind, sha in zip(self.numbers, self.rows, kinds, hashes, strict=True)
        ]
        drawn = {"bytes": image(1), "width": 30, "height": 40}
        tables["images"] = [{"image_sha256": sha, **drawn} for sha in hashes]
        tables["features"] = [
            {"image_sha256": sha, "model": "m", "average": shown.tolist(), "maximum": [1.0, 2.0], "stages": [1.0]}
            for sha, shown in zip(hashes, self.shown, strict=True)
        ]
        rows = list(zip(self.numbers, embeddings.tolist(), items, strict=True))
        tables["embeddings"] = [{"product_id": number, "embedding": own, "unlabelled": None} for number, own, _ in rows]
        tables["shortlists"] = [{"product_id": number, "items": own, "scores": [0.5] * 10} for number, _, own in rows]
        tables["cells"] = [{"cell": 0, "members": len(rows), "depth": 10, "filters": "[{}]"}]
        if self.embedder != "untrained":
            tables["embedders"] = [dict.fromkeys(EMBEDDERS.names) | {"sha256": self.embedder, "promoted": True}]
        if not self.classified:
            tables["classifier"] = []
        return tables

    def classifier(self, hashes: list[str]) -> dict[str, object]:
        sides = sides_of_images(hashes)
        named = [
            (LABELS[2 - int(shown.argmax())], own["subCategory"])
            for shown, own in zip(self.shown, self.rows, strict=True)
        ]
        right = [guess == label for (guess, label), side in zip(named, sides, strict=True) if side == split.TEST]
        classes = {"all": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": len(right)}}
        metrics = {"accuracy": float(np.mean(right)), "confusions": [], "classes": classes, "history": {}}
        learnt = [str(number) for number, side in zip(self.numbers, sides, strict=True) if side == split.TRAIN]
        return {"train_ids": learnt, "input": "features", "labels": LABELS, "metrics": json.dumps(metrics)}


def go_live(run):
    execute("evaluate", run)
    return execute("publish", run)


def states(run) -> dict[str, str]:
    return {gate: state for gate, state, _ in run.result("evaluate").figures["gates"]}


def detail_of(run, gate: str) -> str:
    return next(detail for name, _, detail in run.result("evaluate").figures["gates"] if name == gate)


def shuffle_labels(shop):
    order = np.random.default_rng(3).permutation(len(shop.rows))
    shop.rows = [shop.rows[at] for at in order]


def show_grey(shop):
    shop.shown = [np.ones(3)] * len(shop.rows)
    shop.embedded = [np.ones(14)] * len(shop.rows)


def lose_half_of_the_bags(shop):
    bags = [number for number, own in zip(shop.numbers, shop.rows, strict=True) if own["subCategory"] == "Bags"]
    shop.drop(set(bags[::2]))


def embed_as_another_catalogue(shop):
    shop.embedder = EMBEDDER
    shop.embedded = [np.random.default_rng(9000 + number).random(14) for number in shop.numbers]


@pytest.mark.parametrize(
    ("spoil", "failed"),
    [
        (shuffle_labels, {"heldout", "colour", "unknown", "classifier", "subcategory_quality"}),
        (show_grey, {"heldout", "colour", "unknown", "classifier", "subcategory_quality", "neighbours"}),
        (lose_half_of_the_bags, {"subcategories"}),
        (embed_as_another_catalogue, {"heldout", "colour", "unknown", "subcategory_quality"}),
    ],
    ids=["labels shuffled", "images grey", "half a category gone", "champion of another catalogue"],
)
def test_a_night_that_readers_would_notice_is_refused_with_what_was_found_and_expected_and_what_to_do(
    night, connection, spoil, failed
):
    go_live(night("2026-01-30", range(1, 601)))
    run = night("2026-01-31", range(1, 601), spoil)
    execute("evaluate", run)
    assert {gate for gate, state in states(run).items() if state == "failed"} == failed
    with pytest.raises(UserError) as refused:
        execute("publish", run)
    for verdict in run.table("verdicts").read().to_pylist():
        said = f"gate {verdict['gate']} found {verdict['value']:.6g}, bound {verdict['bound']:.6g}: {verdict['detail']}"
        assert (said in refused.value.problem) == (verdict["gate"] in failed)
        if verdict["gate"] in failed:
            assert verdict["remedy"] in refused.value.remedy
            assert all(word in verdict["detail"] for word in ("expected", "run 2026-01-30"))
    assert "--publish-anyway REASON" in refused.value.remedy
    assert store.live(connection).run == "2026-01-30"
    go_live(replace(run, publish_anyway="it was meant"))
    assert store.live(connection).run == "2026-01-31"


def test_nights_that_each_renew_a_tenth_of_the_catalogue_are_not_refused(night, connection):
    for day in range(4):
        run = night(f"2026-01-{20 + day}", range(1 + 60 * day, 601 + 60 * day))
        go_live(run)
        assert store.live(connection).run == run.name
        assert set(states(run).values()) == ({"passed"} if day else {"passed", "not compared"})
    figures = run.result("evaluate").figures
    assert figures["catalogue_shared"] == 90
    assert 50 < figures["neighbours_kept"] < 100  # new products push some out, which is no fault
    assert "540 unchanged products" in detail_of(run, "neighbours")


def test_lists_that_do_not_follow_from_those_before_are_refused_where_model_and_embedder_are_the_same(night):
    go_live(night("2026-01-30", range(1, 601)))

    def spoil(shop):
        shop.embedded[3] = shop.embedded[4]  # the features of one image are those of another

    run = night("2026-01-31", range(1, 601), spoil)
    execute("evaluate", run)
    assert [gate for gate, state in states(run).items() if state == "failed"] == ["neighbours"]
    assert re.search(r"9\d\.\d\d% of 600 unchanged products have the list that follows", detail_of(run, "neighbours"))


def test_neighbours_have_no_verdict_where_the_embedder_is_another(night):
    go_live(night("2026-01-30", range(1, 601)))
    run = night("2026-01-31", range(1, 601), lambda shop: setattr(shop, "embedder", EMBEDDER))
    execute("evaluate", run)
    assert detail_of(run, "neighbours") == "not compared: run 2026-01-30 was made with another model or embedder"
    assert run.result("evaluate").figures["neighbours_kept"] is None


def test_figures_by_another_protocol_are_not_compared_and_the_verdicts_say_so(night, monkeypatch):
    go_live(night("2026-01-30", range(1, 601)))
    monkeypatch.setattr(reference, "PROTOCOL", "another")
    run = night("2026-01-31", range(1, 601), shuffle_labels)
    page = run.lake.read_bytes(str(execute("evaluate", run).figures["report"])).decode()
    silent = {gate for gate, state in states(run).items() if state == "not compared"}
    assert {"heldout", "colour", "unknown", "classifier", "subcategory_quality"} <= silent
    assert "run 2026-01-30 was measured by another protocol or split" in detail_of(run, "heldout")
    assert states(run)["products"] == states(run)["subcategories"] == "passed"
    assert f"{12 - len(silent)} of 12 gates passed, none failed." in page
    assert page.count(">not compared</td>") == len(silent)
    assert "do not say which run is better: run 2026-01-30 was measured by another protocol or split" in page


def test_a_live_run_whose_tables_are_gone_is_compared_as_far_as_the_store_knows_it(night):
    before = night("2026-01-30", range(1, 601))
    go_live(before)
    paths = [f"{name}/{part}" for name in ("shortlists", "metrics") for part in before.table(name).parts]
    run = night("2026-01-31", range(1, 601), lose_half_of_the_bags)
    for path in paths:
        (Path(before.lake.path(path))).unlink()
    execute("evaluate", run)
    assert "the tables of run 2026-01-30 cannot be read" in detail_of(run, "neighbours")
    assert "the tables of run 2026-01-30 cannot be read" in detail_of(run, "subcategory_quality")
    assert [gate for gate, state in states(run).items() if state == "failed"] == ["subcategories"]
    assert states(run)["heldout"] == "passed"


def test_another_catalogue_replaces_a_live_one_only_when_a_person_says_so(night, connection):
    go_live(night("2026-01-30", range(1, 601)))
    run = night("2026-01-31", range(500, 800))
    execute("evaluate", run)
    assert run.result("evaluate").figures["catalogue_shared"] == round(100 * 101 / 300, 2)
    assert "failed" not in states(run).values()
    why = "the catalogue is new: 101 of 300 product ids are those of run 2026-01-30"
    assert detail_of(run, "products").endswith(f"not compared, as {why}")
    with pytest.raises(UserError, match=why) as refused:
        execute("publish", run)
    assert "--new-catalogue" in refused.value.remedy
    execute("publish", replace(run, new_catalogue=True))
    live = store.live(connection)
    assert (live.run, live.manifest["published_anyway"]) == ("2026-01-31", "")


def test_a_reason_to_publish_anyway_is_enough_for_a_new_catalogue(night, connection):
    go_live(night("2026-01-30", range(1, 601)))
    go_live(replace(night("2026-01-31", range(1001, 1601)), publish_anyway="we moved to another shop"))
    assert "the catalogue is new" in store.live(connection).manifest["overruled"][0]


def test_an_unset_dataset_does_not_put_the_sample_live_in_place_of_a_catalogue(night, connection):
    go_live(night("2026-01-30", range(1, 601)))
    run = night("2026-01-31", range(1, 599), uri="sample:2000?seed=7")  # though the ids are the same
    with pytest.raises(UserError, match="this run is of sample:2000\\?seed=7, run 2026-01-30 of https://shop.example"):
        go_live(run)
    assert store.live(connection).run == "2026-01-30"


def test_a_catalogue_replaces_the_sample_without_a_word(night, connection):
    go_live(night("2026-01-30", range(1, 601), uri="sample:2000?seed=7"))
    go_live(night("2026-01-31", range(1001, 1301)))
    assert store.live(connection).run == "2026-01-31"


def test_a_new_catalogue_is_held_against_its_own_untrained_features(night):
    go_live(night("2026-01-30", range(1, 601)))
    run = night("2026-01-31", range(1001, 1601), embed_as_another_catalogue)
    figures = execute("evaluate", run).figures
    assert figures["untrained_heldout_right"] > figures["heldout_right"]
    assert [gate for gate, state in states(run).items() if state == "failed"] == ["heldout"]
    assert "as the run by its untrained features has" in detail_of(run, "heldout")
    page = run.lake.read_bytes(str(figures["report"])).decode()
    assert "without the embedder" in page
    assert "These differences do not say which run is better: the catalogue is new: 0 of 600 product ids" in page


def lose_the_classifier(shop):
    shop.classified = False


def test_a_catalogue_that_cannot_have_a_classifier_is_published_and_says_so(night, connection):
    run = night("2026-01-30", range(1, 601), lose_the_classifier)
    figures = execute("evaluate", run).figures
    assert (figures["subcategory_test"], figures["unknown_all10"], figures["unknown_images"]) == (None, None, 0)
    assert "The run has no classifier" in run.lake.read_bytes(str(figures["report"])).decode()
    execute("publish", run)
    go_live(night("2026-01-31", range(1, 601), lose_the_classifier))
    assert store.live(connection).run == "2026-01-31"


def with_mapping(spoil=lambda shop: None, **keys):
    """As `spoil`, in a shop whose mapping is Kaggle's layout but for these keys."""

    def change(shop):
        shop.mapping = keys
        spoil(shop)

    return change


def test_without_whom_products_are_for_neighbours_are_judged_by_the_kind_alone(night):
    go_live(night("2026-01-30", range(1, 601), with_mapping(for_whom="")))
    run = night("2026-01-31", range(1, 601), with_mapping(shuffle_labels, for_whom=""))
    figures = execute("evaluate", run).figures
    assert (figures["heldout_asked"], figures["unknown_images"]) == (figures["subcategory_asked"],) * 2
    shares = {gate: state for gate, state in states(run).items() if gate in reference.NEEDED}
    assert shares.pop("subcategories") == "passed"
    assert set(shares.values()) == {"failed"}


def test_without_kinds_a_run_is_judged_by_what_is_left_and_says_what_is_not(night):
    go_live(night("2026-01-30", range(1, 601), with_mapping(kind="")))
    run = night("2026-01-31", range(1, 601), with_mapping(shuffle_labels, kind=""))
    figures = execute("evaluate", run).figures
    assert {gate for gate, state in states(run).items() if state == "failed"} == {"colour", "unknown", "classifier"}
    assert (figures["unknown_all10"], figures["unknown_derived"], figures["heldout_right"]) == (None, None, None)
    assert figures["unknown_images"] > 0
    for gate in ("heldout", "subcategory_quality"):
        assert detail_of(run, gate) == "not compared: the catalogue's mapping names no kind, which it goes by"


def test_without_groups_and_colours_the_gates_of_them_say_so(night):
    missing = {"group": "", "colour": ""}
    go_live(night("2026-01-30", range(1, 601), with_mapping(lose_the_classifier, **missing)))
    run = night("2026-01-31", range(1, 601), with_mapping(lose_the_classifier, **missing))
    page = run.lake.read_bytes(str(execute("evaluate", run).figures["report"])).decode()
    silent = {gate for gate, state in states(run).items() if state == "not compared"}
    assert silent == {"subcategories", "colour", "unknown", "classifier", "subcategory_quality"}
    assert "mapping names no colour, which it goes by" in page
    assert "do not say which run is better" not in page


def test_figures_of_a_part_that_another_column_plays_are_not_compared_and_the_verdicts_say_so(night):
    go_live(night("2026-01-30", range(1, 601)))
    moved = {"kind": "season", "colour": "", "for_whom": ""}
    run = night("2026-01-31", range(1, 601), with_mapping(embed_as_another_catalogue, **moved))
    figures = execute("evaluate", run).figures
    assert "failed" not in states(run).values()
    assert "the kind is season, and is articleType in run 2026-01-30" in detail_of(run, "heldout")
    assert detail_of(run, "colour") == "not compared: the colour is no column, and is baseColour in run 2026-01-30"
    assert {states(run)[gate] for gate in ("unknown", "subcategory_quality", "colour")} == {"not compared"}
    assert {states(run)[gate] for gate in ("classifier", "subcategories", "products", "coverage")} == {"passed"}
    assert figures["why_other"].startswith("the kind is season")


def with_fields(run, *fields):
    """The run, whose shortlists were made for these fields, and noted so."""
    made = run.result("similar")
    write_result(run, "similar", tables=made.tables, figures=made.figures | {"fields": list(fields)})
    return mapped(run, fields=fields)


def test_fields_that_come_and_go_are_told_before_the_run_goes_live(night):
    go_live(with_fields(night("2026-01-30", range(1, 601)), "gender", "season"))
    same = with_fields(night("2026-01-31", range(1, 601)), "gender", "season")
    assert execute("evaluate", same).figures["fields_changed"] is None
    other = with_fields(night("2026-02-01", range(1, 601)), "gender", "usage")
    told = headline("evaluate", execute("evaluate", other).figures, 0, False)
    assert "fields_changed new: usage; gone: season" in told


def test_colours_are_not_excused_by_kinds_that_are_other_things(night):
    go_live(night("2026-01-30", range(1, 601), embed_without_kinds))
    run = night("2026-01-31", range(1, 601), with_mapping(embed_without_colours, kind="season"))
    execute("evaluate", run)
    assert [gate for gate, state in states(run).items() if state == "failed"] == ["colour"]


def embed_without_kinds(shop):
    shop.embedded = [values * np.repeat([0, 1], [6, 8]) for values in shop.embedded]


def embed_without_colours(shop):
    shop.embedded = [values * np.repeat([1, 0, 1], [6, 4, 4]) for values in shop.embedded]


def test_a_classifier_that_the_live_run_has_may_not_go_unnoticed(night):
    go_live(night("2026-01-30", range(1, 601)))
    run = night("2026-01-31", range(1, 601), lose_the_classifier)
    with pytest.raises(UserError, match="gate classifier found nothing, bound nothing: .* not measured in this run"):
        go_live(run)
    assert {gate for gate, state in states(run).items() if state == "failed"} == {"classifier", "unknown"}


def test_articles_are_counted_by_kind_among_all_products_and_held_out_ones(small_run, lake):
    page = lake.read_bytes(execute("evaluate", small_run()).figures["report"]).decode()
    rows = re.findall(
        r'<th scope="row">(Handbags|Casual Shoes)</th><td class="n">(\d+)</td>.*?<td class="n">(\d+)</td>', page
    )
    assert set(rows) == {("Handbags", "3", "19"), ("Casual Shoes", "3", "19")}


def test_queries_of_the_grid_spread_over_the_largest_groups():
    codes = np.array([0] * 100 + [1] * 50 + [2] * 3)
    chosen = spread(codes, 6)
    assert len(set(chosen)) == 6
    assert {int(codes[index]) for index in chosen} == {0, 1, 2}


def test_small_groups_leave_their_places_in_the_grid_to_large_ones():
    chosen = spread(np.array([0] * 1000 + [1] * 3), 24)
    assert len(set(chosen)) == 24
    assert {1000, 1001, 1002} < set(chosen)
    assert spread(np.array([4, 4, -1]), 24) in ([0, 2, 1], [1, 2, 0])
    assert spread(np.array([], int), 24) == []


def test_every_step_of_the_design_is_a_file_with_its_function():
    import importlib

    assert all(callable(getattr(importlib.import_module(f"jobs.{name}"), name)) for name in STEPS)
