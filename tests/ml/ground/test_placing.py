"""Drawn garments, put where a drawn catalogue shows those of like shape."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.ground.placing import MARGIN, SIZE, VIEWS, Places, on_canvas

TALL, WIDE = (0.5, 0.52, 0.4, 0.9), (0.48, 0.6, 0.8, 0.3)
"""Middle, width and height of what a drawn catalogue shows, in shares of its pictures."""


def picture(box, ground="white"):
    """A catalogue's picture that shows something there."""
    x, y, width, height = box
    drawn = Image.new("RGB", (180, 240), ground)
    corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * [180, 240, 180, 240]
    ImageDraw.Draw(drawn).rectangle(corners.tolist(), fill="navy")
    return drawn


def garment(width, height):
    return Image.new("RGBA", (width, height), "maroon")


def box_of(picture):
    there = np.asarray(picture).min(axis=2) < 128
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    sides = np.tile(picture.size, 2)
    return np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]) / sides


@pytest.mark.parametrize("scale", [0.3, 1, 4])
@pytest.mark.parametrize("box", [TALL, WIDE])
def test_a_garment_is_shown_where_those_of_its_shape_are_whatever_its_size(box, scale):
    random = np.random.default_rng(0)
    shown = [np.add(of, random.uniform(-0.01, 0.01, 4)) for of in (TALL, WIDE) for _ in range(20)]
    places = Places.of(map(picture, shown))
    size = (round(scale * box[2] * 180), round(scale * box[3] * 240))
    placed = places.put(garment(*size), 3 / 4)
    assert placed.width / placed.height == pytest.approx(3 / 4, abs=0.02)
    assert box_of(placed) == pytest.approx(box, abs=0.03)
    assert np.asarray(placed)[0, 0].tolist() == [255] * 3


def test_views_of_a_garment_are_larger_or_smaller_higher_or_lower_and_turned():
    places, shown = Places.of(map(picture, [TALL, WIDE])), garment(round(0.4 * 180), round(0.9 * 240))
    first, *others = places.views(shown, 3 / 4)
    assert np.array_equal(first, places.put(shown, 3 / 4))
    x, y, width, height = box_of(first)
    for (size, lower, degrees), view in zip(VIEWS[1:], others, strict=True):
        if degrees:
            assert box_of(view)[2] > 1.03 * width  # a rectangle that is turned is wider
        else:
            edges = np.clip([y + lower - size * height / 2, y + lower + size * height / 2], 0, 1)
            assert box_of(view)[[0, 2]] == pytest.approx([x, size * width], abs=0.02)
            assert box_of(view)[[1, 3]] == pytest.approx([edges.mean(), np.ptp(edges)], abs=0.02)


@pytest.mark.parametrize("size", [(500, 6), (6, 500), (1, 1), (300, 300)])
def test_of_a_garment_of_a_shape_that_the_catalogue_has_not_most_is_shown(size):
    placed = Places.of(map(picture, [TALL, WIDE])).put(garment(*size), 3 / 4)
    there = (np.asarray(placed).min(axis=2) < 128).sum()
    assert there >= 0.8 * size[0] * size[1]


def test_what_is_not_on_white_tells_no_place():
    assert len(Places.of([picture(TALL, "grey"), Image.new("RGB", SIZE, "white")]).boxes) == 0


@pytest.mark.parametrize("aspect", [3 / 4, 1.0, 4 / 3])
def test_without_places_a_garment_stands_in_the_middle_of_a_white_picture(aspect):
    placed = Places.of([]).put(garment(100, 200), aspect)
    assert placed.width / placed.height == pytest.approx(aspect, abs=0.02)
    x, y, _, height = box_of(placed)
    assert (x, y) == pytest.approx((0.5, 0.5), abs=0.02)
    assert height == pytest.approx(1 - 2 * MARGIN, abs=0.04)


def test_a_garment_wider_than_the_picture_is_as_wide_as_it():
    _, _, width, _ = box_of(on_canvas(garment(400, 100), 3 / 4))
    assert width == pytest.approx(1 - 2 * MARGIN, abs=0.04)
