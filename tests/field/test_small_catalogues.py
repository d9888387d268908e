"""Whole refreshes, step by step, of very small or very uniform catalogues (../shared/field/small_catalogues.py)."""

from __future__ import annotations

import random
import string

import numpy as np
import pytest

from infra import store
from infra.errors import TransientError, UserError
from infra.lake import Lake
from jobs import extraction
from jobs.run import STEPS, Run
from jobs.step import execute
from ml import classifier
from tests.catalogues import HEADER, RUN, folder, image, open_run, row, styles, write_result, write_table
from tests.field.outcomes import error_line
from tests.jobs.conftest import one_spark_context  # noqa: F401

SMALL = {"cell_min": 3, "reject_max": 1.0, "evaluate_queries": 10}
ROWS = [row(n) for n in range(1, 25)]
PICTURES = {n: image(n, row(n)["baseColour"]) for n in range(1, 25)}
ODD = ["Blue/Green", '50% "off"', '{"a": 1}', "a\nb", "\\", "'; DROP TABLE x; --"]
ODD += ["\u202eevil", "👗", "é", "e\u0301", "NaN", "null"]
BIG = 2**63 - 30


def long_text(n: int) -> str:
    """Letters that do not pack."""
    return "".join(random.Random(n).choices(string.ascii_letters + string.digits, k=n))


def changed(change) -> list[dict[str, str]]:
    return [each | change(int(each["id"])) for each in ROWS]


def too_long(usage: int) -> str:
    detail = f"usage has {usage:,} bytes; a value to filter by may have 2,000"
    reason = f"24 × values too long (such as 1 in styles.csv, line 2: {detail})"
    remedy = "shorten them, or leave the field out of LOOKALIKE_FIELDS or catalogue.toml"
    return f"catalog: none of the 24 rows of styles.csv can be used: {reason} | styles.csv | {remedy}"


CASES = {
    "one-subcategory": (
        changed(lambda n: {"masterCategory": "Apparel", "subCategory": "Topwear"}),
        "24 products, 16 cells; 10 neighbours",
    ),
    "one-product": (ROWS[:1], "1 products, 1 cells; 0 neighbours"),
    "two-products": (ROWS[:2], "2 products, 1 cells; 1 neighbours"),
    "five-products": (ROWS[:5], "5 products, 2 cells; 4 neighbours"),
    "nothing-known": (changed(lambda n: dict.fromkeys(HEADER[1:], "")), "24 products, 1 cells; 10 neighbours"),
    "one-picture": (ROWS, "24 products, 16 cells; 10 neighbours"),
    "a-class-each": (
        changed(lambda n: {"subCategory": f"S{n}", "articleType": f"A{n}"}),
        "24 products, 16 cells; 10 neighbours",
    ),
    "long-values": (
        changed(lambda n: {"usage": long_text(9000), "productDisplayName": long_text(30_000)}),
        too_long(9000),
    ),
    "long-values-each": (changed(lambda n: {"usage": long_text(9000 + n)}), too_long(9001)),
    "big-ids": (changed(lambda n: {"id": str(BIG + n)}), "24 products, 16 cells; 10 neighbours"),
    "text-ids": (changed(lambda n: {"id": f"B07X{n:03d}ß"}), "24 products, 16 cells; 10 neighbours"),
    "numbers-and-texts": (changed(lambda n: {"id": f"{n % 3:0{n // 3 + 1}d}"}), "24 products, 16 cells; 10 neighbours"),
    "odd-values": (changed(lambda n: {"baseColour": ODD[n % 12]}), "24 products, 12 cells; 10 neighbours"),
}


def embed(run: Run) -> None:
    """What embed leaves, with features of eight numbers from an image's hash: the network's take half a minute."""
    hashes = sorted(set(run.products(["image_sha256"])["image_sha256"].to_pylist()))
    rows = [{"image_sha256": sha, "model": "m"} for sha in hashes]
    for each in rows:
        vector = np.random.default_rng(int(each["image_sha256"][:8], 16)).random(8).tolist()
        each |= dict.fromkeys(("average", "maximum", "stages"), vector)
    figures = {"model": "m", "base": "m", "tuned": "", "embedder": "untrained"}
    write_result(
        run, "embed", tables={"features": write_table(run, "features", rows, extraction.SCHEMA)}, figures=figures
    )


def refresh(lake: Lake, name: str, source, database: str) -> str:
    """What the steps say and how many products are most like the first one, or the step that failed and its error."""
    run = open_run(lake, name, dataset=str(source), store=database, **SMALL)
    for step in STEPS:
        try:
            result = embed(run) if step == "embed" else execute(step, run)
        except (UserError, TransientError) as error:
            return f"{step}: {error_line(error, lake)}"
    ids = run.products(["product_id"])["product_id"].to_pylist()
    with store.connect(database, run.settings.store_folder) as connection:
        (neighbours,) = connection.execute("SELECT count(*) FROM lookalike.similar_items(%s)", (ids[0],)).fetchone()
    return f"{len(ids)} products, {result.figures['cells']} cells; {neighbours} neighbours"


@pytest.mark.parametrize("case", CASES)
def test_a_small_catalogue_is_published_or_refused_by_name(lake, empty_database, tmp_path, monkeypatch, case):
    monkeypatch.setattr(classifier, "EPOCHS", 1)  # what it says of so few products is nothing to the outcome
    rows, expected = CASES[case]
    pictures = {
        f"images/{each['id']}.jpg": PICTURES[1 if case == "one-picture" else n] for n, each in enumerate(rows, 1)
    }
    source = folder(tmp_path / "source", {"styles.csv": styles(rows)} | pictures)
    assert refresh(lake, RUN, source, empty_database) == expected
