"""Questions as they come in a path and a query: ids, filters in the words of `jobs.filters`, and our own parameters.

A field that is called as one of our parameters is written `field.k=…`; `field.` may precede any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from jobs import filters as language
from jobs import ids
from jobs.filters import Filters
from jobs.serve.problems import Problem, wrong

OURS = ("k", "exclude", "explain", "text", "cursor", "limit", "width", "product")
"""Parameters that are ours wherever they stand."""
QUERY_MAX = 32_768
"""Most bytes of a query."""
EXCLUDED_MAX = 1000
"""Most ids that a question leaves out."""
VALUES_MAX = 1000
"""Most values that filters name: the store looks each up among all values of a field."""
K, K_MAX = 10, 100


@dataclass(frozen=True)
class Question:
    """What a query asks: filters, and our own parameters as they were written."""

    filters: Filters = field(default_factory=dict)
    ours: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A parameter that may be given once; empty where it is not."""
        given = self.ours.get(name, ())
        if len(given) > 1:
            raise wrong(f"{name} is given {len(given)} times", place=f"query: {name}", remedy="give it once")
        return given[0] if given else ""

    def number(self, name: str, default: int, most: int, choice: Collection[int] = ()) -> int:
        """A whole number from 1 to `most`, or one of a choice; `default` where it is not given."""
        given = self.text(name)
        if name not in self.ours:
            return default
        number = int(given) if re.fullmatch("[0-9]{1,9}", given) else 0
        if not 1 <= number <= most or choice and number not in choice:
            among = f"one of {', '.join(map(str, choice))}" if choice else f"a number from 1 to {most}"
            raise wrong(f"{name} is no such number", value=given, place=f"query: {name}", remedy=f"write {among}")
        return number

    def flag(self, name: str) -> bool:
        """Whether a parameter says true."""
        given = self.text(name)
        if given not in ("", "true", "false", "1", "0"):
            raise wrong(
                f"{name} is neither true nor false", value=given, place=f"query: {name}", remedy="write true or false"
            )
        return given in ("true", "1")

    @property
    def exclude(self) -> list[str]:
        """Ids to leave out."""
        return checked_ids(language.read_ids(self.ours.get("exclude", ()), "query: exclude"), "query: exclude")


def read(query: bytes, taken: Collection[str]) -> Question:
    """What a query asks of a route that takes these of our parameters.

    Raises:
        Problem: it is no UTF-8, too long, or has a parameter that the route does not take.
        UserError: the filters are wrong.
    """
    if not query:
        return Question()
    if len(query) > QUERY_MAX:
        raise Problem(414, f"the query has {len(query):,} bytes", place="query", remedy=f"ask in {QUERY_MAX:,} at most")
    ours: dict[str, list[str]] = {}
    pairs = []
    for part in query.split(b"&"):
        if not part:
            continue
        encoded, equals, value = part.partition(b"=")
        name, text = _decoded(encoded), _decoded(value)
        if not equals or not name.removesuffix("!"):
            raise wrong(
                "it asks for nothing", value=name, place="query", remedy="write field=value, or field= for no value"
            )
        if name in OURS:
            if name not in taken:
                raise wrong(
                    f"{name} says nothing here",
                    place=f"query: {name}",
                    remedy=f"leave it out, or write field.{name} for a field of that name",
                )
            ours.setdefault(name, []).append(text)
        else:
            pairs.append((name.removeprefix("field."), text))
    filters = language.read(pairs, "query") if pairs else {}
    if len(query) > VALUES_MAX:  # a shorter one cannot name so many
        _check_number(filters, "query")
    return Question(filters, ours)


def _check_number(filters: Filters, place: str) -> None:
    number = sum(len(values) for condition in filters.values() for _, values in language.parts(condition))
    if number > VALUES_MAX:
        raise wrong(f"the filters name {number:,} values", place=place, remedy=f"name {VALUES_MAX:,} at most")


def _decoded(encoded: bytes) -> str:
    if b"%" in encoded or b"+" in encoded:
        encoded = unquote_to_bytes(encoded.replace(b"+", b" "))
    text = encoded.decode()
    if "\0" in text:
        raise wrong("no value has a zero byte", place="query", remedy="leave it out")
    return text


def segment(encoded: bytes) -> str:
    """A product's id in a path, where each of its signs may be percent-encoded, `/` too."""
    try:
        product_id = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise wrong("the id is no UTF-8", place="path", remedy="percent-encode its UTF-8 bytes") from None
    return checked_id(product_id, "path")


def checked_id(product_id: object, place: str) -> str:
    """An id that can be one.

    Raises:
        Problem: it cannot.
    """
    why = ids.fault(product_id) if isinstance(product_id, str) else "it is no text"
    if not why and not _is_text(str(product_id)):
        why = "it is no Unicode text"
    if why:
        shown = repr(product_id)[:80]
        raise wrong(f"it is no product id: {why}", value=shown, place=place, remedy="give an id of the catalogue")
    return str(product_id)


def checked_ids(product_ids: Sequence[object], place: str, most: int = EXCLUDED_MAX) -> list[str]:
    """Ids that can be some, at most so many. Raises Problem."""
    if len(product_ids) > most:
        raise wrong(f"{len(product_ids):,} ids are given", place=place, remedy=f"give {most:,} at most")
    return [checked_id(product_id, place) for product_id in product_ids]


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def as_json(filters: Filters) -> bytes:
    """Filters as the store takes them."""
    return json.dumps(filters).encode() if filters else b"{}"


def as_array(texts: Sequence[str]) -> bytes:
    """Texts as Postgres writes an array of them."""
    if not texts:
        return b"{}"
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return ('{"' + '","'.join(quoted) + '"}').encode()


@dataclass(frozen=True)
class Batch:
    """Several products asked at once."""

    product_ids: list[str]
    filters: Filters
    exclude: list[str]
    k: int


MOST_PRODUCTS = 1000


def batch(body: bytes) -> Batch:
    """The question of a batch's body. Raises Problem."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise wrong(f"it is no JSON: {str(error)[:100]}", place="body", remedy='send {"product_ids": [...]}') from None
    if not isinstance(told, dict) or not isinstance(told.get("product_ids"), list):
        raise wrong("it has no list product_ids", place="body", remedy='send {"product_ids": ["1163", …]}')
    if unknown := told.keys() - {"product_ids", "filters", "exclude", "k"}:
        name = min(unknown)
        raise wrong(f"{name!r} says nothing", place="body", remedy="product_ids, filters, exclude and k do")
    filters, exclude, k = told.get("filters", {}), told.get("exclude", []), told.get("k", K)
    if not isinstance(filters, dict):
        raise wrong("the filters are no object", place="body: filters", remedy='write {"gender": "Men"}')
    _check_number(filters, "body: filters")
    if not isinstance(exclude, list):
        raise wrong("it is no list of ids", place="body: exclude", remedy='write ["123", "456"]')
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= K_MAX:
        raise wrong("k is no such number", value=k, place="body: k", remedy=f"write a number from 1 to {K_MAX}")
    if not told["product_ids"]:
        raise wrong("it names no product", place="body: product_ids", remedy="name one to 1,000")
    wanted = checked_ids(told["product_ids"], "body: product_ids", MOST_PRODUCTS)
    return Batch(wanted, filters, checked_ids(exclude, "body: exclude"), k)
