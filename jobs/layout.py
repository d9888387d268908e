"""Which columns of a catalogue's table are what: `catalogue.toml`, or Kaggle's layout where a source has none.

The pipeline has names of its own for the parts of a product that it knows (`PARTS`); everything else of a product is
known by the names of its catalogue, in filters, in the lake and in the store.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.errors import UserError
from infra.settings import ATTRIBUTES

FILE = "catalogue.toml"
FIELDS_MAX = 64
FIELD_NAME_MAX = 600
"""Bytes of a field's name: the store's key of one of its values takes 2,704, of which the value may have 2,000."""
PARTS = {
    "articleType": "kind",
    "subCategory": "group",
    "gender": "for_whom",
    "baseColour": "colour",
    "productDisplayName": "name",
}
"""What the pipeline calls a part of a product → the key of the mapping that names its column."""
OURS = ("product_id", "derivedType", "image_sha256", "picture")
"""Columns of the table `products` that are not the catalogue's; where columns name images, also `images`."""
TAKEN = {name.casefold() for name in (*OURS, "files", "images")}
"""What no column may be called, in whatever case, which Delta does not tell apart; `catalog` keeps some of its own."""

KNOWN = tuple(name for name in ATTRIBUTES if name not in PARTS)
"""Columns that steps know by Kaggle's names, whatever the mapping."""

Column = Annotated[str, Field(min_length=1)]


class Layout(BaseModel):
    """A catalogue's columns by what they are; an empty name: it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    table: str = ""
    """Where the table lies, relative to the mapping; empty: the one that is called styles, or else the only one."""
    id: Column
    """The product's id."""
    name: str = ""
    """What people call the product."""
    image: tuple[Column, ...] = ()
    """Its images, the main one first: paths relative to the table, or addresses. None: `images/<id>.jpg` beside it."""
    fields: tuple[Column, ...] = Field(min_length=1, max_length=FIELDS_MAX)
    """What filters may name."""
    attributes: tuple[Column, ...] = ()
    """What is stored with a product beside."""
    kind: str = ""
    """What kind of product it is, as fine as the catalogue tells it: Kaggle's articleType."""
    group: str = ""
    """The group of kinds that it belongs to, which the classifier learns: Kaggle's subCategory."""
    for_whom: str = ""
    """Whom it is for: Kaggle's gender."""
    colour: str = ""
    """Its colour: Kaggle's baseColour."""
    bands: dict[str, Annotated[tuple[float, ...], Field(min_length=1)]] = {}
    """Fields of numbers, a price say, and where their bands end: `[20, 50]` makes `under 20`, `20 to 50`, `from 50`."""

    lists: dict[str, str] = {}
    """Columns of which a product may have several values, and what stands between these in a text; empty: the table
    has lists, or texts that are JSON lists."""

    @field_validator("lists", mode="before")
    @classmethod
    def _without_separators(cls, value: Any) -> Any:
        return dict.fromkeys(value, "") if isinstance(value, list) else value

    @field_validator("image", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("bands")
    @classmethod
    def _rising(cls, value: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for field, ends in value.items():
            if list(ends) != sorted(set(ends)) or not all(map(math.isfinite, ends)):
                raise ValueError(f"the ends of the bands of {field} must be numbers that rise")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Layout:
        if twice := [field for at, field in enumerate(self.fields) if field in self.fields[:at]]:
            raise ValueError(f"field {twice[0]} comes twice")
        sizes = {field: len(field.encode()) for field in self.fields}
        if long := [field for field in sizes if sizes[field] > FIELD_NAME_MAX]:
            said = (
                f"a name of {sizes[long[0]]:,} bytes, and it may have {FIELD_NAME_MAX}: rename the column in the table"
            )
            raise ValueError(f"field {long[0][:40]}… has {said}")
        if taken := [column for column in self.stored if column.casefold() in TAKEN]:
            raise ValueError(f"column {taken[0]} has a name that the pipeline's own column has: rename it in the table")
        if unknown := [field for field in self.bands if field not in self.fields]:
            raise ValueError(f"bands are given for {unknown[0]}, which is none of the fields")
        single = {self.name, self.kind, self.group, self.for_whom, *self.bands, self.id} - {""}
        if wrong := [column for column in self.lists if column in single or column not in (*self.stored, *self.image)]:
            raise ValueError(
                f"lists names {wrong[0]}, of which a product has one value at most: "
                "a field without bands, the colour, an attribute or a column of images can have several"
            )
        return self

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns that are stored with a product, by the catalogue's names."""
        parts = (getattr(self, key) for key in PARTS.values() if key != "name")
        known = dict.fromkeys(column for column in (*self.attributes, *self.fields, *parts) if column)
        known.pop(self.name, None)
        return (*known, *([self.name] if self.name else []))

    @property
    def labels(self) -> tuple[str, ...]:
        """Fields that the embedding learns beside the parts and what it knows by name."""
        return tuple(field for field in self.fields if field not in {*self.parts, *KNOWN})

    @property
    def parts(self) -> dict[str, dict[str, str]]:
        """Of each column that plays parts, which."""
        played: dict[str, list[str]] = {}
        for key in PARTS.values():
            if column := getattr(self, key):
                played.setdefault(column, []).append(key)
        return {column: {"parts": ", ".join(keys)} for column, keys in played.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the table is to have."""
        return tuple(dict.fromkeys((self.id, *self.stored, *self.image)))

    def values(self, column: str, text: str) -> list[str]:
        """What a text of a column of several values holds: the items of a JSON list, or what stands between separators.

        Raises:
            ValueError: an item is no text; says why.
        """
        values, separator = [text], self.lists.get(column)
        if (items := json_list(text)) is not None:
            values = items
        elif separator:
            values = text.split(separator)
        return list(dict.fromkeys(value.strip() for value in values if value.strip()))

    def column(self, name: str) -> str:
        """The catalogue's column for one of the pipeline's names; empty: it has none.

        What a mapping makes no part of a product is known by its name where it is a field, as Kaggle's season may be.
        """
        if name in PARTS:
            return str(getattr(self, PARTS[name]))
        known = self.stored if self == kaggle(self.fields) else self.fields
        return name if name in OURS or name in known else ""


def kaggle(fields: tuple[str, ...]) -> Layout:
    """The layout that is built in, with these fields."""
    parts: dict[str, Any] = {key: name for name, key in PARTS.items()}
    return Layout(id="id", fields=fields, attributes=ATTRIBUTES[:-1], **parts)


def of_figures(figures: Mapping[str, Any], fields: tuple[str, ...]) -> Layout:
    """The layout that the step catalog noted among its figures: the one that is built in, with `fields`, where none."""
    told = figures.get("mapping")
    return Layout(**told) if told else kaggle(fields)


def parse(data: bytes, where: str) -> Layout:
    """The mapping that a file holds, which lies at `where`.

    Raises:
        UserError: it is no TOML, or no mapping; names the key.
    """
    try:
        told = tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"it is no TOML: {error}", where=where, remedy="write it in UTF-8 as TOML") from None
    return of_keys(told, where)


def of_keys(told: dict[str, Any], where: str) -> Layout:
    """The layout that these keys of a mapping tell. Raises UserError where they are wrong; names the key."""
    try:
        return Layout(**told)
    except (ValidationError, TypeError) as error:
        raise UserError(_first(error), where=where, remedy="see docs/catalogue.md for what a mapping says") from None


def _first(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return str(error)
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "function-after")
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}: {said}" if key else said


def json_list(text: str) -> list[str] | None:
    """The items of a JSON list as texts; None: the text is none. Raises ValueError where an item is no text."""
    try:
        items = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        items = None
    if items is None:
        return None
    texts = ["" if item is None else item if isinstance(item, str) else json.dumps(item) for item in items]
    if nested := [item for item in items if isinstance(item, list | dict)]:
        raise ValueError(f"{str(nested[0])[:40]} in a list is no value")
    if any(re.search("[\0\ud800-\udfff]", value) for value in texts):
        raise ValueError("a value in a list holds a zero byte or half a letter of UTF-16")
    return texts


def band(value: str, ends: tuple[float, ...]) -> str:
    """The band that a number is in, in words.

    Raises:
        ValueError: it is no number.
    """
    number = float(value)
    if number != number:
        raise ValueError(f"{value!r} is no number")
    below = [end for end in ends if end <= number]
    above = [end for end in ends if end > number]
    if not below:
        return f"under {_exactly(above[0])}"
    return f"{_exactly(below[-1])} to {_exactly(above[0])}" if above else f"from {_exactly(below[-1])}"


def _exactly(end: float) -> str:
    """A number in so many digits that no other has them."""
    return repr(end).removesuffix(".0")
