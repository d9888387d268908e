"""What a catalogue says of a photo that it has itself, in whatever size, compression or format that is asked with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc

from jobs.run import Run
from jobs.stored import images_table
from ml import pictures

ATTRIBUTES = ("gender", "articleType", "baseColour", "subCategory")
"""Attributes that an embedding or a stage goes by."""


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
        rows = run.products(["image_sha256", *ATTRIBUTES])
        stored = images_table(run).read(["image_sha256", "thumbnail"])
        place = pc.index_in(rows["image_sha256"], value_set=stored["image_sha256"].combine_chunks())
        thumbnails = stored["thumbnail"].take(place).to_pylist()
        attributes = {name: np.array(rows[name].to_pylist(), object) for name in ATTRIBUTES}
        return cls(np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, pictures.WIDTH), attributes)

    def known(self, thumbnail: np.ndarray) -> dict[str, str | None]:
        """What the catalogue says of the picture with a thumbnail, uint8 (8, 8, 3); nothing where it has none such."""
        place = pictures.find(thumbnail.ravel(), self._thumbnails, self._sums)
        return {name: values[place] for name, values in self._attributes.items()} if place >= 0 else {}
