"""Rows of styles.csv: quoted fields of any length, stray quotes, encodings, and values that are too long."""

import io
import random
import string

import numpy as np
import pytest

from infra import store
from infra.errors import UserError
from infra.settings import ATTRIBUTES, Settings
from jobs.layout import kaggle
from jobs.rejects import Rejects
from jobs.styles import FILTER_MAX, read_styles, reading
from jobs.tables import File, delimited, opened
from tests.catalogues import HEADER, row, styles

FIELDS = Settings().fields


def read(data: bytes, fields=FIELDS, name: str = "styles.csv", **settings) -> tuple[dict[int, dict], list[tuple]]:
    """Rows by id, here numbers all of them, and (reason, place, detail) of what was rejected."""
    rejects = Rejects()
    layout = kaggle(fields)
    with opened(name, {"": File(name, lambda: io.BytesIO(data))}, reading(Settings(**settings), layout)) as table:
        rows = read_styles(table, rejects, layout)
    return {int(each["product_id"]): each for each in rows}, [
        (each["reason"], each["file"], each["detail"]) for each in rejects.rows
    ]


def names(rows: dict[int, dict]) -> dict[int, str]:
    return {key: value["productDisplayName"] for key, value in rows.items()}


@pytest.mark.parametrize("n", [1, 19, 20, 21, 500])
def test_a_quoted_field_of_any_number_of_lines_is_one_product(n):
    text = "<li>cotton, soft</li>\n" * n
    rows, rejects = read(styles([row(1), row(2, productDisplayName=text), row(3)]))
    assert (names(rows)[2], sorted(rows), rejects) == (text.strip(), [1, 2, 3], [])


def test_descriptions_of_200_kb_in_a_further_column_are_no_fault():
    columns = (*HEADER[:3], "description", *HEADER[3:])
    html = '<p class="a, b">cotton</p>\n' * 8000
    rows, rejects = read(styles([row(n) | {"description": html} for n in (1, 2)] + [row(3)], columns))
    assert (sorted(rows), rejects) == ([1, 2, 3], [])


@pytest.mark.parametrize(
    ("first", "second"), [('"Open', 'Heels 5"'), ('"Open', "Item 9"), ('"', '"'), ('"Open', '"Shirt, blue"')]
)
@pytest.mark.parametrize("apart", [1, 5, 40])
def test_a_stray_quote_swallows_no_row_even_where_a_later_one_would_close_it(first, second, apart):
    data = styles([row(n) for n in range(1, 61)]).decode()
    data = data.replace("Product 7\n", first + "\n").replace(f"Product {7 + apart}\n", second + "\n")
    rows, rejects = read(data.encode())
    assert (sorted(rows), rejects) == (list(range(1, 61)), [])
    assert names(rows)[7] == first


def test_a_stray_quote_in_an_earlier_column_costs_its_own_row_alone():
    data = styles([row(n) for n in range(1, 31)]).replace(b"\n7,Women,", b'\n7,"Women,')
    data = data.replace(b"\n9,Women,", b'\n9,Women",')
    rows, rejects = read(data)
    assert sorted(rows) == list(range(1, 31))
    assert (rows[7]["gender"], rows[9]["gender"]) == ('"Women', 'Women"')
    assert rejects == []


def test_lines_without_a_closing_quote_are_looked_at_once_and_not_from_every_quote(monkeypatch):
    parsed = []
    parse = delimited.Delimited._parse
    monkeypatch.setattr(
        delimited.Delimited,
        "_parse",
        lambda self, lines, escape=None: parse(self, (parsed.append(line) or line for line in lines), escape),
    )
    data = styles([row(1)]) + b'"open, and more of it\n' * 2000 + b"more\n" * 2000
    read(data)
    assert len(parsed) < 15_000


def test_a_row_is_held_up_to_its_bound_and_what_lies_beyond_is_read_line_by_line(monkeypatch):
    monkeypatch.setattr(delimited, "RECORD_MAX", 1000)
    text = "<li>cotton</li>\n" * 100
    rows, rejects = read(styles([row(1), row(2, productDisplayName=text), row(3)]))
    assert sorted(rows) == [1, 2, 3]
    assert {reason for reason, _, _ in rejects} == {"too few fields"}


@pytest.mark.parametrize("other", ["gender", "Gender", " GENDER ", "\ufeffgender"])
def test_two_columns_of_one_name_are_refused_with_both_places(other):
    data = styles([row(1)]).replace(b"\n", f",{other}\n".encode(), 1)
    with pytest.raises(UserError, match=r"column 2 \(gender\) and column 11 \((?i:gender)\)") as caught:
        read(data)
    assert (caught.value.where, caught.value.remedy) == ("styles.csv", "keep one, rename the others")


def test_two_further_columns_of_one_name_do_no_harm():
    columns = (*HEADER, "updated", "")
    data = (
        styles([row(1) | {"updated": "x"}], columns).replace(b"updated,", b"updated,updated,").replace(b"x,", b"x,y,")
    )
    assert sorted(read(data)[0]) == [1]


WESTERN = "Café Größe Señora “Été” L’Oréal Crêpe «Élan» naïve €10 – µm², 5° ® ¿Qué? Åsa Þór Žižek Œuvre TRÈS ÖÄ"


def test_western_text_of_spreadsheets_is_read():
    rows, rejects = read(styles([row(1, productDisplayName=WESTERN)]).decode().encode("cp1252"))
    assert (names(rows)[1], rejects) == (WESTERN, [])


@pytest.mark.parametrize(
    ("encoding", "name", "text"),
    [
        ("shift-jis", "Shift-JIS", "青いシャツ"),
        ("cp1251", "Windows-1251", "Синяя рубашка"),
        ("cp1251", "Windows-1251", "синяя"),
        ("koi8-r", "KOI8-R", "Синяя рубашка"),
        ("cp1253", "Windows-1253", "Μπλε πουκάμισο"),
        ("cp949", "EUC-KR", "파란색 셔츠"),
        ("gb18030", "GB18030", "蓝色衬衫"),
        ("gb18030", "GB18030", "黑色"),
    ],
)
def test_a_row_in_another_encoding_is_one_reject_with_what_it_may_say(encoding, name, text):
    data = styles([row(1), row(3)]) + styles([row(2, baseColour=text)]).decode().encode(encoding).split(b"\n", 1)[1]
    rows, rejects = read(data)
    detail = f"neither UTF-8 nor Windows-1252; {text!r} if it is {name}"
    assert (sorted(rows), rejects) == ([1, 3], [("unknown encoding", "styles.csv, line 4", detail)])


@pytest.mark.parametrize(("encoding", "text"), [("cp1250", "Żółty"), ("mac-roman", "Café au lait"), ("big5", "黑色")])
def test_other_encodings_that_nobody_can_name_are_not_published_as_if_they_were_western(encoding, text):
    rows, rejects = read(styles([row(1)]) + f"2,Men,a,b,c,{text},Fall,2012,Casual,x\n".encode(encoding))
    assert (sorted(rows), [reason for reason, _, _ in rejects]) == ([1], ["unknown encoding"])


def test_a_further_column_and_a_header_in_another_encoding_are_no_fault_of_the_product():
    data = styles([row(1) | {"цвет": "синий"}], (*HEADER, "цвет")).decode().encode("cp1251")
    assert sorted(read(data)[0]) == [1]


def test_a_damaged_row_of_another_encoding_can_be_shown():
    data = (
        styles([row(1)]) + "Синий\n".encode("cp1251") + "Синий,".encode("cp1251") + styles([row(2)]).split(b"\n2,")[1]
    )
    rows, rejects = read(data)
    assert sorted(rows) == [1]
    assert [reason for reason, _, _ in rejects] == ["too few fields", "unknown encoding"]
    str(rejects).encode()


def long(n: int) -> str:
    return "".join(random.Random(n).choices(string.ascii_letters + string.digits, k=n))


def test_values_too_long_to_filter_by_cost_their_row_and_names_may_be_long():
    data = styles([row(1, productDisplayName=long(30_000)), row(2, usage=long(9000)), row(3)])
    rows, rejects = read(data)
    assert sorted(rows) == [1, 3]
    ((reason, place, detail),) = rejects
    assert (reason, place) == ("values too long", "styles.csv, line 3")
    assert detail == f"usage has 9,000 bytes; a value to filter by may have {FILTER_MAX:,}"
    assert sorted(read(data, ("gender",))[0]) == [1, 2, 3]
    assert sorted(read(data, ("productDisplayName",))[0]) == [2, 3]


def test_the_store_takes_filters_of_the_longest_values_that_are_taken(connection, load_run):
    text = long(FILTER_MAX)
    filters = dict.fromkeys(ATTRIBUTES, text)
    values = {name: [text] * 2 for name in filters}
    load_run(connection, "2026-01-31", np.array([1, 2]), np.eye(2), values, [{}, {"usage": text}, filters])
    for asked in ({"usage": text}, {"usage": {"not": "x"}}, filters):
        assert [item.product_id for item in store.similar_items(connection, "1", asked, 10)] == ["2"]


def test_the_file_without_a_usable_row_says_every_kind_with_a_sample():
    good = styles([row(1, id="1.0"), row(2, id="2.0")])
    with pytest.raises(UserError) as caught:
        read(good + b"3,Men\n")
    assert caught.value.problem == (
        "none of the 3 rows of styles.csv can be used: 2 × no product id (such as 1.0 in styles.csv, line 2: '1.0': it "
        "became a decimal number, as pandas makes it where an id is missing; write ids as text); 1 × too few fields "
        "(such as 3 in styles.csv, line 4: 2 instead of 10)"
    )
    assert "such as 15970" in caught.value.remedy
