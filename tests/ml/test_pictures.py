"""Pictures are known again in another file: re-encoded, resized, stripped; other pictures are not taken for them."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.sample import sample
from ml.images import thumbnail
from ml.pictures import NEAR, WIDTH, find, identify, sort

NOTHING = np.empty((0, WIDTH), np.uint8), np.empty(0, np.int64)


def drawn(n, seed=7):
    return [Image.open(io.BytesIO(product.image)).convert("RGB") for product in sample(n, seed) if product.image]


def encoded(image, kind="JPEG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image.open(out).convert("RGB")


def thumbnails(images):
    return np.array([np.frombuffer(thumbnail(image), np.uint8) for image in images])


OTHERWISE = {
    "at quality 50": lambda image: encoded(image, quality=50),
    "as PNG": lambda image: encoded(image, "PNG"),
    "as WebP": lambda image: encoded(image, "WEBP", quality=60),
    "at three quarters of the size": lambda image: encoded(image.resize((image.width * 3 // 4, image.height * 3 // 4))),
    "twice as large": lambda image: encoded(image.resize((image.width * 2, image.height * 2)), quality=80),
    "as a square": lambda image: encoded(image.resize((224, 224))),
}


@pytest.mark.parametrize("how", OTHERWISE)
def test_a_picture_keeps_its_number_in_another_file(how):
    images = drawn(120)
    before = thumbnails(images)
    numbers = identify(before, *NOTHING)
    assert len(np.unique(numbers)) > 100
    assert (
        identify(thumbnails([OTHERWISE[how](image) for image in images]), before, numbers).tolist() == numbers.tolist()
    )


def test_another_colour_is_another_picture():
    image = np.full((40, 30, 3), 255, np.uint8)
    image[5:35, 5:25] = 200, 30, 40
    numbers = identify(thumbnails([Image.fromarray(image), Image.fromarray(image[..., ::-1])]), *NOTHING)
    assert numbers[0] != numbers[1]


def test_a_number_alone_follows_from_the_picture_alone():
    shown = thumbnails(drawn(30))
    numbers = identify(shown, *NOTHING)
    assert (numbers >= 0).all()
    assert identify(shown[::-1], *NOTHING)[::-1].tolist() == numbers.tolist()


def straightforward(thumbnails, seen, numbers):
    """The nearest earlier one, by comparing with all."""
    together, found = [*seen.astype(int)], numbers.tolist()
    for one in thumbnails.astype(int):
        distances = [int(((one - other) ** 2).sum()) for other in together]
        best = int(np.argmin(distances)) if distances else -1
        alone = int(identify(one[None].astype(np.uint8), *NOTHING)[0])
        found.append(found[best] if best >= 0 and distances[best] <= NEAR**2 * WIDTH else alone)
        together.append(one)
    return found[len(seen) :]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 25), st.sampled_from([1, 4, 5, 6, 40]))
def test_each_takes_the_number_of_the_nearest_before_it_if_that_is_near(seed, before, n, spread):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (3, WIDTH))
    made = centres[rng.integers(3, size=before + n)] + rng.integers(-spread, spread + 1, (before + n, WIDTH))
    made = made.clip(0, 255).astype(np.uint8)
    numbers = identify(made[:before], *NOTHING)
    wanted = straightforward(made[before:], made[:before], numbers)
    assert identify(made[before:], made[:before], numbers).tolist() == wanted


@pytest.mark.parametrize("far", [0, 2, 3, 4, 60])
def test_a_picture_is_found_among_many_where_one_is_near_and_else_not(far):
    rng = np.random.default_rng(far)
    thumbnails = rng.integers(0, 256, (400, WIDTH)).astype(np.uint8)
    thumbnails[200:] = np.clip(thumbnails[:200].astype(int) + rng.choice([-2, 2], (200, WIDTH)), 0, 255)
    order, sums = sort(thumbnails)
    for asked in range(0, 200, 20):
        shown = np.clip(thumbnails[asked].astype(int) + rng.choice([-far, far], WIDTH), 0, 255)
        distances = ((thumbnails.astype(int) - shown) ** 2).mean(axis=1)
        found = find(shown.astype(np.uint8), thumbnails[order], sums)
        assert (order[found] if found >= 0 else -1) == (distances.argmin() if distances.min() <= 9 else -1)


def test_nothing_is_found_where_there_is_nothing():
    order, sums = sort(np.empty((0, WIDTH), np.uint8))
    assert find(np.zeros(WIDTH, np.uint8), np.empty((0, WIDTH), np.uint8)[order], sums) == -1
