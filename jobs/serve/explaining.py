"""Why an item is in an answer: the parts of its score, and what it shares with the product or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infra.lake import Lake
from infra.settings import Settings
from jobs.champion import read_embedder
from jobs.run import Run
from ml.embedding import Embedder

SAID = {"articleType": "kind", "gender": "for whom", "baseColour": "colour", "subCategory": "group"}
"""What a block is called, by the attribute that it is of; where none is known, images are compared by their looks."""
LOOKS = "looks"


def explained(answer: Mapping[str, Any], manifest: Mapping, settings: Settings) -> dict[str, object]:
    """The answer of `similar_explained` as it is sent: embeddings become parts of scores.

    Raises:
        UserError: the lake does not hold the run's embedder.
    """
    run = Run(str(answer["run"]["run"]), settings, Lake(settings.lake), manifest or None)
    widths = _widths(run)
    names, ours = answer["names"], answer["attributes"]
    query = _vector(answer["embedding"])
    items = []
    for item, rank in zip(answer["items"], answer["ranks"], strict=True):
        told = {name: item[name] for name in ("rank", "product_id", "name", "score", "image")}
        blocks = parts(query, _vector(item["embedding"]), widths)
        shared, differing = compared(names, ours, item["attributes"])
        why = {"blocks": blocks, "shared": shared, "differing": differing, "rank_without_filters": rank}
        items.append(told | {"explain": why})
    made_with = run.result("embed").figures
    model = {"backbone": made_with.get("backbone"), "embedder": made_with.get("embedder")}
    head = {name: answer[name] for name in ("run", "product_id")}
    return head | {"items": items, "scanned": answer["scanned"], "model": model}


def parts(query: np.ndarray, item: np.ndarray, widths: Mapping[str, int]) -> dict[str, float]:
    """Block → what it adds to the score, exactly: float64 holds products of embeddings and their sums."""
    products, at, told = query.astype(np.float64) * item, 0, dict[str, float]()
    for name, width in widths.items():
        told[name] = told.get(name, 0.0) + float(products[at : at + width].sum())
        at += width
    told[LOOKS] = told.get(LOOKS, 0.0) + float(products[at:].sum())
    return told


def compared(
    names: Sequence[str], ours: Sequence[str | None], theirs: Sequence[str | None]
) -> tuple[dict[str, object], dict[str, object]]:
    """Attributes that two products share, and those in which they differ; what neither has is neither."""
    shared, differing = dict[str, object](), dict[str, object]()
    for name, own, other in zip(names, ours, theirs, strict=True):
        if own != other:
            differing[name] = [own, other]
        elif own is not None:
            shared[name] = own
    return shared, differing


def _vector(sent: str) -> np.ndarray:
    """What `halfvec_send` writes, in hex, of which text would be rounded: four bytes, then the entries."""
    return np.frombuffer(bytes.fromhex(sent), ">f2", offset=4).astype(np.float64)


def _widths(run: Run) -> dict[str, int]:
    """Width of each block of a run's embeddings, in their order; what is left over is looks."""
    return _widths_of(run.settings.lake, str(run.result("embed").figures["embedder"]), run)


_known: dict[tuple[str, str], dict[str, int]] = {}


def _widths_of(lake: str, embedder: str, run: Run) -> dict[str, int]:
    if (lake, embedder) not in _known:
        _known[lake, embedder] = widths_of(read_embedder(run))
    return _known[lake, embedder]


def widths_of(embedder: Embedder) -> dict[str, int]:
    """Width of each block that is of an attribute."""
    if not embedder.arrays:
        return {}
    blocks = [name for name in embedder.recipe.blocks if f"{name}_classes" in embedder.arrays]
    return {SAID.get(name, name): len(embedder.arrays[f"{name}_classes"]) for name in blocks}
