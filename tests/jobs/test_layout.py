"""What a mapping says, what is wrong with one, and what `catalog` makes of a source by it."""

import hashlib
import io
import json
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from infra import store
from infra.errors import UserError
from infra.settings import ATTRIBUTES, Settings
from jobs.layout import FIELD_NAME_MAX, PARTS, band, kaggle, parse
from jobs.serve import known
from jobs.step import execute
from jobs.styles import FILTER_MAX
from tests.catalogues import RUN, good_files, image, open_run, pulled, zip_bytes
from tests.web_server import WebServer

SHOP = b"""
id = "sku"
name = "title"
image = ["front", "back"]
fields = ["category", "brand", "price"]
attributes = ["material"]
kind = "category"
colour = "tint"
[bands]
price = [20, 50]
"""
ROWS = [
    {"sku": "B-2", "title": "Red shirt", "category": "shirts", "brand": "Ost", "price": 19.9, "material": "linen"},
    {"sku": "10", "title": "Blue shirt", "category": "shirts", "brand": "West", "price": 20.0, "material": None},
    {"sku": "9", "title": None, "category": "shoes", "brand": "Ost", "price": 120.0, "material": "leather"},
]
COLOURS = ["Red", "Blue", "Black"]


def shop(rows=ROWS, mapping=SHOP, folder="", **files):
    """A source: a Parquet table, images at paths that it names, and the mapping."""
    told = [
        {"tint": colour, "front": f"pictures/{at}.jpg", "back": None} | row
        for at, (row, colour) in enumerate(zip(rows, COLOURS, strict=False))
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(told), out)
    pictures = {f"pictures/{at}.jpg": image(at, colour) for at, colour in enumerate(COLOURS)}
    named = {
        "products.parquet": out.getvalue(),
        **pictures,
        **files,
        **({"catalogue.toml": mapping} if mapping else {}),
    }
    return {f"{folder}{name}": data for name, data in named.items()}


def cataloged(lake, files, name=RUN, **settings):
    run = pulled(open_run(lake, name, **settings), zip_bytes(files))
    result = execute("catalog", run)
    return run, result, run.table("rejects").read().to_pylist()


# What it says ------------------------------------------------------------------------------------------------------


def test_a_mapping_names_the_parts_that_the_pipeline_knows():
    layout = parse(SHOP, "catalogue.toml")
    named = {name: layout.column(name) for name in (*PARTS, "season", "product_id", "derivedType")}
    assert named == {
        "articleType": "category",
        "subCategory": "",
        "gender": "",
        "baseColour": "tint",
        "productDisplayName": "title",
        "season": "",
        "product_id": "product_id",
        "derivedType": "derivedType",
    }
    assert layout.stored == ("material", "category", "brand", "price", "tint", "title")
    assert layout.columns == ("sku", *layout.stored, "front", "back")


def test_columns_of_kaggles_names_are_known_by_them_where_the_mapping_makes_them_fields():
    layout = parse(b'id = "id"\nfields = ["usage"]\nattributes = ["season", "masterCategory"]', "catalogue.toml")
    assert [layout.column(name) for name in ("usage", "season", "masterCategory")] == ["usage", "", ""]


@pytest.mark.parametrize("fields", [Settings().fields, ("gender",)])
def test_without_a_mapping_the_columns_are_kaggles(fields):
    layout = kaggle(fields)
    assert layout.stored == ATTRIBUTES
    assert layout.columns == ("id", *ATTRIBUTES)
    assert layout.column("picture") == "picture"
    assert all(layout.column(name) == name for name in ATTRIBUTES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id = ", "it is no TOML"),
        ('fields = ["a"]', "id: Field required"),
        ('id = "sku"', "fields: Field required"),
        ('id = "sku"\nfields = []', "fields: Tuple should have at least 1 item"),
        (
            f'id = "sku"\nfields = {json.dumps([f"f{at}" for at in range(65)])}',
            "fields: Tuple should have at most 64 items",
        ),
        ('id = "sku"\nfields = ["a", "a"]', "field a comes twice"),
        ('id = "sku"\nfields = ["picture"]', "column picture has a name that the pipeline's own column has"),
        ('id = "sku"\nfields = ["a"]\ncolor = "c"', "color: Extra inputs are not permitted"),
        ('id = "sku"\nfields = ["a"]\nkind = 5', "kind: Input should be a valid string"),
        ('id = "sku"\nfields = ["a"]\n[bands]\nb = [1]', "bands are given for b, which is none of the fields"),
        ('id = "sku"\nfields = ["a"]\n[bands]\na = [2, 1]', "the ends of the bands of a must be numbers that rise"),
        ('id = "sku"\nfields = ["a"]\n[bands]\na = [1, nan]', "the ends of the bands of a must be numbers that rise"),
        (f'id = "sku"\nfields = ["{"é" * 301}"]', "a name of 602 bytes, and it may have 600: rename the column"),
        ('id = "sku"\nfields = ["Picture"]', "column Picture has a name that the pipeline's own column has"),
        ('id = "sku"\nfields = ["files"]', "column files has a name that the pipeline's own column has"),
        ('id = "sku"\nfields = ["a"]\nlists = ["b"]', "lists names b, of which a product has one value at most"),
        ('id = "sku"\nkind = "a"\nfields = ["a"]\nlists = ["a"]', "lists names a, of which a product has one value"),
        ('id = "sku"\nfields = ["a"]\n[bands]\na = ["x"]', "bands.a.0: Input should be a valid number"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_told_by_its_key(text, words):
    with pytest.raises(UserError) as error:
        parse(text.encode(), "shop/catalogue.toml")
    assert words in error.value.problem
    assert error.value.where == "shop/catalogue.toml"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        ("new", ["new"]),
        ("new; sale;;new", ["new", "sale"]),
        ('["new", "a;b", null, 5, true]', ["new", "a;b", "5", "true"]),
        ("[new] or not", ["[new] or not"]),
        ("[]", []),
    ],
)
def test_several_values_are_a_json_list_or_stand_between_separators(text, values):
    layout = parse(b'id = "sku"\nfields = ["tags"]\n[lists]\ntags = ";"', "here")
    assert layout.values("tags", text) == values


@pytest.mark.parametrize("text", ['[["new"]]', '[{"a": 1}]', r'["a\u0000"]', r'["\ud800"]'])
def test_what_is_no_text_in_a_list_is_said(text):
    layout = parse(b'id = "sku"\nfields = ["tags"]\nlists = ["tags"]', "here")
    with pytest.raises(ValueError, match="in a list"):
        layout.values("tags", text)


@pytest.mark.parametrize(
    ("value", "name"),
    [("-1", "under 20"), ("19.99", "under 20"), ("20", "20 to 50"), ("5e1", "from 50"), ("inf", "from 50")],
)
def test_a_number_has_the_band_that_it_lies_in(value, name):
    assert band(value, (20.0, 50.0)) == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("1234566", "under 1234567"),
        ("1234567", "1234567 to 1234567.5"),
        ("1234567.5", "1234567.5 to 1234568"),
        ("1e13", "10000000000000 to 1e+300"),
    ],
)
def test_bands_of_many_digits_have_names_of_their_own(value, name):
    assert band(value, (1234567.0, 1234567.5, 1234568.0, 1e13, 1e300)) == name


@pytest.mark.parametrize("few", [1, store.FEW_VALUES])
def test_the_longest_names_and_values_of_fields_can_be_published(connection, load_run, monkeypatch, few):
    monkeypatch.setattr(store, "FEW_VALUES", few)  # fewer: values are stored as rare ones
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), 4 * FILTER_MAX)
    name, *values = ("".join(letters[at : at + FILTER_MAX]) for at in range(0, len(letters), FILTER_MAX))
    name = name[:FIELD_NAME_MAX]
    load_run(connection, "a", [1, 2, 3], np.eye(3, dtype=np.float32), {name: values})
    found = store.similar_items(connection, "1", {name: values[1]}, 10)
    assert [item.product_id for item in found] == ["2"]


# What catalog makes of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "shop 2026/"])
def test_a_catalogue_of_other_columns_becomes_products_by_its_own_names(lake, folder):
    run, result, rejects = cataloged(lake, shop(folder=folder))
    assert rejects == []
    assert result.figures["styles"] == f"{folder}products.parquet"
    rows = run.attributes(["product_id", "title", "category", "brand", "price", "material", "tint", "derivedType"])
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        ("9", None, "shoes", "Ost", "from 50", "leather", "Black", "shoes"),
        ("10", "Blue shirt", "shirts", "West", "20 to 50", None, "Blue", "shirts"),
        ("B-2", "Red shirt", "shirts", "Ost", "under 20", "linen", "Red", "shirts"),
    ]
    known = run.products(["articleType", "baseColour", "subCategory", "productDisplayName"]).to_pylist()
    assert known[1] == {
        "articleType": "shirts",
        "baseColour": "Blue",
        "subCategory": None,
        "productDisplayName": "Blue shirt",
    }


def test_what_a_catalogue_lacks_is_nothing_of_each_of_its_products(lake):
    run, *_ = cataloged(lake, shop(mapping=b'id = "sku"\nimage = "front"\nfields = ["brand"]'))
    assert run.products(["gender", "articleType"]).to_pylist() == [{"gender": None, "articleType": None}] * len(ROWS)
    images = run.table("images").read(["thumbnail"])["thumbnail"].to_pylist()
    said = [known.Pictures.of(run).known(np.frombuffer(thumbnail, np.uint8)) for thumbnail in images]
    assert said == [dict.fromkeys(known.ATTRIBUTES)] * len(ROWS)


def test_the_mapping_of_a_source_lies_at_its_root_and_names_the_table_from_there(lake):
    goods = shop()["products.parquet"]
    within = b'table = "data/goods.parquet"\nimage = "front"\n' + SHOP.replace(b'image = ["front", "back"]', b"")
    files = shop(mapping=within) | {"data/goods.parquet": goods, "backup/goods.parquet": goods}
    files |= {f"data/{name}": data for name, data in shop().items() if name.startswith("pictures")}
    _, result, _ = cataloged(lake, files)
    assert result.figures["styles"] == "data/goods.parquet"
    _, result, _ = cataloged(lake, good_files(3) | {"docs/catalogue.toml": SHOP})
    assert result.figures["mapping"] is None


def test_a_delta_table_at_the_root_is_read_by_its_log(lake, tmp_path):
    rows = [{"sku": f"A{at}", "category": "shirts", "front": f"p/{at}.jpg"} for at in range(3)]
    write_deltalake(tmp_path / "delta", pa.Table.from_pylist(rows))
    DeltaTable(tmp_path / "delta").delete("sku = 'A1'")
    files = {str(file.relative_to(tmp_path / "delta")): file.read_bytes() for file in (tmp_path / "delta").rglob("*.*")}
    files |= {f"p/{at}.jpg": image(at) for at in range(3)}
    for table in (b"", b'table = "."\n'):
        mapping = table + b'id = "sku"\nfields = ["category"]\nimage = "front"\n'
        run, _, _ = cataloged(lake, files | {"catalogue.toml": mapping})
        assert run.attributes(["product_id"])["product_id"].to_pylist() == ["A0", "A2"]


def test_a_column_is_shown_by_its_name_whatever_part_it_plays(lake, connection, empty_database):
    rows = [{"sku": "1", "name": "Ost", "category": "shirts", "front": "p.jpg"}]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    for parts, shown in (
        (b'name = "category"\nkind = "category"\n', ("shirts", "shirts", {"name": "Ost", "category": "shirts"})),
        (b'name = "name"\nkind = "category"\n', ("Ost", "shirts", {"category": "shirts"})),
    ):
        mapping = parts + b'id = "sku"\nfields = ["category", "name"]\nimage = "front"\n'
        run, _, _ = cataloged(lake, {"t.parquet": out.getvalue(), "p.jpg": image(1), "catalogue.toml": mapping})
        columns = run.attributes(["product_id", *run.layout.stored, "image_sha256"])
        with connection.transaction():
            run_id = store.begin(connection, "a", "a", ["category"], {})
            named = (run.layout.name, run.layout.kind)
            store.load_products(connection, run_id, columns, named, np.zeros(1, int), np.ones((1, 2)))
            store.attach(connection, run_id, {})
            store.flip(connection, run_id)
        found = connection.execute("SELECT name, kind, attributes FROM lookalike.live_products").fetchall()
        assert found == [shown]


def test_a_damaged_mapping_is_told(lake):
    archive = zip_bytes(shop()).replace(b'id = "sku"', b'id = "sk?"')
    with pytest.raises(UserError, match="the mapping is damaged in the archive"):
        execute("catalog", pulled(open_run(lake), archive))
    with pytest.raises(UserError, match="it is no TOML"):
        cataloged(lake, shop(mapping=b"a = " + b"[" * 5000))


def test_the_first_image_that_is_there_is_the_products_own(lake):
    rows = [
        ROWS[0] | {"front": "pictures/none.jpg", "back": "./pictures/1.jpg"},
        ROWS[1] | {"front": "pictures\\1.jpg"},
        ROWS[2] | {"front": "../pictures/2.jpg"},
    ]
    run, _, rejects = cataloged(lake, shop(rows), reject_max=1)
    shas = run.attributes(["product_id", "image_sha256"]).to_pylist()
    assert [row["product_id"] for row in shas] == ["10", "B-2"]
    assert shas[0]["image_sha256"] == shas[1]["image_sha256"]
    assert [(row["product_id"], row["reason"], row["detail"]) for row in rejects] == [
        ("B-2", "no image", "the source has no file pictures/none.jpg"),
        ("9", "no image", "the source has no file ../pictures/2.jpg"),
    ]


def test_all_images_of_a_product_are_used_the_first_that_is_one_is_the_main_one(lake):
    with closing(WebServer()) as site:
        seen, gone = site.serve("/1.jpg", image(5, "Green")), site.serve("/2.jpg", status=404)
        rows = [
            ROWS[0] | {"front": "pictures/broken.jpg", "back": f'["pictures/1.jpg", "{seen}", "pictures/1.jpg"]'},
            ROWS[1] | {"front": seen, "back": "pictures/2.jpg"},
            ROWS[2] | {"front": gone, "back": "pictures/0.jpg"},
        ]
        files = shop(rows) | {"pictures/broken.jpg": b"none"}
        run, _, rejects = cataloged(lake, files, image_hosts=("127.0.0.1",))
    sha = [hashlib.sha256(image(at, colour)).hexdigest() for at, colour in enumerate([*COLOURS, "Red", "Red", "Green"])]
    products = run.attributes(["product_id", "image_sha256", "images"]).to_pylist()
    assert {row["product_id"]: row["images"] for row in products} == {
        "B-2": [sha[1], sha[5]],
        "10": [sha[5], sha[2]],
        "9": [sha[0]],
    }
    assert all(row["image_sha256"] == row["images"][0] for row in products)
    assert [(row["product_id"], row["reason"]) for row in rejects] == [("B-2", "not an image"), ("9", "not found")]
    assert set(run.table("images").read(["image_sha256"])["image_sha256"].to_pylist()) == {
        sha[at] for at in (0, 1, 2, 5)
    }


def test_a_product_without_a_number_where_bands_are_keeps_its_other_values(lake):
    rows = [row | {"price": price} for row, price in zip(ROWS, ["19.90", "POA", ""], strict=True)]
    run, result, rejects = cataloged(lake, shop(rows))
    assert run.attributes(["price"])["price"].to_pylist() == [None, None, "under 20"]
    assert [(row["product_id"], row["reason"]) for row in rejects] == [("10", "no number")]
    assert result.rows == 3


def test_a_field_of_bands_without_a_number_is_an_error_that_shows_a_value(lake):
    rows = [row | {"price": price} for row, price in zip(ROWS, ["€ 19,90", "", "€ 120,00"], strict=True)]
    with pytest.raises(UserError) as error:
        cataloged(lake, shop(rows))
    assert error.value.problem == "no value of price, which has bands, is a number: '€ 120,00' is none"
    assert "without a currency" in error.value.remedy
    cataloged(lake, shop([row | {"price": ""} for row in rows]))  # nothing to read is no mistake


@pytest.mark.parametrize(
    ("files", "settings", "words"),
    [
        (shop(ROWS, SHOP + b'table = "x"'), {}, "bands.table"),
        (shop(ROWS, b'table = "goods.parquet"\n' + SHOP), {}, "the source has no table goods.parquet"),
        (shop(other_parquet=b""), {}, ""),
        (shop(ROWS, SHOP.replace(b'"sku"', b'"SKU"')), {}, "the column SKU is missing; found"),
        (shop(), {"fields": ("gender",)}, "the fields are told twice"),
    ],
    ids=["a key in the wrong place", "no such table", "a further file", "another case", "fields by the setting too"],
)
def test_a_mapping_that_does_not_fit_its_source_is_told(lake, files, settings, words):
    if not words:
        assert cataloged(lake, files)[1].rows == 3
        return
    with pytest.raises(UserError) as error:
        cataloged(lake, files, **settings)
    assert words in str(error.value)


def test_a_mapping_named_by_the_settings_wins_and_counts_for_what_is_done(lake, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(SHOP.replace(b'kind = "category"', b'kind = "brand"'))
    run, result, _ = cataloged(lake, shop(), catalogue=str(file))
    assert run.products(["articleType"])["articleType"].to_pylist() == ["Ost", "West", "Ost"]
    before = run.content("products")
    file.write_bytes(SHOP.replace(b'colour = "tint"', b'group = "tint"'))
    again = execute("catalog", run)
    assert not again.skipped
    assert run.content("products") != before  # the same columns, but they play other parts
    with pytest.raises(UserError, match="cannot be read"):
        cataloged(lake, shop(), catalogue=str(tmp_path / "none.toml"))
    file.write_bytes("id = 'Größe'".encode("cp1252"))
    with pytest.raises(UserError, match="it is no TOML"):
        cataloged(lake, shop(), catalogue=str(file))


def test_kaggles_layout_written_as_a_mapping_gives_the_same_rows(lake):
    mapping = (
        b'id = "id"\nname = "productDisplayName"\nkind = "articleType"\ngroup = "subCategory"\nfor_whom = "gender"\n'
    )
    mapping += b'colour = "baseColour"\nattributes = ["gender", "masterCategory", "subCategory", "articleType",'
    mapping += b'"baseColour", "season", "year", "usage"]\nfields = ["gender", "usage"]\n'
    plain, _, _ = cataloged(lake, good_files(5))
    rows = plain.table("products").read()
    mapped, result, _ = cataloged(lake, good_files(5) | {"catalogue.toml": mapping})
    assert mapped.table("products").read().equals(rows)
    assert mapped.content("products") == plain.content("products")
    assert result.figures["mapping"]["fields"] == ["gender", "usage"]


# Images at URLs ----------------------------------------------------------------------------------------------------


def test_images_at_urls_are_asked_for_every_night_and_each_failure_is_told(lake):
    with closing(WebServer()) as site:
        urls = [site.serve(f"/{at}.jpg", image(at, colour), ETag=f'"{at}"') for at, colour in enumerate(COLOURS)]
        site.serve("/2.jpg", b"no image at all")
        rows = [row | {"front": url} for row, url in zip(ROWS, urls, strict=True)]
        settings = {"image_hosts": ("127.0.0.1",), "reject_max": 1.0}
        first, result, rejects = cataloged(lake, shop(rows), name="2026-01-01", **settings)
        assert [result.figures[name] for name in ("urls", "new", "failed")] == [3, 3, 0]
        assert [(row["product_id"], row["file"], row["reason"]) for row in rejects] == [("9", urls[2], "not an image")]
        assert not execute("catalog", first).skipped
        assert [site.times(f"/{at}.jpg") for at in range(3)] == [1, 1, 1]  # the run has asked, and goes on from that
        site.serve("/1.jpg", image(7, "Green"), ETag='"new"')
        site.serve("/2.jpg", image(2, "Black"))
        second, result, rejects = cataloged(lake, shop(rows), name="2026-01-02", **settings)
        assert [result.figures[name] for name in ("new", "unchanged", "failed")] == [2, 1, 0]
        assert rejects == []
        before, after = (
            dict(zip(*run.attributes(["product_id", "image_sha256"]).to_pydict().values(), strict=True))
            for run in (first, second)
        )
        assert before["B-2"] == after["B-2"]
        assert before["10"] != after["10"] == hashlib.sha256(image(7, "Green")).hexdigest()


def test_addresses_inside_the_network_are_rejects_unless_they_are_allowed(lake):
    with closing(WebServer()) as site:
        url = site.serve("/0.jpg", image(0))
        rows = [ROWS[0] | {"front": url}, ROWS[1], ROWS[2]]
        _, _, rejects = cataloged(lake, shop(rows), reject_max=1)
        assert [(row["product_id"], row["reason"]) for row in rejects] == [("B-2", "inside the network")]
        with pytest.raises(UserError, match="inside the network"):
            cataloged(lake, shop([row | {"front": url} for row in ROWS]), reject_max=1)
        assert site.asked == []


def test_an_address_that_is_not_asked_is_a_reject_without_what_it_hides(lake):
    rows = [ROWS[0] | {"front": "ftp://me:secret@host/x.jpg?sig=secret"}, ROWS[1], ROWS[2]]
    _, _, rejects = cataloged(lake, shop(rows), reject_max=1)
    assert [row["product_id"] for row in rejects] == ["B-2"]
    assert "secret" not in str(rejects)


# Several values ----------------------------------------------------------------------------------------------------

TAGGED = b'id = "sku"\nimage = "front"\nfields = ["tags"]\ncolour = "tags"\n[lists]\ntags = ";"\n'
TAGS = [["new", "sale"], ["sale"], []]


def tagged(form):
    """The source's table, whose products have TAGS, in a form."""
    rows = [{"sku": f"A{at}", "front": f"pictures/{at}.jpg", "tags": tags} for at, tags in enumerate(TAGS)]
    if form == "csv":
        lines = [f"{row['sku']},{row['front']},{';'.join(row['tags'])}" for row in rows]
        return {"products.csv": "\n".join(["sku,front,tags", *lines]).encode()}
    if form == "jsonl":
        return {"products.jsonl": "\n".join(map(json.dumps, rows)).encode()}
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return {"products.parquet": out.getvalue()}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_product_has_several_values_of_a_field_in_every_form_of_table(lake, form):
    files = shop(mapping=TAGGED, **tagged(form))
    if form != "parquet":
        del files["products.parquet"]
    run, _, rejects = cataloged(lake, files)
    assert rejects == []
    assert run.attributes(["tags"])["tags"].to_pylist() == [["new", "sale"], ["sale"], None]
    assert run.products(["baseColour"])["baseColour"].to_pylist() == ["new", "sale", None]


def test_a_list_that_the_mapping_does_not_name_is_refused_with_what_to_write(lake):
    with pytest.raises(UserError) as error:
        cataloged(lake, shop(mapping=TAGGED.partition(b"[lists]")[0], **tagged("parquet")))
    assert "list<" in error.value.problem
    assert error.value.remedy == 'write `lists = ["tags"]` in catalogue.toml'


def test_too_many_values_and_what_is_no_text_are_rejects_of_their_rows(lake):
    lines = ["sku,front,tags", f"A0,pictures/0.jpg,{';'.join(map(str, range(257)))}"]
    lines += ['A1,pictures/1.jpg,"[[""new""]]"', "A2,pictures/2.jpg,new"]
    files = shop(mapping=TAGGED) | {"products.csv": "\n".join(lines).encode()}
    del files["products.parquet"]
    run, _, rejects = cataloged(lake, files, reject_max=0.9)
    assert run.attributes(["product_id"])["product_id"].to_pylist() == ["A2"]
    assert [(row["product_id"], row["reason"]) for row in rejects] == [("A0", "values too long"), ("A1", "no text")]
