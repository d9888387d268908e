"""Drawn persons: a mannequin that the networks take for one, and bodies of keypoints alone. No photograph."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ml.look.keypoints import NAMES, PLACE, Person

STANDING = {
    "nose": (0, -0.95, -0.5),
    "left eye, inner": (0.05, -1.03, -0.45),
    "left eye": (0.09, -1.03, -0.45),
    "left eye, outer": (0.13, -1.02, -0.45),
    "left ear": (0.2, -0.98, -0.2),
    "mouth, left": (0.07, -0.85, -0.42),
    "left shoulder": (0.45, -0.5, -0.1),
    "left elbow": (0.6, 0.05, -0.05),
    "left wrist": (0.62, 0.5, -0.15),
    "left pinky": (0.64, 0.65, -0.18),
    "left index": (0.62, 0.67, -0.2),
    "left thumb": (0.58, 0.6, -0.18),
    "left hip": (0.27, 0.5, 0),
    "left knee": (0.3, 1.35, 0),
    "left ankle": (0.3, 2.15, 0.15),
    "left heel": (0.29, 2.25, 0.18),
    "left toes": (0.36, 2.35, -0.1),
}
"""The left half of a body of size 1 that stands facing the camera: x, y and z from the middle of its torso."""
SKIN, HAIR, DARK = (224, 172, 138), (70, 44, 30), (40, 40, 48)


def body(
    turn: float = 0.0, frame: tuple[int, int] = (600, 400), at: tuple[float, float] = (200, 220), size: float = 120,
    jitter: float = 0.0, seed: int = 0,
) -> Person:  # fmt: skip
    """The keypoints of a person who stands turned by so many degrees, 90: towards the picture's left edge.

    Args:
        turn: about the vertical, 0: facing the camera.
        frame: height and width of the photo in pixels.
        at: middle of the torso in pixels, x and y.
        size: of the torso in pixels.
        jitter: of each point, in sizes of the torso.
        seed: of it.
    """
    places = np.zeros((len(NAMES), 3))
    for name, (x, y, z) in STANDING.items():
        places[PLACE[name]] = x, y, z
        places[PLACE[name.replace("left", "right")]] = -x, y, z
    places += np.random.default_rng(seed).normal(0, jitter, places.shape)
    angle = np.radians(turn)
    x, z = places[:, 0].copy(), places[:, 2].copy()
    places[:, 0], places[:, 2] = x * np.cos(angle) + z * np.sin(angle), z * np.cos(angle) - x * np.sin(angle)
    points = (places * size + [*at, 0]).astype(np.float32)
    height, width = frame
    inside = ((points[:, :2] >= 0) & (points[:, :2] < [width, height])).all(axis=1).astype(np.float32)
    mask = np.zeros(frame, np.uint8)
    left, top = np.clip(points[:, :2].min(axis=0), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(points[:, :2].max(axis=0), 1, [width, height]).astype(int)
    mask[top : bottom + 1, left : right + 1] = 255
    return Person(points, inside, inside, mask, 0.99)


def behind_a_wall(person: Person) -> Person:
    """The same person where one sees only what is above the knees: points are guessed below, but the outline ends."""
    mask = person.mask.copy()
    mask[int(person.points[PLACE["left knee"], 1]) - 5 :] = 0
    return replace(person, mask=mask)


def mannequin(top=(190, 40, 50), legs=(40, 60, 120), size=(480, 720), background=(205, 210, 214)) -> bytes:
    """A JPEG of a drawn person from head to foot, facing the camera, in a top and trousers of these colours."""
    width, height = 480, 720
    picture = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 620, width, height), fill=tuple(value - 25 for value in background))

    def limb(points, thick, colour) -> None:
        draw.line(points, colour, thick, joint="curve")
        for x, y in points:
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), colour)

    for side in (-1, 1):
        limb([(240 + side * 26, 370), (240 + side * 32, 500), (240 + side * 34, 625)], 46, legs)
        draw.ellipse((240 + side * 42 - 24, 628, 240 + side * 42 + 24, 662), DARK)
        sleeve = tuple(int(value * 0.9) for value in top)
        limb([(240 + side * 70, 198), (240 + side * 92, 300), (240 + side * 96, 372)], 30, sleeve)
        draw.ellipse((240 + side * 97 - 14, 376, 240 + side * 97 + 14, 414), SKIN)
    draw.rounded_rectangle((222, 130, 258, 190), 14, tuple(int(value * 0.9) for value in SKIN))
    draw.polygon([(165, 190), (215, 172), (265, 172), (315, 190), (300, 390), (180, 390)], top)
    limb([(176, 198), (304, 198)], 34, top)
    draw.ellipse((198, 52, 282, 130), HAIR)
    draw.ellipse((204, 62, 276, 156), SKIN)
    draw.pieslice((202, 50, 278, 120), 180, 360, HAIR)
    for side in (-1, 1):
        x = 240 + side * 16
        draw.ellipse((x - 7, 101, x + 7, 110), "white")
        draw.ellipse((x - 3, 101, x + 4, 110), DARK)
        draw.line((x - 9, 94, x + 9, 94), HAIR, 3)
        draw.ellipse((240 + side * 37 - 6, 100, 240 + side * 37 + 6, 122), SKIN)
    draw.polygon([(240, 106), (234, 126), (246, 126)], tuple(int(value * 0.88) for value in SKIN))
    draw.chord((226, 128, 254, 144), 0, 180, (170, 70, 70))
    shade = Image.linear_gradient("L").rotate(90).resize((width, height))
    picture = Image.composite(
        picture, picture.point(lambda value: int(value * 0.8)), shade.point(lambda v: 120 + v // 2)
    )
    out = io.BytesIO()
    picture.filter(ImageFilter.GaussianBlur(1)).resize(size).save(out, "JPEG", quality=92)
    return out.getvalue()
