"""What OpenAPI says of each route, with examples, and the same as a page that loads nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from ml.articles import CLASSES
from ml.look.pose import ORIENTATIONS
from ml.look.sight import GENDERS

ABOUT = """Products that look alike, for a product or a photo, under any filter.

A filter is a parameter named by a field: `gender=Men`, one of several values `baseColour=Blue,Navy Blue`, none of some
`baseColour!=Yellow`, no value `season=`; a comma inside a value is `\\,`. Our own parameters (`k`, `exclude`,
`explain`, `text`, `cursor`, `limit`, `width`, `product`) win: a field of such a name is written `field.k=…`. An id in a
path is percent-encoded, `/` too. Every answer names the run that it is of; `ETag` changes with the run, and
`If-None-Match` is answered with 304. What goes wrong is told as a problem (RFC 9457): the value, the place, and what to
do."""

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
NUMBER: Schema = {"type": "integer"}


def _object(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


RUN = _object({"run_id": NUMBER, "run": TEXT})
PRODUCT = _object(
    {
        "product_id": TEXT,
        "name": TEXT_OR_NULL,
        "kind": TEXT_OR_NULL,
        "attributes": {"type": "object"},
        "image": TEXT_OR_NULL,
        "images": _list(TEXT),
    }
)
EXPLAIN = _object(
    {
        "blocks": {"type": "object", "additionalProperties": {"type": "number"}},
        "shared": {"type": "object"},
        "differing": {"type": "object"},
        "rank_without_filters": {"type": ["integer", "null"]},
    }
)
ITEM = _object(
    {
        "rank": NUMBER,
        "product_id": TEXT,
        "name": TEXT_OR_NULL,
        "score": {"type": "number"},
        "image": TEXT_OR_NULL,
        "explain": EXPLAIN,
    },
    ("explain",),
)
PROBLEM = _object(
    {
        "type": TEXT,
        "title": TEXT,
        "status": NUMBER,
        "detail": TEXT,
        "value": TEXT_OR_NULL,
        "place": TEXT,
        "remedy": TEXT,
    }
)
CONFIDENCE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
GUESS = {"oneOf": [_object({"value": TEXT, "confidence": {"type": "number"}}), {"type": "null"}]}
SCANNED: Schema = {"type": ["integer", "null"], "description": "products compared outside the shortlist"}
SIMILAR = _object(
    {"run": RUN, "product_id": TEXT, "items": _list(ITEM), "scanned": SCANNED, "model": {"type": "object"}}, ("model",)
)
SHORT = _object({"product_id": TEXT, "name": TEXT_OR_NULL, "kind": TEXT_OR_NULL, "image": TEXT_OR_NULL})
FOUND: Schema = {
    "stage": TEXT,
    "why": TEXT,
    "subcategory": GUESS,
    "derived_type": GUESS,
    "alternatives": _list({"type": "object"}),
    "group": TEXT,
    "items": _list(ITEM),
}
BOX: Schema = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
    "description": "left, top, right and bottom, in pixels of the photo, which is `width` × `height`",
}
POSE = _object(
    {
        "full_shot": {"type": "boolean"},
        "full_shot_confidence": CONFIDENCE,
        "orientation": {"type": "string", "enum": list(ORIENTATIONS)},
        "confidence": CONFIDENCE,
    }
)
ARTICLE = _object(
    {
        "class": {"type": "string", "enum": list(CLASSES)},
        "box": BOX,
        "confidence": CONFIDENCE,
        "says": TEXT,
        "derived_type": GUESS,
        "items": _list(ITEM),
    }
)
PERSON = _object(
    {
        "box": BOX,
        "confidence": CONFIDENCE,
        "pose": POSE,
        "gender": {"enum": [*GENDERS, None], "description": "for whom the clothes are, null where that is not sure"},
        "articles": _list(ARTICLE),
    }
)
LOOK = _object(
    {
        "run": RUN,
        "width": NUMBER,
        "height": NUMBER,
        "persons": _list(PERSON),
        "answer": {"oneOf": [_object(FOUND), {"type": "null"}]},
        "says": _list(TEXT),
        "boxes_by": TEXT,
        "ms": {"type": "object", "additionalProperties": {"type": "number"}},
    }
)
EXAMPLE_RUN, EXAMPLE_ITEM = (
    {"run_id": 12, "run": "2026-11-27"},
    {
        "rank": 1,
        "product_id": "1164",
        "name": "Nike Men Blue T20 Jersey",
        "score": 0.9375,
        "image": f"/images/{64 * 'a'}",
    },
)
PROBLEM_EXAMPLE = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "the live run has no product 99999999",
    "value": None,
    "place": "the question",
    "remedy": "its id may be wrong, or it was rejected: see the table rejects",
}
WHY = {
    304: "Not modified: the client has what the run answers",
    400: "The question is wrong",
    401: "There is no key, or a wrong one",
    404: "There is no such thing",
    408: "The body came too slowly",
    410: "The cursor is of another run",
    413: "The body is too large",
    414: "The query is too long",
    415: "It is no image of a kind that is read",
    421: "The server is for this machine alone",
    422: "The photo cannot be used",
    429: "Too much was asked; Retry-After says how long to wait",
    503: "Not now; Retry-After says when to ask again",
}


def _parameter(name: str, schema: Schema, description: str, example: object, where: str = "query") -> Schema:
    told = {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}
    return told | ({"example": example} if example is not None else {})


FILTERS = {
    "name": "filters",
    "in": "query",
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": TEXT},
    "description": "`field=value`, `field=a,b`, `field!=value`, `field=` for no value; any field of the catalogue",
    "example": {"gender": "Men", "baseColour!": "Yellow"},
}
K = _parameter("k", {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}, "how many", 10)
EXCLUDE = _parameter("exclude", TEXT, "ids to leave out, separated by commas", "1165,1166")
EXPLAINED = _parameter("explain", {"type": "boolean"}, "say of each item why it is there", True)
TEXT_ASKED = _parameter(
    "text", {"type": "string", "maxLength": 200}, "words of the name, or how the id begins", "blue shirt"
)
ID = _parameter("product_id", TEXT, "the product's id, percent-encoded", "1163", "path")


def _route(
    summary: str, schema: Schema, example: object, parameters: list[Schema], *errors: int, **extra: Any
) -> dict[str, Any]:
    """What FastAPI takes of a route."""
    problem = {"application/problem+json": {"schema": PROBLEM, "example": PROBLEM_EXAMPLE}}
    told: dict[int | str, Any] = {
        status: {"description": WHY[status]} | ({"content": problem} if status >= 400 else {})
        for status in (*errors, 400, 401, 421, 429, 503)
    }
    told[200] = {"description": "The answer", "content": {"application/json": {"schema": schema, "example": example}}}
    return {"summary": summary, "responses": told, "openapi_extra": {"parameters": parameters, **extra}}


_BATCH = _object({"product_ids": _list(TEXT), "filters": {"type": "object"}, "exclude": _list(TEXT), "k": NUMBER})
_BATCH["required"] = ["product_ids"]
_BATCH["properties"]["product_ids"] |= {"minItems": 1, "maxItems": 1000}
_BATCH_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _BATCH,
            "example": {"product_ids": ["1163", "1164"], "filters": {"baseColour": {"not": "Yellow"}}, "k": 5},
        }
    },
}
_BYTES: Schema = {"type": "string", "format": "binary"}
_PHOTO_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": _BYTES},
        "application/octet-stream": {"schema": _BYTES},
        "multipart/form-data": {"schema": _object({"photo": _BYTES})},
    },
}
_RUN_ID = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_SIDES = _object({"a": _list(ITEM), "b": _list(ITEM)})
_CHANGED = _object({"product_id": TEXT, "name": TEXT_OR_NULL, "image": TEXT_OR_NULL, "kept": NUMBER})

ROUTES: dict[str, dict[str, Any]] = {
    "GET /products/{product_id}": _route(
        "A product",
        _object({"run": RUN, "product": PRODUCT}),
        {
            "run": EXAMPLE_RUN,
            "product": {
                "product_id": "1163",
                "name": "Nike Sahara Team India Fanwear Round Neck Jersey",
                "kind": "Tshirts",
                "attributes": {"gender": "Men", "baseColour": "Blue", "season": None},
                "image": f"/images/{64 * 'b'}",
                "images": [f"/images/{64 * 'b'}"],
            },
        },
        [ID],
        304,
        404,
    ),
    "GET /products/{product_id}/similar": _route(
        "The products most like one, among those that pass the filters",
        SIMILAR,
        {"run": EXAMPLE_RUN, "product_id": "1163", "items": [EXAMPLE_ITEM], "scanned": 0},
        [ID, FILTERS, K, EXCLUDE, EXPLAINED],
        304,
        404,
        414,
    ),
    "POST /products/similar": _route(
        "The products most like each of up to 1,000",
        _object({"run": RUN, "answers": _list({"type": "object"})}),
        {"run": EXAMPLE_RUN, "answers": [{"product_id": "1163", "items": [EXAMPLE_ITEM], "scanned": 0}]},
        [],
        408,
        413,
        requestBody=_BATCH_BODY,
    ),
    "GET /products": _route(
        "Products in the order of their ids: browse, or find by name or id",
        _object({"run": RUN, "products": _list(SHORT), "next": TEXT_OR_NULL, "total": NUMBER}),
        {
            "run": EXAMPLE_RUN,
            "products": [
                {"product_id": "1163", "name": "Nike Jersey", "kind": "Tshirts", "image": EXAMPLE_ITEM["image"]}
            ],
            "next": "MGE4YjFjMmQzZTRmNTA2MS42MA",
            "total": 1234,
        },
        [
            FILTERS,
            EXCLUDE,
            TEXT_ASKED,
            _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 60}, "how many", 60),
            _parameter("cursor", TEXT, "where to go on: `next` of the last answer", None),
        ],
        304,
        410,
        414,
    ),
    "GET /filters": _route(
        "Values of each field, with how many products have them given the other fields' filters",
        _object({"run": RUN, "fields": _list(_object({"field": TEXT, "values": _list({"type": "object"})}))}),
        {"run": EXAMPLE_RUN, "fields": [{"field": "gender", "values": [{"value": "Men", "count": 123}]}]},
        [FILTERS, EXCLUDE, TEXT_ASKED],
        304,
        414,
    ),
    "POST /search": _route(
        "The products most like a photo, and what it is taken for",
        _object({"run": RUN, **FOUND}),
        {
            "run": EXAMPLE_RUN,
            "stage": "derivedType",
            "why": "subCategory and derivedType are certain enough",
            "subcategory": {"value": "Topwear", "confidence": 0.93},
            "derived_type": {"value": "Men Shirts", "confidence": 0.9},
            "alternatives": [{"value": "Dress", "confidence": 0.04}],
            "group": "subCategory",
            "items": [EXAMPLE_ITEM],
        },
        [FILTERS, K, EXCLUDE, EXPLAINED],
        408,
        413,
        414,
        415,
        422,
        requestBody=_PHOTO_BODY,
    ),
    "POST /look": _route(
        "The persons of a photo, how each stands, and the products most like each article that is worn",
        LOOK,
        {
            "run": EXAMPLE_RUN,
            "width": 683,
            "height": 1024,
            "persons": [
                {
                    "box": [208, 96, 471, 965],
                    "confidence": 0.99,
                    "pose": {
                        "full_shot": True,
                        "full_shot_confidence": 0.98,
                        "orientation": "front",
                        "confidence": 0.94,
                    },
                    "gender": "Men",
                    "articles": [
                        {
                            "class": "topwear",
                            "box": [231.5, 188.2, 452.8, 471.6],
                            "confidence": 0.91,
                            "says": "searched in Topwear for Men",
                            "derived_type": {"value": "Men Tshirts", "confidence": 0.9},
                            "items": [EXAMPLE_ITEM],
                        }
                    ],
                }
            ],
            "answer": None,
            "says": [],
            "boxes_by": "a detector of articles",
            "ms": {"decode": 31.0, "persons": 75.2, "articles": 90.4, "embed": 61.3, "search": 17.5, "all": 275.4},
        },
        [FILTERS, K, EXCLUDE],
        408,
        413,
        414,
        415,
        422,
        requestBody=_PHOTO_BODY,
    ),
    "GET /images/{sha256}": _route(
        "An image, as it is stored or smaller",
        _BYTES,
        None,
        [
            _parameter("sha256", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "its name", 64 * "a", "path"),
            _parameter("width", {"type": "integer", "enum": [120, 240, 480]}, "at most so many pixels wide", 240),
        ],
        304,
        404,
    ),
    "GET /runs": _route(
        "The runs that the store holds",
        _object({"run": {"oneOf": [RUN, {"type": "null"}]}, "runs": _list({"type": "object"})}),
        {
            "run": EXAMPLE_RUN,
            "runs": [EXAMPLE_RUN | {"live": True, "products": 44072, "loaded_at": "2026-11-27T03:12:00Z"}],
        },
        [],
    ),
    "GET /runs/{a}/compare/{b}": _route(
        "Two runs side by side: for a product, or what changed most",
        _object(
            {
                "run": RUN,
                "a": RUN,
                "b": RUN,
                "products": {"type": "object"},
                "product": _SIDES,
                "changed": _list(_CHANGED),
            },
            ("product", "changed"),
        ),
        {
            "run": EXAMPLE_RUN,
            "a": EXAMPLE_RUN,
            "b": EXAMPLE_RUN,
            "products": {"both": 44000, "only_a": 3, "only_b": 72},
            "changed": [],
        },
        [
            _parameter("a", _RUN_ID, "run_id of a run", 11, "path"),
            _parameter("b", _RUN_ID, "run_id of another", 12, "path"),
            _parameter("product", TEXT, "id of the product to compare", "1163"),
            FILTERS,
            K,
            EXCLUDE,
        ],
        304,
        404,
        414,
    ),
    "GET /healthz": {"summary": "The process is there", "responses": {200: {"description": "It is"}}},
    "GET /readyz": _route(
        "The store and the copy of the live run are at hand",
        _object({"run": RUN, "photos": TEXT, "mapped": {"type": "boolean"}}),
        {"run": EXAMPLE_RUN, "photos": "ready", "mapped": True},
        [],
    ),
    "GET /metrics": {
        "summary": "Counts and seconds for Prometheus",
        "responses": {
            200: {"description": "In Prometheus' text format", "content": {"text/plain": {"schema": TEXT}}},
            401: {"description": WHY[401]},
        },
    },
}
_IMAGES: Schema = {"schema": _BYTES}
ROUTES["GET /images/{sha256}"]["responses"][200] = {
    "description": "The image",
    "content": dict.fromkeys(("image/jpeg", "image/png", "image/webp"), _IMAGES),
}


def as_html(document: dict[str, Any]) -> bytes:
    """The document as a plain page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(document['info']['title'])} API</title><link rel=stylesheet href=/assets/style.css>",
        f"<main><h1>{escape(document['info']['title'])} API</h1>",
        *(f"<p>{escape(text)}</p>" for text in document["info"]["description"].split("\n\n")),
        "<p><a href=/openapi.json>openapi.json</a></p>",
    ]
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            parts += _operation(f"{method.upper()} {path}", told)
    return "".join([*parts, "</main></html>"]).encode()


def _operation(name: str, told: dict[str, Any]) -> list[str]:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code><td>{escape(each.get('description', ''))}"
        f"<td><code>{escape(json.dumps(each.get('example')))}</code>"
        for each in told.get("parameters", [])
    ]
    body = told.get("requestBody", {}).get("content", {})
    answer = told["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("example")
    statuses = [f"<li>{code}: {escape(each['description'])}" for code, each in sorted(told["responses"].items())]
    return [
        f"<section><h2><code>{escape(name)}</code></h2><p>{escape(told.get('summary', ''))}</p>",
        f"<table>{''.join(rows)}</table>" if rows else "",
        *(f"<p>Body: <code>{escape(kind)}</code></p>{_shown(each.get('example'))}" for kind, each in body.items()),
        _shown(answer),
        f"<ul>{''.join(statuses)}</ul></section>",
    ]


def _shown(example: object) -> str:
    return f"<pre>{escape(json.dumps(example, indent=1))}</pre>" if example is not None else ""
