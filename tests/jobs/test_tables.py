"""Tables in every usual form, dialect and encoding: the rows that were written, or an error, and never other text."""

import base64
import codecs
import csv
import gzip
import io
import json
import struct
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import archives
from infra.errors import UserError
from jobs.step import execute
from jobs.tables import SUFFIXES, File, Reading, Record, delimited, named, opened
from tests.catalogues import HEADER, folder, good_files, open_run, row, styles

NAMES = ("sku", "name", "colour")
ROWS = [
    ("1", "Shirt, blue; slim | fit", "Red"),
    ("2", 'Heels 5" "Best"', "Blue"),
    ("3", "", "Green"),
    ("4", "two\nlines", "NA"),
]


@pytest.fixture
def reading(tmp_path):
    """How to read a table of NAMES; fields replace settings."""

    def make(**fields: object) -> Reading:
        known = {"columns": NAMES, "is_row": lambda values: values["sku"].isdigit(), "free": "", "limit": 2**20}
        return Reading(**{**known, "scratch": tmp_path / "scratch", **fields})

    return make


def made(name: str, files: dict[str, bytes]) -> dict[str, File]:
    return {path: File(f"{name}/{path}".rstrip("/"), partial(io.BytesIO, data)) for path, data in files.items()}


def read(name: str, data: bytes | dict[str, bytes], how: Reading) -> list[Record]:
    files = {"": data} if isinstance(data, bytes) else data
    with opened(name, made(name, files), how) as table:
        assert set(NAMES) <= set(table.columns), table.columns
        return list(table)


def texts(records: list[Record]) -> list[tuple[str, ...]]:
    assert not [record for record in records if record.fault]
    return [tuple(record.values[name] for name in NAMES) for record in records]


def written(rows, encoding="utf-8", names=NAMES, **dialect) -> bytes:
    out = io.StringIO()
    csv.writer(out, **{"lineterminator": "\n", **dialect}).writerows([names, *rows])
    return out.getvalue().encode(encoding)


def parquet(table: pa.Table, **options) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def columns(rows) -> pa.Table:
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(NAMES)})


def delta_files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def refused(name, data, how) -> UserError:
    with pytest.raises(UserError) as caught:
        read(name, data, how)
    assert caught.value.remedy
    return caught.value


# Forms


def test_every_form_of_a_table_has_the_same_rows(reading, tmp_path):
    lines = "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS).encode()
    write_deltalake(tmp_path / "delta", columns(ROWS))
    forms = {
        "t.csv": written(ROWS),
        "t.tsv": written(ROWS, delimiter="\t"),
        "t.csv.gz": gzip.compress(written(ROWS)),
        "t.jsonl": lines,
        "t.ndjson.gz": gzip.compress(lines),
        "t.parquet": parquet(columns(ROWS)),
        "t": delta_files(tmp_path / "delta"),
    }
    found = {name: texts(read(name, data, reading())) for name, data in forms.items()}
    assert found == dict.fromkeys(forms, ROWS)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_row_is_placed_by_its_line_or_its_row(reading):
    assert [record.where for record in read("a/t.csv", written(ROWS), reading())][2:] == [
        "a/t.csv, line 4",
        "a/t.csv, line 5",
    ]
    assert read("a/t.parquet", parquet(columns(ROWS)), reading())[1].where == "a/t.parquet, row 2"
    assert read("t.jsonl", b'\n{"sku": 1, "name": 2, "colour": 3}\n', reading())[0].where == "t.jsonl, line 2"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([15970, None]), ["15970", ""]),
        (pa.array([15970.0, None]), ["15970", ""]),  # as pandas makes it where one is missing
        (pa.array([0.5, float("nan")]), ["0.5", ""]),
        (pa.array([2.0**53, 1e300]), ["9007199254740992.0", "1e+300"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array(["é", None], pa.large_string()), ["é", ""]),
        (pa.array(["é", "x"], pa.string_view()), ["é", "x"]),
        (pa.array(["é".encode(), b"\xe9"]), ["é", "\udce9"]),  # as Hive writes text; a byte that is none stays told
        (pa.array([0, 1], pa.date32()), ["1970-01-01", "1970-01-02"]),
        (pa.array([1, 2]).cast(pa.decimal128(30, 2)), ["1.00", "2.00"]),
    ],
)
def test_types_of_columns_become_text(reading, values, expected):
    table = columns(ROWS[:2]).set_column(0, "sku", values)
    records = read("t.parquet", parquet(table), reading())
    assert [record.values["sku"] for record in records] == expected


def test_numbers_and_nothing_in_json_lines_become_text(reading):
    lines = b'{"sku": 15970, "name": 1.0, "colour": null}\n{"sku": 9007199254740993, "colour": 1e300}\n{"sku":true}'
    assert texts(read("t.jsonl", lines, reading())) == [
        ("15970", "1", ""),
        ("9007199254740993", "", "1e+300"),
        ("true", "", ""),
    ]


def test_a_line_that_is_no_object_costs_that_line_only(reading):
    good = '{"sku": "1", "name": "é", "colour": ""}\n'
    bad = '{"sku": \n[1]\n{"sku":"2","sku":"3"}\n{"sku":"4","name":["a"]}\n{"sku":"5","name":"\\ud83d"}\n'
    bad += '{"sku":"6","name":"a\\u0000"}\n' + "[" * 100_000 + "\n"
    records = read("t.jsonl", (good + bad + good).encode(), reading())
    faults = ["", "no JSON object", "no JSON object", "no JSON object", "no text", "damaged text", "zero byte"]
    assert [record.fault for record in records] == [*faults, "no JSON object", ""]
    assert "'sku' comes twice" in records[3].detail
    assert "holds no JSON object in a line; it begins with '[{" in str(refused("t.jsonl", b'[{"a": 1}]', reading()))


def test_further_columns_of_any_type_are_not_read(reading):
    table = columns(ROWS).append_column("tags", pa.array([["a"]] * 4)).append_column("photo", pa.array([b"\0" * 9] * 4))
    assert texts(read("t.parquet", parquet(table), reading())) == ROWS
    wanted = reading(columns=(*NAMES, "tags"))
    assert "has list<element: string> in the column tags" in str(refused("t.parquet", parquet(table), wanted))


def test_what_is_damaged_or_something_else_is_told_by_name(reading):
    good = parquet(columns(ROWS))
    for name, data in {
        "t.parquet": good[:-30],
        "a/t.parquet": good[:40] + bytes(40) + good[80:],
        "t.csv.gz": gzip.compress(written(ROWS))[:-20],
        "u.csv.gz": written(ROWS),
        "t.csv": good,
        "u.csv": gzip.compress(b""),
    }.items():
        error = refused(name, data, reading())
        assert error.where == name
        assert "Parquet" in error.problem or "damaged" in error.problem or "gzip" in error.problem


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.parquet"])
def test_what_unpacks_to_more_than_it_may_is_refused(reading, name):
    rows = [(str(n), "x" * 1000, "Red") for n in range(2000)]  # 2 MB of which gzip and a dictionary leave a fraction
    data = written(rows) if "csv" in name else parquet(columns(rows))
    if "json" in name:
        data = "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows).encode()
    error = refused(name, gzip.compress(data) if name.endswith("gz") else data, reading())
    assert "unpacks to more than 1,048,576 bytes" in error.problem
    assert "LOOKALIKE_STYLES_MAX_BYTES" in error.remedy


def test_a_text_of_megabytes_in_a_dictionary_is_refused_before_it_is_that_of_every_row(reading):
    data = parquet(columns([(str(n), "x" * 2**21, "Red") for n in range(3)]))
    assert "has a text of 2,097,152 bytes" in refused("t.parquet", data, reading(limit=2**24)).problem


# Delta tables


def test_a_delta_table_is_its_newest_version_with_its_partitions(reading, tmp_path):
    write_deltalake(tmp_path / "t", columns([("9", "old", "Old")]))
    write_deltalake(tmp_path / "t", columns(ROWS), mode="overwrite", partition_by=None)
    assert texts(read("t", delta_files(tmp_path / "t"), reading())) == ROWS
    rows = [("1", "a", "Dark Red"), ("2", "b", "50%/é"), ("3", "c", "Blue")]
    write_deltalake(tmp_path / "u", columns(rows), partition_by=["colour"])
    write_deltalake(tmp_path / "u", columns([("4", "d", "Blue")]), mode="append")
    DeltaTable(tmp_path / "u").create_checkpoint()
    found = read("u", delta_files(tmp_path / "u"), reading())
    assert sorted(texts(found)) == [*rows, ("4", "d", "Blue")]
    assert all(record.where.endswith(".parquet, row 1") for record in found)


Z85 = str.maketrans(
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~",
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#",
)
"""From Python's base 85 to that of the Delta protocol."""


def deleted_rows(path: Path, row: int) -> None:
    """Delete a row of a table of one file as Spark does: by a bitmap, which the log may hold itself."""
    bitmap = struct.pack("<IIHHIH", 12346, 1, 0, 0, 16, row)
    vector = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    vector += bytes(-len(vector) % 4)
    log = path / "_delta_log/00000000000000000000.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    add = next(action["add"] for action in actions if "add" in action)
    text = base64.b85encode(vector).decode().translate(Z85)
    told = {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(vector), "cardinality": 1}
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"]}
    more = [
        {"protocol": protocol | {"writerFeatures": ["deletionVectors"]}},
        {"remove": {"path": add["path"], "dataChange": True, "deletionTimestamp": 0}},
        {"add": add | {"deletionVector": told}},
    ]
    (path / "_delta_log/00000000000000000001.json").write_text("".join(json.dumps(each) + "\n" for each in more))


def test_rows_that_a_deletion_vector_deletes_are_none(reading, tmp_path):
    write_deltalake(tmp_path / "t", columns(ROWS))
    deleted_rows(tmp_path / "t", 1)
    assert texts(read("t", delta_files(tmp_path / "t"), reading())) == [ROWS[0], *ROWS[2:]]


def test_a_delta_table_that_lacks_a_file_or_is_damaged_is_told(reading, tmp_path):
    write_deltalake(tmp_path / "t", columns(ROWS))
    files = delta_files(tmp_path / "t")
    log = "_delta_log/00000000000000000000.json"
    (data,) = files.keys() - {log}
    assert f"names {data!r}, which the source lacks" in str(refused("t", {log: files[log]}, reading()))
    outside = {log: files[log].replace(data.encode(), b"../../../etc/passwd"), data: files[data]}
    assert "names '../../../etc/passwd', which the source lacks" in str(refused("t", outside, reading()))
    assert "Delta table that cannot be read" in str(refused("t", {log: b"{", data: files[data]}, reading()))
    mapped = files[log].replace(b'"configuration":{', b'"configuration":{"delta.columnMapping.mode":"name"')
    assert "column mapping" in str(refused("t", {log: mapped, data: files[data]}, reading()))


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_with_changed_bytes_is_read_or_refused_but_never_a_crash(reading, tmp_path, data):
    if not (tmp_path / "delta").exists():
        write_deltalake(tmp_path / "delta", columns(ROWS))
        DeltaTable(tmp_path / "delta").create_checkpoint()
    lines = "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS).encode()
    tables = {
        "t.csv": {"": written(ROWS)},
        "t.csv.gz": {"": gzip.compress(written(ROWS))},
        "t.jsonl": {"": lines},
        "t.parquet": {"": parquet(columns(ROWS))},
        "t": delta_files(tmp_path / "delta"),
    }
    name = data.draw(st.sampled_from(list(tables)))
    path = data.draw(st.sampled_from(sorted(tables[name])))
    changed = bytearray(tables[name][path])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed))) if data.draw(st.booleans()) else None
    files = {**tables[name], path: bytes(changed[:cut])}
    with suppress(UserError), opened(name, made(name, files), reading()) as table:
        if set(NAMES) <= set(table.columns):
            list(table)


# Which file is the table


def test_tables_are_found_by_name_and_ending_or_by_the_log_in_their_folder():
    paths = ["styles.csv", "a/styles.tsv.gz", "b/styles.xlsx", "Styles.csv", "styles/1.json", "notes.csv"]
    paths += ["c/styles/_delta_log/0.json", "c/styles/x=1/p.parquet", "c/styles/styles.parquet", "c/other.parquet"]
    assert named("styles", paths) == {
        "styles.csv": {"": "styles.csv"},
        "a/styles.tsv.gz": {"": "a/styles.tsv.gz"},
        "c/styles": {path.removeprefix("c/styles/"): path for path in paths[6:9]},
    }


# Dialects and encodings


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_usual_dialect_is_told(reading, delimiter, quoting, end):
    data = written(ROWS, delimiter=delimiter, quoting=quoting).replace(b"\n", end.encode())
    assert texts(read("t.csv", data, reading())) == ROWS


def test_quotes_that_a_backslash_hides_are_read_as_spark_and_mysql_write_them(reading):
    rows = [*ROWS, ("5", 'a\n"b", c', 'x", "y'), ("6", "C:\\temp", "")]
    data = written(rows[:-1], doublequote=False, escapechar="\\") + b"6,C:\\temp,\n"
    assert texts(read("t.csv", data, reading())) == rows
    unquoted = written([("1", "a, b", 'c"')], quoting=csv.QUOTE_NONE, escapechar="\\", quotechar=None)
    assert texts(read("t.csv", unquoted, reading())) == [("1", "a, b", 'c"')]


def test_a_file_of_backslashes_and_quotes_is_not_read_from_every_line(reading, monkeypatch):
    monkeypatch.setattr(delimited, "PATIENCE", 10_000)
    parsed = []
    parse = delimited.Delimited._parse
    monkeypatch.setattr(
        delimited.Delimited,
        "_parse",
        lambda self, lines, escape=None: parse(self, (parsed.append(line) or line for line in lines), escape),
    )
    read("t.csv", b"sku,name,colour\n" + b'"\\"\n' * 3000, reading())
    assert len(parsed) < 40_000


def test_a_table_quoted_by_apostrophes_is_read_where_its_header_is(reading):
    data = written([("1", "O'Neill, blue", 'a "b"')], quotechar="'", quoting=csv.QUOTE_ALL)
    assert texts(read("t.csv", data, reading())) == [("1", "O'Neill, blue", 'a "b"')]


def test_excel_says_what_stands_between_columns_and_the_setting_wins(reading):
    odd = written(ROWS, delimiter="~")
    assert texts(read("t.csv", b"sep=~\r\n" + odd, reading())) == ROWS
    assert texts(read("t.csv", b"sep=;\n" + odd, reading(delimiter="~"))) == ROWS
    assert texts(read("t.csv", odd, reading(delimiter="~"))) == ROWS


def test_what_could_stand_between_columns_by_two_marks_is_asked_for(reading):
    error = refused("t.csv", b"sku;a,name;b,colour\n", reading())
    assert "whether commas or semicolons stand between the columns" in error.problem
    assert "LOOKALIKE_DELIMITER" in error.remedy


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "cp500", "cp1251", "iso2022_jp"]
)
def test_an_encoding_that_is_set_is_not_told_from_the_file(reading, encoding):
    word = {"cp500": "é", "cp1251": "я", "iso2022_jp": "青"}.get(encoding, "é青я😀")
    rows = [("1", f"{word}, {word}", word)]
    data = written(rows, encoding)
    assert texts(read("t.csv", data, reading(encoding=codecs.lookup(encoding).name))) == rows


def test_marks_of_unicode_are_told_as_excel_writes_them(reading):
    rows = [("1", "é青я😀", "Red")]
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        data = mark + written(rows, encoding, delimiter="\t", lineterminator="\r\n")
        assert texts(read("t.csv", data, reading())) == rows
        assert f"set LOOKALIKE_ENCODING={encoding}" in refused("t.csv", data[2:], reading()).remedy
    cut = codecs.BOM_UTF16_LE + written(rows, "utf-16-le")[:-3]
    assert "is not in utf-16" in refused("t.csv", cut, reading()).problem


def test_an_encoding_of_seven_bits_is_not_taken_for_ascii(reading):
    error = refused("t.csv", written([("1", "青いシャツ", "")], "iso2022_jp"), reading())
    assert "ISO-2022, by line 2" in error.problem
    assert "LOOKALIKE_ENCODING" in error.remedy


def test_a_line_that_is_not_in_the_encoding_of_the_file_keeps_its_bytes(reading):
    words = next(iter(LANGUAGES)).split()
    rows = [(str(n), word, "Red") for n, word in enumerate(words)]
    data = written(rows, "cp1251") + b"999,\x98,Red\n"
    records = read("t.csv", data, reading())
    assert texts(records[:-1]) == rows
    assert records[-1].values["name"] == "\udc98"
    strict = read("t.csv", "sku,name,colour\n1,Crème,\n".encode() + b"2,Caf\xe9,\n", reading(encoding="utf-8"))
    assert [record.values["name"] for record in strict] == ["Crème", "Caf\udce9"]


LANGUAGES = {
    "Синий Рубашка Женская Мужская Красный Платье Куртка чёрный Белый Обувь кроссовки Сумка зелёный Лето Зима": (
        *("cp1251", "koi8-r", "iso8859-5", "cp866", "utf-8", "utf-16"),
    ),
    "青いシャツ 赤 ワンピース 黒いジャケット レディース メンズ 白 靴 スニーカー バッグ 緑 夏 冬 カジュアル": (
        *("cp932", "euc_jp", "utf-8-sig"),
    ),
    "파란색 셔츠 여성 남성 빨간색 드레스 재킷 검정 흰색 신발 운동화 가방 초록 여름 겨울": ("cp949", "utf-8"),
    "蓝色 衬衫 女装 男装 红色 连衣裙 夹克 黑色 白色 鞋子 运动鞋 手提包 绿色 夏季 冬季": ("gb18030", "utf-16"),
    "藍色 襯衫 女裝 男裝 紅色 連衣裙 黑色 白色 鞋子 運動鞋 手提包 綠色 夏季": ("big5", "utf-8"),
    "Μπλε πουκάμισο Γυναικεία Ανδρικά Κόκκινο Φόρεμα Μπουφάν Μαύρο Λευκό παπούτσια": ("cp1253", "iso8859-7"),
    "Różowy Żółty Jaśniejszy Brązowy Spódnica Płaszcz Zieleń Męski świąteczny łososiowy Białe": (
        *("cp1250", "iso8859-2", "cp852"),
    ),
    "Gömlek Kadın Kırmızı yeşil çanta kış günlük şort İnce ayakkabı": ("cp1254", "utf-8"),
    "כחול חולצה נשים גברים אדום שמלה שחור לבן נעליים תיק ירוק קיץ": ("cp1255",),
    "أزرق قميص نسائي رجالي أحمر فستان أسود أبيض حذاء حقيبة أخضر صيف": ("cp1256",),
    "Été crème foncé écru Beauté rosé Légère Forêt brodé Déco Größe Grün Weiß Gürtel Mäntel Röcke Señora": (
        *("cp1252", "latin-1", "cp850", "mac-roman", "utf-8"),
    ),
}
WRITTEN = [(words.split(), encoding) for words, encodings in LANGUAGES.items() for encoding in encodings]


@given(
    written_in=st.sampled_from(WRITTEN),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    data=st.data(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_is_read_as_it_was_written_or_told_and_never_as_other_text(
    reading, written_in, delimiter, quoting, end, data
):
    """Ten different words that are no ASCII, or more: very few may be taken for Western ones."""
    words, encoding = written_in
    signs = st.sampled_from(["", ",", ";", "|", '"', " ", "50%", "\n", "a", "'", "\\", "S/M", "1,50"])
    value = st.lists(st.one_of(st.sampled_from(words), signs), max_size=4).map(" ".join)
    rows = data.draw(st.lists(st.tuples(value, value), max_size=20))
    rows = [(str(n), *values) for n, values in enumerate([*zip(words, reversed(words), strict=True), *rows])]
    out = written(rows, encoding, delimiter=delimiter, quoting=quoting).decode(encoding).replace("\n", end)
    try:
        records = read("t.csv", out.encode(encoding), reading())
    except UserError:
        return
    for record, expected in zip(records, rows, strict=True):
        if record.fault or any("\udc80" <= letter <= "\udcff" for text in record.values.values() for letter in text):
            continue
        assert tuple(record.values[name] for name in NAMES) == expected


# The catalogue


def catalogue(lake, source, **changes):
    run = open_run(lake, dataset=str(source), **changes)
    execute("pull", run)
    return run, execute("catalog", run)


def test_a_catalogue_in_any_form_gives_the_same_products(lake, tmp_path):
    rows = [row(n, year="2012") for n in range(1, 21)]
    files = good_files(20)
    _, wanted = catalogue(lake, folder(tmp_path / "csv", files))
    products = open_run(lake).table("products").read().to_pylist()
    images = {name: data for name, data in files.items() if name != "styles.csv"}
    table = pa.Table.from_pylist([{**each, "id": int(each["id"]), "year": 2012.0} for each in rows])
    lines = "".join(json.dumps({**each, "id": int(each["id"])}) + "\n" for each in rows)
    write_deltalake(tmp_path / "delta", table.select(HEADER), partition_by=["season"])
    forms = {
        "styles.tsv": styles(rows).replace(b",", b"\t"),
        "styles.csv.gz": gzip.compress(styles(rows)),
        "styles.jsonl": lines.encode(),
        "styles.parquet": parquet(table),
        "styles": None,
    }
    for name, data in forms.items():
        table_files = {name: data} if data else {f"styles/{k}": v for k, v in delta_files(tmp_path / "delta").items()}
        _, result = catalogue(lake, folder(tmp_path / f"as-{name}", images | table_files), scratch=tmp_path / "scratch")
        assert (result.rows, result.rejects, result.figures["styles"]) == (20, 0, name), result.figures
        assert open_run(lake).table("products").read().to_pylist() == products
    assert wanted.figures["read_as"] == "utf-8, commas"


def test_two_tables_in_one_folder_are_refused_and_a_copy_below_is_passed_over(lake, tmp_path):
    files = good_files(3)
    both = folder(tmp_path / "both", files | {"styles.parquet": parquet(pa.Table.from_pylist([row(1)]))})
    with pytest.raises(UserError, match="two catalogues, styles.csv and styles.parquet"):
        catalogue(lake, both)
    copies = folder(tmp_path / "copies", files | {f"again/{name}": data for name, data in files.items()})
    assert catalogue(lake, copies)[1].rows == 3


def test_the_settings_decide_how_a_table_is_read_and_what_a_night_repeats(lake, tmp_path):
    rows = [row(n, baseColour="Синий") for n in range(1, 4)]
    source = folder(tmp_path / "in", good_files(3) | {"styles.csv": styles(rows).decode().encode("cp1251")})
    with pytest.raises(UserError, match="3 × unknown encoding.*'Синий' if it is Windows-1251") as caught:
        catalogue(lake, source)
    assert "set LOOKALIKE_ENCODING" in caught.value.remedy
    run, result = catalogue(lake, source, encoding="cp1251")
    assert set(run.table("products").read()["baseColour"].to_pylist()) == {"Синий"}
    assert catalogue(lake, source, encoding="cp1251")[1].skipped
    assert not catalogue(lake, source, encoding="koi8-r")[1].skipped


@pytest.mark.parametrize("suffix", [*SUFFIXES, "/_delta_log/00000000000000000000.json"])
def test_a_folder_with_any_form_of_table_is_a_catalogue_that_no_link_doubles(suffix):
    assert archives.CATALOGUE.search(f"shop/styles{suffix}")
    assert not archives.CATALOGUE.search(f"shop/my-styles{suffix}")
