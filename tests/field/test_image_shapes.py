"""Image files as cameras, shops and editors write them: what a refresh takes of each, or says.

Each case replaces images of a good catalogue of 20.
"""

# ruff: noqa: E501 - an expected outcome is one line
from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.catalogues import folder, good_files, image
from tests.field.outcomes import intake

N = 20
FILES = good_files(N)
PLAIN = Image.open(io.BytesIO(image(1, size=(60, 80), kind="PNG")))
OTHER = PLAIN.rotate(180)


def one(data: bytes, suffix: str = "jpg") -> dict[str, bytes]:
    """The catalogue with this file as the image of product 1."""
    return {name: content for name, content in FILES.items() if name != "images/1.jpg"} | {f"images/1.{suffix}": data}


def renamed(rename: Callable[[str], str]) -> dict[str, bytes]:
    return {(rename(name) if name.startswith("images/") else name): data for name, data in FILES.items()}


def encoded(kind: str, picture: Image.Image = PLAIN, **how) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()


def blank(*size: int) -> bytes:
    return encoded("JPEG", Image.new("RGB", size, "white"))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))


def png_with(extra: bytes) -> dict[str, bytes]:
    """A PNG with a chunk more, behind its header."""
    data = encoded("PNG")
    return one(data[:33] + extra + data[33:], "png")


def text(size: int, packed: bool = False) -> bytes:
    content = b"0123456789abcdef" * (size // 16)
    if packed:
        return chunk(b"zTXt", b"Raw profile type\0\0" + zlib.compress(content))
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + content)


def png16(colour: int, channels: int) -> dict[str, bytes]:
    """A 16-bit PNG written by hand, as Pillow writes none in colour; colour is the header's type."""
    pixels = np.full((80, 60, channels), 51400, ">u2")
    rows = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = chunk(b"IHDR", struct.pack("!IIBBBBB", 60, 80, 16, colour, 0, 0, 0))
    return one(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""), "png")


def images(data: bytes, ids: range) -> dict[str, bytes]:
    return FILES | {f"images/{product_id}.jpg": data for product_id in ids}


FRAMES = {"save_all": True, "append_images": [OTHER]}
ALL = "20 products"
NONE = "20 of 20 products (100.0%) cannot be used, at most 5.0% may be: 20 × no image (such as 1 in styles.csv: the folder images has no such file); files that no product has: "
MEND = " | styles.csv | mend the source, or allow more with LOOKALIKE_REJECT_MAX"


def without(reason: str) -> str:
    return f"19 products; 1 × {reason}"


def unknown(name: str) -> str:
    return f"{NONE}20 × unknown kind of file (such as images/{name}: images end in .jpg, .jpeg, .png, .webp, .avif, .heic){MEND}"


def no_row(count: int, name: str) -> str:
    return f"{NONE}{count} × no row (such as images/{name}: styles.csv has no such id){MEND}"


def elsewhere(names: str) -> str:
    return f"{NONE}outside the folder images it holds 20 × {names}{MEND}"


def stopped(count: int, reason: str, detail: str) -> str:
    return f"{count} of 20 products ({count / 20:.1%}) cannot be used, at most 5.0% may be: {count} × {reason} (such as 1 in images/1.jpg: {detail}){MEND}"


CASES: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "mpo-as-jpg": (lambda: one(encoded("MPO", **FRAMES)), ALL),
    "mpo-12-megapixels": (lambda: one(encoded("MPO", PLAIN.resize((3000, 4000)), **FRAMES)), ALL),
    "avif-as-jpg": (lambda: one(encoded("AVIF")), ALL),
    "heic-as-jpg": (lambda: one(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300)), without("not an image")),
    "webp-as-jpg": (lambda: one(encoded("WEBP")), ALL),
    "gif-as-jpg": (lambda: one(encoded("GIF")), ALL),
    "bmp-as-jpg": (lambda: one(encoded("BMP")), ALL),
    "tiff-as-jpg": (lambda: one(encoded("TIFF")), without("not an image")),
    "jp2-as-jpg": (lambda: one(encoded("JPEG2000")), without("not an image")),
    "psd-as-jpg": (lambda: one(b"8BPS\0\1" + bytes(300)), without("not an image")),
    "svg-as-jpg": (lambda: one(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), without("not an image")),
    "gif-suffix": (lambda: renamed(lambda name: name.replace(".jpg", ".gif")), unknown("1.gif")),
    "jfif-suffix": (lambda: renamed(lambda name: name.replace(".jpg", ".jfif")), unknown("1.jfif")),
    "jpe-suffix": (lambda: renamed(lambda name: name.replace(".jpg", ".jpe")), unknown("1.jpe")),
    "avif-suffix": (lambda: renamed(lambda name: name.replace(".jpg", ".avif")), ALL),
    "bmp-suffix": (lambda: renamed(lambda name: name.replace(".jpg", ".bmp")), unknown("1.bmp")),
    "no-suffix": (lambda: renamed(lambda name: name.removesuffix(".jpg")), unknown("1")),
    "jpg-jpg": (lambda: renamed(lambda name: name + ".jpg"), no_row(20, "1.jpg.jpg")),
    "query-in-name": (lambda: renamed(lambda name: name + "?v=2"), unknown("1.jpg?v=2")),
    "front-back": (
        lambda: renamed(lambda name: name.replace(".", "_1."))
        | {name.replace(".jpg", "_2.jpg"): data for name, data in FILES.items() if name != "styles.csv"},
        no_row(40, "10_1.jpg"),
    ),
    "copy-of": (lambda: FILES | {f"images/{n} (1).jpg": b"x" for n in range(1, 6)}, f"{ALL}; 5 × no row"),
    "folder-per-id": (lambda: renamed(lambda name: name.replace(".jpg", "/main.jpg")), f"{NONE}19 × second image (such as images/10/main.jpg: images/1/main.jpg is used); 1 × no row (such as images/1/main.jpg: styles.csv has no such id){MEND}"),
    "padded-names": (lambda: renamed(lambda name: f"images/{name[7:-4].zfill(10)}.jpg"), no_row(20, "0000000001.jpg")),
    "folder-Images": (lambda: renamed(lambda name: name.replace("images", "Images")), elsewhere("Images/*.jpg")),
    "folder-img": (lambda: renamed(lambda name: name.replace("images", "img")), elsewhere("img/*.jpg")),
    "images-beside-csv": (lambda: renamed(lambda name: name.removeprefix("images/")), elsewhere("*.jpg")),
    "images-train-test": (lambda: renamed(lambda name: name.replace("/", f"/{('train', 'test')[len(name) % 2]}/")), ALL),
    "thumbs-db": (lambda: FILES | {f"images/{name}": b"x" for name in ("Thumbs.db", "desktop.ini", "._1.jpg")}, f"{ALL}; 2 × unknown kind of file"),
    "lines-before-jpeg": (lambda: one(b"\r\n" + encoded("JPEG")), without("not an image")),
    "bytes-after-jpeg": (lambda: one(encoded("JPEG") + bytes(5000)), ALL),
    "jpeg-last-2-bytes-gone": (lambda: one(encoded("JPEG")[:-2]), without("damaged")),
    "jpeg-last-100-bytes-gone": (lambda: one(encoded("JPEG", PLAIN.resize((300, 400)))[:-100]), without("damaged")),
    "jpeg-progressive": (lambda: one(encoded("JPEG", progressive=True)), ALL),
    "jpeg-cmyk-adobe": (lambda: one(encoded("JPEG", PLAIN.convert("CMYK"))), ALL),
    "jpeg-icc": (lambda: one(encoded("JPEG", icc_profile=bytes(3000))), ALL),
    "jpeg-huge-exif": (lambda: one(encoded("JPEG", exif=b"Exif\0\0" + bytes(60_000))), ALL),
    "jpeg-100kb-comment": (lambda: one(encoded("JPEG", comment=b"x" * 60_000)), ALL),
    "one-pixel": (lambda: one(blank(1, 1)), ALL),
    "one-pixel-wide": (lambda: one(blank(1, 4000)), ALL),
    "65500-wide": (lambda: one(blank(65500, 2)), ALL),
    "8000x8000": (lambda: one(blank(8000, 8000)), ALL),
    "8001x8000": (lambda: one(blank(8001, 8000)), without("too many pixels")),
    "png16-rgb": (lambda: png16(2, 3), ALL),
    "png16-rgba": (lambda: png16(6, 4), ALL),
    "png16-l": (lambda: png16(0, 1), ALL),
    "png16-la": (lambda: png16(4, 2), ALL),
    "png-interlaced": (lambda: one(encoded("PNG", interlace=1), "png"), ALL),
    "png-2mb-packed-text": (lambda: png_with(text(2_000_000, packed=True)), ALL),
    "png-2mb-xmp": (lambda: png_with(text(2_000_000)), ALL),
    "png-70mb-xmp": (lambda: png_with(text(34_000_000)), without("file too large")),
    "png-broken-icc": (lambda: png_with(chunk(b"iCCP", b"x\0\0garbage")), ALL),
    "png-wrong-crc-in-text": (lambda: png_with(b"\0\0\0\x05tEXta\0bcd\0\0\0\0"), ALL),
    "png-2mb-icc": (lambda: png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2_000_000)))), ALL),
    "apng": (lambda: one(encoded("PNG", **FRAMES), "png"), ALL),
    "webp-animated": (lambda: one(encoded("WEBP", **FRAMES), "webp"), ALL),
    "webp-cut": (lambda: one(encoded("WEBP", PLAIN.resize((300, 400)))[:-200], "webp"), without("damaged")),
    "all-white": (lambda: images(blank(60, 80), range(1, 6)), ALL),
    "transparent-all": (lambda: one(encoded("PNG", Image.new("RGBA", (60, 80), (0, 0, 0, 0))), "png"), ALL),
    "git-lfs-pointers": (lambda: images(b"version https://git-lfs.github.com/spec/v1\n", range(1, N)), stopped(19, "not an image", "no JPEG, PNG, WEBP, GIF, BMP, AVIF, HEIF; it begins with b'version '")),
    "zero-byte-half": (lambda: images(b"", range(1, 11)), stopped(10, "empty", "the file has no bytes")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_image_file_is_taken_or_told_as_people_expect(case, lake, tmp_path):
    make, expected = CASES[case]
    assert intake(lake, folder(tmp_path / "in", make()), scratch=tmp_path / "scratch") == expected
