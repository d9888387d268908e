"""Image search: a photo → the products of the live run that look most like it, with the confidence of every stage.

`Sight` loads once what a run was made with (backbone, embedder, classifier) and sees photos with it; a `Finder` has the
sight of a run and answers many photos, `Searcher` from the store and `jobs.lake_search` from the lake. What a photo is
taken for and where it is searched is decided in `ml.stages`; here it is seen and looked up.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from infra import store
from infra.errors import TransientError, UserError
from infra.lake import Lake
from infra.settings import Settings
from infra.store import Item
from jobs.champion import read_embedder
from jobs.cutting import Cutter
from jobs.extraction import Model, build, choose_model
from jobs.features import to_matrix
from jobs.filters import Filters, passing
from jobs.ids import to_text
from jobs.layout import FILE
from jobs.run import Run, open_live
from jobs.serve import decoding
from jobs.serve.decoding import PHOTO, THUMBNAIL
from jobs.serve.explaining import best_pair, parts, widths_of
from jobs.serve.known import ATTRIBUTES, GROUP, KIND, Gallery, Pictures
from jobs.stored import detail_of, is_on_white, sample_images
from ml import classifier, images, stages
from ml.features import Extractor, Features
from ml.ground.placing import Places
from ml.images import ImageError
from ml.stages import Guess, Nearest

BATCH = 8
"""Images a call of the backbone. A photo takes a third of the time that a call for the catalogue's 32 does, and has the
same features to the bit, which it has not in a batch of one (efficientnet-lite0 on two cores)."""
ASPECT = 3 / 4
"""Width by height of the picture that a cut-out garment is put on, where a catalogue's images do not say."""
LARGER = 1.5
"""Times the long side of the catalogue's images that a photo has, at least, of which something is cut out: one that is
no larger may be of a catalogue that is not on white, too, and has no pixels to spare. `LONG_SIDE` always suffices."""
PLACED = 1_000
"""Of the catalogue's images, by which a cut-out garment is put in its place."""
K = 10
ALTERNATIVES = 5
"""SubCategories beside the likeliest that an answer names."""
NEEDED = (*KIND, GROUP)
"""Parts that a filter must be able to name, as the stages are searched through them."""
Place = TypeVar("Place")
"""What a finder looks products up in: a connection to the store, or nothing."""
Similar = Callable[..., list[Item]]
"""The products most like one photo: takes filters, how many, and ids that are left out or nothing."""


@dataclass(frozen=True)
class Seen:
    """What the models make of a photo: its embedding, float32 (e,), and the probabilities of the c subCategories.

    Where the run has no classifier, c is 0.
    """

    embedding: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Answer:
    """The products most like a photo, the stage they were searched in, and why; a guess not asked for is None."""

    stage: str
    why: str
    subcategory: Guess | None
    derived_type: Guess | None
    items: list[Item]
    alternatives: list[tuple[str, float]]
    """Other subCategories that the filters leave, with the classifier's probabilities, likeliest first."""


@dataclass(frozen=True)
class Shown:
    """What of a photo is looked at: its pixels of `Sight.sizes`, their features where they are known already, and what
    the catalogue says of it.
    """

    pixels: Mapping[str, np.ndarray]
    said: Mapping[str, str | None]
    features: Features | None = None


class Sight:
    """A run's models: what they make of photos. Not for two threads at once.

    With `pictures` a photo that these know is taken for what they say, and any other for what it shows. Where the run's
    images are on white ground, that is cut out of its own ground first, and shown as it looks most like one of the
    `gallery`; where it looks like none of another kind, it is of the kind that the catalogue says that one is of.
    """

    def __init__(self, run: Run, pictures: Pictures | None = None, gallery: Gallery | None = None) -> None:
        """Load the models and call each once, as first calls compile: seconds, and 4 bytes an entry of embeddings.

        Whoever has the gallery of the run's products gives it; else it is read where it is needed.

        Raises:
            UserError: the settings' backbone is not the run's, or another release made it.
        """
        self.pictures, self._limit = pictures, run.settings.image_max_bytes
        model = _backbone(run)
        self.embedder = read_embedder(run)
        self._classifier = read_classifier(run)
        self.labels = self._classifier.labels if self._classifier else []
        self._extractor = _extractor(run.lake.uri, model)
        self.detail = _detail(run)
        """Most height and width that photos are looked at in."""
        self.sizes = {"backbone": (model.height, model.width)}
        """Height and width of the pixels that `look` takes."""
        self._cutter = _cutter() if is_on_white(run) else None
        self._places = _places(run) if self._cutter else Places.of([])
        self.gallery = gallery or (Gallery.of(run) if self._cutter else None)
        if self._classifier and self._classifier.size:
            self.sizes["classifier"] = self._classifier.size
        (seen,) = self.look([{name: np.zeros((*size, 3), np.uint8) for name, size in self.sizes.items()}])
        _check_width(run, len(seen.embedding))

    def see(
        self, photos: Sequence[bytes | ImageError], kinds: Sequence[Collection[str]] = ()
    ) -> list[Seen | ImageError]:
        """What the models make of up to `BATCH` photos, or why one is no image; the same in whatever batch it is.

        `kinds` are the articleTypes that each photo may be of, any where it has none. Where they are given, photos are
        of what is worn, whose kind is not told by looks.
        """
        decoded = [photo if isinstance(photo, ImageError) else self._decode(photo) for photo in photos]
        places = [at for at, each in enumerate(decoded) if not isinstance(each, ImageError)]
        of_images = [kinds[at] for at in places] if kinds else ()
        seen = iter(self.look([each for each in decoded if not isinstance(each, ImageError)], of_images))
        return [each if isinstance(each, ImageError) else next(seen) for each in decoded]

    def _decode(self, photo: bytes) -> dict[str, np.ndarray] | ImageError:
        try:
            return decoding.pixels(photo, self._limit, self.sizes, self.detail)
        except ImageError as error:
            return error

    def look(self, pixels: Sequence[Mapping[str, np.ndarray]], kinds: Sequence[Collection[str]] = ()) -> list[Seen]:
        """What the models make of up to `BATCH` photos whose pixels are of `sizes`; `kinds` as `see` has them."""
        if not pixels:
            return []
        shown = [self._shown(each, is_worn=bool(kinds)) for each in pixels]
        features = self._features(shown)
        embeddings = self._embed(features, [each.said for each in shown], kinds)
        if self._classifier is None:
            return [Seen(embedding, np.empty(0, np.float32)) for embedding in embeddings]
        of_features = not self._classifier.size
        inputs = features.beside(classifier.COLUMNS) if of_features else [each.pixels["classifier"] for each in shown]
        seen = [Seen(*each) for each in zip(embeddings, map(self._classifier.probabilities, inputs), strict=True)]
        return [self._told(each, of_photo.said.get(GROUP)) for each, of_photo in zip(seen, shown, strict=True)]

    def _shown(self, pixels: Mapping[str, np.ndarray], is_worn: bool) -> Shown:
        """What is looked at of a photo: of one that the catalogue does not have, and from whose ground something can be
        told, that, on white.
        """
        if said := self._known(pixels):
            return Shown(pixels, said)
        if not (self._cutter and self.gallery and self._is_large(pixels)):
            return Shown(pixels, {})
        cut = self._cutter(pixels[PHOTO])
        return self._view(cut, self.gallery, is_worn) if cut else Shown(pixels, {})

    def _view(self, garment: Image.Image, gallery: Gallery, is_worn: bool) -> Shown:
        """The view of a garment, RGBA, in which it looks most like one of a gallery, and its kind where that is clear.

        What is worn is of a kind that is told otherwise.
        """
        height, width = self.detail or (1, ASPECT)
        views = [
            {name: images.fit(picture, *size, self.detail) for name, size in self.sizes.items()}
            for picture in self._places.views(garment, width / height)
        ]
        features = self._extractor(np.stack([view["backbone"] for view in views]))
        looks = self.embedder.apply(features)[:, self.embedder.looks]
        alike = looks @ gallery.embeddings[:, self.embedder.looks].T / (looks**2).sum(axis=1, keepdims=True)
        best = int(alike.max(axis=1).argmax())
        place = None if is_worn else stages.clear_kind(alike.max(axis=0), gallery.kinds)
        said = {} if place is None else gallery.kind(place)
        return Shown(views[best], said, features.take([best]))

    def _features(self, shown: Sequence[Shown]) -> Features:
        waiting = [photo.pixels["backbone"] for photo in shown if photo.features is None]
        made = self._extractor(np.stack(waiting)) if waiting else None
        rows = iter(range(len(waiting)))
        of_photos = [photo.features or made.take([next(rows)]) for photo in shown]  # type: ignore[union-attr]
        return Features(*(np.concatenate(columns) for columns in zip(*of_photos, strict=True)))

    def _is_large(self, pixels: Mapping[str, np.ndarray]) -> bool:
        least = min(LARGER * max(self.detail or (0,)), images.LONG_SIDE)
        return PHOTO in pixels and max(pixels[PHOTO].shape) >= least

    def _known(self, pixels: Mapping[str, np.ndarray]) -> dict[str, str | None]:
        """What the catalogue says of a photo that it has."""
        return self.pictures.known(pixels[THUMBNAIL]) if self.pictures and THUMBNAIL in pixels else {}

    def _embed(
        self, features: Features, known: Sequence[Mapping[str, str | None]], kinds: Sequence[Collection[str]]
    ) -> np.ndarray:
        """Embeddings of photos, by what they show alone where nothing is known of them."""
        embeddings = self.embedder.apply(features, among={KIND[1]: kinds} if kinds else None)
        at = [row for row, of_photo in enumerate(known) if of_photo]
        if at:
            said = {name: [known[row].get(name) for row in at] for name in ATTRIBUTES}
            embeddings[at] = self.embedder.apply(features.take(at), said)
        return embeddings

    def _told(self, seen: Seen, subcategory: str | None) -> Seen:
        """What is seen, with the subCategory for certain where the catalogue says it, beside what else it might be."""
        if subcategory not in self.labels:
            return seen
        is_said = np.array([label == subcategory for label in self.labels])
        return replace(seen, probabilities=np.where(is_said, np.float32(1), seen.probabilities))


class Finder(Generic[Place]):
    """Answers photos from a run, by its models and candidates. Not for two threads at once."""

    def __init__(self, run: Run, gallery: Gallery | None = None) -> None:
        """Load the models and candidates: seconds; `gallery` as `Sight` takes it.

        Raises:
            UserError: the lake does not hold the run or its classifier, the backbone is another, or the run cannot be
                filtered as the stages need.
        """
        _check_stages(run)
        self.run = run
        self._sight = Sight(run, Pictures.of(run), gallery)
        self._catalogue = _read_catalogue(run)
        self._candidates = _read_candidates(run)

    def search(self, place: Place, photo: bytes, filters: Filters, k: int = K, exclude: Sequence[str] = ()) -> Answer:
        """The `k` products most like a photo among those that pass the filters (see `jobs.filters`) but those excluded.

        Raises:
            ImageError: the bytes give no image within the limits of the catalogue.
            UserError: an unknown field or a wrong `k`.
            TransientError: another run has gone live; load a new Searcher.
        """
        (seen,) = self.see([photo])
        if isinstance(seen, ImageError):
            raise seen
        return self.answer(place, seen, filters, k, exclude)

    def answer(self, place: Place, seen: Seen, filters: Filters, k: int = K, exclude: Sequence[str] = ()) -> Answer:
        """The rest of `search`, for what has been seen."""
        raise NotImplementedError

    def see(
        self, photos: Sequence[bytes | ImageError], kinds: Sequence[Collection[str]] = ()
    ) -> list[Seen | ImageError]:
        """As `Sight.see`, with the models of the run."""
        return self._sight.see(photos, kinds)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of the pixels that `look` takes."""
        return self._sight.sizes

    @property
    def detail(self) -> tuple[int, int] | None:
        """Most height and width that photos are looked at in."""
        return self._sight.detail

    def look(self, pixels: Sequence[Mapping[str, np.ndarray]]) -> list[Seen]:
        """As `Sight.look`, with the models of the run."""
        return self._sight.look(pixels)

    @property
    def group(self) -> str:
        """What the catalogue calls the subCategory; empty where it has none."""
        return self._catalogue.group

    def among(self, filters: Filters, subcategories: Sequence[str]) -> list[str]:
        """Those of some subCategories that products have which pass the filters. Raises UserError: an unknown field."""
        check_fields(self.run, filters)
        if not self.group:
            return []
        left = _values(self._catalogue.passing(filters)[self.group])
        return [name for name in subcategories if name in left]

    def kinds(self, subcategories: Sequence[str]) -> list[str]:
        """The articleTypes of the products of some subCategories; none where the catalogue lacks either."""
        column = self.run.layout.column(KIND[1])
        if not (self.group and column):
            return []
        return _values(self._catalogue.passing({self.group: list(subcategories)})[column])

    def _answer(self, similar: Similar, seen: Seen, filters: Filters, k: int, exclude: Sequence[str]) -> Answer:
        """The answer by what is `similar` to the photo."""
        around = _Around(similar, self._catalogue, self._candidates, seen.embedding, dict(filters))
        decision = stages.decide(seen.probabilities, self._sight.labels, around)
        chosen: dict[str, str] = {}
        if decision.stage == stages.DERIVED_TYPE and decision.derived_type:
            chosen = self._candidates.kinds[decision.derived_type.value]
        elif decision.stage == stages.SUBCATEGORY and decision.subcategory:
            chosen = {self._catalogue.group: decision.subcategory.value}
        items = similar({**filters, **chosen}, k, exclude)
        guess = decision.subcategory
        others = self._alternatives(seen, around, guess.value) if guess else []
        return Answer(decision.stage, decision.why, guess, decision.derived_type, items, others)

    def _alternatives(self, seen: Seen, around: _Around, taken: str) -> list[tuple[str, float]]:
        probability = dict(zip(self._sight.labels, seen.probabilities.tolist(), strict=True))
        left = [name for name in around.subcategories if name != taken and name in probability]
        return [(name, probability[name]) for name in sorted(left, key=lambda name: -probability[name])[:ALTERNATIVES]]


class Searcher(Finder[psycopg.Connection]):
    """Answers from the store, by the run that was live when it was loaded. Not for two threads at once."""

    def __init__(self, connection: psycopg.Connection, settings: Settings) -> None:
        """Load the live run's models and candidates: seconds.

        Raises:
            UserError: no run is live, the lake does not hold it or its classifier, or the backbone is another.
        """
        run, self.run_id = open_live(connection, settings)
        super().__init__(run)

    def answer(
        self, place: psycopg.Connection, seen: Seen, filters: Filters, k: int = K, exclude: Sequence[str] = ()
    ) -> Answer:
        """The rest of `search`, for what has been seen: all of it from one run, whatever goes live meanwhile."""
        with store.one_run(place):
            return self._from_store(place, seen, filters, k, exclude)

    def answer_named(
        self, connection: psycopg.Connection, seen: Seen, filters: Filters, k: int, exclude: Sequence[str]
    ) -> tuple[Answer, dict[str, tuple[str | None, str]]]:
        """The same, with the name and the image's SHA-256 of each item."""
        with store.one_run(connection):
            answer = self._from_store(connection, seen, filters, k, exclude)
            return answer, store.named(connection, [item.product_id for item in answer.items])

    def named(self, connection: psycopg.Connection, ids: Sequence[str]) -> dict[str, tuple[str | None, str]]:
        """The name and the image's SHA-256 of products. Raises TransientError: another run has gone live."""
        with store.one_run(connection):
            self._check(connection, {})
            return store.named(connection, ids)

    def parts(self, connection: psycopg.Connection, seen: Seen, answer: Answer) -> list[dict[str, float]]:
        """Of each item what the blocks of embeddings add to its score.

        Raises:
            TransientError: another run has gone live.
        """
        with store.one_run(connection):
            self._check(connection, {})
            vectors = store.vectors(connection, [item.product_id for item in answer.items])
        widths = widths_of(self._sight.embedder)
        pairs = (best_pair([seen.embedding], vectors[item.product_id]) for item in answer.items)
        return [parts(*pair, widths) for pair in pairs]

    def _from_store(
        self, connection: psycopg.Connection, seen: Seen, filters: Filters, k: int, exclude: Sequence[str]
    ) -> Answer:
        self._check(connection, filters)
        similar = partial(store.similar_items_by_vector, connection, seen.embedding)
        return self._answer(similar, seen, filters, k, exclude)

    def _check(self, connection: psycopg.Connection, filters: Filters) -> None:
        check_fields(self.run, filters)
        live = store.live(connection)
        if live is None or live.run_id != self.run_id:
            raise TransientError(
                f"run {live.run if live else 'none'} went live after run {self.run.name} was loaded to search in"
            )


def check_fields(run: Run, filters: Iterable[str]) -> None:
    """Raises UserError where a run cannot be filtered by one of these fields."""
    known = run.fields
    unknown = [field for field in filters if field not in known]
    if unknown:
        raise UserError(
            f"unknown field {unknown[0]!r}", where="the filters", remedy=f"known fields: {', '.join(known)}"
        )


def _check_stages(run: Run) -> None:
    """Raises UserError where a run cannot be filtered as the stages need."""
    needed = [column for column in map(run.layout.column, NEEDED) if column]
    missing = [column for column in needed if column not in run.fields]
    if missing:
        raise UserError(
            f"image search filters by {', '.join(needed)}, and the fields of run {run.name} lack {', '.join(missing)}",
            where=f"LOOKALIKE_FIELDS={','.join(run.fields)}",
            remedy=f"add them to the fields, in {FILE} or LOOKALIKE_FIELDS, and refresh",
        )


def _check_width(run: Run, width: int) -> None:
    """Photos can only be compared with products that were embedded by the same rules."""
    stored = to_matrix(next(run.table("embeddings").iter_parts(["embedding"]))["embedding"]).shape[1]
    if stored != width:
        raise UserError(
            f"run {run.name} has embeddings of {stored} dimensions, and this release makes {width} of a photo",
            where=f"{run.lake.uri}/embeddings",
            remedy="refresh as another run; until then search with the release that made this one",
        )


def _backbone(run: Run) -> Model:
    """The backbone of the settings, tuned as the run's was, if it is the run's."""
    model, made_with = choose_model(run.settings), run.result("embed").figures
    if model.fingerprint != made_with["base"]:
        raise UserError(
            f"the settings ask for {model.name} (fingerprint {model.fingerprint[:12]}), but run {run.name} "
            f"was made with {made_with['backbone']} (fingerprint {str(made_with['base'])[:12]})",
            where="LOOKALIKE_BACKBONE, LOOKALIKE_WEIGHTS, LOOKALIKE_INPUT_HEIGHT, LOOKALIKE_INPUT_WIDTH, "
            "LOOKALIKE_PRECISION",
            remedy="set them as they were for that run, or refresh with the new ones first",
        )
    return replace(model, tuned=str(made_with["tuned"]))


def _detail(run: Run) -> tuple[int, int] | None:
    """The most height and width that the run's images were looked at in: a photo is not to be told by its sharpness."""
    told = [detail for detail in (detail_of(run), detail_of(run, "embed")) if detail]
    return (min(height for height, _ in told), min(width for _, width in told)) if told else None


@lru_cache(maxsize=1)
def _extractor(lake: str, model: Model) -> Extractor:
    """The built backbone, which the next run mostly has too: it takes longest to load."""
    return Extractor(build(Lake(lake), model), BATCH)


@lru_cache(maxsize=1)
def _cutter() -> Cutter:
    """The networks that ship with the release, which every run has."""
    return Cutter()


def _places(run: Run) -> Places:
    """Where the run's images show what they show."""
    return Places.of(Image.open(io.BytesIO(data)) for data in sample_images(run, PLACED))


@dataclass(frozen=True)
class Classifier:
    """A run's classifier; `size` is the height and width in pixels of the images it takes, None: it takes features."""

    model: Any  # keras.Model
    labels: list[str]
    size: tuple[int, int] | None

    def probabilities(self, sample: np.ndarray) -> np.ndarray:
        """Of each subCategory, float32 (c,), for features side by side, float32 (d,), or an image, uint8 (h, w, 3).

        As `ml.classifier.subcategory_probabilities`, but called directly: `predict` of Keras takes 50 ms to begin. One
        sample a call, so that its figures are the same to the bit whatever it comes with.
        """
        import keras

        outputs = keras.ops.convert_to_numpy(self.model([sample[None]], training=False))
        return outputs[0, : len(self.labels)]


def read_classifier(run: Run) -> Classifier | None:
    """The run's classifier; None where there was nothing to learn from.

    Raises:
        UserError: it was not trained, or its file is not the one that was.
    """
    row = next(iter(run.table("classifier").read(["model_file", "model_sha256", "labels", "input"]).to_pylist()), None)
    if row is None:
        return None
    try:
        model = classifier.from_bytes(run.lake.read_bytes(row["model_file"]), row["model_sha256"])
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"the classifier of run {run.name} cannot be loaded: {error}",
            where=f"{run.lake.uri}/{row['model_file']}",
            remedy="restore the file, or delete the folder of the table classifier and "
            f"run `lookalike step classify --run {run.name}`",
        ) from None
    return Classifier(model, row["labels"], model.input_shape[1:3] if row["input"] == "images" else None)


# The catalogue as image search needs it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Catalogue:
    """Ids of products, with the derivedType of each, object (n,); and which values occur together.

    `group` is what the catalogue calls the subCategory, empty where it has none.
    """

    ids: pd.Index
    types: np.ndarray
    combinations: pa.Table
    group: str

    def passing(self, filters: Filters) -> pa.Table:
        """The combinations that pass the filters."""
        return passing(self.combinations, filters)

    def types_of(self, items: Sequence[Item]) -> Nearest:
        """The items' derivedTypes and similarities."""
        place = self.ids.get_indexer([item.product_id for item in items])
        return Nearest(self.types[place].tolist(), np.array([item.score for item in items]))


@dataclass(frozen=True)
class Candidates:
    """The candidate of each derivedType: its embedding, a row of float32 (m, e), and the filters that name its kind."""

    place: dict[str, int]
    embeddings: np.ndarray
    kinds: dict[str, dict[str, str]]

    def nearest(self, embedding: np.ndarray, types: Sequence[str]) -> Nearest:
        """Candidates of these derivedTypes, with their similarity to an embedding."""
        return Nearest(types, self.embeddings[[self.place[name] for name in types]] @ embedding)


@dataclass(frozen=True)
class _Around:
    """What passes the caller's filters, as a photo's embedding sees it: `ml.stages.Surroundings` of the run."""

    similar: Similar
    catalogue: Catalogue
    known: Candidates
    embedding: np.ndarray
    filters: Filters

    @cached_property
    def passing(self) -> pa.Table:
        return self.catalogue.passing(self.filters)

    @property
    def subcategories(self) -> list[str]:
        return _values(self.passing[self.catalogue.group])

    def candidates(self, subcategory: str) -> Nearest:
        within = self.passing.filter(pc.equal(self.passing[self.catalogue.group], subcategory))
        return self.known.nearest(self.embedding, _values(within["derivedType"]))

    def neighbours(self, subcategory: str) -> Nearest:
        within = {**self.filters, self.catalogue.group: subcategory}
        return self.catalogue.types_of(self.similar(within, stages.NEIGHBOURS))


def _values(column: pa.ChunkedArray) -> list[str]:
    return sorted(pc.unique(column.drop_null()).to_pylist())


def _read_catalogue(run: Run) -> Catalogue:
    group = run.layout.group
    columns = list(dict.fromkeys([*run.fields, *([group] if group else []), "derivedType"]))
    rows = run.attributes(["product_id", *columns])
    types = np.array(rows["derivedType"].to_pylist(), object)
    return Catalogue(pd.Index(rows["product_id"].to_numpy()), types, _distinct(rows.select(columns)), group)


def _distinct(rows: pa.Table) -> pa.Table:
    """Each row once; lists are told apart as texts, by a character that no value has."""
    is_list = {name: pa.types.is_list(rows[name].type) for name in rows.column_names}
    lists = [name for name in rows.column_names if is_list[name]]
    texts = {name: pc.binary_join(rows[name], "\0") if is_list[name] else rows[name] for name in rows.column_names}
    distinct = pa.table(texts).group_by(rows.column_names).aggregate([])
    for name in lists:
        split = pc.split_pattern(distinct[name], "\0")
        distinct = distinct.set_column(distinct.column_names.index(name), name, split)
    return distinct


def _read_candidates(run: Run) -> Candidates:
    rows = run.table("candidates").read(["derivedType", "product_id"])
    names, chosen = rows["derivedType"].to_pylist(), rows["product_id"].combine_chunks()
    is_chosen = pc.is_in(pc.field("product_id"), value_set=chosen)
    products = run.products(["product_id", *KIND], is_chosen).to_pylist()
    of_kind = {part: column for part in KIND if (column := run.layout.column(part))}
    kinds = {row["product_id"]: {column: row[part] for part, column in of_kind.items()} for row in products}
    found = run.table("embeddings").read(["product_id", "embedding"], is_chosen)
    row_of = {product_id: at for at, product_id in enumerate(to_text(found["product_id"]).to_pylist())}
    ids = to_text(chosen).to_pylist()
    return Candidates(
        {name: at for at, name in enumerate(names)},
        to_matrix(found["embedding"])[[row_of[product_id] for product_id in ids]],
        {name: kinds[product_id] for name, product_id in zip(names, ids, strict=True)},
    )
