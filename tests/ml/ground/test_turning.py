"""The network that tells how far a garment is turned learns it from drawn ones."""

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ml.ground import network, turning


def crosses(n, seed):
    """What is seen of crosses with a longer foot, and how far each is turned."""
    drawn, random = Image.new("RGBA", (90, 120)), np.random.default_rng(seed)
    ImageDraw.Draw(drawn).rectangle((38, 0, 52, 119), fill="teal")
    ImageDraw.Draw(drawn).rectangle((0, 30, 89, 44), fill="teal")
    looks, degrees = zip(*(turning.turn(drawn, random) for _ in range(n)), strict=True)
    return np.stack(looks), np.array(degrees, np.float32)


def test_the_turns_learnt_from_some_garments_are_told_of_others(monkeypatch):
    monkeypatch.setattr(turning, "MOMENTUM", 0.8)  # a few batches must do
    data = network.to_bytes(turning.fit(*crosses(600, seed=0), epochs=8, seed=0))
    model = turning.from_bytes(data, hashlib.sha256(data).hexdigest())
    asked, degrees = crosses(50, seed=1)
    told = turning.TENS * np.asarray(model(asked, training=False))[:, 0]
    assert np.abs(told - degrees).mean() < 0.3 * np.abs(degrees).mean()


def test_weights_that_were_changed_are_refused():
    with pytest.raises(ValueError, match="expected 00"):
        turning.from_bytes(b"anything", "00")
