"""What a catalogue says of a photo: of one that it has, in any size, compression or format, and of one like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from jobs.features import to_matrix
from jobs.ids import to_text
from jobs.run import Run
from jobs.stored import images_table
from ml import pictures

ATTRIBUTES = ("gender", "articleType", "baseColour", "subCategory")
"""Attributes that an embedding or a stage goes by."""

KIND, GROUP = ("gender", "articleType"), "subCategory"
"""The parts that make a derivedType, and the one before it."""


class Pictures:
    """The pictures of a catalogue's products, and the attributes of the product that each shows."""

    def __init__(self, thumbnails: np.ndarray, attributes: Mapping[str, np.ndarray]) -> None:
        """Of n pictures: uint8 (n, `ml.pictures.WIDTH`), and object (n,) for each attribute, None where it has none."""
        order, self._sums = pictures.sort(thumbnails)
        self._thumbnails = thumbnails[order]
        self._attributes = {name: values[order] for name, values in attributes.items()}

    @classmethod
    def of(cls, run: Run) -> Pictures:
        """Those of a run's main images."""
        shown = run.products(["image_sha256"])["image_sha256"]
        stored = images_table(run).read(["image_sha256", "thumbnail"])
        place = pc.index_in(shown, value_set=stored["image_sha256"].combine_chunks())
        thumbnails = stored["thumbnail"].take(place).to_pylist()
        return cls(np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, pictures.WIDTH), attributes_of(run))

    def known(self, thumbnail: np.ndarray) -> dict[str, str | None]:
        """What the catalogue says of the picture with a thumbnail, uint8 (8, 8, 3); nothing where it has none such."""
        place = pictures.find(thumbnail.ravel(), self._thumbnails, self._sums)
        return {name: values[place] for name, values in self._attributes.items()} if place >= 0 else {}


@dataclass(frozen=True)
class Gallery:
    """What photos are compared with: n images of products, and what each one's product is.

    `embeddings` is float32 (n, e), `attributes` has object (n,) for each of `KIND` and for `GROUP`, None where there is
    none.
    """

    embeddings: np.ndarray
    attributes: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, run: Run) -> Gallery:
        """The main images of a run, with the embeddings that it serves."""
        stored = run.table("embeddings").read(["product_id", "embedding"])
        ids = run.products(["product_id"])["product_id"].combine_chunks()
        place = pc.index_in(to_text(stored["product_id"]), value_set=ids).to_numpy()
        of_images = {name: values[place] for name, values in attributes_of(run).items()}
        return cls(to_matrix(stored["embedding"]), of_images)

    @cached_property
    def kinds(self) -> np.ndarray:
        """The kind of each, by all that `kind` says, int (n,)."""
        return pd.MultiIndex.from_arrays([self.attributes[name] for name in (*KIND, GROUP)]).factorize()[0]

    def kind(self, place: int) -> dict[str, str | None]:
        """What the catalogue says of the kind of one of them; nothing where it does not tell it."""
        said = {name: self.attributes[name][place] for name in (*KIND, GROUP)}
        return said if said["articleType"] is not None else {}


def attributes_of(run: Run) -> dict[str, np.ndarray]:
    """The `ATTRIBUTES` of a run's n products, object (n,) each, in the order of ids."""
    rows = run.products(ATTRIBUTES)
    return {name: np.array(rows[name].to_pylist(), object) for name in ATTRIBUTES}
