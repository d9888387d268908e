"""Builders of small catalogues, good, odd and hostile: the one helper that tests share."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from infra import store
from infra.lake import Lake
from infra.settings import ATTRIBUTES, read_settings
from jobs import catalog, extraction, similar
from jobs.features import read_embeddings
from jobs.layout import kaggle
from jobs.publish import load
from jobs.pull import PULLS
from jobs.run import Run, StepResult, recorded
from jobs.step import execute
from ml.images import recipe_hash
from ml.split import FINAL_PLACES, PLACES, sides_of

HEADER = ("id", *ATTRIBUTES)
COLOURS = {"Red": (200, 30, 40), "Blue": (30, 60, 190), "Green": (30, 140, 60), "Black": (20, 20, 20)}
TYPES = (("Apparel", "Topwear", "Tshirts"), ("Footwear", "Shoes", "Casual Shoes"), ("Accessories", "Bags", "Handbags"))
RUN = "2026-01-31"


def row(product_id: int | str, **changes: str) -> dict[str, str]:
    """A good row of styles.csv; `changes` replace values."""
    number = int(product_id) if str(product_id).isdigit() else 0
    master, sub, article = TYPES[number % len(TYPES)]
    values = {
        "id": str(product_id),
        "gender": ("Men", "Women")[number % 2],
        "masterCategory": master,
        "subCategory": sub,
        "articleType": article,
        "baseColour": list(COLOURS)[number % len(COLOURS)],
        "season": "Summer",
        "year": "2012",
        "usage": "Casual",
        "productDisplayName": f"Product {product_id}",
    }
    return values | changes


def styles(rows: list[dict[str, str]], columns: tuple[str, ...] = HEADER) -> bytes:
    """styles.csv with these columns, quoted as the csv module does."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def image(
    product_id: int, colour: str = "Red", size: tuple[int, int] = (30, 40), kind: str = "JPEG", mode: str = "RGB"
):
    """Bytes of a small drawing that differs with the product id and the colour."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.rectangle((width // 5, height // 8, width * 4 // 5, height * 7 // 8), fill=COLOURS[colour])
    draw.point([(product_id % width, 0), (product_id // width % width, 1)], fill="black")
    draw.line((width // 5, (product_id * 7) % height, width * 4 // 5, (product_id * 3) % height), fill="white")
    out = io.BytesIO()
    picture.convert(mode).save(out, kind, quality=95)
    return out.getvalue()


def good_files(n: int, start: int = 1) -> dict[str, bytes]:
    """The files of a catalogue of `n` good products by name."""
    rows = [row(product_id) for product_id in range(start, start + n)]
    files = {f"images/{each['id']}.jpg": image(int(each["id"]), each["baseColour"]) for each in rows}
    return {"styles.csv": styles(rows), **files}


def zip_bytes(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()


def open_run(lake: Lake, name: str = RUN, **settings: object) -> Run:
    """A run on this lake; its logs go beside nothing that a test reads."""
    return Run(name, read_settings(lake=lake.uri, **settings), lake)


def write_table(run: Run, table: str, rows: list[dict], schema: pa.Schema, part_rows: int = 1 << 20) -> int:
    """Commit these rows as a table, as its step would, in parts of so many; returns the version.

    Ids may be numbers. Where products and images do not say, each image shows a picture of its own and was stored by
    this release.
    """
    if table in ("products", "images"):
        told = {"recipe": recipe_hash()} if table == "images" else {}
        rows = [told | {"picture": picture_of(row["image_sha256"])} | row for row in rows]
    if "product_id" in schema.names:
        rows = [row | {"product_id": str(row["product_id"])} for row in rows]
    parts = [
        run.lake.write_part(table, pa.Table.from_pylist(rows[at : at + part_rows], schema=schema))
        for at in range(0, max(1, len(rows)), part_rows)
    ]
    return run.lake.table(table).commit(parts, schema, run=run.name).version


def picture_of(sha256: str) -> int:
    """The number that `write_table` gives the picture of an image: none of the final side, so that more are tested."""
    number = int(sha256[:8], 16)
    return number if number % PLACES not in FINAL_PLACES else 10**12 + number + len(FINAL_PLACES)


def sides_of_images(hashes: list[str]) -> np.ndarray:
    """Sides of the images with these SHA-256, as `write_table` numbers their pictures."""
    return sides_of(np.array([picture_of(sha) for sha in hashes], np.int64))


def write_result(run: Run, step: str, **fields: object) -> None:
    """Store what a step would have returned, without inputs."""
    result = StepResult(**{"settings": recorded(run.settings), "release": "test", "attempt": "test", **fields})  # type: ignore[arg-type]
    contents = {name: run.lake.table(name, version).content for name, version in result.tables.items()}
    result = replace(result, contents=contents | result.contents)
    run.lake.write_bytes(f"runs/{run.name}/{step}.json", json.dumps(asdict(result)).encode())


def pulled(run: Run, archive: bytes) -> Run:
    """Put an archive into the lake as the step pull would have."""
    sha = hashlib.sha256(archive).hexdigest()
    name = f"raw/{sha}.zip"
    run.lake.write_bytes(name, archive)
    entry = {"uri": "test", "archive": name, "sha256": sha, "bytes": len(archive), "members": 0, "left_out": []}
    write_result(run, "pull", tables={"pulls": write_table(run, "pulls", [entry], PULLS)})
    return run


def mapped(run: Run, **keys: object) -> Run:
    """Let the step catalog of a run say that a mapping made it: Kaggle's layout but for these keys."""
    told, before = kaggle(run.settings.fields).model_dump(mode="json") | keys, run.result("catalog")
    write_result(
        run, "catalog", tables=before.tables, rejects=before.rejects, figures=before.figures | {"mapping": told}
    )
    return run


def embedded(run: Run, products: list[dict], features: dict[str, list[float]], model: str = "model") -> Run:
    """Commit products and the features of their images as catalog and embed would have; absent columns are null."""
    rows = [
        {"image_sha256": sha, "model": model, "average": v, "maximum": v, "stages": v} for sha, v in features.items()
    ]
    for step, table, content, schema, part_rows in (
        ("catalog", "products", products, catalog.PRODUCTS, 1 << 20),
        ("embed", "features", rows, extraction.SCHEMA, 250),
    ):
        version = write_table(run, table, content, schema, part_rows)
        write_result(
            run,
            step,
            tables={table: version},
            figures={"model": model, "base": model, "tuned": "", "embedder": "untrained"},
        )
    return run


def folder(path: Path, files: dict[str, bytes]) -> Path:
    """Write the files below `path`."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def extracted(run: Run, files: dict[str, bytes]) -> np.ndarray:
    """Take a run of these files as far as similar, without Spark: its products' embeddings, float32 (n, d), by id."""
    execute("catalog", pulled(run, zip_bytes(files)))
    model, table = extraction.choose_model(run.settings), run.table("images")
    hashes = run.table("products").read(["image_sha256"])["image_sha256"].combine_chunks()
    parts = [extraction.embed_file(run.lake, part, hashes, model)[0] for part in table.parts]
    version = run.lake.table("features").commit(parts, extraction.SCHEMA, run=run.name).version
    figures = {"model": model.fingerprint, "backbone": model.name, "tuned": "", "embedder": "untrained"}
    write_result(run, "embed", tables={"features": version}, figures=figures | {"base": model.fingerprint})
    embeddings = read_embeddings(run)
    list_nearest(run, embeddings)
    return embeddings


def list_nearest(run: Run, embeddings: np.ndarray) -> None:
    """Write what similar would for the products by id with these embeddings, float32 (n, d), with one cell."""
    ids, scores = run.products(["product_id"])["product_id"].to_pylist(), embeddings @ embeddings.T
    np.fill_diagonal(scores, -1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    lists = [([ids[at] for at in nearest], scores[row, nearest]) for row, nearest in enumerate(best)]
    rows: dict[str, list[dict]] = {
        "embeddings": [
            {"product_id": number, "embedding": embedding, "unlabelled": None}
            for number, embedding in zip(ids, embeddings, strict=True)
        ],
        "cells": [{"cell": 0, "members": len(ids), "depth": 10, "filters": "[{}]"}],
        "shortlists": [
            {"product_id": number, "items": items, "scores": nearest}
            for number, (items, nearest) in zip(ids, lists, strict=True)
        ],
    }
    tables = {name: write_table(run, name, rows[name], schema) for name, schema in similar.SCHEMAS.items()}
    write_result(run, "similar", tables=tables, figures={"products": len(ids)})


def serve(run: Run) -> None:
    """Load a run into its store and make it live, whatever gates would say."""
    with store.connect(run.settings.store, run.settings.store_folder, prepares=True) as connection:
        with connection.transaction():
            load(connection, run, run.name, manifest(run))
        with connection.transaction():
            store.lock(connection)
            store.flip(connection, store.runs(connection)[0].run_id)


def manifest(run: Run) -> dict[str, object]:
    """What the run was made of, as publish writes it."""
    return {"run": run.name, "results": {name: asdict(result) for name, result in run.results().items()}}
