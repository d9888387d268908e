"""A look at a source that nobody has mapped yet: its columns, a mapping to begin with, and what a run would say.

Nothing is written but a copy of the source in the scratch folder while it is looked at.
"""

from __future__ import annotations

import json
import posixpath
import random
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.table import Table
from rich.text import Text

from infra.errors import UserError
from infra.lake import Lake
from infra.places import shown
from infra.settings import ATTRIBUTES, Settings
from jobs import catalog, extraction, pull, tables
from jobs.catalog import Source
from jobs.layout import FIELD_NAME_MAX, FIELDS_MAX, FILE, PARTS, TAKEN, Layout, json_list, kaggle, of_keys
from jobs.printing import plain_table
from jobs.rejects import Rejects
from jobs.styles import read_styles, reading
from jobs.tables.lines import UNDECODED
from ml import images
from ml.features import Extractor
from ml.images import ImageError

DISTINCT_MAX = 100_000
"""Values of a column that are told apart; one that has more is no field."""
SAMPLES = 3
IMAGES_TRIED = 256
"""Images that are decoded, drawn at random from all."""
SMALL = 60
"""Pixels of the shorter side below which an image is called small."""
FIELD_MOST = 5000
"""Different values of a field that is proposed."""
OF_IMAGES = re.compile("image|img|photo|picture|pic", re.IGNORECASE)
"""What a column of images is called, where its addresses do not end as a file of one."""
NEARLY = 0.95
"""Share from which on a column is taken for what nearly all of its values say: in every catalogue some are wrong."""
BANDED = 12
"""Different numbers of a column from which on bands are proposed for it."""
NAMES = {
    "id": ("id", "sku", "productid", "product_id", "articleid", "article_id", "article_number", "item_id", "asin"),
    "name": ("productdisplayname", "title", "name", "product_name", "productname", "display_name", "description"),
    "kind": ("articletype", "product_type", "producttype", "subcategory", "sub_category", "category", "type", "class"),
    "group": ("subcategory", "sub_category", "category", "mastercategory", "department", "group", "section"),
    "for_whom": ("gender", "sex", "for_whom", "audience", "target_group"),
    "colour": ("basecolour", "base_colour", "colour", "color", "base_color", "colour_group", "tint"),
}  # fmt: skip
"""What catalogues call the columns that play a part, the likeliest first, without case."""


@dataclass
class Column:
    """What a column holds: rows with a value, how often each value comes, and how many are numbers, paths or URLs.

    Of a row that has a list, each of its values; `lists` counts such rows, and `nested` those of what is no value.
    """

    name: str
    filled: int = 0
    numbers: int = 0
    images: int = 0
    lists: int = 0
    nested: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, value: str) -> None:
        """Take up the value of a row."""
        if not value:
            return
        self.filled += 1
        try:
            items = json_list(value)
        except ValueError:
            items = None
            self.nested += 1
        self.nested += value.startswith("{")
        if items is not None:
            self.lists += 1
            self.images += bool(items) and all(map(self._is_image, items))
            for item in items:
                self._count(item)
            return
        self.numbers += _is_number(value)
        self.images += self._is_image(value)
        self._count(value)

    def _is_image(self, value: str) -> bool:
        is_file = value.partition("?")[0].lower().endswith(catalog.IMAGE_SUFFIXES)
        return is_file or bool(catalog.URL.match(value) and OF_IMAGES.search(self.name))

    def _count(self, value: str) -> None:
        if value in self.counts or len(self.counts) <= DISTINCT_MAX:
            self.counts[value] += 1

    @property
    def distinct(self) -> int:
        """Different values; one more than `DISTINCT_MAX` where there are more."""
        return len(self.counts)

    @property
    def samples(self) -> list[str]:
        """The most frequent values."""
        return [value for value, _ in self.counts.most_common(SAMPLES)]

    def tells_apart(self, rows: int) -> bool:
        """Whether it may be the id: each row has a value, and hardly one comes again."""
        return self.filled == rows and self.distinct >= NEARLY * min(rows, DISTINCT_MAX)

    def all(self, kind: int) -> bool:
        """Whether nearly all of its values are of this kind."""
        return kind >= max(1, NEARLY * self.filled)


@dataclass(frozen=True)
class Inspection:
    """What a source looks like: its table, its columns, the mapping it has or could have, and what a run would reject.

    `files` counts the images that were decoded by what became of them; `repeated` are products that show another one's
    image file, `at_urls` those whose image is at a URL, where nobody has looked; `seconds` is about how long a first
    refresh takes here, or none where too little is known.
    """

    table: str
    read_as: str
    rows: int
    columns: list[Column]
    layout: Layout
    origin: str
    products: int
    rejects: Rejects
    files: Counter[str]
    repeated: int
    at_urls: int
    seconds: float | None


def inspect(settings: Settings) -> Inspection:
    """Look at the source that `dataset` names.

    Raises:
        UserError, TransientError: it cannot be had, or holds no table that can be read.
    """
    with pull.opened(settings) as (archive, uri):
        source = _find_source(archive, uri, settings)
        columns, rows, read_as = _read_columns(source, settings)
        if not source.mapping:
            source = replace(source, layout=_placed(_guess(columns, rows, settings), source))
        origin = source.mapping or ("Kaggle's layout" if source.layout == kaggle(settings.fields) else "")
        rejects = Rejects()
        products, at_urls = _try_rows(source, settings, rejects)
        tried = _try_images(source, products, settings.image_max_bytes)
        return Inspection(
            source.styles, read_as, rows, columns, source.layout, origin, len(products) + len(at_urls), rejects,
            tried.files, _repeated(source, products), len(at_urls), _estimate(tried, len(products), settings),
        )  # fmt: skip


def told(seen: Inspection) -> Iterator[str | Table]:
    """What `lookalike inspect` says, part by part."""
    yield f"table:    {seen.table}, {seen.rows:,} rows, read as {seen.read_as}"
    columns = plain_table("column", "filled", "different", "most frequent")
    for column in seen.columns:
        different = f"{column.distinct:,}" if column.distinct <= DISTINCT_MAX else f"> {DISTINCT_MAX:,}"
        samples = ", ".join(shown(sample)[:30] for sample in column.samples)
        columns.add_row(Text(column.name), f"{column.filled:,}", different, Text(samples))
    yield columns
    yield ""
    yield f"products: {seen.products:,} of {seen.rows:,}; not used: {seen.rejects.of_products() or 'none'}"
    if of_files := seen.rejects.of_files():
        yield f"files:    {of_files}"
    tried = ", ".join(f"{count} {name}" for name, count in seen.files.most_common())
    at_urls = f"; {seen.at_urls:,} at URLs, which were not asked" if seen.at_urls else ""
    yield f"images:   {tried or 'none'} of {seen.files.total()} tried; {seen.repeated:,} as of another product{at_urls}"
    if seen.seconds is not None:
        yield f"time:     about {seen.seconds / 60 + 0.05:.1f} min for images and shortlists here, and a minute beside"
    if seen.origin:
        yield f"mapping:  {seen.origin}"
        return
    yield f"mapping:  none; this one is proposed: save it as {FILE} at the source's root, and mend it"
    yield ""
    yield to_toml(seen.layout)


# The table ------------------------------------------------------------------------------------------------------------


def _find_source(archive: zipfile.ZipFile, uri: str, settings: Settings) -> Source:
    """Where the catalogue lies: as `catalog` finds it, or the largest of the tables that are there."""
    members, _ = catalog.read_members(archive, Rejects())
    layout, mapping = catalog.find_layout(archive, members, settings)
    candidates = tables.among(members)
    if catalog.find_tables(layout, mapping, members) or mapping or not candidates:
        return catalog.find_members(archive, uri, settings, Rejects())
    sizes = {name: sum(members[file].file_size for file in files.values()) for name, files in candidates.items()}
    chosen = max(candidates, key=lambda name: (sizes[name], name))
    folder = posixpath.normpath(f"{posixpath.dirname(chosen)}/images") + "/"
    beside = [name for name in members if name.startswith(folder.lstrip("/"))]
    of_ids = catalog.image_members(beside, Rejects())
    return Source(archive, members, layout, mapping, chosen, candidates[chosen], of_ids, [])


def _placed(layout: Layout, source: Source) -> Layout:
    """The layout, with the table's place where a run would not find it by itself, the mapping at the source's root."""
    mapping = "" if layout == kaggle(layout.fields) else FILE
    if list(catalog.find_tables(layout, mapping, [*source.members, FILE])) == [source.styles]:
        return layout
    return layout.model_copy(update={"table": source.styles})


def _read_columns(source: Source, settings: Settings) -> tuple[list[Column], int, str]:
    """What each column holds, the number of rows, and how the table was read."""
    # No column is called so: all are to be found. And which is the id is not known.
    how = replace(reading(settings, source.layout), columns=("\0",), is_row=lambda _: False)
    with source.open_table(how) as table:
        names = list(dict.fromkeys(table.columns))
    columns, rows = [Column(name) for name in names], 0
    with source.open_table(replace(how, columns=names, lists=names, nested=True)) as table:
        for record in table:
            rows += 1
            for column in columns if record.values else ():
                column.add(record.values[column.name].strip())  # type: ignore[index]
        return columns, rows, table.read_as


# A mapping ------------------------------------------------------------------------------------------------------------


def _guess(columns: Sequence[Column], rows: int, settings: Settings) -> Layout:
    """Kaggle's layout where the table has its columns, or what its columns may be by their names and values.

    Raises:
        UserError: no column can be the id, or none a field.
    """
    if {"id", *ATTRIBUTES} <= {column.name for column in columns}:
        return kaggle(settings.fields)
    columns = [column for column in columns if column.name and not UNDECODED.search(column.name)]
    ids = [column for column in columns if column.tells_apart(rows) and not column.all(column.images)]
    unique = [column.name for column in ids if column.distinct >= min(rows, DISTINCT_MAX)]
    id_column = _named(ids, "id") or next(iter(unique), "")
    left = [column for column in columns if column.filled and column.name != id_column and not column.nested]
    pictures = [column.name for column in left if column.all(column.images)]
    left = [column for column in left if column.name not in pictures and column.name.casefold() not in TAKEN]
    single = [column for column in left if not column.lists]
    parts = {key: name for key in PARTS.values() if (name := _named(left if key == "colour" else single, key))}
    if parts.get("group") == parts.get("kind"):
        parts.pop("group", None)
    left = [column for column in left if column.name != parts.get("name")]
    fields = [column for column in left if _is_field(column, rows)][:FIELDS_MAX]
    if not id_column or not fields:
        lacking = "has another value in every row, as an id has" if not id_column else "has values that come again"
        raise UserError(
            f"no mapping can be proposed: no column {lacking}",
            where=", ".join(column.name for column in columns)[:200],
            remedy=f"write {FILE} by hand: see docs/catalogue.md",
        )
    bands = {column.name: ends for column in fields if (ends := _bands(column))}
    known = {column.name for column in fields}
    parts = {key: name for key, name in parts.items() if key == "name" or name in known}
    lists = [column.name for column in fields if column.lists]
    told = {"id": id_column, "image": pictures, "fields": [column.name for column in fields], "bands": bands, **parts}
    told |= {"lists": lists}
    return of_keys(told, "the mapping that could be proposed")


def _named(columns: Iterable[Column], key: str) -> str:
    """The column that is called what a part is often called; empty: none is."""
    called = {column.name.casefold().replace(" ", "_").replace("-", "_"): column.name for column in columns}
    return next((called[name] for name in NAMES[key] if name in called), "")


def _is_field(column: Column, rows: int) -> bool:
    """Whether values come again often enough to filter by, or are numbers that bands can be made of."""
    comes_again = 2 <= column.distinct <= min(FIELD_MOST, max(2, rows // 4))
    return len(column.name.encode()) <= FIELD_NAME_MAX and (comes_again or bool(_bands(column)))


def _bands(column: Column) -> tuple[float, ...]:
    """Where bands of a column of numbers may end: at its quartiles, rounded; nothing where it holds few, or others."""
    if not column.all(column.numbers) or not BANDED <= column.distinct <= DISTINCT_MAX:
        return ()
    numbers = np.repeat([float(value) for value in column.counts], list(column.counts.values()))
    if (numbers == np.round(numbers)).all() and numbers.min() >= 1900 and numbers.max() <= 2100:
        return ()  # years
    ends = sorted({float(f"{end:.2g}") for end in np.quantile(numbers, [0.25, 0.5, 0.75])})
    return tuple(ends)


def _is_number(value: str) -> bool:
    try:
        return float(value) == float(value)
    except ValueError:
        return False


def to_toml(layout: Layout) -> str:
    """The mapping as a file has it."""
    told = {name: value for name, value in layout.model_dump(mode="json").items() if value}
    tables = {name: told.pop(name) for name in ("lists", "bands") if name in told}
    lines = _keys(told)
    for name, of_columns in tables.items():
        lines += ["", f"[{name}]", *_keys({json.dumps(column): value for column, value in of_columns.items()})]
    return "\n".join(lines) + "\n"


def _keys(told: dict[str, object]) -> list[str]:
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in told.items()]


def save(layout: Layout, file: Path) -> None:
    """Write the mapping to a new file.

    Raises:
        UserError: there is one, or it cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(to_toml(layout))
    except OSError as error:
        raise UserError(
            f"the mapping cannot be saved: {error.strerror}",
            where=str(file),
            remedy="name a file that is not there yet",
        ) from None


# What a run would say -------------------------------------------------------------------------------------------------


def _try_rows(source: Source, settings: Settings, rejects: Rejects) -> tuple[list[dict], list[dict]]:
    """The products with an image in the source, and those with one at a URL."""
    with source.open_table(reading(settings, source.layout)) as table:
        rows = read_styles(table, rejects, source.layout)
    attached = catalog.attach_images(rows, source, rejects)
    main = [{**product, "file": product["files"][0]} for product in attached]
    inside = [product for product in main if not catalog.URL.match(product["file"])]
    return inside, [product for product in main if catalog.URL.match(product["file"])]


@dataclass(frozen=True)
class _Tried:
    files: Counter[str]
    seconds: float
    decoded: list[bytes]


def _try_images(source: Source, products: Sequence[dict], limit: int) -> _Tried:
    """Decode some of the images as `catalog` would."""
    drawn = random.Random(0).sample(list(products), min(IMAGES_TRIED, len(products)))  # noqa: S311  # a fair sample
    files, decoded, started = Counter[str](), [], perf_counter()
    for product in drawn:
        try:
            with source.archive.open(source.members[product["file"]]) as member:
                stored = images.store(member.read(limit))
        except ImageError as error:
            files[error.reason] += 1
        except catalog.DAMAGE:
            files["damaged in the archive"] += 1
        else:
            files["small" if min(stored.width, stored.height) < SMALL else "good"] += 1
            decoded.append(stored.data)
    return _Tried(files, perf_counter() - started, decoded)


def _repeated(source: Source, products: Iterable[dict]) -> int:
    """How many products show an image file that another one shows."""
    members = (source.members[product["file"]] for product in products)
    files = Counter((member.CRC, member.file_size) for member in members)
    return sum(count - 1 for count in files.values())


def _estimate(tried: _Tried, products: int, settings: Settings) -> float | None:
    """Seconds that images and lists of a first refresh take here, from what a few of them took."""
    if not tried.decoded:
        return None
    model = extraction.choose_model(settings)
    drawn = model.weights == extraction.NONE  # whatever the weights are, it takes as long
    extractor = Extractor(extraction.draw(model, 0) if drawn else extraction.build(Lake(settings.lake), model))
    batch = np.stack([images.load(data, model.height, model.width) for data in tried.decoded[:32]])
    extractor(batch)  # the first call compiles
    started = perf_counter()
    extractor(batch)
    an_image = tried.seconds / tried.files.total() / catalog.DECODERS + (perf_counter() - started) / len(batch)
    some = np.ones((2048, 256), np.float32)
    started = perf_counter()
    some @ some.T
    return products * (an_image + products * 1.5 * (perf_counter() - started) / 2048**2)
