"""publish: shortlists + verdicts → the store, one flip.

Reads the run's verdicts (it forms none: without them it refuses, and the old run serves on), products, embeddings,
cells and shortlists; loads them into partitions of their own and verifies the counts in one transaction, and makes the
run live in the next: a crash leaves nothing, or a run that is loaded. Content that the store still holds is not loaded
again. What the run was made of, its manifest, goes live with it. What may not go live is said in `objections`, and
`--publish-anyway REASON` overrules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from time import perf_counter

import numpy as np
import pandas as pd
import psycopg

from infra import store
from infra.errors import UserError
from infra.lake import Table
from infra.store import StoredRun
from infra.telemetry import Progress
from jobs import shortlists, step
from jobs.features import to_matrix
from jobs.ids import to_text
from jobs.reference import figures_of, is_sample
from jobs.run import (
    PUBLISHED,
    STEPS,
    OutdatedError,
    Run,
    StepResult,
    check_begun,
    check_chain,
    content_hash,
    night_of,
    published_content,
    release,
)
from ml.cells import Numbering, holding, meeting, number, supersets
from ml.cube import filled_at
from ml.gates import GATES

LOADING = 4
"""How runs are loaded. To be raised when one that an earlier release stored would answer otherwise."""
MOST_WIDEST = 64
"""Of the widest cells, of which every shortlist has a number of two bytes."""
OTHERS = "others"
"""Column of `embeddings` where products are compared by the best pair of their images."""
MADE = STEPS[: STEPS.index("publish")]
"""The steps that a published run is made by."""


def publish(run: Run) -> StepResult:
    """Load the run into the store and make it live."""
    check_begun(run.name)
    check_chain(run, MADE)
    refused = refused_gates(run)
    content = content_hash(LOADING, published_content(run))
    settings = run.settings
    with store.connect(settings.store, settings.store_folder, prepares=True) as connection, store.locked(connection):
        with connection.transaction():
            store.lock(connection)
            live = store.live(connection)
            if live and live.content_hash == content and _is_older(run.name, live.run):
                return _skipped(live, live.run)
            if not run.publish_anyway:
                _check_judged(run, live, content)
            against = objections(connection, run, live, content)
            overruled = _overrule(run, [*refused, *against])
            manifest = _manifest(run, overruled)
            stored = store.stored_with(connection, content)
            result = _skipped(stored, run.name) if stored else load(connection, run, content, manifest)
        with connection.transaction():  # one of its own: see store.flip
            store.lock(connection)
            _make_live(connection, run, content, manifest)
        store.prune(connection, settings.keep_runs)
    return result


def refused_gates(run: Run) -> list[UserError]:
    """The gates that refused the run.

    Raises:
        UserError: a gate has no verdict, which nothing overrules.
    """
    verdicts = {row["gate"]: row for row in run.table("verdicts").read().to_pylist()}
    missing = [gate for gate in GATES if gate not in verdicts]
    if missing:
        raise _refusal(
            run, f"no verdict of gate {', '.join(missing)}", "set the gate's threshold and run evaluate again"
        )
    return [_refusal(run, _words(row), row["remedy"]) for row in verdicts.values() if not row["passed"]]


def _words(verdict: Mapping) -> str:
    numbers = {name: "nothing" if isnan(verdict[name]) else f"{verdict[name]:.6g}" for name in ("value", "bound")}
    return f"gate {verdict['gate']} found {numbers['value']}, bound {numbers['bound']}: {verdict['detail']}"


def objections(connection: psycopg.Connection, run: Run, live: StoredRun | None, content: str) -> list[UserError]:
    """What speaks against making the run live in place of the live one, gates apart."""
    if live and live.content_hash == content:
        return []
    against = []
    if live and _is_older(run.name, live.run):
        problem = f"run {live.run} is live, which is a newer night"
        against.append(_refusal(run, problem, "leave it, or run the newer night again"))
    new = run.result("evaluate").figures.get("new_catalogue")
    if live and new and not run.new_catalogue and not is_sample(figures_of(live, "pull")):
        remedy = "set LOOKALIKE_DATASET to the live catalogue's source, or if another is meant give `--new-catalogue`"
        against.append(_refusal(run, str(new), remedy))
    hold = store.held(connection, content)
    if hold:
        problem = f"its content is held since run {hold.run} was rolled back on {hold.held_at:%Y-%m-%d %H:%M}"
        against.append(_refusal(run, problem, "mend what was wrong with it, or end the hold: `lookalike unhold`"))
    return against


def _check_judged(run: Run, live: StoredRun | None, content: str) -> None:
    """Raises OutdatedError where the verdicts compare the run with another one than the live one."""
    judged_against = run.result("evaluate").figures["judged_against"]
    if judged_against != (live.content_hash if live else None) and (live is None or live.content_hash != content):
        raise OutdatedError("evaluate", f"run {run.name} was judged before {live.run if live else 'none'} went live")


def _refusal(run: Run, problem: str, remedy: str) -> UserError:
    return UserError(
        f"run {run.name} is not published, the old run serves on: {problem}",
        where=f"{run.lake.uri}/runs/{run.name}",
        remedy=remedy,
    )


def _overrule(run: Run, against: Sequence[UserError]) -> list[str]:
    """The objections in words, where `--publish-anyway` was given.

    Raises:
        UserError: there are some, and it was not.
    """
    if against and not run.publish_anyway:
        raise UserError(
            "\n".join(error.problem for error in against),
            where=against[0].where,
            remedy="; ".join(dict.fromkeys(error.remedy for error in against))
            + f"; or publish it all the same: `lookalike step publish --run {run.name} --publish-anyway REASON`",
        )
    return [error.problem for error in against]


def _is_older(name: str, other: str) -> bool:
    """Whether a night comes before another one; names that are no dates have no order."""
    night, another = night_of(name), night_of(other)
    return night is not None and another is not None and night < another


def _manifest(run: Run, overruled: Sequence[str]) -> dict[str, object]:
    """All that the run was made of and that readers of it need, ready for JSON."""
    return {
        "run": run.name,
        "release": release(),
        "results": {step: asdict(run.result(step)) for step in MADE},
        "published_anyway": run.publish_anyway if overruled else "",
        "overruled": list(overruled),
    }


def _make_live(connection: psycopg.Connection, run: Run, content: str, manifest: dict[str, object]) -> None:
    """Make content live that the store holds, under this run's name, and end its hold."""
    stored = store.stored_with(connection, content)
    if stored is None:
        raise RuntimeError(f"the store does not hold what run {run.name} has just loaded; nothing was published")
    store.end_hold(connection, content)
    store.adopt(connection, stored.run_id, run.name, manifest)
    store.flip(connection, stored.run_id)


def _skipped(stored: StoredRun, live: str) -> StepResult:
    return StepResult(int(str(stored.figures["products"])), skipped=True, figures=stored.figures | {"live": live})


def load(connection: psycopg.Connection, run: Run, content: str, manifest: dict[str, object]) -> StepResult:
    """Load the run's tables, to be made live."""
    started = perf_counter()
    tables, similar = {name: run.table(name) for name in PUBLISHED}, run.result("similar")
    run_id = store.begin(connection, run.name, content, run.fields, manifest)
    layout = run.layout
    rows = run.attributes(["product_id", *layout.stored, "image_sha256"])
    numbering = number({field: rows[field].to_pylist() for field in run.fields}, len(rows))
    rows = rows.take(numbering.order)
    ids = pd.Index(rows["product_id"].to_numpy())
    embeddings = _embeddings(tables["embeddings"], ids)
    store.load_products(connection, run_id, rows, (layout.name, layout.kind), numbering.order, embeddings)
    best_pair = OTHERS in tables["embeddings"].schema.names
    if layout.image:
        store.load_other_images(connection, run_id, _other_images(run, tables["embeddings"], ids, best_pair=best_pair))
    cells = tables["cells"].read().sort_by("cell")
    combinations = [json.loads(text) for text in cells["filters"].to_pylist()]
    depths = cells["depth"].to_numpy()
    fill, precomputed = load_filters(connection, run_id, numbering, depths, combinations, best_pair=best_pair)
    due = int(str(similar.figures["products"]))
    blocks = (
        (positions, ends, items, fill(ends, items))
        for positions, ends, items in _shortlists(tables["shortlists"], ids, due)
    )
    loaded = store.load_shortlists(connection, run_id, due, blocks)
    expected = {"products": due, "precomputed": precomputed, "shortlists": due}
    _verify(store.counts(connection, run_id), expected)
    figures = {"products": loaded, "cells": len(cells)}
    store.attach(connection, run_id, figures)
    seconds = {"load_s": round(perf_counter() - started, 3)}
    return StepResult(loaded, figures=figures | seconds | {"live": run.name})


def load_filters(
    connection: psycopg.Connection,
    run_id: int,
    numbering: Numbering,
    depths: np.ndarray,
    combinations: Sequence[Sequence[Mapping[str, str]]],
    *,
    best_pair: bool = False,
) -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], int]:
    """Load what filters are answered with: of the precomputed cells, int (c,), the depths, and the filters of each.

    With `best_pair` products are compared by the best pair of their images.

    Returns:
        What gives for the ends and the items, as positions, of shortlists at which item they are filled with each of
        the widest cells, see `ml.cube.filled_at`; and how many filters are precomputed.
    """
    members = np.array([numbering.passing(filters[0]) for filters in combinations])
    containing, base_cells = supersets(members), numbering.base_cells
    widest = np.flatnonzero(containing.sum(axis=1) == 1)  # by the cell of all products alone
    sizes = members[widest] @ np.diff(numbering.starts)
    widest = np.sort(widest[np.argsort(-sizes, kind="stable")[:MOST_WIDEST]])
    by_base_cell = np.ascontiguousarray(members.T)
    values = (
        (
            field,
            [label or None for label in numbering.labels[field]],
            sets,
            meeting(by_base_cell, sets),
            holding(by_base_cell, sets) if field in numbering.several else None,
        )
        for field, sets in numbering.having.items()
    )
    cells = list(zip(depths.tolist(), combinations, members, containing, strict=True))
    precomputed = store.load_filters(connection, run_id, numbering.starts, values, cells, widest, best_pair=best_pair)
    contains, depths = members[widest].T, depths[widest]
    return lambda ends, items: filled_at(ends, base_cells[items], contains, depths), precomputed


def _embeddings(embeddings: Table, ids: pd.Index) -> np.ndarray:
    """The embeddings of `ids`, in their order: float16 (n, d), which holds multiples of 2⁻¹¹ exactly.

    Raises:
        RuntimeError: a product has none.
    """
    matrix, has_embedding = None, np.zeros(len(ids), bool)
    for part in embeddings.iter_parts(["product_id", "embedding"]):
        place = _positions(ids, to_text(part["product_id"]).to_numpy(), "embeddings")
        values = to_matrix(part["embedding"])
        if matrix is None:
            matrix = np.empty((len(ids), values.shape[1]), np.float16)
        matrix[place], has_embedding[place] = values, True
    if matrix is None or not has_embedding.all():
        raise RuntimeError(f"product {ids[np.argmin(has_embedding)]} has no embedding; nothing was published")
    return matrix


def _other_images(
    run: Run, embeddings: Table, ids: pd.Index, *, best_pair: bool
) -> Iterator[tuple[int, int, str, np.ndarray | None]]:
    """(position, number, SHA-256, embedding) of the images beside the main ones; the last where they are compared."""
    rows = run.attributes(["product_id", "images"])
    shas = dict(zip(rows["product_id"].to_pylist(), rows["images"].to_pylist(), strict=True))
    for part in embeddings.iter_parts(["product_id", "embedding", OTHERS] if best_pair else ["product_id"]):
        names = to_text(part["product_id"]).to_numpy()
        places = _positions(ids, names, "embeddings")
        width = to_matrix(part["embedding"]).shape[1] if best_pair else 0
        others = part[OTHERS].combine_chunks() if best_pair else None
        for at, (name, position) in enumerate(zip(names, places.tolist(), strict=True)):
            matrix = others[at].values.to_numpy().reshape(-1, width) if others is not None else None
            for later, sha in enumerate(shas[name][1:]):
                yield position, later + 2, sha, None if matrix is None else matrix[later]


def _positions(ids: pd.Index, wanted: np.ndarray, table: str) -> np.ndarray:
    """Positions of the `wanted` ids among `ids`, int64.

    Raises:
        RuntimeError: one is not among them; names it and the table that holds it.
    """
    place = ids.get_indexer(wanted)
    if (place < 0).any():
        raise RuntimeError(
            f"the table {table} names product {wanted[np.argmin(place)]}, which the run's products lack; nothing was "
            "published"
        )
    return place


def _shortlists(table: Table, ids: pd.Index, due: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    progress = Progress("shortlists", due)
    for part in shortlists.read(table):
        yield (
            _positions(ids, part.ids, "shortlists"),
            part.ends,
            _positions(ids, part.items, "shortlists")[part.codes],
        )
        progress.add(len(part.ids))


def _verify(counted: dict[str, int], expected: dict[str, int]) -> None:
    """Every product of the lake is loaded and has a shortlist; the key of `shortlists` refuses a second one."""
    if counted != expected:
        raise RuntimeError(f"the store counted {counted}, the lake holds {expected}; nothing was published")


if __name__ == "__main__":
    raise SystemExit(step.main("publish"))
