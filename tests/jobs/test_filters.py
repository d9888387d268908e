"""The grammar of filters: what people write, what the store takes, and back."""

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import UserError
from jobs.filters import passing, read, read_ids, write


@pytest.mark.parametrize(
    ("pairs", "filters"),
    [
        ([], {}),
        ([("baseColour", "Blue")], {"baseColour": "Blue"}),
        ([("baseColour", "Blue,Navy Blue")], {"baseColour": ["Blue", "Navy Blue"]}),
        ([("baseColour", "Blue"), ("baseColour", "Navy Blue,Blue")], {"baseColour": ["Blue", "Navy Blue"]}),
        ([("baseColour!", "Yellow")], {"baseColour": {"not": "Yellow"}}),
        ([("baseColour!", "Yellow"), ("baseColour!", "Mustard")], {"baseColour": {"not": ["Yellow", "Mustard"]}}),
        ([("baseColour", "Blue,Red"), ("baseColour!", "Red")], {"baseColour": {"is": "Blue", "not": "Red"}}),
        ([("season", "")], {"season": None}),
        ([("season!", "")], {"season": {"not": None}}),
        ([("season", "Summer,")], {"season": ["Summer", None]}),
        ([("name", r"a\,b,c\\d, e ")], {"name": ["a,b", r"c\d", " e "]}),
        ([("name", "a\\b\\")], {"name": "a\\b\\"}),
        ([("name", "NA")], {"name": "NA"}),
        ([("name", "a=b")], {"name": "a=b"}),
    ],
)
def test_what_is_written_is_read_as(pairs, filters):
    assert read(pairs, "here") == filters


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([("colour", "Red"), ("colour!", "Red,Blue")], "every value that colour is to have is one"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_place_and_the_remedy(pairs, problem):
    with pytest.raises(UserError) as caught:
        read(pairs, "here")
    assert caught.value.problem.startswith(problem)
    assert caught.value.where == "here"


VALUES = st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
LISTS = st.one_of(VALUES, st.lists(VALUES, min_size=2, unique=True))


BOTH = st.lists(VALUES, min_size=4, unique=True).map(lambda values: {"is": values[:2], "not": values[2:]})


@given(st.dictionaries(st.sampled_from("abc"), st.one_of(LISTS, LISTS.map(lambda values: {"not": values}), BOTH)))
def test_every_filter_can_be_written_and_is_read_as_itself(filters):
    assert read(write(filters), "") == filters


def test_rows_pass_by_the_words_of_the_store():
    rows = pa.table({"colour": ["Red", "Blue", "", None], "n": [0, 1, 2, 3]})
    for condition, expected in (
        ("Red", [0]),
        (["Red", "Mauve"], [0]),
        (None, [2, 3]),
        (["Blue", None], [1, 2, 3]),
        ({"not": "Red"}, [1, 2, 3]),
        ({"not": None}, [0, 1]),
        ({"not": ["Red", None]}, [1]),
    ):
        assert passing(rows, {"colour": condition})["n"].to_pylist() == expected


def test_of_several_values_each_passes_and_all_are_asked_by_a_complement():
    rows = pa.table({"tags": [["new", "sale"], ["sale"], [], None], "n": [0, 1, 2, 3]})
    for condition, expected in (
        ("new", [0]),
        (["new", "sale"], [0, 1]),
        (None, [2, 3]),
        (["new", None], [0, 2, 3]),
        ({"not": "new"}, [1, 2, 3]),
        ({"is": "sale", "not": "new"}, [1]),
        ({"is": ["sale", None], "not": ["new"]}, [1, 2, 3]),
    ):
        assert passing(rows, {"tags": condition})["n"].to_pylist() == expected


def test_ids_to_leave_out_are_read_and_what_is_none_is_named():
    assert read_ids(["123, 456", "-7"], "here") == ["123", "456", "-7"]
    assert read_ids([r"B07X,007,1.0, a\,b ,\\"], "here") == ["B07X", "007", "1.0", "a,b", "\\"]
    assert read_ids(["", " , "], "here") == []
    for wrong, why in (("1,a\x00b", "'a\\x00b' is no product id: it has the control"), ("9" * 257, "it has 257 char")):
        with pytest.raises(UserError, match=re.escape(why)):
            read_ids([wrong], "here")
