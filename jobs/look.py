"""look: a photo → its persons, how each stands, what each wears, and the products that look most like each article.

`look` takes a photo's bytes and gives the whole answer; `look_at` is for who has decoded them elsewhere. Articles are
cut out of the photo, put on white, taken for a kind that such an article may be, and searched for (`jobs.serve.search`)
within the subCategories that it may have and, where that is sure, the gender that the clothes are for. A photo in which
nobody is found is searched for as it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
from PIL import Image

from jobs.filters import Filters
from jobs.looking import LEAST, Models
from jobs.serve import decoding
from jobs.serve.search import BATCH, Answer, Finder, K, Place, Seen
from ml.images import ImageError
from ml.look.articles import Article, Box
from ml.look.crops import crop
from ml.look.pose import Pose

PHOTO_SIDE = 1024
"""Long side in pixels at which a photo is looked at: articles of a person a few steps away are still some 100 wide."""
GENDER = "gender"
"""The part of a product that says for whom it is."""
SUBCATEGORIES = {
    "topwear": ("Topwear",),
    "outerwear": ("Topwear",),
    "dress": ("Dress", "Saree"),
    "bottomwear": ("Bottomwear",),
    "footwear": ("Shoes", "Sandal", "Flip Flops"),
    "bag": ("Bags", "Wallets"),
    "eyewear": ("Eyewear",),
    "headwear": ("Headwear",),
}
"""Class of an article → the subCategories that it may have, as the published catalogue names them."""
KINDS = {
    "outerwear": ("Blazers", "Jackets", "Nehru Jackets", "Rain Jacket", "Shrug", "Suits", "Sweatshirts", "Waistcoat")
}
"""Class of an article → the articleTypes that it is taken for and searched in, where not all of its subCategories' are
meant."""
FOR = {"Women": ("Women", "Unisex"), "Men": ("Men", "Unisex")}
"""For whom a person's clothes are → the genders of products searched in, as the published catalogue names them; in all
where it has none of them, or a filter says it."""


@dataclass(frozen=True)
class Worn:
    """An article and the products most like it; None where there is no search to make, and why or how, in words."""

    article: Article
    answer: Answer | None
    says: str


@dataclass(frozen=True)
class Dressed:
    """A person: the box in pixels of the photo as it was looked at, how sure that is, the pose, and the articles.

    `gender` is for whom the clothes are, `Women` or `Men`; None where that is not sure.
    """

    box: Box
    confidence: float
    pose: Pose
    worn: list[Worn]
    gender: str | None = None


@dataclass(frozen=True)
class Look:
    """The answer to a photo, `width` × `height` pixels as it was looked at: its persons, the largest first.

    `answer` is that of the ordinary search, where no article was found. `says` are words about the whole, `boxes_by`
    how articles were found, `ms` the milliseconds of each part.
    """

    width: int
    height: int
    persons: list[Dressed]
    answer: Answer | None
    says: list[str]
    boxes_by: str
    ms: dict[str, float] = field(default_factory=dict)

    @property
    def worn(self) -> list[Worn]:
        """The articles of all persons."""
        return [each for person in self.persons for each in person.worn]


def look(
    searcher: Finder[Place],
    models: Models,
    connection: Place,
    photo: bytes,
    filters: Filters,
    k: int = K,
    exclude: Sequence[str] = (),
) -> Look:
    """The whole answer to a photo: `k` products for each article, of those that pass the filters but those excluded.

    `connection` is what the searcher looks products up in.

    Raises:
        ImageError: the bytes give no image within the limits of the catalogue.
        UserError: an unknown field or a wrong `k`.
        TransientError: another run has gone live; load a new Searcher.
    """
    ms: dict[str, float] = {}
    with timed(ms, "decode"):
        image = decoding.within(photo, searcher.run.settings.image_max_bytes, PHOTO_SIDE)
    found = look_at(searcher, models, connection, image, filters, k, exclude)
    ms |= found.ms
    if not found.worn:
        with timed(ms, "search"):
            found = of_whole(found, searcher.search(connection, photo, filters, k, exclude))
    return replace(found, ms=summed(ms))


def look_at(
    searcher: Finder[Place],
    models: Models,
    connection: Place,
    image: np.ndarray,
    filters: Filters,
    k: int = K,
    exclude: Sequence[str] = (),
) -> Look:
    """As `look`, of a photo's pixels, uint8 (h, w, 3), at most `PHOTO_SIDE` on the long side.

    Where no article is found the answer to the whole photo is still to be put in: `of_whole`.
    """
    ms: dict[str, float] = {}
    with timed(ms, "persons"):
        persons = models.eyes(image)
        stands = [models.stand(image, person) for person in persons]
    with timed(ms, "articles"):
        found = [
            [article for article in articles if article.confidence >= LEAST]
            for articles in models.find_articles(image, persons)
        ]
        crops = [
            (png(crop(image, person.mask, article)), article.name)
            for person, articles in zip(persons, found, strict=True)
            for article in articles
        ]
    with timed(ms, "embed"):
        seen = iter(_see(searcher, crops))
    with timed(ms, "search"):
        worn = [
            [_search(searcher, connection, article, next(seen), gender, filters, k, exclude) for article in articles]
            for articles, (_, gender) in zip(found, stands, strict=True)
        ]
    dressed = [
        Dressed(person.box, person.score, pose, articles, gender)
        for person, (pose, gender), articles in zip(persons, stands, worn, strict=True)
    ]
    height, width = image.shape[:2]
    return Look(width, height, dressed, None, _words(dressed), models.find_articles.source, ms)


def of_whole(found: Look, answer: Answer) -> Look:
    """A look in which there is no article, with what the ordinary search answers to the whole photo."""
    who = "no article was found on a person" if found.persons else "no person was found"
    return replace(found, answer=answer, says=[f"{who}: the whole photo was searched for"])


def _see(searcher: Finder[Place], crops: Sequence[tuple[bytes, str]]) -> list[Seen | ImageError]:
    """What the models make of crops, each of which is of a kind that its class of article may be."""
    kinds = {name: _kinds(searcher, name) for name in {name for _, name in crops}}
    batches = [crops[at : at + BATCH] for at in range(0, len(crops), BATCH)]
    return [
        seen
        for batch in batches
        for seen in searcher.see([picture for picture, _ in batch], [kinds[name] for _, name in batch])
    ]


def _kinds(searcher: Finder[Place], name: str) -> list[str]:
    """The articleTypes of the catalogue that a class of article may be."""
    of_group = searcher.kinds(SUBCATEGORIES[name])
    return [kind for kind in of_group if kind in KINDS.get(name, ())] or of_group


def _search(
    searcher: Finder[Place],
    connection: Place,
    article: Article,
    seen: Seen | ImageError,
    gender: str | None,
    filters: Filters,
    k: int,
    exclude: Sequence[str],
) -> Worn:
    """The products most like an article, within the subCategories that it may have, for the gender if it is sure."""
    if isinstance(seen, ImageError):  # a crop of ours is an image
        raise seen
    wanted = SUBCATEGORIES[article.name]
    if not searcher.among({}, wanted):
        says = f"the catalogue has no subCategory {' or '.join(wanted)}: searched in all of it"
        return Worn(article, searcher.answer(connection, seen, filters, k, exclude), says)
    of_gender = _of_gender(searcher, gender, filters)
    if left := searcher.among(of_gender, wanted):
        filters, whose = of_gender, f" for {gender}" if of_gender != filters else ""
    else:
        left, whose = searcher.among(filters, wanted), ""
    if not left:
        return Worn(article, None, f"no product of {' or '.join(wanted)} passes the filters")
    of_kind = _of_kind(searcher, article.name, filters)
    if among := searcher.among(of_kind, wanted):
        left, filters = among, of_kind
    answer = searcher.answer(connection, seen, {**filters, searcher.group: left}, k, exclude)
    return Worn(article, answer, f"searched in {', '.join(left)}{whose}")


def _of_gender(searcher: Finder[Place], gender: str | None, filters: Filters) -> Filters:
    """The filters, and that of the gender where it is told and they say nothing of it."""
    column = searcher.run.layout.column(GENDER)
    return {**filters, column: list(FOR[gender])} if gender and column and column not in filters else filters


def _of_kind(searcher: Finder[Place], name: str, filters: Filters) -> Filters:
    """The filters, and that of the articleTypes of a class of `KINDS`, where they say nothing of it."""
    column = searcher.run.layout.column("articleType")
    return (
        {**filters, column: _kinds(searcher, name)} if name in KINDS and column and column not in filters else filters
    )


def _words(persons: Sequence[Dressed]) -> list[str]:
    """What there is to say of the answer as a whole."""
    if persons and not persons[0].pose.full_shot:
        return ["this is no full shot of a person: answered for what is in the frame"]
    return []


@contextmanager
def timed(ms: dict[str, float], name: str) -> Iterator[None]:
    """Add the milliseconds that the block takes."""
    started = perf_counter()
    yield
    ms[name] = ms.get(name, 0) + 1000 * (perf_counter() - started)


def summed(ms: dict[str, float]) -> dict[str, float]:
    """Milliseconds of the parts, and of all."""
    return {name: round(value, 1) for name, value in {**ms, "all": sum(ms.values())}.items()}


def png(pixels: np.ndarray) -> bytes:
    """A crop, uint8 (h, w, 3), as a file, which is then seen as any photo is."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()
