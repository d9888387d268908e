"""looks: a folder or table of photos → the look of each: persons, articles, and the products most like them (Spark).

Reads the photos that `LOOKALIKE_LOOK_PHOTOS` names (`jobs.photo_source`) and the run's tables; writes a row of `looks`
for each article that somebody wears in a photo, as `lookalike look` answers it, or one of `look_rejects` with the
reason. Products are compared in memory (`jobs.lake_search`), so the store is not asked. Without photos there is nothing
to do.

A task is a range of photos, of which workers are told names alone. What a task wrote is remembered by the photos'
bytes and by all that its answers follow from: a killed step goes on from its last task, and run again for the same
photos and products it looks at nothing.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import lru_cache
from time import perf_counter
from zlib import crc32

import pyarrow as pa

from infra import pretrained
from infra import spark as engine
from infra.allocator import keep_freed_memory
from infra.errors import UserError
from infra.lake import Lake, Part
from infra.settings import read_settings
from infra.telemetry import Progress
from jobs import cutting, detectors, looking, photo_source, step
from jobs.lake_search import LakeSearcher
from jobs.look import Dressed, Look, Worn, look
from jobs.looking import Detector, Models
from jobs.photo_source import REJECTS, Photo, Source, read_photo
from jobs.run import Run, StepResult, check_chain, content_hash, recorded, release
from jobs.serve.search import Answer
from ml import features
from ml.images import ImageError
from ml.look.articles import KeypointBoxes

Place = tuple[str, tuple[str, ...], tuple[str, ...]]
"""What photos are asked for by: what the setting says, the run's fields, and the roots that photos may lie below."""
CODE_VERSION = 6
"""Raised where the rules of `jobs.look` give other answers: what was remembered before then counts for nothing."""
SETTING = "LOOKALIKE_LOOK_PHOTOS"
READ = ("catalog", "embed", "classify", "candidates", "similar")
"""Steps whose results the answers follow from, and the tables of them that do."""
TABLES = ("products", "images", "features", "classifier", "candidates", "embeddings")
TASK_PHOTOS, TASK_MOST = 16, 48
"""Photos of a task: about how many, and at most. A photo takes a core a second or two."""
COUNTS = ("persons", "articles", "without_article")
"""Figures of what was found; the last is of photos."""
SECONDS = ("load_s", "read_s", "decode_s", "persons_s", "articles_s", "embed_s", "search_s")
"""Where the workers' time goes, in their figures and summed up."""
LOOKS = pa.schema(
    [
        ("image", pa.string()),
        ("image_sha256", pa.string()),
        ("filters", pa.string()),
        ("exclude", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("person", pa.int32()),
        ("person_box", pa.list_(pa.float32())),
        ("person_confidence", pa.float32()),
        ("orientation", pa.string()),
        ("orientation_confidence", pa.float32()),
        ("full_shot", pa.bool_()),
        ("full_shot_confidence", pa.float32()),
        ("gender", pa.string()),
        ("article", pa.int32()),
        ("class", pa.string()),
        ("box", pa.list_(pa.float32())),
        ("confidence", pa.float32()),
        ("says", pa.list_(pa.string())),
        ("stage", pa.string()),
        ("why", pa.string()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)
"""An article that a person of a photo wears: persons by number, the largest first, and the articles of each, the surest
first; boxes in pixels of the photo as it was looked at, `width` × `height`.

A person without articles has a row without `class`, and a photo in which no article was found one without `person`,
whose `items` are those that the ordinary search finds for the whole photo.
"""
SCHEMAS = {"looks": LOOKS, "look_rejects": REJECTS}


def looks(run: Run) -> StepResult:
    """Look at every photo of the source, by the rules of a single one."""
    if not run.settings.look_photos:
        return StepResult(figures={"photos": 0, "reason": f"{SETTING} names no photos: there is nothing to look at"})
    check_chain(run, READ)
    source, started = _open((run.settings.look_photos, run.fields, run.settings.photo_roots)), perf_counter()
    batch = _batch(run, source)
    written = _look_at_all(batch, _tasks(source.photos), run.settings.spark)
    seconds = perf_counter() - started
    versions, rejected = {}, Counter[str]()
    for name, schema in SCHEMAS.items():
        parts = [part for part, figures in written if figures["rejected"] == (name == "look_rejects")]
        table = run.lake.table(name).commit(parts, schema, run=run.name)
        versions[name] = table.version
        if name == "look_rejects" and parts:
            rejected = Counter(table.read(["reason"])["reason"].to_pylist())
    summed = {key: sum(figures.get(key, 0) for _, figures in written) for key in ("looked_at", *COUNTS, *SECONDS)}
    looked_at = int(summed["looked_at"])
    return StepResult(
        rows=sum(part.rows for part, figures in written if not figures["rejected"]),
        files=len(written),
        rejects=rejected.total(),
        skipped=not looked_at,
        tables=versions,
        figures={
            "photos": len(source.photos),
            "looked_at": looked_at,
            **{name: int(summed[name]) for name in COUNTS},
            "reject_reasons": dict(rejected.most_common()),
            "boxes_by": batch.boxes_by,
            "photos_per_s": round(looked_at / seconds, 2),
            **{name: round(summed[name], 1) for name in SECONDS},
        },
    )


@dataclass(frozen=True)
class Batch:
    """What workers share: the run, as text, and where the photos are.

    `source` is None where a table holds the photos themselves: each worker opens that, and does not get it from the
    driver. `named` is the hash of the photos' names and `fingerprint` that of all else that answers follow from.
    """

    run: str
    detector: str
    place: Place
    source: Source | None
    named: str
    fingerprint: str
    boxes_by: str
    computation: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What a worker tells this batch by from another whose table had the same place."""

    def photos(self, task: str) -> tuple[Source, list[Photo]]:
        """The source and the photos of a task.

        Raises:
            UserError: the table is another by now.
        """
        source = self.source or _opened(self.place, self.computation)
        if not self.source and _named(source) != self.named:
            raise UserError(
                "the table has changed while its photos were looked at",
                where=self.place[0],
                remedy="run the step again",
            )
        start, stop = map(int, task.split(":"))
        return source, source.photos[start:stop]


def _batch(run: Run, source: Source) -> Batch:
    settings, detector = run.settings, detectors.champion(run.lake)
    results = {name: asdict(run.result(name)) for name in READ}
    told = {"name": run.name, "lake": run.lake.uri, "settings": recorded(settings), "results": results}
    fingerprint = content_hash(
        CODE_VERSION,
        release(),
        {name: str(schema) for name, schema in SCHEMAS.items()},
        {name: file.sha256 for name, file in pretrained.FILES.items()},
        [hashlib.sha256(file.read_bytes()).hexdigest() for file in (looking.WEIGHTS, cutting.WEIGHTS, cutting.TURNS)],
        detector,
        {name: run.content(name) for name in TABLES},
        run.fields,
        [run.result(name).figures.get("detail") for name in ("catalog", "embed")],
        settings.image_max_bytes,
        source.k,
    )
    return Batch(
        json.dumps(told),
        detector,
        (settings.look_photos, run.fields, settings.photo_roots),
        None if any(isinstance(photo.content, bytes) for photo in source.photos) else source,
        _named(source),
        fingerprint,
        Detector.source if detector else KeypointBoxes.source,
    )


def _open(place: Place) -> Source:
    """The source; what a table asks for twice in the same words is answered once."""
    source, met, photos = photo_source.open_source(*place), set[str](), list[Photo]()
    for photo in source.photos:
        question = content_hash(photo.name, photo.filters, photo.exclude)
        if photo.content is not None or question not in met:
            photos.append(photo)
        met.add(question)
    return replace(source, photos=photos)


@lru_cache(maxsize=1)
def _opened(place: Place, computation: str) -> Source:
    """Worker: as `_open`, once a batch."""
    return _open(place)


def _named(source: Source) -> str:
    return content_hash([photo.label for photo in source.photos])


def _tasks(photos: Sequence[Photo]) -> list[str]:
    """Ranges of photos, `start:stop`. One ends where a name says so: a photo more or less leaves the others alone."""
    tasks, start = [], 0
    for stop, photo in enumerate(photos, 1):
        if stop in (len(photos), start + TASK_MOST) or crc32(photo.label.encode()) % TASK_PHOTOS == 0:
            tasks.append(f"{start}:{stop}")
            start = stop
    return tasks


def _look_at_all(batch: Batch, tasks: list[str], master: str) -> list[engine.Written]:
    """Look at all photos on Spark; returns the parts of both tables."""
    spark, written = engine.context("looks", master), list[engine.Written]()
    try:
        shared, progress = spark.broadcast(batch), Progress("photos", int(tasks[-1].partition(":")[2]))
        for news in engine.map_to_parts(spark, tasks, lambda task: look_at(shared.value, task)):
            written += news
            progress.add(sum(int(figures.get("photos", 0)) for _, figures in news))
    finally:
        spark.stop()
    return written


# Workers --------------------------------------------------------------------------------------------------------------


def look_at(batch: Batch, task: str) -> Iterator[engine.Written]:
    """Worker: look at the photos of a task, unless that was done, and write a part of each table that gets rows.

    Each photo is read twice, so that memory holds one: first for what it is known by.
    """
    source, photos = batch.photos(task)
    run, started = _run(batch.run), perf_counter()
    most = run.settings.image_max_bytes + 1
    known = [_known_by(photo, read_photo(source, photo, most)) for photo in photos]
    memory = f"done/looks/{content_hash(batch.fingerprint, known)}.json"
    if (written := _remembered(run.lake, memory)) is not None:
        yield from written
        return
    loading = perf_counter()
    models, searcher = _models(batch.run, batch.detector)
    ms = {"read": 1000 * (loading - started), "load": 1000 * (perf_counter() - loading)}
    rows: dict[str, list[dict]] = {name: [] for name in SCHEMAS}
    counts, met = Counter[str](), []
    for photo in photos:
        data = read_photo(source, photo, most)
        met.append(_known_by(photo, data))
        try:
            if isinstance(data, ImageError):
                raise data
            found = look(searcher, models, None, data, photo.filters, source.k, photo.exclude)
        except ImageError as error:
            rows["look_rejects"].append({"image": photo.label, "reason": error.reason, "detail": error.detail})
            continue
        rows["looks"] += _rows(photo, hashlib.sha256(data).hexdigest(), found)
        counts += _counts(found)
        ms |= {name: ms.get(name, 0.0) + value for name, value in found.ms.items()}
    written = _write(run.lake, rows, {"photos": len(photos), **counts})
    if met == known:
        stored = [(astuple(part), figures) for part, figures in written]
        run.lake.write_bytes(memory, json.dumps(stored).encode())
    spent = {f"{name}_s": value / 1000 for name, value in ms.items()} | {"looked_at": len(photos)}
    yield from [(written[0][0], written[0][1] | spent), *written[1:]]


def _known_by(photo: Photo, data: bytes | ImageError) -> list[object]:
    """What a photo's rows follow from, beside models and products."""
    content = str(data) if isinstance(data, ImageError) else hashlib.sha256(data).hexdigest()
    return [photo.label, photo.filters, list(photo.exclude), content]


def _remembered(lake: Lake, memory: str) -> list[engine.Written] | None:
    """What a task wrote when it was done before, if it is still there."""
    try:
        kept = json.loads(lake.read_bytes(memory))
    except FileNotFoundError:
        return None
    written = [(Part(*part), figures) for part, figures in kept]
    return written if all(lake.exists(f"{_table_of(figures)}/{part.path}") for part, figures in written) else None


def _write(lake: Lake, rows: dict[str, list[dict]], counts: dict[str, float]) -> list[engine.Written]:
    """A part of each table that gets rows; the first tells the counts."""
    written = [
        (lake.write_part(name, pa.Table.from_pylist(rows[name], schema=schema)), {"rejected": name == "look_rejects"})
        for name, schema in SCHEMAS.items()
        if rows[name]
    ]
    return [(part, figures | (counts if not at else {})) for at, (part, figures) in enumerate(written)]


def _table_of(figures: dict[str, float]) -> str:
    return "look_rejects" if figures["rejected"] else "looks"


@lru_cache(maxsize=1)
def _run(told: str) -> Run:
    """The run as it was when the step began, whatever step is run again meanwhile."""
    given = json.loads(told)
    lake = Lake(given["lake"])
    settings = read_settings(**given["settings"], lake=lake.uri)
    return Run(given["name"], settings, lake, {"results": given["results"]})


@lru_cache(maxsize=1)
def _models(told: str, detector: str) -> tuple[Models, LakeSearcher]:
    """Loaded once a worker process, for the GPU or the cores that its tasks get."""
    engine.take_gpu()
    keep_freed_memory()
    features.start(threads=engine.task_threads())
    run = _run(told)
    return looking.load(run.lake, detector), LakeSearcher(run)


# Rows -----------------------------------------------------------------------------------------------------------------


def _rows(photo: Photo, sha256: str, found: Look) -> list[dict]:
    """The rows of a photo."""
    of_photo = {
        "image": photo.label,
        "image_sha256": sha256,
        "filters": json.dumps(photo.filters, sort_keys=True),
        "exclude": photo.exclude,
        "width": found.width,
        "height": found.height,
        "says": found.says,
    }
    rows = [
        of_photo | _of_person(number, person) | of_article
        for number, person in enumerate(found.persons, 1)
        for of_article in _of_articles(person.worn, found.says)
    ]
    return rows + ([of_photo | _of_answer(found.answer)] if found.answer else [])


def _of_person(number: int, person: Dressed) -> dict:
    return {
        "person": number,
        "person_box": person.box,
        "person_confidence": person.confidence,
        "orientation": person.pose.orientation,
        "orientation_confidence": person.pose.confidence,
        "full_shot": person.pose.full_shot,
        "full_shot_confidence": person.pose.full_shot_confidence,
        "gender": person.gender,
    }


def _of_articles(worn: Sequence[Worn], says: list[str]) -> list[dict]:
    if not worn:
        return [_of_answer(None) | {"says": [*says, "no article was found on this person"]}]
    return [
        {
            "article": number,
            "class": each.article.name,
            "box": each.article.box,
            "confidence": each.article.confidence,
            "says": [*says, each.says],
            **_of_answer(each.answer),
        }
        for number, each in enumerate(worn, 1)
    ]


def _of_answer(answer: Answer | None) -> dict:
    if answer is None:
        return {"items": [], "scores": []}
    return {
        "stage": answer.stage,
        "why": answer.why,
        "items": [item.product_id for item in answer.items],
        "scores": [item.score for item in answer.items],
    }


def _counts(found: Look) -> Counter[str]:
    articles = sum(len(person.worn) for person in found.persons)
    return Counter(persons=len(found.persons), articles=articles, without_article=int(not articles))


if __name__ == "__main__":
    raise SystemExit(step.main("looks"))
