"""Twelve families of colours: which one the catalogue's name of a colour is of, and which one a colour in a photo.

A colour is of the family of the nearest name. What a name looks like is the median over 8 to 150 products of the
published catalogue of each one's median colour, without its white ground. By that rule half of the catalogue's own
pictures are of the family of their name (49 % with as many of each name): no photo can be expected to do better.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms

FAMILIES: dict[str, dict[str, tuple[int, int, int] | None]] = {
    "black": {"Black": (24, 0, 0)},
    "grey": {
        "Grey": (59, 0, 0),
        "Grey Melange": (67, 1, 2),
        "Charcoal": (35, 0, 0),
        "Silver": (69, 0, 1),
        "Steel": (49, 0, 0),
        "Metallic": (43, 0, 0),
    },
    "white": {"White": (81, 1, 1), "Off White": (81, 1, 7)},
    "beige": {
        "Beige": (70, 3, 12),
        "Cream": (80, 3, 9),
        "Khaki": (54, 3, 16),
        "Taupe": (56, 4, 10),
        "Tan": (50, 10, 19),
        "Skin": None,
        "Nude": None,
    },
    "brown": {
        "Brown": (37, 5, 6),
        "Coffee Brown": (28, 4, 3),
        "Mushroom Brown": (51, 3, 16),
        "Bronze": (47, 5, 11),
        "Copper": (51, 7, 10),
        "Rust": (47, 20, 20),
    },
    "red": {"Red": (50, 29, 17), "Maroon": (37, 16, 7), "Burgundy": (31, 14, 4)},
    "pink": {"Pink": (65, 24, 4), "Magenta": (45, 30, 1), "Peach": (72, 18, 15), "Rose": None},
    "orange": {"Orange": (64, 24, 29)},
    "yellow": {"Yellow": (81, 1, 32), "Mustard": (61, 10, 29), "Gold": (63, 4, 15)},
    "green": {
        "Green": (64, -8, 9),
        "Olive": (41, 0, 8),
        "Sea Green": (75, -11, 0),
        "Lime Green": None,
        "Fluorescent Green": None,
    },
    "blue": {"Blue": (55, 0, -8), "Navy Blue": (31, 1, -4), "Turquoise Blue": (66, -17, -6), "Teal": (41, -8, -4)},
    "purple": {"Purple": (45, 10, -4), "Lavender": (71, 9, -5), "Mauve": (54, 8, 4)},
}
"""Family → the baseColours of it and what each looks like, L*, a* and b*; None where few products have it."""
FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names}
LOOKS = [(family, lab) for family, names in FAMILIES.items() for lab in names.values() if lab]
TO_LAB = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")


def median_lab(pixels: np.ndarray) -> np.ndarray:
    """The median colour of pixels, uint8 (n, 3) sRGB: L*, a* and b*, float (3,)."""
    coded = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels[None]), TO_LAB))[0]
    light, shades = coded[:, :1] / 2.55, coded[:, 1:].astype(np.int8)  # Pillow has a* and b* as signed bytes
    return np.median(np.concatenate([light, shades], axis=1), axis=0)


def family_of(lab: np.ndarray) -> str:
    """The family of a colour, L*, a* and b*."""
    names, looks = zip(*LOOKS, strict=True)
    return names[int(((np.array(looks) - lab) ** 2).sum(axis=1).argmin())]
