"""Folders and archives as people pack them: what a refresh takes of each, or says."""

# ruff: noqa: E501 - an expected outcome is one line
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.catalogues import folder, good_files, zip_bytes
from tests.field.outcomes import intake

FILES = good_files(20)
STYLES = FILES["styles.csv"]
ZIP = zip_bytes(FILES, zipfile.ZIP_DEFLATED)


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def renamed(rename: Callable[[str], str]) -> dict[str, bytes]:
    return {rename(name): data for name, data in FILES.items()}


def tarred(
    files: dict[str, bytes] = FILES, form: int = tarfile.PAX_FORMAT, hard: dict[str, str] | None = None
) -> bytes:
    """A tar; `hard` are further names of its files (name → file)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, target in (hard or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.LNKTYPE, target
            archive.addfile(entry)
    return out.getvalue()


def tar_of_v7() -> bytes:
    """As tools before POSIX write it: the headers have no sign."""
    data = bytearray(tarred(form=tarfile.USTAR_FORMAT))
    at = 0
    while data[at]:
        size = int(data[at + 124 : at + 135], 8)
        data[at + 257 : at + 265] = bytes(8)
        data[at + 148 : at + 156] = b"%06o\0 " % (sum(data[at : at + 148]) + 8 * 32 + sum(data[at + 156 : at + 512]))
        at += 512 * (1 + -(-size // 512))
    return bytes(data)


def links(path: Path, names: list[str]) -> Path:
    """A folder of which these are links to what lies elsewhere."""
    place, elsewhere = folder(path / "in", FILES), path / "elsewhere"
    for name in names:
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).rename(elsewhere / name)
        (place / name).symlink_to(elsewhere / name)
    return place


def link_to(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def in_place_of_names(top: bytes, utf8: bool = False) -> bytes:
    """A zip whose top folder has a name of these bytes, without the flag that says UTF-8."""
    stand_in = "~" * len(top)
    return zip_bytes(renamed(lambda name: f"{stand_in}/{name}")).replace(stand_in.encode(), top)


def many() -> bytes:
    """More members than a zip without zip64 can count."""
    return zip_bytes(FILES | {f"thumbs/{number}.txt": b"" for number in range(66_000)})


def streamed() -> bytes:
    """A zip written to a pipe: sizes follow the data."""

    class Pipe(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, data in FILES.items():
            archive.writestr(name, data)
    return pipe.data


def twice(*tops: str) -> dict[str, bytes]:
    return {top + name: data for top in tops for name, data in FILES.items()}


IMAGES = [name for name in FILES if name != "styles.csv"]
ALL = "20 products"
SOURCE = "LOOKALIKE_DATASET or --dataset"
FORMS = "give a .zip/.tar path, a folder, file://, s3://, https://, kaggle:owner/name or sample:N?seed=S"
CHECK = f"{SOURCE} | check the path, or {FORMS}"
PACKING = "give a .zip, or a .tar as it is or packed (.gz, .bz2, .xz, .zst), that holds styles.csv and images/"
BESIDE = "give a source (LOOKALIKE_DATASET) with styles.csv and a folder images beside it"
MEND = "mend the source, or allow more with LOOKALIKE_REJECT_MAX"
PARTS = "fetch or pack it again (`unzip -t` or `tar -t` tests it), or join its parts (`cat a.zip.0* > a.zip`)"
NO_IMAGES = "20 of 20 products (100.0%) cannot be used, at most 5.0% may be: 20 × no image (such as 1 in {}: the folder images has no such file)"
UNUSED = "files that no product has"
END = "its end is missing; it was cut, is a part of several, or something was appended"
OUT = "it leads to '…/elsewhere/{}'; `cp -rL` makes a file of it"


def none_of(count: int, link: str) -> str:
    """That so many images are links out of the source, of which `link` is one."""
    said = NO_IMAGES.format("styles.csv").replace("20 of 20", f"{count} of 20").replace("20 × no", f"{count} × no")
    share = f"{100 * count / 20:.1f}%"
    files = f"{count if link != 'images' else 1} × link out of the source (such as {link}: {OUT.format(link)})"
    return f"{said.replace('100.0%', share)}; {UNUSED}: {files} | styles.csv | {MEND}"


def no_archive(begin: str, name: str) -> str:
    return f"the source is neither a zip nor a tar: it starts with {begin} | file://…/{name} | {PACKING}"


def no_styles(found: str, name: str) -> str:
    return f"the source has no styles.csv; {found} | file://…/{name} | {BESIDE}"


def missing(path: str) -> str:
    return f"the source {path} isn't there | {CHECK}"


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "kaggle-small": (lambda path: saved(path / "a.zip", zip_bytes(twice("", "myntradataset/"))), ALL),
    "kaggle-full": (
        lambda path: saved(
            path / "a.zip",
            zip_bytes(
                twice("fashion-dataset/", "fashion-dataset/fashion-dataset/")
                | {"fashion-dataset/styles/1.json": b"{}", "fashion-dataset/images.csv": b"filename,link\n"}
            ),
        ),
        ALL,
    ),
    "images-folder-is-a-link": (lambda path: links(path, ["images"]), none_of(20, "images")),
    "every-8th-image-is-a-link": (lambda path: links(path, IMAGES[::8]), none_of(3, "images/1.jpg")),
    "all-images-are-links": (lambda path: links(path, IMAGES), none_of(20, "images/1.jpg")),
    "styles-csv-is-a-link": (
        lambda path: links(path, ["styles.csv"]),
        no_styles(
            f"it holds 20 × images/*.jpg; 1 × link out of the source (such as styles.csv: {OUT.format('styles.csv')})",
            "in",
        ),
    ),
    "the-folder-is-a-link": (lambda path: link_to(path / "latest", folder(path / "in", FILES)), ALL),
    "hard-links-in-a-tar": (
        lambda path: saved(
            path / "a.tar",
            tarred(
                {f"./{name}": data for name, data in FILES.items() if name == "styles.csv" or int(name[7:-4]) % 2},
                hard={f"./images/{n}.jpg": f"./images/{n - 1}.jpg" for n in range(2, 21, 2)},
            ),
        ),
        ALL,
    ),
    "tar-gnu": (lambda path: saved(path / "a.tar", tarred(form=tarfile.GNU_FORMAT)), ALL),
    "tar-v7": (lambda path: saved(path / "a.tar", tar_of_v7()), ALL),
    "tar-pax": (lambda path: saved(path / "a.tar", tarred()), ALL),
    "tar-bz2": (lambda path: saved(path / "a.tar.bz2", bz2.compress(tarred())), ALL),
    "tar-xz": (lambda path: saved(path / "a.tar.xz", lzma.compress(tarred())), ALL),
    "tar-zst": (lambda path: saved(path / "a.tar.zst", zstandard.compress(tarred())), ALL),
    "7z": (lambda path: saved(path / "a.7z", b"7z\xbc\xaf"), no_archive("b'7z\\xbc\\xaf'", "a.7z")),
    "rar": (lambda path: saved(path / "a.rar", b"Rar!\x1a\x07"), no_archive("b'Rar!\\x1a\\x07'", "a.rar")),
    "gz-of-a-csv": (
        lambda path: saved(path / "styles.csv.gz", gzip.compress(STYLES)),
        no_archive("b'id,gender,masterCategory'", "styles.csv.gz").replace(
            "source is", "source is packed by gzip, and inside is"
        ),
    ),
    "gz-of-a-zip": (lambda path: saved(path / "a.zip.gz", gzip.compress(ZIP)), ALL),
    "gz-twice": (
        lambda path: saved(path / "a.tgz.gz", gzip.compress(b"\x1f\x8b\x08")),
        no_archive(
            "b'\\x1f\\x8b\\x08'",
            "a.tgz.gz",
        ).replace("source is", "source is packed by gzip, and inside is"),
    ),
    "gz-two-members": (
        lambda path: saved(
            path / "a.tgz", b"".join(gzip.compress(part) for part in (tarred()[:9000], tarred()[9000:]))
        ),
        ALL,
    ),
    "gz-zeros-after": (lambda path: saved(path / "a.tgz", gzip.compress(tarred()) + bytes(512)), ALL),
    "zip-in-a-zip": (
        lambda path: saved(path / "a.zip", zip_bytes({"b.zip": ZIP})),
        no_styles("it holds b.zip", "a.zip"),
    ),
    "zip-in-a-folder": (lambda path: folder(path / "in", {"b.zip": ZIP}), no_styles("it holds b.zip", "in")),
    "styles-csv-alone": (
        lambda path: saved(path / "styles.csv", STYLES),
        no_archive("b'id,gender,masterCategory'", "styles.csv"),
    ),
    "a-parquet": (lambda path: saved(path / "a.parquet", b"PAR1"), no_archive("b'PAR1'", "a.parquet")),
    "zip-cp437-umlaut": (lambda path: saved(path / "a.zip", in_place_of_names("Herbst Mäntel".encode("cp437"))), ALL),
    "zip-shift-jis": (lambda path: saved(path / "a.zip", in_place_of_names("秋冬".encode("shift-jis"))), ALL),
    "zip-gbk": (lambda path: saved(path / "a.zip", in_place_of_names("目录".encode("gbk"))), ALL),
    "zip-utf8-no-flag": (lambda path: saved(path / "a.zip", in_place_of_names("Frühling".encode())), ALL),
    "zip-66000-members": (lambda path: saved(path / "a.zip", many()), ALL),
    "zip-streamed": (lambda path: saved(path / "a.zip", streamed()), ALL),
    "zip-part-1-of-2": (
        lambda path: saved(path / "a.z01", ZIP[:9000]),
        f"the archive is damaged: {END} | file://…/a.z01 | {PARTS}",
    ),
    "zip-part-2-of-2": (
        lambda path: saved(path / "a.zip.002", ZIP[9000:]),
        f"the archive is damaged: its beginning is missing; it was cut, or is the last part of several | file://…/a.zip.002 | {PARTS}",
    ),
    "zip-lzma": (
        lambda path: saved(path / "a.zip", zip_bytes(FILES, zipfile.ZIP_LZMA)),
        "the zip's member 'styles.csv' is packed by method 14, which isn't supported | file://…/a.zip | pack it again as an ordinary zip (deflate or stored)",
    ),
    "zip-html-appended": (
        lambda path: saved(path / "a.zip", ZIP + b"<!-- x -->" * 10_000),
        f"the archive is damaged: {END} | file://…/a.zip | {PARTS}",
    ),
    "zip-colon-in-top": (lambda path: saved(path / "a.zip", zip_bytes(twice("Look 12:30/"))), ALL),
    "zip-dot-in-top": (
        lambda path: saved(path / "a.zip", zip_bytes(twice(".export/"))),
        no_styles("it holds no files; 21 × hidden (such as .export/styles.csv)", "a.zip"),
    ),
    "zip-trailing-space-top": (lambda path: saved(path / "a.zip", zip_bytes(twice("export /"))), ALL),
    "zip-two-catalogues": (
        lambda path: saved(path / "a.zip", zip_bytes(twice("men/", "women/"))),
        "the source holds two catalogues, men/styles.csv and women/styles.csv | file://…/a.zip | give the one: its folder, or an archive of that alone",
    ),
    "zip-styles-apart": (
        lambda path: saved(path / "a.zip", zip_bytes(renamed(lambda name: name.replace("styles", "meta/styles")))),
        f"{NO_IMAGES.format('meta/styles.csv')}; {UNUSED}: outside the folder images it holds 20 × images/*.jpg | meta/styles.csv | {MEND}",
    ),
    "zip-images-deeper": (
        lambda path: saved(path / "a.zip", zip_bytes(renamed(lambda name: name.replace("images", "data/images")))),
        f"{NO_IMAGES.format('styles.csv')}; {UNUSED}: outside the folder images it holds 20 × data/images/*.jpg | styles.csv | {MEND}",
    ),
    "folder-images-alone": (
        lambda path: folder(path / "in", FILES) / "images",
        no_styles("it holds 20 × *.jpg", "in/images"),
    ),
    "folder-with-ipynb": (
        lambda path: folder(
            path / "in",
            FILES | {".ipynb_checkpoints/styles.csv": b"x", "images/.ipynb_checkpoints/1-checkpoint.jpg": b"x"},
        ),
        ALL,
    ),
    "folder-path-odd": (lambda path: folder(path / "Kollektion 50% #1 [neu] ü?&", FILES), ALL),
    "file-uri-spaces": (lambda path: folder(path / "with space", FILES).as_uri(), ALL),
    "file-uri-raw-space": (lambda path: f"file://{folder(path / 'with space', FILES)}", ALL),
    "file-uri-one-slash": (lambda path: f"file:{folder(path / 'in', FILES)}", missing("'file:…/in'")),
    "windows-path": (lambda path: "C:\\Users\\me\\catalogue.zip", missing("'…/C:\\\\Users\\\\me\\\\catalogue.zip'")),
    "quoted-path": (lambda path: f"'{folder(path / 'in', FILES)}'", missing("\"…/'…/in'\"")),
    "s3a": (
        lambda path: "s3a://bucket/key.zip",
        f"the source s3a://bucket/key.zip names a kind of source that isn't known | {SOURCE} | {FORMS}",
    ),
    "gs": (
        lambda path: "gs://bucket/key.zip",
        f"the source gs://bucket/key.zip names a kind of source that isn't known | {SOURCE} | {FORMS}",
    ),
    "kaggle-url": (lambda path: "kaggle.com/datasets/owner/name", missing("'…/kaggle.com/datasets/owner/name'")),
    "kaggle-slashes": (
        lambda path: "kaggle://owner/name",
        f"the source kaggle://owner/name names no Kaggle data set | {SOURCE} | give kaggle:owner/name or kaggle:owner/name/versions/N",
    ),
    "upper-case-scheme": (lambda path: f"FILE://{folder(path / 'in', FILES)}", ALL),
    "path-with-checksum-sign": (
        lambda path: folder(path / "a#sha256=1", FILES),
        f"the source …/a has no SHA-256 behind #sha256= | {SOURCE} | give its 64 hexadecimal digits",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_source_is_taken_or_told_as_people_expect(case, lake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, expected = CASES[case]
    assert intake(lake, make(tmp_path), scratch=tmp_path / "scratch") == expected


def test_a_tar_of_sparse_files_without_holes_is_taken(lake, tmp_path):
    """The field's tar-sparse: the system's own tar writes it, and no picture has a hole."""
    place = folder(tmp_path / "in", FILES)
    subprocess.run(["tar", "--sparse", "-cf", tmp_path / "a.tar", "-C", place, "."], check=True)
    assert intake(lake, tmp_path / "a.tar", scratch=tmp_path / "scratch") == ALL
