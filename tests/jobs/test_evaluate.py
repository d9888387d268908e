"""evaluate: figures, verdicts and a report that anyone may open, from a small lake made by hand."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from infra.errors import UserError
from jobs import candidates, catalog, classify, embed, similar
from jobs.evaluate import GRID_QUERIES, THUMBNAIL, spread
from jobs.publish import check_verdicts
from jobs.step import STEPS, execute
from tests.catalogues import PULLS, image, open_run, row, write_result, write_table

N = 24
HOSTILE = "<script>alert('x')</script> & \"quotes\""


def small_run(lake, empty_database, damage=lambda tables: None):
    """A run whose steps before evaluate are done; `damage` may spoil its tables (lists of rows by name)."""
    run = open_run(lake, store=empty_database)
    products, images, features = [], [], []
    for number in range(1, N + 1):
        attributes = {name: value for name, value in row(number).items() if name != "id"}
        sha = f"{number:064d}"
        products.append({"product_id": number, **attributes, "derivedType": "x", "image_sha256": sha})
        images.append(
            {"image_sha256": sha, "bytes": image(number, attributes["baseColour"]), "width": 30, "height": 40}
        )
        features.append({"image_sha256": sha, "model": "m", "average": [1.0, number], "maximum": [1.0, 2.0]})
    products[0] |= {"productDisplayName": HOSTILE, "articleType": "$\\frac$ <i>\x01"}
    products[1] |= {"productDisplayName": None, "articleType": None, "gender": None}
    others = [[other for other in range(1, N + 1) if other != number][:10] for number in range(1, N + 1)]
    lists = [
        {"cell": 0, "product_id": number, "items": items, "scores": [0.5] * len(items)}
        for number, items in enumerate(others, 1)
    ]
    rejects = [
        {"product_id": "77", "file": "images/77.jpg", "reason": "damaged", "detail": "<b>cut</b>"},
        {"product_id": "99", "file": "images/99.jpg", "reason": "no row", "detail": ""},
    ]
    cells = [{"cell": 0, "members": N, "filters": "[{}]"}]
    tables = {"products": products, "images": images, "features": features, "cells": cells, "lists": lists}
    damage(tables)
    confusions = [{"true": "Bags", "predicted": "Shoes", "count": 3}]
    classifier = dict.fromkeys(classify.CLASSIFIER.names) | {
        "metrics": json.dumps({"accuracy": 0.9, "confusions": confusions})
    }
    written = {
        "pull": {"pulls": write_table(run, "pulls", [{"uri": "sample:24"}], PULLS)},
        "catalog": {
            "products": write_table(run, "products", tables["products"], catalog.PRODUCTS),
            "images": write_table(run, "images", tables["images"], catalog.IMAGES),
            "rejects": write_table(run, "rejects", rejects, catalog.REJECTS),
        },
        "embed": {"features": write_table(run, "features", tables["features"], embed.SCHEMA)},
        "classify": {"classifier": write_table(run, "classifier", [classifier], classify.CLASSIFIER)},
        "candidates": {"candidates": write_table(run, "candidates", [], candidates.CANDIDATES)},
        "similar": {
            "embeddings": write_table(
                run, "embeddings", [{"product_id": 1, "embedding": [1.0, 0.0]}], similar.EMBEDDINGS
            ),
            "cells": write_table(run, "cells", tables["cells"], similar.CELLS),
            "lists": write_table(run, "lists", tables["lists"], similar.LISTS),
        },
    }
    figures = {
        "catalog": {"products": N, "rejected_products": 1},
        "embed": {"model": "m", "backbone": "efficientnet-lite0", "embedder": "untrained"},
        "similar": {"cells": 1, "lists": N, "products": N},
    }
    for name, versions in written.items():
        rejected = 2 if name == "catalog" else 0
        write_result(run, name, tables=versions, figures=figures.get(name, {}), seconds=1.5, rejects=rejected)
    return run


def verdicts(run) -> dict[str, bool]:
    return {each["gate"]: each["passed"] for each in run.table("verdicts").read().to_pylist()}


def test_a_good_run_passes_every_gate_and_its_figures_are_those_of_its_lists(lake, empty_database):
    run = small_run(lake, empty_database)
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
    tables["features"][3]["average"] = [float("nan"), 1.0]


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
def test_a_damaged_run_fails_its_gate_and_is_refused_by_publish_in_words(lake, empty_database, damage, failed):
    run = small_run(lake, empty_database, damage)
    if damage is drop_a_list:
        run = open_run(lake, store=empty_database, coverage_min=0.99)
    execute("evaluate", run)
    assert {gate for gate, passed in verdicts(run).items() if not passed} == failed
    with pytest.raises(UserError, match="is not published, the old run serves on"):
        check_verdicts(run)


def test_features_of_images_and_models_that_the_run_does_not_use_cannot_fail_it(lake, empty_database):
    def add_features_of_others(tables):
        spoilt = {"average": [float("nan"), 1.0], "maximum": [1.0, float("inf")]}
        tables["features"].append({"image_sha256": "f" * 64, "model": "m", **spoilt})
        tables["features"].append({"image_sha256": f"{1:064d}", "model": "another", **spoilt})

    run = small_run(lake, empty_database, add_features_of_others)
    assert execute("evaluate", run).figures["failed"] == []


def test_the_unfiltered_lists_are_found_by_their_cell_s_filters(lake, empty_database):
    def put_another_cell_first(tables):
        for each in tables["lists"]:
            each["cell"] = 7
        short = [{**each, "cell": 0, "items": each["items"][:1], "scores": [0.1]} for each in tables["lists"]]
        tables["lists"] += short
        tables["cells"][:] = [
            {"cell": 0, "members": 2, "filters": '[{"gender": "Men"}]'},
            {"cell": 7, "members": N, "filters": '[{}, {"season": "Summer"}]'},
        ]

    run = small_run(lake, empty_database, put_another_cell_first)
    result = execute("evaluate", run)
    assert (result.figures["coverage"], result.figures["failed"]) == (1, [])


def test_evaluating_again_changes_nothing(lake, empty_database):
    run = small_run(lake, empty_database)
    first = execute("evaluate", run)
    page = lake.read_bytes(first.figures["report"])
    again = execute("evaluate", run)
    assert (again.figures, again.tables) == (first.figures, first.tables)
    assert lake.read_bytes(again.figures["report"]) == page


def test_large_images_are_shown_small(lake, empty_database):
    def enlarge(tables):
        for number, each in enumerate(tables["images"], 1):
            each |= {"bytes": image(number, size=(400, 500)), "width": 400, "height": 500}

    page = lake.read_bytes(execute("evaluate", small_run(lake, empty_database, enlarge)).figures["report"]).decode()
    shown = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(shown) == GRID_QUERIES * 11
    assert {max(Image.open(io.BytesIO(base64.b64decode(each))).size) for each in set(shown)} == {THUMBNAIL}


def test_the_report_stands_alone_and_escapes_what_users_wrote(lake, empty_database):
    run = small_run(lake, empty_database)
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
    assert "sample:24" in page


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
