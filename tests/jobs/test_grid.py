"""The picture of lists: every image at its place, whatever its size."""

import numpy as np

from jobs.grid import GAP, MARGIN, QUERY_GAP, draw_grid

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
