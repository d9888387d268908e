"""Draws the products of the sample catalogue: shapes, fabrics and trims, as small studio shots on white.

Shapes live in a space of 120 × 160 units (one unit is one pixel of the finished picture) and are painted three
times as large, then averaged down, which smooths their edges. A garment is given by its right half and mirrored.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

WIDTH, HEIGHT, SCALE = 120, 160, 3
QUALITY = 90
WHITE: Colour = (255, 255, 255)
STEEL: Colour = (198, 202, 208)
BRASS: Colour = (206, 168, 92)
LEATHER: Colour = (122, 78, 48)
INK: Colour = (34, 34, 38)


@dataclass(frozen=True)
class Look:
    """What decides a product's picture; `rng` gives the small variations and is used up by drawing."""

    gender: str
    usage: str
    season: str
    colour: Colour
    accent: Colour
    pattern: str
    rng: np.random.Generator

    @property
    def feminine(self) -> bool:
        """Whether the women's or girls' cut is drawn."""
        return self.gender in ("Women", "Girls")

    def chance(self, probability: float) -> bool:
        """True with `probability`."""
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        """A uniform number in [low, high)."""
        return low + (high - low) * float(self.rng.random())


def draw(shape: Callable[[Canvas, Look], None], look: Look) -> bytes:
    """JPEG bytes of a 120 × 160 picture of `look` in `shape`."""
    canvas = Canvas(look)
    shape(canvas, look)
    picture = io.BytesIO()
    canvas.image.reduce(SCALE).save(picture, "JPEG", quality=QUALITY)
    return picture.getvalue()


def tint(colour: Colour, factor: float) -> Colour:
    """`colour` darkened (factor < 1) or mixed with white (factor > 1)."""
    if factor <= 1:
        return tuple(int(channel * factor) for channel in colour)  # type: ignore[return-value]
    return mix(colour, WHITE, factor - 1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` of `other` in it."""
    return tuple(int(a + (b - a) * share) for a, b in zip(one, other, strict=True))  # type: ignore[return-value]


def path(start: Point, *steps: tuple[float, ...]) -> list[Point]:
    """Points from `start` along `steps`: (x, y) is a straight line, (cx, cy, x, y) a quadratic Bézier curve."""
    points = [start]
    for step in steps:
        if len(step) == 2:
            points.append((step[0], step[1]))
            continue
        (x0, y0), (cx, cy, x, y) = points[-1], step
        for t in np.linspace(0, 1, 9)[1:].tolist():
            a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
            points.append((a * x0 + b * cx + c * x, a * y0 + b * cy + c * y))
    return points


def mirrored(half: Sequence[Point]) -> list[Point]:
    """The closed outline whose right half, from top centre to bottom centre, is `half`."""
    return [*half, *flipped(half)[::-1]]


def flipped(points: Sequence[Point]) -> list[Point]:
    """`points` mirrored at the vertical axis of the picture."""
    return [(WIDTH - x, y) for x, y in points]


def moved(points: Sequence[Point], dx: float, dy: float = 0) -> list[Point]:
    """`points` shifted."""
    return [(x + dx, y + dy) for x, y in points]


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 2 * pi) -> list[Point]:
    """Points on an ellipse around (x, y), from angle `start` to `end` in radians, clockwise from the right."""
    return [(x + rx * cos(a), y + ry * sin(a)) for a in np.linspace(start, end, 33).tolist()]


def box(x0: float, y0: float, x1: float, y1: float, round_: float = 0) -> list[Point]:
    """A rectangle with corners rounded by `round_`."""
    r = round_
    return path(
        (x0 + r, y0), (x1 - r, y0), (x1, y0, x1, y0 + r), (x1, y1 - r), (x1, y1, x1 - r, y1),
        (x0 + r, y1), (x0, y1, x0, y1 - r), (x0, y0 + r), (x0, y0, x0 + r, y0),
    )  # fmt: skip


class Canvas:
    """A white picture that shapes are painted on, after the product's own small shift, turn and scale."""

    def __init__(self, look: Look) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), WHITE)
        self._draw = ImageDraw.Draw(self.image)
        size = (0.84 if look.gender in ("Boys", "Girls") else 1.0) * look.between(0.95, 1.03)
        turn, self._dx, self._dy = look.between(-0.025, 0.025), look.between(-2, 2), look.between(-2, 2)
        self._cos, self._sin = size * cos(turn), size * sin(turn)

    def _place(self, points: Sequence[Point]) -> list[Point]:
        return [
            (
                SCALE * (60 + self._dx + (x - 60) * self._cos - (y - 80) * self._sin),
                SCALE * (80 + self._dy + (x - 60) * self._sin + (y - 80) * self._cos),
            )
            for x, y in points
        ]

    def lower(self, dy: float) -> None:
        """Shift down by `dy` units what is painted from now on."""
        self._dy += dy

    def fill(self, outline: Sequence[Point], paint: Colour | Image.Image, edge: Colour | None = None) -> None:
        """Fill a closed outline with a colour or a fabric, and draw its edge."""
        points = self._place(outline)
        if isinstance(paint, Image.Image):
            mask = Image.new("L", self.image.size)
            ImageDraw.Draw(mask).polygon(points, fill=255)
            self.image.paste(paint, mask=mask)
        else:
            self._draw.polygon(points, fill=paint)
        if edge:
            self._draw.line([*points, points[0]], fill=edge, width=SCALE, joint="curve")

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1) -> None:
        """Draw an open line; `width` in units."""
        self._draw.line(self._place(points), fill=colour, width=max(1, round(width * SCALE)), joint="curve")

    def stitches(self, points: Sequence[Point], colour: Colour) -> None:
        """Draw a dashed seam."""
        placed = self._place(points)
        for (x0, y0), (x1, y1) in zip(placed, placed[1:], strict=False):
            steps = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / (3 * SCALE)))
            for k in range(steps):
                a, b = k / steps, (k + 0.6) / steps
                self._draw.line(
                    (x0 + (x1 - x0) * a, y0 + (y1 - y0) * a, x0 + (x1 - x0) * b, y0 + (y1 - y0) * b),
                    fill=colour,
                    width=2,
                )

    def shadow(self, x: float, y: float, rx: float) -> None:
        """A soft shadow on the studio floor."""
        for k in range(8):
            grey = 252 - 5 * k
            self.fill(oval(x, y, rx * (1 - k / 14), 4.2 * (1 - k / 9)), (grey, grey, grey))


# Fabrics


@lru_cache(maxsize=2)
def _light(kind: str) -> Image.Image:
    """How light falls: `cloth` darkens towards the sides, with soft folds; `leather` from the top down."""
    y, x = np.mgrid[0 : HEIGHT * SCALE, 0 : WIDTH * SCALE] / SCALE
    if kind == "cloth":
        light = 1.0 - 0.16 * ((x - 56) / 50) ** 2 - 0.025 * (1 + np.sin(x / 5.5 + y / 17) * np.sin(y / 23 - x / 31))
    else:
        light = 1.0 - 0.20 * np.clip((y - 60) / 70, -0.4, 1) ** 2 - 0.05 * (1 + np.sin((x + y) / 22))
    grey = np.clip(light * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))


def cloth(look: Look, colour: Colour | None = None) -> Image.Image:
    """Fabric of the look's colour and pattern under studio light."""
    fabric = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), colour or look.colour)
    if colour is None and look.pattern in PATTERNS:
        PATTERNS[look.pattern](ImageDraw.Draw(fabric), look)
    return ImageChops.multiply(fabric, _light("cloth"))


def leather(colour: Colour) -> Image.Image:
    """Leather, rubber or metal of one colour under studio light."""
    return ImageChops.multiply(Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), colour), _light("leather"))


def denim(look: Look) -> Image.Image:
    """Denim: the colour with a grain and lighter thighs."""
    y, x = np.mgrid[0 : HEIGHT * SCALE, 0 : WIDTH * SCALE] / SCALE
    faded = 0.22 * np.exp(-(((np.abs(x - 60) - 15) / 7) ** 2) - ((y - 68) / 30) ** 2) * look.between(0.2, 1.6)
    grain = 0.10 * (look.rng.random(x.shape) - 0.5)
    share = np.clip(faded + grain, -0.2, 0.9)[:, :, None]
    pixels = np.asarray(mix(look.colour, (62, 74, 104), 0.42)) * (1 - share) + 225 * share
    return ImageChops.multiply(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), _light("cloth"))


def _stripes(pen: ImageDraw.ImageDraw, look: Look) -> None:
    pitch, thick = look.between(7, 13), look.between(0.3, 0.5)
    for k in range(int(HEIGHT / pitch) + 1):
        pen.rectangle((0, k * pitch * SCALE, WIDTH * SCALE, (k + thick) * pitch * SCALE), fill=look.accent)


def _pinstripes(pen: ImageDraw.ImageDraw, look: Look) -> None:
    pitch, colour = look.between(4, 7), mix(look.colour, look.accent, 0.65)
    for k in range(int(WIDTH / pitch) + 1):
        pen.rectangle((k * pitch * SCALE, 0, (k * pitch + 0.9) * SCALE, HEIGHT * SCALE), fill=colour)


def _checks(pen: ImageDraw.ImageDraw, look: Look) -> None:
    pitch = look.between(9, 15) * SCALE
    band, half = pitch * 0.42, mix(look.colour, look.accent, 0.5)
    columns, rows = range(int(WIDTH * SCALE / pitch) + 1), range(int(HEIGHT * SCALE / pitch) + 1)
    for k in columns:
        pen.rectangle((k * pitch, 0, k * pitch + band, HEIGHT * SCALE), fill=half)
    for k in rows:
        pen.rectangle((0, k * pitch, WIDTH * SCALE, k * pitch + band), fill=half)
    for row in rows:
        for k in columns:
            pen.rectangle((k * pitch, row * pitch, k * pitch + band, row * pitch + band), fill=look.accent)
    for k in rows:
        pen.line((0, k * pitch + 0.71 * pitch, WIDTH * SCALE, k * pitch + 0.71 * pitch), fill=look.accent, width=2)
    for k in columns:
        pen.line((k * pitch + 0.71 * pitch, 0, k * pitch + 0.71 * pitch, HEIGHT * SCALE), fill=look.accent, width=2)


def _dots(pen: ImageDraw.ImageDraw, look: Look) -> None:
    pitch = look.between(8, 12) * SCALE
    radius = pitch * look.between(0.17, 0.25)
    for row in range(int(HEIGHT * SCALE / pitch * 2) + 1):
        for k in range(int(WIDTH * SCALE / pitch) + 1):
            x, y = (k + row % 2 / 2) * pitch, row * pitch / 2
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=look.accent)


def _floral(pen: ImageDraw.ImageDraw, look: Look) -> None:
    pitch, leaf = look.between(15, 19) * SCALE, mix((70, 130, 80), look.colour, 0.25)
    for row in range(int(HEIGHT * SCALE / pitch) + 2):
        for k in range(int(WIDTH * SCALE / pitch) + 2):
            x = (k + row % 2 / 2 + look.between(-0.12, 0.12)) * pitch
            y = (row + look.between(-0.12, 0.12)) * pitch
            turn, r = look.between(0, pi), pitch * 0.15
            pen.ellipse((x + r, y + 1.2 * r, x + 3 * r, y + 2.2 * r), fill=leaf)
            for petal in range(5):
                px, py = x + 1.15 * r * cos(turn + petal * 0.4 * pi), y + 1.15 * r * sin(turn + petal * 0.4 * pi)
                pen.ellipse((px - r, py - r, px + r, py + r), fill=look.accent)
            pen.ellipse((x - 0.7 * r, y - 0.7 * r, x + 0.7 * r, y + 0.7 * r), fill=(250, 214, 110))


def _block(pen: ImageDraw.ImageDraw, look: Look) -> None:
    height = look.between(62, 84) * SCALE
    pen.rectangle((0, 0, WIDTH * SCALE, height), fill=look.accent)
    pen.rectangle((0, height, WIDTH * SCALE, height + 2 * SCALE), fill=tint(look.accent, 1.6))


PATTERNS: dict[str, Callable[[ImageDraw.ImageDraw, Look], None]] = {
    "Striped": _stripes,
    "Pinstriped": _pinstripes,
    "Checked": _checks,
    "Polka Dot": _dots,
    "Floral": _floral,
    "Colourblock": _block,
}
"""Patterns of the whole fabric; `Solid` has none, `Printed` puts a motif on the chest."""


def _motif(canvas: Canvas, look: Look, x: float, y: float) -> None:
    """A print on the chest, around (x, y)."""
    kind, accent, size = int(look.rng.random() * 5), look.accent, look.between(10, 15)
    if kind == 0:  # star
        arms = [size * (1 if k % 2 else 0.42) for k in range(10)]
        canvas.fill([(x + r * sin(k * pi / 5), y + r * cos(k * pi / 5)) for k, r in enumerate(arms)], accent)
    elif kind == 1:  # sun over hills
        canvas.fill(oval(x, y, size, size), accent)
        canvas.fill(oval(x, y, size, size, 0.1 * pi, 0.9 * pi), mix(accent, look.colour, 0.45))
        hills = [(-size, size * 0.3), (-3, -3), (3, 4), (7, 0), (size, size * 0.3)]
        canvas.fill([(x + dx, y + dy) for dx, dy in hills], tint(accent, 0.6))
    elif kind == 2:  # lettering
        for row, width in enumerate((size, size * 0.7, size * 0.9)):
            canvas.line([(x - width, y - 7 + 7 * row), (x + width, y - 7 + 7 * row)], accent, 3.6)
    elif kind == 3:  # heart
        lobe = path((0, -0.4), (0.7, -1.4, 1, -0.2), (0.7, 0.4, 0, 1))
        heart = [*lobe, *[(-dx, dy) for dx, dy in lobe[::-1]]]
        canvas.fill([(x + size * dx, y + size * dy) for dx, dy in heart], accent)
    else:  # rings
        for k, ring in enumerate((accent, look.colour, accent, look.colour)):
            canvas.fill(oval(x, y, size * (1 - 0.24 * k), size * (1 - 0.24 * k)), ring)


# Apparel


def _top(canvas: Canvas, look: Look, *, sleeve: float, hem: float, neck: float, flare: float = 0) -> None:
    """Body and sleeves of a garment for the upper body.

    `sleeve` from 0 (none) to 1 (wrist), `hem` its height, `neck` the depth of the neckline, `flare` the hem's width.
    """
    fabric, edge = cloth(look), tint(look.colour, 0.72)
    shoulder, waist = (87, 83 + flare / 3) if look.feminine else (91, 89)
    if sleeve:
        reach, drop = 10 + 9 * sleeve, 34 + 76 * (sleeve - 0.2)
        trim = look.accent if look.usage == "Sports" and look.pattern == "Solid" else None
        arm = path((shoulder - 3, 31), (shoulder + 8, 36, shoulder + reach, 31 + drop),
                   (shoulder + reach - 13 + 3 * sleeve, 36 + drop), (shoulder - 1, 62))  # fmt: skip
        for side in (arm, flipped(arm)):
            canvas.fill(side, cloth(look, trim) if trim else fabric, edge)
        cuff = [(shoulder + reach - 0.6, 28.5 + drop), (shoulder + reach - 13 + 3 * sleeve, 33 + drop)]
        for side in (cuff, flipped(cuff)):
            canvas.line(side, tint(look.colour, 0.8), 1)
    half = path((60, 28 + neck), (68, 28 + neck, 73, 26), (shoulder, 32), (shoulder - 4, 47, shoulder - 1, 60),
                (waist - 2, 90, waist + 2 + flare, hem), (75, hem + 3, 60, hem + 3))  # fmt: skip
    canvas.fill(oval(60, 27, 13, 4.5), tint(look.colour, 0.55))
    canvas.fill(mirrored(half), fabric, edge)
    hem_line = path((62 - waist + 58 - flare, hem - 4), (60, hem - 0.5, waist + flare, hem - 4))
    canvas.line(hem_line, tint(look.colour, 0.86), 0.7)


def _neckline(canvas: Canvas, depth: float, colour: Colour, width: float = 2.2) -> None:
    curve = path((60, 28 + depth), (68, 28 + depth, 73, 26))
    canvas.line([*flipped(curve)[::-1], *curve], colour, width)


def _collar(canvas: Canvas, colour: Colour, depth: float) -> None:
    """Two collar leaves that meet at the top of the placket."""
    leaf = path((60, 28 + depth), (73, 23), (77, 29), (70, 41), (60, 28 + depth))
    for side in (leaf, flipped(leaf)):
        canvas.fill(side, colour, tint(colour, 0.7))


def tshirt(canvas: Canvas, look: Look) -> None:
    """A T-shirt: round, V-shaped or polo neck; long sleeves in winter."""
    polo = look.usage != "Sports" and look.pattern != "Printed" and look.chance(0.35)
    sleeve = 1.0 if look.season == "Winter" else (0.22 if look.feminine else 0.32)
    vee = not polo and look.chance(0.2)
    _top(canvas, look, sleeve=sleeve, hem=124 if look.feminine else 131, neck=12 if look.feminine else 9)
    rib = look.accent if look.usage == "Sports" or look.chance(0.25) else tint(look.colour, 0.8)
    if polo:
        canvas.line([(60, 37), (60, 57)], tint(look.colour, 0.7), 4.4)
        for y in (42, 49):
            canvas.fill(oval(60, y, 1.1, 1.1), tint(look.colour, 1.7))
        _collar(canvas, rib, 9)
    elif vee:
        canvas.fill([(50, 29), (70, 29), (60, 45)], tint(look.colour, 0.55))
        canvas.line([(47, 26), (60, 46), (73, 26)], rib, 2.2)
    else:
        _neckline(canvas, 12 if look.feminine else 9, rib)
    if look.usage == "Sports":
        for side in (1, -1):
            canvas.line([(60 + side * 27, 62), (60 + side * 26, 92), (60 + side * 28, 124)], look.accent, 3)
    if look.pattern == "Printed":
        _motif(canvas, look, 60, 72)
    elif look.usage == "Sports":
        canvas.fill([(72, 52), (80, 49), (76, 56)], look.accent)


def shirt(canvas: Canvas, look: Look) -> None:
    """A buttoned shirt with collar, placket and pocket."""
    long = look.usage == "Formal" or look.season in ("Fall", "Winter") or look.chance(0.3)
    _top(canvas, look, sleeve=1.0 if long else 0.34, hem=130 if look.feminine else 134, neck=6)
    dark = tint(look.colour, 0.72)
    canvas.line([(57, 36), (57, 132)], dark, 0.8)
    canvas.line([(63, 36), (63, 132)], dark, 0.8)
    for y in range(45, 130, 14):
        canvas.fill(oval(60, y, 1.3, 1.3), tint(look.colour, 1.8), dark if sum(look.colour) > 600 else None)
    if not look.feminine:
        canvas.fill(box(69, 58, 82, 73), tint(look.colour, 0.93) if look.pattern == "Solid" else cloth(look), dark)
        canvas.line([(69, 61), (82, 61)], dark, 0.7)
    if long:
        cuff = [(106, 114), (96, 118)]
        for side in (cuff, flipped(cuff)):
            canvas.line(side, tint(look.colour, 0.86), 1)
    _collar(canvas, tint(look.colour, 1.12), 6)


def kurta(canvas: Canvas, look: Look) -> None:
    """A kurta: long and straight, band collar or embroidered neckline, side slits."""
    _top(canvas, look, sleeve=0.75 if look.feminine else 1.0, hem=149, neck=7, flare=6)
    trim = look.accent
    canvas.line([(60, 35), (60, 74)], trim, 3.4 if look.feminine else 1.6)
    _neckline(canvas, 7, trim, 3)
    for y in range(42, 72, 7):
        canvas.fill(oval(60, y, 1.2, 1.2), tint(trim, 1.6) if look.feminine else BRASS)
    if look.feminine or look.chance(0.35):
        canvas.line(path((28, 144), (60, 148.5, 92, 144)), trim, 4)
    slit = path((91, 122), (90, 138))
    for side in (slit, flipped(slit)):
        canvas.line(side, tint(look.colour, 0.6), 1.2)


def top(canvas: Canvas, look: Look) -> None:
    """A women's top: sleeveless or short-sleeved, scooped, sometimes with a peplum."""
    sleeve = 0.0 if look.season == "Summer" else (0.2 if look.season == "Spring" else 0.7)
    peplum = look.chance(0.35)
    _top(canvas, look, sleeve=sleeve, hem=118, neck=18, flare=10 if peplum else 2)
    _neckline(canvas, 18, tint(look.colour, 0.78), 1.6)
    if peplum:
        canvas.line(path((35, 88), (60, 92, 85, 88)), tint(look.colour, 0.62) if look.chance(0.5) else look.accent, 3)
        for x in (44, 52, 60, 68, 76):
            canvas.line([(x, 94), (60 + (x - 60) * 1.25, 117)], tint(look.colour, 0.84), 0.8)
    elif look.pattern == "Solid":
        for k in range(3):
            curve = path((46 - 2 * k, 58 + 6 * k), (60, 68 + 6 * k, 74 + 2 * k, 58 + 6 * k))
            canvas.line(curve, tint(look.colour, 0.86), 1)


def sweatshirt(canvas: Canvas, look: Look) -> None:
    """A sweatshirt: long sleeves, ribbed hem and cuffs, a hood or a zip."""
    rib = tint(look.colour, 0.78)
    if look.chance(0.5):
        canvas.fill(oval(60, 27, 20, 13), tint(look.colour, 0.82), tint(look.colour, 0.6))
    _top(canvas, look, sleeve=1.0, hem=126, neck=8)
    _neckline(canvas, 8, rib, 3)
    canvas.line(path((32, 125), (60, 128, 88, 125)), rib, 6)
    if look.pattern == "Printed":
        _motif(canvas, look, 60, 66)
    elif look.chance(0.5):
        canvas.line([(60, 37), (60, 126)], STEEL, 1.4)
    canvas.fill([(44, 96), (76, 96), (83, 116), (37, 116)], tint(look.colour, 0.9), tint(look.colour, 0.7))
    for side in (1, -1):
        canvas.line([(60 + 6 * side, 37), (60 + 7 * side, 56)], tint(look.accent, 1.3), 1.2)


def dress(canvas: Canvas, look: Look) -> None:
    """A dress: fitted bodice, belted waist, skirt from straight to flared."""
    fabric, edge = cloth(look), tint(look.colour, 0.7)
    flare, hem = look.between(20, 36), look.between(134, 150)
    waist = look.accent if look.chance(0.6) else tint(look.colour, 0.65)
    if look.season in ("Fall", "Winter"):
        arm = path((80, 24), (92, 28, 97, 54), (88, 57), (81, 42))
        for side in (arm, flipped(arm)):
            canvas.fill(side, fabric, edge)
    canvas.fill(oval(60, 22, 10, 4), tint(look.colour, 0.55))
    half = path((60, 37), (69, 36, 72, 19), (81, 22), (78, 36, 82, 46), (77, 60, 75, 72),
                (62 + flare * 0.8, 98, 62 + flare, hem), (60 + flare / 2, hem + 6, 60, hem + 6))  # fmt: skip
    canvas.fill(mirrored(half), fabric, edge)
    for k in (-2, -1, 1, 2):
        canvas.line([(60 + 5 * k, 78), (60 + flare * 0.38 * k, hem)], tint(look.colour, 0.82), 0.9)
    canvas.line(path((45, 72), (60, 75, 75, 72)), waist, 4.6)
    if look.chance(0.4):
        canvas.line(path((60 - flare, hem - 3), (60, hem + 5, 60 + flare, hem - 3)), waist, 3)


def skirt(canvas: Canvas, look: Look) -> None:
    """A skirt with a waistband; pleated or plain, knee-long or longer."""
    hem, flare = look.between(112, 146), look.between(27, 40)
    half = path((60, 38), (80, 37), (60 + flare * 0.82, 70, 60 + flare, hem), (80, hem + 6, 60, hem + 6))
    canvas.fill(mirrored(half), cloth(look), tint(look.colour, 0.7))
    if look.chance(0.6):
        for k in range(-3, 4):
            canvas.line([(60 + 5.6 * k, 44), (60 + flare * 0.28 * k, hem + 4)], tint(look.colour, 0.78), 1)
    canvas.fill(
        mirrored(path((60, 33), (80, 32), (80.5, 41), (60, 42.5))), tint(look.colour, 0.85), tint(look.colour, 0.6)
    )


def _legs(canvas: Canvas, look: Look, fabric: Image.Image, *, hem: float, width: float) -> None:
    """Two legs under a waistband; `width` of a leg at the hem."""
    edge, hip = tint(look.colour, 0.68), 84 if look.feminine else 83
    inner = 63 if hem > 110 else 61.5
    leg = path((60, 20), (80, 18), (hip + 2, 36, hip, 54), (inner + width + 4, min(90, hem - 10), inner + width, hem),
               (inner, hem + 1.5), (61.5, 70, 60, 54))  # fmt: skip
    for side in (leg, flipped(leg)):
        canvas.fill(side, fabric, edge)
    canvas.line([(60, 27), (60, 52)], edge, 0.9)


def _waistband(canvas: Canvas, colour: Colour) -> None:
    canvas.fill(mirrored(path((60, 15), (80, 13), (81, 22), (60, 24))), colour, tint(colour, 0.7))


def jeans(canvas: Canvas, look: Look) -> None:
    """Jeans with pockets, seams and a button."""
    seam = (214, 170, 104) if look.chance(0.7) else tint(look.colour, 1.4)
    _legs(canvas, look, denim(look), hem=148, width=12 if look.feminine else look.between(14, 19))
    _waistband(canvas, tint(look.colour, 0.9))
    for side in (1, -1):
        pocket = path((60 + side * 10, 24), (60 + side * 12, 35, 60 + side * 23, 36))
        canvas.stitches(pocket[::2], seam)
        canvas.line([(60 + side * 15, 14), (60 + side * 15.5, 24)], tint(look.colour, 0.7), 1.6)
        canvas.stitches([(60 + side * 4, 146), (60 + side * 15, 146)], seam)
    canvas.stitches([(63, 26), (63.5, 42), (60, 50)], seam)
    canvas.fill(oval(60, 19, 1.8, 1.8), BRASS)


def trousers(canvas: Canvas, look: Look) -> None:
    """Trousers with a crease; slimmer where casual."""
    _legs(canvas, look, cloth(look), hem=149, width=17 if look.usage == "Formal" else look.between(12, 15))
    _waistband(canvas, tint(look.colour, 0.9))
    for side in (1, -1):
        canvas.line([(60 + side * 13, 40), (60 + side * 12.5, 92), (60 + side * 11.5, 147)], tint(look.colour, 1.22), 1)
        canvas.line([(60 + side * 15, 24), (60 + side * 22, 39)], tint(look.colour, 0.62), 1.1)
    canvas.fill(oval(60, 19, 1.4, 1.4), tint(look.colour, 0.5))


def track_pants(canvas: Canvas, look: Look) -> None:
    """Track pants: side stripes, drawstring, cuffs."""
    _legs(canvas, look, cloth(look, look.colour), hem=145, width=15)
    stripes = 1 + int(look.rng.random() * 3)
    for side in (1, -1):
        for k in range(stripes):
            x = 21.5 - 2.7 * k
            stripe = path((60 + side * x, 24), (60 + side * (x + 2.5), 44, 60 + side * (x + 0.5), 60))
            stripe += path((60 + side * (x + 0.5), 60), (60 + side * (x - 2), 95, 60 + side * (x - 5.5), 144))[1:]
            canvas.line(stripe, look.accent, 1.5)
        canvas.fill(box(60 + side * 10.5 - 7, 142, 60 + side * 10.5 + 7, 149, 1), tint(look.colour, 0.7))
        canvas.line([(60 + side, 24), (60 + side * 3.5, 38)], tint(look.accent, 1.3), 1.1)
    _waistband(canvas, tint(look.colour, 0.78))


def shorts(canvas: Canvas, look: Look) -> None:
    """Shorts: denim or chino, or sporty with trims."""
    hem = 74 if look.feminine else 94
    canvas.lower(70 - hem / 2)
    fabric = denim(look) if look.usage != "Sports" and look.pattern == "Solid" and look.chance(0.4) else cloth(look)
    _legs(canvas, look, fabric, hem=hem, width=26)
    _waistband(canvas, tint(look.colour, 0.84))
    for side in (1, -1):
        if look.usage == "Sports":
            canvas.line([(60 + side * 22.5, 28), (60 + side * 23, 54), (60 + side * 26, hem - 1)], look.accent, 2.6)
        else:
            canvas.line(path((60 + side * 10, 24), (60 + side * 12, 36, 60 + side * 23, 38)), tint(look.colour, 0.6), 1)
        canvas.line([(60 + side * 3, hem - 3), (60 + side * 25.5, hem - 4)], tint(look.colour, 0.72), 0.8)
    if look.usage == "Sports":
        canvas.line([(58, 24), (56, 34)], tint(look.accent, 1.3), 1)
        canvas.line([(62, 24), (64, 34)], tint(look.accent, 1.3), 1)
    else:
        canvas.fill(oval(60, 19, 1.5, 1.5), BRASS)


def socks(canvas: Canvas, look: Look) -> None:
    """A pair of socks; long, or ankle-high for sports."""
    leg = 78 if look.usage == "Sports" else 30
    trim = look.accent
    sock = path((44, leg), (66, leg), (66, 98), (66, 106, 56, 114), (38, 128), (24, 134, 20, 124), (18, 116, 28, 110),
                (44, 98, 44, 88))  # fmt: skip
    for dx, dy in ((22, -8), (0, 4)):
        canvas.fill(moved(sock, dx, dy), cloth(look), tint(look.colour, 0.7))
        canvas.fill(moved(path((22, 114), (34, 118, 34, 130), (22, 134, 20, 124), (19, 118, 22, 114)), dx, dy), trim)
        canvas.fill(
            moved(box(43.6, leg, 66.4, leg + 8, 1), dx, dy), trim if look.pattern == "Solid" else tint(look.colour, 0.8)
        )
        canvas.fill(moved(path((66, 94), (57, 99), (60, 110), (66, 106, 66, 98)), dx, dy), trim)


def tie(canvas: Canvas, look: Look) -> None:
    """A necktie."""
    fabric = cloth(look)
    canvas.fill(mirrored(path((60, 34), (66, 34), (74, 122), (60, 144))), fabric, tint(look.colour, 0.6))
    canvas.fill(mirrored(path((60, 16), (71, 15), (67, 33), (60, 35))), fabric, tint(look.colour, 0.6))


# Footwear: side views that point left, on the floor at y = 108

FLOOR = 108


def sports_shoe(canvas: Canvas, look: Look) -> None:
    """A running shoe: thick two-coloured sole, laces, side stripes."""
    canvas.shadow(60, FLOOR + 3, 52)
    upper = path((10, 97), (9, 86, 26, 83), (42, 80, 54, 62), (62, 54, 68, 60), (84, 68, 98, 58), (106, 54, 107, 64),
                 (108, 84, 109, 97))  # fmt: skip
    canvas.fill(upper, leather(look.colour), tint(look.colour, 0.65))
    canvas.fill(path((10, 97), (9, 86, 26, 83), (32, 88, 33, 97)), tint(look.colour, 0.8))
    canvas.fill(path((98, 58), (106, 54, 107, 64), (108, 84, 109, 97), (98, 97), (94, 76, 98, 58)), look.accent)
    for k in range(3):
        canvas.line(path((62 + 9 * k, 95), (62 + 9 * k, 80, 72 + 9 * k, 70)), look.accent, 3)
    for k in range(4):
        canvas.line([(35 + 6 * k, 78.5 - 4.6 * k), (42 + 6 * k, 84 - 4.6 * k)], tint(look.accent, 1.75), 2)
    sole = path((7, 96), (7, 109, 18, FLOOR), (104, FLOOR), (114, FLOOR - 1, 112, 94), (60, 99, 7, 96))
    canvas.fill(sole, (240, 240, 240), (186, 186, 190))
    canvas.line(path((9, 104), (40, 107, 112, 104)), look.accent, 2.4)
    for x in range(18, 106, 8):
        canvas.line([(x, 106), (x + 3, 109)], (150, 150, 155), 1.2)


def casual_shoe(canvas: Canvas, look: Look) -> None:
    """A casual shoe: a canvas sneaker, high or low, or a loafer."""
    canvas.shadow(60, FLOOR + 3, 50)
    loafer = look.usage != "Casual" or look.chance(0.25)
    high = not loafer and look.season in ("Fall", "Winter")
    ankle = 44 if high else 66
    upper = path((12, 100), (10, 86, 30, 83), (50, 78, 60, ankle), (66, ankle - 4, 74, ankle - 2),
                 (88, ankle + 2, 98, ankle - 4), (106, 82, 106, 100))  # fmt: skip
    fabric = leather(look.colour) if loafer else cloth(look)
    canvas.fill(upper, fabric, tint(look.colour, 0.62))
    if loafer:
        canvas.fill(
            path((26, 85), (44, 70, 62, 74), (64, 82), (48, 84, 30, 92)),
            tint(look.colour, 1.14),
            tint(look.colour, 0.6),
        )
        canvas.line([(50, 74), (58, 88)], tint(look.colour, 0.55), 4)
        canvas.fill(oval(86, ankle + 2, 15, 4), tint(look.colour, 0.45))
        canvas.fill(path((9, 98), (9, 108), (108, 108), (109, 98)), LEATHER if look.chance(0.5) else INK)
        return
    canvas.fill(path((12, 100), (10, 86, 30, 83), (38, 90, 36, 100)), (246, 246, 244), (205, 205, 205))
    for k in range(6 if high else 4):
        x, y = 42 + 4.5 * k, 80 - (6.2 if high else 3.6) * k
        canvas.line([(x, y), (x + 9, y + 6)], WHITE if sum(look.colour) < 620 else (120, 120, 124), 1.8)
    canvas.line(path((98, ankle), (92, 82, 96, 99)), tint(look.colour, 0.6), 1.2)
    if high:
        canvas.fill(oval(86, 62, 7, 7), look.accent, tint(look.accent, 0.7))
    canvas.fill(path((8, 98), (8, 109, 16, 109), (104, 109), (111, 109, 110, 97)), (247, 246, 242), (196, 196, 196))
    canvas.line([(10, 103), (109, 102.5)], look.accent, 1.3)


def formal_shoe(canvas: Canvas, look: Look) -> None:
    """A leather lace-up with a low heel."""
    canvas.shadow(60, FLOOR + 3, 50)
    upper = path((8, 100), (8, 90, 30, 86), (48, 82, 60, 70), (72, 66, 96, 66), (106, 80, 106, 100))
    canvas.fill(upper, leather(look.colour), tint(look.colour, 0.5))
    canvas.fill(oval(84, 68, 16, 4), tint(look.colour, 0.4))
    canvas.line(path((32, 86), (40, 92, 36, 100)), tint(look.colour, 0.6), 1.2)
    canvas.line(path((14, 93), (20, 88, 30, 89)), tint(look.colour, 1.45), 1.8)
    canvas.fill(path((48, 80), (60, 70), (70, 74), (62, 90, 50, 88)), tint(look.colour, 1.1), tint(look.colour, 0.55))
    for k in range(3):
        canvas.line([(50 + 5 * k, 79 - 3 * k), (57 + 5 * k, 84 - 3 * k)], tint(look.colour, 0.45), 1.6)
    canvas.fill(path((6, 99), (7, 105), (76, 105), (78, 108), (107, 108), (107, 99)), tint(look.colour, 0.35))


def heel(canvas: Canvas, look: Look) -> None:
    """A pump on a stiletto or block heel, sometimes with an ankle strap or a bow."""
    canvas.shadow(58, FLOOR + 5, 48)
    low = 0 if look.usage == "Party" or look.chance(0.5) else 14
    dark = tint(look.colour, 0.6)
    canvas.fill(
        path((36, 93), (66, 92, 86, 60 + low), (92, 50 + low, 100, 48 + low), (96, 80 + low)), tint(look.colour, 0.4)
    )
    canvas.fill(
        [(95, 72 + low), (107, 64 + low), (105, 111), (95 if look.chance(0.35) else 101, 111)], tint(look.colour, 0.75)
    )
    upper = path(
        (8, 107), (6, 99, 24, 94), (32, 91, 40, 93), (48, 103, 62, 96), (78, 88, 86, 72 + low),
        (92, 58 + low, 100, 47 + low), (110, 54 + low, 106, 72 + low), (104, 80 + low, 96, 84 + low),
        (74, 100, 52, 109), (24, 112, 8, 107),
    )  # fmt: skip
    canvas.fill(upper, leather(look.colour), dark)
    canvas.line(path((9, 109), (26, 112, 52, 110), (74, 101, 96, 85 + low)), tint(look.colour, 0.4), 1.6)
    canvas.line(path((14, 103), (18, 98, 28, 97)), tint(look.colour, 1.4), 1.6)
    if look.chance(0.4):
        canvas.line(oval(89, 47 + low, 13, 5), dark, 2.6)
        canvas.fill(oval(77, 48 + low, 2.2, 2.2), BRASS)
    elif look.chance(0.4):
        canvas.fill([(22, 88), (32, 93), (42, 87), (42, 99), (32, 94), (22, 99)], look.accent, tint(look.accent, 0.7))


def flat(canvas: Canvas, look: Look) -> None:
    """A ballerina with a bow."""
    canvas.shadow(60, FLOOR + 3, 50)
    shoe = path((10, 102), (9, 91, 28, 89), (38, 88, 46, 94), (66, 104, 88, 86), (98, 78, 106, 80), (110, 92, 108, 104))
    canvas.fill(path((36, 92), (60, 86, 96, 82), (96, 92), (66, 104, 46, 96)), tint(look.colour, 0.5))
    canvas.fill(shoe, cloth(look), tint(look.colour, 0.62))
    canvas.fill(path((9, 101), (10, 107), (108, 107), (109, 101)), tint(LEATHER, 0.8))
    bow = [(20, 86), (31, 91), (42, 86), (42, 96), (31, 92), (20, 96)]
    canvas.fill(bow, look.accent, tint(look.accent, 0.7))


def sandal(canvas: Canvas, look: Look) -> None:
    """A strapped sandal: broad bands for men, slim ones on a wedge for women."""
    canvas.shadow(60, FLOOR + 3, 50)
    dark, slim = tint(look.colour, 0.6), look.feminine
    rise = 14 if slim and look.chance(0.6) else 0
    back = 98 - rise
    bed = path((9, 102), (34, 106, 58, 101), (82, 97 - rise, 109, back))
    toe = path((20, 104), (22, 86, 34, 81), (46, 82), (44, 90, 46, 104))
    slim_toe = path((24, 104), (30, 86, 46, 80), (52, 82), (40, 90, 36, 104))
    canvas.line(path((82, 70 - rise), (108, 72 - rise, 106, back)), dark, 4 if slim else 8)
    canvas.line(path((82, 70 - rise), (107, 73 - rise, 105.6, back)), look.colour, 2.8 if slim else 6.4)
    canvas.fill(slim_toe if slim else toe, leather(look.colour), dark)
    if slim:
        canvas.fill(
            path((60, 102), (66, 84 - rise, 84, 66 - rise), (89, 70 - rise), (74, 86 - rise, 70, 101)),
            leather(look.colour),
            dark,
        )
    else:
        canvas.fill(path((56, 103), (58, 80, 66, 68), (84, 64), (80, 80, 82, 101)), leather(look.colour), dark)
        canvas.line(path((62, 84), (70, 78, 81, 78)), look.accent, 3.4)
        canvas.line([(26, 92), (44, 90)], look.accent, 2.4)
    canvas.fill(oval(85, 69 - rise, 2.6, 2.6), BRASS if slim else STEEL, tint(STEEL, 0.6))
    canvas.fill([*bed, (108, 109), (60, 109), (10, 109)], tint(LEATHER, 0.9) if slim else INK, tint(LEATHER, 0.5))
    canvas.line(moved(bed, 0, 1.2), tint(look.colour, 1.2), 2.2)


def flip_flops(canvas: Canvas, look: Look) -> None:
    """A pair of flip-flops from above."""
    sole = path((57, 64), (56, 30, 40, 28), (20, 28, 22, 62), (24, 84, 24, 104), (24, 136, 42, 136), (58, 136, 56, 106),
                (54, 88, 57, 64))  # fmt: skip
    strap = look.accent
    for side in (sole, flipped(sole)):
        canvas.fill(moved(side, 0.6, 2.4), tint(look.colour, 0.5))
        canvas.fill(side, cloth(look), tint(look.colour, 0.7))
    vee = path((25, 86), (30, 58, 40, 50), (52, 60, 55, 86))
    for side in (vee, flipped(vee)):
        canvas.line(side, tint(strap, 0.6), 6)
        canvas.line(side, strap, 4.6)
        canvas.fill(oval(side[8][0], 50, 2.4, 2.4), tint(strap, 0.55))


# Accessories


def watch(canvas: Canvas, look: Look) -> None:
    """A wrist watch: metal or leather strap, round or square case."""
    radius = 17 if look.feminine else look.between(23, 27)
    metal = BRASS if look.feminine and look.chance(0.5) else STEEL
    bracelet = look.usage == "Formal" or look.chance(0.35)
    strap, width = (metal if bracelet else look.colour), radius * 0.62
    canvas.fill(box(60 - width, 8, 60 + width, 152, 4), leather(strap), tint(strap, 0.65))
    if bracelet:
        for y in range(12, 152, 6):
            canvas.line([(60 - width, y), (60 + width, y)], tint(strap, 0.72), 0.8)
        for x in (60 - width / 3, 60 + width / 3):
            canvas.line([(x, 9), (x, 151)], tint(strap, 0.82), 0.8)
    else:
        for side in (1, -1):
            canvas.stitches([(60 + side * (width - 2.5), 12), (60 + side * (width - 2.5), 148)], tint(strap, 1.5))
        for y in (118, 125, 132, 139):
            canvas.fill(oval(60, y, 1.2, 1.8), tint(strap, 0.45))
    dial = look.colour if bracelet or look.chance(0.3) else ((248, 248, 246) if look.chance(0.55) else INK)
    square = look.feminine and look.chance(0.35)

    def case(r: float) -> list[Point]:
        return box(60 - r, 80 - r, 60 + r, 80 + r, r / 3) if square else oval(60, 80, r, r)

    canvas.fill(box(58 + radius, 76, 63 + radius, 84, 1), tint(metal, 0.8))
    canvas.fill(case(radius + 2), leather(metal), tint(metal, 0.55))
    canvas.fill(case(radius - 1.5), dial, tint(metal, 0.6))
    ink = INK if sum(dial) > 380 else (240, 240, 240)
    for hour in range(12):
        reach = (0.72 if hour % 3 == 0 else 0.8, 0.88)
        mark = [(60 + radius * r * cos(hour * pi / 6), 80 + radius * r * sin(hour * pi / 6)) for r in reach]
        canvas.line(mark, ink, 1.3)
    if look.usage == "Sports" or (not look.feminine and look.chance(0.4)):
        for dx, dy in ((-0.38, 0), (0.38, 0), (0, 0.4)):
            canvas.fill(oval(60 + radius * dx, 80 + radius * dy, radius * 0.2, radius * 0.2), mix(dial, ink, 0.12), ink)
    canvas.line([(60, 80), (60 - radius * 0.36, 80 - radius * 0.34)], ink, 2)
    canvas.line([(60, 80), (60 + radius * 0.42, 80 - radius * 0.48)], ink, 1.4)
    canvas.fill(oval(60, 80, 1.6, 1.6), look.accent)


def handbag(canvas: Canvas, look: Look) -> None:
    """A handbag: tote, satchel or shoulder bag."""
    kind, skin = int(look.rng.random() * 3), leather(look.colour)
    dark, gold = tint(look.colour, 0.6), BRASS if look.chance(0.65) else STEEL
    canvas.shadow(60, 134, 48)
    height = (58, 72, 80)[kind]
    handle = path(
        (38, height + 4), (36, (14, 44, 30)[kind], 60, (14, 44, 30)[kind]), (84, (14, 44, 30)[kind], 82, height + 4)
    )
    canvas.line(handle, dark, 4.4)
    canvas.line(handle, look.colour, 2.8)
    body = mirrored(
        path((60, height), (92 - 4 * kind, height), (106 - 2 * kind, 100, 104 - kind, 128), (103, 134, 60, 134))
    )
    fabric = ImageChops.multiply(cloth(look), _light("leather")) if look.pattern in PATTERNS else skin
    canvas.fill(body, fabric, dark)
    if kind == 0:  # tote: seams and a charm
        for side in (1, -1):
            canvas.stitches([(60 + side * 28, 60), (60 + side * 31, 131)], tint(look.colour, 1.5))
        canvas.line([(82, 62), (84, 82)], gold, 1.2)
        canvas.fill(oval(84, 86, 4, 5), look.accent, tint(look.accent, 0.7))
    elif kind == 1:  # satchel: a flap with a lock
        flap = mirrored(path((60, 71), (89, 71), (96, 92, 92, 102), (76, 108, 60, 109)))
        canvas.fill(flap, tint(look.colour, 0.9), dark)
        canvas.fill(box(55, 102, 65, 114, 2), gold, tint(gold, 0.6))
    else:  # shoulder bag: a zip and two pockets
        canvas.line([(34, 86), (86, 86)], gold, 1.6)
        for x in (34, 64):
            canvas.fill(box(x, 98, x + 22, 122, 3), tint(look.colour, 0.9), dark)
            canvas.line([(x, 104), (x + 22, 104)], gold, 1)
    for side in (1, -1):
        canvas.fill(oval(60 + side * 22, height + 4, 2.4, 2.4), gold, tint(gold, 0.6))


def backpack(canvas: Canvas, look: Look) -> None:
    """A backpack with a front pocket, zips and a grab handle."""
    canvas.shadow(60, 142, 40)
    dark = tint(look.colour, 0.6)
    canvas.line(path((50, 26), (50, 12, 60, 12), (70, 12, 70, 26)), dark, 3.6)
    for side in (1, -1):
        canvas.fill(
            [(60 + side * 32, 74), (60 + side * 43, 80), (60 + side * 43, 128), (60 + side * 32, 136)],
            tint(look.colour, 0.7),
        )
    body = mirrored(path((60, 22), (92, 22, 95, 54), (99, 110, 96, 134), (94, 142, 60, 142)))
    canvas.fill(body, cloth(look), dark)
    canvas.line(path((32, 82), (30, 32, 60, 31), (90, 32, 88, 82)), look.accent, 1.6)
    pocket = mirrored(path((60, 86), (84, 85, 86, 96), (88, 120, 86, 132), (80, 135, 60, 135)))
    canvas.fill(pocket, tint(look.colour, 0.86), dark)
    canvas.line([(38, 98), (82, 98)], look.accent, 1.8)
    canvas.line([(80, 98), (80, 105)], STEEL, 1.6)
    if look.usage == "Travel" or look.chance(0.4):
        for x in (42, 78):
            canvas.line([(x, 26), (x, 84)], tint(look.colour, 0.5), 3.4)
            canvas.fill(box(x - 3.4, 56, x + 3.4, 62, 1), STEEL)
    else:
        canvas.fill(box(50, 56, 70, 68, 2), look.accent, tint(look.accent, 0.7))
        canvas.line([(54, 62), (66, 62)], tint(look.accent, 1.6), 2)


def sunglasses(canvas: Canvas, look: Look) -> None:
    """Sunglasses: aviator, wayfarer, round or cat-eye."""
    kind = int(look.rng.random() * 2) + (2 if look.feminine else 0)
    lens = (look.accent, (58, 58, 62), (96, 74, 56))[int(look.rng.random() * 3)]
    frame = tint(look.colour, 0.95)
    if kind == 0:  # aviator
        glass, rim = path((66, 66), (88, 62, 103, 68), (108, 90, 92, 98), (72, 98, 66, 66)), 1.8
    elif kind == 1:  # wayfarer
        glass, rim = path((66, 66), (106, 63), (106, 84, 98, 94), (74, 98, 69, 86), (66, 66)), 4.2
    elif kind == 2:  # round
        glass, rim = oval(86, 80, 20, 19), 2.8
    else:  # cat-eye
        glass, rim = path((65, 70), (84, 64, 112, 56), (110, 86, 92, 94), (68, 96, 65, 70)), 4
    for side in (glass, flipped(glass)):
        temple = [side[0], (60 + (46 if side is glass else -46), 70), (60 + (53 if side is glass else -53), 78)]
        canvas.line(temple[1:], frame, 3)
        canvas.fill(side, leather(lens))
        canvas.line([*side, side[0]], frame, rim)
    canvas.line(path((55, 74), (60, 69, 65, 74)), frame, 2.6)
    for dx in (0, -46):
        canvas.line([(79 + dx, 72), (73 + dx, 84)], tint(lens, 1.45), 2)
        canvas.line([(85 + dx, 71), (80 + dx, 81)], tint(lens, 1.3), 1.2)


def belt(canvas: Canvas, look: Look) -> None:
    """A rolled-up belt with its buckle in front."""
    band, dark = leather(look.colour), tint(look.colour, 0.55)
    metal = BRASS if look.chance(0.4) else STEEL
    tall = 8 if look.feminine else 11
    canvas.shadow(60, 103 + tall, 46)
    back = [*oval(60, 76 - tall, 44, 17), *oval(60, 76 - tall, 38, 12)[::-1]]
    canvas.fill(
        [*oval(60, 76 - tall, 44, 17, pi, 2 * pi), *oval(60, 76 + tall, 44, 17, pi, 2 * pi)[::-1]],
        tint(look.colour, 0.6),
    )
    canvas.fill(back, tint(look.colour, 0.45))
    front = [*oval(60, 76 - tall, 44, 17, 0, pi), *oval(60, 76 + tall, 44, 17, 0, pi)[::-1]]
    canvas.fill(front, band, dark)
    for dy in (2.5, -2.5):
        seam = oval(60, 76 + dy + (tall if dy < 0 else -tall), 43.4, 17, 0.06 * pi, 0.94 * pi)
        canvas.stitches(seam[::2], tint(look.colour, 1.5))
    if look.pattern in PATTERNS:
        for k in range(9):
            x = 24 + 9 * k
            canvas.fill(oval(x, 76 + 17 * (1 - ((x - 60) / 44) ** 2) ** 0.5, 1.6, 1.6), look.accent)
    canvas.fill(box(46, 82 - tall, 72, 104 + tall, 3), metal, tint(metal, 0.6))
    canvas.fill(box(50, 86 - tall, 68, 100 + tall, 2), band, dark)
    canvas.line([(48, 93), (66, 93)], tint(metal, 0.85), 2.6)


def cap(canvas: Canvas, look: Look) -> None:
    """A baseball cap from the front and a little from the side."""
    dark = tint(look.colour, 0.65)
    dome = path((22, 94), (20, 48, 64, 46), (100, 48, 98, 92), (60, 86, 22, 94))
    canvas.fill(dome, cloth(look), dark)
    for seam in (path((64, 46), (44, 60, 44, 90)), path((64, 46), (82, 60, 80, 88))):
        canvas.line(seam, dark, 0.9)
    canvas.fill(oval(64, 46, 3.4, 2.2), look.accent if look.chance(0.5) else dark)
    peak = look.accent if look.pattern == "Colourblock" or look.chance(0.35) else tint(look.colour, 0.86)
    brim = path((20, 94), (60, 82, 99, 92), (108, 108, 96, 114), (60, 98, 22, 114), (10, 108, 20, 94))
    canvas.fill(brim, cloth(look, peak), tint(peak, 0.6))
    canvas.stitches(path((18, 104), (60, 90, 102, 104))[::2], tint(peak, 1.4))
    if look.pattern in ("Printed", "Solid"):
        canvas.fill(oval(61, 70, 9, 9), look.accent, tint(look.accent, 0.75))
        canvas.fill([(61, 63), (67, 75), (55, 75)], tint(look.accent, 1.7))


def wallet(canvas: Canvas, look: Look) -> None:
    """A folded wallet; a long clasped one for women."""
    dark = tint(look.colour, 0.6)
    x0, x1, y0, y1 = (14, 106, 58, 108) if look.feminine else (24, 96, 52, 108)
    canvas.shadow(60, y1 + 2, (x1 - x0) / 2 + 2)
    canvas.fill(box(x0 + 1, y0 - 2, x1 + 1, y1 - 2, 4), tint(look.colour, 0.7))
    fabric = cloth(look) if look.pattern in PATTERNS else leather(look.colour)
    canvas.fill(box(x0, y0, x1, y1, 4), fabric, dark)
    seam = [(x0 + 4, y0 + 4), (x1 - 4, y0 + 4), (x1 - 4, y1 - 4), (x0 + 4, y1 - 4), (x0 + 4, y0 + 4)]
    canvas.stitches(seam, tint(look.colour, 1.4))
    if look.feminine:
        canvas.fill(
            mirrored(path((60, y0), (x1, y0), (x1, y0 + 16), (78, y0 + 30, 60, y0 + 30))), tint(look.colour, 0.9), dark
        )
        canvas.fill(oval(60, y0 + 26, 4, 4), BRASS, tint(BRASS, 0.6))
    else:
        canvas.fill(box(x1 - 22, y1 - 18, x1 - 9, y1 - 9, 1), tint(look.colour, 0.8), dark)
        canvas.line([(x0, y0 + 26), (x1, y0 + 26)], tint(look.colour, 0.85), 0.8)


# Personal care


def perfume(canvas: Canvas, look: Look) -> None:
    """A bottle of perfume: square for men, rounded for women."""
    canvas.shadow(60, 136, 30)
    glass = mix(look.colour, WHITE, 0.35)
    body = oval(60, 102, 28, 34) if look.feminine else box(36, 64, 84, 136, 5)
    canvas.fill(box(53, 54, 67, 72), tint(STEEL, 0.9))
    canvas.fill(box(49, 28, 71, 57, 3), look.accent if look.chance(0.5) else INK, tint(look.accent, 0.5))
    canvas.fill(body, leather(glass), tint(look.colour, 0.7))
    canvas.line([(44, 84), (43, 122)], tint(glass, 1.6), 3)
    canvas.fill(box(47, 92, 74, 114, 1), (250, 248, 242), tint(look.colour, 0.8))
    for y, width in ((99, 9), (105, 6)):
        canvas.line([(60.5 - width, y), (60.5 + width, y)], tint(look.colour, 0.5), 1.4)


def lipstick(canvas: Canvas, look: Look) -> None:
    """An open lipstick."""
    case = INK if look.chance(0.6) else BRASS
    canvas.shadow(60, 140, 22)
    canvas.fill(
        path((50, 82), (50, 40), (52, 30, 68, 24), (70, 26, 70, 44), (70, 82)),
        leather(look.colour),
        tint(look.colour, 0.7),
    )
    canvas.fill(path((51, 40), (54, 31, 67, 26), (66, 34, 51, 40)), tint(look.colour, 1.3))
    canvas.fill(box(47, 80, 73, 100, 1), leather(BRASS if case == INK else STEEL), tint(BRASS, 0.6))
    canvas.fill(box(44, 98, 76, 140, 2), leather(case), tint(case, 0.7))
    canvas.line([(49, 102), (49, 136)], tint(case, 1.3), 1.6)


def nail_polish(canvas: Canvas, look: Look) -> None:
    """A bottle of nail polish."""
    canvas.shadow(60, 136, 26)
    canvas.fill(mirrored(path((60, 22), (66, 22), (69, 82), (60, 82))), leather(INK), (20, 20, 22))
    canvas.line([(56, 26), (54, 78)], (110, 110, 116), 1.4)
    bottle = mirrored(path((60, 82), (68, 82), (86, 88, 85, 104), (84, 136, 82, 136), (60, 137)))
    canvas.fill(bottle, leather(look.colour), tint(look.colour, 0.65))
    canvas.line(path((42, 100), (40, 116, 43, 128)), tint(look.colour, 1.55), 3)
