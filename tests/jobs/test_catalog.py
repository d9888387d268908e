"""catalog: the published file's quirks, users' bad input, and nothing lost silently."""

import csv
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from infra.errors import UserError
from infra.lake import Lake
from jobs import catalog as catalog_step
from jobs import ids, stored
from jobs import rejects as rejects_module
from jobs.pull import PULLS
from jobs.step import execute
from ml import images
from ml.images import decode
from tests import catalogues
from tests.catalogues import good_files, image, open_run, pulled, row, styles, write_result, write_table, zip_bytes


def run_catalog(lake, files, **settings):
    run = pulled(open_run(lake, **settings), files if isinstance(files, bytes) else zip_bytes(files))
    return run, execute("catalog", run)


def products(run) -> dict[str, dict]:
    return {product["product_id"]: product for product in run.table("products").read().to_pylist()}


def reasons(run) -> list[tuple[str | None, str]]:
    return sorted((each["product_id"] or "", each["reason"]) for each in run.table("rejects").read().to_pylist())


def with_styles(data: bytes, n: int = 3) -> dict[str, bytes]:
    return {**good_files(n), "styles.csv": data}


def test_good_rows_become_products_with_attributes_derived_type_and_image(lake):
    run, result = run_catalog(lake, good_files(5))
    by_id = products(run)
    assert (result.rows, result.rejects, list(by_id)) == (5, 0, ["1", "2", "3", "4", "5"])
    assert by_id["1"]["derivedType"] == "Women Casual Shoes"
    assert by_id["1"]["productDisplayName"] == "Product 1"
    files = {file["image_sha256"]: file for file in run.table("images").read().to_pylist()}
    first = files[by_id["1"]["image_sha256"]]
    assert first["bytes"] == good_files(5)["images/1.jpg"]
    assert (first["width"], first["height"]) == (30, 40)


def test_unquoted_commas_of_the_last_column_belong_to_it(lake):
    data = styles([row(1), row(2), row(3)]).replace(b"Product 2", b"Shirt, blue, slim,")
    run, _ = run_catalog(lake, with_styles(data))
    assert products(run)["2"]["productDisplayName"] == "Shirt, blue, slim,"


def test_quoted_commas_and_quotes_inside_names_are_read(lake):
    data = styles([row(1, productDisplayName="a, b"), row(2), row(3)])
    data = data.replace(b"Product 2", b'5" heels').replace(b"Product 3", b'"Best" shirt')
    run, _ = run_catalog(lake, with_styles(data))
    names = {key: value["productDisplayName"] for key, value in products(run).items()}
    assert names == {"1": "a, b", "2": '5" heels', "3": '"Best" shirt'}


def test_a_stray_quote_swallows_no_rows_and_a_quoted_line_break_is_kept(lake):
    data = styles([row(1), row(2, productDisplayName="two\nlines"), row(3)]).replace(b"Product 1", b'"Open')
    run, _ = run_catalog(lake, with_styles(data))
    names = {key: value["productDisplayName"] for key, value in products(run).items()}
    assert names == {"1": '"Open', "2": "two\nlines", "3": "Product 3"}


def test_na_is_a_value_and_an_empty_one_is_missing(lake):
    rows = [row(1, usage="NA", season="", year=""), row(2, baseColour="NA"), row(3)]
    run, result = run_catalog(lake, with_styles(styles(rows)))
    by_id = products(run)
    assert (by_id["1"]["usage"], by_id["1"]["season"], by_id["1"]["year"]) == ("NA", None, None)
    assert by_id["2"]["baseColour"] == "NA"
    assert result.rejects == 0


def test_windows_line_ends_a_byte_order_mark_and_western_bytes_are_read(lake):
    data = styles([row(1), row(2), row(3)]).replace(b"\n", b"\r\n").replace(b"Product 2", b"Caf\xe9")
    data = data.replace(b"Product 3", "Crème".encode())
    run, result = run_catalog(lake, with_styles(b"\xef\xbb\xbf" + data))
    by_id = products(run)
    assert (by_id["2"]["productDisplayName"], by_id["3"]["productDisplayName"]) == ("Café", "Crème")
    assert by_id["1"]["usage"] == "Casual"
    assert result.figures["lines_not_utf8"] == 1


def test_reordered_and_further_columns_are_read_by_name(lake):
    columns = ("productDisplayName", "price", *[name for name in catalogues.HEADER if name != "productDisplayName"])
    rows = [row(n) | {"price": "9.99"} for n in (1, 2, 3)]
    run, result = run_catalog(lake, with_styles(styles(rows, columns)))
    assert result.rows == 3
    assert products(run)["2"]["articleType"] == row(2)["articleType"]


def test_each_row_that_cannot_be_used_is_rejected_with_its_reason(lake):
    lines = styles([row(n) for n in range(1, 41)]).decode().splitlines()
    lines += [
        "=A1," + lines[1].split(",", 1)[1],
        lines[1],
        "99,Men,Apparel",
        styles([row(77)]).decode().splitlines()[1],
    ]
    run, result = run_catalog(lake, with_styles("\n".join(lines).encode(), 40), reject_max=0.2)
    assert reasons(run) == [
        ("1", "duplicate id"),
        ("77", "no image"),
        ("99", "too few fields"),
        ("=A1", "no product id"),
    ]
    assert (result.rows, result.rejects) == (40, 4)
    where = {each["reason"]: each["file"] for each in run.table("rejects").read().to_pylist()}
    assert where["no product id"] == "styles.csv, line 42"


def test_too_many_fields_are_rejected_where_the_last_column_is_no_free_text(lake):
    columns = ("productDisplayName", *[name for name in catalogues.HEADER if name != "productDisplayName"])
    data = styles([row(n) for n in range(1, 31)], columns).replace(b"Product 2,", b"Shirt, blue,")
    run, _ = run_catalog(lake, with_styles(data, 30))
    assert reasons(run) == [("2", "no row"), ("Shirt", "too many fields")]


def test_unquoted_commas_are_rejected_where_an_earlier_value_is_quoted_too(lake):
    data = styles([row(n) for n in range(1, 41)])
    data = data.replace(b"\n7,Women,", b'\n7,"Women, Girls",').replace(b"Product 7\n", b'"Best" shirt\n')
    run, _ = run_catalog(lake, with_styles(data, 40))
    assert reasons(run) == [("7", "no row"), ("7", "too many fields")]


def test_a_zero_byte_in_a_row_costs_that_row_only(lake):
    data = styles([row(n) for n in range(1, 41)]).replace(b"Product 7\n", b"Prod\0uct 7\n")
    run, result = run_catalog(lake, with_styles(data, 40))
    assert reasons(run) == [("7", "no row"), ("7", "zero byte")]
    assert result.rows == 39


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("9" * 257, "it has 257 characters; at most 256 may be"),
        ("a\x0bb", r"it has the control character '\x0b'"),
        ("1.0", "it became a decimal number, as pandas makes it where an id is missing; write ids as text"),
        ("-7.", "it became a decimal number, as pandas makes it where an id is missing; write ids as text"),
        ("1e5", "a spreadsheet shortened it, and its digits may be lost; export ids as text"),
        ("1.23E+09", "a spreadsheet shortened it, and its digits may be lost; export ids as text"),
        ("=A1", "it is a formula of a spreadsheet; export its value alone"),
    ],
)
def test_a_value_that_is_no_id_costs_that_row_only_and_the_reject_tells_why(lake, text, why):
    data = styles([row(n) for n in range(1, 31)] + [row(0, id=text)])
    run, result = run_catalog(lake, with_styles(data, 30))
    (reject,) = run.table("rejects").read().to_pylist()
    assert (reject["product_id"], reject["reason"]) == (text[:40], "no product id")
    assert reject["detail"].endswith(f": {why}")
    assert result.rows == 30


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "9" * 200, "-1", "+1", "1.5", "1,234", "²", "'123", "B07XJ8C8F5", "Größe 38", "id"]
)
def test_any_other_text_is_an_id_as_it_stands_and_its_image_is_called_so(lake, text):
    files = good_files(3) | {"styles.csv": styles([row(1), row(2), row(3), row(0, id=f" {text}\t")])}
    run, result = run_catalog(lake, files | {f"images/{text}.jpg": image(4)})
    assert (list(products(run)), reasons(run)) == (["1", "2", "3", text], [])


def test_leading_zeros_make_another_id_with_another_image(lake):
    files = good_files(1) | {"styles.csv": styles([row("001"), row(1), row("01")])}
    run, result = run_catalog(lake, files | {"images/01.jpg": image(2), "images/001.jpg": image(3)})
    assert (list(products(run)), result.rejects) == (["1", "001", "01"], 0)
    assert len({product["image_sha256"] for product in products(run).values()}) == 3


def test_an_image_whose_name_has_zeros_that_the_id_lacks_is_not_its_image(lake):
    files = good_files(40)
    files["images/0007.jpg"] = files.pop("images/7.jpg")
    run, _ = run_catalog(lake, files)
    assert reasons(run) == [("0007", "no row"), ("7", "no image")]


REFUSED = re.compile(r"[+-]?\d+\.0*|[+-]?\d+([.,]\d+)?[eE][+-]?\d+|=.*")
"""What programs make of ids."""
SIGNS = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\")
IDS = st.one_of(
    st.integers(0, 300).map(str),
    st.integers(2**63 - 9, 2**63 + 9).map(str),
    st.from_regex(r"0{0,2}[0-9]{1,3}[A-Z]?", fullmatch=True),
    st.text(SIGNS, max_size=60).map(ids.trimmed),
).filter(lambda text: text and text[0] != "." and not REFUSED.fullmatch(text))
"""Those that a file can be named by; names that begin with a dot are hidden files."""


def table_of(rows: list[dict[str, str]], form: str) -> bytes:
    """The rows as a table of this form: `csv`, `tsv` or `parquet`."""
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    out = io.StringIO()
    csv.writer(out, delimiter="\t" if form == "tsv" else ",").writerows([catalogues.HEADER, *map(dict.values, rows)])
    return out.getvalue().encode()


@settings(max_examples=25, deadline=None)
@given(st.lists(IDS, min_size=1, max_size=8, unique=True), st.sampled_from(["csv", "tsv", "parquet"]))
def test_ids_of_any_text_and_images_called_so_are_just_these_products_in_the_order_of_ids(texts, form):
    files = {f"styles.{form}": table_of([row(0, id=text) for text in texts], form)}
    picture = image(1)
    with tempfile.TemporaryDirectory() as folder:
        run, result = run_catalog(
            Lake(Path(folder).as_uri()), files | {f"images/{text}.jpg": picture for text in texts}
        )
        assert list(products(run)) == sorted(texts, key=ids.key)
        assert (reasons(run), result.rejects) == ([], 0)


def test_an_image_without_a_row_is_listed_but_is_no_rejected_product(lake):
    files = good_files(3) | {"images/99.jpg": image(99), "images/notes.txt": b"x", "images/cover.jpg": image(5)}
    run, result = run_catalog(lake, files, reject_max=0.0)
    assert reasons(run) == [("", "unknown kind of file"), ("99", "no row"), ("cover", "no row")]
    assert (result.rows, result.figures["rejected_products"]) == (3, 0)


@pytest.mark.parametrize(
    ("stem", "why"),
    [("x" * 257, "it has 257 characters; at most 256 may be"), ("a\x07b", r"it has the control character '\x07'")],
)
def test_an_image_whose_name_can_be_no_id_is_told_so(lake, stem, why):
    run, result = run_catalog(lake, good_files(3) | {f"images/{stem}.jpg": image(5)})
    (reject,) = run.table("rejects").read().to_pylist()
    assert (reject["product_id"], reject["reason"]) == (None, "no product id in the name")
    assert reject["detail"] == f"{stem[:40]!r}: {why}"


def test_bad_image_files_are_rejected_by_name_and_the_others_go_on(lake):
    good = image(3)
    files = good_files(40) | {"images/1.jpg": b"", "images/2.jpg": b"no image", "images/3.jpg": good[: len(good) // 2]}
    run, result = run_catalog(lake, files, reject_max=0.1)
    assert reasons(run) == [("1", "empty"), ("2", "not an image"), ("3", "damaged")]
    assert (result.rows, result.rejects) == (37, 3)


def test_suffixes_in_any_case_and_other_formats_are_taken_and_of_two_files_one(lake):
    files = good_files(30)
    for number, name in ((1, "1.JPG"), (2, "2.jpeg"), (3, "3.png"), (4, "4.webp")):
        del files[f"images/{number}.jpg"]
        files[f"images/{name}"] = image(
            number, kind="PNG" if name == "3.png" else "WEBP" if name == "4.webp" else "JPEG"
        )
    files["images/5.png"] = image(5, kind="PNG")
    run, result = run_catalog(lake, files)
    assert result.rows == 30
    assert reasons(run) == [("5", "second image")]


def test_an_image_with_damaged_exif_is_a_product_like_any_other(lake):
    out = io.BytesIO()
    Image.new("RGB", (30, 40)).save(out, "PNG", exif=b"Exif\0\0garbage!!garbage")
    _, result = run_catalog(lake, good_files(2) | {"images/1.jpg": out.getvalue()})
    assert result.rows == 2


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_images_are_products_like_any_other(lake, mode):
    run, result = run_catalog(lake, good_files(2) | {"images/1.jpg": image(1, mode=mode)})
    assert result.rows == 2
    assert all(decode(each["bytes"]).shape == (40, 30, 3) for each in run.table("images").read().to_pylist())


def test_large_images_are_stored_at_512_pixels(lake):
    run, _ = run_catalog(lake, good_files(2) | {"images/1.jpg": image(1, size=(900, 1200))})
    assert max(each["height"] for each in run.table("images").read().to_pylist()) == 512


def test_the_size_that_hardly_any_image_exceeds_is_told_also_of_a_night_that_changes_nothing(lake):
    files = good_files(25) | {"images/1.jpg": image(1, size=(300, 400))}
    first, result = run_catalog(lake, files)
    assert result.figures["detail"] == [40, 30] == list(stored.detail_of(first))
    again, result = run_catalog(lake, files)
    assert (result.skipped, result.figures["detail"]) == (True, [40, 30])
    several = {f"images/{number}.jpg": image(number, size=(300, 400)) for number in range(1, 4)}
    _, result = run_catalog(lake, files | several)
    assert result.figures["detail"] == [400, 300]


def test_a_night_after_a_release_that_told_no_sizes_tells_them(lake):
    run, result = run_catalog(lake, good_files(3))
    figures = {name: value for name, value in result.figures.items() if name != "detail"}
    write_result(run, "catalog", tables=result.tables, figures=figures)
    assert stored.detail_of(run) is None
    assert run_catalog(lake, good_files(3))[1].figures["detail"] == [40, 30]


def test_one_content_under_two_ids_is_stored_once(lake):
    files = good_files(3)
    files["images/2.jpg"] = files["images/1.jpg"]
    run, result = run_catalog(lake, files)
    by_id = products(run)
    assert by_id["1"]["image_sha256"] == by_id["2"]["image_sha256"]
    assert result.figures["images_new"] == len(run.table("images").read()) == 2


def test_the_catalogue_may_lie_in_a_folder_and_junk_beside_it_is_passed_over(lake):
    files = {f"fashion-dataset/{name}": data for name, data in good_files(3).items()}
    files |= {"__MACOSX/fashion-dataset/styles.csv": b"junk", "fashion-dataset/.DS_Store": b"junk"}
    files |= {f"fashion-dataset/{name}": data for name, data in files.items()}  # as Kaggle has it, all of it twice
    run, result = run_catalog(lake, files)
    assert (result.rows, reasons(run)) == (3, [])
    assert result.figures["styles"] == "fashion-dataset/styles.csv"


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"./{name}",  # tar -C folder .
        lambda name: name.replace("/", "\\"),  # zip tools of old Windows
        lambda name: name.replace("images/", f"images/{len(name) % 2}/"),
    ],
    ids=["dot", "backslash", "subfolders"],
)
def test_other_ways_of_writing_the_same_tree_are_the_same_catalogue(lake, rename):
    run, result = run_catalog(lake, {rename(name): data for name, data in good_files(5).items()})
    assert (result.rows, reasons(run)) == (5, [])


def test_of_two_members_of_one_name_the_first_is_used(lake):
    files = good_files(3)
    archive = io.BytesIO(zip_bytes(files))
    with zipfile.ZipFile(archive, "a") as more, pytest.warns(UserWarning, match="Duplicate name"):
        more.writestr("images/2.jpg", image(99, "Green"))
    run, _ = run_catalog(lake, archive.getvalue())
    assert reasons(run) == [("", "duplicate name")]
    assert files["images/2.jpg"] in run.table("images").read(["bytes"])["bytes"].to_pylist()


@pytest.mark.parametrize(
    "name", ["", ".", "../../etc/images/9.jpg", "/images/9.jpg", "C:\\images\\9.jpg", "images/../../9.jpg"]
)
def test_names_that_lead_out_of_the_archive_are_rejected_and_nothing_is_written_there(lake, tmp_path, name):
    before = set(tmp_path.parent.rglob("9.jpg"))
    run, _ = run_catalog(lake, good_files(3) | {name: image(9)})
    assert [reason for _, reason in reasons(run)] == ["unsafe name"]
    assert set(tmp_path.parent.rglob("9.jpg")) == before


def in_old_names(names: list[str], codec: str) -> bytes:
    """A zip of a catalogue in a folder of the first name, and notes of all, whose names do not say their encoding."""
    files = {f"{names[0]}/{name}": data for name, data in good_files(3).items()}
    files |= {f"{names[0]}/notes {name}.txt": b"x" for name in names}
    archive = io.BytesIO()
    stand_ins = {}
    with zipfile.ZipFile(archive, "w") as packed:
        for number, (name, data) in enumerate(files.items()):
            raw = name.encode(codec)
            stand_ins[f"{number:04}".rjust(len(raw), "~").encode()] = raw
            packed.writestr(f"{number:04}".rjust(len(raw), "~"), data)
    data = archive.getvalue()
    for stand_in, raw in stand_ins.items():
        data = data.replace(stand_in, raw)
    return data


CLOTHES = [
    "Рубашка",
    "Женская",
    "Мужская",
    "Красный",
    "Платье",
    "Куртка",
    "чёрный",
    "Белый",
    "Обувь",
    "кроссовки",
    "зелёный",
    "Лето",
    "Зима",
    "юбка",
]


@pytest.mark.parametrize(
    ("names", "codec", "shown"),
    [
        (CLOTHES, "cp866", "Рубашка"),
        (CLOTHES, "utf-8", "Рубашка"),
        (["表"], "cp932", "%95/styles.csv"),
        (["Mäntel"], "cp437", "M%84ntel"),
        (["Mäntel"], "utf-8", "Mäntel"),
    ],
)
def test_names_of_old_zips_are_read_or_shown_by_their_bytes_and_never_garbled(lake, names, codec, shown):
    run, result = run_catalog(lake, in_old_names(names, codec))
    assert result.rows == 3
    assert result.figures["styles"].startswith(shown)
    more, result = run_catalog(
        lake, in_old_names(names, codec).replace(b"images/2.jpg", b"images/x.jpg"), reject_max=0.9
    )
    (reject,) = [reject for reject in more.table("rejects").read().to_pylist() if reject["reason"] == "no row"]
    assert reject["file"] == f"{shown.removesuffix('/styles.csv')}/images/x.jpg"


def test_an_image_larger_than_it_may_be_is_rejected_by_its_actual_size(lake):
    files = good_files(30) | {"images/7.jpg": bytes(200_000)}
    archive = zip_bytes(files, zipfile.ZIP_DEFLATED)
    run, _ = run_catalog(lake, archive, image_max_bytes=100_000)
    assert reasons(run) == [("7", "file too large")]


def test_a_styles_file_larger_than_it_may_be_is_refused_by_what_is_unpacked(lake):
    files = with_styles(styles([row(n) for n in range(1, 4)]) + b"\n" * 100_000)
    archive = zip_bytes(files, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="unpacks to more than 50,000 bytes") as caught:
        run_catalog(lake, archive, styles_max_bytes=50_000)
    assert "LOOKALIKE_STYLES_MAX_BYTES" in caught.value.remedy
    assert run_catalog(lake, archive)[1].rows == 3


def test_a_line_of_megabytes_is_no_csv(lake):
    with pytest.raises(UserError, match="a line has more than 1,048,576 bytes"):
        run_catalog(lake, zip_bytes(with_styles(styles([row(1)]) + b"x" * 2**21), zipfile.ZIP_DEFLATED))


def test_rejects_do_not_fill_the_memory(lake, monkeypatch):
    monkeypatch.setattr(rejects_module, "MAX_REJECTS", 1000)
    with pytest.raises(UserError, match="more than 1,000 rows and files cannot be used.*too few fields"):
        run_catalog(lake, with_styles(styles([row(1)]) + b"x\n" * 1001))


READ = """
import re, sys
from pathlib import Path
from infra.settings import Settings
from jobs.tables import File, opened
from jobs.layout import kaggle
from jobs.rejects import Rejects
from jobs.styles import read_styles, reading

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

rejects, before = Rejects(), peak_mb()
file = File("styles.csv", lambda: open(sys.argv[1], "rb"))
layout = kaggle(Settings().fields)
with opened("styles.csv", {"": file}, reading(Settings(), layout)) as table:
    rows = read_styles(table, rejects, layout)
print(len(rows), len(rejects.rows), peak_mb() - before)
"""


def test_memory_holds_the_rows_of_a_styles_file_and_not_the_file(tmp_path):
    long = styles([row(1, productDisplayName="x" * 100_000)]).splitlines(keepends=True)[1]
    with (tmp_path / "styles.csv").open("wb") as file:
        file.write(styles([row(1)]))
        file.writelines(long for _ in range(1280))  # 128 MB of rows with one id
    done = subprocess.run([sys.executable, "-c", READ, tmp_path / "styles.csv"], capture_output=True, text=True)
    rows, rejects, megabytes = map(int, done.stdout.split())
    assert (rows, rejects) == (1, 1280), done.stderr
    assert megabytes < 24


@pytest.mark.parametrize("newline", [b"\r", b"\r\n", b"\n"])
def test_lines_of_every_system_are_read_alike_and_counted(lake, newline):
    data = styles([row(n, productDisplayName="two\nlines" if n == 2 else "a\x85b\u2028c") for n in range(1, 41)])
    data += b'41,"Men\n'  # a quote that nothing closes
    run, result = run_catalog(lake, with_styles(data.replace(b"\n", newline), 40), reject_max=0.2)
    names = run.products(["productDisplayName"])["productDisplayName"].to_pylist()
    assert names[:3] == ["a\x85b\u2028c", "two\nlines", "a\x85b\u2028c"]
    assert [each["file"] for each in run.table("rejects").read().to_pylist()] == ["styles.csv, line 43"]


def test_a_styles_file_damaged_in_the_archive_stops_the_run(lake):
    archive = zip_bytes(good_files(3)).replace(b"Product 2\n", b"Product 9\n", 1)
    with pytest.raises(UserError, match="styles.csv is damaged in the archive: Bad CRC-32"):
        run_catalog(lake, archive)


def test_a_member_damaged_in_the_archive_is_rejected(lake):
    files = good_files(30)
    archive = bytearray(zip_bytes(files))
    at = archive.index(files["images/7.jpg"]) + 20
    archive[at] ^= 0xFF
    run, _ = run_catalog(lake, bytes(archive))
    assert reasons(run) == [("7", "damaged in the archive")]


BAD_SOURCES = {
    "a missing column": (with_styles(styles([row(1)]).replace(b"baseColour", b"shade")), ["baseColour", "shade"]),
    "two missing columns": (with_styles(b"id,gender,season\n1,Men,Fall\n"), ["masterCategory", "usage", "are missing"]),
    "no rows": (with_styles(styles([])), ["no row below its header"]),
    "an empty file": (with_styles(b""), ["missing; found nothing"]),
    "a web page": (with_styles(b"<!doctype html><html>Sign in</html>"), ["found <!doctype html>"]),
    "a spreadsheet": (with_styles(b"PK\x03\x04\0\0\0\0"), ["no text", "a spreadsheet"]),
    "no styles.csv": (
        {"images/1.jpg": image(1), "readme.txt": b"x"},
        ["no styles.csv; it holds images/1.jpg, readme.txt\n"],
    ),
    "no images": ({"styles.csv": styles([row(n) for n in range(1, 10)])}, ["9 of 9 products", "no image"]),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_source_that_is_no_catalogue_stops_the_run_with_what_was_found(lake, name):
    files, expected = BAD_SOURCES[name]
    with pytest.raises(UserError) as caught:
        run_catalog(lake, files)
    assert all(text in str(caught.value) for text in expected), str(caught.value)
    assert caught.value.remedy
    assert lake.table("products").version == -1


def test_more_rejects_than_allowed_stop_the_run_with_count_reason_and_example(lake):
    files = good_files(10)
    del files["images/4.jpg"]
    with pytest.raises(
        UserError, match=r"1 of 10 products \(10.0%\).*1 × no image \(such as 4 in styles.csv: "
    ) as caught:
        run_catalog(lake, files)
    assert "LOOKALIKE_REJECT_MAX" in caught.value.remedy


def test_the_error_names_reasons_of_products_and_then_of_files_that_none_asks_for(lake):
    files = good_files(10) | {f"images/{n}.jpg": image(n) for n in range(90, 99)}
    del files["images/4.jpg"]
    products, files_left = refused(lake, files).problem.split("; files that no product has: ")
    assert products.endswith(
        "at most 5.0% may be: 1 × no image (such as 4 in styles.csv: the folder images has no such file)"
    )
    assert files_left == "9 × no row (such as images/90.jpg: styles.csv has no such id)"


def refused(lake, files) -> UserError:
    with pytest.raises(UserError) as caught:
        run_catalog(lake, files)
    assert caught.value.remedy
    assert lake.table("products").version == -1
    return caught.value


@pytest.mark.parametrize(
    ("rename", "found"),
    [
        (
            lambda name: name.replace(".jpg", ".jfif"),
            "4 × unknown kind of file (such as images/1.jfif: images end",
        ),
        (lambda name: name.removesuffix(".jpg"), "4 × unknown kind of file (such as images/1: images end in"),
        (
            lambda name: name.replace(".jpg", "_1.jpg"),
            "4 × no row (such as images/1_1.jpg: styles.csv has no such id)",
        ),
        (lambda name: name.replace("images/", "Images/"), "outside the folder images it holds 4 × Images/*.jpg"),
        (lambda name: name.replace("images/", ""), "outside the folder images it holds 4 × *.jpg"),
        (lambda name: name.replace("styles.csv", "meta/styles.csv"), "it holds 4 × images/*.jpg"),
    ],
)
def test_images_under_other_names_are_told_as_what_they_are(lake, rename, found):
    error = refused(lake, {rename(name): data for name, data in good_files(4).items()})
    assert "4 × no image (such as 1 in " in error.problem
    assert found in error.problem.split("; files that no product has: ")[1]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (
            {f"images/{n}.jpg": b"x" for n in range(9)} | {"products.csv": b"id"},
            "products.csv, 9 × images/*.jpg",
        ),
        (
            {".export/styles.csv": b"id", ".export/images/1.jpg": b"x"},
            "2 × hidden (such as .export/styles.csv)",
        ),
        ({f"{n}/a.zip": b"x" for n in range(9)}, "it holds 0/a.zip, 1/a.zip, 2/a.zip, 3/a.zip, 4/a.zip …"),
        ({"../styles.csv": b"id"}, "it holds no files; 1 × unsafe name (such as ../styles.csv: the name is no path"),
        ({}, "it holds no files"),
    ],
)
def test_without_styles_csv_what_is_there_is_told(lake, files, found):
    assert found in refused(lake, files).problem


@pytest.mark.parametrize("others", [("women/", "men/"), ("", "old/"), ("a/", "b/c/")])
def test_two_catalogues_in_one_source_are_refused_and_both_named(lake, others):
    first, second = others
    files = {first + name: data for name, data in good_files(3).items()}
    error = refused(lake, files | {second + name: data for name, data in good_files(2).items()})
    assert {f"{first}styles.csv", f"{second}styles.csv"} <= set(re.split(",? ", error.problem))
    assert "give the one" in error.remedy


def test_a_folder_of_odd_letters_is_no_drive_of_windows(lake):
    run, result = run_catalog(lake, {f"Look 12:30/{name}": data for name, data in good_files(3).items()})
    assert (result.rows, reasons(run)) == (3, [])


def test_what_pull_left_out_is_rejected_and_named_where_the_run_stops(lake):
    run = pulled(open_run(lake, reject_max=0.2), zip_bytes(good_files(9)))
    out = {"file": "images/10.jpg", "reason": "link out of the source", "detail": "it leads to '/x'"}
    entry = run.table("pulls").read().to_pylist()[0] | {"left_out": [out]}
    write_result(run, "pull", tables={"pulls": write_table(run, "pulls", [entry], PULLS)})
    execute("catalog", run)
    assert reasons(run) == [("", "link out of the source")]
    entry["archive"] = pulled(run, zip_bytes({"images/1.jpg": b"x"})).table("pulls").read()["archive"][0].as_py()
    write_result(run, "pull", tables={"pulls": write_table(run, "pulls", [entry], PULLS)})
    with pytest.raises(UserError, match=r"images/1.jpg; 1 × link out of the source \(such as images/10.jpg: it leads"):
        execute("catalog", run)


def test_the_same_archive_again_changes_nothing_even_for_a_later_run(lake):
    archive = zip_bytes(good_files(4))
    first, _ = run_catalog(lake, archive)
    later = pulled(open_run(lake, "2026-02-01"), archive)
    result = execute("catalog", later)
    assert (result.skipped, result.rows, result.figures["images_new"]) == (True, 4, 0)
    assert later.table("products").version == first.table("products").version


def test_a_changed_archive_adds_only_its_new_images(lake):
    run_catalog(lake, good_files(4))
    later = pulled(open_run(lake, "2026-02-01"), zip_bytes(good_files(6)))
    result = execute("catalog", later)
    assert result.figures["images_new"] == 2
    counts = Counter(later.table("images").read(["image_sha256"])["image_sha256"].to_pylist())
    assert set(counts.values()) == {1}
    assert len(counts) == 6


def re_encoded(files):
    """The same pictures, as a supplier's image server would send them one day: smaller files, other metadata."""
    made = dict(files)
    for name in files.keys() - {"styles.csv"}:
        out = io.BytesIO()
        Image.open(io.BytesIO(files[name])).resize((60, 80)).save(out, "JPEG", quality=70)
        made[name] = out.getvalue()
    return made


def test_a_picture_is_the_same_when_its_file_is_another(lake):
    files = good_files(12)
    first, _ = run_catalog(lake, files)
    later = pulled(open_run(lake, "2026-02-01"), zip_bytes(re_encoded(files)))
    assert execute("catalog", later).figures["images_new"] == 12
    before, after = products(first), products(later)
    assert all(before[key]["image_sha256"] != after[key]["image_sha256"] for key in before)
    assert [row["picture"] for row in before.values()] == [row["picture"] for row in after.values()]
    assert len({row["picture"] for row in before.values()}) > 6


def test_a_picture_seen_again_under_another_id_in_one_archive_is_the_same(lake):
    files = good_files(6)
    files["images/6.jpg"] = re_encoded(files)["images/3.jpg"]
    run, _ = run_catalog(lake, files)
    by_id = products(run)
    assert by_id["6"]["picture"] == by_id["3"]["picture"]
    assert by_id["6"]["image_sha256"] != by_id["3"]["image_sha256"]


def test_images_stored_by_another_recipe_are_stored_anew_and_keep_their_pictures(lake, monkeypatch):
    files = good_files(5) | {"images/1.jpg": image(1, size=(900, 1200))}
    first, _ = run_catalog(lake, files)
    monkeypatch.setattr(images, "LONG_SIDE", 300)
    monkeypatch.setitem(images.RECIPE, "long_side", 300)
    later = pulled(open_run(lake, "2026-02-01"), zip_bytes(files))
    assert execute("catalog", later).figures["images_new"] == 5
    sha = products(later)["1"]["image_sha256"]
    heights = {row["height"] for row in later.table("images").read().to_pylist() if row["image_sha256"] == sha}
    assert heights == {512, 300}
    monkeypatch.setattr(stored, "CURRENT", pc.field("recipe") == images.recipe_hash())
    assert Image.open(io.BytesIO(stored.read_images(later, [sha])[sha])).height == 300
    assert products(later) == products(first)  # pictures too


def test_a_lake_of_a_release_that_told_no_pictures_gets_them(lake):
    files = good_files(4)
    run = pulled(open_run(lake, "2026-01-30"), zip_bytes(files))
    old = pa.schema([field for field in catalog_step.IMAGES if field.name in ("image_sha256", "bytes")])
    earlier = write_table(run, "images", [{"image_sha256": "0" * 64, "bytes": b""}], old)
    later, result = run_catalog(lake, files)
    assert result.figures["images_new"] == 4
    assert later.table("images").schema.names == catalog_step.IMAGES.names
    assert lake.table("images", earlier).read().num_rows == 1  # for the runs that looked at it then
    assert all(row["picture"] >= 0 for row in products(later).values())


def test_products_come_in_the_order_of_ids_whatever_their_parts_are_called(lake):
    in_order = [*map(str, range(40)), "007", "1.5", "B07", "Ä"]
    rows = [{"product_id": text, "image_sha256": f"{number:064}"} for number, text in enumerate(in_order)]
    run = open_run(lake)
    write_result(run, "catalog", tables={"products": write_table(run, "products", rows, catalog_step.PRODUCTS, 3)})
    assert run.table("products").read(["product_id"])["product_id"].to_pylist() != in_order
    assert run.products(["product_id"])["product_id"].to_pylist() == in_order


def test_products_of_an_earlier_release_are_a_clear_error_where_pictures_are_needed(lake):
    run = open_run(lake)
    old = pa.schema([field for field in catalog_step.PRODUCTS if field.name != "picture"])
    version = write_table(run, "products", [{"product_id": 1, "image_sha256": "0" * 64}], old)
    write_result(run, "catalog", tables={"products": version})
    with pytest.raises(UserError, match="the products of run 2026-01-31 have no picture") as caught:
        run.products(["picture"])
    assert "lookalike step catalog --run 2026-01-31" in caught.value.remedy


def test_images_of_an_earlier_release_are_a_clear_error_where_they_are_read(lake):
    run = open_run(lake)
    old = pa.schema([field for field in catalog_step.IMAGES if field.name in ("image_sha256", "bytes")])
    version = write_table(run, "images", [{"image_sha256": "0" * 64, "bytes": b""}], old)
    write_result(run, "catalog", tables={"images": version})
    with pytest.raises(UserError, match="the images of run 2026-01-31 have no recipe"):
        stored.read_images(run, ["0" * 64])


def test_images_are_stored_in_parts_of_bounded_size(lake, monkeypatch):
    monkeypatch.setattr(catalog_step, "IMAGES_A_PART", 4)
    run, _ = run_catalog(lake, good_files(11))
    assert len(products(run)) == 11
    assert sorted(len(part) for part in run.table("images").iter_parts()) == [3, 4, 4]
    for each in run.table("images").read().to_pylist():
        assert Image.open(io.BytesIO(each["bytes"])).size == (30, 40)


def test_large_files_are_taken_in_small_batches_with_the_same_result(lake, tmp_path, monkeypatch):
    files = good_files(11)
    run, _ = run_catalog(lake, files)
    monkeypatch.setattr(catalog_step, "BATCH_BYTES", len(files["images/1.jpg"]) * 2)
    other, _ = run_catalog(Lake((tmp_path / "other").as_uri()), files)
    assert products(other) == products(run)
    assert other.table("images").read().equals(run.table("images").read())


def test_a_lake_in_s3_gets_the_same_tables_as_one_in_a_folder(lake, bucket):
    files = good_files(30) | {"images/7.jpg": b"", "images/99.jpg": image(99)}
    run, _ = run_catalog(lake, files)
    other, _ = run_catalog(Lake(f"s3://{bucket}/lake"), files)
    for table in ("products", "images", "rejects"):
        assert other.table(table).read().equals(run.table(table).read())
