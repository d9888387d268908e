"""A photo in another size than the catalogue's: does a search for it still find the product, and see its kind?

Two catalogues hold the same products at 60 × 80 and at 224 × 224 pixels. One is a run's; the pictures of the other are
asked for in it, and the other way round, with the run's models for both. Asked for are the products of which both
pictures are on the test side and none was learnt.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np
import phone
from rich.progress import track

from jobs import heldout
from jobs.champion import read_embedder
from jobs.extraction import build, choose_model
from jobs.features import read_embeddings
from jobs.heldout import Products
from jobs.run import Run
from jobs.serve.known import ATTRIBUTES, Gallery, Pictures
from jobs.serve.search import BATCH, Seen, Sight
from jobs.stored import detail_of, images_table, read_images
from ml import features, images, pictures, protocols, split
from ml.features import Features
from ml.images import Stored
from ml.pictures import WIDTH
from ml.protocols import Catalogue
from ml.similarity import nearest

OTHERS = [Path(f"../shared/data/fashion-product-images-{kind}.zip") for kind in ("224", "small")]
"""Where the other catalogue is looked for."""
AT_ONCE = 64
"""Phone photos of some hundred kilobytes that are made ahead."""
FIGURES = ("cross_first", "cross_ten", "cross_derived", "phone_derived")
LARGER, SMALLER = "larger", "smaller"


@dataclass(frozen=True)
class Other:
    """The pictures that another catalogue has of m products of a run: `rows` int (m,) are their places in it."""

    rows: np.ndarray
    files: list[bytes]
    stored: list[Stored]
    numbers: np.ndarray

    def take(self, places: np.ndarray) -> Other:
        """Those of some of the m products."""
        files, stored = ([column[at] for at in places] for column in (self.files, self.stored))
        return Other(self.rows[places], files, stored, self.numbers[places])

    @property
    def detail(self) -> tuple[int, int] | None:
        """As `jobs.stored.detail_of` has it of a run."""
        return images.detail_of(*np.array([(image.height, image.width) for image in self.stored]).T)


@dataclass(frozen=True)
class Searched:
    """What is searched: n products as they are served, and their pictures' files, SHA-256 in hex, object (n,).

    `detail` is the most that was looked at of them, and `known` tells their pictures.
    """

    catalogue: Catalogue
    files: np.ndarray
    detail: tuple[int, int] | None
    known: Pictures

    @property
    def shown(self) -> Gallery:
        """As photos are compared with it."""
        return Gallery(self.catalogue.embeddings, self.catalogue.attributes)


def read_other(run: Run, products: Products, file: Path) -> Other:
    """The pictures of another catalogue in an archive, with the numbers that the run's lake would give them."""
    place = {product_id: row for row, product_id in enumerate(products.ids)}
    with zipfile.ZipFile(file) as archive:
        named = {PurePosixPath(name).stem: name for name in archive.namelist() if "images/" in name}
        shared = sorted(named.keys() & place.keys(), key=place.__getitem__)
        files = [archive.read(named[product_id]) for product_id in shared]
    stored = [images.store(data) for data in files]
    known = images_table(run).read(["picture", "thumbnail"])
    seen = np.frombuffer(b"".join(known["thumbnail"].to_pylist()), np.uint8).reshape(-1, WIDTH)
    numbers = pictures.identify(thumbnails_of(stored), seen, known["picture"].to_numpy())
    return Other(np.array([place[product_id] for product_id in shared]), files, stored, numbers)


def find_other(source: str) -> Path | None:
    """The other catalogue beside the one that a run is of, if it is there."""
    return next((file for file in OTHERS if file.exists() and file.name != PurePosixPath(source).name), None)


def held_out(run: Run, products: Products, other: Other, side: int) -> np.ndarray:
    """Places in `other` of products of a side by both pictures, that have all attributes; none is learnt."""
    learnt = read_embedder(run).learnt
    sides = split.sides_of(other.numbers)
    sides[np.isin(other.numbers, learnt)] = split.TRAIN
    asked = (sides == side) & (products.sides[other.rows] == side)
    for values in products.attributes.values():
        asked &= values[other.rows] != None  # noqa: E711  # element by element
    own = np.array(run.products(["picture"])["picture"].to_pylist())[other.rows]
    assert not (np.isin(own[asked], learnt) | np.isin(other.numbers[asked], learnt)).any()
    return np.flatnonzero(asked)


def gallery_of(run: Run, products: Products) -> Searched:
    """The run's own."""
    catalogue = Catalogue(read_embeddings(run), products.attributes)
    return Searched(catalogue, products.hashes.astype(object), detail_of(run), Pictures.of(run))


def gallery_of_other(run: Run, products: Products, other: Other) -> Searched:
    """The other catalogue's, as a night with the run's models would serve it."""
    model = replace(choose_model(run.settings), tuned=str(run.result("embed").figures["tuned"]))
    extractor, embedder, made = features.Extractor(build(run.lake, model)), read_embedder(run), list[Features]()
    detail = images.coarser(other.detail, embedder.detail)
    for batch in track(list(_batches(other.stored, features.BATCH)), "the other catalogue's features"):
        made.append(
            extractor(np.stack([images.load(image.data, model.height, model.width, detail) for image in batch]))
        )
    of_all = Features(*(np.concatenate(columns) for columns in zip(*made, strict=True)))
    rows = run.products(ATTRIBUTES)
    said = {name: np.array(rows[name].to_pylist(), object)[other.rows] for name in ATTRIBUTES}
    embeddings = embedder.apply(of_all, {name: values.tolist() for name, values in said.items()})
    attributes = {name: values[other.rows] for name, values in products.attributes.items()}
    hashes = np.array([hashlib.sha256(data).hexdigest() for data in other.files], object)
    known = Pictures(thumbnails_of(other.stored), said)
    return Searched(Catalogue(embeddings, attributes), hashes, detail or other.detail, known)


def thumbnails_of(stored: Sequence[Stored]) -> np.ndarray:
    """Uint8 (n, `ml.pictures.WIDTH`)."""
    return np.frombuffer(b"".join(image.thumbnail for image in stored), np.uint8).reshape(-1, WIDTH)


def _batches(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[at : at + size] for at in range(0, len(items), size))


def see(sight: Sight, photos: Iterable[bytes], total: int, words: str) -> list[Seen]:
    """What the models make of photos."""
    waiting, seen = list[bytes](), list[Seen]()
    for photo in track(photos, words, total):
        waiting.append(photo)
        if len(waiting) == BATCH:
            seen += sight.see(waiting)
            waiting.clear()
    return [*seen, *sight.see(waiting)]


def judge(gallery: Searched, sight: Sight, seen: Sequence[Seen], wanted: np.ndarray) -> dict[str, float]:
    """Percent of photos of the products `wanted`, int (q,), that find the product, or one with its file, and its kind.

    `first` and `ten` are of the most similar products of all, without any filter.
    """
    queries = np.array([each.embedding for each in seen])
    chances = np.array([each.probabilities for each in seen])
    found = [nearest(scores, protocols.K) for scores in queries @ gallery.catalogue.embeddings.T]
    hits = np.array([gallery.files[top] == gallery.files[row] for top, row in zip(found, wanted, strict=True)])
    answers = list(gallery.catalogue.search(queries, chances, sight.labels))
    types = {name: values[wanted] for name, values in gallery.catalogue.attributes.items()}
    right = protocols.judge(answers, types, gallery.catalogue)["derived"]
    return {"first": 100 * hits[:, 0].mean(), "ten": 100 * hits.any(axis=1).mean(), "derived": 100 * right.mean()}


def measure(run: Run, file: Path, backgrounds: Path | None, side: int = split.TEST) -> dict[str, float]:
    """The figures `cross_…` and `phone_derived`, in percent.

    `cross_first`, `cross_ten` and `cross_derived` are the worse of both ways: with `_larger` where photos larger than
    the catalogue's were asked for, with `_smaller` the other way; `_same` is where they are the catalogue's own, and
    `_seen` where photos are taken for what they show alone, and none is recognised as one that the catalogue has.
    """
    products = heldout.read_products(run)
    other = read_other(run, products, file)
    places = held_out(run, products, other, side)
    if not len(places):
        return {}
    asked = other.take(places)
    hashes = products.hashes[asked.rows].tolist()
    stored = read_images(run, hashes)
    own = [stored[sha] for sha in hashes]
    ours, theirs, sight = gallery_of(run, products), gallery_of_other(run, products, other), Sight(run)
    ways = [(ours, asked.rows, asked.files, own, LARGER), (theirs, places, own, asked.files, SMALLER)]
    if asked.stored[0].width < images.store(own[0]).width:
        ways = [(*way[:-1], name) for way, name in zip(ways, (SMALLER, LARGER), strict=True)]
    told: dict[str, float] = {"cross_asked": len(places), "cross_searched": len(products.ids)}
    for gallery, rows, photos, same, way in ways:
        for words, files, known in (
            (way, photos, gallery.known),
            (f"{way}_seen", photos, None),
            (f"{way}_same", same, gallery.known),
            (f"{way}_same_seen", same, None),
        ):
            sight.detail, sight.pictures, sight.gallery = gallery.detail, known, gallery.shown
            found = judge(gallery, sight, see(sight, files, len(files), words), rows)
            told |= {f"cross_{name}_{words}": value for name, value in found.items()}
    for name in ("first", "ten", "derived"):
        for kind in ("", "_seen"):
            told[f"cross_{name}{kind}"] = min(told[f"cross_{name}_{way}{kind}"] for way in (LARGER, SMALLER))
    if backgrounds:
        sight.detail, sight.pictures, sight.gallery = ours.detail, ours.known, ours.shown
        large = asked.files if ways[0][-1] == LARGER else own
        told["phone_derived"] = of_phones(ours, sight, large, asked.rows, backgrounds)
    return told


def of_phones(gallery: Searched, sight: Sight, files: Sequence[bytes], rows: np.ndarray, backgrounds: Path) -> float:
    """Percent of phone photos of pictures, made as `phone` says, of which the derivedType of their `rows` is right."""
    chosen = phone.choose(len(files))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:

        def photos() -> Iterator[bytes]:
            take = partial(phone.photo, file=backgrounds.resolve())
            for numbers in _batches(range(len(chosen)), AT_ONCE):
                yield from pool.map(take, [files[chosen[number]] for number in numbers], numbers)

        seen = see(sight, photos(), len(chosen), "phone photos")
    return judge(gallery, sight, seen, rows[chosen])["derived"]
