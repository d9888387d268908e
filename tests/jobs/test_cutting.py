"""Drawn garments on drawn grounds, cut out by the weights that ship."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from infra.errors import UserError
from jobs import cutting
from jobs.cutting import Cutter
from ml.ground import framing, pasting


@pytest.fixture(scope="module")
def cutter():
    return Cutter()


def shirt(colour=(170, 40, 60)):
    """A shirt, RGBA, 160 × 200 pixels, with folds and a print."""
    drawn = Image.new("RGBA", (160, 200))
    draw = ImageDraw.Draw(drawn)
    outline = [(50, 8), (68, 20), (92, 20), (110, 8), (158, 40), (140, 82), (120, 72), (122, 196), (38, 196), (40, 72)]
    draw.polygon([*outline, (20, 82), (2, 40)], fill=(*colour, 255))
    for x in (60, 84, 104):
        draw.line((x, 60, x - 8, 190), fill=tuple(value * 3 // 4 for value in colour) + (255,), width=4)
    draw.ellipse((64, 60, 98, 94), fill=(240, 220, 120, 255))
    return drawn.filter(ImageFilter.SMOOTH)


def photo(ground, at=(90, 120), scale=1.0, garment=None):
    """A shirt on a ground; and which pixels are its."""
    garment = garment or shirt()
    garment = garment.resize((round(scale * garment.width), round(scale * garment.height)))
    drawn, mask = ground.copy(), Image.new("L", ground.size)
    drawn.paste(garment, at, garment)
    mask.paste(garment.getchannel("A"), at)
    return np.asarray(drawn), np.asarray(mask) > 127


@pytest.mark.parametrize("seed", range(4))
def test_a_garment_is_cut_out_of_its_ground_at_the_photos_own_pixels(cutter, seed):
    random = np.random.default_rng(seed)
    ground = pasting.draw_ground((384, 512), random)
    taken, mask = photo(ground, at=(60 + 20 * seed, 50 + 30 * seed), scale=1 + 0.2 * seed)
    cut = np.asarray(cutter(taken))[..., 3] >= 128
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert abs(cut.shape[0] - (rows[-1] + 1 - rows[0])) < 0.15 * cut.shape[0]
    assert abs(cut.shape[1] - (columns[-1] + 1 - columns[0])) < 0.15 * cut.shape[1]
    assert 0.8 < cut.sum() / mask.sum() < 1.25


def test_garments_that_lie_askew_are_put_upright(cutter):
    ground, wanted = pasting.draw_ground((384, 512), np.random.default_rng(5)), small(shirt())
    upright, askew = [], []
    for degrees in (-14, -9, 9, 14):
        garment = framing.turned(shirt(), degrees)
        upright.append(overlap(small(cutter(photo(ground, garment=garment)[0])), wanted))
        askew.append(overlap(small(garment), wanted))
    assert np.mean(upright) > np.mean(askew) + 0.05


def small(garment):
    return np.asarray(garment.resize((40, 50)))[..., 3] >= 128


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_of_a_photo_that_shows_nothing_in_particular_nothing_is_cut_out(cutter):
    assert cutter(np.full((300, 400, 3), 128, np.uint8)) is None


def test_a_photo_of_a_few_pixels_is_no_mistake(cutter):
    for size in ((1, 1), (2, 300), (300, 2)):
        cutter(np.zeros((*size, 3), np.uint8))


@pytest.mark.parametrize("file", ["WEIGHTS", "TURNS"])
def test_weights_that_were_changed_are_refused(tmp_path, monkeypatch, file):
    weights, released = tmp_path / "ground.npz", getattr(cutting, file)
    weights.write_bytes(released.read_bytes() + b"!")
    weights.with_suffix(".sha256").write_bytes(released.with_suffix(".sha256").read_bytes())
    monkeypatch.setattr(cutting, file, weights)
    with pytest.raises(UserError, match="install the release again"):
        Cutter()
