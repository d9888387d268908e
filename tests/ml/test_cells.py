"""Cells: which combinations of values leave over which products."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.cells import find_cells

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
