"""similar on a real Spark: exact shortlists for every product, and nothing computed twice."""

import json

import numpy as np
import pytest

from jobs import catalog as catalog_step
from jobs import extraction
from jobs import similar as similar_step
from jobs.layout import Layout
from jobs.step import execute
from ml import cube
from ml.similarity import UNIT, to_embedding
from tests.catalogues import open_run, row, write_result, write_table

N = 70


@pytest.fixture
def run(lake):
    """A run whose steps up to embed are done: few distinct features, so that there are ties."""
    run = open_run(lake, cell_min=20)
    rng = np.random.default_rng(5)
    rows, features = [], []
    for number in rng.permutation(np.arange(1, N + 1)).tolist():
        attributes = {name: value for name, value in row(number * 3).items() if name != "id"}
        attributes |= {"gender": ["Men", "Women"][number % 2], "season": [None, "Fall", "Winter"][number // 2 % 3]}
        rows.append({"product_id": number * 3, **attributes, "derivedType": "x", "image_sha256": f"{number % 60:064d}"})
    for number in range(60):
        vector = rng.integers(0, 3, 8).astype(float).tolist()
        features.append(
            {"image_sha256": f"{number:064d}", "model": "m", "average": vector, "maximum": vector, "stages": vector}
        )
    features.append({**features[0], "model": "another", "average": [9.0] * 8})
    rows.sort(key=lambda each: each["product_id"])
    write_result(run, "catalog", tables={"products": write_table(run, "products", rows, catalog_step.PRODUCTS)})
    version = write_table(run, "features", features, extraction.SCHEMA)
    write_result(run, "embed", tables={"features": version}, figures={"model": "m", "embedder": "untrained"})
    return run


def test_shortlists_equal_an_integer_reference_for_every_product(run, monkeypatch):
    monkeypatch.setattr(similar_step, "TASK_QUERIES", 16)
    monkeypatch.setattr(cube, "BLOCK", 5)
    monkeypatch.setattr(cube, "PANEL", 30)
    monkeypatch.setattr(similar_step, "PANELS_KEPT", 2)
    result = execute("similar", run)
    products = run.table("products").read().to_pylist()
    features = {f["image_sha256"]: f["average"] for f in run.table("features").read().to_pylist() if f["model"] == "m"}
    embeddings = to_embedding(np.array([features[p["image_sha256"]] for p in products]))
    stored = {
        e["product_id"]: e["embedding"] for part in run.table("embeddings").iter_parts() for e in part.to_pylist()
    }
    assert all(np.array_equal(stored[p["product_id"]], e) for p, e in zip(products, embeddings, strict=True))
    units = np.rint(embeddings.astype(float) / UNIT).astype(np.int64)
    cells = run.table("cells").read().to_pylist()
    shortlists = {each["product_id"]: each for each in run.table("shortlists").read().to_pylist()}
    assert result.rows == len(shortlists) == N
    assert sorted(cell["members"] for cell in cells) == [23, 24, 35, 35, 70]
    kept: dict[str, set] = {product["product_id"]: set() for product in products}
    for cell in cells:
        assert cell["depth"] == 10
        for filters in json.loads(cell["filters"]):
            members = [i for i, p in enumerate(products) if all(p[f] == v for f, v in filters.items())]
            assert len(members) == cell["members"]
            for query, product in enumerate(products):
                scored = sorted(
                    (-int(units[query] @ units[m]), int(products[m]["product_id"])) for m in members if m != query
                )
                kept[product["product_id"]].update(scored[:10])
    for product, scored in kept.items():
        assert shortlists[product]["items"] == [str(item) for _, item in sorted(scored)]
        assert [round(score / UNIT**2) for score in shortlists[product]["scores"]] == [
            -score for score, _ in sorted(scored)
        ]
    assert result.figures["shortlist_items"] == round(np.mean([len(scored) for scored in kept.values()]), 1)


def test_the_same_inputs_are_not_computed_again_and_other_settings_are(run):
    first = execute("similar", run)
    again = execute("similar", run)
    assert (again.skipped, again.tables, again.rows) == (True, first.tables, first.rows)
    other = open_run(run.lake, cell_min=1000)
    changed = execute("similar", other)
    assert not changed.skipped
    assert changed.figures["cells"] == 1


def test_by_the_best_pair_products_of_several_images_are_as_alike_as_their_most_alike_ones(lake, monkeypatch):
    monkeypatch.setattr(similar_step, "TASK_QUERIES", 16)
    monkeypatch.setattr(cube, "PANEL", 30)
    run, rng = open_run(lake, cell_min=15, similarity="best_pair"), np.random.default_rng(6)
    layout = Layout(id="sku", image=("front",), fields=("colour",), lists={"colour": ""})
    shas = [[f"{at % 50:064d}" for at in rng.integers(0, 50, rng.integers(1, 4))] for _ in range(N)]
    colours = [rng.choice(["red", "blue", "green"], rng.integers(0, 3), replace=False).tolist() for _ in range(N)]
    rows = [
        {"product_id": f"A{at:03d}", "colour": colours[at] or None, "images": shas[at], "image_sha256": shas[at][0]}
        for at in range(N)
    ]
    vectors = {f"{at:064d}": rng.integers(0, 3, 8).astype(float).tolist() for at in range(50)}
    features = [
        {"image_sha256": sha, "model": "m", "average": vector, "maximum": vector, "stages": vector}
        for sha, vector in vectors.items()
    ]
    version = write_table(run, "products", rows, catalog_step.products_schema(layout))
    write_result(run, "catalog", tables={"products": version}, figures={"mapping": layout.model_dump(mode="json")})
    version = write_table(run, "features", features, extraction.SCHEMA)
    write_result(run, "embed", tables={"features": version}, figures={"model": "m", "embedder": "untrained"})
    execute("similar", run)
    embeddings = [to_embedding(np.array([vectors[sha] for sha in images])) for images in shas]
    sizes = {row["filters"]: row["members"] for row in run.table("cells").read().to_pylist()}
    assert sizes == {
        json.dumps([filters]): sum(set(filters.values()) <= set(of_product) for of_product in colours)
        for filters in ({}, {"colour": "blue"}, {"colour": "green"}, {"colour": "red"})
    }
    for shortlist in run.table("shortlists").read().to_pylist():
        query = int(shortlist["product_id"][1:])
        scores = [float((embeddings[query] @ embeddings[item].T).max()) for item in range(N)]
        ranked = sorted((item for item in range(N) if item != query), key=lambda item: (-scores[item], item))
        kept = set(ranked[:10])
        for colour in ("red", "blue", "green"):
            kept |= set([item for item in ranked if colour in colours[item]][:10])
        expected = [(f"A{item:03d}", scores[item]) for item in ranked if item in kept]
        assert list(zip(shortlist["items"], shortlist["scores"], strict=True)) == expected
