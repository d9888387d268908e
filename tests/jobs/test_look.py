"""The whole look of a drawn person, on a catalogue of drawn products, with the real networks, lake and Postgres."""

import io
import json
import sys
import venv
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from infra import store
from infra.errors import UserError
from infra.lake import Lake
from jobs import cli, look_picture, looking
from jobs.cli import app
from jobs.look import KINDS, PHOTO_SIDE, SUBCATEGORIES, look
from jobs.printing import Terminal
from jobs.serve.search import Searcher
from jobs.street_photos import StreetPhotos, labelled
from jobs.train_pose import learn, see
from ml.articles import CLASSES
from ml.images import ImageError, decode, within
from tests.catalogues import zip_bytes
from tests.figures import mannequin
from tests.jobs.test_photo_search import SIZE, attributes, live_run, photo
from tests.jobs.test_serve import Served

PERSON = mannequin()


@pytest.fixture(scope="module")
def night(postgres, tmp_path_factory):
    """The live run, a connection to its store, a searcher and the models of the look."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE DATABASE looks")
    uri = make_conninfo(postgres, dbname="looks")
    run = live_run(Lake(tmp_path_factory.mktemp("lake").as_uri()), uri)
    with store.connect(uri, Path()) as connection:
        yield run, connection, Searcher(connection, run.settings), looking.load(run.lake)


def seen(night, data=PERSON, filters=(), **options):
    _, connection, searcher, models = night
    return look(searcher, models, connection, data, dict(filters), **options)


def beside(*photos):
    """Photos side by side, as a PNG."""
    images = [decode(data) for data in photos]
    height = max(len(image) for image in images)
    tiles = [np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)), mode="edge") for image in images]
    out = io.BytesIO()
    Image.fromarray(np.hstack(tiles)).save(out, "PNG")
    return out.getvalue()


# The answer -----------------------------------------------------------------------------------------------------------


def test_a_person_is_answered_for_from_head_to_foot(night):
    found = seen(night)
    (person,) = found.persons
    assert (person.pose.full_shot, person.pose.orientation) == (True, "front")
    assert found.says == []
    assert found.answer is None
    assert found.boxes_by == "a detector of articles"
    worn = {each.article.name: each for each in person.worn}
    assert {"topwear", "bottomwear", "footwear"} <= set(worn)
    for name, subcategory in (("topwear", "Topwear"), ("footwear", "Shoes")):
        items = worn[name].answer.items
        assert len(items) == 10
        assert {attributes(int(item.product_id))["subCategory"] for item in items} == {subcategory}
    assert worn["bottomwear"].says == "the catalogue has no subCategory Bottomwear: searched in all of it"
    assert len(worn["bottomwear"].answer.items) == 10


def test_without_a_detector_boxes_are_drawn_from_keypoints_and_the_answer_says_so(night):
    run, connection, searcher, _ = night
    found = look(searcher, looking.load(run.lake, detector=""), connection, PERSON, {})
    assert "not whether it is" in found.boxes_by
    assert {"topwear", "bottomwear", "footwear"} <= {each.article.name for each in found.worn}


def test_boxes_lie_on_the_drawn_clothes_in_pixels_of_the_photo_as_it_was_looked_at(night):
    (person,) = seen(night).persons
    worn = {each.article.name: each.article.box for each in person.worn}
    left, top, right, bottom = worn["topwear"]
    assert (left, top, right, bottom) == pytest.approx((150, 180, 330, 400), abs=40)
    left, top, right, bottom = worn["footwear"]
    assert (top + bottom) / 2 == pytest.approx(645, abs=30)
    left, top, right, bottom = person.box
    assert (left, top, right, bottom) == pytest.approx((130, 50, 350, 662), abs=40)


def test_each_part_has_its_milliseconds(night):
    ms = seen(night).ms
    assert list(ms) == ["decode", "persons", "articles", "embed", "search", "all"]
    assert ms["all"] == pytest.approx(sum(ms.values()) - ms["all"], abs=0.5)


def test_filters_narrow_each_article_and_one_that_leaves_nothing_is_told(night):
    (person,) = seen(night, filters={"subCategory": ["Shoes", "Bags"], "baseColour": "Red"}, k=4).persons
    worn = {each.article.name: each for each in person.worn}
    assert worn["topwear"].answer is None
    assert worn["topwear"].says == "no product of Topwear passes the filters"
    items = [attributes(int(item.product_id)) for item in worn["footwear"].answer.items]
    assert [(of["subCategory"], of["baseColour"]) for of in items] == [("Shoes", "Red")] * 4
    with pytest.raises(UserError, match="unknown field 'size'"):
        seen(night, filters={"size": "L"})


def test_an_article_of_some_kinds_alone_is_searched_among_these_where_there_are_any(night, monkeypatch):
    monkeypatch.setitem(SUBCATEGORIES, "topwear", ("Topwear", "Shoes"))
    for kind in ("Casual Shoes", "Tshirts"):
        monkeypatch.setitem(KINDS, "topwear", (kind,))
        items = topwear(night).answer.items
        assert [attributes(int(item.product_id))["articleType"] for item in items] == [kind] * 10
    monkeypatch.setitem(KINDS, "topwear", ("Space Suits",))
    assert len(topwear(night).answer.items) == 10
    only_bags = topwear(night, filters={"articleType": "Handbags"})
    assert (only_bags.answer, only_bags.says) == (None, "no product of Topwear or Shoes passes the filters")


def topwear(night, **options):
    return next(each for each in seen(night, **options).persons[0].worn if each.article.name == "topwear")


def test_products_that_are_excluded_are_never_given(night):
    first = [item.product_id for each in seen(night).persons[0].worn for item in each.answer.items]
    again = seen(night, exclude=first[:5]).persons[0].worn
    assert not set(first[:5]) & {item.product_id for each in again for item in each.answer.items}


def test_of_several_persons_the_largest_comes_first(night):
    small = mannequin(top=(30, 60, 190), size=(240, 360))
    found = seen(night, beside(small, PERSON))
    assert len(found.persons) == 2
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (each.box for each in found.persons)]
    assert areas[0] > 2 * areas[1]
    assert found.persons[0].box[0] > 240


def test_a_person_cut_at_the_knees_is_no_full_shot_and_has_no_footwear(night):
    out = io.BytesIO()
    Image.fromarray(decode(PERSON)[:430]).save(out, "PNG")
    found = seen(night, out.getvalue())
    (person,) = found.persons
    assert not person.pose.full_shot
    assert found.says == ["this is no full shot of a person: answered for what is in the frame"]
    names = [each.article.name for each in person.worn]
    assert "topwear" in names
    assert "footwear" not in names


def test_a_photo_of_nobody_is_searched_for_as_any_photo_is(night):
    _, connection, searcher, _ = night
    found = seen(night, photo(3, shift=6))
    assert found.persons == []
    assert found.answer == searcher.search(connection, photo(3, shift=6), {})
    assert found.says == ["no person was found: the whole photo was searched for"]


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"no image", "not an image"), (PERSON[:900], "damaged")])
def test_bytes_that_are_no_photo_are_told_by_reason(night, data, reason):
    with pytest.raises(ImageError) as raised:
        seen(night, data)
    assert raised.value.reason == reason


def test_every_class_of_article_has_subcategories():
    assert set(SUBCATEGORIES) == set(CLASSES)


# Over HTTP -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(night, tmp_path_factory):
    """A server of the live run, ready for photos."""
    server = Served(night[0].settings.store, night[0], tmp_path_factory.mktemp("serve"), serve_photos="true")
    server.wait(lambda: server.client.get("/readyz").json()["photos"] == "ready")
    server.client.timeout = 120
    yield server
    server.stop()


def asked(server, data=PERSON, query="", **options):
    return server.client.post(f"/look?{query}", content=data, headers={"content-type": "image/jpeg"}, **options)


def listed(answer):
    return [(rank, item.product_id, item.score) for rank, item in enumerate(answer.items, 1)] if answer else []


def items_of(told):
    return [(item["rank"], item["product_id"], item["score"]) for item in told["items"]] if told else []


@pytest.mark.parametrize(
    ("data", "query", "options"),
    [
        (PERSON, "", {}),
        (PERSON, "baseColour=Red&exclude=1,4&k=4", {"filters": {"baseColour": "Red"}, "exclude": ["1", "4"], "k": 4}),
        (PERSON, "subCategory=Shoes", {"filters": {"subCategory": "Shoes"}}),
        (beside(mannequin(top=(30, 60, 190), size=(240, 360)), PERSON), "", {}),
        (photo(3, shift=6), "gender!=Men", {"filters": {"gender": {"not": "Men"}}}),
    ],
    ids=["a person", "filters", "nothing passes", "two persons", "nobody"],
)
def test_over_http_a_photo_has_the_same_answer(server, night, data, query, options):
    answer = asked(server, data, query)
    assert answer.status_code == 200, answer.text
    told, found = answer.json(), seen(night, data, **options)
    assert told["run"]["run"] == night[0].name
    assert (told["width"], told["height"], told["says"], told["boxes_by"]) == (
        found.width,
        found.height,
        found.says,
        found.boxes_by,
    )
    assert items_of(told["answer"]) == listed(found.answer)
    for person, dressed in zip(told["persons"], found.persons, strict=True):
        assert person["box"] == pytest.approx(dressed.box, abs=0.05)
        assert (person["confidence"], person["pose"]) == (dressed.confidence, dressed.pose._asdict())
        for article, worn in zip(person["articles"], dressed.worn, strict=True):
            assert (article["class"], article["confidence"]) == (worn.article.name, worn.article.confidence)
            assert article["box"] == pytest.approx(worn.article.box, abs=0.05)
            assert (article["says"], items_of(article)) == (worn.says, listed(worn.answer))
    assert list(told["ms"]) == list(found.ms)


def test_over_http_products_have_names_and_images_and_a_photo_may_come_in_a_form(server):
    told = asked(server, query="k=2").json()
    items = [item for article in told["persons"][0]["articles"] for item in article["items"]]
    assert all(item["name"] == f"Product {item['product_id']}" for item in items)
    assert server.client.get(items[0]["image"]).content == photo(int(items[0]["product_id"]))
    form = server.client.post("/look?k=2", files={"photo": ("a.jpg", PERSON, "image/jpeg")}).json()
    assert form | {"ms": None} == told | {"ms": None}


def test_a_wrong_question_with_a_photo_of_a_person_is_told_as_a_problem(server):
    for query, status, words in (
        ("k=0", 400, "k is no such number"),
        ("size=L", 400, "unknown field 'size'"),
        ("explain=true", 400, "explain says nothing here"),
    ):
        answer = asked(server, query=query)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert words in answer.json()["detail"]


@pytest.fixture
def bare_python(tmp_path):
    """A Python of an environment with this one's libraries, in which the networks of the look are not."""
    venv.create(tmp_path / "bare", symlinks=True, with_pip=False)
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return tmp_path / "bare/bin/python"


def test_a_server_without_the_networks_of_the_look_says_so_and_answers_all_else(night, bare_python, tmp_path):
    run = night[0]
    server = Served(run.settings.store, run, tmp_path, python=bare_python, serve_photos="true")
    server.wait(lambda: server.client.get("/readyz").json()["photos"] == "ready")
    refused = asked(server)
    assert (refused.status_code, refused.json()["place"]) == (503, "the server")
    assert "make models" in refused.json()["remedy"]
    assert str(tmp_path) not in refused.text
    assert "pose_detection" in server.log.read_text()
    assert server.client.post("/search", content=photo(3)).status_code == 200
    server.stop()


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(night, tmp_path, monkeypatch):
    """Runs `lookalike look` on the live run and gives its exit code and output."""
    run = night[0]
    monkeypatch.setattr(cli, "out", Terminal(width=200))
    monkeypatch.setenv("LOOKALIKE_LAKE", run.lake.uri)
    monkeypatch.setenv("LOOKALIKE_STORE", run.settings.store)
    for name, value in SIZE.items():
        monkeypatch.setenv(f"LOOKALIKE_{name.upper()}", str(value))

    def call(*arguments):
        return CliRunner().invoke(app, ["look", *map(str, arguments)])

    return call


def test_the_command_shows_the_answer_and_draws_it(command, tmp_path):
    (tmp_path / "person.jpg").write_bytes(PERSON)
    result = command(tmp_path / "person.jpg", "--filter", "baseColour=Red", "--picture", tmp_path / "look.png")
    assert result.exit_code == 0, result.output
    for words in (
        "stands        front",
        "full shot",
        "topwear",
        "footwear",
        "searched in Shoes",
        "a detector of articles",
        "ms:",
    ):
        assert words in result.output
    drawn = decode((tmp_path / "look.png").read_bytes())
    assert drawn.shape[1] > 10 * look_picture.TILE[0]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("none.jpg", None, "the photo cannot be read"), ("text.jpg", b"hello", "the photo cannot be used: not an image")],
)
def test_the_command_refuses_in_words_what_it_cannot_look_at(command, tmp_path, name, data, words):
    if data:
        (tmp_path / name).write_bytes(data)
    result = command(tmp_path / name)
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


def test_the_picture_has_a_row_for_each_article_beside_the_photo_with_its_boxes(night):
    found = seen(night)
    items = {item.product_id for each in found.persons[0].worn for item in each.answer.items}
    tiles = {product_id: decode(photo(int(product_id))) for product_id in items}
    drawn = look_picture.draw(within(PERSON, PHOTO_SIDE), found, tiles)
    rows = look_picture.rows_of(found)
    assert len(rows) == len(found.persons[0].worn)
    empty = look_picture.draw(within(PERSON, PHOTO_SIDE), found, {})
    changed = (drawn != empty).any(axis=(1, 2))
    tops = [look_picture.MARGIN + number * look_picture.ROW for number in range(len(rows))]
    assert all(changed[top : top + look_picture.ROW].any() for top in tops)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def street(tmp_path):
    """An archive of four drawn persons with labels."""
    files, boxes, poses, images = {}, [], {}, []
    for number in range(4):
        name = f"drawn-{number}.jpg"
        files[f"images/{name}"] = mannequin(top=(40 * number, 90, 160))
        poses[name] = {"full_shot": True, "orientation": "front", "detailed": False}
        images.append({"id": number, "file_name": name})
        for category, box in (("topwear", [160, 175, 160, 220]), ("footwear", [170, 625, 140, 40])):
            boxes.append({"image_id": number, "category": category, "bbox": box})
    files["pose.json"] = json.dumps(poses).encode()
    genders = {"Women": ["drawn-0.jpg", "drawn-2.jpg"], "Men": ["drawn-1.jpg", "drawn-3.jpg"]}
    files["gender.json"] = json.dumps(genders).encode()
    files["boxes.json"] = json.dumps({"images": images, "annotations": boxes}).encode()
    (tmp_path / "street.zip").write_bytes(zip_bytes(files))
    return tmp_path / "street.zip"


def test_labelled_photos_teach_poses_and_boxes(street, night):
    photos, models = StreetPhotos(street), night[3]
    found, sights = see(photos, models.eyes, models.onlooker)
    learnt = learn(photos, found, sights, found)
    assert photos.genders == {f"drawn-{number}.jpg": "Men" if number % 2 else "Women" for number in range(4)}
    assert [learnt.sight.gender(sights[name]) for name in sorted(sights)] == ["Women", "Men"] * 2
    assert set(learnt.boxes.rules) == {"topwear", "footwear"}
    person = labelled(found["drawn-0.jpg"], photos.worn["drawn-0.jpg"])
    drawn = {each.name: each.box for each in learnt.boxes.draw(person, *person.mask.shape)}
    assert drawn["topwear"] == pytest.approx((160, 175, 320, 395), abs=15)


def test_an_archive_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.zip").write_bytes(zip_bytes({"a.txt": b"a"}))
    for name in ("other.zip", "none.zip"):
        with pytest.raises(UserError, match="no archive of street photos"):
            StreetPhotos(tmp_path / name)
