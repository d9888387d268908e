"""evaluate: figures, verdicts and a report that anyone may open, from a small lake made by hand."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from infra import store
from infra.errors import UserError
from infra.settings import ATTRIBUTES
from jobs import candidates, catalog, classify, evaluate, similar
from jobs.champion import EMBEDDERS
from jobs.cli import app
from jobs.extraction import SCHEMA as FEATURES
from jobs.publish import check_verdicts
from jobs.report import GRID_QUERIES, THUMBNAIL, spread
from jobs.run import STEPS
from jobs.step import execute
from ml import split
from ml.classifier import to_bytes
from ml.similarity import to_embedding
from tests.catalogues import PULLS, image, open_run, row, write_result, write_table

N = 60
LABELS = ["Bags", "Shoes", "Topwear"]
TEST = range(1, 13)
"""Products whose images are held out: those whose hash begins with less than 20, modulo 100."""
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
        name: [] for name in ("products", "images", "features", "embeddings", "lists", "embedders")
    }
    for number in range(1, N + 1):
        attributes = {name: value for name, value in row(number).items() if name != "id"}
        kind = f"{attributes['gender']} {attributes['articleType']}"
        product = {"product_id": number, **attributes, "derivedType": kind, "image_sha256": sha(number)}
        drawn = {"bytes": image(number, attributes["baseColour"]), "width": 30, "height": 40}
        pooled = {"average": features_of(number), "maximum": [1.0, 2.0], "stages": [1.0]}
        others = [other for other in range(1, N + 1) if other != number][:10]
        tables["products"].append(product)
        tables["images"].append({"image_sha256": sha(number), **drawn})
        tables["features"].append({"image_sha256": sha(number), "model": "m", **pooled})
        tables["embeddings"].append({"product_id": number, "embedding": embedding_of(number), "unlabelled": None})
        tables["lists"].append({"cell": 0, "product_id": number, "items": others, "scores": [0.5] * 10})
    tables["products"][0] |= {"productDisplayName": HOSTILE, "articleType": "$\\frac$ <i>\x01"}
    tables["products"][1] |= {"productDisplayName": None, "articleType": None, "gender": None, "derivedType": None}
    tables["cells"] = [{"cell": 0, "members": N, "filters": "[{}]"}]
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
    learnt = [number for number in range(1, N + 1) if number not in TEST]
    tables["classifier"] = [
        {"train_ids": learnt, "input": "features", "labels": LABELS, "metrics": json.dumps(metrics)}
    ]
    return tables


def write_run(run, tables: dict[str, list[dict]], classifier_file: bytes) -> None:
    """Commit the tables and the results of the steps that would have written them."""
    digest = hashlib.sha256(classifier_file).hexdigest()
    run.lake.write_bytes(f"models/{digest}.keras", classifier_file)
    for each in tables["classifier"]:
        each |= {"model_file": f"models/{digest}.keras", "model_sha256": digest}
    trained = tables.pop("embedders")
    if trained:
        write_table(run, "embedders", trained, EMBEDDERS)
    figures = {
        "catalog": {"products": N, "rejected_products": 1},
        "embed": {
            "model": "m",
            "backbone": "efficientnet-lite0",
            "embedder": trained[0]["sha256"] if trained else "untrained",
        },
        "similar": {"cells": 1, "lists": N, "products": N},
    }
    schemas = {
        "pull": {"pulls": PULLS},
        "catalog": {"products": catalog.PRODUCTS, "images": catalog.IMAGES, "rejects": catalog.REJECTS},
        "embed": {"features": FEATURES},
        "classify": {"classifier": classify.CLASSIFIER},
        "candidates": {"candidates": candidates.CANDIDATES},
        "similar": {"embeddings": similar.EMBEDDINGS, "cells": similar.CELLS, "lists": similar.LISTS},
    }
    tables |= {"pulls": [{"uri": "sample:60"}], "candidates": []}
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
        for each in run.table("lists").read().to_pylist()
        for item in each["items"]
    ]
    assert measured["colour_share"] == pytest.approx(100 * np.mean(same))
    check_verdicts(run)


def spoil_features(tables):
    tables["features"][3]["average"] = [float("nan"), 1.0, 0.0]


def drop_a_list(tables):
    tables["lists"].pop()


def shorten_lists(tables):
    for each in tables["lists"][:5]:
        each["items"], each["scores"] = each["items"][:9], each["scores"][:9]


def list_products_that_are_gone(tables):
    for each in tables["lists"][:5]:
        each["items"][0] += 1000


def keep_lists_of_products_that_are_gone(tables):
    for each in tables["lists"][:5]:
        each["product_id"] += 1000


def forget_the_unfiltered_cell(tables):
    tables["cells"][0]["filters"] = '[{"gender": "Men"}]'


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        (spoil_features, {"finite"}),
        (drop_a_list, {"lists", "coverage"}),
        (shorten_lists, {"coverage"}),
        (list_products_that_are_gone, {"coverage"}),
        (keep_lists_of_products_that_are_gone, {"coverage", "lists"}),
        (forget_the_unfiltered_cell, {"coverage"}),
    ],
)
def test_a_damaged_run_fails_its_gate_and_is_refused_by_publish_in_words(small_run, damage, failed):
    run = small_run(damage, coverage_min=0.99)
    execute("evaluate", run)
    assert {gate for gate, passed in verdicts(run).items() if not passed} == failed
    with pytest.raises(UserError, match="is not published, the old run serves on"):
        check_verdicts(run)


def test_features_of_images_and_models_that_the_run_does_not_use_cannot_fail_it(small_run, lake):
    def add_features_of_others(tables):
        spoilt = {"average": [float("nan"), 1.0], "maximum": [1.0, float("inf")], "stages": [1.0]}
        tables["features"].append({"image_sha256": "f" * 64, "model": "m", **spoilt})
        tables["features"].append({"image_sha256": sha(1), "model": "another", **spoilt})

    run = small_run(add_features_of_others)
    assert execute("evaluate", run).figures["failed"] == []


def test_the_unfiltered_lists_are_found_by_their_cell_s_filters(small_run, lake):
    def put_another_cell_first(tables):
        for each in tables["lists"]:
            each["cell"] = 7
        short = [{**each, "cell": 0, "items": each["items"][:1], "scores": [0.1]} for each in tables["lists"]]
        tables["lists"] += short
        tables["cells"][:] = [
            {"cell": 0, "members": 2, "filters": '[{"gender": "Men"}]'},
            {"cell": 7, "members": N, "filters": '[{}, {"season": "Summer"}]'},
        ]

    run = small_run(put_another_cell_first)
    result = execute("evaluate", run)
    assert (result.figures["coverage"], result.figures["failed"]) == (1, [])


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
    assert [each["product_id"] for each in found] == [number for number in TEST if number != 2]  # 2 has no derivedType
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
    assert split.TEST not in set(split.sides_of([hashes[item] for item in items]))


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
    lists = {each["product_id"]: each["items"] for each in run.table("lists").read().to_pylist() if each["cell"] == 0}
    products = run.table("products").read(["product_id", "image_sha256", "baseColour"]).to_pylist()
    colours = {each["product_id"]: each["baseColour"] for each in products}
    first = [each["product_id"] for each in sorted(products, key=lambda each: each["image_sha256"])]
    same = [
        np.mean([colours[item] == colours[product_id] for item in lists[product_id]])
        for product_id in [each for each in first if each in TEST][:3]
    ]
    assert execute("evaluate", run).figures["heldout_colour_share"] == round(100 * np.mean(same), 2) != all_of_them


def test_fewer_images_can_be_asked_for_and_are_the_first_by_hash(small_run):
    run = small_run(evaluate_queries=3)
    assert execute("evaluate", run).figures["unknown_images"] == 3
    assert [each["product_id"] for each in answered(run)] == [1, 3, 4]


def test_a_classifier_that_has_learnt_from_held_out_images_is_refused(small_run):
    run = small_run(lambda tables: tables["classifier"][0]["train_ids"].append(5))
    with pytest.raises(UserError, match="has learnt from the images of 1 products that are held out") as caught:
        execute("evaluate", run)
    assert "lookalike step classify" in caught.value.remedy


def test_figures_of_a_trained_embedder_say_what_it_has_learnt_from(small_run, lake):
    def train(tables):
        history = {"loss": [3.5, 1.25], "articleType_accuracy": [0.5, 0.625]}
        trained = {"sha256": "e" * 64, "number": 0, "promoted": True, "history": json.dumps(history)}
        tables["embedders"].append(dict.fromkeys(EMBEDDERS.names) | trained)

    page = lake.read_bytes(execute("evaluate", small_run(train)).figures["report"]).decode()
    assert "All products, whose attributes count in their embedding" in page
    assert "All products (whose attributes count in their embedding) right, by wrong neighbours allowed" in page
    assert "Classifier: loss by epoch, loss at 1, 2, 3, … epoch: loss 1.5, 0.5; validation loss 2, 1" in page
    assert "Embedder: accuracy by epoch, % at 1, 2, 3, … epoch: articleType accuracy 50, 62" in page


def test_a_run_whose_embedder_has_no_row_any_more_is_measured_all_the_same(small_run, lake):
    def train(tables):
        tables["embedders"].append(dict.fromkeys(EMBEDDERS.names) | {"sha256": "e" * 64, "number": 0})

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
    with store.connect(empty_database, tmp_path) as connection, connection.transaction():
        for name in ("2026-01-29", "2026-01-30", run.name):
            run_id = store.begin(connection, name, name, run.settings.fields)
            columns = ["product_id", *ATTRIBUTES, "derivedType", "image_sha256"]
            products = run.table("products").read().select(columns).slice(0, 1)
            store.load_products(connection, run_id, products, np.zeros((1, 8), np.float32))
            store.attach(connection, run_id, {"products": N})
            store.flip(connection, run_id)
    for name, value in (("2026-01-29", 10.0), ("2026-01-30", 99.0)):
        run.lake.write_bytes(f"runs/{name}/evaluate.json", json.dumps({"figures": {"unknown_all10": value}}).encode())
    result = execute("evaluate", run)
    assert result.figures["compared_with"] == "2026-01-30"  # this one is live
    page = run.lake.read_bytes(result.figures["report"]).decode()
    assert "Against run 2026-01-30" in page
    assert f"{result.figures['unknown_all10'] - 99:+.2f}" in page


def test_the_command_shows_what_was_measured_and_where_the_images_are_named(small_run, empty_database, monkeypatch):
    run = small_run()
    monkeypatch.setenv("LOOKALIKE_LAKE", run.lake.uri)
    monkeypatch.setenv("LOOKALIKE_STORE", empty_database)
    shown = CliRunner().invoke(app, ["evaluate", "--queries", "5", "--copies", "0"], catch_exceptions=False).stdout
    figures = run.result("evaluate").figures
    assert "5 held-out images, searched for as unknown" in shown
    assert re.search(rf"all recommendations right +{figures['unknown_all10']:.2f}", shown)
    assert re.search(r"both +– +– +–", shown)  # no articleType has 500 products
    assert re.search(r"^all products *$", shown, re.M)  # nothing is learnt
    assert f"{run.name}.html" in shown
    assert "table heldout of" in shown


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
