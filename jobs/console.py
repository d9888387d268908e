"""A refresh as a person sees it: a line a step with its figures, a bar for the long ones, and the closing table.

It reads the log files that the steps write (infra.telemetry), so it shows the same whoever started the steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from infra.telemetry import log_file
from jobs.headline import headline
from jobs.printing import Terminal, plain_table
from jobs.report import COPIES, LEARNT, ROWS, TOLERANCES, UNKNOWN, changes
from jobs.run import STEPS, StepResult

BUG = 1
"""Exit code where a step failed and did not foresee it."""
FIRST_COLUMN = 52
"""Least width of the first column of an evaluation's tables, in letters: their titles fit in a line."""


class Watch:
    """Follows the logs of one run from now on; `poll` shows what is new and remembers how each step ended."""

    def __init__(self, logs: Path, run: str, console: Terminal) -> None:
        self._files = {step: log_file(logs, run, step) for step in STEPS}
        self._seen = {step: file.stat().st_size if file.exists() else 0 for step, file in self._files.items()}
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.failed: dict[str, str] = {}
        self.exit_codes: dict[str, int] = {}
        self.results: dict[str, StepResult] = {}

    def poll(self) -> None:
        """Show what the steps have logged since the last call."""
        for step in STEPS:
            for event in self._new_events(step):
                self._show(step, event)

    def _new_events(self, step: str) -> Iterator[dict[str, Any]]:
        file = self._files[step]
        if not file.exists():
            return
        with file.open("rb") as stream:
            stream.seek(self._seen[step])
            for line in stream:
                if not line.endswith(b"\n"):  # still being written
                    break
                self._seen[step] += len(line)
                yield json.loads(line)

    def _show(self, step: str, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress" and self._console.is_terminal:
            bar = self._bars.get(step)
            if bar is None:
                bar = self._bars[step] = self.progress.add_task(step, total=None, unit=event["unit"])
            self.progress.update(bar, completed=event["done"], total=event["total"], unit=event["unit"])
        elif kind == "finished":
            self._drop_bar(step)
            self.failed.pop(step, None)
            result = StepResult.of(event)
            self.results[step] = result
            told = headline(step, result.figures, result.rejects, result.skipped)
            self._console.print(Text.assemble(("✓", "green"), f" {step:<11} {result.seconds:>7.1f} s  {told}"))
        elif kind == "failed":
            self._drop_bar(step)
            self.failed[step], self.exit_codes[step] = str(event.get("message", "")), event.get("exit_code", BUG)
            self._console.print(Text.assemble(("✗", "red"), f" {step:<11} failed"))

    def _drop_bar(self, step: str) -> None:
        if step in self._bars:
            self.progress.remove_task(self._bars.pop(step))


def closing_table(results: dict[str, StepResult]) -> Table:
    """Steps, rows, rejects, seconds of a finished run."""
    table = plain_table("step")
    for name in ("rows", "rejects", "seconds"):
        table.add_column(name, justify="right")
    for step, result in results.items():
        note = " (unchanged)" if result.skipped else ""
        table.add_row(step + note, f"{result.rows:,}", f"{result.rejects:,}", f"{result.seconds:,.1f}")
    total = sum(result.seconds for result in results.values())
    table.add_row("in all", "", "", f"{total:,.1f}", style="bold")
    return table


def embedders_table(rows: list[dict], used: str) -> Table:
    """The rows of the table of embedders, oldest first; the newest promoted one with the SHA-256 `used` is marked."""
    table = plain_table()
    for name in ("", "number", "run", "catalogue", "both right", "before", "promoted", "why"):
        table.add_column(name, overflow="fold")
    newest = max((row["number"] for row in rows if row["promoted"] and row["sha256"] == used), default=None)
    for row in rows:
        judged = json.loads(row["judged"] or "{}")
        shares = [_share(judged.get(who, {}).get("both_0")) for who in ("challenger", "champion")]
        table.add_row(
            "used" if row["number"] == newest else "",
            str(row["number"]),
            row["run"] or row["sha256"],
            (row["catalogue"] or "not noted")[:9],
            *shares,
            "yes" if row["promoted"] else "no",
            row["reason"] or "",
        )
    return table


# An evaluation --------------------------------------------------------------------------------------------------------


def evaluation_tables(figures: Mapping[str, Any], before: Mapping[str, Any]) -> list[Table]:
    """What `evaluate` measured: held-out figures first, all products with a word on what the embedder has learnt.

    Args:
        figures: of the step's result.
        before: those of the run it is compared with, `figures["compared_with"]`; empty where there is none.
    """
    learnt = f", {LEARNT}" if figures["trained"] else ""
    tables = [
        _gates(figures["gates"]),
        _nine(figures, "heldout_", "held-out products: no model has seen their labels"),
        _nine(figures, "", f"all products{learnt}"),
        _named(
            f"{figures['unknown_images']:,} held-out images, searched for as unknown",
            {words: figures[f"unknown_{name}"] for name, words in UNKNOWN.items()},
        ),
        _named(
            f"subCategory classifier, {figures['subcategory_asked']:,} held-out products",
            {"all classes": figures["subcategory_test"], "the 15 largest alone": figures["subcategory_test_15"]},
        ),
    ]
    if "duplicates_first" in figures:
        tables.append(_named("copies of held-out photos", {words: figures[name] for name, words in COPIES.items()}))
    if figures["costly"]:
        costly = _table("confusions that cost most, held-out products", "product", "neighbour", "products")
        for own, other, count in figures["costly"]:
            costly.add_row(own, other, f"{count:,}")
        tables.append(costly)
    if before:
        name = figures["compared_with"]
        against = _table(f"against run {name}", "%", "this run", name, "difference")
        for _, words, new, old in changes(figures, before):
            note = learnt if words.startswith("all products") else ""
            against.add_row(words + note, f"{new:.2f}", f"{old:.2f}", f"{new - old:+.2f}")
        if figures["why_other"]:
            against.caption = f"the differences do not say which is better: {figures['why_other']}"
        tables.append(against)
    return tables


def _gates(verdicts: Sequence[Sequence[str]]) -> Table:
    """A row a gate; words where it failed or could not be compared, as a passed one has nothing to tell."""
    table = Table(title="gates", title_justify="left", box=None, pad_edge=False, show_header=False)
    for gate, state, detail in verdicts:
        colour = {"passed": "green", "failed": "red"}.get(state, "yellow")
        words = "" if state == "passed" else detail.removeprefix("not compared: ")
        table.add_row(gate, Text(state, colour), words)
    return table


def _nine(figures: Mapping[str, Any], prefix: str, title: str) -> Table:
    table = _table(title, "% right, by tolerance", *TOLERANCES)
    for row in ROWS:
        table.add_row(row, *(_share(figures[f"{prefix}{row}_{tolerance}"]) for tolerance in TOLERANCES))
    colour = _share(figures[f"{prefix}colour_share"])
    table.caption = f"{figures[f'{prefix}products']:,} products of large articleTypes; same baseColour: {colour} %"
    return table


def _named(title: str, values: Mapping[str, float | None]) -> Table:
    table = _table(title, "", "%")
    for words, value in values.items():
        table.add_row(words, _share(value))
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False)
    table.add_column(first, min_width=FIRST_COLUMN)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
