"""train_ground: a catalogue's pictures and street photos → `weights/ground.npz`, what tells a garment from its ground.

And `weights/turn.npz`, what tells how far a garment is turned, of the same garments.

    python -m jobs.train_ground --run latest \
        --pictures ../shared/data/fashion-product-images-224.zip --grounds ../shared/data/street-photos.zip

Garments are cut from the white ground of an archive's pictures and pasted on parts of street photos that have no
garment box, on drawn grounds, and on enlarged parts of other pictures. Only pictures on the training side are cut, by
the numbers that the run's lake gives them, and those street photos that are held back (`jobs.street_photos`) are left
out. Takes some seven minutes on two cores; the same inputs give the same file on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from rich.progress import Progress, track

from infra.errors import UserError
from jobs.cutting import BACKBONE, TURNS, WEIGHTS
from jobs.detectors import build_backbone
from jobs.run import LATEST, Run, open_run
from jobs.stored import images_table
from jobs.street_photos import FOLDS, HELD_BACK, Grounds
from ml import images, pictures, split
from ml.ground import pasting
from ml.ground.framing import SIDE
from ml.pictures import WIDTH

SEED = 0
PHOTOS, EPOCHS = 4_500, 8
"""Photos that are put together, less those of pictures without white ground, and how often each is looked at."""
DRAWN, ENLARGED = 0.3, 0.15
"""Shares of grounds that are drawn, and that are enlarged parts of other pictures; the others are of street photos."""
TURNED, TURN_EPOCHS = 6, 15
"""How often each garment is turned, and how often each turn is looked at."""
CHUNK = 32
"""Photos that a process puts together at a time."""


def read_garments(run: Run, archive: Path) -> list[bytes]:
    """The pictures of an archive on the training side, of products whose picture in the run is on it too."""
    rows = run.products(["product_id", "picture"])
    own = dict(zip(rows["product_id"].to_pylist(), split.sides_of(rows["picture"].to_numpy()).tolist(), strict=True))
    with zipfile.ZipFile(archive) as opened:
        named = {PurePosixPath(name).stem: name for name in opened.namelist() if "images/" in name}
        shared = [product_id for product_id in sorted(named.keys() & own.keys()) if own[product_id] == split.TRAIN]
        files = [opened.read(named[product_id]) for product_id in shared]
    thumbnails = b"".join(images.store(data).thumbnail for data in track(files, "pictures"))
    known = images_table(run).read(["picture", "thumbnail"])
    seen = np.frombuffer(b"".join(known["thumbnail"].to_pylist()), np.uint8).reshape(-1, WIDTH)
    numbers = pictures.identify(
        np.frombuffer(thumbnails, np.uint8).reshape(-1, WIDTH), seen, known["picture"].to_numpy()
    )
    return [files[at] for at in np.flatnonzero(split.sides_of(numbers) == split.TRAIN)]


@lru_cache(maxsize=1)
def _grounds(archive: Path) -> Grounds:
    return Grounds(archive, lambda name: split.fold_of(name, FOLDS) != HELD_BACK)


def compose(number: int, picture: bytes, other: bytes, grounds: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Photo `number`: of a picture's garment, as `ml.ground.pasting.paste` gives it; None where it has no white ground.

    `other` is the picture that an enlarged part is of.
    """
    garment = pasting.cut(picture)
    if not pasting.is_cut(garment, of=_area(picture)):
        return None
    random = np.random.default_rng([SEED, number])
    size, kind = pasting.photo_size(random), random.random()
    if kind < DRAWN:
        ground = pasting.draw_ground(size, random)
    elif kind < DRAWN + ENLARGED:
        ground = pasting.enlarge_part(Image.open(io.BytesIO(other)).convert("RGB"), size, random)
    else:
        ground = _grounds(grounds).part(random, size[0] / size[1]).resize(size, Image.Resampling.BICUBIC)
    return pasting.paste(garment, ground, SIDE, random)


def _area(picture: bytes) -> int:
    width = Image.open(io.BytesIO(picture)).width
    return width * round(width * pasting.RATIO)


def compose_all(garments: Sequence[bytes], grounds: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `count` photos and their masks, uint8 (n, SIDE, SIDE, 3) and (n, SIDE, SIDE)."""
    random = np.random.default_rng(SEED)
    chosen = np.resize(random.permutation(len(garments)), count).tolist()
    others = random.integers(len(garments), size=count).tolist()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        made = pool.map(
            partial(compose, grounds=grounds.resolve()),
            range(count),
            [garments[at] for at in chosen],
            [garments[at] for at in others],
            chunksize=CHUNK,
        )
        pasted = [each for each in track(made, "photos", count) if each]
    photos, masks = zip(*pasted, strict=True)
    return np.stack(photos), np.stack(masks)


def turn_all(garments: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """What is seen of garments that were turned, float32 (n, r, c, 2), and their degrees, float32 (n,)."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        made = pool.map(_turn, range(len(garments)), garments, chunksize=CHUNK)
        looks, degrees = zip(*(each for turns in track(made, "turns", len(garments)) for each in turns), strict=True)
    return np.stack(looks), np.array(degrees, np.float32)


def _turn(number: int, picture: bytes) -> list[tuple[np.ndarray, float]]:
    from ml.ground import turning

    garment, random = pasting.cut(picture), np.random.default_rng([SEED, number])
    if not pasting.is_cut(garment, of=_area(picture)):
        return []
    return [turning.turn(garment, random) for _ in range(TURNED)]


def learn_turns(looks: np.ndarray, degrees: np.ndarray, epochs: int = TURN_EPOCHS) -> bytes:
    """The weights of a network that has learnt the degrees, float32 (n,), of what is seen, float32 (n, r, c, 2)."""
    from ml.ground import network, turning

    with Progress() as progress:
        epoch = progress.add_task("epochs", total=epochs)
        return network.to_bytes(turning.fit(looks, degrees, epochs, SEED, lambda: progress.advance(epoch)))


def learn(photos: np.ndarray, masks: np.ndarray, epochs: int = EPOCHS) -> bytes:
    """The weights of a network that has learnt the masks, uint8 (n, SIDE, SIDE), of photos, (n, SIDE, SIDE, 3)."""
    from ml.ground import network

    cells = SIDE // network.STRIDE
    halved = masks.reshape(len(masks), cells, network.STRIDE, cells, network.STRIDE).mean(axis=(2, 4))
    seeing = network.look(build_backbone(BACKBONE, SIDE, SIDE))
    with Progress() as progress:
        seen = progress.add_task("maps", total=len(photos))
        maps = network.see(seeing, photos, lambda count: progress.advance(seen, count))
        epoch = progress.add_task("epochs", total=epochs)
        learnt = network.fit(maps, halved.astype(np.uint8), epochs, SEED, lambda: progress.advance(epoch))
    return network.to_bytes(learnt)


def main() -> None:
    """Train, and write the files and their SHA-256."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default=LATEST)
    parser.add_argument("--pictures", type=Path, required=True, help="archive of pictures of the run's products")
    parser.add_argument("--grounds", type=Path, required=True, help="archive of street photos")
    given = parser.parse_args()
    try:
        garments = read_garments(open_run(given.run), given.pictures)
        ground, turn = learn(*compose_all(garments, given.grounds, PHOTOS)), learn_turns(*turn_all(garments))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    for file, data in ((WEIGHTS, ground), (TURNS, turn)):
        file.write_bytes(data)
        file.with_suffix(".sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {file.name}\n")
        print(f"{file}: {len(data):,} bytes")


if __name__ == "__main__":
    main()
