"""Which cells are precomputed, and which filter combinations share one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ml.cells import single_field_cells

VALUES = {"articleType": ["Watches", "Watches", "Shirts", None, "Shirts"], "gender": ["Men", "Women", "Men", "Men", ""]}


def members_by_filter(cells):
    return {
        tuple(sorted(combination.items())): cells.members[cells.offsets[i] : cells.offsets[i + 1]].tolist()
        for i in range(len(cells))
        for combination in cells.filters[i]
    }


def test_a_cell_holds_the_products_with_the_value_and_small_cells_are_left_out():
    assert members_by_filter(single_field_cells(VALUES, 5, cell_min=2)) == {
        (): [0, 1, 2, 3, 4],
        (("articleType", "Shirts"),): [2, 4],
        (("articleType", "Watches"),): [0, 1],
        (("gender", "Men"),): [0, 2, 3],
    }


def test_the_empty_filter_is_a_cell_whatever_its_size():
    assert members_by_filter(single_field_cells(VALUES, 5, cell_min=1000)) == {(): [0, 1, 2, 3, 4]}


def test_combinations_with_the_same_members_share_one_cell():
    cells = single_field_cells({"articleType": ["Watches"] * 2 + ["Belts"], "subCategory": ["W", "W", "B"]}, 3, 2)
    assert cells.filters == [[{}], [{"articleType": "Watches"}, {"subCategory": "W"}]]
    assert cells.sizes.tolist() == [3, 2]


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30), st.integers(1, 5))
def test_every_value_with_enough_members_has_a_cell_with_just_its_members(column, cell_min):
    found = members_by_filter(single_field_cells({"season": column}, len(column), cell_min))
    for value in {"a", "b", "c"}:
        expected = [i for i, each in enumerate(column) if each == value]
        assert found.get((("season", value),), None) == (expected if len(expected) >= cell_min else None)
    assert found[()] == list(range(len(column)))


def test_members_are_int32_as_the_scan_expects():
    assert single_field_cells(VALUES, 5, 2).members.dtype == np.int32
