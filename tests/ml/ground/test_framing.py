"""A garment cut out of a photo by a mask: drawn squares on drawn grounds, told apart by their colour."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.ground import framing

RED = (200, 30, 40)


def photo(*boxes, size=(300, 400), ground="peru"):
    drawn = Image.new("RGB", size, ground)
    for box in boxes:
        ImageDraw.Draw(drawn).rectangle(box, fill=RED)
    return drawn


def find_red(seen):
    """What is red, of a quarter of the size."""
    sure = (np.abs(seen.astype(int) - RED).sum(axis=2) < 60).astype(np.float32)
    return sure.reshape(framing.SIDE // 4, 4, framing.SIDE // 4, 4).mean(axis=(1, 3))


def is_red(image):
    return np.abs(np.asarray(image).astype(int) - RED).sum(axis=2) < 60


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (512, 300), (90, 120)])
@pytest.mark.parametrize("at", [(0.1, 0.2), (0.4, 0.5), (0.7, 0.75)])
def test_what_is_cut_out_is_the_garment_in_the_photos_own_pixels_and_nothing_else(size, at):
    left, top = round(at[0] * size[0]), round(at[1] * size[1])
    right, bottom = left + size[0] // 4, top + size[1] // 5
    cut = framing.cut_out(photo((left, top, right - 1, bottom - 1), size=size), find_red)
    assert abs(cut.width - (right - left)) <= 4
    assert abs(cut.height - (bottom - top)) <= 4
    there = np.asarray(cut.getchannel("A")) >= 128
    assert there.mean() > 0.85
    assert is_red(cut.convert("RGB"))[there].mean() > 0.95


def test_both_shoes_of_a_pair_are_kept_and_specks_are_not():
    cut = framing.cut_out(photo((60, 150, 110, 250), (180, 150, 230, 250), (10, 380, 18, 388)), find_red)
    assert cut.width == pytest.approx(171, abs=5)
    assert cut.height == pytest.approx(101, abs=5)


@pytest.mark.parametrize(
    "boxes", [(), ((10, 10, 20, 20),), ((0, 0, 299, 399),)], ids=["nothing", "hardly anything", "all"]
)
def test_where_the_mask_is_in_doubt_nothing_is_cut_out(boxes):
    assert framing.cut_out(photo(*boxes), find_red) is None


def test_a_mask_that_is_scattered_is_in_doubt():
    specks = [(x, y, x + 20, y + 20) for x in range(5, 280, 45) for y in range(5, 380, 45)]
    assert framing.cut_out(photo(*specks, (200, 200, 260, 260)), find_red) is None


@pytest.mark.parametrize("degrees", [-15, -4, 0, 9])
def test_a_garment_that_is_turned_there_and_back_is_what_it_was(degrees):
    cut = framing.cut_out(photo((100, 100, 199, 299)), find_red)
    back = framing.turned(framing.turned(cut, degrees), -degrees)
    assert back.size == pytest.approx(cut.size, abs=3)
    middle = back.crop((10, 10, back.width - 10, back.height - 10))
    assert is_red(middle.convert("RGB")).all()
    assert (np.asarray(middle.getchannel("A")) == 255).all()
