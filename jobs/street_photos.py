"""An archive of street photos with labels: what the look learns from and is measured on.

A zip file of `images/`, `boxes.json` (COCO), `pose.json` (a picture's `full_shot`, `orientation`, `detailed`) and, of
some pictures, `masks/`: PNGs in which 0 is no part of the person. For whom clothes are tells `gender.json`, lists of
pictures' names, `Men` and `Women`, or where there is none the file of that kind beside this one.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from infra.errors import UserError
from ml.images import decode
from ml.look.articles import Box
from ml.look.keypoints import Person, overlaps

FOLDS = 5
HELD_BACK = 0
"""The fold of which no box rule learns where it is measured, and of which phone photos have their grounds."""


LEAST, TRIES = 120, 300
"""Height in pixels of the smallest part of a photo that makes a ground, and how often one is looked for."""


class Grounds:
    """Parts of street photos without a garment box, ignored ones among them: what a garment may lie or hang on."""

    def __init__(self, file: Path, wanted: Callable[[str], bool]) -> None:
        """Of the photos in an archive whose names are wanted."""
        self._archive = zipfile.ZipFile(file)
        told = json.loads(self._archive.read("boxes.json"))
        self._boxes: dict[str, list[Sequence[float]]] = defaultdict(list)
        names = {image["id"]: image["file_name"] for image in told["images"]}
        for box in [*told["annotations"], *told["ignored"]]:
            self._boxes[names[box["image_id"]]].append(box["bbox"])
        self._names = sorted(filter(wanted, self._boxes))

    def part(self, random: np.random.Generator, aspect: float) -> Image.Image:
        """One whose width by height is `aspect`, as large as it is found."""
        while True:
            name = self._names[random.integers(len(self._names))]
            photo = self._photo(name)
            boxes = np.array(self._boxes[name])
            for height in np.linspace(photo.height, LEAST, TRIES):
                width = height * aspect
                if width > photo.width:
                    continue
                x, y = random.uniform(0, photo.width - width), random.uniform(0, photo.height - height)
                starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
                if not ((starts < (x + width, y + height)) & ((x, y) < ends)).all(axis=1).any():
                    return photo.crop((round(x), round(y), round(x + width), round(y + height)))

    def _photo(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self._archive.read(f"images/{Path(name).name}"))).convert("RGB")


GENDERS = Path(__file__).parent / "street_gender.json"
"""For whom the clothes in pictures are; of their names the first `BEGINNING` letters."""
BEGINNING = 12


class StreetPhotos:
    """The archive at a path."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            UserError: there is no such archive.
        """
        try:
            self._archive = zipfile.ZipFile(path)
            self._names = set(self._archive.namelist())
            self.poses: dict[str, dict] = json.loads(self._archive.read("pose.json"))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            raise UserError(
                f"it is no archive of street photos: {error}",
                where=str(path),
                remedy="give a zip file with images/, boxes.json and pose.json (see jobs/street_photos.py)",
            ) from None

    @cached_property
    def worn(self) -> dict[str, dict[str, Box]]:
        """Of each picture with boxes the largest one of each class, in pixels."""
        told = json.loads(self._archive.read("boxes.json"))
        names, found = {image["id"]: image["file_name"] for image in told["images"]}, dict[str, dict[str, Box]]()
        for box in sorted(told["annotations"], key=lambda box: box["bbox"][2] * box["bbox"][3]):
            left, top, width, height = box["bbox"]
            found.setdefault(names[box["image_id"]], {})[box["category"]] = (left, top, left + width, top + height)
        return found

    @cached_property
    def genders(self) -> dict[str, str]:
        """For whom the clothes in a picture are, `Men` or `Women`, of those where somebody looked and was sure."""
        told = json.loads(self._archive.read("gender.json") if "gender.json" in self._names else GENDERS.read_bytes())
        known = {Path(name).stem[:BEGINNING]: gender for gender in ("Men", "Women") for name in told[gender]}
        names = {*self.poses, *self.worn}
        return {name: known[begin] for name in names if (begin := Path(name).stem[:BEGINNING]) in known}

    def image(self, name: str) -> np.ndarray:
        """A picture's pixels, uint8 (h, w, 3)."""
        return decode(self._archive.read(f"images/{name}"))

    def data(self, name: str) -> bytes:
        """A picture's file."""
        return self._archive.read(f"images/{name}")

    def outline(self, name: str) -> np.ndarray | None:
        """Which pixels are the person's, bool (h, w); None where the archive has no mask of the picture."""
        member = f"masks/{Path(name).stem}.png"
        if member not in self._names:
            return None
        return np.asarray(Image.open(io.BytesIO(self._archive.read(member)))) > 0


def orientation_of(label: dict) -> str | None:
    """What a head is to say of a picture: `detailed` where it is, else the orientation, None where it has none."""
    return "detailed" if label["detailed"] else label["orientation"]


def labelled(persons: list[Person], worn: dict[str, Box]) -> Person | None:
    """The one of a picture's persons who wears what is labelled; None where none does."""
    boxes = np.array(list(worn.values()))
    around = np.array([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)])
    shared = [float(overlaps(around, np.array([person.box]))[0]) for person in persons]
    return persons[int(np.argmax(shared))] if any(shared) else None
