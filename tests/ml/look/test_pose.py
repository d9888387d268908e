"""Poses told from bodies of drawn keypoints."""

import numpy as np
import pytest

from ml.look.pose import fit_full_shot, fit_orientation, frame_of, mirrored, pose_features, pose_of
from tests.figures import behind_a_wall, body

TURNS = {"front": 0, "back": 180, "left": 90, "right": -90}
CLOSE = {"size": 420, "at": (200, 420)}
"""A close-up: hips and all below are out of the frame."""


def persons(seeds):
    told = [(body(turn, jitter=0.03, seed=seed), name) for seed in seeds for name, turn in TURNS.items()]
    return told + [(body(jitter=0.03, seed=seed, **CLOSE), "detailed") for seed in seeds]


def heads(seeds):
    pairs = persons(seeds)
    bodies = [person for person, _ in pairs]
    return fit_orientation(bodies, [name for _, name in pairs]), fit_full_shot(
        bodies, [name != "detailed" for _, name in pairs], [1.0] * len(pairs)
    )


def test_what_was_learnt_from_some_bodies_is_told_of_others():
    orientation, full_shot = heads(range(8))
    for person, name in persons(range(100, 104)):
        pose = pose_of(person, orientation, full_shot)
        assert pose.orientation == name
        assert pose.full_shot == (name != "detailed")
        assert 0.5 < pose.confidence <= 1
        assert 0.5 <= pose.full_shot_confidence <= 1


def test_whose_feet_are_behind_something_is_in_no_full_shot():
    whole = [body(turn, jitter=0.03, seed=seed) for seed in range(8) for turn in TURNS.values()]
    bodies = [*whole, *map(behind_a_wall, whole)]
    head = fit_full_shot(bodies, [True] * len(whole) + [False] * len(whole), [1.0] * len(bodies))
    orientation, _ = heads(range(3))
    other = body(30, jitter=0.03, seed=100)
    assert pose_of(other, orientation, head).full_shot
    assert not pose_of(behind_a_wall(other), orientation, head).full_shot


@pytest.mark.parametrize("counts", [(1.0, 0.1), (0.1, 1.0)])
def test_where_labels_disagree_those_that_count_more_are_believed(counts):
    orientation, _ = heads(range(3))
    pairs = persons(range(8))
    bodies, full = [person for person, _ in pairs], [name != "detailed" for _, name in pairs]
    labels = [*full, *(not so for so in full)]
    head = fit_full_shot([*bodies, *bodies], labels, np.repeat(counts, len(bodies)))
    for person, name in persons(range(100, 102)):
        assert pose_of(person, orientation, head).full_shot == ((name != "detailed") == (counts[0] == 1))


def test_in_a_mirror_left_is_right_and_front_stays_front():
    orientation, full_shot = heads(range(8))
    said = {name: pose_of(mirrored(body(turn)), orientation, full_shot).orientation for name, turn in TURNS.items()}
    assert said == {"front": "front", "back": "back", "left": "right", "right": "left"}


def test_the_same_bodies_teach_the_same():
    first, second = heads(range(3)), heads(range(3))
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_features_do_not_change_with_the_size_of_the_photo():
    small = body(30, frame=(300, 200), at=(100, 110), size=60)
    large = body(30, frame=(1200, 800), at=(400, 440), size=240)
    assert np.allclose(pose_features(small), pose_features(large), atol=0.01)


def test_the_frame_of_a_body_from_the_side_is_as_long_as_its_torso():
    frame = frame_of(body(90, size=120, at=(210, 230)).points)
    assert frame.size == pytest.approx(120, abs=2)
    assert (round(frame.x), round(frame.y)) == (204, 230)
