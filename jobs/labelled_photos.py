"""Labelled photos of dressed people: a COCO folder or archive → what a detector of articles learns and is judged by.

The place holds one COCO file (`images`, `annotations`, `categories`), in which categories of the names of
`ml.articles.CLASSES` count, and the pictures it names, in `images/` or where it says. Beside COCO's own, `iscrowd` and
a list `ignored` hold boxes that are no mistakes to find, and a picture's `source` tells where it is from. What pixel is
of which class is told by polygons (`segmentation`), or by `masks/<name>.png`, in which a pixel's value is a tag:
`tags.json` names the tags, and `mapping.json` says of which class a source's are, and in `<source>_exceptions` where a
picture's are of another. Nothing is unpacked to disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pyarrow import fs

from infra import archives
from infra.errors import UserError
from infra.lake import filesystem
from jobs.detectors import build_backbone
from ml import images
from ml.articles import CLASSES, Labels, Photos
from ml.features import BATCH, Extractor
from ml.images import ImageError
from ml.split import TEST, TRAIN, VALIDATION, fold_of

SETTING = "LOOKALIKE_LOOK_DATASET"
PLACE = {name: place for place, name in enumerate(CLASSES)}
HELD_BACK, HELD_OUT = 5, 7
"""One picture in so many is held back to tell figures of, by the first 32 bits of its name's SHA-256, and of the others
one in so many is held out to make choices by, by the next 32."""
SIGHT, SIGHT_SIZE = "efficientnet-lite0", (160, 120)
"""The backbone whose features tell persons, and its input, in pixels."""
ALIKE = 0.53
"""Least cosine of the standardised features of one person in the same clothes. Of the 30 nearest pairs of the street
photos, looked at by eye, 11 were; they begin here, and who only looks like another comes to the same side too."""
ROWS = 1024
"""Pictures compared with all at once."""


@dataclass(frozen=True)
class Dataset:
    """Labelled photos, each one's source, str (n,), and side, int8 (n,), of `ml.split`; the hash of it all (hex)."""

    photos: Photos
    sources: np.ndarray
    sides: np.ndarray
    content: str


@dataclass(frozen=True)
class _Files:
    """What a place holds, by names with `/` between folders."""

    where: str
    names: frozenset[str]
    read: Callable[[str], bytes]

    def json(self, name: str) -> Any:
        """A file's content; None where there is no such file.

        Raises:
            UserError: it is no JSON.
        """
        if name not in self.names:
            return None
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise _wrong(f"{self.where}/{name}", f"is no JSON: {error}", "correct the file") from None


def read(place: str) -> Dataset:
    """The labelled photos at a path or URI: a folder, or a zip archive.

    Raises:
        UserError: there is nothing of that kind, or a picture cannot be read.
    """
    files = _open(place)
    name, told = _coco(files)
    try:
        return _dataset(files, told)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        problem = f"is no COCO file: {type(error).__name__}: {error}"
        raise _wrong(
            f"{files.where}/{name}", problem, "give images, annotations and categories as COCO has them"
        ) from None


def _open(place: str) -> _Files:
    system, path = filesystem(place if "://" in place else Path(place).absolute().as_uri())
    found = system.get_file_info(path)
    if found.type == fs.FileType.Directory:
        inside = system.get_file_info(fs.FileSelector(path, recursive=True))
        names = frozenset(info.path.removeprefix(f"{path}/") for info in inside if info.is_file)
        return _Files(place, names, lambda name: _content(system, f"{path}/{name}"))
    if found.type != fs.FileType.File:
        raise _wrong(place, "isn't there", "give a folder or a zip archive, its path, file:///… or s3://…")
    stream = system.open_input_file(path)
    archives.check_zip(stream, place, limit=2**40)
    archive = zipfile.ZipFile(stream)
    return _Files(place, frozenset(archive.namelist()), archive.read)


def _content(system: fs.FileSystem, path: str) -> bytes:
    with system.open_input_file(path) as stream:
        return stream.read()


def _coco(files: _Files) -> tuple[str, dict]:
    """The one COCO file of a place: its name and content."""
    found = {}
    for name in sorted(files.names):
        told = files.json(name) if name.endswith(".json") else None
        if isinstance(told, dict) and {"images", "annotations", "categories"} <= told.keys():
            found[name] = told
    if len(found) != 1:
        held = f"holds {len(found)} COCO files ({', '.join(found)})" if found else "holds no COCO file"
        raise _wrong(files.where, held, "give a place with one JSON file of `images`, `annotations` and `categories`")
    return next(iter(found.items()))


def _dataset(files: _Files, told: dict) -> Dataset:
    listed = sorted(told["images"], key=lambda image: str(image["file_name"]))
    names = [str(image["file_name"]) for image in listed]
    sources = np.array([str(image.get("source", "")) for image in listed], np.str_)
    classes = {category["id"]: PLACE.get(str(category["name"]).lower()) for category in told["categories"]}
    if set(classes.values()) <= {None}:
        known = ", ".join(str(category["name"]) for category in told["categories"])
        raise _wrong(files.where, f"has none of our classes, but {known}", f"name categories {', '.join(CLASSES)}")
    boxes = _boxes(told, classes)
    labels = [_labels(boxes[image["id"]]) for image in listed]
    members = [_member(files, name) for name in names]
    regions = _Regions(files, listed, boxes)

    def load(at: int) -> np.ndarray:
        try:
            return images.decode(files.read(members[at]))
        except ImageError as error:
            raise _wrong(f"{files.where}/{members[at]}", f"gives no picture: {error}", "replace it") from None

    photos = Photos(names, labels, load, regions)
    content = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for member in members:
        content.update(hashlib.sha256(files.read(member)).digest())
    return Dataset(photos, sources, sides_of(names, persons(_sights(photos))), content.hexdigest())


def _boxes(told: dict, classes: Mapping[object, int | None]) -> dict[object, list[dict]]:
    """Annotations by the id of their picture: those of our classes, `place` and whether `ignored` added."""
    boxes = defaultdict(list)
    for ignored, listed in ((False, told["annotations"]), (True, told.get("ignored", []))):
        for annotation in listed:
            place = classes[annotation["category_id"]]
            if place is not None:
                never = ignored or bool(annotation.get("iscrowd"))
                boxes[annotation["image_id"]].append(annotation | {"place": place, "ignored": never})
    return boxes


def _labels(boxes: list[dict]) -> Labels:
    corners = np.array([box["bbox"] for box in boxes], np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    ignored = np.array([box["ignored"] for box in boxes], bool)
    return Labels(corners, np.array([box["place"] for box in boxes], np.int64), ignored)


def _member(files: _Files, name: str) -> str:
    """Where the picture of a name is."""
    for path in (f"images/{name}", name, f"images/{PurePosixPath(name).name}"):
        if path in files.names:
            return path
    raise _wrong(f"{files.where}/images/{name}", "isn't there", "add the picture, or take it out of the COCO file")


class _Regions:
    """The class of each pixel of a photo at a place, + 1, uint8 (h, w), or None: see `ml.articles.Photos`."""

    def __init__(self, files: _Files, listed: list[dict], boxes: Mapping[object, list[dict]]) -> None:
        self._files, self._listed, self._boxes = files, listed, boxes
        self._tags, self._mapping = files.json("tags.json") or {}, files.json("mapping.json") or {}

    def __call__(self, at: int) -> np.ndarray | None:
        image = self._listed[at]
        mask = f"masks/{PurePosixPath(image['file_name']).stem}.png"
        if mask in self._files.names:
            tags = np.asarray(Image.open(io.BytesIO(self._files.read(mask))))
            return self._classes_of_tags(image)[tags]
        drawn = [box for box in self._boxes[image["id"]] if isinstance(box.get("segmentation"), list)]
        return _filled((image["width"], image["height"]), drawn) if drawn else None

    def _classes_of_tags(self, image: dict) -> np.ndarray:
        """Class + 1 of each tag of a picture, uint8 (256,)."""
        source = image.get("source", "")
        named = self._mapping.get(source, {}) | self._mapping.get(f"{source}_exceptions", {}).get(
            image["file_name"], {}
        )
        classes = np.zeros(256, np.uint8)
        for tag, name in self._tags.items():
            classes[int(tag)] = PLACE.get(named.get(name), -1) + 1
        return classes


def _filled(size: tuple[int, int], drawn: list[dict]) -> np.ndarray:
    """Polygons as pixels, the small over the large: what is worn over something is mostly the smaller of both."""
    canvas = Image.new("L", size)
    for box in sorted(drawn, key=lambda box: -box["bbox"][2] * box["bbox"][3]):
        for polygon in box["segmentation"]:
            ImageDraw.Draw(canvas).polygon([*map(float, polygon)], fill=box["place"] + 1)
    return np.asarray(canvas)


# Sides ----------------------------------------------------------------------------------------------------------------
def _sights(photos: Photos) -> np.ndarray:
    """What a backbone sees of the person in each photo, that is of all articles together, float32 (n, d)."""
    extractor = _extractor()
    seen = [np.empty((0, 1), np.float32)]
    for start in range(0, len(photos.names), BATCH):
        batch = range(start, min(start + BATCH, len(photos.names)))
        seen.append(extractor(np.stack([_person(photos.load(at), photos.labels[at].boxes) for at in batch])).average)
    return np.concatenate(seen[1:] or seen)


@lru_cache(maxsize=1)
def _extractor() -> Extractor:
    return Extractor(build_backbone(SIGHT, *SIGHT_SIZE))


def _person(photo: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """What the boxes of a photo hold together, or all where there is none, uint8 (h, w, 3) of `SIGHT_SIZE`."""
    picture = Image.fromarray(photo)
    if len(boxes):
        left, top = np.floor(boxes[:, :2].min(axis=0)).tolist()
        right, bottom = np.ceil(boxes[:, 2:].max(axis=0)).tolist()
        picture = picture.crop((int(left), int(top), int(right), int(bottom)))
    return np.asarray(picture.resize(SIGHT_SIZE[::-1]))


def persons(sights: np.ndarray) -> np.ndarray:
    """A number for each photo, int64 (n,), that those share whose sights, float32 (n, d), are alike, and those alike
    to these.
    """
    values = (sights - sights.mean(axis=0)) / np.maximum(sights.std(axis=0), 1e-6)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    numbers = np.arange(len(values))
    for start in range(0, len(values), ROWS):
        for one, other in zip(*np.nonzero(values[start : start + ROWS] @ values.T >= ALIKE), strict=True):
            if numbers[start + one] != numbers[other]:
                both = np.isin(numbers, (numbers[start + one], numbers[other]))
                numbers[both] = numbers[both].min()
    return numbers


def sides_of(names: list[str], persons: np.ndarray) -> np.ndarray:
    """int8 (n,): `TEST` for pictures that are held back, `VALIDATION` or `TRAIN`; pictures of one person, whose number
    is in int (n,), are on one side: the test side if one of them is, or else the validation side if one is.
    """
    held_back = np.array([fold_of(name, HELD_BACK) == 0 for name in names], bool)
    next_bits = [int.from_bytes(hashlib.sha256(name.encode()).digest()[4:8], "big") for name in names]
    held_out = np.array([bits % HELD_OUT == 0 for bits in next_bits], bool)
    sides = np.full(len(names), TRAIN, np.int8)
    for side, drawn in ((VALIDATION, held_out), (TEST, held_back)):
        sides[np.isin(persons, persons[drawn])] = side
    return sides


def _wrong(place: str, found: str, remedy: str) -> UserError:
    return UserError(f"{place} {found}", where=SETTING, remedy=remedy)
