"""Whether drawn pictures are on white ground."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.ground import white


def picture(ground, box=(12, 10, 48, 70)):
    drawn = Image.new("RGB", (60, 80), ground)
    ImageDraw.Draw(drawn).rectangle(box, fill="navy")
    return np.asarray(drawn)


@pytest.mark.parametrize(
    ("ground", "on_white"), [("white", True), ("#f0f0f0", True), ("peru", False), ("black", False)]
)
def test_a_picture_is_on_white_where_its_border_is(ground, on_white):
    assert white.is_on_white(picture(ground)) is on_white


def test_a_garment_may_reach_the_border():
    assert white.is_on_white(picture("white", (20, 0, 40, 79)))
    assert not white.is_on_white(picture("white", (0, 0, 59, 60)))


def test_a_catalogue_is_on_white_where_most_of_its_pictures_are():
    pictures = np.stack([picture("white")] * 3 + [picture("peru")] * 2)
    assert white.are_on_white(pictures)
    assert not white.are_on_white(pictures[2:])
    assert not white.are_on_white(pictures[:0])


def test_pictures_of_a_few_pixels_are_looked_at_too():
    assert white.is_on_white(np.full((1, 1, 3), 255, np.uint8))
    assert not white.is_on_white(np.zeros((2, 3, 3), np.uint8))
