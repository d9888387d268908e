"""Labelled photos: a COCO folder or archive with boxes, ignored ones, masks; and which side each photo is on."""

import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from infra.errors import UserError
from jobs import labelled_photos
from jobs.labelled_photos import persons, read, sides_of
from ml.articles import CLASSES
from ml.split import TEST, TRAIN, VALIDATION
from tests.catalogues import zip_bytes

SIZE = (60, 90)
CATEGORIES = [{"id": 7, "name": "topwear"}, {"id": 3, "name": "Bag"}, {"id": 9, "name": "belt"}]


def jpeg(seed):
    picture = Image.new("RGB", SIZE, (seed * 53 % 200, seed * 97 % 200, seed * 31 % 200))
    ImageDraw.Draw(picture).rectangle([10, 20, 40, 60], fill=(seed * 17 % 255, 200, 40))
    out = io.BytesIO()
    picture.save(out, "JPEG")
    return out.getvalue()


def annotation(image, category, *bbox, **more):
    return {"image_id": image, "category_id": category, "bbox": bbox} | more


def coco(n=2, **changed):
    listed = [{"id": at, "file_name": f"p{at}.jpg", "width": 60, "height": 90, "source": "street"} for at in range(n)]
    boxes = [annotation(0, 7, 10, 20, 30, 40), annotation(0, 9, 0, 0, 5, 5), annotation(1, 3, 1, 2, 3, 4, iscrowd=1)]
    return {"images": listed, "annotations": boxes, "categories": CATEGORIES} | changed


def files(told, **more):
    pictures = {f"images/{image['file_name']}": jpeg(image["id"]) for image in told["images"]}
    return {"boxes.json": json.dumps(told), **pictures, **more}


def written(folder, content):
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(folder)


def test_a_folder_and_an_archive_of_it_give_the_same_photos(tmp_path):
    content = files(coco(ignored=[annotation(0, 3, 50, 80, 2, 2, reason="tiny")]))
    archive = tmp_path / "photos.zip"
    archive.write_bytes(zip_bytes(content))
    one, other = read(written(tmp_path / "photos", content)), read(archive.as_uri())
    assert one.content == other.content
    for dataset in (one, other):
        first, second = dataset.photos.labels
        assert [CLASSES[place] for place in first.classes] == ["topwear", "bag"]  # a belt is none of ours
        assert first.boxes.tolist() == [[10, 20, 40, 60], [50, 80, 52, 82]]
        assert (first.ignored.tolist(), second.ignored.tolist()) == ([False, True], [True])
        assert dataset.photos.load(1).shape == (90, 60, 3)
        assert dataset.photos.regions(0) is None
        assert dataset.sources.tolist() == ["street", "street"]


def test_other_pictures_or_labels_are_another_content(tmp_path):
    told, other = coco(), coco(annotations=[])
    contents = {read(written(tmp_path / str(at), files(each))).content for at, each in enumerate((told, other))}
    changed = files(told) | {"images/p1.jpg": jpeg(5)}
    assert len(contents | {read(written(tmp_path / "changed", changed)).content}) == 3


def test_polygons_are_masks_and_the_smaller_lies_over_the_larger(tmp_path):
    square, whole = [[20, 30, 30, 30, 30, 40, 20, 40]], [[0, 0, 59, 0, 59, 89, 0, 89]]
    boxes = [annotation(0, 3, 20, 30, 10, 10, segmentation=square), annotation(0, 7, 0, 0, 59, 89, segmentation=whole)]
    regions = read(written(tmp_path, files(coco(annotations=boxes)))).photos.regions(0)
    assert regions.shape == (90, 60)
    assert regions[35, 25] == CLASSES.index("bag") + 1
    assert regions[5, 5] == CLASSES.index("topwear") + 1


def test_masks_of_tags_are_read_by_the_mapping_and_its_exceptions(tmp_path):
    tags = np.zeros((90, 60), np.uint8)
    tags[:30], tags[30:60], tags[60:] = 1, 2, 3
    out = io.BytesIO()
    Image.fromarray(tags).save(out, "PNG")
    mapping = {"street": {"shirt": "topwear", "vest": "topwear", "belt": "belt"}}
    mapping["street_exceptions"] = {"p1.jpg": {"vest": "outerwear", "shirt": None}}
    told = json.dumps({"1": "shirt", "2": "vest", "3": "belt"})
    more = {f"masks/p{at}.png": out.getvalue() for at in (0, 1)} | {
        "tags.json": told,
        "mapping.json": json.dumps(mapping),
    }
    photos = read(written(tmp_path, files(coco(), **more))).photos
    assert photos.regions(0)[[0, 40, 80], 0].tolist() == [CLASSES.index("topwear") + 1] * 2 + [0]
    assert photos.regions(1)[[0, 40, 80], 0].tolist() == [0, CLASSES.index("outerwear") + 1, 0]


WRONG = {
    "nothing there": (None, "isn't there"),
    "no COCO file": ({"tags.json": "{}"}, "holds no COCO file"),
    "two of them": ({**files(coco()), "more.json": json.dumps(coco())}, "holds 2 COCO files (boxes.json, more.json)"),
    "no JSON": ({"boxes.json": "{"}, "boxes.json is no JSON: Expecting"),
    "no class of ours": (files(coco(categories=[{"id": 7, "name": "cat"}])), "has none of our classes, but cat"),
    "a picture is missing": ({"boxes.json": json.dumps(coco())}, "images/p0.jpg isn't there"),
    "a picture is none": (files(coco()) | {"images/p1.jpg": b"no"}, "images/p1.jpg gives no picture: not an image"),
    "no box": (files(coco(annotations=[{"image_id": 0, "category_id": 7}])), "boxes.json is no COCO file: KeyError"),
}


@pytest.mark.parametrize(("content", "problem"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_learnt_from_is_told(tmp_path, content, problem):
    with pytest.raises(UserError, match=re.escape(problem)) as caught:
        read(written(tmp_path, content) if content else str(tmp_path / "nowhere"))
    assert caught.value.where == "LOOKALIKE_LOOK_DATASET"


# Sides ----------------------------------------------------------------------------------------------------------------


def test_a_fifth_is_held_back_by_the_names_hash_and_some_of_the_rest_held_out():
    names = [f"ccp-{at:04d}.jpg" for at in range(2000)]
    sides = sides_of(names, np.arange(2000))
    held_back = [int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 5 == 0 for name in names]
    assert ((sides == TEST) == held_back).all()
    assert 0.10 < (sides == VALIDATION).mean() < 0.13
    assert set(sides) == {TRAIN, VALIDATION, TEST}


def test_photos_of_one_person_are_on_one_side_the_held_back_first():
    names = [f"{at}.jpg" for at in range(300)]
    alone = sides_of(names, np.arange(300))
    numbers = np.arange(300) % 100
    together = sides_of(names, numbers)
    for number in range(100):
        drawn, side = set(alone[numbers == number]), set(together[numbers == number])
        assert side == ({TEST} if TEST in drawn else {VALIDATION} if VALIDATION in drawn else {TRAIN})


def test_photos_that_are_alike_show_one_person_and_so_do_those_alike_to_them(monkeypatch):
    monkeypatch.setattr(labelled_photos, "ROWS", 2)
    sights = np.random.default_rng(0).normal(size=(40, 200)).astype(np.float32)
    sights[30] = sights[3] + 0.5 * sights[10]
    sights[35] = sights[30] + 0.5 * sights[11]
    numbers = persons(sights)
    assert numbers[3] == numbers[30] == numbers[35]
    assert len(set(numbers)) == 38
