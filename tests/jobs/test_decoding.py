"""The process that decodes photos gives what its caller would have decoded itself."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from jobs.serve.decoding import PHOTO, THUMBNAIL, Decoder, pixels
from ml.images import LONG_SIDE

LIMIT, SIZES, DETAIL = 10**7, {"backbone": (64, 48), "classifier": (40, 40)}, (80, 60)


@pytest.fixture(scope="module")
def decoder():
    decoding = Decoder(LIMIT, SIZES, DETAIL)
    yield decoding
    decoding.close()


def photo(ground, size):
    picture, out = Image.new("RGB", size, ground), io.BytesIO()
    ImageDraw.Draw(picture).ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill="navy")
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.mark.parametrize("size", [(60, 80), (1200, 900), (700, 1601)])
@pytest.mark.parametrize(("ground", "on_white"), [("white", True), ("peru", False)])
def test_a_photo_that_is_not_on_white_comes_whole_as_well(decoder, size, ground, on_white):
    data = photo(ground, size)
    found, here = decoder(data), pixels(data, LIMIT, SIZES, DETAIL)
    assert found.keys() == here.keys() == {*SIZES, THUMBNAIL, *([] if on_white else [PHOTO])}
    assert all(np.array_equal(found[name], here[name]) for name in found)
    if not on_white:
        assert max(found[PHOTO].shape) == min(LONG_SIDE, max(size))
        assert found[PHOTO].shape[0] / found[PHOTO].shape[1] == pytest.approx(size[1] / size[0], rel=0.01)
