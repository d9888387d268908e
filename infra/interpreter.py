"""Networks of TensorFlow Lite: arrays in, arrays out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class Network:
    """A network that takes one array, loaded and ready. Not for two threads at once."""

    def __init__(self, model: bytes) -> None:
        """Load a `.tflite` file's bytes, for as many threads as `OMP_NUM_THREADS` says, or all processors there are.

        TensorFlow has announced that its interpreter will go for the one of the package `ai-edge-litert`, which has the
        same three calls.
        """
        import tensorflow as tf

        with warnings.catch_warnings(), _hushed():
            warnings.simplefilter("ignore")  # that announcement
            self._interpreter = tf.lite.Interpreter(model_content=model, num_threads=_threads())
            self._interpreter.allocate_tensors()
        (given,) = self._interpreter.get_input_details()
        self._input, self.shape = given["index"], tuple(map(int, given["shape"]))
        self._outputs = {told["name"]: told["index"] for told in self._interpreter.get_output_details()}

    def __call__(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """The network's outputs by name.

        Args:
            values: float32, of the shape `shape`.
        """
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(values, np.float32))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}


def _threads() -> int:
    """Those that a Spark task gives its libraries, or all processors that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) else len(os.sched_getaffinity(0))


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep from the terminal what TensorFlow Lite says of itself: it writes to file 2, and has no switch in Python."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
