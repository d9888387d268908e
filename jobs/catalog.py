"""catalog: raw/ → products, images, rejects.

Reads the run's archive in place (nothing is extracted); writes each image content once, the products that can be used,
and a row of `rejects` with its reason for everything that cannot. Images are named by content, so running it again adds
nothing, and a night with the same archive and settings is not read again.
"""

from __future__ import annotations

import csv
import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa

from infra.errors import UserError
from infra.lake import Part, Table
from infra.settings import ATTRIBUTES
from infra.telemetry import Progress
from jobs import step
from jobs.step import Run, StepResult
from ml.images import ImageError, normalise

CODE_VERSION = 1
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # of two files for one id, the first suffix wins
IMAGES_A_PART = 1024
MAX_ID = 2**63 - 1
MAX_LINES_A_RECORD = 20

PRODUCTS = pa.schema(
    [
        ("product_id", pa.int64()),
        *((name, pa.string()) for name in ATTRIBUTES),
        ("derivedType", pa.string()),
        ("image_sha256", pa.string()),
    ]
)
IMAGES = pa.schema(
    [("image_sha256", pa.string()), ("bytes", pa.binary()), ("width", pa.int32()), ("height", pa.int32())]
)
REJECTS = pa.schema([(name, pa.string()) for name in ("product_id", "file", "reason", "detail")])


@dataclass
class Rejects:
    """Everything that could not be used, a row each; `products` counts those that are rows of styles.csv."""

    rows: list[dict[str, str | None]] = field(default_factory=list)
    products: int = 0

    def product(self, product_id: str | None, file: str, reason: str, detail: str = "") -> None:
        """Reject a row of styles.csv."""
        self.products += 1
        self.file(product_id, file, reason, detail)

    def file(self, product_id: str | None, file: str, reason: str, detail: str = "") -> None:
        """Reject a file that no accepted row of styles.csv asks for."""
        self.rows.append({"product_id": product_id, "file": file, "reason": reason, "detail": detail})


def catalog(run: Run) -> StepResult:
    """Turn the pulled archive into products, images and rejects."""
    settings, pulled = run.settings, run.table("pulls")
    mark = step.fingerprint(CODE_VERSION, pulled.fingerprint, settings.reject_max, settings.image_max_bytes)
    tables = {name: run.lake.table(name) for name in ("images", "rejects", "products")}
    if tables["products"].fingerprint == tables["rejects"].fingerprint == mark:
        return _result(tables, skipped=True)
    name = pulled.read(["sha256"])["sha256"][0].as_py()
    rejects = Rejects()
    with (
        run.lake.filesystem.open_input_file(run.lake.path(f"raw/{name}.zip")) as stream,
        zipfile.ZipFile(stream) as zip_,
    ):
        source = find_members(zip_, rejects)
        rows = read_styles(zip_.read(source.styles), source.styles, rejects)
        found = sum(1 for _ in rows) + rejects.products
        products = _attach_images(rows, source, rejects)
        parts, hashes = store_images(zip_, products, tables["images"], rejects, settings.image_max_bytes, mark)
    usable = [{**product, "image_sha256": hashes[product["file"]]} for product in products if product["file"] in hashes]
    _check_share(rejects, found, len(usable), settings.reject_max, source.styles)
    table = pa.Table.from_pylist(sorted(usable, key=lambda product: product["product_id"]), schema=PRODUCTS)
    figures = {
        "products": len(usable),
        "images_new": sum(part.rows for part in parts),
        "rejects": len(rejects.rows),
        "reject_reasons": dict(Counter(row["reason"] for row in rejects.rows).most_common()),
        "styles": source.styles,
    }
    if parts or tables["images"].version < 0:
        tables["images"] = tables["images"].commit(parts, IMAGES, run=run.name, fingerprint=mark, mode="append")
    part = run.lake.write_part("rejects", pa.Table.from_pylist(rejects.rows, schema=REJECTS), salt=mark)
    tables["rejects"] = tables["rejects"].commit([part], REJECTS, run=run.name, fingerprint=mark)
    part = run.lake.write_part("products", table, salt=mark)
    tables["products"] = tables["products"].commit([part], PRODUCTS, run=run.name, fingerprint=mark, figures=figures)
    return _result(tables, files=len(parts) + 2)


def _result(tables, files: int = 0, skipped: bool = False) -> StepResult:  # type: ignore[no-untyped-def]
    figures = dict(tables["products"].figures)
    if skipped:
        figures["images_new"] = 0
    versions = {name: table.version for name, table in tables.items()}
    rejects = figures.pop("rejects")
    return StepResult(figures["products"], files, rejects, skipped=skipped, tables=versions, figures=figures)


# The archive's members ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where the catalogue lies in its archive: the member name of styles.csv, and those of the images by product id."""

    styles: str
    images: dict[int, str]


def find_members(archive: zipfile.ZipFile, rejects: Rejects) -> Source:
    """The shallowest `styles.csv` and the image files in the folder `images` beside it.

    Raises:
        UserError: no member is called styles.csv.
    """
    names = []
    for name in archive.namelist():
        path = PurePosixPath(name.replace("\\", "/"))
        if name.endswith("/") or path.name.startswith(".") or "__MACOSX" in path.parts:
            continue
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            rejects.file(None, name, "unsafe name", "the name leads out of the archive; the file was not used")
        else:
            names.append(name)
    styles = [name for name in names if PurePosixPath(name).name == "styles.csv"]
    if not styles:
        shown = ", ".join(names[:5]) or "no files"
        raise UserError(
            f"the source has no styles.csv; it holds {shown}{' …' if len(names) > 5 else ''}",
            where="LOOKALIKE_DATASET",
            remedy="give a source with styles.csv and a folder images beside it",
        )
    chosen = min(styles, key=lambda name: (name.count("/"), name))
    return Source(chosen, _image_members(names, str(PurePosixPath(chosen).parent / "images"), rejects))


def _image_members(names: list[str], folder: str, rejects: Rejects) -> dict[int, str]:
    images: dict[int, str] = {}
    candidates = [PurePosixPath(name) for name in names if str(PurePosixPath(name).parent) == folder]
    ranked = []
    for path in candidates:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            rejects.file(None, str(path), "unknown kind of file", f"images end in {', '.join(IMAGE_SUFFIXES)}")
        elif (product_id := _parse_id(path.stem)) is None:
            rejects.file(None, str(path), "no product id in the name", f"{path.stem!r} is no whole number")
        else:
            ranked.append((product_id, IMAGE_SUFFIXES.index(path.suffix.lower()), str(path)))
    for product_id, _, name in sorted(ranked):
        if images.setdefault(product_id, name) != name:
            rejects.file(str(product_id), name, "second image", f"{images[product_id]} is used")
    return images


def _parse_id(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) <= MAX_ID else None


# styles.csv -----------------------------------------------------------------------------------------------------------


def read_styles(data: bytes, name: str, rejects: Rejects) -> list[dict]:
    """Rows of styles.csv as dicts of `product_id`, the nine attributes and derivedType; empty values are None.

    The published file does not quote its last column, so further commas in a row belong to it; `NA` is a value.

    Raises:
        UserError: the file is no CSV with the columns of a catalogue, or has no rows.
    """
    records = _records(_lines(data, name))
    header = [column.strip() for column in next(records, (0, []))[1]]
    missing = [column for column in ("id", *ATTRIBUTES) if column not in header]
    if missing:
        raise UserError(
            f"the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} "
            f"missing; found {', '.join(header)[:200] or 'nothing'}",
            where=name,
            remedy=f"give a CSV file with the columns id, {', '.join(ATTRIBUTES)}",
        )
    rows: dict[int, dict] = {}
    for line, record in records:
        where = f"{name}, line {line}"
        values = _fit(record, header)
        product_id = _parse_id(values["id"]) if values else None
        if values is None:
            problem = "too few fields" if len(record) < len(header) else "too many fields"
            rejects.product(record[0][:40], where, problem, f"{len(record)} instead of {len(header)}")
        elif product_id is None:
            rejects.product(values["id"][:40], where, "no product id", f"{values['id'][:40]!r} is no whole number")
        elif product_id in rows:
            rejects.product(str(product_id), where, "duplicate id", "the first row with this id is used")
        else:
            rows[product_id] = _product(product_id, values)
    if not rows:
        raise UserError("styles.csv has no product that can be read", where=name, remedy="give a file with products")
    return list(rows.values())


def _lines(data: bytes, name: str) -> list[str]:
    if b"\0" in data:
        raise UserError("styles.csv is no CSV: it holds zero bytes", where=name, remedy="give a UTF-8 CSV file")
    return [_text(line) for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]


def _text(line: bytes) -> str:
    """UTF-8, and Windows' Western encoding for a line that is not: spreadsheets write it."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


def _records(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each record. A quoted field may span lines; a stray quote swallows nothing."""
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        used, record = _record(lines, at)
        yield at + 1, record
        at += used


def _record(lines: list[str], at: int) -> tuple[int, list[str]]:
    for used in range(1, MAX_LINES_A_RECORD + 1):
        if at + used > len(lines):
            break
        try:
            text = [line + "\n" for line in lines[at : at + used - 1]] + [lines[at + used - 1]]
            return used, next(csv.reader(text, strict=True))
        except csv.Error as error:
            if "unexpected end" not in str(error):  # a quote inside a field: no reason to read on
                break
    return 1, lines[at].split(",")


def _fit(record: list[str], header: list[str]) -> dict[str, str] | None:
    """Values by column, or None where the record cannot be one of this header."""
    extra = len(record) - len(header)
    if extra > 0 and header[-1] == "productDisplayName":
        record = [*record[: len(header) - 1], ",".join(record[len(header) - 1 :])]
    return dict(zip(header, record, strict=True)) if len(record) == len(header) else None


def _product(product_id: int, values: dict[str, str]) -> dict:
    attributes = {name: values[name].strip() or None for name in ATTRIBUTES}
    both = attributes["gender"] and attributes["articleType"]
    derived = f"{attributes['gender']} {attributes['articleType']}" if both else None
    return {"product_id": product_id, **attributes, "derivedType": derived}


def _attach_images(rows: list[dict], source: Source, rejects: Rejects) -> list[dict]:
    """The rows that have an image file, with its member name as `file`; both kinds of leftovers are rejected."""
    ids = {row["product_id"] for row in rows}
    for product_id in sorted(source.images.keys() - ids):
        rejects.file(str(product_id), source.images[product_id], "no row", f"{source.styles} has no such id")
    for row in rows:
        if row["product_id"] not in source.images:
            rejects.product(str(row["product_id"]), source.styles, "no image", "the folder images has no such file")
    return [{**row, "file": source.images[row["product_id"]]} for row in rows if row["product_id"] in source.images]


# Images ---------------------------------------------------------------------------------------------------------------


def store_images(
    archive: zipfile.ZipFile, products: list[dict], table: Table, rejects: Rejects, max_bytes: int, mark: str
) -> tuple[list[Part], dict[str, str]]:
    """Write the contents that the images table does not hold yet; returns the parts and each usable file's SHA-256."""
    known = set(table.read(["image_sha256"])["image_sha256"].to_pylist()) if table.version >= 0 else set()
    hashes: dict[str, str] = {}
    bad: dict[str, ImageError] = {}
    parts: list[Part] = []
    waiting: list[dict] = []
    progress = Progress("images", len(products))
    with ThreadPoolExecutor() as pool:
        for at in range(0, len(products), IMAGES_A_PART):
            chunk = [
                (product, *_read(archive, product["file"], max_bytes)) for product in products[at : at + IMAGES_A_PART]
            ]
            fresh = {
                sha: data for _, sha, data in chunk if isinstance(data, bytes) and sha not in known and sha not in bad
            }
            for sha, image in zip(fresh, pool.map(_normalise, fresh.values()), strict=True):
                if isinstance(image, ImageError):
                    bad[sha] = image
                else:
                    known.add(sha)
                    waiting.append(dict(zip(IMAGES.names, (sha, *image), strict=True)))
            for product, sha, data in chunk:
                error = data if isinstance(data, ImageError) else bad.get(sha)
                if error:
                    rejects.product(str(product["product_id"]), product["file"], error.reason, error.detail)
                else:
                    hashes[product["file"]] = sha
            while len(waiting) >= IMAGES_A_PART or (waiting and at + IMAGES_A_PART >= len(products)):
                rows = pa.Table.from_pylist(waiting[:IMAGES_A_PART], schema=IMAGES)
                parts.append(table.lake.write_part("images", rows, salt=mark))
                del waiting[:IMAGES_A_PART]
            progress.add(len(chunk))
    return parts, hashes


def _read(archive: zipfile.ZipFile, name: str, max_bytes: int) -> tuple[str, bytes | ImageError]:
    """SHA-256 and bytes of a member; at most `max_bytes` are unpacked, whatever the archive declares."""
    try:
        with archive.open(name) as member:
            data = member.read(max_bytes + 1)
            if len(data) > max_bytes:
                return "", ImageError("file too large", f"more than {max_bytes:,} bytes (LOOKALIKE_IMAGE_MAX_BYTES)")
            return hashlib.sha256(data).hexdigest(), data
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        return "", ImageError("damaged in the archive", str(error))


def _normalise(data: bytes) -> tuple[bytes, int, int] | ImageError:
    try:
        return normalise(data)
    except ImageError as error:
        return error


def _check_share(rejects: Rejects, rows: int, usable: int, limit: float, styles: str) -> None:
    share = rejects.products / rows
    if share <= limit and usable:
        return
    reasons = Counter(row["reason"] for row in rejects.rows).most_common(3)
    examples = [next(row for row in rejects.rows if row["reason"] == reason) for reason, _ in reasons]
    shown = "; ".join(
        f"{count} × {reason} (such as {example['product_id'] or ''} in {example['file']})"
        for (reason, count), example in zip(reasons, examples, strict=True)
    )
    raise UserError(
        f"{rejects.products} of {rows} products ({share:.1%}) cannot be used, at most {limit:.1%} may be: {shown}",
        where=styles,
        remedy="mend the source, or allow more with LOOKALIKE_REJECT_MAX",
    )


if __name__ == "__main__":
    raise SystemExit(step.main("catalog"))
