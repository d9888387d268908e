"""The catalogue that the benchmarks measure on: products, their attributes and 256-dimensional embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from jobs import step
from jobs.features import read_embeddings, read_features
from jobs.run import open_run
from ml.similarity import to_embedding

RUN = "2026-01-01"
DIMENSIONS = 256


@dataclass(frozen=True)
class Catalogue:
    """`ids` in their order; `values[field][i]` and `embeddings[i]` belong to `ids[i]`."""

    ids: pa.StringArray
    values: dict[str, list[str | None]]
    embeddings: np.ndarray


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks of a catalogue take."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--dataset", default="sample:2000?seed=7")
    made.add_argument(
        "--folder", type=Path, default=Path("var/bench"), help="where the lake lies; what it holds is not made again"
    )
    return made


def load(dataset: str, folder: Path, fields: Sequence[str]) -> Catalogue:
    """Pull, catalog and embed a dataset, unless the lake in `folder` holds it, and read it.

    The features become embeddings of 256 dimensions by principal components, so that a benchmark's work is that of the
    width the issues' figures were measured at, whatever the backbone.
    """
    lake = (folder.resolve() / "lake").as_uri()
    run = open_run(RUN, dataset=dataset, lake=lake)
    for name in ("pull", "catalog", "embed"):
        step.execute(name, run)
    rows = run.products(["product_id", *fields])
    features = read_features(run, "average")
    centred = features - features.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    embeddings = to_embedding(centred @ axes[:, ::-1][:, :DIMENSIONS])
    return Catalogue(
        rows["product_id"].combine_chunks(), {field: rows[field].to_pylist() for field in fields}, embeddings
    )


def of_run(lake: str, name: str, fields: Sequence[str]) -> Catalogue:
    """The catalogue of a run that is done up to similar, with the run's own embeddings."""
    run = open_run(name, lake=Path(lake).resolve().as_uri() if "://" not in lake else lake)
    rows = run.products(["product_id", *fields])
    embeddings = read_embeddings(run)
    return Catalogue(
        rows["product_id"].combine_chunks(), {field: rows[field].to_pylist() for field in fields}, embeddings
    )
