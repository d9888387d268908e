"""`lookalike inspect`: what it sees in a source, what it proposes, and that a run can use that."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import UserError
from infra.settings import read_settings
from jobs.inspection import inspect, save, to_toml, told
from jobs.layout import parse
from tests.catalogues import folder, good_files, image

N = 40
COLUMNS = {
    "Artikel": [f"A-{at:03d}" for at in range(N)],
    "title": [f"Thing {at}" for at in range(N)],
    "Category": ["shirts", "shoes"] * (N // 2),
    "color": ["red", "blue", "black", ""] * (N // 4),
    "price": [10 + at for at in range(N)],
    "year": [2000 + at for at in range(N)],
    "notes": [""] * N,
    "picture": [f"p/{at}.jpg" for at in range(N)],
}


def source(tmp_path, columns=COLUMNS, **files):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    pictures = {f"p/{at}.jpg": image(at % 30, size=(80, 80)) for at in range(N)}
    return folder(tmp_path / "shop", {"goods.parquet": out.getvalue(), **pictures, **files})


def look(place, tmp_path, **settings):
    return inspect(read_settings(dataset=str(place), scratch=tmp_path / "scratch", **settings))


def test_an_unknown_table_is_read_and_a_mapping_proposed_that_a_run_can_use(tmp_path):
    place = source(tmp_path)
    (place / "p/3.jpg").unlink()
    (place / "p/4.jpg").write_bytes(b"none")
    seen = look(place, tmp_path)
    assert (seen.table, seen.read_as, seen.rows, seen.origin) == ("goods.parquet", "Parquet", N, "")
    assert [(column.name, column.filled, column.distinct) for column in seen.columns][2:4] == [
        ("Category", 40, 2),
        ("color", 30, 3),
    ]
    assert to_toml(seen.layout) == (
        'id = "Artikel"\nname = "title"\nimage = ["picture"]\nfields = ["Category", "color", "price"]\n'
        'kind = "Category"\ncolour = "color"\n\n[bands]\n"price" = [20.0, 30.0, 39.0]\n'
    )
    assert parse(to_toml(seen.layout).encode(), "there") == seen.layout
    assert seen.products == N - 1
    assert seen.rejects.of_products().startswith("1 × no image (such as A-003 in goods.parquet")
    assert dict(seen.files) == {"good": N - 2, "not an image": 1}
    assert seen.repeated == 8  # of ten, one is gone and one is no image
    assert seen.seconds > 0
    said = "\n".join(part for part in told(seen) if isinstance(part, str))
    assert "products: 39 of 40" in said
    assert "this one is proposed" in said


def test_a_source_in_kaggles_layout_needs_no_mapping(tmp_path):
    seen = look(folder(tmp_path / "kaggle", good_files(6)), tmp_path, weights="none")  # which are not needed either
    assert (seen.origin, seen.products) == ("Kaggle's layout", 6)
    assert seen.files["small"] == 6
    assert seen.seconds > 0


def test_a_mapping_that_is_there_is_what_a_run_would_use(tmp_path):
    mapping = b'id = "Artikel"\nimage = "picture"\nfields = ["color"]\n'
    seen = look(source(tmp_path, **{"catalogue.toml": mapping}), tmp_path)
    assert (seen.origin, seen.layout.fields) == ("catalogue.toml", ("color",))


def test_the_lake_and_the_store_are_not_touched(tmp_path, monkeypatch):
    place = source(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    look(place, tmp_path)
    after = sorted(path for path in tmp_path.rglob("*") if path.name != "scratch")
    assert after == before


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.txt": b"nothing"}, "the source has no styles.csv; it holds a.txt"),
        ({"t.csv": b"a,b\n1,2\n1,2\n"}, "no column has another value in every row"),
        ({"t.csv": b"a,b\n1,\n2,\n"}, "no column has values that come again"),
    ],
)
def test_what_nothing_can_be_made_of_is_told(tmp_path, files, words):
    with pytest.raises(UserError) as error:
        look(folder(tmp_path / "shop", files), tmp_path)
    assert words in str(error.value)


def test_a_mapping_is_saved_once_and_never_over_another(tmp_path):
    layout = look(folder(tmp_path / "kaggle", good_files(3)), tmp_path).layout
    save(layout, tmp_path / "catalogue.toml")
    assert parse((tmp_path / "catalogue.toml").read_bytes(), "there") == layout
    with pytest.raises(UserError, match="File exists"):
        save(layout, tmp_path / "catalogue.toml")


@pytest.mark.parametrize("place", ["goods.parquet", "data/goods.parquet", "data/goods.csv"])
def test_what_is_proposed_is_where_a_run_finds_it(tmp_path, place):
    below = f"{place.rpartition('/')[0]}/".lstrip("/")
    if place.endswith("csv"):
        files = good_files(3)
        files = {place: files.pop("styles.csv"), **{f"{below}{name}": data for name, data in files.items()}}
    else:
        out = io.BytesIO()
        pq.write_table(pa.table(COLUMNS).drop_columns("picture"), out)
        pictures = {f"{below}images/A-{at:03d}.jpg": image(at % 30) for at in range(N)}
        files = {place: out.getvalue(), "stores.csv": b"a,b\n1,2\n", **pictures}
    shop = folder(tmp_path / "shop", files)
    seen = look(shop, tmp_path)
    assert seen.origin == ""
    save(seen.layout, shop / "catalogue.toml")
    again = look(shop, tmp_path)
    assert (again.origin, again.layout, again.products) == ("catalogue.toml", seen.layout, seen.rows)


def test_a_column_whose_name_is_too_long_for_a_field_is_not_proposed_as_one(tmp_path):
    text = f"sku,color,{'x' * 601}\n" + "".join(f"S-{at},{at % 3},{at % 4}\n" for at in range(40))
    seen = look(folder(tmp_path / "shop", {"t.csv": text.encode()}), tmp_path)
    assert seen.layout.fields == ("color",)


def test_columns_that_no_run_takes_are_left_out_of_what_is_proposed(tmp_path):
    rows = "".join(f"{at},S{at // 2},{at % 3},t{at},https://u:secret@shop/{at}\n" for at in range(40))
    text = f",product_id,color,urls,link\n{rows}".encode()
    seen = look(folder(tmp_path / "shop", {"t.csv": text}), tmp_path)
    assert (seen.layout.id, seen.layout.image, seen.layout.fields) == ("urls", (), ("color",))
    (columns,) = (part for part in told(seen) if not isinstance(part, str))
    assert "secret" not in "".join(str(cell) for column in columns.columns for cell in column.cells)


@pytest.mark.parametrize("name", ["goods.jsonl", "goods.parquet"])
def test_lists_are_proposed_as_fields_of_several_values_and_what_is_nested_as_none(tmp_path, name):
    tags = [["new", "sale"], ["sale"], []]
    rows = [
        {"sku": f"A{at}", "tags": tags[at % 3], "price": {"EUR": 5}, "photos": [f"p/{at}.jpg", "p/0.jpg"]}
        for at in range(40)
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    data = out.getvalue() if name.endswith("parquet") else "\n".join(map(json.dumps, rows)).encode()
    pictures = {f"p/{at}.jpg": image(at % 30) for at in range(40)}
    seen = look(folder(tmp_path / "shop", {name: data, **pictures}), tmp_path)
    assert to_toml(seen.layout) == ('id = "sku"\nimage = ["photos"]\nfields = ["tags"]\n\n[lists]\n"tags" = ""\n')
    assert parse(to_toml(seen.layout).encode(), "there") == seen.layout
    assert seen.products == 40
    assert seen.rejects.rows == []
