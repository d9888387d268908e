"""Articles cut out of photos."""

import numpy as np

from ml.look.articles import Article
from ml.look.crops import ASPECT, crop

IMAGE = np.full((400, 300, 3), (90, 120, 90), np.uint8)
IMAGE[100:200, 100:180] = (200, 30, 40)
MASK = np.zeros((400, 300), np.uint8)
MASK[100:200, 100:180] = 255
BOX = (90.0, 90.0, 190.0, 210.0)
RED, GREEN = (200, 30, 40), (90, 120, 90)


def topwear(box=BOX, mask=None):
    return Article("topwear", box, 0.9, mask)


def count(picture, colour):
    return (picture == colour).all(axis=2).sum()


def test_an_article_stands_alone_on_white_in_the_middle():
    picture = crop(IMAGE, MASK, topwear())
    assert abs(picture.shape[1] / picture.shape[0] - ASPECT) < 0.02
    assert not (picture == (90, 120, 90)).all(axis=2).any()
    red = (picture == (200, 30, 40)).all(axis=2)
    assert red.sum() == 100 * 80
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() - picture.shape[0] / 2) < 2
    assert abs(columns.mean() - picture.shape[1] / 2) < 2
    assert (picture[0] == 255).all()


def test_where_the_mask_has_missed_the_article_its_background_stays():
    picture = crop(IMAGE, np.zeros_like(MASK), topwear())
    assert (picture == (200, 30, 40)).all(axis=2).sum() == 100 * 80


def test_a_box_at_the_edge_or_without_an_area_gives_a_picture_all_the_same():
    assert crop(IMAGE, MASK, topwear((-50.0, 350.0, 40.0, 500.0))).size
    assert crop(IMAGE, MASK, topwear((300.0, 400.0, 300.0, 400.0))).size
    assert crop(IMAGE, MASK, topwear((150.2, 150.2, 150.3, 150.3))).size


def test_what_else_the_person_wears_is_not_in_the_picture_where_the_articles_own_mask_is_told():
    upper = MASK.copy()
    upper[150:] = 0
    assert count(crop(IMAGE, MASK, topwear(mask=upper)), RED) == 50 * 80


def test_a_bag_is_kept_where_it_is_not_within_the_persons_outline_and_clothes_are_not():
    around = np.full_like(MASK, 255)
    assert count(crop(IMAGE, MASK, topwear(mask=around)), GREEN) == 0
    assert count(crop(IMAGE, MASK, Article("bag", BOX, 0.9, around)), GREEN) > 0
