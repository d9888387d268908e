"""What pictures teach of poses, from an archive of labels and drawn bodies."""

import json

import numpy as np
import pytest

from jobs.street_photos import StreetPhotos
from jobs.train_pose import learn
from ml.look.pose import pose_of
from ml.look.sight import Sight
from tests.catalogues import zip_bytes
from tests.figures import behind_a_wall, body

CLOSE = {"size": 420, "at": (200, 420)}
"""A close-up: hips and all below are out of the frame."""


@pytest.fixture
def street(tmp_path):
    """Whole bodies and close-ups with poses; and without, whole ones in shoes, and some whose feet are hidden."""
    seen, poses, worn = {}, {}, []
    for seed in range(24):
        standing, close = (body(30 * (seed % 3), jitter=0.03, seed=seed, **how) for how in ({}, CLOSE))
        if seed < 4:
            seen |= {f"whole-{seed}.jpg": [standing], f"close-{seed}.jpg": [close]}
            poses[f"whole-{seed}.jpg"] = {"full_shot": True, "orientation": "front", "detailed": False}
            poses[f"close-{seed}.jpg"] = {"full_shot": False, "orientation": "front", "detailed": True}
        else:
            seen |= {f"shod-{seed}.jpg": [standing], f"wall-{seed}.jpg": [behind_a_wall(standing)]}
            worn += [(f"shod-{seed}.jpg", "footwear"), (f"wall-{seed}.jpg", "topwear")]
    images = [{"id": number, "file_name": name} for number, (name, _) in enumerate(worn)]
    boxes = [
        {"image_id": number, "category": category, "bbox": [150, 160, 100, 120]}
        for number, (_, category) in enumerate(worn)
    ]
    files = {
        "pose.json": json.dumps(poses).encode(),
        "boxes.json": json.dumps({"images": images, "annotations": boxes}).encode(),
        "gender.json": json.dumps({"Women": ["whole-0.jpg"], "Men": ["whole-1.jpg"]}).encode(),
    }
    (tmp_path / "street.zip").write_bytes(zip_bytes(files))
    return StreetPhotos(tmp_path / "street.zip"), seen


def test_pictures_without_a_pose_teach_by_their_shoes_what_no_full_shot_is(street):
    photos, seen = street
    sights = {name: Sight(np.ones(2), np.ones(2)) for name in ("whole-0.jpg", "whole-1.jpg")}
    other = body(30, jitter=0.03, seed=100)
    told = {}
    for case, names in (("all", seen), ("with poses", {name for name in seen if not name.startswith("wall")})):
        learnt = learn(photos, seen, sights, names)
        told[case] = [
            pose_of(person, learnt.orientation, learnt.full_shot).full_shot for person in (other, behind_a_wall(other))
        ]
    assert told == {"all": [True, False], "with poses": [True, True]}
