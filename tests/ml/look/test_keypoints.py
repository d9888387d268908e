"""The geometry of persons, with networks that see coloured dots instead of people."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.look.keypoints import (
    MIRRORED,
    NAMES,
    PLACE,
    Region,
    anchors,
    cut,
    decode_detections,
    find_persons,
    overlaps,
    paste,
    to_photo,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
FAR = -100.0
"""A logit of what is surely not so."""


def middle(pixels, colour):
    """Where a colour is, x and y in pixels; None where it is not."""
    near = np.abs(pixels - np.array(colour)).sum(axis=2) < 200
    rows, columns = np.nonzero(near)
    return np.array([columns.mean(), rows.mean()]) + 0.5 if len(rows) else None


def detect(values):
    """Takes a red dot for hips and a green one for the point above that tells size and direction."""
    hips, rim = (middle((values[0] + 1) * 127.5, colour) for colour in (RED, GREEN))
    raw, logits = np.zeros((1, 2254, 12), np.float32), np.full((1, 2254, 1), FAR, np.float32)
    if hips is not None:
        anchor = int(np.abs(anchors() - hips).sum(axis=1).argmin())
        raw[0, anchor, :8] = (
            *(hips - anchors()[anchor]),
            40,
            40,
            *(hips - anchors()[anchor]),
            *(rim - anchors()[anchor]),
        )
        logits[0, anchor] = 4
    return {"Identity": raw, "Identity_1": logits}


def landmarks(values):
    """Takes a blue dot for the nose and a red one for all else, and what is blue for the person."""
    told = np.zeros((39, 5), np.float32)
    told[:, :2] = middle(values[0] * 255, RED)
    told[PLACE["nose"], :2] = middle(values[0] * 255, BLUE)
    told[:, 3:] = 4
    mask = np.where(np.abs(values[0] * 255 - BLUE).sum(axis=2) < 200, 8.0, -8.0)
    return {
        "Identity": told.reshape(1, -1),
        "Identity_1": np.array([[0.9]], np.float32),
        "Identity_2": mask[None, :, :, None].astype(np.float32),
    }


def photo(size, hips, rim, nose, radius=14):
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for (x, y), colour in ((hips, RED), (rim, GREEN), (nose, BLUE)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("size", "hips", "rim", "nose"),
    [
        ((400, 600), (200, 330), (200, 90), (210, 120)),
        ((900, 500), (600, 260), (600, 60), (590, 90)),
        ((700, 700), (300, 400), (480, 220), (420, 300)),  # leaning to the right
        ((2000, 3000), (900, 1700), (900, 500), (850, 700)),
    ],
    ids=["tall", "wide", "leaning", "large"],
)
def test_a_person_is_found_where_the_photo_shows_it(size, hips, rim, nose):
    image = photo(size, hips, rim, nose, radius=max(size) // 40)
    (person,) = find_persons(image, detect, landmarks)
    near = max(size) / 120
    assert np.abs(person.points[PLACE["nose"], :2] - nose).max() < near
    assert np.abs(person.points[PLACE["left hip"], :2] - hips).max() < near
    assert person.mask.shape == image.shape[:2]
    left, top, right, bottom = person.box
    assert np.abs(np.array([left + right, top + bottom]) / 2 - nose).max() < near
    assert abs(right - left - 2 * (max(size) // 40)) < 2 * near
    assert person.visible.min() > 0.9
    assert person.score == pytest.approx(0.9)


def test_a_photo_of_nobody_has_no_persons():
    assert find_persons(np.full((300, 200, 3), 255, np.uint8), detect, landmarks) == []


def test_boxes_that_overlap_are_one_person_and_others_are_not():
    raw, logits = np.zeros((2254, 12), np.float32), np.full(2254, FAR, np.float32)
    centres = anchors()
    for wanted, score in (((60, 60), 3.0), ((70, 60), 1.0), ((170, 150), 2.0)):
        at = int(np.abs(centres - wanted).sum(axis=1).argmin())
        raw[at, :8] = (
            *(wanted - centres[at]),
            50,
            50,
            *(wanted - centres[at]),
            *(np.array(wanted) - [0, 40] - centres[at]),
        )
        logits[at] = score
    found = decode_detections(raw, logits)
    assert len(found) == 2
    (first_hips, first_rim), (second_hips, _) = found
    assert 60 < first_hips[0] < 65  # the surer one counts for more
    assert first_hips[1] - first_rim[1] == pytest.approx(40, abs=1e-3)
    assert second_hips.tolist() == pytest.approx([170, 150], abs=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.5])
def test_a_square_is_cut_upright_and_its_mask_goes_back_to_the_same_place(angle):
    image = photo((600, 500), (250, 300), (330, 210), (300, 250), radius=12)
    region = Region(280, 260, 300, angle)
    pixels = cut(Image.fromarray(image), region)
    where = middle(pixels * 255, GREEN) / 256
    assert to_photo(where[None], region)[0].tolist() == pytest.approx([330, 210], abs=1.5)
    mask = (np.abs(pixels * 255 - GREEN).sum(axis=2) < 200).astype(np.float32)
    rows, columns = np.nonzero(paste(mask, region, (600, 500)) > 127)
    assert [columns.mean(), rows.mean()] == pytest.approx([330, 210], abs=1.5)


def test_beyond_the_edges_a_square_is_black_and_its_mask_is_cut():
    pixels = cut(Image.new("RGB", (100, 80), "white"), Region(0, 0, 100, 0))
    assert pixels[:120, :120].max() == 0
    assert pixels[140:200, 140:].min() == 1
    assert paste(np.ones((256, 256), np.float32), Region(0, 0, 100, 0), (100, 80))[:45, :45].min() == 255


def test_overlap_is_the_share_that_two_boxes_have_in_common():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], float)
    assert overlaps(boxes[0], boxes).tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_a_mirror_swaps_left_and_right_and_twice_gives_the_same():
    assert NAMES[MIRRORED[PLACE["left wrist"]]] == "right wrist"
    assert MIRRORED[PLACE["nose"]] == PLACE["nose"]
    assert [MIRRORED[place] for place in MIRRORED] == list(range(len(NAMES)))
