"""similar on a real Spark: exact lists for every product and precomputed cell, and nothing computed twice."""

import json

import numpy as np
import pyarrow as pa
import pytest

from jobs import catalog as catalog_step
from jobs import extraction
from jobs import similar as similar_step
from jobs.features import to_matrix
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


def test_lists_equal_an_integer_reference_for_every_product_and_cell(run, monkeypatch):
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
    lists = {(each["cell"], each["product_id"]): each for each in run.table("lists").read().to_pylist()}
    assert result.rows == len(lists) == len(cells) * N
    assert sorted(cell["members"] for cell in cells) == [23, 24, 35, 35, 70]
    for cell in cells:
        for filters in json.loads(cell["filters"]):
            members = [i for i, p in enumerate(products) if all(p[f] == v for f, v in filters.items())]
            assert len(members) == cell["members"]
            for query, product in enumerate(products):
                scored = sorted(
                    (-int(units[query] @ units[m]), products[m]["product_id"]) for m in members if m != query
                )
                found = lists[cell["cell"], product["product_id"]]
                assert found["items"] == [item for _, item in scored[:10]]
                assert [round(score / UNIT**2) for score in found["scores"]] == [-score for score, _ in scored[:10]]


def test_the_same_inputs_are_not_computed_again_and_other_settings_are(run):
    first = execute("similar", run)
    again = execute("similar", run)
    assert (again.skipped, again.tables, again.rows) == (True, first.tables, first.rows)
    other = open_run(run.lake, cell_min=1000)
    changed = execute("similar", other)
    assert not changed.skipped
    assert changed.figures["cells"] == 1


def test_lists_of_cells_with_few_members_are_shorter():
    best = np.array([[[1, -1, -1], [0, 1, 2]], [[-1, -1, -1], [2, 0, -1]]], np.int32)
    table = similar_step.lists_table(np.array([10, 20, 30]), 0, best, np.where(best < 0, 0, 0.5).astype(np.float32))
    assert table.schema == similar_step.LISTS
    assert table.to_pydict()["items"] == [[20], [], [10, 20, 30], [30, 10]]
    assert table.to_pydict()["cell"] == [0, 0, 1, 1]
    assert table.to_pydict()["product_id"] == [10, 20, 10, 20]
    assert isinstance(to_matrix(pa.chunked_array([[[1.0, 2.0]]], pa.list_(pa.float32()))), np.ndarray)
