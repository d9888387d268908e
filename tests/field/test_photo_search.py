"""Odd photos and odd tables of photos: what a search for them answers, in a line a case."""

import io
import struct
import zlib
from collections import Counter

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from psycopg.conninfo import make_conninfo

from infra import store
from infra.errors import UserError
from infra.lake import Lake
from jobs import classify
from jobs.photo_source import dataset_of, open_source
from jobs.search import in_batches
from jobs.serve.search import Searcher
from jobs.step import execute
from tests.catalogues import extracted, folder, good_files, image, open_run, serve, write_result
from tests.field.outcomes import command_line, error_line

FIELDS = "gender, masterCategory, subCategory, articleType, baseColour, season, usage"
NO_TABLE = "give a folder, or a CSV or Parquet table with the column image"
NO_IMAGE = "give a JPEG, PNG, WEBP, GIF, BMP, HEIC or AVIF image"


@pytest.fixture(scope="module")
def published(postgres, tmp_path_factory):
    """A live run of 30 products, without a classifier, so that it is searched by filters alone."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE DATABASE field_photos")
    uri = make_conninfo(postgres, dbname="field_photos")
    lake = Lake(tmp_path_factory.mktemp("lake").as_uri())
    run = open_run(lake, store=uri, input_height=64, input_width=48)
    extracted(run, good_files(30))
    write_result(
        run,
        "classify",
        tables={"classifier": lake.table("classifier").commit([], classify.CLASSIFIER, run=run.name).version},
    )
    execute("candidates", run)
    serve(run)
    return run


@pytest.fixture(scope="module")
def search(published, tmp_path_factory):
    """What a search for a folder or table comes to: a line."""
    settings = published.settings
    with store.connect(settings.store, settings.store_folder) as connection:
        searcher = Searcher(connection, settings)

        def line(place, here, **filters) -> str:
            k = filters.pop("k", 10)
            try:
                source = open_source(dataset_of(str(place), filters, k), settings.fields)
            except UserError as error:
                return error_line(error, Lake((here / "lake").as_uri()))
            rows = [row for found in in_batches(source, searcher, connection) for row in found]
            reasons = Counter(row["reason"] for row in rows if "reason" in row)
            said = [f"{len(rows) - reasons.total()} answered"]
            return "; ".join(said + [f"{count} × {reason}" for reason, count in sorted(reasons.items())])

        yield line


def saved(picture: Image.Image, kind: str = "JPEG", **how) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()


def jpeg(size=(60, 80)) -> bytes:
    return image(1, size=size)


def mpo(size=(60, 80)) -> bytes:
    """Two pictures in one file, as phones and stereo cameras write it."""
    first = Image.open(io.BytesIO(jpeg(size)))
    return saved(first, "MPO", save_all=True, append_images=[first.copy()])


def png16(width=16, height=16) -> bytes:
    """A PNG of three channels of 16 bits, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80\x10\x40\x20\x10\x08" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


TURNED = Image.Exif()
TURNED[0x0112] = 6
PHOTOS = {
    "mpo.jpg": mpo(),
    "mpo large.JPG": mpo((600, 800)),
    "rotated.jpg": saved(Image.new("RGB", (800, 600), "peru"), exif=TURNED),
    "heic.jpg": b"\0\0\0\x18ftypheic" + b"\0" * 400,
    "one pixel.png": saved(Image.new("RGB", (1, 1)), "PNG"),
    "panorama.jpg": jpeg((8000, 20)),
    "tall.jpg": saved(Image.new("RGB", (1, 3000))),
    "cmyk.jpg": saved(Image.new("CMYK", (60, 80))),
    "16 bit.png": png16(),
    "transparent.png": saved(Image.new("RGBA", (80, 80), (0, 0, 0, 0)), "PNG"),
    "black.jpg": saved(Image.new("RGB", (80, 80))),
    "noise.jpg": saved(Image.effect_noise((300, 300), 80).convert("RGB")),
    "empty.jpg": b"",
    ".DS_Store": b"\0\0\0\1Bud1",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "note.txt": b"hello",
    "sub/Größe #1 50% [a].jpg": jpeg(),
    "64 MP.jpg": saved(Image.new("L", (8000, 8000))),
    "65 MP.jpg": saved(Image.new("L", (8100, 8000))),
}


@pytest.mark.parametrize(
    ("name", "filters", "expected"),
    [
        ("photos", {}, "13 answered; 1 × empty; 4 × not an image; 1 × too many pixels"),
        ("photos/", {"gender": "Men", "k": 100}, "13 answered; 1 × empty; 4 × not an image; 1 × too many pixels"),
    ],
)
def test_a_folder_of_odd_photos(search, tmp_path, name, filters, expected):
    folder(tmp_path / "photos", PHOTOS)
    assert search(f"{tmp_path}/{name}", tmp_path, **filters) == expected


@pytest.mark.parametrize("name", ["what?now", "what?now/", "what?", "50%20 #1 ü", "12:30", "a&k=1?gender=Men", "[/]"])
def test_a_folder_is_found_whatever_its_name_looks_like(search, tmp_path, monkeypatch, name):
    folder(tmp_path / name, {"a.jpg": jpeg()})
    monkeypatch.chdir(tmp_path)
    assert search(f"{tmp_path}/{name}", tmp_path) == "1 answered"
    assert search(name, tmp_path, gender="Women") == "1 answered"


def test_photos_whose_names_are_no_utf8_or_that_links_lead_to_are_answered(search, tmp_path):
    folder(tmp_path / "photos", {"caf\udce9.jpg": jpeg(), "in/b.jpg": jpeg(), "c.jpg": b""})
    (tmp_path / "photos/in/again").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/broken.jpg").symlink_to("nowhere")
    assert search(tmp_path / "photos", tmp_path) == "2 answered; 1 × empty; 1 × missing file"
    source = open_source(str(tmp_path / "photos"), ())
    assert [photo.label for photo in source.photos] == ["broken.jpg", "c.jpg", "caf\ufffd.jpg", "in/b.jpg"]


def parquet(**columns: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


TWICE = io.BytesIO()
pq.write_table(pa.Table.from_arrays([pa.array(["a.jpg"])] * 2, ["image", "image"]), TWICE)
TABLES = {
    "csv-good": ("t.csv", b"image,gender\na.jpg,Men\n", "1 answered"),
    "csv-semicolons": (
        "t.csv",
        b"image;gender\na.jpg;Men\n",
        "it is no table of photos: it has no column image, or rows longer than its header: image;gender",
    ),
    "csv-bom": ("t.csv", b"\xef\xbb\xbfimage,gender\na.jpg,Men\n", "1 answered"),
    "csv-utf16": (
        "t.csv",
        "image,gender\na.jpg,Men\n".encode("utf-16"),
        "it is no table of photos: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    "csv-latin1": (
        "t.csv",
        "image,usage\na.jpg,Café\n".encode("latin-1"),
        "it is no table of photos: 'utf-8' codec can't decode byte 0xe9 in position 21: invalid continuation byte",
    ),
    "csv-header-Image": (
        "t.csv",
        b"Image\na.jpg\n",
        "it is no table of photos: it has no column image, or rows longer than its header: Image",
    ),
    "csv-header-spaces": ("t.csv", b"image, gender\na.jpg, Men\n", "' gender' is neither `image` nor a field"),
    "csv-other-columns": ("t.csv", b"image,comment\na.jpg,hello\n", "'comment' is neither `image` nor a field"),
    "csv-two-columns-of-a-name": (
        "t.csv",
        b"image,gender,gender\na.jpg,Men,Women\n",
        "it is no table of photos: it has two columns gender",
    ),
    "csv-upper-suffix": ("T.CSV", b"image\na.jpg\n", "1 answered"),
    "csv-backslash-path": ("t.csv", b"image\nsub\\a.jpg\n", "0 answered; 1 × missing file"),
    "csv-url": (
        "t.csv",
        b"image\nhttps://example.invalid/a.jpg\na.jpg\n",
        "1 answered; 1 × outside the folder",
    ),
    "csv-file-uri": ("t.csv", b"image\nfile://{here}/sub/Gr%C3%B6%C3%9Fe%20%231%20[a].jpg\n", "1 answered"),
    "csv-up-and-out": ("t.csv", b"image\n../lake/1.jpg\na.jpg\n", "1 answered; 1 × outside the folder"),
    "csv-a-folder": ("t.csv", b"image\nsub\na.jpg\n", "1 answered; 1 × missing file"),
    "csv-nul": ("t.csv", b"image\na\0b.jpg\na.jpg\n", "1 answered; 1 × no path"),
    "csv-header-only": ("t.csv", b"image\n", "it names no photo"),
    "csv-k-column": ("t.csv", b"image,k\na.jpg,5\n", "'k' is neither `image` nor a field"),
    "csv-list": ("t.csv", b'image,gender!,exclude\na.jpg,"Boys,Girls","1,2"\n', "1 answered"),
    "csv-wrong-filter": (
        "t.csv",
        b"image,gender,gender!\na.jpg,Men,Men\na.jpg,Men,\n",
        "1 answered; 1 × wrong filter",
    ),
    "csv-exclude-unknown": ("t.csv", b"image,exclude\na.jpg,1;2\na.jpg,B07X\n", "2 answered"),
    "csv-exclude-none": ("t.csv", b"image,exclude\na.jpg,1\x07\na.jpg,1\n", "1 answered; 1 × wrong filter"),
    "csv-and-same-filter": ("t.csv", b"image,gender\na.jpg,Women\n", "1 answered"),
    "parquet-null-image": ("t.parquet", parquet(image=["a.jpg", None]), "1 answered; 1 × no path"),
    "parquet-number-filter": ("t.parquet", parquet(image=["a.jpg"], season=[2012.0]), "1 answered"),
    "parquet-bytes": ("t.parquet", parquet(image=[jpeg(), b"", None]), "1 answered; 1 × empty; 1 × no path"),
    "parquet-struct": (
        "t.parquet",
        parquet(image=[{"bytes": jpeg(), "path": "x.jpg"}, {"bytes": None, "path": "a.jpg"}]),
        "2 answered",
    ),
    "parquet-two-columns-of-a-name": (
        "t.parquet",
        TWICE.getvalue(),
        "it is no table of photos: it has two columns image",
    ),
    "parquet-not": ("t.parquet", b"PAR1", "it is no table of photos: Parquet file size is 4 bytes"),
}


@pytest.mark.parametrize(("name", "data", "expected"), TABLES.values(), ids=TABLES)
def test_a_table_of_photos(search, tmp_path, name, data, expected):
    folder(tmp_path, {"a.jpg": jpeg(), "sub/Größe #1 [a].jpg": jpeg()})
    (tmp_path / name).write_bytes(data.replace(b"{here}", str(tmp_path).encode()))
    told = search(tmp_path / name, tmp_path, gender="Men")
    if "answered" in expected:
        assert told == expected
        return
    problem, where, remedy = told.split(" | ")
    assert problem.startswith(expected)
    assert where == f"file://…/{name}"
    ends = {"it is": NO_TABLE, "it na": "give a folder of images or a table with their paths"}
    assert remedy == ends.get(expected[:5], f"known fields: {FIELDS}")


COMMANDS = {
    "single-heic": (
        ["heic.jpg"],
        "64: the photo cannot be used: not an image: no JPEG, PNG, WEBP, GIF, BMP, AVIF, HEIF; it begins with "
        rf"b'\x00\x00\x00\x18ftyp' | heic.jpg | {NO_IMAGE}",
    ),
    "single-mpo": (["mpo large.JPG"], "mpo large.JPG; 10 listed"),
    "single-fields-two-values": (
        ["mpo.jpg", "--filter", "gender=Men", "--filter", "gender=Women"],
        "mpo.jpg; 10 listed",
    ),
    "single-value-nobody-has": (["mpo.jpg", "--filter", "gender=[/b]"], "mpo.jpg"),
    "single-bracket-name": (["sub/Größe #1 50% [a].jpg", "-k", "3"], "sub/Größe #1 50% [a].jpg; 3 listed"),
    "file-uri-of-a-photo": (["file://{here}/mpo.jpg", "-k", "2"], "{here}/mpo.jpg; 2 listed"),
    "url": (
        ["https://user:s3cret@example.invalid/a.jpg"],
        "64: photos are read from folders and s3:// alone | https://example.invalid/a.jpg | "
        "copy them into a folder first",
    ),
    "device": (["/dev/null"], f"64: the photo cannot be used: empty: the file has no bytes | /dev/null | {NO_IMAGE}"),
    "endless": (
        ["/dev/zero"],
        "64: the photo cannot be used: file too large: more than 33,554,432 bytes (LOOKALIKE_IMAGE_MAX_BYTES) "
        f"| /dev/zero | {NO_IMAGE}",
    ),
    "folder-and-k-as-a-filter": (
        ["sub", "--filter", "k=5"],
        f"64: unknown field 'k' | the filters | known fields: {FIELDS}",
    ),
    "nothing": ([""], "64: the photo cannot be read: No such file or directory | give the path of an image file"),
    "long-name": (
        ["x" * 300],
        f"64: the photo cannot be read: File name too long | {'x' * 300} | give the path of an image file",
    ),
    "folder-with-bracket-name": (["[/]"], "photos           1"),
}


@pytest.mark.parametrize(("arguments", "expected"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_search_says(lookalike, tmp_path, arguments, expected):
    folder(tmp_path, PHOTOS | {"[/]/[b].jpg": jpeg()})
    told = command_line(*lookalike("search", *(text.replace("{here}", str(tmp_path)) for text in arguments)))
    assert told == expected.replace("{here}", str(tmp_path))


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("gender=Men&gender!=Men", "every value that gender is to have is one that it is not to have"),
        ("exclude=1,a%07", r"'a\x07' is no product id: it has the control character '\x07'"),
        ("k=1&k=2", "k='1,2' is no number of 1 to 100"),
        ("k=0", "k='0' is no number of 1 to 100"),
        ("k=²", "k='²' is no number of 1 to 100"),
    ],
)
def test_what_a_step_is_asked_of_all_photos_is_asked_once(tmp_path, query, problem):
    folder(tmp_path, {"a.jpg": b"x"})
    with pytest.raises(UserError) as caught:
        open_source(f"{tmp_path}?{query}", ("gender",))
    assert caught.value.problem == problem
