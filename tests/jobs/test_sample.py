"""The sample catalogue is determined, in the published form, odd where it should be, and looks like what it says."""

from __future__ import annotations

import io
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from jobs.sample import COLOURS, COLUMNS, KINDS, Product, sample


@pytest.fixture(scope="module")
def products() -> list[Product]:
    return list(sample(1000, 7))


def _pixels(product: Product) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(product.image or b"")), dtype=np.float32)


def _whole(products: list[Product]) -> list[Product]:
    return [product for product in products if product.image and product.image.endswith(b"\xff\xd9")]


def _column(products: list[Product], name: str) -> list[str]:
    return [product.row[COLUMNS.index(name)] for product in products]


def test_a_sample_is_the_beginning_of_a_larger_one_and_the_same_every_time():
    assert list(sample(70, 7)) == list(sample(90, 7))[:70]


def test_another_seed_gives_other_products():
    one, other = list(sample(20, 7)), list(sample(20, 8))
    assert not {product.image for product in one} & {product.image for product in other}
    assert {product.row[0] for product in one} != {product.row[0] for product in other}


def test_rows_have_the_published_columns_and_values(products):
    assert all(len(product.row) == len(COLUMNS) for product in products)
    kinds = {(kind.masterCategory, kind.subCategory, kind.articleType) for kind in KINDS}
    assert set(zip(*(_column(products, name) for name in COLUMNS[2:5]), strict=True)) == kinds
    assert set(_column(products, "baseColour")) <= set(COLOURS)
    assert set(_column(products, "gender")) == {"Men", "Women", "Boys", "Girls", "Unisex"}
    assert {len(year) for year in _column(products, "year")} == {4}


def test_the_taxonomy_is_wide_and_t_shirts_are_commonest(products):
    assert len({kind.articleType for kind in KINDS}) >= 16
    assert len({kind.subCategory for kind in KINDS}) >= 8
    assert len({kind.masterCategory for kind in KINDS}) >= 3
    assert Counter(_column(products, "articleType")).most_common(1)[0][0] == "Tshirts"


def test_ids_are_five_digits_unique_and_scattered(products):
    ids = sorted(int(product.row[0]) for product in products)
    assert len(set(ids)) == len(products)
    assert ids[0] >= 10_000
    assert ids[-1] <= 99_999
    assert len(set(np.diff(ids))) > 1


@pytest.mark.parametrize(("seed", "indices"), [(0, range(90_000)), (7, range(89_990, 90_010))])
def test_no_id_is_given_twice_even_in_a_large_sample(seed, indices):
    from jobs.sample import _id

    assert len({_id(index, seed) for index in indices}) == len(indices)


def test_pictures_are_jpegs_of_120_by_160_on_white(products):
    for product in _whole(products)[:100]:
        picture = Image.open(io.BytesIO(product.image))
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (120, 160))
        corners = np.asarray(picture)[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.min() > 240


def test_few_products_are_odd_on_purpose(products):
    missing = [product for product in products if product.image is None]
    torn = [product for product in products if product.image and not product.image.endswith(b"\xff\xd9")]
    assert len(missing) >= 1
    assert len(torn) >= 1
    assert len(missing + torn) < 0.01 * len(products)
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(torn[0].image)).load()
    assert _column(products, "season").count("") == 1
    assert any("," in name for name in _column(products, "productDisplayName"))
    assert not any("," in value for product in products for value in product.row[:-1])
    times = Counter(product.image for product in _whole(products))
    assert 5 <= sum(count - 1 for count in times.values()) <= 25


def test_nearest_pictures_share_the_article_type_far_more_often_than_chance(products):
    whole = _whole(products)
    small = np.stack([np.asarray(Image.open(io.BytesIO(p.image)).resize((24, 32)), np.float32) for p in whole])
    rows = small.reshape(len(whole), -1) - 255
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    likeness = rows @ rows.T
    np.fill_diagonal(likeness, -1)
    types = np.array(_column(whole, "articleType"))
    agreement = (types[np.argsort(-likeness, axis=1)[:, :5]] == types[:, None]).mean()
    chance = ((np.unique(types, return_counts=True)[1] / len(types)) ** 2).sum()
    assert chance < 0.15
    assert agreement > 0.8


def test_a_plain_product_has_the_colour_that_its_row_names():
    shades = defaultdict(list)
    for product in sample(400, 3):
        values = dict(zip(COLUMNS, product.row, strict=True))
        plain = not {"Printed", "Striped", "Checked", "Floral"} & set(values["productDisplayName"].split())
        if values["articleType"] == "Tshirts" and plain and product.image:
            shades[values["baseColour"]].append(_pixels(product)[85:100, 46:56].mean(axis=(0, 1)))
    assert len(shades) >= 6
    for colour, means in shades.items():
        if colour not in ("Black", "Grey"):
            nearest = min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - np.median(means, 0)).sum()))
            assert np.abs(np.median(means, axis=0) - COLOURS[colour]).max() < 45, (colour, nearest)


@pytest.mark.parametrize(("n", "seed"), [(0, 1), (-3, 1), (5, -1)])
def test_an_impossible_sample_is_refused_at_once(n, seed):
    with pytest.raises(ValueError, match=f"n={n}, seed={seed}"):
        sample(n, seed)
