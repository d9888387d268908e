"""Image files as users bring them: every kind decodes upright in RGB, every bad one has a named reason."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ml.images import ImageError, decode, load, normalise

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


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF")])
def test_what_is_not_plain_is_stored_as_rgb_jpeg(mode, kind):
    stored, _, _ = normalise(encoded(plain(mode=mode), kind))
    picture = Image.open(io.BytesIO(stored))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")


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


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=20))
def test_damaged_bytes_give_an_image_or_a_named_reason_never_another_error(at, junk):
    def outcome(data):
        try:
            return "image" if decode(data).ndim == 3 else "no array of an image"
        except ImageError as error:
            return error.reason

    reasons = {"empty", "not an image", "too many pixels", "damaged"}
    assert outcome(JPEG[:at] + junk + JPEG[at + len(junk) :]) in {"image", *reasons}
