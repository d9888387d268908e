"""Phone photos of garments, drawn from catalogue pictures: what nobody photographed for us, but everybody asks with.

    python benchmarks/phone.py --sheet /tmp/phone.jpg        # the first twenty, to look at

The picture, of 224 × 224 pixels squashed to a square, gets its 3:4 back; the garment is cut from its white ground,
turned by up to 15°, made 40 to 80 % of the frame's height (or less, where it would be wider than the frame), put up to
15 % off the centre on a part of a street photo that has no garment box, lit by up to one EV more or less, made 12
megapixels and compressed as JPEG of quality 50. The street photos are those that are held back, of which no network has
learnt: the fold 0 of 5 by their names (`ml.split.fold_of`). All of it follows from `SEED` and the photo's number.
"""

from __future__ import annotations

import argparse
import io
import math
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.street_photos import FOLDS, HELD_BACK, Grounds
from ml.ground.pasting import cut, lit
from ml.split import fold_of

SEED, PHOTOS = 27, 1_000
SIZE, QUALITY = (3024, 4032), 50
"""Width and height of a photo of 12 megapixels, and its JPEG's quality."""
CANVAS = (756, 1008)
"""Of the picture that is put together and then enlarged: nothing in it has more detail."""
HEIGHTS, TURN, OFF, EV, WIDEST = (0.4, 0.8), 15, 0.15, 1, 0.95
"""Share of the frame's height, degrees, share of the frame off the centre, light, and greatest share of its width."""
PICTURES = Path("../shared/data/fashion-product-images-224.zip")
STREETS = Path("../shared/data/street-photos.zip")


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
    return lit(photo, random.uniform(-EV, EV))


@lru_cache(maxsize=1)
def streets(file: Path) -> Grounds:
    """Parts of photos that are held back, opened once a process."""
    return Grounds(file, lambda name: fold_of(name, FOLDS) == HELD_BACK)


def photo(data: bytes, number: int, file: Path = STREETS, size: tuple[int, int] = SIZE) -> bytes:
    """Photo `number` of a catalogue picture: the bytes of its JPEG."""
    random, out = np.random.default_rng([SEED, number]), io.BytesIO()
    composed = compose(cut(data), streets(file).part(random, CANVAS[0] / CANVAS[1]), random)
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
