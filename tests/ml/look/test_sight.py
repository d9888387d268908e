"""What a backbone of photographs sees of a person: the views it is given, and what heads tell from its features."""

from dataclasses import replace

import numpy as np
import pytest

from ml.look.pose import ORIENTATIONS
from ml.look.sight import GENDERS, SIZE, Sight, fit_sight, views
from tests.figures import body

D = 40
PERSON = body()


def sights(genders, orientations, noise, seed=0):
    """Features in which the gender shows in the body and the head, and the orientation in the head."""
    rng = np.random.default_rng(seed)
    directions = {name: 3 * rng.normal(size=D) for name in (*GENDERS, *ORIENTATIONS)}
    made = []
    for gender, orientation in zip(genders, orientations, strict=True):
        whole, head = rng.normal(size=(2, D)) * noise
        made.append(Sight(whole + directions[gender], head + directions[gender] + directions[orientation]))
    return made


def drawn(n, noise):
    rng = np.random.default_rng(1)
    genders, orientations = rng.choice(GENDERS, n).tolist(), rng.choice(ORIENTATIONS, n).tolist()
    return sights(genders, orientations, noise), genders, orientations


def test_heads_tell_the_gender_and_the_orientation_of_persons_they_have_not_learnt_from():
    seen, genders, orientations = drawn(400, 1.0)
    heads = fit_sight(seen[:300], genders[:300], seen[:300], orientations[:300])
    told = [(heads.gender(each), ORIENTATIONS[heads.orientations(each).argmax()]) for each in seen[300:]]
    assert [gender for gender, _ in told] == genders[300:]
    assert [orientation for _, orientation in told] == orientations[300:]
    assert heads.orientations(seen[0]).sum() == pytest.approx(1)


def test_a_gender_that_is_not_sure_is_not_told():
    seen, genders, orientations = drawn(400, 1.0)
    heads = fit_sight(seen, genders, seen, orientations)
    between = Sight(*(np.mean([each[part] for each in seen], axis=0) for part in range(2)))
    assert heads.gender(between) is None


def test_the_views_of_a_person_are_the_whole_and_the_head():
    image = np.zeros((600, 400, 3), np.uint8)
    left, top, right, bottom = PERSON.box
    image[int(top) : int(bottom), int(left) : int(right)] = (0, 200, 0)
    x, y = PERSON.points[0, :2].astype(int)
    image[y - 20 : y + 20, x - 20 : x + 20] = (200, 0, 0)
    whole, head = views(image, PERSON)
    assert whole.shape == head.shape == (*SIZE, 3)
    assert (whole[..., 1] > 150).mean() > 0.7
    assert (head[..., 0] > 150).mean() > 2 * (whole[..., 0] > 150).mean()


def test_a_person_at_the_edge_whose_head_is_outside_has_views_all_the_same():
    points = PERSON.points.copy()
    points[:, 1] -= 900
    image = np.full((600, 400, 3), 7, np.uint8)
    assert (views(image, replace(PERSON, points=points)) == 7).all()
