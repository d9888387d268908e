"""The order of ids, and what is none."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import ids

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256)
NUMBERS = st.one_of(st.integers(-9, 99), st.integers(2**63 - 2, 2**63 + 1), st.integers(0, 10**30)).map(str)
LIKE_NUMBERS = st.tuples(st.sampled_from(["", "0", "+", "-", "٣", "¹"]), NUMBERS, st.sampled_from(["", ".0", "x"])).map(
    "".join
)


def is_canonical(text):
    return text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < 2**63


@given(st.lists(st.one_of(TEXT, NUMBERS, LIKE_NUMBERS), unique=True))
def test_numbers_come_first_by_number_and_then_all_others_by_code_point(texts):
    numbers = sorted((text for text in texts if is_canonical(text)), key=int)
    others = sorted((text for text in texts if not is_canonical(text)), key=lambda text: [*map(ord, text)])
    assert sorted(texts, key=ids.key) == numbers + others
    assert [texts[at] for at in ids.order(pa.array(texts, pa.string()))] == numbers + others


@given(TEXT)
def test_any_text_without_control_characters_is_an_id(text):
    assert ids.fault(text) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("x" * 257, "it has 257 characters; at most 256 may be"),
        ("a\tb", "it has the control character '\\t'"),
        ("a\x85", "it has the control character '\\x85'"),
        ("\x7f", "it has the control character '\\x7f'"),
    ],
)
def test_what_is_no_id_is_told_why(text, why):
    assert ids.fault(text) == why


def test_blanks_around_an_id_are_no_part_of_it_and_nothing_else_is_folded():
    assert [ids.trimmed(text) for text in (" 00123\t", "\u00a0é", "e\u0301")] == ["00123", "\u00a0é", "e\u0301"]
