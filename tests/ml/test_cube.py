"""The filter cube: equal ids and equal scores, to the bit, whatever the blocks, the panels and the device."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import cube, cube_gpu, cube_kernels
from ml.cells import find_cells
from ml.similarity import UNIT, to_embedding

FIELDS = ("gender", "articleType", "season")


def reference(embeddings, query, members):
    """Int64 scores, sorted by (−score, index)."""
    units = np.rint(embeddings.astype(np.float64) / UNIT).astype(np.int64)
    members = members[members != query]
    scores = units[members] @ units[query]
    order = np.lexsort((members, -scores))[: cube_kernels.K]
    return members[order].tolist(), (scores[order] * UNIT**2).tolist()


def panels_of(embeddings, cells, size):
    return [cube.make_panel(embeddings[at : at + size], at, cells) for at in range(0, len(embeddings), size)]


def check(embeddings, cells, queries, best, scores):
    for place, query in enumerate(queries):
        for cell in range(len(cells)):
            found = best[place, cell] >= 0
            expected = reference(embeddings, query, cells.members(cell))
            assert (best[place, cell][found].tolist(), scores[place, cell][found].tolist()) == expected
            assert not scores[place, cell][~found].any()


def catalogue(rng, n, d, values, distinct):
    """Embeddings with few distinct values and duplicates of one image, and attributes of which some are missing."""
    features = rng.integers(-1, distinct, (n, d)).astype(float)
    features[rng.integers(0, n, n // 4)] = features[0]
    names = [None, *"abcdefgh"][: values + 1]
    attributes = {field: [names[i] for i in rng.integers(0, len(names), n)] for field in FIELDS}
    return to_embedding(features), attributes


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.integers(1, 12),
    st.integers(1, 8),
    st.integers(2, 60),
    st.sampled_from([1, 2, 10, 11, 40]),
    st.sampled_from([7, 64, 1 << 17]),
)
def test_every_list_equals_an_integer_reference(seed, n, d, values, distinct, cell_min, panel):
    rng = np.random.default_rng(seed)
    embeddings, attributes = catalogue(rng, n, d, values, distinct)
    cells = find_cells(attributes, n, cell_min)
    queries = rng.permutation(n)[:20]
    best, scores = cube.lists(embeddings[queries], queries, panels_of(embeddings, cells, panel))
    check(embeddings, cells, queries, best, scores)


def test_thousands_of_lists_of_a_larger_catalogue_with_more_cells_than_a_word_has_bits(monkeypatch):
    monkeypatch.setattr(cube, "BLOCK", 7)
    rng = np.random.default_rng(3)
    embeddings, attributes = catalogue(rng, 5000, 32, 8, 50)
    cells = find_cells(attributes, 5000, 6)
    assert len(cells) > 256
    queries = rng.permutation(5000)[:20]
    best, scores = cube.lists(embeddings[queries], queries, panels_of(embeddings, cells, 1900))
    check(embeddings, cells, queries, best, scores)


@pytest.mark.parametrize("members", [1, 2, 10, 11, 12])
def test_a_cell_has_all_its_other_members_when_they_are_few(members):
    n = 30
    embeddings = to_embedding(np.random.default_rng(members).normal(size=(n, 6)))
    cells = find_cells({"season": ["Summer"] * members + [None] * (n - members)}, n, 1)
    best, scores = cube.lists(embeddings, np.arange(n), panels_of(embeddings, cells, 8))
    assert (best[0, 1] >= 0).sum() == min(10, members - 1)
    assert (best[n - 1, 1] >= 0).sum() == min(10, members)
    check(embeddings, cells, range(n), best, scores)


def test_all_products_alike_give_the_smallest_indices_in_order():
    n = 3000
    embeddings = to_embedding(np.ones((n, 4)))
    cells = find_cells({"season": ["Summer", "Winter"] * (n // 2)}, n, 1)
    best, _ = cube.lists(embeddings[:2], np.arange(2), panels_of(embeddings, cells, 1000))
    assert best[0].tolist() == [list(range(1, 11)), list(range(2, 22, 2)), list(range(1, 21, 2))]
    assert best[1, 0].tolist() == [0, *range(2, 11)]


def test_a_query_from_outside_the_catalogue_meets_every_product():
    embeddings = to_embedding(np.random.default_rng(1).normal(size=(40, 5)))
    cells = find_cells({}, 40, 1)
    best, scores = cube.lists(embeddings[3:4], np.array([-1]), panels_of(embeddings, cells, 40))
    assert best[0, 0, 0] == 3
    assert scores[0, 0, 0] == (embeddings[3] @ embeddings[3])


def test_lists_do_not_depend_on_the_order_of_panels():
    rng = np.random.default_rng(11)
    embeddings, attributes = catalogue(rng, 400, 4, 3, 4)
    cells = find_cells(attributes, 400, 5)
    panels = panels_of(embeddings, cells, 60)
    forward, backward = (cube.lists(embeddings, np.arange(400), order) for order in (panels, panels[::-1]))
    assert np.array_equal(forward[0], backward[0])
    assert np.array_equal(forward[1], backward[1])


@pytest.mark.parametrize("seed", range(4))
def test_the_accelerators_path_gives_the_same_lists_to_the_bit(seed, monkeypatch):
    monkeypatch.setattr(cube_gpu, "BLOCK", 50)
    rng = np.random.default_rng(seed)
    n = 220
    embeddings, attributes = catalogue(rng, n, 8, 3, 4)
    cells = find_cells(attributes, n, 6)
    own = np.where(np.arange(n) % 5 == 0, -1, np.arange(n))
    expected = cube.lists(embeddings, own, panels_of(embeddings, cells, 100))
    found = cube_gpu.lists(embeddings, own, embeddings, cells)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_a_panel_that_is_too_large_is_refused():
    cells = find_cells({}, 4, 1)
    with pytest.raises(ValueError, match="at most 1048576 products, not 1048577"):
        cube.make_panel(np.zeros(((1 << 20) + 1, 1), np.float32), 0, cells)


def test_without_a_panel_there_is_no_answer():
    with pytest.raises(ValueError, match="no panel"):
        cube.lists(np.zeros((1, 2), np.float32), np.zeros(1, int), [])
