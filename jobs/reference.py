"""What a run is held against: the live run as it was published, if it is of the same catalogue and measured alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from infra import store
from infra.errors import UserError
from infra.settings import ATTRIBUTES
from infra.store import StoredRun
from jobs.layout import PARTS, Layout, of_figures
from jobs.run import WRITES, Run, content_hash
from ml import embedding, gates, images, metrics, pictures, protocols, split
from ml.gates import Share

SAME = 0.5
"""Share of the smaller catalogue's product ids from which two catalogues are taken for one that has changed."""
SAMPLES = {
    "heldout_right": "heldout_asked",
    "heldout_all10": "heldout_asked",
    "heldout_colour_share": "heldout_with_colour",
    "colour_share": "with_colour",
    "unknown_subcategory": "unknown_images",
    "unknown_derived": "unknown_images",
    "unknown_all10": "unknown_images",
    "subcategory_test": "subcategory_asked",
}
"""Figure in percent → the figure that says how many products or images it was measured on."""
PROTOCOL = content_hash(
    [list(places) for places in (split.FINAL_PLACES, split.TEST_PLACES, split.VALIDATION_PLACES)],
    (images.THUMBNAIL_SIDE, pictures.NEAR),
    (metrics.K, metrics.MISSING),
    (protocols.K, protocols.SEARCHED, protocols.KIND, protocols.ATTRIBUTES),
)
"""By what rules figures are measured and on which images. How many of these were asked for is no part of it: they are
the first by hash, a fair sample of all, and its size is what a figure's noise follows from."""
NEEDED = {
    "subcategories": ("group",),
    "heldout": ("kind",),
    "colour": ("colour",),
    "unknown": ("group",),
    "classifier": ("group",),
    "subcategory_quality": ("group", "kind"),
}
"""Gate → the parts without which a catalogue has none of its figures."""
BESIDE = {"heldout": ("for_whom",), "unknown": ("kind", "for_whom"), "subcategory_quality": ("for_whom",)}
"""Gate → further parts that its figures go by."""
UNCHANGED = ("image_sha256", *(name for name in embedding.LOSSES if name in ATTRIBUTES))
"""Columns of a product that the embedding of any embedder may follow from."""


@dataclass(frozen=True)
class Live:
    """The live run, and what the store serves of it: products by subCategory, and how many of this run's there are."""

    stored: StoredRun
    subcategories: dict[str, int]
    shared: int

    @property
    def who(self) -> str:
        """The run in words."""
        return f"run {self.stored.run}"

    @property
    def products(self) -> int:
        """How many it serves."""
        return sum(self.subcategories.values())

    def figures(self, step: str) -> Mapping:
        """As `figures_of` has it."""
        return figures_of(self.stored, step)

    def shared_share(self, products: int) -> float:
        """How many of the product ids of the smaller catalogue are in both, 0–1, for a run of so many products."""
        return self.shared / max(1, min(products, self.products))

    def of(self, run: Run) -> Run:
        """The live run as it was published, in the lake of `run`."""
        return Run(self.stored.run, run.settings, run.lake, self.stored.manifest)

    def made_like(self, run: Run) -> bool:
        """Whether its similarities are those of the same model and embedder."""
        of_run, figures = run.result("embed").figures, self.figures("embed")
        return all(of_run[name] == figures.get(name) for name in ("model", "embedder"))


def read_live(connection: psycopg.Connection, ids: np.ndarray) -> Live | None:
    """The live run, for a run whose products have these ids; None where none is live."""
    with store.one_run(connection):
        stored = store.live(connection)
        return Live(stored, *store.served(connection, ids, layout_of(stored).group)) if stored else None


def layout_of(stored: StoredRun) -> Layout:
    """What the columns of a stored run's products are."""
    return of_figures(figures_of(stored, "catalog"), ATTRIBUTES)


def figures_of(stored: StoredRun, step: str) -> Mapping:
    """What a step of a stored run noted; nothing where a release published it that kept no manifest."""
    return stored.manifest.get("results", {}).get(step, {}).get("figures", {})


def is_sample(pulled: Mapping) -> bool:
    """Whether these figures of the step pull are of the built-in sample."""
    return str(pulled.get("uri", "")).startswith("sample:")


def why_new(run: Run, live: Live, products: int) -> str:
    """Why the run's catalogue, of so many products, is not the live run's; empty: it is."""
    pulled, pulled_live = run.result("pull").figures, live.figures("pull")
    if pulled_live and is_sample(pulled) != is_sample(pulled_live):
        return f"the catalogue is new: this run is of {pulled.get('uri')}, {live.who} of {pulled_live.get('uri')}"
    if live.shared_share(products) < SAME:
        smaller = min(products, live.products)
        return f"the catalogue is new: {live.shared:,} of {smaller:,} product ids are those of {live.who}"
    return ""


def fields_changed(run: Run, live: Live) -> str:
    """Which fields the run can be filtered by and the live one cannot, and the other way; empty: none that is known."""
    now, before = run.result("similar").figures.get("fields"), live.figures("similar").get("fields")
    if now is None or before is None:  # an earlier release noted none
        return ""
    told = ("new", set(now) - set(before)), ("gone", set(before) - set(now))  # type: ignore[call-overload]
    return "; ".join(f"{what}: {', '.join(sorted(fields))}" for what, fields in told if fields)


def refer(run: Run, live: Live | None, products: int) -> gates.Reference:
    """What the run, of so many products, is held against."""
    if live is None:
        return gates.NOTHING_LIVE
    counts = {name: count for name, count in live.subcategories.items() if name}
    nothing = gates.Reference(live.who, live.products, counts, {}, {})
    if why := why_new(run, live, products):
        return replace(nothing, silent=dict.fromkeys(gates.NOTHING_LIVE.silent, why))
    shares, silent = _shares(run, live)
    if not live.made_like(run):
        silent["neighbours"] = f"{live.who} was made with another model or embedder"
    silent |= left_out(run.layout) | moved(run.layout, live.stored)
    return replace(nothing, shares=shares, silent=silent)


def left_out(layout: Layout) -> dict[str, str]:
    """Gate → why a catalogue of this layout has none of its figures."""
    missing = {gate: [part for part in parts if not getattr(layout, part)] for gate, parts in NEEDED.items()}
    return {
        gate: f"the catalogue's mapping names no {' and no '.join(parts)}, which it goes by"
        for gate, parts in missing.items()
        if parts
    }


def moved(now: Layout, stored: StoredRun) -> dict[str, str]:
    """Gate → why its figures are of other things than those of a stored run: another column plays a part there."""
    both = {part: [getattr(layout, part) for layout in (now, layout_of(stored))] for part in PARTS.values()}
    words = {
        part: f"the {part} is {new or 'no column'}, and is {old or 'none'} in run {stored.run}"
        for part, (new, old) in both.items()
        if new != old
    }
    told = {
        gate: [words[part] for part in (*parts, *BESIDE.get(gate, ())) if part in words]
        for gate, parts in NEEDED.items()
    }
    return {gate: "; ".join(parts) for gate, parts in told.items() if parts}


def _shares(run: Run, live: Live) -> tuple[dict[str, Share], dict[str, str]]:
    """Shares of the live run that this one's can be held against, and gate → why those of others cannot."""
    figures, measured = live.figures("evaluate"), [*gates.FIGURES, "subcategory_quality"]
    covered = {"coverage": Share(figures["coverage"], live.products)} if "coverage" in figures else {}
    if not figures:
        why = f"{live.who} was published by a release that kept no figures"
        return covered, dict.fromkeys(["coverage", *measured], why)
    if figures.get("protocol") != PROTOCOL:
        return covered, dict.fromkeys(measured, f"{live.who} was measured by another protocol or split")
    shares, published = covered | shares_of(figures), live.of(run)
    try:
        check_there(published, "metrics")
        rows = published.table("metrics").read().to_pylist()
    except (UserError, FileNotFoundError) as error:
        return shares, {"subcategory_quality": why_gone(live, error)}
    return shares | quality_of({row["metric"]: row["value"] for row in rows}), {}


def shares_of(figures: Mapping, prefix: str = "") -> dict[str, Share]:
    """The shares that figures of evaluate hold; those that are not measured, or on nothing, are left out."""
    measured = {name: (figures.get(prefix + name), figures.get(prefix + size)) for name, size in SAMPLES.items()}
    return {
        name: Share(value / 100, int(size))
        for name, (value, size) in measured.items()
        if value is not None and value == value and size
    }


def quality_of(measured: Mapping[str, float]) -> dict[str, Share]:
    """The shares of `subcategory_quality`, from the rows of the table metrics."""
    names = [name for name in measured if name.startswith(gates.QUALITY)]
    sizes = {name: int(measured[name.replace("right", "asked", 1)]) for name in names}
    return {name: Share(measured[name] / 100, sizes[name]) for name in names if sizes[name]}


def check_there(published: Run, *names: str) -> None:
    """Raises UserError where the lake does not hold these tables as they were published."""
    for name in names:
        result = published.result(WRITES[name])
        if name not in result.tables:
            raise UserError(
                f"run {published.name} has no {name}: another release made it",
                where=published.lake.uri,
                remedy="none is needed: the next run is compared with this one",
            )
        if published.table(name).content != result.contents.get(name):
            raise UserError(
                f"the lake does not hold the table {name} of run {published.name}",
                where=f"{published.lake.uri}/{name}",
                remedy="set LOOKALIKE_LAKE to the lake that the run was made in",
            )


def why_gone(live: Live, error: Exception) -> str:
    """Why tables of the live run are not compared with."""
    problem = error.problem if isinstance(error, UserError) else str(error)
    return f"the tables of {live.who} cannot be read: {problem}"


@dataclass(frozen=True)
class Followed:
    """How the lists of unchanged products follow from those they had.

    `agreed` is the share of them that agree (`ml.metrics.agree`): for one model and embedder all must, whatever came or
    went, so it has a gate. `kept` is the percentage of their neighbours that are still there unchanged and still in the
    list: it is what readers notice, but new products may by right push out any number, so no bound would be right.
    """

    agreed: Share = Share(0, 0)
    kept: float = float("nan")


def follow(products: pa.Table, neighbours: np.ndarray, before: pa.Table, neighbours_before: np.ndarray) -> Followed:
    """How the lists of those products that are as they were before follow from the lists they had then.

    Args:
        products: rows of the run's products, with `UNCHANGED`.
        neighbours: of their lists, int (n, 10): indices among them, −1 past the end.
        before, neighbours_before: those of the run before.
    """
    place = pd.Index(before["product_id"].to_numpy()).get_indexer(products["product_id"].to_numpy())
    same = place >= 0
    if not same.any():
        return Followed()
    for name in UNCHANGED:
        new, old = (pc.fill_null(rows[name], "").combine_chunks() for rows in (products, before))
        same &= pc.equal(new, old.take(pa.array(np.maximum(place, 0)))).to_numpy(zero_copy_only=False)
    unchanged = np.flatnonzero(same)
    index_now = np.full(len(before) + 1, metrics.MISSING)  # the last one is for −1, past the end of a list
    index_now[place[unchanged]] = unchanged
    then, now = index_now[neighbours_before[place[unchanged]]], neighbours[unchanged]
    now = np.where((now >= 0) & same[now], now, metrics.MISSING)
    agreed = Share(float(metrics.agree(then, now).mean()), len(unchanged)) if len(unchanged) else Share(0, 0)
    return Followed(agreed, 100 * metrics.recall_at_k(now, then))
