"""Likenesses of drawn pictures."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.likenesses import liken


def picture(size=(60, 80)):
    drawn = Image.new("RGB", size, "white")
    ImageDraw.Draw(drawn).rectangle(
        (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill=(150, 40, 60)
    )
    return drawn


@pytest.mark.parametrize("size", [(60, 80), (512, 384), (20, 20)])
def test_a_likeness_is_no_larger_than_its_picture_and_shows_the_same_on_white(size):
    for seed in range(12):
        likeness = liken(picture(size), np.random.default_rng(seed))
        assert likeness.width <= size[0]
        assert likeness.height <= size[1]
        pixels = np.asarray(likeness).astype(int)
        middle = pixels[likeness.height // 2, likeness.width // 2]
        assert middle[0] > middle[1] + 20
        assert np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]]) > 230


def test_likenesses_differ_and_the_same_number_gives_the_same():
    made = [np.asarray(liken(picture(), np.random.default_rng(seed)).resize((60, 80))) for seed in (0, 1, 1)]
    assert not np.array_equal(made[0], made[1])
    assert np.array_equal(made[1], made[2])
