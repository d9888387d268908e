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
    assert is_red(cut).mean() > 0.85
    assert not (np.abs(np.asarray(cut).astype(int) - (205, 133, 63)).sum(axis=2) < 30).any()  # peru


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


@pytest.mark.parametrize("aspect", [3 / 4, 1.0, 4 / 3])
def test_a_garment_stands_in_the_middle_of_a_white_picture_of_the_catalogues_proportions(aspect):
    cut = framing.cut_out(photo((100, 100, 199, 299)), find_red)
    picture = framing.on_canvas(cut, aspect)
    assert picture.width / picture.height == pytest.approx(aspect, abs=0.02)
    red = is_red(picture)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert abs(rows[0] - (picture.height - 1 - rows[-1])) <= 4
    assert abs(columns[0] - (picture.width - 1 - columns[-1])) <= 4
    assert (rows[-1] - rows[0]) / picture.height == pytest.approx(1 - 2 * framing.MARGIN, abs=0.04)
    assert (np.asarray(picture)[0] == 255).all()
