"""Articles cut out of photos."""

import numpy as np

from ml.look.crops import ASPECT, crop

IMAGE = np.full((400, 300, 3), (90, 120, 90), np.uint8)
IMAGE[100:200, 100:180] = (200, 30, 40)
MASK = np.zeros((400, 300), np.uint8)
MASK[100:200, 100:180] = 255
BOX = (90.0, 90.0, 190.0, 210.0)


def test_an_article_stands_alone_on_white_in_the_middle():
    picture = crop(IMAGE, MASK, BOX)
    assert abs(picture.shape[1] / picture.shape[0] - ASPECT) < 0.02
    assert not (picture == (90, 120, 90)).all(axis=2).any()
    red = (picture == (200, 30, 40)).all(axis=2)
    assert red.sum() == 100 * 80
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() - picture.shape[0] / 2) < 2
    assert abs(columns.mean() - picture.shape[1] / 2) < 2
    assert (picture[0] == 255).all()


def test_where_the_mask_has_missed_the_article_its_background_stays():
    picture = crop(IMAGE, np.zeros_like(MASK), BOX)
    assert (picture == (200, 30, 40)).all(axis=2).sum() == 100 * 80


def test_a_box_at_the_edge_or_without_an_area_gives_a_picture_all_the_same():
    assert crop(IMAGE, MASK, (-50.0, 350.0, 40.0, 500.0)).size
    assert crop(IMAGE, MASK, (300.0, 400.0, 300.0, 400.0)).size
    assert crop(IMAGE, MASK, (150.2, 150.2, 150.3, 150.3)).size
