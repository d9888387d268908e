"""A run: its name, settings and lake, what its steps returned, and the versions of the tables that belong to it.

A step is a function `name(run) -> StepResult` in `jobs/name.py`. It reads committed tables, writes parts, commits,
and returns the versions it wrote. `jobs.step` then stores the result under `runs/<run>/<step>.json`: that one small
file is what makes a step done for a run, and how later steps find the versions they must read.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from infra.errors import UserError
from infra.lake import Lake, Table
from infra.settings import Settings, read_settings

STEPS = ("pull", "catalog", "embed", "classify", "candidates", "similar", "evaluate", "publish")
"""The steps of a refresh, in order."""
APART = ("train_embedding", "search")
"""Steps that a refresh does without."""
LATEST = "latest"
"""Stands for the newest run whose images are embedded."""
WRITES = {
    "pulls": "pull",
    "products": "catalog",
    "images": "catalog",
    "rejects": "catalog",
    "features": "embed",
    "classifier": "classify",
    "candidates": "candidates",
    "embedders": "train_embedding",
    "searches": "search",
    "search_rejects": "search",
    "embeddings": "similar",
    "cells": "similar",
    "lists": "similar",
    "metrics": "evaluate",
    "verdicts": "evaluate",
}
"""Table → the step that writes it."""
PUBLISHED = ("products", "embeddings", "cells", "lists")


@dataclass(frozen=True)
class StepResult:
    """What a step did. `tables` maps each table it vouches for to the version that holds this run's rows."""

    rows: int = 0
    files: int = 0
    rejects: int = 0
    seconds: float = 0.0
    skipped: bool = False
    tables: dict[str, int] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A refresh, named by its logical date, with the settings and the lake that its steps work on."""

    name: str
    settings: Settings
    lake: Lake

    def table(self, name: str) -> Table:
        """The version of table `name` that belongs to this run.

        Raises:
            UserError: the step that writes it has not run for this run.
        """
        return self.lake.table(name, self.result(WRITES[name]).tables[name])

    def result(self, step: str) -> StepResult:
        """What `step` returned for this run.

        Raises:
            UserError: it has not run.
        """
        try:
            return StepResult(**json.loads(self.lake.read_bytes(f"runs/{self.name}/{step}.json")))
        except FileNotFoundError:
            raise UserError(
                f"run {self.name} has no result of step {step!r}, which this step needs",
                where=f"{self.lake.uri}/runs/{self.name}/{step}.json",
                remedy=f"run `lookalike step {step} --run {self.name}` first, or the whole refresh",
            ) from None

    def results(self) -> dict[str, StepResult]:
        """Results of the steps done so far, in their order."""
        return {step: self.result(step) for step in STEPS if self.lake.exists(f"runs/{self.name}/{step}.json")}


def content(run: Run) -> str:
    """Fingerprint of the tables that a run publishes: what evaluate judged must be what publish loads."""
    return content_hash(*(run.table(name).fingerprint for name in PUBLISHED))


def content_hash(*parts: object) -> str:
    """SHA-256 (hex) over what decides a step's output: fingerprints of its inputs, settings, and its code version."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def open_run(name: str, **overrides: object) -> Run:
    """The run called `name`, or the newest embedded one for `latest`, with settings from the environment.

    Args:
        name: logical date of the run, or `latest`.
        overrides: settings that win over the environment.

    Raises:
        UserError: a name that cannot be part of a path, a setting that cannot be used, or no run to be the latest.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(
            f"{name!r} cannot name a run", where="--run", remedy="use the logical date, for example 2026-01-31"
        )
    settings = read_settings(**overrides)
    lake = Lake(settings.lake)
    return Run(_latest(lake) if name == LATEST else name, settings, lake)


def _latest(lake: Lake) -> str:
    embedded = [name for name in lake.folders("runs") if lake.exists(f"runs/{name}/embed.json")]
    if not embedded:
        raise UserError("no run is embedded yet", where=f"{lake.uri}/runs", remedy="refresh a catalogue: make refresh")
    return embedded[-1]
