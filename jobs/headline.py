"""What a step did, in one line: the one that the terminal, the task's log and its XCom `summary` in Airflow show."""

from __future__ import annotations

from collections.abc import Mapping

HEADLINE = {
    "pull": ("bytes", "members", "added"),
    "catalog": ("products", "images_new"),
    "embed": ("images", "embedded", "images_per_s", "champion_used", "champion_both_0", "untrained_both_0"),
    "classify": ("test_accuracy", "classes", "epochs", "classifier"),
    "candidates": ("derived_types",),
    "similar": ("products", "cells", "shortlist_items"),
    "evaluate": ("heldout_both_0", "unknown_all10", "coverage", "failed_gates", "fields_changed"),
    "looks": ("photos", "looked_at", "persons", "articles", "photos_per_s", "reason"),
    "publish": ("products", "load_s", "live"),
}
"""The figures of a step that its line shows."""


def headline(step: str, figures: Mapping[str, object], rejects: int, skipped: bool) -> str:
    """The figures that say most, as in `products 299 · images_new 295 · rejects 1`; of other steps all plain ones."""
    names = HEADLINE.get(step) or [name for name, value in figures.items() if isinstance(value, int | float | str)]
    shown = [f"{name} {_human(figures[name])}" for name in names if figures.get(name) is not None]
    if rejects:
        shown.append(f"rejects {rejects:,}")
    if skipped:
        shown.append("(unchanged)")
    return " · ".join(shown)


def _human(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
