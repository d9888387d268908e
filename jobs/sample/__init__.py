"""The built-in sample catalogue: rows in the published form of `styles.csv`, and a drawn picture for each.

A product depends on its index and the seed only, so a smaller sample is the beginning of a larger one and the same
call gives the same bytes. Article types, colours and their frequencies follow the real catalogue; brands are made up.
A few products are odd on purpose, as real catalogues are: see `_quirks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from jobs.sample import shapes as s
from jobs.sample.shapes import Canvas, Colour, Look

COLUMNS = (
    "id",
    "gender",
    "masterCategory",
    "subCategory",
    "articleType",
    "baseColour",
    "season",
    "year",
    "usage",
    "productDisplayName",
)
"""The columns of `styles.csv`, in the published order; the last may hold commas and is not quoted."""

COLOURS: dict[str, Colour] = {
    "Black": (42, 42, 46),
    "White": (246, 246, 244),
    "Blue": (54, 112, 194),
    "Brown": (116, 76, 50),
    "Grey": (152, 154, 158),
    "Red": (204, 42, 50),
    "Green": (58, 142, 84),
    "Pink": (238, 134, 168),
    "Navy Blue": (38, 50, 96),
    "Purple": (120, 74, 154),
    "Silver": (196, 200, 206),
    "Yellow": (246, 208, 70),
    "Beige": (218, 198, 166),
    "Gold": (210, 172, 88),
    "Maroon": (126, 34, 52),
    "Orange": (240, 130, 52),
    "Olive": (114, 116, 62),
    "Cream": (244, 234, 208),
    "Peach": (250, 194, 164),
    "Lavender": (188, 170, 218),
    "Khaki": (180, 164, 122),
    "Teal": (34, 132, 134),
    "Tan": (192, 144, 96),
    "Mustard": (210, 164, 50),
}

Weights = dict[str, float]


def _weights(text: str) -> Weights:
    """Weights from "name weight, name weight, …"."""
    return {name: float(weight) for name, weight in (item.strip().rsplit(" ", 1) for item in text.split(","))}


PLAIN = _weights(
    "Black 20, White 13, Blue 12, Grey 8, Navy Blue 7, Red 8, Green 6, Purple 4, Yellow 3, Pink 3, Orange 2, "
    "Maroon 2, Olive 2, Brown 2, Teal 1, Mustard 1"
)
SOFT = _weights(
    "Pink 12, White 11, Black 10, Red 9, Blue 9, Purple 7, Green 6, Peach 5, Yellow 5, Cream 5, Lavender 4, "
    "Teal 4, Orange 4, Maroon 3, Beige 3, Mustard 2"
)
OFFICE = _weights(
    "White 18, Blue 22, Grey 9, Black 9, Purple 6, Navy Blue 8, Green 5, Pink 4, Red 5, Lavender 3, Cream 3, "
    "Olive 2, Maroon 2"
)
DENIM = _weights("Blue 50, Navy Blue 22, Black 14, Grey 10")
DARK = _weights("Black 40, Navy Blue 14, Grey 16, Khaki 10, Beige 8, Brown 8, Olive 6, Cream 3")
SPORTY = _weights("White 22, Black 18, Grey 14, Blue 12, Silver 9, Red 8, Navy Blue 7, Green 4, Orange 3, Pink 4")
HIDE = _weights("Black 38, Brown 34, Tan 12, Beige 4, Navy Blue 3, Maroon 2")
BAGS = _weights("Black 22, Brown 18, Tan 9, Red 9, Beige 9, Blue 6, Purple 5, Pink 5, White 4, Green 4, Mustard 4")
METAL = _weights("Black 40, Brown 14, White 12, Silver 10, Blue 7, Gold 6, Pink 4, Red 3, Purple 3")
MAKEUP = _weights("Pink 28, Red 26, Maroon 12, Purple 10, Peach 10, Brown 6, Orange 6, Lavender 4")

MEN = _weights("Men 85, Women 6, Boys 7, Girls 2")
BOTH = _weights("Men 62, Women 33, Unisex 5")
FAMILY = _weights("Men 66, Women 20, Boys 8, Girls 6")
WOMEN = _weights("Women 94, Girls 6")
LADIES = _weights("Women 1")
GENTS = _weights("Men 1")
MOSTLY_WOMEN = _weights("Women 75, Men 25")
ANYONE = _weights("Unisex 55, Men 30, Women 15")

WARM = _weights("Summer 70, Spring 8, Fall 17, Winter 5")
EVEN = _weights("Summer 42, Fall 30, Winter 22, Spring 6")
COLD = _weights("Fall 45, Winter 50, Summer 5")

CASUAL = _weights("Casual 1")
ACTIVE = _weights("Sports 1")
MIXED = _weights("Casual 84, Sports 16")
WORK = _weights("Casual 58, Formal 42")
ETHNIC = _weights("Ethnic 1")
FORMAL = _weights("Formal 1")
OUTDOOR = _weights("Casual 9, Travel 1")
DRESSY = _weights("Casual 80, Party 14, Formal 6")

SOLID = _weights("Solid 1")
TEES = _weights("Printed 48, Solid 30, Striped 16, Colourblock 6")
WOVEN = _weights("Solid 38, Checked 34, Pinstriped 22, Polka Dot 6")
PRINTS = _weights("Solid 34, Floral 30, Polka Dot 16, Striped 14, Checked 6")
BANDS = _weights("Striped 2, Solid 2")
SILK = _weights("Striped 2, Solid 2, Polka Dot 1")
SPARE = _weights("Solid 80, Checked 8, Striped 6, Polka Dot 6")


@dataclass(frozen=True)
class Kind:
    """An article type: its place in the taxonomy, its share of the catalogue, what its products are like, its shape."""

    articleType: str  # noqa: N815  # the data set's own word
    subCategory: str  # noqa: N815
    masterCategory: str  # noqa: N815
    share: float
    noun: str
    draw: Callable[[Canvas, Look], None]
    genders: Weights
    colours: Weights
    patterns: Weights
    usages: Weights
    seasons: Weights


KINDS = (
    Kind("Tshirts", "Topwear", "Apparel", 680, "T-shirt", s.tshirt, FAMILY, PLAIN, TEES, MIXED, EVEN),
    Kind("Shirts", "Topwear", "Apparel", 210, "Shirt", s.shirt, MEN, OFFICE, WOVEN, WORK, EVEN),
    Kind("Casual Shoes", "Shoes", "Footwear", 140, "Casual Shoes", s.casual_shoe, BOTH, PLAIN, SPARE, CASUAL, EVEN),
    Kind("Watches", "Watches", "Accessories", 125, "Watch", s.watch, BOTH, METAL, SOLID, WORK, COLD),
    Kind("Sports Shoes", "Shoes", "Footwear", 105, "Sports Shoes", s.sports_shoe, BOTH, SPORTY, SOLID, ACTIVE, EVEN),
    Kind("Kurtas", "Topwear", "Apparel", 90, "Kurta", s.kurta, MOSTLY_WOMEN, SOFT, PRINTS, ETHNIC, WARM),
    Kind("Tops", "Topwear", "Apparel", 90, "Top", s.top, WOMEN, SOFT, PRINTS, CASUAL, WARM),
    Kind("Handbags", "Bags", "Accessories", 85, "Handbag", s.handbag, LADIES, BAGS, SPARE, CASUAL, EVEN),
    Kind("Heels", "Shoes", "Footwear", 65, "Heels", s.heel, LADIES, BAGS, SOLID, DRESSY, EVEN),
    Kind("Sunglasses", "Eyewear", "Accessories", 55, "Sunglasses", s.sunglasses, BOTH, METAL, SOLID, CASUAL, EVEN),
    Kind("Wallets", "Wallets", "Accessories", 45, "Wallet", s.wallet, BOTH, HIDE, SPARE, WORK, EVEN),
    Kind("Flip Flops", "Flip Flops", "Footwear", 45, "Flip Flops", s.flip_flops, BOTH, PLAIN, SPARE, CASUAL, WARM),
    Kind("Sandals", "Sandal", "Footwear", 45, "Sandals", s.sandal, BOTH, HIDE, SOLID, CASUAL, WARM),
    Kind("Belts", "Belts", "Accessories", 40, "Belt", s.belt, BOTH, HIDE, SPARE, WORK, EVEN),
    Kind("Backpacks", "Bags", "Accessories", 38, "Backpack", s.backpack, ANYONE, PLAIN, SPARE, OUTDOOR, EVEN),
    Kind("Jeans", "Bottomwear", "Apparel", 36, "Jeans", s.jeans, BOTH, DENIM, SOLID, CASUAL, EVEN),
    Kind("Formal Shoes", "Shoes", "Footwear", 32, "Formal Shoes", s.formal_shoe, GENTS, HIDE, SOLID, FORMAL, EVEN),
    Kind("Socks", "Socks", "Accessories", 32, "Socks", s.socks, BOTH, PLAIN, BANDS, MIXED, EVEN),
    Kind("Trousers", "Bottomwear", "Apparel", 30, "Trousers", s.trousers, BOTH, DARK, SOLID, WORK, EVEN),
    Kind("Shorts", "Bottomwear", "Apparel", 30, "Shorts", s.shorts, FAMILY, DARK, SPARE, MIXED, WARM),
    Kind("Perfume and Body Mist", "Fragrance", "Personal Care", 30, "Mist", s.perfume, BOTH, SOFT, SOLID, CASUAL, EVEN),
    Kind("Dresses", "Dress", "Apparel", 30, "Dress", s.dress, WOMEN, SOFT, PRINTS, DRESSY, WARM),
    Kind("Flats", "Shoes", "Footwear", 26, "Flats", s.flat, LADIES, BAGS, SPARE, CASUAL, WARM),
    Kind("Track Pants", "Bottomwear", "Apparel", 22, "Track Pants", s.track_pants, FAMILY, DARK, SOLID, ACTIVE, COLD),
    Kind("Sweatshirts", "Topwear", "Apparel", 20, "Sweatshirt", s.sweatshirt, FAMILY, PLAIN, TEES, CASUAL, COLD),
    Kind("Caps", "Headwear", "Accessories", 20, "Cap", s.cap, ANYONE, PLAIN, SPARE, MIXED, WARM),
    Kind("Lipstick", "Lips", "Personal Care", 18, "Lipstick", s.lipstick, LADIES, MAKEUP, SOLID, CASUAL, EVEN),
    Kind("Nail Polish", "Nails", "Personal Care", 18, "Polish", s.nail_polish, LADIES, MAKEUP, SOLID, CASUAL, EVEN),
    Kind("Skirts", "Bottomwear", "Apparel", 16, "Skirt", s.skirt, WOMEN, SOFT, PRINTS, CASUAL, WARM),
    Kind("Ties", "Ties", "Accessories", 14, "Tie", s.tie, GENTS, OFFICE, SILK, FORMAL, EVEN),
)  # fmt: skip
SHARES = {str(place): kind.share for place, kind in enumerate(KINDS)}

BRANDS = (
    *("Northvale", "Saltmarsh", "Kavira", "Tidewell", "Ardenne", "Oakline"),
    *("Saffron Lane", "Halden", "Marigold & Co", "Brightloom", "Fennmore", "Quillon"),
)
YEARS = _weights("2011 30, 2012 38, 2013 4, 2014 2, 2015 8, 2016 12, 2017 6")
ACCENTS = ("White", "Black", "Red", "Navy Blue", "Yellow", "Orange", "Teal", "Pink", "Gold", "Cream")

ID_FIRST, ID_SPAN = 10_000, 90_000
ID_STEP = 55_603
TWIN_EVERY, NO_SEASON_EVERY, COMMA_EVERY, NO_IMAGE_EVERY, TORN_EVERY = 61, 800, 150, 300, 900


@dataclass(frozen=True)
class Product:
    """A row of `styles.csv`, in the order of `COLUMNS`, and the JPEG bytes of its image; None where it has none."""

    row: tuple[str, ...]
    image: bytes | None


def sample(n: int, seed: int) -> Iterator[Product]:
    """The first `n` products of the catalogue drawn from `seed`, images of 120 × 160 pixels.

    Raises:
        ValueError: `n` is not at least 1, or `seed` is negative.
    """
    if n < 1 or seed < 0:
        raise ValueError(f"a sample needs n >= 1 and seed >= 0, not n={n}, seed={seed}")
    return (_product(index, seed) for index in range(n))


def _product(index: int, seed: int) -> Product:
    # A twin is the product before it, listed again under another id: same picture, same bytes.
    origin = index - 1 if index % TWIN_EVERY == TWIN_EVERY - 1 else index
    rng = np.random.default_rng((seed, origin))
    kind = KINDS[int(_pick(rng, SHARES))]
    gender, season, usage = _pick(rng, kind.genders), _pick(rng, kind.seasons), _pick(rng, kind.usages)
    colour, pattern, year = _pick(rng, kind.colours), _pick(rng, kind.patterns), _pick(rng, YEARS)
    brand = BRANDS[int(rng.random() * len(BRANDS))]
    look = Look(gender, usage, season, _shade(rng, COLOURS[colour]), _accent(rng, COLOURS[colour]), pattern, rng)
    name = " ".join(word for word in (brand, gender, pattern, colour, kind.noun) if word != "Solid")
    place = (kind.masterCategory, kind.subCategory, kind.articleType)
    row = (str(_id(index, seed)), gender, *place, colour, season, year, usage, name)
    return _quirks(index, Product(row, s.draw(kind.draw, look)))


def _quirks(index: int, product: Product) -> Product:
    """What real catalogues have too: a comma in a name, an empty season, no image, a file cut short."""
    row, image = list(product.row), product.image
    if index % COMMA_EVERY == COMMA_EVERY - 1:
        row[-1] += ", Pack of 2"
    if index % NO_SEASON_EVERY == NO_SEASON_EVERY - 1:
        row[COLUMNS.index("season")] = ""
    if index % NO_IMAGE_EVERY == NO_IMAGE_EVERY // 2:
        image = None
    elif image and index % TORN_EVERY == TORN_EVERY - 1:
        image = image[: len(image) // 3]
    return Product(tuple(row), image)


def _id(index: int, seed: int) -> int:
    """A five-digit id, scattered over its range and never given twice (six digits from the 90,000th product on)."""
    turn, place = divmod(index, ID_SPAN)
    # ID_STEP and ID_SPAN have no common factor, so the walk meets every id once a turn.
    return ID_FIRST + turn * ID_SPAN + (place * ID_STEP + seed * 7_919) % ID_SPAN


def _pick(rng: np.random.Generator, weights: Weights) -> str:
    # Only `random()` is used throughout: it is the one method whose stream numpy keeps from version to version.
    left = float(rng.random()) * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return name


def _shade(rng: np.random.Generator, colour: Colour) -> Colour:
    """`colour` a little lighter or darker, and hardly another hue."""
    light = (rng.random() - 0.5) * 16
    moved = [channel + light + (rng.random() - 0.5) * 5 for channel in colour]
    return tuple(int(min(250, max(24, channel))) for channel in moved)  # type: ignore[return-value]


def _accent(rng: np.random.Generator, colour: Colour) -> Colour:
    """A second colour far enough from `colour` to be seen on it."""
    far = [
        COLOURS[name] for name in ACCENTS if sum(abs(a - b) for a, b in zip(COLOURS[name], colour, strict=True)) > 190
    ]
    return far[int(rng.random() * len(far))]
