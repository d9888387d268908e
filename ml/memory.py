"""What the look-alikes of an image are: a memory of training images and their labels, beside a network's opinion.

A network learns what many images have in common; that two photos show nearly the same product, which has been labelled
before, it forgets. So images are remembered by how they look: the leading principal components of what earlier layers
see, whitened, as unit vectors, because look-alikes differ by little. The opinion of the memory is the Nadaraya–Watson
estimate (Nadaraya 1964; as a classifier: Vinyals et al. 2016, arXiv:1606.04080): the labels of all that it remembers,
each weighted by exp(similarity / `TEMPERATURE`), in effect those of a handful. Half of it and half of the network's are
right more often than either (a cache beside a classifier: Zhang et al. 2022, arXiv:2207.09519). Figures:
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import numpy as np

COMPONENTS = 512
"""Principal components, each scaled to the same variance: a photo is told by small differences."""
TEMPERATURE = 0.03
"""How far in similarity a remembered image must lie behind another to count 1/e of it."""
SHARE = 0.5
"""Of the memory in a probability; the network has the rest. Both were chosen on the validation side."""
SIZE = 1 << 15
"""Images that are remembered at most: 64 MiB, and on two cores 0.65 ms for each of many looked up, 6 for one alone."""
_ROWS = 256


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; one of zeros stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0).astype(rows.dtype)


def components(stages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, (s,), and leading components, (s, c), scaled to unit variance, of `stages`, (n, s); all float32.

    c is at most `COMPONENTS`, s and n.
    """
    stages = unit(stages)
    mean = stages.mean(axis=0, dtype=np.float64)
    centred = (stages - mean).astype(np.float32)
    rows = np.float32(len(centred))
    # Where images are fewer than what they are described by, the smaller matrix has the same: seconds less.
    few = len(centred) < centred.shape[1]
    variances, axes = np.linalg.eigh((centred @ centred.T if few else centred.T @ centred) / rows)
    variances, axes = variances[::-1][:COMPONENTS], axes[:, ::-1][:, :COMPONENTS]
    # A component without variance is noise of the computation, which must not be blown up.
    scales = np.where(variances > 1e-6 * variances[0], 1 / np.sqrt(np.maximum(variances, 1e-30)), 0)
    if few:
        axes, scales = centred.T @ axes, scales**2 / np.sqrt(rows)
    return mean.astype(np.float32), (axes * scales).astype(np.float32)


def looks(stages: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """How images look, unit rows (n, c) of the dtype of `stages` (n, s); `mean` and `axes` by `components`."""
    return unit((unit(stages) - mean) @ axes)


def choose(n: int, seed: int) -> np.ndarray:
    """Which of n images are remembered: all, or `SIZE` by chance; int (m,), ascending."""
    if n <= SIZE:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, SIZE, replace=False))


def recall(seen: np.ndarray, remembered: np.ndarray, labels: list[np.ndarray], temperature: float) -> list[np.ndarray]:
    """What the memory takes images for: for each of `labels` the shares of its classes, float64 (n, classes).

    Args:
        seen: how the images look, float64 (n, c), as `looks` has it.
        remembered: the same of the m images of the memory.
        labels: what those are, (m, classes) each: rows that are one-hot, or zeros where it is not known. The share of
            images without a label is missing from a row.
        temperature: that which the memory was made with.
    """
    recalled = [np.empty((len(seen), classes.shape[1])) for classes in labels]
    for at in range(0, len(seen), _ROWS):
        part = slice(at, at + _ROWS)
        similarities = seen[part] @ remembered.T
        weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)) / temperature)
        weights /= weights.sum(axis=1, keepdims=True)
        for classes, out in zip(labels, recalled, strict=True):
            out[part] = weights @ classes
    return recalled
