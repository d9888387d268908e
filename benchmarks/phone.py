"""Phone photos of garments, drawn from catalogue pictures: what nobody photographed for us, but everybody asks with.

    python benchmarks/phone.py --sheet /tmp/phone.jpg        # the first twenty, to look at

The picture, of 224 × 224 pixels squashed to a square, gets its 3:4 back; the garment is cut from its white ground,
turned by up to 15°, made 40 to 80 % of the frame's height (or less, where it would be wider than the frame), put up to
15 % off the centre on a part of a street photo that has no garment box, lit by up to one EV more or less, made 12
megapixels and compressed as JPEG of quality 50. All of it follows from `SEED` and the photo's number.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

SEED, PHOTOS = 27, 1_000
SIZE, QUALITY = (3024, 4032), 50
"""Width and height of a photo of 12 megapixels, and its JPEG's quality."""
CANVAS = (756, 1008)
"""Of the picture that is put together and then enlarged: nothing in it has more detail."""
RATIO = 4 / 3
"""Height by width of a catalogue picture before it was squashed."""
WHITE, SPECK = 240, 0.002
"""Least value of all channels that counts as white ground where it reaches the border, and the share of a picture that
a part which does not belong to the garment stays below."""
HEIGHTS, TURN, OFF, EV, WIDEST = (0.4, 0.8), 15, 0.15, 1, 0.95
"""Share of the frame's height, degrees, share of the frame off the centre, light, and greatest share of its width."""
LEAST, TRIES = 120, 300
"""Height in pixels of the smallest part of a street photo that makes a background, and how often one is looked for."""
PICTURES = Path("../shared/data/fashion-product-images-224.zip")
STREETS = Path("../shared/data/street-photos.zip")


class Streets:
    """Parts of street photos without a garment box."""

    def __init__(self, file: Path) -> None:
        self._archive = zipfile.ZipFile(file)
        told = json.loads(self._archive.read("boxes.json"))
        self._boxes: dict[str, list[Sequence[float]]] = defaultdict(list)
        names = {image["id"]: image["file_name"] for image in told["images"]}
        for box in [*told["annotations"], *told["ignored"]]:
            self._boxes[names[box["image_id"]]].append(box["bbox"])
        self._names = sorted(self._boxes)

    def part(self, random: np.random.Generator) -> Image.Image:
        """One of the proportions of `CANVAS`, as large as it is found."""
        while True:
            name = self._names[random.integers(len(self._names))]
            photo = self._photo(name)
            boxes = np.array(self._boxes[name])
            for height in np.linspace(photo.height, LEAST, TRIES):
                width = height * CANVAS[0] / CANVAS[1]
                if width > photo.width:
                    continue
                x, y = random.uniform(0, photo.width - width), random.uniform(0, photo.height - height)
                left, top, right, bottom = boxes[:, 0], boxes[:, 1], *(boxes[:, :2] + boxes[:, 2:]).T
                if not ((left < x + width) & (x < right) & (top < y + height) & (y < bottom)).any():
                    return photo.crop((round(x), round(y), round(x + width), round(y + height)))

    def _photo(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self._archive.read(f"images/{Path(name).name}"))).convert("RGB")


def cut(data: bytes) -> Image.Image:
    """The garment of a catalogue picture, RGBA, in the picture's own proportions and no larger than it is."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.resize((picture.width, round(picture.width * RATIO)), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    parts, _ = ndimage.label(pixels.min(axis=2) >= WHITE)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    garment = ~np.isin(parts, border[border > 0])
    parts, _ = ndimage.label(garment)
    sizes = np.bincount(parts.ravel())
    garment &= sizes[parts] >= SPECK * garment.size
    if not garment.any():
        garment[:] = True
    alpha = np.clip(2 * ndimage.gaussian_filter(garment.astype(np.float32), 1) - 0.9, 0, 1)  # edges are half white
    rows, columns = np.flatnonzero(garment.any(axis=1)), np.flatnonzero(garment.any(axis=0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return Image.fromarray(np.dstack([pixels, (255 * alpha).astype(np.uint8)])).crop(box)


def compose(garment: Image.Image, background: Image.Image, random: np.random.Generator) -> Image.Image:
    """A garment, RGBA, somewhere on a background, RGB of `CANVAS`, in some light."""
    width, height = CANVAS
    scale = min(random.uniform(*HEIGHTS) * height / garment.height, WIDEST * width / garment.width)
    size = (max(1, round(scale * garment.width)), max(1, round(scale * garment.height)))
    turned = garment.convert("RGBa").resize(size, Image.Resampling.BICUBIC)  # premultiplied: edges stay clean
    turned = turned.rotate(random.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True).convert("RGBA")
    x, y = (side * (0.5 + random.uniform(-OFF, OFF)) for side in CANVAS)
    photo = background.resize(CANVAS, Image.Resampling.BICUBIC)
    photo.paste(turned, (round(x - turned.width / 2), round(y - turned.height / 2)), turned)
    return _lit(photo, random.uniform(-EV, EV))


def _lit(photo: Image.Image, ev: float) -> Image.Image:
    """So many times twice the light, by the transfer function of sRGB (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) * 2**ev
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return photo.point(np.rint(255 * encoded).astype(int).tolist() * 3)


@lru_cache(maxsize=1)
def streets(file: Path) -> Streets:
    """Opened once a process."""
    return Streets(file)


def photo(data: bytes, number: int, file: Path = STREETS, size: tuple[int, int] = SIZE) -> bytes:
    """Photo `number` of a catalogue picture: the bytes of its JPEG."""
    random, out = np.random.default_rng([SEED, number]), io.BytesIO()
    composed = compose(cut(data), streets(file).part(random), random)
    composed.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def choose(pictures: int, photos: int = PHOTOS) -> np.ndarray:
    """Which of so many pictures each photo is of: in an order by chance, again from the first where they are few."""
    return np.resize(np.random.default_rng(SEED).permutation(pictures), photos)


def sheet(photos: Sequence[bytes], columns: int = 5) -> Image.Image:
    """Photos beside each other, small."""
    width, height = CANVAS[0] // 3, CANVAS[1] // 3
    page = Image.new("RGB", (columns * width, math.ceil(len(photos) / columns) * height))
    for at, data in enumerate(photos):
        small = Image.open(io.BytesIO(data))
        small.draft("RGB", (width, height))
        page.paste(small.resize((width, height)), (at % columns * width, at // columns * height))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("--backgrounds", type=Path, default=STREETS)
    parser.add_argument("--sheet", type=Path, required=True, help="picture to write, outside the project")
    parser.add_argument("--photos", type=int, default=20)
    given = parser.parse_args()
    with zipfile.ZipFile(given.pictures) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("images/") and not name.endswith("/"))
        chosen = enumerate(choose(len(names), given.photos))
        photos = [photo(archive.read(names[place]), number, given.backgrounds) for number, place in chosen]
    sheet(photos).save(given.sheet)


if __name__ == "__main__":
    main()
