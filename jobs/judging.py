"""Which embedder is better for a run's images: both are asked for look-alikes of images that neither has learnt from.

What embed and train_embedding share. A night asks a fixed sample before anything is measured with the champion: it may
have learnt from another catalogue, and then the untrained features do better. A training asks the whole validation
side whether its challenger is better than what the night goes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
import pyarrow as pa
import structlog

from jobs import extraction
from jobs.champion import Champion, read_embedder
from jobs.extraction import NONE, Model
from jobs.features import read_embeddings
from jobs.layout import Layout
from jobs.run import Run, StepResult, content_hash
from jobs.stored import detail_of
from ml import cube, embedding, metrics, split
from ml.gates import promotes
from ml.images import coarser

KINDS = ("articleType", "gender", "baseColour")
"""Attributes that look-alikes are judged by."""
SAMPLE, ASKED = 6_000, 1_500
"""Most images that a night asks with, and most of them that it asks for; the others, of the training side, answer."""
LEAST_ASKED = 100
"""Products that must take part in a verdict. Of so many, a champion that is right for 8 points fewer of them than the
untrained features comes out on top once in twenty times, by chance."""
MOST_LEARNT = 0.05
"""Share of the images asked for that an embedder may have learnt, and which are left out, before it is not judged."""
PROTOCOL = (500, 44_072)
"""The seed report judges by articleTypes of at least 500 of its products: see `least_products`."""
CODE_VERSION = 2


@dataclass(frozen=True)
class Settled:
    """The embedder that a run goes by, figures of how it came to be that, and the features that were made to ask."""

    champion: Champion
    figures: dict[str, object] = field(default_factory=dict)
    new: int = 0
    files: int = 0


def settle(run: Run, champion: Champion, base: Model) -> Settled:
    """The champion, if it is better than the untrained features on the run's own validation images; else the untrained.

    The same products and champion are asked about once.

    Args:
        run: its step catalog is done.
        champion: what `find_champion` found.
        base: the backbone as the settings have it.

    Raises:
        UserError: an image is not stored, or cannot be embedded.
    """
    untrained = Champion(embedding.UNTRAINED.fingerprint, base.fingerprint, "")
    if base.weights == NONE:  # then the champion's are all there are, and the question is its embedder alone
        untrained = replace(champion, embedder=embedding.UNTRAINED.fingerprint)
    if champion == untrained:
        return Settled(untrained)
    rule = [CODE_VERSION, SAMPLE, ASKED, LEAST_ASKED, MOST_LEARNT, PROTOCOL]
    key = content_hash(rule, run.content("products"), champion.embedder, champion.model, base.fingerprint)
    asked_now = None
    if not (verdict := run.done("judge", key, {})):
        verdict = asked_now = run.remember("judge", key, _ask(run, champion, untrained, base))
    refused = verdict.figures["champion_refused"]
    if refused:
        structlog.get_logger().warning("the champion is not used for this run", why=refused)
    new, files = (asked_now.rows, asked_now.files) if asked_now else (0, 0)
    return Settled(untrained if refused else champion, verdict.figures, new, files)


def model_of(run: Run, champion: Champion, base: Model) -> Model:
    """What a run's images are embedded with for an embedder: in no more detail than it has learnt from."""
    detail = coarser(detail_of(run), read_embedder(run, champion.embedder).detail)
    return replace(base, tuned=champion.tuned, detail=detail)


def _ask(run: Run, champion: Champion, untrained: Champion, base: Model) -> StepResult:
    started = perf_counter()
    rows = run.judged(["image_sha256", "picture", *KINDS])
    trained = read_embedder(run, champion.embedder)
    queries, answering = draw(rows["image_sha256"], rows["picture"])
    learnt = np.isin(rows["picture"].take(queries), trained.learnt)
    judged, new, files = dict[str, dict[str, float]](), 0, 0
    refused = why_unjudged(run.layout) or _memorised(learnt) or _too_few(len(queries), answering)
    if not refused:
        chosen = np.concatenate([queries[~learnt], answering])
        asked = np.arange(len(chosen)) < (~learnt).sum()
        images = rows["image_sha256"].take(chosen).combine_chunks()
        for name, who, embedder in (
            ("champion", champion, trained),
            ("untrained", untrained, embedding.UNTRAINED),
        ):
            model = model_of(run, who, base)
            extracted = extraction.extract(run, model, images)
            new, files = new + extracted.new, files + extracted.files
            embeddings = read_embeddings(run, embedder, model.fingerprint, learnt=True, rows=chosen)
            judged[name] = judge(embeddings, rows.take(chosen), asked, ~asked)
        refused = no_better(judged["champion"], judged["untrained"])
    figures = {"champion": champion.embedder, "champion_used": not refused, "champion_refused": refused}
    seconds = round(perf_counter() - started, 1)
    return StepResult(new, files, figures={**figures, **flat(judged), "judge_s": seconds})


def draw(hashes: pa.ChunkedArray, pictures: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Products to ask about, of the validation side, and to answer with, of the training side: int (a,) and (b,).

    The first product of each of those images whose hashes come first: nearly the same every night.
    """
    names = hashes.to_pylist()
    images, firsts = np.unique(np.array(names), return_index=True)
    sides = split.sides_of(pictures)[firsts]
    queries = split.choose(images, np.flatnonzero(sides == split.VALIDATION), ASKED)
    answering = split.choose(images, np.flatnonzero(sides == split.TRAIN), SAMPLE - len(queries))
    return firsts[queries], firsts[answering]


def judge(
    embeddings: np.ndarray, rows: pa.Table, asked: np.ndarray, answering: np.ndarray | None = None
) -> dict[str, float]:
    """Nine percentages and the colour share (0–100) of lists of n products.

    Args:
        embeddings: float32 (n, e), in fixed point.
        rows: the products' `KINDS`, as `Run.judged` has them.
        asked: bool (n,), those whose lists are judged.
        answering: bool (n,), those that lists are made of; None: all, but never the product itself.
    """
    codes = {name: embedding.encode(rows[name].to_pylist())[1] for name in KINDS}
    neighbours = np.full((len(embeddings), metrics.K), metrics.MISSING, np.int64)
    among = None if answering is None else np.flatnonzero(answering)
    neighbours[asked] = cube.neighbours(embeddings, np.flatnonzero(asked), among)
    least = least_products(len(rows))
    figures = metrics.nine_percentages(neighbours, codes["articleType"], codes["gender"], least, asked)
    return {**figures, "colour_share": metrics.share_of_hits(neighbours, codes["baseColour"], asked)}


def least_products(n: int) -> int:
    """Products that an articleType needs to be judged by, among n: the protocol's share of them.

    Never more than the protocol says, and never fewer than twenty: with one gender alone, ten are hardly to be found.
    """
    least, of = PROTOCOL
    return int(np.clip(round(n * least / of), 2 * metrics.K, least))


def no_better(challenger: Mapping[str, float], champion: Mapping[str, float]) -> str:
    """Why a challenger does not take a champion's place, by what `judge` says of both; empty where it does."""
    if few := _too_few(int(challenger["products"])):
        return few
    if promotes(challenger, champion):
        return ""
    new, old = (f"{figures['both_0']:.1f} %" for figures in (challenger, champion))
    return (
        f"it is no better: all ten neighbours are right for {new} of {challenger['products']:,} held-out products, and "
        f"for {old} by what it would replace"
    )


def why_unjudged(layout: Layout) -> str:
    """Why no embedder can be judged by the products of a catalogue of this layout; empty: one can."""
    return "" if layout.kind else "the catalogue's mapping names no kind, by which look-alikes are judged"


def _too_few(asked: int, answering: np.ndarray | None = None) -> str:
    if asked >= LEAST_ASKED and (answering is None or len(answering)):
        return ""
    return f"only {asked:,} held-out products are there to judge it by, and {LEAST_ASKED:,} are needed"


def _memorised(learnt: np.ndarray) -> str:
    if learnt.sum() <= MOST_LEARNT * len(learnt):
        return ""
    return f"it has learnt {learnt.sum():,} of the {len(learnt):,} images that are held out to judge it by"


def flat(judged: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    """Percentages as a step's figures, `champion_both_0` and so on: JSON knows no NaN, which a share of nothing is."""
    return {
        f"{who}_{name}": None if np.isnan(value) else round(value, 2)
        for who, figures in judged.items()
        for name, value in figures.items()
    }
