"""The filter cube: equal ids and equal scores, to the bit, whatever the blocks, the panels and the device."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import cube, cube_gpu
from ml.cells import find_cells
from ml.similarity import UNIT, to_embedding

FIELDS = ("gender", "articleType", "season")
SELF = -(2**40)
"""Stands for a query's score with itself."""


def best_of(embeddings, query, members):
    """Members but the query by their int64 scores, best first, ties to the smaller index; and all scores."""
    units = np.rint(embeddings.astype(np.float64) / UNIT).astype(np.int64)
    scores, members = units @ units[query], members[members != query]
    return members[np.lexsort((members, -scores[members]))], scores


def reference(embeddings, cells, query):
    """Every product that is among the best of a cell, as deep as that is, best first, with its score."""
    best = [best_of(embeddings, query, cells.members(cell))[0][: cells.depths[cell]] for cell in range(len(cells))]
    items, scores = best_of(embeddings, query, np.unique(np.concatenate(best)))
    return items.tolist(), (scores[items] * UNIT**2).tolist()


def panels_of(embeddings, cells, size):
    return [cube.make_panel(embeddings[at : at + size], at, cells) for at in range(0, len(embeddings), size)]


def check(embeddings, cells, queries, starts, items, scores):
    assert (items.dtype, scores.dtype, starts[-1], len(starts)) == (np.int32, np.float32, len(items), len(queries) + 1)
    for place, query in enumerate(queries):
        here = slice(starts[place], starts[place + 1])
        assert (items[here].tolist(), scores[here].tolist()) == reference(embeddings, cells, query)


def by_the_rule(shortlist, scores, cells, wanted, left_out, k):
    """The k best of `wanted`, bool (n,), without those in `left_out`, by the rule that `ml.cube` proves.

    `shortlist` are a query's items, `scores` of all products, `SELF` its own. Also how many members were compared.
    """
    found = [at for at, item in enumerate(shortlist) if wanted[item] and item not in left_out][:k]
    before = shortlist[: found[-1]] if len(found) == k else shortlist
    settled = np.zeros(len(wanted), bool)
    for cell, depth in enumerate(cells.depths):
        inside = cells.members(cell)
        if np.isin(before, inside).sum() < depth:
            settled[inside] = True
    compared = np.flatnonzero(wanted & ~settled & ~np.isin(np.arange(len(wanted)), shortlist))
    candidates = np.unique([*(shortlist[at] for at in found), *compared]).astype(int)
    candidates = candidates[~np.isin(candidates, list(left_out)) & (scores[candidates] > SELF)]
    return candidates[np.lexsort((candidates, -scores[candidates]))][:k].tolist(), len(compared)


def deep(rng, cells):
    """The same cells, each of a depth of its own."""
    return replace(cells, depths=rng.integers(10, 25, len(cells)).astype(np.int32))


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
def test_every_shortlist_equals_an_integer_reference(seed, n, d, values, distinct, cell_min, panel):
    rng = np.random.default_rng(seed)
    embeddings, attributes = catalogue(rng, n, d, values, distinct)
    cells = deep(rng, find_cells(attributes, n, cell_min))
    queries = rng.permutation(n)[:20]
    check(
        embeddings,
        cells,
        queries,
        *cube.shortlists(embeddings[queries], queries, panels_of(embeddings, cells, panel), cells),
    )


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 200),
    st.sampled_from([1, 10, 25, 60]),
    st.integers(1, 25),
    st.sampled_from([1, 4, 20, 512]),
)
def test_the_rule_gives_the_answer_under_every_filter_and_without_any_products(seed, n, cell_min, k, most):
    rng = np.random.default_rng(seed)
    embeddings, attributes = catalogue(rng, n, 4, 4, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ml.cells.MOST_CELLS", most)
        cells = deep(rng, find_cells(attributes, n, cell_min))
    queries = rng.permutation(n)[:5]
    starts, items, _ = cube.shortlists(embeddings[queries], queries, panels_of(embeddings, cells, 64), cells)
    for place, query in enumerate(queries):
        passes = {field: rng.random(5) < rng.choice([0.3, 0.8, 1]) for field in FIELDS}
        names = [None, *"abcdefgh"]
        wanted = np.array([all(passes[f][names.index(attributes[f][i])] for f in FIELDS) for i in range(n)])
        order, scores = best_of(embeddings, query, np.flatnonzero(wanted))
        left_out = set(order[:15][rng.random(len(order[:15])) < rng.choice([0, 0.5, 1])].tolist())
        scores[query] = SELF
        shortlist = items[starts[place] : starts[place + 1]].tolist()
        found, _ = by_the_rule(shortlist, scores, cells, wanted, left_out, k)
        assert found == [item for item in order.tolist() if item not in left_out][:k]


def test_what_precomputed_cells_cover_is_answered_by_the_shortlist_alone():
    rng = np.random.default_rng(8)
    embeddings, attributes = catalogue(rng, 400, 4, 4, 5)
    cells = find_cells(attributes, 400, 20)
    starts, items, _ = cube.shortlists(embeddings[:1], np.arange(1), panels_of(embeddings, cells, 400), cells)
    scores = best_of(embeddings, 0, np.arange(400))[1]
    scores[0] = SELF
    seasons = np.array(attributes["season"], object)
    for wanted in (np.ones(400, bool), seasons == "a", np.isin(seasons, ["a", "c", "d"])):
        assert by_the_rule(items.tolist(), scores, cells, wanted, set(), 10)[1] == 0
    rare = (seasons == "b") & (np.array(attributes["gender"], object) == "d")
    assert by_the_rule(items.tolist(), scores, cells, rare, set(), 10)[1] > 0
    assert by_the_rule(items.tolist(), scores, cells, ~rare, set(), 3)[1] == 0  # found among the first ten of all


def test_a_larger_catalogue_with_more_cells_than_a_word_has_bits(monkeypatch):
    monkeypatch.setattr(cube, "BLOCK", 7)
    monkeypatch.setattr("ml.cells.LARGE", 4000)
    rng = np.random.default_rng(3)
    embeddings, attributes = catalogue(rng, 5000, 32, 8, 50)
    cells = find_cells(attributes, 5000, 6)
    assert len(cells) > 256
    assert set(cells.depths) == {10, 20}
    queries = rng.permutation(5000)[:20]
    made = cube.shortlists(embeddings[queries], queries, panels_of(embeddings, cells, 1900), cells)
    check(embeddings, cells, queries, *made)


@pytest.mark.parametrize("members", [1, 2, 10, 11, 12])
def test_a_shortlist_has_all_other_members_of_a_cell_when_they_are_few(members):
    n = 30
    embeddings = to_embedding(np.random.default_rng(members).normal(size=(n, 6)))
    cells = find_cells({"season": ["Summer"] * members + [None] * (n - members)}, n, 1)
    starts, items, scores = cube.shortlists(embeddings, np.arange(n), panels_of(embeddings, cells, 8), cells)
    assert (items[: starts[1]] < members).sum() >= min(10, members - 1)
    check(embeddings, cells, range(n), starts, items, scores)


def test_all_products_alike_give_the_smallest_indices_in_order():
    n = 3000
    embeddings = to_embedding(np.ones((n, 4)))
    cells = find_cells({"season": ["Summer", "Winter"] * (n // 2)}, n, 1)
    starts, items, _ = cube.shortlists(embeddings[:2], np.arange(2), panels_of(embeddings, cells, 1000), cells)
    assert items[: starts[1]].tolist() == [*range(1, 21)]
    assert items[starts[1] :].tolist() == [0, *range(2, 20), 21]


def test_cells_are_up_to_32_deep():
    embeddings = to_embedding(np.random.default_rng(2).normal(size=(90, 6)))
    cells = find_cells({}, 90, 1, depth=32)
    made = cube.shortlists(embeddings[:4], np.arange(4), panels_of(embeddings, cells, 50), cells)
    check(embeddings, cells, range(4), *made)
    assert np.diff(made[0]).tolist() == [32] * 4
    with pytest.raises(ValueError, match="33 deep"):
        cube.shortlists(embeddings[:4], np.arange(4), [], find_cells({}, 90, 1, depth=33))


def test_a_query_from_outside_the_catalogue_meets_every_product():
    embeddings = to_embedding(np.random.default_rng(1).normal(size=(40, 5)))
    cells = find_cells({}, 40, 1)
    _, items, scores = cube.shortlists(embeddings[3:4], np.array([-1]), panels_of(embeddings, cells, 40), cells)
    assert items[0] == 3
    assert scores[0] == (embeddings[3] @ embeddings[3])


def test_shortlists_do_not_depend_on_the_order_of_panels():
    rng = np.random.default_rng(11)
    embeddings, attributes = catalogue(rng, 400, 4, 3, 4)
    cells = find_cells(attributes, 400, 5)
    panels = panels_of(embeddings, cells, 60)
    orders = [cube.shortlists(embeddings, np.arange(400), order, cells) for order in (panels, panels[::-1])]
    for forward, backward in zip(*orders, strict=True):
        assert np.array_equal(forward, backward)


@pytest.mark.parametrize("seed", range(4))
def test_the_accelerators_path_gives_the_same_shortlists_to_the_bit(seed, monkeypatch):
    monkeypatch.setattr(cube_gpu, "BLOCK", 50)
    rng = np.random.default_rng(seed)
    n = 220
    embeddings, attributes = catalogue(rng, n, 8, 3, 4)
    cells = deep(rng, find_cells(attributes, n, 6))
    own = np.where(np.arange(n) % 5 == 0, -1, np.arange(n))
    expected = cube.shortlists(embeddings, own, panels_of(embeddings, cells, 100), cells)
    for made, wanted in zip(cube_gpu.shortlists(embeddings, own, embeddings, cells), expected, strict=True):
        assert (made.dtype, made.tolist()) == (wanted.dtype, wanted.tolist())


def test_of_nothing_nothing_is_asked():
    cells = find_cells({}, 3, 1)
    starts, items, scores = cube.shortlists(np.zeros((0, 2), np.float32), np.zeros(0, int), [], cells)
    assert (starts.tolist(), len(items), len(scores)) == ([0], 0, 0)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data(), base_cells=st.lists(st.integers(0, 4), max_size=60))
def test_a_cell_is_filled_at_the_item_with_which_it_has_its_depth(data, base_cells):
    ends = np.array([0, *sorted(data.draw(st.lists(st.integers(0, len(base_cells)), max_size=4))), len(base_cells)])
    contains = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=5, max_size=5)))
    depths = np.array(data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=3)), np.int32)
    filled = cube.filled_at(ends, np.array(base_cells, int), contains, depths)
    for ranks, start, end in zip(filled, ends[:-1], ends[1:], strict=True):
        for rank, of_cell, depth in zip(ranks, contains.T, depths, strict=True):
            members = [at for at, base_cell in enumerate(base_cells[start:end], 1) if of_cell[base_cell]]
            assert rank == (members[depth - 1] if len(members) >= depth else 32767)
