"""Copies of a photo that are still that photo: what a search has to recognise."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

QUALITY = 60
"""JPEG quality of the recompressed copy."""
CROPPED = 0.04
"""Share of the width and height that the cropped copy lacks at each side."""


def copies(image: np.ndarray) -> dict[str, bytes]:
    """A `recompressed` copy of an image, uint8 (h, w, 3), as JPEG and a `cropped` one, otherwise unchanged, as PNG."""
    height, width = image.shape[:2]
    y, x = round(CROPPED * height), round(CROPPED * width)
    recompressed, cropped = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(recompressed, "JPEG", quality=QUALITY)
    Image.fromarray(image[y : height - y, x : width - x]).save(cropped, "PNG")
    return {"recompressed": recompressed.getvalue(), "cropped": cropped.getvalue()}
