"""styles.csv as other programs write it: its bytes and, decided before the code, what becomes of them."""

# ruff: noqa: E501 - an expected outcome is one line
from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable

import pytest

from tests.catalogues import HEADER, folder, good_files, row, styles
from tests.field.outcomes import intake

N = 30
GOOD = good_files(N)
TEXT = GOOD["styles.csv"].decode()
HEAD, ROWS = TEXT.split("\n", 1)
COLUMNS = ", ".join(HEADER)
FULL = "30 products"
GIVE = f"| styles.csv | give a table with the columns {COLUMNS}, or say in catalogue.toml what its columns are"
UPPER = f"the columns {COLUMNS} are missing; found {COLUMNS.upper()}"
RENAME = ", ".join(f"{name.upper()} to {name}" for name in HEADER)
MISSING = f"the columns {COLUMNS} are missing; found"
UTF8 = "save it as UTF-8 (a spreadsheet calls that CSV UTF-8), or set LOOKALIKE_ENCODING to the encoding that it has"
ID = "give ids such as 15970 or B07XJ8C8F5 as text, and name images by them: 15970.jpg"
HTML = {at: '"' + "<li>cotton</li>\n" * (25 if at == 3 else 2) + '"' for at in range(1, N + 1)}
SHIRT = {"productDisplayName": "青いシャツ", "baseColour": "青"}
NOTHING = ("nan", "NaN", "None", "NULL", "<NA>", "-")


def lines(change) -> bytes:
    """The good file, each line changed: (number from 0, text) → text."""
    return "".join(change(number, line) + "\n" for number, line in enumerate(TEXT.splitlines())).encode()


def values(change, encoding: str = "utf-8") -> bytes:
    """A header and N rows, each changed by `change`: id → new values; nothing is quoted."""
    rows = [row(n) | change(n) for n in range(1, N + 1)]
    return "".join(",".join(each) + "\n" for each in [HEADER, *([r[c] for c in HEADER] for r in rows)]).encode(encoding)


def ids(change) -> bytes:
    return values(lambda n: {"id": change(n)})


def arabic(n: int) -> str:
    return "".join(chr(0x660 + int(digit)) for digit in str(n))


def quoted() -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(line.split(",") for line in TEXT.splitlines())
    return out.getvalue()


def no_id(shown: str, why: str) -> str:
    """Refused; the first row's id is shown, and all are like it."""
    detail = f"{shown} in styles.csv, line 2: {shown!r}: {why}"
    return f"none of the 30 rows of styles.csv can be used: 30 × no product id (such as {detail}) | styles.csv | {ID}"


def no_image(shown: str) -> str:
    """Refused, as images are called by other ids; that of the first row is shown."""
    problem = (
        f"30 of 30 products (100.0%) cannot be used, at most 5.0% may be: 30 × no image (such as {shown} in styles.csv: "
        "the folder images has no such file); files that no product has: 30 × no row (such as images/1.jpg: styles.csv "
        "has no such id)"
    )
    return f"{problem} | styles.csv | mend the source, or allow more with LOOKALIKE_REJECT_MAX"


def instead(name: str) -> str:
    found = f"the source has no styles.csv; it holds {name}, 30 × images/*.jpg"
    kinds = ".csv, .tsv, .jsonl, .ndjson, .parquet; packed: .gz behind"
    remedy = (
        f"if that is the catalogue, name it styles, with the ending of its kind ({kinds}), the folder images beside it"
    )
    return f"{found} | file://…/source | {remedy}"


def other_encoding(reading: str) -> str:
    detail = f"1 in styles.csv, line 2: neither UTF-8 nor Windows-1252; {reading}"
    return (
        f"none of the 30 rows of styles.csv can be used: 30 × unknown encoding (such as {detail}) | styles.csv | {UTF8}"
    )


CASES: dict[str, tuple[str | bytes, str]] = {
    "utf16le-bom": (TEXT.encode("utf-16"), FULL),
    "utf16be-bom": (b"\xfe\xff" + TEXT.encode("utf-16-be"), FULL),
    "utf16le-tabs": (TEXT.replace(",", "\t").encode("utf-16"), FULL),
    "utf32": (TEXT.encode("utf-32"), FULL),
    "semicolons": (TEXT.replace(",", ";"), FULL),
    "excel-sep-line": ("sep=,\n" + TEXT, FULL),
    "tabs": (TEXT.replace(",", "\t"), FULL),
    "leading-blank-line": ("\n\n" + TEXT, FULL),
    "comment-first": ("# exported 2026-01-01\n" + TEXT, f"{MISSING} # exported 2026-01-01 {GIVE}"),
    "float-ids": (
        values(lambda n: {"id": f"{n}.0", "year": "2012.0"}),
        no_id("1.0", "it became a decimal number, as pandas makes it where an id is missing; write ids as text"),
    ),
    "pandas-index": (lines(lambda at, line: f"{at - 1 if at else ''},{line}"), FULL),
    "quoted-all": (quoted(), FULL),
    "cr-only": (TEXT.replace("\n", "\r"), FULL),
    "trailing-comma-every-line": (TEXT.replace("\n", ",\n"), FULL),
    "trailing-commas-rows-only": (lines(lambda at, line: line + ",," * bool(at)), FULL),
    "upper-header": (f"{HEAD.upper()}\n{ROWS}", f"{UPPER} | styles.csv | rename {RENAME}"),
    "american-colour": (
        TEXT.replace("baseColour", "baseColor"),
        f"the column baseColour is missing; found {COLUMNS.replace('baseColour', 'baseColor')} {GIVE}",
    ),
    "spaces-after-comma": (TEXT.replace(",", ", "), FULL),
    "spaces-then-quotes": (values(lambda n: {"productDisplayName": ' "Shirt, blue"'}), FULL),
    "backslash-quotes": (values(lambda n: {"productDisplayName": f'"Shirt \\"Air\\", item {n}"'}), FULL),
    "nbsp-in-values": (values(lambda n: {"baseColour": "Red\u00a0"}), FULL),
    "zero-width-header": ("\u200b" + TEXT, FULL),
    "double-bom": ("\ufeff\ufeff" + TEXT, FULL),
    "bom-and-quoted-header": ("\ufeff" + quoted(), FULL),
    "duplicate-column": (
        lines(lambda at, line: f"{line},{'Boys' if at else 'gender'}"),
        "columns have one name: column 2 (gender) and column 11 (gender) | styles.csv | keep one, rename the others",
    ),
    "merged-columns-x-y": (
        TEXT.replace("id,gender", "id,gender_x", 1),
        f"the column gender is missing; found {COLUMNS.replace('gender', 'gender_x')} {GIVE}",
    ),
    "nan-none-null-texts": (values(lambda n: {"season": NOTHING[n % 6]}), FULL),
    "thousands-in-id": (ids(lambda n: f'"1,{n:03d}"'), no_image("1,001")),
    "scientific-id": (
        ids(lambda n: f"{n:.2E}"),
        no_id("1.00E+00", "a spreadsheet shortened it, and its digits may be lost; export ids as text"),
    ),
    "id-plus-sign": (ids(lambda n: f"+{n}"), no_image("+1")),
    "id-leading-zeros": (ids(lambda n: f"{n:08d}"), no_image("00000001")),
    "excel-text-id": (
        ids(lambda n: f'="{n}"'),
        no_id('="1"', "it is a formula of a spreadsheet; export its value alone"),
    ),
    "apostrophe-id": (ids(lambda n: f"'{n}"), no_image("'1")),
    "asin-ids": (ids(lambda n: f"B00{n:05d}X"), no_image("B0000001X")),
    "id-with-suffix": (ids(lambda n: f"{n}.jpg"), no_image("1.jpg")),
    "arabic-digits": (ids(arabic), no_image("١")),
    "html-entities": (values(lambda n: {"productDisplayName": "Shirt &amp; &#39;Tie&#39; <b>x</b>"}), FULL),
    "control-characters": (values(lambda n: {"productDisplayName": "a\x0bb\x0cc\x1cd\x85e\u2028f"}), FULL),
    "form-feed-lines": (TEXT.replace("\n", "\n\x0c", 3), FULL),
    "ctrl-z-end": (TEXT + "\x1a", f"{FULL}; 1 × too few fields"),
    "sql-footer": (TEXT + "\n(30 rows)\n", f"{FULL}; 1 × too few fields"),
    "repeated-header": (f"{TEXT}{HEAD}\n", f"{FULL}; 1 × no image"),
    "huge-field": (values(lambda n: {"productDisplayName": "x" * 200_000} if n == 3 else {}), FULL),
    "quoted-newlines-25": (values(lambda n: {"productDisplayName": HTML[3]} if n == 3 else {}), FULL),
    "description-of-25-lines": (
        lines(lambda at, line: f"{line},{HTML.get(at, 'description')}"),
        FULL,
    ),
    "latin1": (values(lambda n: {"productDisplayName": "Café Größe"}, "latin-1"), FULL),
    "shift-jis": (values(lambda n: SHIRT, "shift-jis"), other_encoding("'青 青いシャツ' if it is Shift-JIS")),
    "cp1251": (values(lambda n: {"baseColour": "Синий"}, "cp1251"), other_encoding("'Синий' if it is Windows-1251")),
    "mojibake-mixed": (
        values(lambda n: {"baseColour": "Écru"} if n > 15 else {}, "cp1252"),
        FULL,
    ),
    "xlsx-named-csv": (
        b"PK\3\4\x14\0\6\0" + b"x" * 200,
        "styles.csv is no text: it is a spreadsheet or a zip archive | styles.csv | give a CSV, TSV, Parquet or JSONL file",
    ),
    "html-login": (
        "<html><head><title>Sign in</title></head>\n<body>…</body></html>",
        f"{MISSING} <html><head><title>Sign in</title></head> {GIVE}",
    ),
    "git-lfs-pointer": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n",
        "styles.csv is no text: it is a pointer of Git LFS | styles.csv | fetch the files: `git lfs pull`",
    ),
}
IDS: dict[str, Callable[[int], str]] = {
    "asin": lambda n: f"B00{n:05d}X",
    "ean-with-leading-zeros": lambda n: f"{n:014d}",
    "uuid": lambda n: str(uuid.UUID(int=n)),
    "sku-with-colour": lambda n: f"Hemd {n}, Größe 38",
    "shop-slug": lambda n: f"shirt-slim-fit_{n}.html",
    "thousands": lambda n: f"1,{n:03d}",
    "sign": lambda n: f"-{n}",
    "decimal": lambda n: f"{n}.5",
    "above-64-bits": lambda n: f"{2**63 + n}",
    "arabic-digits": arabic,
}
OTHER_NAMES = {"Styles.csv": "Styles.csv"}
OTHER_NAMES |= {"products.csv": "products.csv", "styles.CSV-and-txt": "styles.csv.txt"}


@pytest.mark.parametrize("case", CASES)
def test_styles_as_other_programs_write_it(lake, tmp_path, case):
    data, expected = CASES[case]
    files = GOOD | {"styles.csv": data if isinstance(data, bytes) else data.encode()}
    assert intake(lake, folder(tmp_path / "source", files)) == expected


@pytest.mark.parametrize("case", IDS)
def test_ids_as_shops_have_them_where_images_are_called_by_them(lake, tmp_path, case):
    named = {n: IDS[case](n) for n in range(1, N + 1)}
    images = {f"images/{named[n]}.jpg": GOOD[f"images/{n}.jpg"] for n in named}
    rows = styles([row(n, id=named[n]) for n in named])
    assert intake(lake, folder(tmp_path / "source", {"styles.csv": rows} | images)) == FULL


@pytest.mark.parametrize("case", OTHER_NAMES)
def test_a_catalogue_of_another_name_is_named(lake, tmp_path, case):
    name = OTHER_NAMES[case]
    files = {name: GOOD["styles.csv"], **{file: GOOD[file] for file in GOOD if file != "styles.csv"}}
    assert intake(lake, folder(tmp_path / "source", files)) == instead(name)
