"""The picture of lists: every image at its place, whatever its size."""

import numpy as np
import pytest
from PIL import Image

from infra.errors import UserError
from jobs.grid import GAP, KINDS, MARGIN, QUERY_GAP, check_file, draw_grid, write_grid

RED, BLUE = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)


def block(colour, height=80, width=60):
    return np.broadcast_to(colour, (height, width, 3)).copy()


def test_the_query_stands_left_of_its_neighbours_and_images_fill_their_tiles():
    picture = draw_grid([[block(RED), block(BLUE), block(BLUE)]], height=40, width=30)
    assert picture.shape == (40 + 2 * MARGIN, 3 * 30 + 2 * GAP + QUERY_GAP + 2 * MARGIN, 3)
    middle = MARGIN + 20
    assert (picture[middle, MARGIN + 15] == RED).all()
    assert (picture[middle, MARGIN + 30 + GAP + QUERY_GAP + 15] == BLUE).all()
    assert (picture[middle, MARGIN + 30 + QUERY_GAP // 2] == 255).all()


def test_images_of_another_shape_are_fitted_and_centred():
    picture = draw_grid([[block(RED, 100, 10), block(BLUE, 10, 100)]], height=40, width=30)
    assert (picture[MARGIN + 20, MARGIN + 15] == RED).all()
    assert (picture[MARGIN + 20, MARGIN + 2] == 255).all()


def test_rows_may_differ_in_length():
    assert draw_grid([[block(RED)], [block(RED), block(BLUE)]], 10, 10).shape[0] == 2 * 10 + GAP + 2 * MARGIN


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_can_be_written_in_any_case(tmp_path, kind):
    for file in (tmp_path / f"a{kind}", tmp_path / f"b{kind.upper()}"):
        check_file(file)
        write_grid(file, [[block(RED), block(BLUE)]])
        assert Image.open(file).size == draw_grid([[block(RED), block(BLUE)]]).shape[1::-1]


@pytest.mark.parametrize("name", ["grid", "grid.txt", "no/such/x.png", "folder.png", ".png"])
def test_a_file_that_cannot_be_a_picture_is_refused_before_the_work(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError) as caught:
        check_file(tmp_path / name)
    assert name in caught.value.where
    assert ".png" in caught.value.remedy
