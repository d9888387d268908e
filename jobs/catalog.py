"""catalog: raw/ → products, images, rejects.

Reads the run's archive in place (nothing is extracted); writes each image content once, the products that can be used,
and a row of `rejects` with its reason for everything that cannot; tells which picture each image
shows (`ml.pictures`). Images are named by content, so running it again adds
nothing, and a night with the same archive and settings is not read again.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import archives
from infra.errors import UserError
from infra.lake import Lake, Part, Table
from infra.places import shown
from infra.settings import ATTRIBUTES, Settings
from infra.telemetry import Progress
from jobs import ids, step, tables
from jobs.downloads import download
from jobs.layout import FILE, Layout, kaggle, parse
from jobs.rejects import Rejects
from jobs.run import Run, StepResult, content_hash
from jobs.stored import measure_detail
from jobs.styles import read_styles, reading, remedy
from ml import images, pictures
from ml.images import ImageError, Stored

CODE_VERSION = 6
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic")  # of two files for one id, the first suffix wins
TABLE = "styles"
"""What the catalogue's table is called, but for its ending."""
TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".json", ".jsonl", ".parquet", ".gz")
"""What may be a catalogue under another name."""
IMAGES_A_PART = 992
"""At most 1,000, and a multiple of the 32 that the embed step takes a call."""
BATCH_BYTES = 128 * 2**20
"""Bytes of image files that are held at once, give or take a file."""
DECODERS = min(4, os.cpu_count() or 1)
"""Threads: each may hold an image of the largest size, and small ones gain nothing from more."""
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What reading a damaged or encrypted member raises; an OSError is the lake's, and no reason to reject an image."""
DRIVE = re.compile("[A-Za-z]:")
"""How a path of Windows begins that is no path within an archive; `Look 12:30/` is one."""
URL = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
"""How the address of an image begins, also of a kind that is not asked."""
IMAGES_MAX = 8
"""Images of a product that are used."""
MAPPING_MAX_BYTES = 2**20
KINDS_SHOWN = 5
"""Kinds of files that a message lists."""


def products_schema(layout: Layout) -> pa.Schema:
    """Of the table `products`, whose columns between the ids and derivedType have the catalogue's names.

    `picture` is the number of what the image shows (`ml.pictures`): the same one for each file of the same picture.
    Where columns name the images there may be several: `images` are all, by SHA-256, the main one first.
    Which part a column plays is told with it where the layout is not the built-in one: steps depend on that, too.
    """
    parts = {} if layout == kaggle(layout.fields) else layout.parts
    kinds = {name: pa.list_(pa.string()) if name in layout.lists else pa.string() for name in layout.stored}
    of_catalogue = (pa.field(name, kind, metadata=parts.get(name)) for name, kind in kinds.items())
    ours = [("derivedType", pa.string()), ("image_sha256", pa.string()), ("picture", pa.int64())]
    if layout.image:
        ours.append(("images", pa.list_(pa.string())))
    return pa.schema([("product_id", pa.string()), *of_catalogue, *ours])


PRODUCTS = products_schema(kaggle(ATTRIBUTES))
"""Of a catalogue in Kaggle's layout."""
IMAGES = pa.schema(
    [
        ("image_sha256", pa.string()),
        ("bytes", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("recipe", pa.string()),
        ("picture", pa.int64()),
        ("thumbnail", pa.binary()),
    ]
)
"""`image_sha256` is of the source's file, and `recipe` says by which `ml.images.RECIPE` it became `bytes`."""
REJECTS = pa.schema([(name, pa.string()) for name in ("product_id", "file", "reason", "detail")])


def catalog(run: Run) -> StepResult:
    """Turn the pulled archive into products, images and rejects."""
    settings, pulled = run.settings, run.table("pulls", "left_out")
    rules = [CODE_VERSION, images.recipe_hash(), pictures.NEAR]
    fingerprint = content_hash(
        *(rules, run.content("pulls"), settings.reject_max, settings.image_max_bytes, settings.fields),
        *([_read_mapping(settings.catalogue).hex()] if settings.catalogue else []),
        *([settings.delimiter, settings.encoding] if settings.delimiter or settings.encoding else []),
    )
    tables = {name: run.lake.table(name) for name in ("images", "rejects", "products")}
    if done := run.done("catalog", fingerprint, tables):
        news = {"images_new": 0} | ({} if "detail" in done.figures else {"detail": _detail(done.tables, run.lake)})
        return replace(done, figures=done.figures | news)
    (origin,) = pulled.read(["uri", "archive", "left_out"]).to_pylist()
    rejects = Rejects()
    for item in origin["left_out"]:
        rejects.file(None, item["file"], item["reason"], item["detail"])
    with _opened(run.lake, origin["archive"]) as archive:
        source = find_members(archive, origin["uri"], settings, rejects)
        with source.open_table(reading(settings, source.layout)) as table:
            rows = read_styles(table, rejects, source.layout)
        found = len(rows) + rejects.products.total()
        products = attach_images(rows, source, rejects)
        _check_share(rejects, found, len(products), settings.reject_max, source)  # before the images' work
        known, of_files = Known.of(tables["images"]), Found()
        files = list(dict.fromkeys(file for product in products for file in product["files"]))
        at_urls, inside = ([file for file in files if bool(URL.match(file)) == is_url] for is_url in (True, False))
        contents = _new_contents(source, inside, set(known.contents), settings.image_max_bytes, of_files)
        if at_urls:
            downloaded = download(run, at_urls, source=origin["uri"], beside=bool(inside))
            of_files.add(downloaded.images, downloaded.faults)
            contents = chain(contents, downloaded.contents(known.contents))
        parts, products = store_images(contents, of_files, products, known, rejects)
    _check_share(rejects, found, len(products), settings.reject_max, source)
    figures = {
        "products": len(products),
        "images_new": sum(part.rows for part in parts),
        "rejected_products": rejects.products.total(),
        "reject_reasons": dict(Counter(row["reason"] for row in rejects.rows).most_common()),
        "styles": source.styles,
        "mapping": source.layout.model_dump(mode="json") if source.mapping else None,
        "read_as": table.read_as,
        "lines_not_utf8": table.not_utf8,
        **(downloaded.figures if at_urls else {}),
    }
    if parts or tables["images"].version < 0:
        # An earlier release told no pictures. Its rows go; older runs, which look at the table as it was, keep them.
        mode = "append" if known.table.version < 0 or known.fits else "rewrite"
        tables["images"] = known.table.commit(parts, IMAGES, run=run.name, mode=mode)
    part = run.lake.write_part("rejects", pa.Table.from_pylist(rejects.rows, schema=REJECTS))
    tables["rejects"] = tables["rejects"].commit([part], REJECTS, run=run.name)
    products.sort(key=lambda product: ids.key(product["product_id"]))
    schema = products_schema(source.layout)
    part = run.lake.write_part("products", pa.Table.from_pylist(products, schema=schema))
    tables["products"] = tables["products"].commit([part], schema, run=run.name)
    versions = {name: table.version for name, table in tables.items()}
    figures["detail"] = _detail(versions, run.lake)
    result = StepResult(len(products), len(parts) + 2, len(rejects.rows), tables=versions, figures=figures)
    return result if at_urls else run.remember("catalog", fingerprint, result)  # what is at a URL may be another file


def _detail(versions: Mapping[str, int], lake: Lake) -> list[int] | None:
    """The height and width that hardly any image of the products exceeds."""
    products = lake.table("products", versions["products"])
    several = "images" in products.schema.names
    hashes = products.read(["images" if several else "image_sha256"]).column(0).combine_chunks()
    hashes = pc.unique(hashes.flatten() if several else hashes)
    detail = measure_detail(lake.table("images", versions["images"]), hashes)
    return list(detail) if detail else None


# The archive's members ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(lake: Lake, name: str) -> Iterator[zipfile.ZipFile]:
    with lake.reading(name) as stream, zipfile.ZipFile(stream) as archive:
        yield archive


@dataclass(frozen=True)
class Source:
    """Where the catalogue lies in its archive: members by path, the table's path and files, image paths by product id.

    `mapping` is where its `layout` is told, empty for the one that is built in. Where the layout names columns of
    images, `images` is empty. `elsewhere` are the files that lie neither there nor in the folder images.
    """

    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    layout: Layout
    mapping: str
    styles: str
    files: dict[str, str]
    images: dict[str, str]
    elsewhere: list[str]

    @contextmanager
    def open_table(self, reading: tables.Reading) -> Iterator[tables.Table]:
        """The catalogue's table.

        Raises:
            UserError: it is damaged, or no table.
        """
        files = {
            path: tables.File(name, partial(self.archive.open, self.members[name])) for path, name in self.files.items()
        }
        try:
            with tables.opened(self.styles, files, reading) as table:
                yield table
        except DAMAGE as error:
            raise UserError(
                f"{PurePosixPath(self.styles).name} is damaged in the archive: {error}",
                where=self.styles,
                remedy="fetch or pack it again",
            ) from None


def find_members(archive: zipfile.ZipFile, uri: str, settings: Settings, rejects: Rejects) -> Source:
    """The catalogue's layout, the shallowest table that it names, and the image files in the folder `images` beside it.

    Raises:
        UserError: there is no such table, several catalogues are there, or a mapping cannot be used.
    """
    members, hidden = read_members(archive, rejects)
    layout, mapping = find_layout(archive, members, settings)
    found = find_tables(layout, mapping, members)
    if not found and mapping:
        wanted = layout.table or "that is called styles, nor just one"
        raise UserError(
            f"the source has no table {wanted}; {_listed(list(members))}",
            where=f"{uri}, as {mapping} says",
            remedy='write `table = "…"` with its path, relative to the mapping',
        )
    if not found:
        unread = f"{len(hidden)} × hidden (such as {hidden[0]})" if hidden else ""
        raise _no_styles(list(members), [unread, rejects.of_files()], uri)
    chosen, *others = sorted(found, key=lambda name: (name.count("/"), name))
    contents = {name: _contents(members, files) for name, files in found.items()}
    for other in others:
        # The archives of Kaggle hold a whole catalogue twice, once more in a folder below.
        if contents[other] != contents[chosen] or other.count("/") == chosen.count("/"):
            raise UserError(
                f"the source holds two catalogues, {chosen} and {other}",
                where=uri,
                remedy="give the one: its folder, or an archive of that alone",
            )
    folder = str(PurePosixPath(chosen).parent / "images") + "/"
    inside = [name for name in members if name.startswith(folder)]
    read = {mapping, *(name for files in found.values() for name in files.values())}
    elsewhere = [name for name in members if not name.startswith(folder) and name not in read]
    of_ids = {} if layout.image else image_members(inside, rejects)
    return Source(archive, members, layout, mapping, chosen, found[chosen], of_ids, elsewhere)


def root_of(members: Iterable[str]) -> str:
    """The folder that everything lies in, with a slash behind it; empty: there is none."""
    tops = {name.partition("/")[::2] for name in members}
    folders = {folder for folder, _ in tops}
    return f"{folders.pop()}/" if len(folders) == 1 and all(inside for _, inside in tops) else ""


def find_layout(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], settings: Settings
) -> tuple[Layout, str]:
    """The layout, and the file that tells it: that of the settings, or the one at the source's root; or Kaggle's."""
    at_root = [name for name in (FILE, root_of(members) + FILE) if name in members]
    file = settings.catalogue or next(iter(at_root), "")
    if not file:
        return kaggle(settings.fields), ""
    layout = parse(_read_mapping(file) if settings.catalogue else _unpack_mapping(archive, members[file]), file)
    if "fields" in settings.model_fields_set:
        raise UserError(
            "the fields are told twice",
            where=f"{file} and LOOKALIKE_FIELDS={','.join(settings.fields)}",
            remedy="unset LOOKALIKE_FIELDS: the mapping says which columns are fields",
        )
    return layout, file


def _read_mapping(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UserError(
            f"the mapping cannot be read: {error.strerror}",
            where=f"LOOKALIKE_CATALOGUE={file}",
            remedy="name a file, or unset it",
        ) from None


def _unpack_mapping(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as stream:
            data = stream.read(MAPPING_MAX_BYTES + 1)
    except DAMAGE as error:
        raise UserError(
            f"the mapping is damaged in the archive: {error}", where=member.filename, remedy="fetch or pack it again"
        ) from None
    if len(data) > MAPPING_MAX_BYTES:
        problem = f"the mapping has more than {MAPPING_MAX_BYTES:,} bytes"
        raise UserError(problem, where=member.filename, remedy="see docs/catalogue.md for what a mapping says")
    return data


def find_tables(layout: Layout, mapping: str, members: Collection[str]) -> dict[str, dict[str, str]]:
    """The tables that a layout may mean, with their files: that which it names, those called styles, or the only one.

    The only one beside the mapping, if there is one to say what it is. One that is not in the source counts as lying at
    its root.
    """
    every = tables.among(members)
    here = posixpath.dirname(mapping) if mapping in members else root_of(members)
    if layout.table:
        place = posixpath.normpath(posixpath.join(here, layout.table))
        return {place: every[place]} if place in every else {}
    named = tables.named(TABLE, members)
    if named or not mapping:
        return named
    folder = posixpath.normpath(here)
    beside = {place: files for place, files in every.items() if folder in (place, posixpath.dirname(place) or ".")}
    return beside if len(beside) == 1 else {}


def _contents(members: dict[str, zipfile.ZipInfo], files: dict[str, str]) -> dict[str, tuple[int, int]]:
    """CRC and size of a table's files, by their path in it."""
    return {path: (members[name].CRC, members[name].file_size) for path, name in files.items()}


def _no_styles(names: list[str], unread: list[str], uri: str) -> UserError:
    """Says what is there instead, and what of it could not be read."""
    told = "; ".join(text for text in [_listed(names), *unread] if text)
    is_table = any(PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES or "styles." in name.lower() for name in names)
    return UserError(
        f"the source has no styles.csv; {told}",
        where=uri,
        remedy=(
            f"if that is the catalogue, name it {TABLE}, with the ending of its kind "
            f"({', '.join(tables.SUFFIXES[:5])}; packed: .gz behind), the folder images beside it"
            if is_table
            else "give a source (LOOKALIKE_DATASET) with styles.csv and a folder images beside it"
        ),
    )


def _listed(names: list[str]) -> str:
    """What files there are, those of one folder and suffix as one: `it holds products.csv, 40 × images/*.jpg`."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        kinds.setdefault((str(path.parent), path.suffix), []).append(name)
    shown = [
        named[0] if len(named) == 1 else f"{len(named)} × {folder.removeprefix('.') and folder + '/'}*{suffix}"
        for (folder, suffix), named in sorted(kinds.items(), key=lambda kind: len(kind[1]))
    ]
    return f"it holds {', '.join(shown[:KINDS_SHOWN]) or 'no files'}{' …' if len(shown) > KINDS_SHOWN else ''}"


def read_members(archive: zipfile.ZipFile, rejects: Rejects) -> tuple[dict[str, zipfile.ZipInfo], list[str]]:
    """Members by their path within the archive, written one way: tar writes `./a/b`, old Windows tools `a\\b`.

    And the names of those that are hidden, as what tools leave behind is.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    hidden = []
    for written, member in archives.named(archive.infolist()):
        name = written.replace("\\", "/")
        parts = PurePosixPath(name).parts
        if name.endswith("/"):
            continue
        if not parts or parts[0] == "/" or ".." in parts or DRIVE.match(name):
            rejects.file(None, name, "unsafe name", "the name is no path within the archive; the file was not used")
        elif "__MACOSX" in parts or any(part.startswith(".") for part in parts):
            hidden.append(name)
        elif members.setdefault("/".join(parts), member) is not member:
            rejects.file(None, name, "duplicate name", "the first file of this name is used")
    return members, hidden


def image_members(names: list[str], rejects: Rejects) -> dict[str, str]:
    images: dict[str, str] = {}
    ranked = []
    for name in names:
        stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            rejects.file(None, name, "unknown kind of file", f"images end in {', '.join(IMAGE_SUFFIXES)}")
        elif why := ids.fault(product_id := ids.trimmed(stem)):
            rejects.file(None, name, "no product id in the name", f"{stem[:40]!r}: {why}")
        else:
            ranked.append((ids.key(product_id), name.count("/"), IMAGE_SUFFIXES.index(suffix), name))
    for (*_, product_id), _, _, name in sorted(ranked):
        if images.setdefault(product_id, name) != name:
            rejects.file(product_id, name, "second image", f"{images[product_id]} is used")
    return images


def attach_images(rows: list[dict], source: Source, rejects: Rejects) -> list[dict]:
    """The rows that have images, with their `files`, names of members or URLs; both kinds of leftovers are rejected."""
    if source.layout.image:
        return _attach_named(rows, source, rejects)
    known = {row["product_id"] for row in rows}
    for product_id in sorted(source.images.keys() - known, key=ids.key):
        rejects.file(product_id, source.images[product_id], "no row", f"{source.styles} has no such id")
    for row in rows:
        if row["product_id"] not in source.images:
            rejects.product(row["product_id"], source.styles, "no image", "the folder images has no such file")
    return [{**row, "files": [source.images[row["product_id"]]]} for row in rows if row["product_id"] in source.images]


def _attach_named(rows: list[dict], source: Source, rejects: Rejects) -> list[dict]:
    """The same where columns name the images, in the order in which they are named."""
    folder = PurePosixPath(source.styles).parent
    attached = []
    for row in rows:
        named = [
            path if URL.match(path) else posixpath.normpath(folder / path.replace("\\", "/")) for path in row["images"]
        ]
        absent = [path for path in named if not URL.match(path) and path not in source.members]
        files = [file for file in dict.fromkeys(named) if file not in absent]
        why = f"the source has no file {', '.join(absent)}" if absent else "the row names none"
        if absent and files:
            rejects.file(row["product_id"], source.styles, "no image", why)
        if len(files) > IMAGES_MAX:
            why = f"it has {len(files)} images, of which the first {IMAGES_MAX} are used"
            rejects.file(row["product_id"], source.styles, "too many images", why)
        if files:
            attached.append({**row, "files": files[:IMAGES_MAX]})
        else:
            rejects.product(row["product_id"], source.styles, "no image", why)
    return attached


# Images ---------------------------------------------------------------------------------------------------------------


@dataclass
class Known:
    """What is stored of images: the picture of each content, by SHA-256, and all thumbnails with their pictures.

    A content that was stored by another recipe is none of them, but its thumbnail is known.
    """

    table: Table
    contents: dict[str, int] = field(default_factory=dict)
    thumbnails: np.ndarray = field(default_factory=lambda: np.empty((0, pictures.WIDTH), np.uint8))
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, table: Table) -> Known:
        """What the table `images` holds; nothing where an earlier release wrote it."""
        known = cls(table)
        if not known.fits:
            return known
        rows = table.read(["image_sha256", "recipe", "picture", "thumbnail"])
        known.numbers = rows["picture"].to_numpy()
        known.thumbnails = np.concatenate([known.thumbnails, *map(_to_array, rows["thumbnail"].chunks)])
        recipe = images.recipe_hash()
        kept = zip(rows["image_sha256"].to_pylist(), rows["recipe"].to_pylist(), known.numbers.tolist(), strict=True)
        known.contents = {sha: picture for sha, stored_by, picture in kept if stored_by == recipe}
        return known

    @property
    def fits(self) -> bool:
        """Whether the table is there and has this release's columns."""
        return self.table.version >= 0 and self.table.schema.names == IMAGES.names

    def add(self, stored: dict[str, Stored]) -> list[int]:
        """Take up new contents, by SHA-256; returns their pictures."""
        thumbnails = _to_array(pa.array([image.thumbnail for image in stored.values()], pa.binary()))
        numbers = pictures.identify(thumbnails, self.thumbnails, self.numbers)
        self.thumbnails = np.concatenate([self.thumbnails, thumbnails])
        self.numbers = np.concatenate([self.numbers, numbers])
        self.contents |= zip(stored, numbers.tolist(), strict=True)
        return numbers.tolist()


def _to_array(thumbnails: pa.BinaryArray) -> np.ndarray:
    """The bytes of a column as they lie in memory, uint8 (n, `pictures.WIDTH`)."""
    values, size = thumbnails.buffers()[2], len(thumbnails) * pictures.WIDTH
    if not size:
        return np.empty((0, pictures.WIDTH), np.uint8)
    return np.frombuffer(values, np.uint8, size, thumbnails.offset * pictures.WIDTH).reshape(-1, pictures.WIDTH)


@dataclass
class Found:
    """What files of images gave, by their names: the SHA-256 of each in `contents`, or in `faults` what is wrong.

    One that is in both is used all the same.
    """

    contents: dict[str, str] = field(default_factory=dict)
    faults: dict[str, ImageError] = field(default_factory=dict)

    def add(self, contents: Mapping[str, str], faults: Mapping[str, ImageError]) -> None:
        """Take up what further files gave."""
        self.contents |= contents
        self.faults |= faults


def store_images(
    contents: Iterable[tuple[str, bytes]],
    found: Found,
    products: list[dict],
    known: Known,
    rejects: Rejects,
) -> tuple[list[Part], list[dict]]:
    """Write the contents that are not `known` yet, and let it know them.

    Args:
        contents: (SHA-256, bytes) of each, once.
        found: what the products' files gave, when `contents` has been read.
        products: with their `files`, which rejects name.
        known: what is stored already.
        rejects: receives the files that cannot be used, and the products that have no other.

    Returns:
        The parts, and the products that have an image that can be used, each with its `images`, SHA-256 (hex), the main
        one first, which is its `image_sha256` and has its `picture`.
    """
    bad: dict[str, ImageError] = {}
    parts: list[Part] = []
    waiting: list[dict] = []
    recipe = images.recipe_hash()

    def write() -> None:
        rows = pa.Table.from_pylist(waiting[:IMAGES_A_PART], schema=IMAGES)
        parts.append(known.table.lake.write_part("images", rows))
        del waiting[:IMAGES_A_PART]

    with ThreadPoolExecutor(DECODERS) as pool:
        for batch in _batches(contents):
            made = dict(zip(batch, pool.map(_store, batch.values()), strict=True))
            bad |= {sha: image for sha, image in made.items() if isinstance(image, ImageError)}
            stored = {sha: image for sha, image in made.items() if isinstance(image, Stored)}
            for (sha, image), picture in zip(stored.items(), known.add(stored), strict=True):
                row = (sha, image.data, image.width, image.height, recipe, picture, image.thumbnail)
                waiting.append(dict(zip(IMAGES.names, row, strict=True)))
            if len(waiting) >= IMAGES_A_PART:
                write()
    if waiting:
        write()
    usable = []
    for product in products:
        images_of = [found.contents.get(file) for file in product["files"]]
        shas = list(dict.fromkeys(sha for sha in images_of if sha and sha not in bad))
        faults = [
            found.faults.get(file) or bad.get(sha or "") for file, sha in zip(product["files"], images_of, strict=True)
        ]
        _reject(rejects, product, faults, nothing=not shas)
        if shas:
            usable.append({**product, "images": shas, "image_sha256": shas[0], "picture": known.contents[shas[0]]})
    return parts, usable


def _reject(rejects: Rejects, product: Mapping, faults: Sequence[ImageError | None], *, nothing: bool) -> None:
    """A row for each fault of a product's files; the first one rejects the product where `nothing` is left of it."""
    reject = rejects.product if nothing else rejects.file
    for file, fault in zip(product["files"], faults, strict=True):
        if fault:
            name = shown(file).encode(errors="replace").decode() if URL.match(file) else file  # JSON: half a character
            reject(product["product_id"], name, fault.reason, fault.detail)
            reject = rejects.file


def _new_contents(
    source: Source, names: Sequence[str], known: set[str], max_bytes: int, found: Found
) -> Iterator[tuple[str, bytes]]:
    """(SHA-256, bytes) of each content of members that is not `known`, once; `found` receives what each gave.

    At most `max_bytes` are unpacked, whatever the archive declares. In the order of the archive: one pass over it.
    """
    progress, seen = Progress("images", len(names)), set(known)
    for name in sorted(names, key=lambda name: source.members[name].header_offset):
        progress.add(1)
        try:
            with source.archive.open(source.members[name]) as member:
                data = member.read(max_bytes + 1)
        except DAMAGE as error:
            found.faults[name] = ImageError("damaged in the archive", str(error))
            continue
        if len(data) > max_bytes:
            fault = ImageError("file too large", f"more than {max_bytes:,} bytes (LOOKALIKE_IMAGE_MAX_BYTES)")
            found.faults[name] = fault
            continue
        found.contents[name] = sha = hashlib.sha256(data).hexdigest()
        if sha not in seen:
            seen.add(sha)
            yield sha, data


def _batches(contents: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, bytes]]:
    """Contents in groups of at most IMAGES_A_PART and about BATCH_BYTES: what memory holds of the files at once."""
    batch: dict[str, bytes] = {}
    size = 0
    for sha, data in contents:
        batch[sha] = data
        size += len(data)
        if len(batch) == IMAGES_A_PART or size >= BATCH_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def _store(data: bytes) -> Stored | ImageError:
    try:
        return images.store(data)
    except ImageError as error:
        return error


def _check_share(rejects: Rejects, rows: int, usable: int, limit: float, source: Source) -> None:
    """Stop where too many rows of styles.csv are rejected; files that no row asks for are no products and don't count.

    Raises:
        UserError: the share is above `limit`, or no product is left; it tells of the files too that were not used.
    """
    rejected = rejects.products.total()
    share = rejected / rows
    if share <= limit and usable:
        return
    files = [rejects.of_files()] if len(rejects.rows) > rejected else []
    if source.elsewhere and rejects.products["no image"]:
        files.append(f"outside the folder images {_listed(source.elsewhere)}")
    unused = f"; files that no product has: {'; '.join(files)}" if files else ""
    raise UserError(
        f"{rejected} of {rows} products ({share:.1%}) cannot be used, at most {limit:.1%} may be: "
        f"{rejects.of_products()}{unused}",
        where=source.styles,
        remedy=f"{remedy(rejects) or 'mend the source'}, or allow more with LOOKALIKE_REJECT_MAX",
    )


if __name__ == "__main__":
    raise SystemExit(step.main("catalog"))
