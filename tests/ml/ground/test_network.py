"""The network that tells garments from their ground learns it from drawn photos."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from jobs.detectors import build_backbone
from ml.ground import network, pasting
from ml.ground.framing import SIDE


def photos(n, seed):
    """Checked shapes on drawn grounds, and how much of each cell of the mask is theirs."""
    random, made, masks = np.random.default_rng(seed), [], []
    for _ in range(n):
        photo, mask = pasting.draw_ground((SIDE, SIDE), random), Image.new("L", (SIDE, SIDE))
        x, y, width, height = random.integers(20, 60, 4)
        draw = (ImageDraw.Draw(photo), ImageDraw.Draw(mask))
        for at in range(0, 80, 8):
            band = (x, y + at * height // 60, x + 40 + width, y + (at + 8) * height // 60)
            draw[0].rectangle(band, fill=((200, 30, 40), (250, 240, 240))[at // 8 % 2])
            draw[1].rectangle(band, fill=255)
        made.append(np.asarray(photo))
        masks.append(np.asarray(mask).reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3)))
    return np.stack(made), np.stack(masks).astype(np.uint8)


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("efficientnet-lite0", SIDE, SIDE)


def test_what_was_learnt_from_some_photos_is_told_of_others(backbone, monkeypatch):
    monkeypatch.setattr(network, "BATCH", 8)
    monkeypatch.setattr(network, "MOMENTUM", 0.8)  # a few batches must do
    seen, masks = photos(40, seed=0)
    data = network.to_bytes(network.fit(network.see(network.look(backbone), seen), masks, epochs=8, seed=0))
    model = network.from_bytes(data, hashlib.sha256(data).hexdigest(), backbone)
    asked, wanted = photos(8, seed=1)
    found = np.asarray(model(asked, training=False))[..., 0] > 0
    shared, either = (found & (wanted > 127)).sum(), (found | (wanted > 127)).sum()
    assert shared / either > 0.6


def test_the_same_photos_teach_the_same(backbone):
    maps = network.see(network.look(backbone), photos(4, seed=2)[0])
    masks = photos(4, seed=2)[1]
    first, second = (network.to_bytes(network.fit(maps, masks, epochs=1, seed=5)) for _ in range(2))
    with np.load(io.BytesIO(first)) as a, np.load(io.BytesIO(second)) as b:
        assert all(np.array_equal(a[name], b[name]) for name in a.files)


def test_weights_that_were_changed_are_refused(backbone):
    with pytest.raises(ValueError, match="expected 00"):
        network.from_bytes(b"anything", "00", backbone)
