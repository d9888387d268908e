"""The filter cube on an accelerator: the same shortlists as `ml.cube`, with `keras.ops` (TensorFlow, JAX or PyTorch).

A block of scores is gathered for each cell and its best are marked: an accelerator does that at the speed of its
memory. Equal to the CPU's to the bit, ties included: products in fixed point are exact in full float32, so TF32 and
bfloat16 products must be off, as they are by default in TensorFlow's and JAX's GPU builds only if `exact_products` ran.
"""

from __future__ import annotations

import numpy as np

from ml.cells import Cells
from ml.cube_kernels import OWN

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


def shortlists(
    queries: np.ndarray, own: np.ndarray, embeddings: np.ndarray, cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shortlist of every query, as `ml.cube.shortlists` gives it.

    Args:
        queries: float32 (q, d), embeddings in fixed point.
        own: int64 (q,), each query's own index, which is never in its shortlist; -1 for none.
        embeddings: float32 (n, d); they lie on the device whole.
        cells: the precomputed cells of the n products.

    Returns:
        int64 (q + 1,), where each shortlist begins and the last ends, int32 (m,) indices, their float32 (m,) scores.
    """
    from keras import ops

    exact_products()
    products = ops.transpose(ops.convert_to_tensor(embeddings))
    members = [cells.members(cell).astype(np.int32) for cell in range(len(cells))]
    lengths, items, of_items = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for at in range(0, len(queries), BLOCK):
        block = slice(at, at + BLOCK)
        scores = ops.matmul(ops.convert_to_tensor(queries[block]), products)
        mine = ops.expand_dims(ops.convert_to_tensor(own[block].astype(np.int32)), 1)
        scores = ops.where(mine == ops.arange(len(embeddings), dtype="int32"), OWN, scores)
        taken = np.zeros((len(queries[block]), len(embeddings)), bool)
        for inside, depth in zip(members, cells.depths.tolist(), strict=True):
            chosen = _top(ops.take(scores, ops.convert_to_tensor(inside), axis=1), depth)
            np.put_along_axis(taken, inside[chosen], True, axis=1)
        scores = ops.convert_to_numpy(scores)
        query, item = np.nonzero(taken & (scores > OWN))
        order = np.lexsort((item, -scores[query, item], query))
        lengths.append(np.bincount(query, minlength=len(taken)))
        items.append(item[order].astype(np.int32))
        of_items.append(scores[query, item][order])
    return np.cumsum(np.concatenate(lengths)), np.concatenate(items), np.concatenate(of_items)


def _top(scores, depth: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Places of the `depth` best of each row, in any order; of equal scores the first ones.

    Backends differ in which of equal values `top_k` takes, but not in the value of the last. So a second one, over
    distinct integers, takes what is above it and then what equals it, the first ones first.
    """
    from keras import ops

    size = int(scores.shape[1])
    k = min(depth, size)
    last = ops.top_k(scores, k)[0][:, -1:]
    falling = ops.arange(size, 0, -1, dtype="int32")
    key = ops.where(scores > last, falling + size, ops.where(scores == last, falling, 0))
    return ops.convert_to_numpy(ops.top_k(key, k)[1])
