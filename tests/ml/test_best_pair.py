"""Shortlists by the best pair of images, against every pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import best_pair, cube
from ml.cells import find_cells
from ml.similarity import to_embedding

POOL = to_embedding(np.random.default_rng(3).normal(size=(7, 8)))
"""Few distinct embeddings, so that there are ties."""


def expected(embeddings, cells):
    """The shortlist of each product by its definition; `embeddings` has an array of images for each."""
    n, shortlists = len(embeddings), []
    for query in range(n):
        scores = [float((embeddings[query] @ embeddings[item].T).max()) for item in range(n)]
        ranked = sorted((item for item in range(n) if item != query), key=lambda item: (-scores[item], item))
        taken = set()
        for cell in range(len(cells)):
            members = set(cells.members(cell).tolist())
            taken.update([item for item in ranked if item in members][: cells.depths[cell]])
        shortlists.append([(item, scores[item]) for item in ranked if item in taken])
    return shortlists


def layers(embeddings, layer):
    return np.array([of_product[layer] for of_product in embeddings if len(of_product) > layer])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 45), st.integers(1, 4), st.sampled_from([5, 1000]))
def test_shortlists_are_those_of_the_best_pair_of_images(seed, n, most, panel):
    rng = np.random.default_rng(seed)
    images = rng.integers(1, most + 1, n)
    embeddings = [POOL[rng.integers(0, len(POOL), count)] for count in images]
    values = {"x": rng.choice(["a", "b", "c"], n).tolist(), "y": rng.choice(["d", None], n).tolist()}
    cells, own, found = find_cells(values, n, 2, depth=3), np.arange(n), []
    for asked in range(images.max()):
        queries = best_pair.layer_members(images, asked)
        for layer in range(images.max()):
            members = best_pair.layer_members(images, layer)
            of_layer, matrix = best_pair.layer_cells(cells, members), layers(embeddings, layer)
            panels = [cube.make_panel(matrix[at : at + panel], at, of_layer) for at in range(0, len(members), panel)]
            place = np.full(n, -1)
            place[members] = np.arange(len(members))
            starts, items, scores = cube.shortlists(layers(embeddings, asked), place[queries], panels, of_layer)
            found.append((queries, (starts, members[items], scores)))
    starts, items, scores = best_pair.merge(found, own, cells)
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)
    given_for = [
        list(zip(items[start:end].tolist(), scores[start:end].tolist(), strict=True))
        for start, end in zip(starts[:-1], starts[1:], strict=True)
    ]
    assert given_for == expected(embeddings, cells)


def test_with_one_image_each_they_are_the_cubes_own():
    embeddings = to_embedding(np.random.default_rng(5).normal(size=(60, 8)))
    cells, own = find_cells({"x": ["a", "b"] * 30}, 60, 5), np.arange(60)
    plain = cube.shortlists(embeddings, own, [cube.make_panel(embeddings, 0, cells)], cells)
    merged = best_pair.merge([(own, plain)], own, cells)
    for one, other in zip(plain, merged, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_has_the_products_with_so_many_images(layer):
    assert best_pair.layer_members(np.array([1, 3, 2]), layer).tolist() == [[0, 1, 2], [1, 2], [1]][layer]
