"""The mapped copy of the live run answers what the store answers, byte for byte."""

import json
import tracemalloc

import numpy as np
import pytest

from infra import store
from jobs.serve import mapped
from jobs.serve.asking import as_array, as_json
from jobs.serve.catalogue import Catalogue
from jobs.serve.explaining import best_pair, vectors_of
from ml.similarity import to_embedding

N = 400
FIELDS = {"gender": ["Men", "Women", ""], "baseColour": ["Red", "Blue", "Green", "Black", ""], "season": list("abcdef")}
TAGS = ["new", "sale", "warm"]
CELLS = [
    {},
    {"tags": "new"},
    {"tags": "sale"},
    {"gender": "Men"},
    {"gender": "Women"},
    {"baseColour": "Red"},
    {"gender": "Men", "baseColour": "Blue"},
]


def ids_of(n):
    return [str(7 * i) if i % 3 else f'x"{i}\\é' for i in range(n)]


def catalogue(rng, n=N):
    values = {field: rng.choice(labels, n).tolist() for field, labels in FIELDS.items()}
    values["tags"] = [rng.choice(TAGS, rng.integers(0, 3), replace=False).tolist() for _ in range(n)]
    values["usage"] = [f"rare {i % 350}" for i in range(n)]  # of which most are stored by number
    centres = rng.normal(size=(20, 16))
    vectors = to_embedding(centres[rng.integers(20, size=n)] + 0.4 * rng.normal(size=(n, 16)))
    vectors[1::17] = vectors[0]  # ties
    return values, vectors


def question(rng, ids):
    filters = {}
    for field in rng.choice([*FIELDS, "usage", "tags"], rng.integers(0, 4), replace=False).tolist():
        labels = [*(FIELDS | {"tags": [*TAGS, ""]}).get(field, ["rare 1", "rare 2", "rare 3"]), "absent"]
        some = [label or None for label in rng.choice(labels, rng.integers(1, 4), replace=False).tolist()]
        one = some[0] if len(some) == 1 else some
        filters[field] = {"not": one} if rng.random() < 0.4 else one
        if rng.random() < 0.2:
            filters[field] = {"is": one, "not": str(rng.choice(labels)) or None}
    exclude = rng.choice([*ids, "unknown"], rng.integers(0, 6), replace=False).tolist() if rng.random() < 0.5 else []
    return str(rng.choice(ids)), filters, int(rng.choice([1, 5, 10, 10, 10, 25, 100])), exclude


def of_store(connection, product_id, filters, k, exclude):
    row = connection.execute(
        "SELECT answer FROM lookalike.similar_as_json(%s::text, %s::jsonb, %s, %s::text[])",
        (product_id, as_json(filters).decode(), k, as_array(exclude).decode()),
    ).fetchone()
    return row[0].encode()


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_the_store_to_the_byte(connection, load_run, tmp_path, seed):
    rng, ids = np.random.default_rng(seed), ids_of(N)
    values, vectors = catalogue(rng)
    load_run(connection, "2026-01-31", ids, vectors, values, CELLS, depth=10 + seed)
    copy = mapped.Mapped(mapped.make(tmp_path / "mapped", connection))
    compared = 0
    for _ in range(300):
        asked = question(rng, ids)
        expected = of_store(connection, *asked)
        assert copy.similar(*asked) == expected, asked
        compared += json.loads(expected)["scanned"] > 0
    assert 50 < compared < 300


def test_what_is_odd_is_left_to_the_store(connection, load_run, tmp_path):
    load_run(connection, "a", ["1", "2"], np.array([[1, 0], [0, 1]], np.float32))
    copy = mapped.Mapped(mapped.make(tmp_path / "mapped", connection))
    assert copy.similar("3", {}, 10, []) is None
    assert copy.similar("1", {"colour": "Red"}, 10, []) is None
    assert copy.similar("1", {}, 10, ["2", "9"]) == of_store(connection, "1", {}, 10, ["2", "9"])


def test_values_that_no_product_has_take_no_memory_and_little_time(connection, load_run, tmp_path):
    load_run(connection, "a", ids_of(N), catalogue(np.random.default_rng(0))[1], catalogue(np.random.default_rng(0))[0])
    copy = mapped.Mapped(mapped.make(tmp_path / "mapped", connection))
    tracemalloc.start()
    try:
        for number in range(1000):
            copy.similar("7", {"gender": f"{number} {1000 * 'x'}", "season": {"not": f"{number} {1000 * 'x'}"}}, 10, [])
        copy.similar("7", {"gender": [str(number) for number in range(10_000)]}, 10, [])
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (kept < 300_000, most < 3_000_000) == (True, True), (kept, most)


def test_the_files_of_a_run_are_made_once_and_go_with_the_next(connection, load_run, tmp_path):
    vectors = np.array([[1, 0], [0.75, 0.5]], np.float32)
    load_run(connection, "a", ["1", "2"], vectors)
    first = mapped.make(tmp_path / "mapped", connection)
    made = (first / "embeddings.npy").stat().st_mtime_ns
    assert mapped.make(tmp_path / "mapped", connection) == first
    assert (first / "embeddings.npy").stat().st_mtime_ns == made
    copy = mapped.Mapped(first)
    load_run(connection, "b", ["1", "2"], vectors)
    second = mapped.make(tmp_path / "mapped", connection)
    assert [folder.name for folder in (tmp_path / "mapped").iterdir() if folder.is_dir()] == [second.name]
    assert json.loads(copy.similar("1", {}, 10, []))["run"]["run"] == "a"


def test_a_store_without_a_run_has_nothing_to_map(connection, tmp_path):
    assert mapped.make(tmp_path / "mapped", connection) is None
    assert store.copied(connection) is None


def test_a_run_by_the_best_pair_of_images_is_answered_by_the_store(connection, load_run, tmp_path):
    images = [np.array([[1, 0], [0, 1]], np.float32), np.array([[0, 1]], np.float32)]
    load_run(connection, "a", ["1", "2"], images, {"tags": [["new", "sale"], []]})
    assert mapped.make(tmp_path / "mapped", connection) is None
    (told,) = connection.execute("SELECT answer FROM lookalike.similar_explained('1', '{}', 10, '{}')").fetchone()
    (item,) = told["items"]
    pair = best_pair(*([np.array(vectors) for vectors in vectors_of(side["embeddings"])] for side in (told, item)))
    assert (item["score"], float(pair[0] @ pair[1]), told["ranks"], told["lists"]) == (1.0, 1.0, [None], ["tags"])
    (product,) = connection.execute("SELECT answer FROM lookalike.product_as_json('1')").fetchone()
    product = json.loads(product)["product"]
    assert product["attributes"]["tags"] == ["new", "sale"]
    assert product["attributes"]["season"] is None
    assert product["images"] == [product["image"], f"/images/{'1' * 64}"]
    browsed = Catalogue(store.copied(connection))
    assert [
        row["product_id"] for row in browsed.page({"tags": {"is": "new", "not": "warm"}}, "", [], 9, "")["products"]
    ] == ["1"]
    counts = {of["field"]: of["values"] for of in browsed.facets({}, "", [])["fields"]}
    assert counts["tags"] == [{"value": value, "count": 1} for value in ("new", "sale", None)]
