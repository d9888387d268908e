"""Boxes of articles drawn from keypoints, and what was learnt as a file."""

import numpy as np
import pytest

from ml.look.articles import SEEN_BY, fit_boxes, in_frame
from ml.look.keypoints import PLACE
from ml.look.pose import fit_full_shot, fit_orientation
from ml.look.sight import Sight, fit_sight
from ml.look.weights import Learnt, from_bytes, to_bytes
from tests.figures import body


def dressed(seed, **where):
    """A body and the boxes of its clothes, which reach a little beyond its keypoints."""
    person = body(jitter=0.02, seed=seed, **where)

    def box(names, beyond):
        points = person.points[[PLACE[f"{side} {name}"] for side in ("left", "right") for name in names], :2]
        return (*(points.min(axis=0) - beyond), *(points.max(axis=0) + beyond))

    size = where.get("size", 120)
    worn = {"topwear": box(["shoulder", "hip"], 0.1 * size), "footwear": box(["heel", "toes"], 0.1 * size)}
    worn |= {"bottomwear": box(["hip", "ankle"], 0.1 * size)}
    return person, worn | ({"eyewear": box(["eye"], 0.05 * size)} if seed % 4 == 0 else {})


def rules():
    pairs = [dressed(seed, size=90 + 5 * seed, at=(180 + seed, 210)) for seed in range(16)]
    return fit_boxes([person for person, _ in pairs], [worn for _, worn in pairs])


SIZE = 600, 400


def test_boxes_are_drawn_where_clothes_were_on_other_bodies():
    person, worn = dressed(100)
    found = {article.name: article for article in rules().draw(person, *SIZE)}
    assert set(found) == set(SEEN_BY)
    for name in ("topwear", "footwear", "bottomwear"):
        assert np.abs(np.array(found[name].box) - worn[name]).max() < 12, name


def test_what_few_people_wear_is_told_with_little_confidence():
    found = {article.name: article.confidence for article in rules().draw(body(), *SIZE)}
    assert found["topwear"] == pytest.approx(1, abs=0.01)
    assert found["eyewear"] == pytest.approx(0.25, abs=0.01)


def test_an_article_outside_the_frame_has_no_confidence_and_boxes_end_at_the_edges():
    close = body(size=300, at=(200, 300))
    found = {article.name: article for article in rules().draw(close, *SIZE)}
    assert in_frame(close, "footwear") == 0
    assert "footwear" not in found or found["footwear"].confidence == 0
    for article in found.values():
        left, top, right, bottom = article.box
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 600


def test_what_was_learnt_survives_its_file():
    bodies = [body(turn, jitter=0.02, seed=seed) for seed in range(3) for turn in (0, 90, 180, 270)]
    names = ["front", "left", "back", "right"] * 3
    seen = [Sight(*features) for features in np.random.default_rng(0).normal(size=(12, 2, 8))]
    sight = fit_sight(seen, ["Women", "Men"] * 6)
    full_shot = fit_full_shot(bodies, [True] * 6 + [False] * 6, [1.0] * 12)
    learnt = Learnt(fit_orientation(bodies, names), full_shot, sight, rules())
    data = to_bytes(learnt)
    again = from_bytes(data)
    assert to_bytes(again) == data
    drawn = {article.name: np.array(article.box) for article in again.boxes.draw(body(), *SIZE)}
    for article in learnt.boxes.draw(body(), *SIZE):
        assert np.abs(drawn[article.name] - article.box).max() < 2
