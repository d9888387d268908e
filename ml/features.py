"""Images → features: a backbone's pooled output, the same for an image whatever batch it is in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# TensorFlow turns oneDNN's fused convolutions on by itself on some processors only; everywhere it halves the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BATCH = 32
"""Images a call. Fixed, and short batches are filled up: kernels may sum in another order for another shape."""
ROUNDING = "float16"
"""The grid of features."""


class Features(NamedTuple):
    """What a backbone makes of n images, float32 on float16's grid: half to store, and no neighbour moves.

    `average` and `maximum` (n, d) are its last map, pooled. `stages` (n, s) is of earlier layers, which keep
    what tells two photos of like products apart: the average of the last map of each larger size, and what the last of
    these shows where, its averages in each place of a grid (`ml.backbones.GRIDS`).
    """

    average: np.ndarray
    maximum: np.ndarray
    stages: np.ndarray

    def take(self, rows: slice | np.ndarray | list[int]) -> Features:
        """Those of the images that an index, a slice or a mask chooses."""
        return Features(*(column[rows] for column in self))

    def beside(self, columns: Sequence[str]) -> np.ndarray:
        """Some of the arrays side by side, float32 (n, sum of their widths)."""
        return np.concatenate([getattr(self, name) for name in columns], axis=1)


class Extractor:
    """A built backbone: uint8 images in, features out. Make one a process and keep it."""

    def __init__(self, model, batch: int = BATCH) -> None:  # type: ignore[no-untyped-def]  # keras.Model
        self._model, self._batch = model, batch
        _, self.height, self.width, _ = model.input_shape
        self._call = compiled(model)

    def __call__(self, images: np.ndarray) -> Features:
        """Features of images.

        Args:
            images: uint8 (n, height, width, 3), n ≤ the batch size.

        Raises:
            ValueError: images of another shape or dtype.
        """
        expected = (self.height, self.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != expected or len(images) > self._batch:
            raise ValueError(
                f"expected up to {self._batch} uint8 images of {expected}, got {images.dtype} {images.shape}"
            )
        batch = np.zeros((self._batch, *expected), np.uint8)
        batch[: len(images)] = images
        outputs = (np.asarray(output, np.float32)[: len(images)] for output in self._call(batch))
        return Features(*(output.astype(ROUNDING).astype(np.float32) for output in outputs))


def compiled(model):  # type: ignore[no-untyped-def]  # keras.Model → a function of a batch of images
    """The model as one graph where the backend has graphs; eager calls cost a quarter of the speed."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    return lambda batch: [keras.ops.convert_to_numpy(output) for output in model(batch, training=False)]


def start(threads: int) -> None:
    """Let TensorFlow use so many CPU threads a call and no more GPU memory than it needs, in the whole process."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # TensorFlow has already started in this process; its threads stay as they are
            pass
