"""The sides of images: by hash, for good."""

import hashlib

import numpy as np

from ml.split import TEST, TRAIN, VALIDATION, choose, sides_of


def test_an_image_keeps_its_side_whatever_stands_beside_it():
    hashes = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(5000)]
    sides = sides_of(hashes)
    assert np.array_equal(sides_of(hashes[::-1])[::-1], sides)
    assert [int(sides_of([sha])[0]) for sha in hashes[:50]] == sides[:50].tolist()


def test_the_shares_are_72_8_and_20_percent():
    hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(20000)]
    shares = np.bincount(sides_of(hashes), minlength=3) / len(hashes)
    assert np.abs(shares - [0.72, 0.08, 0.20]).max() < 0.01


def test_the_first_32_bits_modulo_100_decide():
    assert sides_of([f"{number:08x}" + "0" * 56 for number in (19, 20, 27, 28, 119, 199)]).tolist() == [
        TEST,
        VALIDATION,
        VALIDATION,
        TRAIN,
        TEST,
        TRAIN,
    ]


def test_those_with_the_first_hashes_are_chosen_among_the_rows_given():
    hashes = np.array(["d", "a", "c", "b", "a"])
    assert choose(hashes, np.array([0, 2, 3, 4]), 2).tolist() == [3, 4]
    assert choose(hashes, np.array([1, 4]), 1).tolist() == [1]  # a tie: the smaller index
    assert choose(hashes, np.array([2, 0]), 9).tolist() == [0, 2]
