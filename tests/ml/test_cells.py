"""Cells: which combinations of values leave over which products."""

from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import cells as cells_module
from ml.cells import find_cells, holding, meeting, number, supersets

VALUES = st.sampled_from([None, "", "Men", "Women", "Unisex"])


def every_cell(values, n, cell_min):
    """Members → the combinations that leave them, of all that have enough; both in the order in which they are met."""
    cells = {}
    for fields in chain.from_iterable(combinations(values, size) for size in range(len(values) + 1)):
        for chosen in product(*(sorted({value for value in values[field] if value}) for field in fields)):
            filters = dict(zip(fields, chosen, strict=True))
            members = tuple(i for i in range(n) if all(values[field][i] == filters[field] for field in fields))
            if len(members) >= cell_min or not filters:
                cells.setdefault(members, []).append(filters)
    return cells


def columns(rows, fields="abcd"):
    return {field: list(column) for field, column in zip(fields, zip(*rows, strict=True), strict=False)}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=1, max_size=40), st.integers(1, 8))
def test_cells_are_those_of_every_combination_with_enough_members(rows, cell_min):
    n, values = len(rows), columns(rows)
    expected, cells = every_cell(values, n, cell_min), find_cells(values, n, cell_min)
    assert [tuple(cells.members(cell).tolist()) for cell in range(len(cells))] == list(expected)
    assert [[list(filters.items()) for filters in of_cell] for of_cell in cells.filters] == [
        [list(filters.items()) for filters in of_cell] for of_cell in expected.values()
    ]
    assert cells.sizes.tolist() == [len(members) for members in expected]
    sets = [set(members) for members in expected]
    assert cells.inside.tolist() == [[other < members for other in sets] for members in sets]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=1, max_size=40),
    st.integers(1, 4),
    st.tuples(st.integers(1, 30), st.sampled_from([1, 2, 4, 96]), st.integers(1, 40)),
)
def test_of_too_many_cells_those_of_few_fields_are_kept_and_of_these_the_largest(rows, cell_min, room):
    n, values, (most, members, listed) = len(rows), columns(rows), room
    expected = every_cell(values, n, cell_min)
    _, *ranked = sorted(expected, key=lambda cell: (len(expected[cell][0]), -len(cell)))
    fit = [at < most - 1 and total <= members * n for at, total in enumerate(np.cumsum([len(cell) for cell in ranked]))]
    kept = {cell for cell, fits in zip(ranked, fit, strict=True) if fits} | {tuple(range(n))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MOST_CELLS", most), ("MOST_MEMBERS", members), ("MOST_COMBINATIONS", listed)):
            patch.setattr(cells_module, name, value)
        cells = find_cells(values, n, cell_min)
    assert [tuple(cells.members(cell).tolist()) for cell in range(len(cells))] == [
        cell for cell in expected if cell in kept
    ]
    assert [of_cell[0] for of_cell in cells.filters] == [expected[cell][0] for cell in expected if cell in kept]
    for cell, of_cell in enumerate(cells.filters):
        assert of_cell == expected[tuple(cells.members(cell).tolist())][: len(of_cell)]
    assert sum(map(len, cells.filters)) <= max(listed, len(cells)) + len(cells)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.sampled_from("abcd"), unique=True), VALUES, VALUES), min_size=1, max_size=40),
    st.integers(1, 5),
)
def test_of_several_values_each_has_a_cell_of_all_products_that_have_it(rows, cell_min):
    n, values = len(rows), columns(rows, ["tags", "x", "y"])

    def having(filters):
        return [i for i in range(n) if all(value in (values[field][i] or ()) for field, value in filters.items())]

    values["x"], values["y"] = ([[value] if value else [] for value in values[field]] for field in ("x", "y"))
    given_to_it = values | {field: [each[0] if each else None for each in values[field]] for field in ("x", "y")}
    cells, numbering = find_cells(given_to_it, n, cell_min), number(given_to_it, n)
    for cell, of_cell in enumerate(cells.filters):
        for filters in of_cell:
            assert cells.members(cell).tolist() == having(filters)
            passing = numbering.passing(filters)[numbering.base_cells]
            assert sorted(numbering.order[passing].tolist()) == having(filters)
    alone = [{field: value} for field in values for value in sorted(set(chain.from_iterable(values[field])))]
    listed = [filters for of_cell in cells.filters for filters in of_cell]
    assert all(filters in listed for filters in alone if len(having(filters)) >= cell_min)
    sets, members = numbering.having["tags"], numbering.passing({})[:, None] & (np.arange(5) > 0)
    members &= np.random.default_rng(n).random(members.shape) < 0.4
    expected = [[not np.any(np.delete(cell, base_cells)) for cell in members.T] for base_cells in sets]
    assert holding(members, sets).tolist() == expected


def test_cells_are_made_with_the_values_that_most_products_have(monkeypatch):
    monkeypatch.setattr(cells_module, "MOST_VALUES", 2)
    values = {"x": ["a", "a", "b", "b", "b"], "y": ["c", None, "d", "c", "c"]}
    assert find_cells(values, 5, 1).filters == [[{}], [{"x": "b"}], [{"y": "c"}], [{"x": "b", "y": "c"}]]


@pytest.mark.parametrize("noise", [0, 0.02, 1], ids=["all the same", "nearly the same", "nothing in common"])
def test_64_fields_give_no_more_cells_and_combinations_than_there_is_room_for(noise):
    rng, n = np.random.default_rng(5), 3000
    kind = rng.integers(0, 12, n)
    values = {
        f"field {field}": np.where(rng.random(n) < noise, rng.integers(0, 12, n), kind).astype(str).tolist()
        for field in range(64)
    }
    cells = find_cells(values, n, 30)
    assert len(cells) == (13 if noise == 0 else cells_module.MOST_CELLS)
    assert cells.sizes[1:].sum() <= cells_module.MOST_MEMBERS * n
    assert len(cells) <= sum(map(len, cells.filters)) <= cells_module.MOST_COMBINATIONS + len(cells)
    for cell, of_cell in enumerate(cells.filters):
        for filters in of_cell[:3]:
            passing = np.all(
                [np.array(values[field]) == value for field, value in filters.items()] or [[True] * n], axis=0
            )
            assert np.array_equal(np.flatnonzero(passing), cells.members(cell))


def test_the_empty_filter_has_a_cell_whatever_its_size_and_comes_first():
    cells = find_cells({"gender": ["Men", "Men", "Women"]}, 3, 10)
    assert cells.filters == [[{}]]
    assert cells.sizes.tolist() == [3]


def test_combinations_with_the_same_members_share_one_cell():
    watches = ["Watches", "Watches", None]
    cells = find_cells({"subCategory": watches, "articleType": watches}, 3, 2)
    assert cells.filters[1:] == [
        [
            {"subCategory": "Watches"},
            {"articleType": "Watches"},
            {"subCategory": "Watches", "articleType": "Watches"},
        ]
    ]


def test_products_of_one_atom_belong_to_the_same_cells():
    values = {"gender": ["Men", "Women", "Men", None], "season": ["Fall", "Fall", "Fall", "Fall"]}
    cells = find_cells(values, 4, 2)
    assert cells.atoms[0] == cells.atoms[2] != cells.atoms[1]
    assert cells.atoms[1] == cells.atoms[3]
    inside = np.array([[i in cells.members(cell) for cell in range(len(cells))] for i in range(4)])
    assert np.array_equal(cells.contains[cells.atoms], inside)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4))
def test_base_cells_are_numbered_in_the_order_of_their_values(seed, n, distinct):
    rng = np.random.default_rng(seed)
    values = {field: [[None, *"abcd"][i] for i in rng.integers(0, distinct + 1, n)] for field in ("x", "y")}
    numbering = number(values, n)
    assert sorted(numbering.order.tolist()) == list(range(n))
    tuples = [tuple(values[field][i] or "" for field in values) for i in numbering.order]
    assert tuples == sorted(tuples)
    assert numbering.starts.tolist() == [0, *(at for at in range(1, n) if tuples[at] != tuples[at - 1]), n]
    firsts = [tuples[at] for at in numbering.starts[:-1]]
    for filters in ({}, *({field: label} for field in values for label in numbering.labels[field])):
        passing = [all(own["xy".index(field)] == value for field, value in filters.items()) for own in firsts]
        assert numbering.passing(filters).tolist() == passing
    for field in values:
        sets = numbering.having[field]
        having = [numbering.passing({field: label}) for label in numbering.labels[field]]
        assert [base_cells.tolist() for base_cells in sets] == [np.flatnonzero(each).tolist() for each in having]
        members = rng.random((len(firsts), 9)) < 0.2
        assert meeting(members, sets).tolist() == [members[base_cells].any(axis=0).tolist() for base_cells in sets]
    with pytest.raises(ValueError, match="not in list"):
        numbering.passing({"x": "none has it"})


def test_large_cells_are_deeper(monkeypatch):
    monkeypatch.setattr(cells_module, "LARGE", 3)
    values = {"x": ["a", "a", "a", "b", "b", "b", "b"]}
    assert find_cells(values, 7, 2).depths.tolist() == [20, 10, 20]
    assert find_cells(values, 7, 2, depth=16).depths.tolist() == [20, 16, 20]


@pytest.mark.parametrize("block", [1, 3, 8192])
def test_a_cells_supersets_have_all_its_base_cells_and_more(monkeypatch, block):
    monkeypatch.setattr(cells_module, "BLOCK", block)
    members = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]], bool)
    expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1], [1, 0, 0, 0]]
    assert supersets(members).astype(int).tolist() == expected
