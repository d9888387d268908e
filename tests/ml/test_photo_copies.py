"""Copies of a photo: what is changed and what is kept."""

import numpy as np

from ml.images import decode
from ml.protocols import copies


def test_a_cropped_copy_lacks_four_percent_at_each_side_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (100, 50, 3), np.uint8)
    assert np.array_equal(decode(copies(image)["cropped"]), image[4:96, 2:48])


def test_a_recompressed_copy_is_a_smaller_jpeg_of_the_same_picture():
    rows, columns = np.mgrid[0:80, 0:60]
    image = np.stack([3 * rows, 4 * columns, rows + columns], axis=2).astype(np.uint8)
    data = copies(image)["recompressed"]
    assert data[:2] == b"\xff\xd8"
    assert len(data) < image.nbytes / 4
    assert np.abs(decode(data).astype(int) - image).mean() < 4
