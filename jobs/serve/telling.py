"""Answers to photos as they are sent: JSON of a search and of a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infra.store import Item
from jobs.look import Dressed, Look, Worn
from jobs.serve.search import Answer, Searcher
from ml.look.articles import Box
from ml.stages import Guess

Named = Mapping[str, tuple[str | None, str]]
"""Product id → its name and the SHA-256 of its image."""


def search_told(searcher: Searcher, answer: Answer, named: Named) -> dict[str, Any]:
    """The answer to a photo."""
    return {"run": _run(searcher), **_answer(searcher, answer, named)}


def look_told(searcher: Searcher, found: Look, named: Named) -> dict[str, Any]:
    """A look. Boxes are in pixels of the photo, which is `width` × `height`."""
    return {
        "run": _run(searcher),
        "width": found.width,
        "height": found.height,
        "persons": [_person(person, named) for person in found.persons],
        "answer": _answer(searcher, found.answer, named) if found.answer else None,
        "says": found.says,
        "boxes_by": found.boxes_by,
        "ms": found.ms,
    }


def products_of(found: Look) -> list[str]:
    """Ids of all products of a look."""
    answers = [found.answer, *(worn.answer for worn in found.worn)]
    return list(dict.fromkeys(item.product_id for answer in answers if answer for item in answer.items))


def _run(searcher: Searcher) -> dict[str, Any]:
    return {"run_id": searcher.run_id, "run": searcher.run.name}


def _answer(searcher: Searcher, answer: Answer, named: Named) -> dict[str, Any]:
    return {
        "stage": answer.stage,
        "why": answer.why,
        "subcategory": _guess(answer.subcategory),
        "derived_type": _guess(answer.derived_type),
        "alternatives": [{"value": value, "confidence": confidence} for value, confidence in answer.alternatives],
        "group": searcher.run.layout.group,
        "items": _items(answer.items, named),
    }


def _items(items: Iterable[Item], named: Named) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "product_id": item.product_id,
            "name": named[item.product_id][0],
            "score": item.score,
            "image": f"/images/{named[item.product_id][1]}",
        }
        for rank, item in enumerate(items, 1)
    ]


def _guess(guess: Guess | None) -> dict[str, object] | None:
    return {"value": guess.value, "confidence": guess.confidence} if guess else None


def _person(person: Dressed, named: Named) -> dict[str, Any]:
    return {
        "box": _box(person.box),
        "confidence": person.confidence,
        "pose": person.pose._asdict(),
        "gender": person.gender,
        "articles": [_article(worn, named) for worn in person.worn],
    }


def _article(worn: Worn, named: Named) -> dict[str, Any]:
    answer = worn.answer
    return {
        "class": worn.article.name,
        "box": _box(worn.article.box),
        "confidence": worn.article.confidence,
        "says": worn.says,
        "derived_type": _guess(answer.derived_type) if answer else None,
        "items": _items(answer.items, named) if answer else [],
    }


def _box(box: Box | Sequence[float]) -> list[float]:
    return [round(value, 1) for value in box]
