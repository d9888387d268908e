"""The filter cube on an accelerator: the same lists as `ml.cube`, with `keras.ops` (TensorFlow, JAX or PyTorch).

A block of scores is gathered for each cell and its ten best are taken: an accelerator does that at the speed of its
memory. Equal to the CPU's to the bit, ties included: products in fixed point are exact in full float32, so TF32 and
bfloat16 products must be off, as they are by default in TensorFlow's and JAX's GPU builds only if `exact_products` ran.
"""

from __future__ import annotations

import numpy as np

from ml.cells import Cells
from ml.cube_kernels import OWN, K

BLOCK = 512
"""Queries whose scores are on the device at once."""


def exact_products() -> None:
    """Make float32 products exact to 24 bits on this process's backend; call before the first one."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif keras.backend.backend() == "torch":
        import torch

        torch.set_float32_matmul_precision("highest")
    else:
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")


def lists(queries: np.ndarray, own: np.ndarray, embeddings: np.ndarray, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """The ten most similar members of every cell for every query, as `ml.cube.lists` gives them.

    Args:
        queries: float32 (q, d), embeddings in fixed point.
        own: int64 (q,), each query's own index, which is never in its lists; -1 for none.
        embeddings: float32 (n, d); they lie on the device whole.
        cells: the precomputed cells of the n products.

    Returns:
        int32 (q, c, 10) indices, -1 past the end of a shorter list, and their float32 (q, c, 10) scores, 0 there.
    """
    from keras import ops

    exact_products()
    best = np.full((len(queries), len(cells), K), -1, np.int32)
    best_scores = np.zeros(best.shape, np.float32)
    products = ops.transpose(ops.convert_to_tensor(embeddings))
    members = [cells.members(cell).astype(np.int32) for cell in range(len(cells))]
    for at in range(0, len(queries), BLOCK):
        block = slice(at, at + BLOCK)
        scores = ops.matmul(ops.convert_to_tensor(queries[block]), products)
        mine = ops.expand_dims(ops.convert_to_tensor(own[block].astype(np.int32)), 1)
        scores = ops.where(mine == ops.arange(len(embeddings), dtype="int32"), OWN, scores)
        for cell, inside in enumerate(members):
            chosen, chosen_scores = _top(ops.take(scores, ops.convert_to_tensor(inside), axis=1))
            _store(inside[chosen], chosen_scores, best[block, cell], best_scores[block, cell])
    return best, best_scores


def _top(scores) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    """Places and values of the `K` best of each row, in any order; of equal scores the first ones.

    Backends differ in which of equal values `top_k` takes, but not in the value of the last. So a second one, over
    distinct integers, takes what is above it and then what equals it, the first ones first.
    """
    from keras import ops

    size = int(scores.shape[1])
    k = min(K, size)
    last = ops.top_k(scores, k)[0][:, -1:]
    falling = ops.arange(size, 0, -1, dtype="int32")
    key = ops.where(scores > last, falling + size, ops.where(scores == last, falling, 0))
    places = ops.top_k(key, k)[1]
    values = ops.take_along_axis(scores, places, axis=1)
    return ops.convert_to_numpy(places), ops.convert_to_numpy(values)


def _store(indices: np.ndarray, scores: np.ndarray, best: np.ndarray, best_scores: np.ndarray) -> None:
    order = np.lexsort((indices, -scores), axis=1)
    indices, scores = np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)
    listed = scores > OWN
    best[:, : indices.shape[1]] = np.where(listed, indices, -1)
    best_scores[:, : indices.shape[1]] = np.where(listed, scores, 0)
