"""evaluate: figures, verdicts and a report that anyone may open, from a small lake made by hand."""

import json
import re

import numpy as np
import pytest

from infra.errors import UserError
from jobs import candidates, catalog, classify, embed, similar
from jobs.evaluate import GRID_QUERIES, spread
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
    products[0]["productDisplayName"] = HOSTILE
    others = [[other for other in range(1, N + 1) if other != number][:10] for number in range(1, N + 1)]
    lists = [
        {"cell": 0, "product_id": number, "items": items, "scores": [0.5] * len(items)}
        for number, items in enumerate(others, 1)
    ]
    rejects = [
        {"product_id": "77", "file": "images/77.jpg", "reason": "damaged", "detail": "<b>cut</b>"},
        {"product_id": "99", "file": "images/99.jpg", "reason": "no row", "detail": ""},
    ]
    tables = {"products": products, "features": features, "lists": lists}
    damage(tables)
    confusions = [{"true": "Bags", "predicted": "Shoes", "count": 3}]
    classifier = dict.fromkeys(classify.CLASSIFIER.names) | {
        "metrics": json.dumps({"accuracy": 0.9, "confusions": confusions})
    }
    written = {
        "pull": {"pulls": write_table(run, "pulls", [{"uri": "sample:24"}], PULLS)},
        "catalog": {
            "products": write_table(run, "products", tables["products"], catalog.PRODUCTS),
            "images": write_table(run, "images", images, catalog.IMAGES),
            "rejects": write_table(run, "rejects", rejects, catalog.REJECTS),
        },
        "embed": {"features": write_table(run, "features", tables["features"], embed.SCHEMA)},
        "classify": {"classifier": write_table(run, "classifier", [classifier], classify.CLASSIFIER)},
        "candidates": {"candidates": write_table(run, "candidates", [], candidates.CANDIDATES)},
        "similar": {
            "embeddings": write_table(
                run, "embeddings", [{"product_id": 1, "embedding": [1.0, 0.0]}], similar.EMBEDDINGS
            ),
            "cells": write_table(run, "cells", [{"cell": 0, "members": N, "filters": "[{}]"}], similar.CELLS),
            "lists": write_table(run, "lists", tables["lists"], similar.LISTS),
        },
    }
    figures = {
        "catalog": {"products": N, "rejected_products": 1},
        "embed": {"model": "m", "backbone": "efficientnet-lite0"},
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


@pytest.mark.parametrize(
    ("damage", "failed"),
    [(spoil_features, {"finite"}), (drop_a_list, {"lists", "coverage"}), (shorten_lists, {"coverage"})],
)
def test_a_damaged_run_fails_its_gate_and_is_refused_by_publish_in_words(lake, empty_database, damage, failed):
    run = small_run(lake, empty_database, damage)
    if damage is drop_a_list:
        run = open_run(lake, store=empty_database, coverage_min=0.99)
    execute("evaluate", run)
    assert {gate for gate, passed in verdicts(run).items() if not passed} == failed
    with pytest.raises(UserError, match="is not published, the old run serves on"):
        check_verdicts(run)


def test_the_report_stands_alone_and_escapes_what_users_wrote(lake, empty_database):
    run = small_run(lake, empty_database)
    result = execute("evaluate", run)
    page = lake.read_bytes(result.figures["report"]).decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    assert "&lt;b&gt;cut&lt;/b&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert not re.search(r"url\(|@import", page)
    assert page.count('class="list"') == GRID_QUERIES
    assert page.count("data:image/jpeg;base64,") == GRID_QUERIES * 11
    assert "Bags" in page
    assert "sample:24" in page


def test_queries_of_the_grid_spread_over_the_largest_groups():
    codes = np.array([0] * 100 + [1] * 50 + [2] * 3)
    chosen = spread(codes, 6)
    assert len(set(chosen)) == 6
    assert {int(codes[index]) for index in chosen} == {0, 1, 2}


def test_every_step_of_the_design_is_a_file_with_its_function():
    import importlib

    assert all(callable(getattr(importlib.import_module(f"jobs.{name}"), name)) for name in STEPS)
