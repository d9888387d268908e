"""Image files as users bring them: every kind decodes upright in RGB, every bad one has a named reason."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from ml import images
from ml.images import (
    DRAFT_MARGIN,
    LONG_SIDE,
    MAX_KEPT_BYTES,
    ImageError,
    decode,
    load,
    normalise,
    recipe_hash,
    store,
    within,
)

RED, WHITE = (200, 30, 40), (255, 255, 255)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def plain(size=(40, 60), colour=RED, mode="RGB") -> Image.Image:
    picture = Image.new("RGB", size, colour)
    return picture.quantize(4) if mode == "P" else picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("RGB", "JPEG", RED),
        ("RGB", "PNG", RED),
        ("RGB", "WEBP", RED),
        ("RGB", "BMP", RED),
        ("RGB", "AVIF", RED),
        ("RGB", "HEIF", RED),
        ("P", "GIF", RED),
        ("P", "PNG", RED),
        ("CMYK", "JPEG", RED),
        ("L", "JPEG", (82, 82, 82)),
        ("1", "PNG", WHITE),
    ],
)
def test_every_kind_of_image_becomes_rgb(mode, kind, expected):
    colour = WHITE if mode == "1" else RED
    pixels = decode(encoded(plain(colour=colour, mode=mode), kind))
    assert pixels.shape == (60, 40, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 12


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_kinds_that_phones_write_are_stored_as_jpeg(kind):
    stored, width, height = normalise(encoded(plain((60, 40)), kind))
    assert (Image.open(io.BytesIO(stored)).format, width, height) == ("JPEG", 60, 40)
    with pytest.raises(ImageError, match="damaged|not an image"):
        decode(encoded(plain((60, 40)), kind)[:-60])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_parts_are_white(kind):
    picture = Image.new("RGBA", (4, 4), (200, 30, 40, 0))
    picture.putpixel((0, 0), (200, 30, 40, 255))
    pixels = decode(encoded(picture, kind, lossless=True))
    assert pixels[0, 0].tolist() == list(RED)
    assert pixels[3, 3].tolist() == list(WHITE)


def test_a_transparent_palette_entry_is_white():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 200, 30, 40])
    assert decode(encoded(picture, "PNG", transparency=1))[0, 0].tolist() == list(WHITE)


def test_sixteen_bit_grey_keeps_its_brightness():
    picture = Image.fromarray(np.full((5, 5), 40_000, np.uint16))
    assert decode(encoded(picture, "PNG"))[0, 0].tolist() == [40_000 >> 8] * 3


def test_a_picture_that_exif_says_is_rotated_is_turned_upright():
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste((0, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to show
    data = encoded(picture, "JPEG", exif=exif, quality=95)
    pixels = decode(data)
    assert pixels.shape == (40, 20, 3)
    assert pixels[5].mean() < 60 < 200 < pixels[35].mean()
    stored, width, height = normalise(data)
    assert (width, height) == (20, 40)
    assert decode(stored).shape == (40, 20, 3)


ORIENTED = {  # EXIF 2.32, 4.6.4 A: where row 0 and column 0 of the stored pixels are seen
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels.transpose(1, 0, 2), 2),
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_each_exif_orientation_is_undone(orientation):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    assert np.array_equal(decode(data), ORIENTED[orientation](pixels))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage!!garbage", b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"])
def test_damaged_exif_leaves_the_picture_as_it_is(kind, exif):
    data = encoded(plain(), kind, exif=b"Exif\0\0" + exif)
    assert decode(data).shape == (60, 40, 3)
    assert normalise(data) == (data, 40, 60)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [plain((8, 8), RED), plain((8, 8), (0, 0, 255))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(decode(data)[4, 4].astype(int) - RED).max() <= 4


def test_a_plain_image_keeps_its_bytes_and_a_large_one_is_stored_at_512_pixels():
    small = encoded(plain(), "JPEG")
    assert normalise(small) == (small, 40, 60)
    stored, width, height = normalise(encoded(plain((600, 1200)), "JPEG"))
    assert (width, height) == (256, 512)
    assert decode(stored).shape == (512, 256, 3)


def test_a_small_picture_in_a_large_file_is_stored_without_its_metadata():
    extra = PngImagePlugin.PngInfo()
    extra.add_text("history", "x" * (MAX_KEPT_BYTES + 1))
    stored, width, height = normalise(encoded(plain(), "PNG", pnginfo=extra))
    assert (width, height) == (40, 60)
    assert len(stored) < 10_000


def test_a_comment_of_any_length_is_dropped():
    stored, _, _ = normalise(encoded(plain(mode="P"), "GIF", comment=b"x" * 100_000))
    assert len(stored) < 10_000


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF")])
def test_what_is_not_plain_is_stored_as_rgb_jpeg(mode, kind):
    stored, _, _ = normalise(encoded(plain(mode=mode), kind))
    picture = Image.open(io.BytesIO(stored))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")


GOLDEN = {
    "recipe": "65a3bde2bd93265d5f13374a5400629172155e933a85369a77cdb00187ee8c3a",
    "stored": "65aa2b7de454dc8d73a27fea372fcf06af6bbe66694aa400dc44a6ff03f1b379",
    "loaded": "c86f3d282b1041f35cc70c665cd2d9583745ecdcbe6d57afc61d4f79439a2c79",
}


def test_a_file_is_stored_and_loaded_as_the_same_pixels_for_ever():
    rows, columns = np.indices((700, 560))
    pixels = np.stack([rows * columns // 97, rows * 3 + columns, (rows // 40 + columns // 40) * 90, rows // 2], axis=2)
    source = encoded(Image.fromarray((pixels % 256).astype(np.uint8), "RGBA"), "PNG")
    stored, width, height = normalise(source)
    assert (width, height) == (410, 512)
    made = {"stored": decode(stored), "loaded": load(stored, 160, 120)}
    found = {name: hashlib.sha256(each.tobytes()).hexdigest() for name, each in made.items()}
    assert {"recipe": recipe_hash(), **found} == GOLDEN, (
        "images have other pixels than those that are stored: the catalogue's features would be of two kinds under one "
        "fingerprint. What changed (a library too) must be a value of `ml.images.RECIPE`; then store the hashes here."
    )


@pytest.mark.parametrize("name", images.RECIPE)
def test_every_constant_of_storing_is_in_its_hash(monkeypatch, name):
    before = recipe_hash()
    monkeypatch.setitem(images.RECIPE, name, "another")
    assert recipe_hash() != before


def photograph(width: int, height: int) -> Image.Image:
    """A picture with fine and coarse detail, as photos have and plain colours have not."""
    coarse = Image.effect_noise((width // 40, height // 40), 120).resize((width, height), Image.Resampling.BICUBIC)
    fine = Image.effect_noise((width, height), 12)
    return Image.merge("RGB", [Image.blend(coarse, fine, share) for share in (0.1, 0.3, 0.5)])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_draft_of_a_large_photo_looks_like_its_full_decoding(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(2400, 2100), "JPEG", exif=exif, quality=90)
    (exact, *size), (draft, *draft_size) = normalise(data), normalise(data, draft=True)
    assert draft_size == size
    assert draft != exact
    difference = np.abs(decode(draft).astype(int) - decode(exact))
    assert difference.mean() < 1
    assert difference.max() <= 12


HALVED = 2 * DRAFT_MARGIN * LONG_SIDE
"""Shortest side from which a draft is smaller than the image."""


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (lambda: photograph(60, 80), "JPEG"),
        (lambda: photograph(1080, 1440), "JPEG"),
        (lambda: photograph(HALVED + 400, HALVED - 1), "JPEG"),
        (lambda: plain((HALVED, HALVED)), "PNG"),
    ],
    ids=["catalogue", "full size", "one side too short", "PNG"],
)
def test_a_draft_of_any_other_image_is_the_image_that_the_lake_stores(picture, kind):
    data = encoded(picture(), kind)
    assert normalise(data, draft=True) == normalise(data)


def test_a_draft_keeps_the_limits_and_the_reasons():
    whole = encoded(photograph(HALVED, HALVED), "JPEG")
    with pytest.raises(ImageError, match="damaged"):
        normalise(whole[: len(whole) // 2], draft=True)
    bomb = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    with pytest.raises(ImageError, match="too many pixels"):
        normalise(bomb, draft=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_is_shrunk_upright_to_the_side_asked_for_and_never_enlarged(kind):
    picture = Image.linear_gradient("L").resize((1200, 900)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture, kind, exif=exif)
    seen = within(data, 300)
    assert seen.shape == (300, 225, 3)
    expected = Image.fromarray(decode(data)).resize((225, 300), Image.Resampling.LANCZOS)
    assert np.abs(seen.astype(int) - np.asarray(expected)).max() < 6
    assert np.array_equal(within(data, 2000), decode(data))


def test_load_gives_the_size_asked_for():
    pixels = load(encoded(plain(), "JPEG"), 192, 144)
    assert pixels.shape == (192, 144, 3)
    assert pixels.dtype == np.uint8


JPEG = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), "JPEG", quality=95)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, world", "not an image"),
        (b"<html>404</html>", "not an image"),
        (b"%PDF-1.7 ...", "not an image"),
        (JPEG[: len(JPEG) // 2], "damaged"),
        (JPEG[:30], "damaged"),
        (encoded(plain(), "PNG")[:60], "damaged"),
        (encoded(plain(), "TIFF"), "not an image"),
    ],
)
def test_a_file_that_gives_no_image_has_a_named_reason(data, reason):
    with pytest.raises(ImageError) as caught:
        decode(data)
    # A header cut short may already be no image: both are true of it.
    assert caught.value.reason in ({reason, "not an image"} if len(data) <= 60 else {reason})
    assert caught.value.detail


def test_a_decompression_bomb_is_refused_by_its_header():
    bomb = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match="too many pixels"):
        decode(bomb)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))


def spoilt(part: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return part[:-1] + bytes([part[-1] ^ 1])


PACKED = zlib.compress(bytes(2_000_000))
EXTRAS = {
    "packed text": chunk(b"zTXt", b"Raw profile type xmp\0\0" + PACKED),
    "packed international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0de\0x\0" + PACKED),
    "profile": chunk(b"iCCP", b"p\0\0" + PACKED),
    "text": spoilt(chunk(b"tEXt", b"a\0b")),
    "unknown": spoilt(chunk(b"prVt", b"x" * 20)),
    "packed, and wrong": spoilt(chunk(b"zTXt", b"a\0\0" + PACKED)),
}


def png_with(*extras: bytes, behind: bool = False) -> bytes:
    """A drawing, turned by its EXIF, with chunks before its pixels, or behind."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(plain(), "PNG", exif=exif)
    at = data.rindex(b"IEND") - 4 if behind else 33
    return data[:at] + b"".join(extras) + data[at:]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", EXTRAS)
def test_what_is_odd_beside_the_pixels_of_a_png_costs_nothing(kind, behind):
    data, good = png_with(EXTRAS[kind], behind=behind), png_with()
    assert np.array_equal(decode(data), decode(good))
    assert store(data)[1:] == store(good)[1:]
    stored = Image.open(io.BytesIO(store(data).data))
    stored.load()  # by any reader
    assert outcome(data) == "image"


def test_an_ordinary_png_is_stored_byte_for_byte_and_a_mended_one_without_what_spoilt_it():
    good, text = encoded(plain(), "PNG"), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b"))
    good = good[:33] + text + good[33:]
    assert normalise(good)[0] == good
    assert normalise(good[:33] + EXTRAS["profile"] + EXTRAS["text"] + good[33:])[0] == good


@pytest.mark.parametrize("spoil", [lambda data: data[:8] + spoilt(data[8:33]) + data[33:], lambda data: data[:-40]])
def test_what_spoils_the_pixels_of_a_png_is_damage_still(spoil):
    with pytest.raises(ImageError):
        decode(spoil(png_with(EXTRAS["text"])))


def test_a_png_of_packed_texts_without_end_is_refused():
    with pytest.raises(ImageError, match="damaged"):
        decode(png_with(*[EXTRAS["packed text"]] * 100))


def whole_files() -> list[bytes]:
    """A small file of each kind, with what decoders may stumble over: EXIF, profiles, palettes, frames."""
    picture = Image.effect_noise((24, 24), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    return [
        encoded(picture, "JPEG", exif=exif, icc_profile=b"x" * 200),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture, "PNG", exif=exif, icc_profile=b"x" * 200),
        encoded(picture.quantize(8), "PNG", transparency=3),
        encoded(picture.convert("RGBA"), "PNG"),
        encoded(picture, "PNG", **frames),
        encoded(picture, "WEBP", exif=exif),
        encoded(picture, "WEBP", **frames),
        encoded(picture.quantize(8), "GIF", comment=b"hello", **frames),
        encoded(picture, "BMP"),
        png_with(EXTRAS["text"], chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b"))),
    ]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Image size", "ignore:Invalid APNG")
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(whole_files()),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8), st.integers(0, 8)), min_size=1),
)
def test_damaged_bytes_give_an_image_or_a_named_reason_never_another_error(data, changes):
    for place, junk, cut in changes:
        at = int(place * len(data))
        data = data[:at] + junk + data[at + cut :]
    assert outcome(data) in {"image", "empty", "not an image", "too many pixels", "damaged"}


def outcome(data: bytes) -> str:
    """`image` where the file is stored and can be read again as it was described, else the reason."""
    try:
        stored, width, height = normalise(data)
    except ImageError as error:
        return error.reason
    return "image" if decode(stored).shape == (height, width, 3) else "another shape"


def striped(size: tuple[int, int]) -> Image.Image:
    """Black and white lines of a pixel each, across."""
    return Image.fromarray((np.indices(size[::-1])[0] % 2 * 255).astype(np.uint8)).convert("RGB")


def test_of_a_larger_image_no_more_is_looked_at_than_the_detail_of_a_catalogue():
    large = encoded(striped((60, 80)), "PNG")
    assert np.ptp(load(large, 80, 60)) == 255
    assert np.ptp(load(large, 80, 60, (40, 30))) == 0  # each pixel of 40 × 30 holds a line of both
    assert np.ptp(load(large, 80, 60, (80, 30))) == 255  # width alone


@pytest.mark.parametrize("size", [(30, 40), (12, 40), (30, 9)])
def test_an_image_within_the_detail_of_a_catalogue_is_looked_at_as_it_is(size):
    data = encoded(photograph(1200, 1600).resize(size), "PNG")
    assert np.array_equal(load(data, 64, 48, (40, 30)), load(data, 64, 48))


@pytest.mark.parametrize(
    ("sizes", "detail"),
    [
        ([(80, 60)] * 99 + [(600, 500)], (80, 60)),
        ([(80, 60)] * 90 + [(600, 500)] * 10, (600, 500)),
        ([(80, 60)] * 50 + [(40, 90)] * 50, (80, 90)),
        ([(7, 5)], (7, 5)),
        ([], None),
    ],
)
def test_the_detail_of_a_catalogue_is_the_size_that_hardly_any_of_its_images_exceeds(sizes, detail):
    assert images.detail_of(*np.array(sizes, int).reshape(-1, 2).T) == detail


def test_images_are_made_coarser_only_for_what_has_learnt_from_coarser_ones():
    assert images.coarser((224, 224), (80, 60)) == (80, 60)
    assert images.coarser((80, 224), (80, 60)) == (80, 60)
    for own, learnt in [((80, 60), (80, 60)), ((80, 60), (224, 224)), (None, (80, 60)), ((80, 60), None)]:
        assert images.coarser(own, learnt) is None


def test_views_are_what_is_loaded_in_each_size_and_the_thumbnail_that_is_stored():
    data = encoded(photograph(400, 300), "JPEG")
    found, small, whole = images.views(data, {"one": (64, 48), "other": (80, 60)}, (50, 40))
    assert np.array_equal(found["one"], load(data, 64, 48, (50, 40)))
    assert np.array_equal(found["other"], load(data, 80, 60, (50, 40)))
    assert small.tobytes() == store(data).thumbnail
    assert images.views(data, {})[0] == {}
