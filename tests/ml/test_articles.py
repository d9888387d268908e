"""What a detector of articles is taught and how it is read: one undoes the other, on any canvas."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from ml import articles
from ml.articles import (
    CLASSES,
    STRIDE,
    Articles,
    Labels,
    Placement,
    decode,
    fuse,
    in_photo,
    letterbox,
    overlaps,
    targets,
)

HEIGHT, WIDTH = 96, 64
N = len(CLASSES)


def labels(*known, ignored=()):
    """Labels of (class, left, top, right, bottom)."""
    boxes = np.array([box for _, *box in known], np.float32).reshape(-1, 4)
    places = np.array([CLASSES.index(name) for name, *_ in known], np.int64)
    return Labels(boxes, places, np.isin(np.arange(len(known)), ignored))


@st.composite
def boxes(draw):
    width, height = (draw(st.floats(3, size)) for size in (WIDTH, HEIGHT))
    left, top = draw(st.floats(0, WIDTH - width)), draw(st.floats(0, HEIGHT - height))
    return left, top, left + width, top + height


# Targets and decoding -------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(CLASSES), boxes(), max_size=N))
def test_what_is_taught_reads_as_the_boxes_it_was_made_of_a_class_at_a_time(known):
    wanted = labels(*((name, *box) for name, box in known.items()))
    taught = targets(wanted, HEIGHT, WIDTH)
    found = decode(taught.heat[..., 0], taught.sides[..., :4], least=0.999)
    assert sorted(found.classes) == sorted(wanted.classes)
    of_class = dict(zip(found.classes, found.boxes, strict=True))
    for place, box in zip(wanted.classes, wanted.boxes, strict=True):
        assert of_class[place] == pytest.approx(box, abs=1e-3)


@given(boxes())
def test_a_middle_is_one_cell_and_the_shares_of_a_box_are_one(box):
    known = labels(("bag", *box))
    heat, sides = targets(known, HEIGHT, WIDTH)
    of_bag = heat[..., CLASSES.index("bag"), 0]
    row, column = np.unravel_index(of_bag.argmax(), of_bag.shape)
    assert (of_bag == 1).sum() == 1
    left, top, right, bottom = known.boxes[0]  # a middle between two cells may be rounded into either
    assert (row, column) == ((top + bottom) / 2 // STRIDE, (left + right) / 2 // STRIDE)
    assert sides[..., 4].sum() == pytest.approx(1, abs=1e-5)
    assert sides[..., :4].min() > -STRIDE / 2 - 1e-3  # what the network can say


def test_two_articles_with_one_middle_keep_sides_of_their_own():
    shirt, jacket = ("topwear", 20, 30, 44, 66), ("outerwear", 12, 24, 52, 72)
    heat, sides = targets(labels(shirt, jacket), HEIGHT, WIDTH)
    found = decode(heat[..., 0], sides[..., :4], least=0.99)
    assert {CLASSES[place]: tuple(box) for place, box in zip(found.classes, found.boxes, strict=True)} == {
        name: pytest.approx(box) for name, *box in (shirt, jacket)
    }


def test_the_smaller_of_two_boxes_of_a_class_has_the_cells_of_both():
    large, small = ("topwear", 0, 0, 64, 96), ("topwear", 24, 40, 40, 56)
    heat, sides = targets(labels(small, large), HEIGHT, WIDTH)
    found = decode(heat[..., 0], sides[..., :4], least=0.99)
    assert found.boxes.tolist() == [list(small[1:])]


def test_where_an_ignored_box_is_nothing_is_learnt_of_its_class_but_middles():
    heat, _ = targets(labels(("bag", 8, 8, 40, 40), ("bag", 16, 16, 24, 24), ignored=[0]), HEIGHT, WIDTH)
    counts = heat[..., CLASSES.index("bag"), 1]
    assert counts[2, 2] == 1  # the other bag's middle
    assert (counts == 0).sum() == 15
    assert heat[..., CLASSES.index("dress"), 1].all()
    tiny, _ = targets(labels(("eyewear", 9, 9, 10, 10), ignored=[0]), HEIGHT, WIDTH)
    assert (tiny[..., 1] == 0).sum() == 1
    assert not tiny[..., 0].any()


def test_of_peaks_that_mean_one_article_the_surest_is_told_and_of_others_so_many():
    heat, sides = np.zeros((12, 8, N)), np.full((12, 8, N, 4), 12.0)
    heat[2, 2, 0], heat[2, 4, 0], heat[8, 2, 0], heat[11, 7, 0] = 0.9, 0.8, 0.7, 0.01
    sides[2, 4, 0] = [28, 12, 0, 12]  # nearly the box of the first
    found = decode(heat, sides)
    assert found.confidences.tolist() == pytest.approx([0.9, 0.7])
    assert len(decode(heat, sides, most=1).boxes) == 1
    assert decode(heat, sides, least=0.95).boxes.shape == (0, 4)


# The canvas -----------------------------------------------------------------------------------------------------------


def found(*told):
    """Articles of (box, class, confidence)."""
    corners, classes, confidences = zip(*told, strict=True) if told else ((), (), ())
    return Articles(
        np.array(corners, np.float32).reshape(-1, 4), np.array(classes, int), np.array(confidences, np.float32)
    )


def test_looks_that_mean_one_article_tell_its_mean_box_and_one_that_misses_it_makes_it_less_sure():
    both = fuse([found(((0, 0, 40, 40), 1, 0.9)), found(((0, 0, 44, 40), 1, 0.3), ((0, 0, 44, 40), 2, 0.5))])
    assert both.classes.tolist() == [1, 2]
    assert both.boxes[0] == pytest.approx([0, 0, 41, 40])
    assert both.confidences == pytest.approx([0.6, 0.25])


def test_of_what_looks_find_together_so_many_of_a_class_are_told_that_are_sure_enough():
    apart = [((100 * at, 0, 100 * at + 40, 40), 0, 0.9 - at / 10) for at in range(4)]
    other = ((0, 200, 40, 240), 3, 0.5)
    told = fuse([found(*apart, other)], most=2, least=0.6)
    assert (told.classes.tolist(), told.confidences) == ([0, 0], pytest.approx([0.9, 0.8]))
    assert fuse([found()] * 3).boxes.shape == (0, 4)


def at(left, confidence):
    return ((left, 0, left + 100, 100), 0, confidence)


def test_boxes_of_one_look_are_no_two_looks_at_one_article():
    told = fuse([found(at(0, 0.9), at(26, 0.9)), found(at(13, 0.91)), found()])
    assert told.confidences.tolist() == [pytest.approx((0.91 + 0.9) / 3)]


def test_boxes_that_have_come_together_are_told_once():
    told = fuse([found(at(0, 0.9), at(30, 0.85)), found(at(10, 0.8)), found(at(20, 0.7))])
    assert (len(told.boxes), told.confidences.max()) == (1, pytest.approx((0.9 + 0.8) / 3))


@given(st.lists(st.tuples(boxes(), st.integers(0, 7), st.floats(0.05, 1)), max_size=12), st.integers(1, 3))
def test_looks_that_agree_tell_what_each_tells(told, looks):
    apart = fuse([found(*told)], most=12)
    shared = overlaps(apart.boxes, apart.boxes)
    assume(np.abs(shared - articles.APART).min(initial=1) > 1e-3)  # a mean is off by a bit
    again = fuse([apart] * looks, most=12)
    assert again.classes.tolist() == apart.classes.tolist()
    np.testing.assert_allclose(again.boxes, apart.boxes, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(again.confidences, apart.confidences, rtol=1e-5)


@given(st.integers(8, 3000), st.integers(8, 3000), st.booleans())
def test_a_box_placed_on_the_canvas_comes_back_where_it_was(width, height, mirrored):
    whole = letterbox((width, height), HEIGHT, WIDTH)
    placement = Placement(HEIGHT, WIDTH, whole.scale, whole.offset, mirrored)
    box = np.array([[0, 0, width, height], [1, 2, width / 2, height / 2]], np.float32)
    placed = placement.onto(box)
    assert placement.back(placed) == pytest.approx(box, abs=0.01)
    assert placed[0].min() > -1e-3
    assert (placed[0, 2:] <= np.array([WIDTH, HEIGHT]) + 1e-3).all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [(0.4, 0.5), (1.7, 1.5)])
def test_what_is_drawn_is_where_its_box_is(mirrored, scale):
    photo = np.zeros((120, 100, 3), np.uint8)
    photo[30:60, 40:80] = [250, 0, 0]
    placement = Placement(HEIGHT, WIDTH, scale, (-20.0, 6.0), mirrored)
    canvas = np.asarray(placement.draw(Image.fromarray(photo)))
    rows, columns = np.nonzero(canvas[..., 0] > 190)
    box = placement.onto(np.array([[40, 30, 80, 60]]))[0].clip(0, [WIDTH, HEIGHT] * 2)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == pytest.approx(box, abs=1.2)
    assert (canvas[:5] == articles.GREY).all()


def test_a_photo_that_lies_outside_the_canvas_leaves_it_grey():
    far = Placement(HEIGHT, WIDTH, (1.0, 1.0), (1000.0, 0.0))
    assert (np.asarray(far.draw(Image.new("RGB", (9, 9)))) == articles.GREY).all()


def test_found_boxes_are_cut_at_the_photos_edges_and_masks_cover_the_photo():
    size = (200, 100)  # lies across: bands of the canvas above and below are empty
    placement = letterbox(size, HEIGHT, WIDTH)
    masks = np.zeros((N, HEIGHT // STRIDE, WIDTH // STRIDE), np.float32)
    masks[0, 4:8, :4] = 1  # the left half of what the photo covers
    found = Articles(np.array([[-9, -9, 99, 99]], np.float32), np.array([0]), np.ones(1, np.float32), masks)
    told = in_photo(found, placement, size)
    assert told.boxes.tolist() == [[0, 0, 200, 100]]
    assert told.masks.shape == (N, 4, 8)
    assert told.masks[0, :, :4].all()
    assert not told.masks[0, :, 4:].any()


def test_overlap_is_intersection_over_union():
    one, other = np.array([[0, 0, 10, 10]]), np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30], [3, 3, 3, 9]])
    assert overlaps(one, other).tolist() == [pytest.approx([1 / 3, 1, 0, 0])]
