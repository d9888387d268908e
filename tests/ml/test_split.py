"""The sides of pictures: by number, for good."""

import numpy as np

from ml.split import FINAL, TEST, TRAIN, VALIDATION, choose, fold_of, sides_of


def test_a_picture_keeps_its_side_whatever_stands_beside_it():
    pictures = np.random.default_rng(0).integers(2**63, size=5000)
    sides = sides_of(pictures)
    assert np.array_equal(sides_of(pictures[::-1])[::-1], sides)
    assert [int(sides_of(pictures[at : at + 1])[0]) for at in range(50)] == sides[:50].tolist()


def test_the_last_two_digits_decide():
    places = [0, 9, 10, 19, 20, 27, 28, 99, 100, 119, 2**62 - 4]  # the last ends in 00
    wanted = [FINAL, FINAL, TEST, TEST, VALIDATION, VALIDATION, TRAIN, TRAIN, FINAL, TEST, FINAL]
    assert sides_of(np.array(places)).tolist() == wanted
    assert np.bincount(sides_of(np.arange(100))).tolist() == [72, 8, 10, 10]


def test_those_with_the_first_hashes_are_chosen_among_the_rows_given():
    hashes = np.array(["d", "a", "c", "b", "a"])
    assert choose(hashes, np.array([0, 2, 3, 4]), 2).tolist() == [3, 4]
    assert choose(hashes, np.array([1, 4]), 1).tolist() == [1]  # a tie: the smaller index
    assert choose(hashes, np.array([2, 0]), 9).tolist() == [0, 2]


def test_the_fold_of_a_photo_follows_from_the_hash_of_its_name():
    names = [f"ccp-000{number}.jpg" for number in range(1, 6)]
    assert [fold_of(name, 5) for name in names] == [3, 1, 1, 1, 2]  # by `sha256sum`, its first eight digits modulo 5
    assert {fold_of(f"ccp-{number:04}.jpg", 5) for number in range(100)} == set(range(5))
