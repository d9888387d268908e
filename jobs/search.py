"""search: a folder or table of photos → for each the products of the live run that look most like it.

Reads the photos that `--dataset` names and the run, which must be the live one; writes a row of `searches` for each
photo, or one of `search_rejects` with the reason. It is no part of a night: run it for photos from elsewhere. The same
photos and run give the same rows, and running it again commits nothing.

`--dataset` is a folder or table of photos, as `jobs.photo_source` has them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from time import perf_counter

import pyarrow as pa

from infra import store
from infra.errors import UserError
from infra.telemetry import Progress
from jobs import step
from jobs.photo_source import REJECTS, Photo, Source, open_source, read_photo
from jobs.run import Run, StepResult
from jobs.serve import search as serving
from jobs.serve.search import Answer, Searcher, Seen
from ml.images import ImageError

SEARCHES = pa.schema(
    [
        ("image", pa.string()),
        ("image_sha256", pa.string()),
        ("filters", pa.string()),
        ("exclude", pa.list_(pa.string())),
        ("stage", pa.string()),
        ("why", pa.string()),
        ("subCategory", pa.string()),
        ("subCategory_confidence", pa.float32()),
        ("derivedType", pa.string()),
        ("derivedType_confidence", pa.float32()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)
CATALOGUES = ("sample:", "kaggle:")
"""How a data set begins that holds a catalogue."""


def search(run: Run) -> StepResult:
    """Search for every photo of the source, by the rules of a single one."""
    settings, rows, rejects = run.settings, [], []
    with store.connect(settings.store, settings.store_folder) as connection:
        _check_live(connection, run)
        _check_no_catalogue(settings.dataset)
        source = open_source(settings.dataset, run.fields, settings.photo_roots)
        searcher = Searcher(connection, settings)
        started, progress = perf_counter(), Progress("photos", len(source.photos))
        for found in in_batches(source, searcher, connection):
            rows += [each for each in found if "reason" not in each]
            rejects += [each for each in found if "reason" in each]
            progress.add(len(found))
    seconds = perf_counter() - started
    versions = {
        name: _write(run, name, content, schema)
        for name, content, schema in (("searches", rows, SEARCHES), ("search_rejects", rejects, REJECTS))
    }
    figures = {
        "photos": len(source.photos),
        **{f"by_{stage}": count for stage, count in sorted(Counter(row["stage"] for row in rows).items())},
        "reject_reasons": dict(Counter(each["reason"] for each in rejects).most_common()),
        "ms_a_photo": round(1000 * seconds / len(source.photos), 1),
    }
    return StepResult(len(rows), 2, len(rejects), tables=versions, figures=figures)


def _check_live(connection, run: Run) -> None:  # type: ignore[no-untyped-def]  # psycopg.Connection
    live = store.live(connection)
    if live and live.run != run.name:
        raise UserError(
            f"photos are searched for in the live run, which is {live.run} and not {run.name}",
            where=f"--run {run.name}",
            remedy=f"ask for --run {live.run}",
        )


def _check_no_catalogue(dataset: str) -> None:
    if dataset.startswith(CATALOGUES):
        raise UserError(
            f"{dataset!r} is a catalogue, and no folder or table of photos",
            where="--dataset or LOOKALIKE_DATASET",
            remedy="name the photos: `lookalike search photos/`, or --dataset photos/",
        )


def in_batches(source: Source, searcher: Searcher, connection) -> Iterator[list[dict]]:  # type: ignore[no-untyped-def]
    """Rows of `searches` and `search_rejects`, in the order of the source."""
    most = searcher.run.settings.image_max_bytes + 1
    for at in range(0, len(source.photos), serving.BATCH):
        photos = source.photos[at : at + serving.BATCH]
        read = [read_photo(source, photo, most) for photo in photos]
        found: list[dict] = []
        for photo, data, seen in zip(photos, read, searcher.see(read), strict=True):
            if isinstance(data, bytes) and isinstance(seen, Seen):
                answer = searcher.answer(connection, seen, photo.filters, source.k, photo.exclude)
                found.append(_row(photo, hashlib.sha256(data).hexdigest(), answer))
            elif isinstance(seen, ImageError):
                found.append({"image": photo.label, "reason": seen.reason, "detail": seen.detail})
        yield found


def _row(photo: Photo, sha256: str, answer: Answer) -> dict[str, object]:
    subcategory, derived_type = answer.subcategory, answer.derived_type
    return {
        "image": photo.label,
        "image_sha256": sha256,
        "filters": json.dumps(photo.filters, sort_keys=True),
        "exclude": photo.exclude,
        "stage": answer.stage,
        "why": answer.why,
        "subCategory": subcategory and subcategory.value,
        "subCategory_confidence": subcategory and subcategory.confidence,
        "derivedType": derived_type and derived_type.value,
        "derivedType_confidence": derived_type and derived_type.confidence,
        "items": [item.product_id for item in answer.items],
        "scores": [item.score for item in answer.items],
    }


def _write(run: Run, name: str, rows: list[dict], schema: pa.Schema) -> int:
    parts = [run.lake.write_part(name, pa.Table.from_pylist(rows, schema=schema))] if rows else []
    return run.lake.table(name).commit(parts, schema, run=run.name).version


if __name__ == "__main__":
    raise SystemExit(step.main("search"))
