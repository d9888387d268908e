"""Cells: which combinations of values leave over which products."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import cells as cells_module
from ml.cells import find_cells, number, supersets

VALUES = st.sampled_from([None, "", "Men", "Women", "Unisex"])


def members_of(values, n, filters):
    return [i for i in range(n) if all(values[field][i] == value for field, value in filters.items())]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=40), st.integers(1, 8))
def test_cells_are_those_of_every_combination_with_enough_members(rows, cell_min):
    n, values = len(rows), {field: list(column) for field, column in zip("abc", zip(*rows, strict=True), strict=True)}
    choices = [[None, *sorted({v for v in values[field] if v})] for field in "abc"]
    expected: dict[tuple, list] = {}
    for chosen in product(*choices):
        filters = {field: value for field, value in zip("abc", chosen, strict=True) if value}
        members = members_of(values, n, filters)
        if len(members) >= cell_min or not filters:
            expected.setdefault(tuple(members), []).append(filters)
    cells = find_cells(values, n, cell_min)
    found = {tuple(cells.members(cell).tolist()): cells.filters[cell] for cell in range(len(cells))}
    assert len(found) == len(cells)
    assert {key: sorted(map(str, each)) for key, each in found.items()} == {
        key: sorted(map(str, each)) for key, each in expected.items()
    }
    assert cells.sizes.tolist() == [len(cells.members(cell)) for cell in range(len(cells))]


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
    with pytest.raises(ValueError, match="not in list"):
        numbering.passing({"x": "none has it"})


def test_large_cells_are_deeper(monkeypatch):
    monkeypatch.setattr(cells_module, "LARGE", 3)
    values = {"x": ["a", "a", "a", "b", "b", "b", "b"]}
    assert find_cells(values, 7, 2).depths.tolist() == [20, 10, 20]
    assert find_cells(values, 7, 2, depth=16).depths.tolist() == [20, 16, 20]


def test_a_cells_supersets_have_all_its_base_cells_and_more():
    members = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]], bool)
    expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1], [1, 0, 0, 0]]
    assert supersets(members).astype(int).tolist() == expected
