"""Photos of a garment put together of a drawn catalogue picture and drawn grounds."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.ground import pasting

NAVY = (20, 30, 90)


def catalogue_picture(side=120, hole=False):
    """A square as a catalogue's picture of 3:4 that was squashed."""
    drawn = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(drawn).rectangle((side // 4, side // 4, side * 3 // 4, side * 3 // 4), fill=NAVY)
    if hole:
        ImageDraw.Draw(drawn).rectangle((side * 2 // 5, side * 2 // 5, side // 2, side // 2), fill="white")
    out = io.BytesIO()
    drawn.save(out, "PNG")
    return out.getvalue()


def test_a_garment_is_cut_from_its_white_ground_in_its_own_proportions():
    garment = pasting.cut(catalogue_picture())
    assert garment.height / garment.width == pytest.approx(4 / 3, abs=0.05)
    assert np.asarray(garment.getchannel("A"))[5:-5, 5:-5].min() == 255
    assert pasting.is_cut(garment, 120 * 160)


def test_white_inside_a_garment_is_the_garments():
    garment = pasting.cut(catalogue_picture(hole=True))
    assert np.asarray(garment.getchannel("A"))[5:-5, 5:-5].min() == 255


def test_a_picture_without_white_ground_or_anything_on_it_gives_no_garment():
    for colour in ("navy", "white"):
        out = io.BytesIO()
        Image.new("RGB", (60, 60), colour).save(out, "PNG")
        assert not pasting.is_cut(pasting.cut(out.getvalue()), 60 * 80)


@pytest.mark.parametrize("seed", range(6))
def test_a_photos_mask_covers_the_garment_and_only_it(seed):
    random = np.random.default_rng(seed)
    ground = Image.new("RGB", pasting.photo_size(random), (230, 220, 120))
    photo, mask = pasting.paste(pasting.cut(catalogue_picture()), ground, 96, random)
    assert photo.shape == (96, 96, 3)
    assert mask.shape == (96, 96)
    yellowness = photo[..., 0].astype(float) - photo[..., 2]  # in any light
    assert yellowness[mask == 0].mean() > yellowness[mask == 255].mean() + 10
    assert 0.02 < (mask > 127).mean() < 0.95


def test_the_same_numbers_give_the_same_photo():
    def made():
        random = np.random.default_rng(7)
        size = pasting.photo_size(random)
        other = Image.open(io.BytesIO(catalogue_picture())).convert("RGB")
        grounds = [pasting.draw_ground(size, random), pasting.enlarge_part(other, size, random)]
        assert all(ground.size == size for ground in grounds)
        return [pasting.paste(pasting.cut(catalogue_picture()), ground, 64, random) for ground in grounds]

    for one, other in zip(made(), made(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_light_doubles_what_a_lens_sees():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    assert pasting.lit(grey, 0).getpixel((0, 0)) == (100, 100, 100)
    assert pasting.lit(grey, 1).getpixel((0, 0))[0] == pytest.approx(137, abs=1)  # by hand: 0.1274 · 2 encoded
    assert pasting.lit(grey, 9).getpixel((0, 0)) == (255, 255, 255)
