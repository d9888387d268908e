"""What persons of street photos wear: how well it is found, and how well a search for it does.

Judged are the photos that are held back, against their labelled boxes. An article is found where what `look` finds has
its class and overlaps its box by a half. It is cut out as `look` does it, by a box that was found and by the true one,
and searched for among all products of a run without a filter: is one of its class, by the subCategories of
`jobs.look.SUBCATEGORIES`, among the ten? `look` takes a crop for a kind that the class found may be, right or wrong;
beside it stands what the crop alone gives. And of the ten of its class, how many have a colour of the family that the
article's own pixels have, as far as the source's masks tell them?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from colours import FAMILY_OF, family_of, median_lab

from jobs import look, looking
from jobs.features import read_embeddings
from jobs.labelled_photos import Dataset
from jobs.run import Run
from jobs.serve.search import BATCH, Sight
from jobs.street_photos import labelled
from ml import article_network, average_precision, split
from ml.articles import CLASSES, MOST, Articles, Labels, fuse, overlaps
from ml.average_precision import Precision
from ml.images import ImageError
from ml.look.articles import Article, Box
from ml.look.crops import crop
from ml.look.keypoints import Person
from ml.similarity import nearest

OVERLAP = 0.5
TEN = 10
SOURCES, THREE = ("ccp", "fp"), ("topwear", "bottomwear", "footwear")
TOPWEAR, OUTERWEAR = CLASSES.index("topwear"), CLASSES.index("outerwear")
LEAST_PIXELS = 50
"""Of an article, whose median colour is told."""


@dataclass(frozen=True)
class Labelled:
    """A labelled article: its photo's place and name, class and true box, who wears it, and what was found of it.

    `met` is the box found that overlaps it most, by a half at least, whatever its class.
    """

    photo: int
    name: str
    article: str
    box: Box
    person: Person | None
    found: Article | None
    met: Article | None


@dataclass(frozen=True)
class Shop:
    """The products of a run: embeddings float32 (n, e); articleType, subCategory and family of the colour, str (n,)."""

    embeddings: np.ndarray
    kinds: np.ndarray
    subcategories: np.ndarray
    families: np.ndarray

    @classmethod
    def of(cls, run: Run) -> Shop:
        """Those of a run."""
        rows = run.products(["articleType", "subCategory", "baseColour"])
        families = [FAMILY_OF.get(name, "") for name in rows["baseColour"].to_pylist()]
        kinds, subcategories = (np.array(rows[name].to_pylist()) for name in ("articleType", "subCategory"))
        return cls(read_embeddings(run), kinds, subcategories, np.array(families))

    def kinds_of(self, article: str) -> set[str]:
        """The articleTypes that an article of a class may be."""
        of_group = set(self.kinds[self.of_class(article)].tolist())
        return of_group & set(look.KINDS.get(article, ())) or of_group

    def of_class(self, article: str) -> np.ndarray:
        """Which products an article of a class may be, bool (n,)."""
        return np.isin(self.subcategories, look.SUBCATEGORIES[article])


@dataclass(frozen=True)
class Judged:
    """Precision on some photos, and on those of women and of men."""

    whole: Precision
    halves: list[Precision]
    photos: int


def precisions(  # type: ignore[no-untyped-def]  # keras.Model
    model, dataset: Dataset, genders: Mapping[str, str]
) -> dict[str, Judged]:
    """Average precision on the photos held back, of each source for all classes and for `THREE`: `ccp_8`, …

    And `ccp_outer`: for `THREE`, of what is worn above only the outermost.
    """
    three, told, models = [CLASSES.index(name) for name in THREE], {}, article_network.on_canvases(model)
    for source in SOURCES:
        chosen = np.flatnonzero((dataset.sides == split.TEST) & (dataset.sources == source)).tolist()
        found = [article_network.find(models, [dataset.photos.load(photo)])[0] for photo in chosen]
        labels = [dataset.photos.labels[photo] for photo in chosen]
        of_gender = [genders.get(dataset.photos.names[photo]) for photo in chosen]
        for classes in (range(len(CLASSES)), three):
            told[f"{source}_{len(classes)}"] = _judged(found, labels, of_gender, classes)
        outer = [outermost_found(each) for each in found], [outermost(each) for each in labels]
        told[f"{source}_outer"] = _judged(*outer, of_gender, three)
    return told


def _judged(
    found: Sequence[Articles], labels: Sequence[Labels], of_gender: Sequence[str | None], classes: Sequence[int]
) -> Judged:
    halves = []
    for gender in ("Women", "Men"):
        part = [at for at, name in enumerate(of_gender) if name == gender]
        halves.append(average_precision.judge([found[at] for at in part], [labels[at] for at in part], classes))
    return Judged(average_precision.judge(found, labels, classes), halves, len(found))


def outermost(labels: Labels) -> Labels:
    """Labels of which outerwear is topwear, and what it is worn over is ignored."""
    covered = (labels.classes == TOPWEAR) & ((labels.classes == OUTERWEAR) & ~labels.ignored).any()
    return Labels(labels.boxes, _as_topwear(labels.classes), labels.ignored | covered)


def outermost_found(found: Articles) -> Articles:
    """What was found, the surest first, outerwear as topwear; of two boxes of about one place the surer."""
    return fuse([Articles(found.boxes, _as_topwear(found.classes), found.confidences)], most=2 * MOST)


def _as_topwear(classes: np.ndarray) -> np.ndarray:
    return np.where(classes == OUTERWEAR, TOPWEAR, classes)


def find_all(
    dataset: Dataset, seen: dict[str, list[Person]], models: looking.Models, side: int = split.TEST
) -> list[Labelled]:
    """The labelled articles of a side, with what `look` finds of each."""
    articles = []
    for photo in np.flatnonzero(dataset.sides == side).tolist():
        name, labels = dataset.photos.names[photo], dataset.photos.labels[photo]
        persons, wanted = seen[name], np.flatnonzero(~labels.ignored).tolist()
        worn = {str(at): tuple(labels.boxes[at].tolist()) for at in wanted}
        wearer = labelled(persons, worn) if worn and persons else None
        found = [article for each in models.find_articles(dataset.photos.load(photo), persons) for article in each]
        taken = _taken([(CLASSES[labels.classes[at]], worn[str(at)]) for at in wanted], found)
        for at, article in zip(wanted, taken, strict=True):
            box = worn[str(at)]
            articles.append(Labelled(photo, name, CLASSES[labels.classes[at]], box, wearer, article, _met(box, found)))
    return articles


def _met(box: Box, found: Sequence[Article]) -> Article | None:
    shared = overlaps(np.array([box]), np.array([article.box for article in found]).reshape(-1, 4))[0]
    return found[int(shared.argmax())] if len(found) and shared.max() >= OVERLAP else None


def _taken(wanted: Sequence[tuple[str, Box]], found: Sequence[Article]) -> list[Article | None]:
    """Of each labelled article the surest one found that meets it; none is taken twice."""
    taken: list[Article | None] = [None] * len(wanted)
    for article in sorted(found, key=lambda article: -article.confidence):
        shared = [
            float(overlaps(np.array([article.box]), np.array([box]))[0, 0]) if name == article.name and not by else 0.0
            for (name, box), by in zip(wanted, taken, strict=True)
        ]
        if shared and max(shared) >= OVERLAP:
            taken[int(np.argmax(shared))] = article
    return taken


def cut(dataset: Dataset, articles: Sequence[Labelled], boxes: Sequence[Article]) -> list[np.ndarray]:
    """Crops, uint8 (h, w, 3), of boxes, each in the photo of a labelled article, as `look` cuts them out."""
    crops, photo, image = list[np.ndarray](), -1, np.empty(0)
    for article, box in zip(articles, boxes, strict=True):
        if article.photo != photo:
            photo, image = article.photo, dataset.photos.load(article.photo)
        outline = article.person.mask if article.person else np.full(image.shape[:2], 255, np.uint8)
        crops.append(crop(image, outline, box))
    return crops


def true_box(article: Labelled) -> Article:
    """A labelled article as if it had been found."""
    return Article(article.article, article.box, 1.0, article.found.mask if article.found else None)


@dataclass(frozen=True)
class Search:
    """Searches for crops of a dataset's photos among a run's products."""

    dataset: Dataset
    sight: Sight
    shop: Shop

    def embed(self, articles: Sequence[Labelled], boxes: Sequence[Article], is_told: bool) -> np.ndarray:
        """What the run's models make of boxes, float32 (n, e), told the class of each, as `look` does it, or not."""
        kinds = [self.shop.kinds_of(box.name) for box in boxes] if is_told else []
        crops, embeddings = cut(self.dataset, articles, boxes), []
        for start in range(0, len(crops), BATCH):
            batch = slice(start, start + BATCH)
            for seen in self.sight.see([look.png(pixels) for pixels in crops[batch]], kinds[batch]):
                if isinstance(seen, ImageError):
                    raise seen
                embeddings.append(seen.embedding)
        return np.array(embeddings)

    def has_class(self, articles: Sequence[Labelled], boxes: Sequence[Article], is_told: bool) -> np.ndarray:
        """Whether one of the ten products most like each box is of the article's class, bool (n,)."""
        tens = [nearest(scores, TEN) for scores in self.embed(articles, boxes, is_told) @ self.shop.embeddings.T]
        return np.array([self.shop.of_class(of.article)[ten].any() for of, ten in zip(articles, tens, strict=True)])

    def agreeing(self, articles: Sequence[Labelled], boxes: Sequence[Article], families: Sequence[str]) -> np.ndarray:
        """Of the ten most like each box within its class the share of a family, and of all of the class: (n, 2)."""
        shares, embeddings = [], self.embed(articles, boxes, True)
        for box, embedding, family in zip(boxes, embeddings, families, strict=True):
            rows = np.flatnonzero(self.shop.of_class(box.name))
            ten = rows[nearest(self.shop.embeddings[rows] @ embedding, TEN)]
            shares.append([(self.shop.families[ten] == family).mean(), (self.shop.families[rows] == family).mean()])
        return np.array(shares)


def families_of(dataset: Dataset, articles: Sequence[Labelled]) -> list[str]:
    """The family of each article's colour; empty where no mask tells its pixels."""
    families, photo, image, regions = list[str](), -1, np.empty(0), None
    for article in articles:
        if article.photo != photo:
            photo, image, regions = (
                article.photo,
                dataset.photos.load(article.photo),
                dataset.photos.regions(article.photo),
            )
        pixels = image[:0, 0]
        if regions is not None:
            left, top, right, bottom = (round(side) for side in article.box)
            own = regions[top:bottom, left:right] == CLASSES.index(article.article) + 1
            pixels = image[top:bottom, left:right][own]
        families.append(family_of(median_lab(pixels)) if len(pixels) >= LEAST_PIXELS else "")
    return families
