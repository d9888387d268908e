"""What a backbone of photographs sees of a person: the views it is given, and what heads tell from its features."""

from dataclasses import replace

import numpy as np

from ml.look.sight import GENDERS, SIZE, Sight, fit_sight, views
from tests.figures import body

D = 40
PERSON = body()


def drawn(n):
    """Features in which the gender shows in the body and in the head, and the gender of each."""
    rng = np.random.default_rng(0)
    directions = {gender: 3 * rng.normal(size=D) for gender in GENDERS}
    genders = rng.choice(GENDERS, n).tolist()
    return [Sight(*(rng.normal(size=(2, D)) + directions[gender])) for gender in genders], genders


def test_heads_tell_the_gender_of_persons_they_have_not_learnt_from():
    seen, genders = drawn(400)
    heads = fit_sight(seen[:300], genders[:300])
    assert [heads.gender(each) for each in seen[300:]] == genders[300:]


def test_a_gender_that_is_not_sure_is_not_told():
    seen, genders = drawn(400)
    means = [[np.mean([each[part] for each, name in zip(seen, genders, strict=True) if name == gender], axis=0)
              for gender in GENDERS] for part in range(2)]  # fmt: skip
    assert fit_sight(seen, genders).gender(Sight(*(np.mean(of_part, axis=0) for of_part in means))) is None


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
