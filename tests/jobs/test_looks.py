"""Looking at many photos: drawn persons and products, with the real networks, Spark, lake and Postgres."""

import csv
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from infra import store
from infra.errors import UserError
from infra.lake import Lake
from jobs import cli, looking, looks, photo_source, similar
from jobs.cli import app
from jobs.ids import key
from jobs.lake_search import OTHERS, LakeSearcher, _read_embeddings
from jobs.look import look
from jobs.printing import Terminal
from jobs.serve.search import Searcher, Seen
from jobs.step import execute
from ml.images import ImageError, decode
from tests.catalogues import folder, manifest, open_run, write_result, write_table
from tests.figures import mannequin
from tests.jobs.test_photo_search import SIZE, live_run, on_ground, photo

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
RED = mannequin()


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def cut(data: bytes, rows: int) -> bytes:
    return png(decode(data)[:rows])


TWO = png(np.hstack([decode(RED), decode(mannequin(top=(30, 60, 190)))]))
GOOD = {"a/two.png": TWO, "cut.png": cut(RED, 430), "nobody.jpg": photo(3, shift=6), "red.jpg": RED}
BAD = {"deep/empty.jpg": b"", "note.txt": b"no image", "torn.jpg": RED[:900]}


@pytest.fixture(scope="module")
def night(postgres, tmp_path_factory):
    """The live run, a connection to its store, and what looks at one photo."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE DATABASE many_looks")
    uri = make_conninfo(postgres, dbname="many_looks")
    run = live_run(Lake(tmp_path_factory.mktemp("lake").as_uri()), uri)
    with store.connect(uri, Path()) as connection:
        searcher, models = Searcher(connection, run.settings), looking.load(run.lake)

        def alone(data, filters=(), **options):
            return look(searcher, models, connection, data, dict(filters), **options)

        yield run, connection, searcher, alone


def asked(run, photos):
    """The run with these photos to look at, on one worker; no step may ask the store."""
    nowhere = "postgresql://user:s3cret@127.0.0.1:1/nowhere"
    return open_run(run.lake, run.name, look_photos=str(photos), store=nowhere, spark="local[1]", **SIZE)


def rows_of(run, name):
    """Rows of a table of the step, photos by name and filters: in which file each is, a hash decides."""
    rows = run.lake.table(name, run.result("looks").tables[name]).read().to_pylist()
    # stable: persons and articles stay in their order
    return sorted(rows, key=lambda row: (row["image"], row.get("filters", "")))


def expected(name, data, found, filters="{}"):
    """What a row of `looks` says, of each article of an answer to one photo, in float32."""
    rows = []
    for number, person in enumerate(found.persons, 1):
        pose, of_person = person.pose, (number, *np.float32(person.box).tolist(), np.float32(person.confidence))
        stands = (pose.orientation, np.float32(pose.confidence), pose.full_shot, np.float32(pose.full_shot_confidence))
        for at, worn in enumerate(person.worn, 1):
            article, items = worn.article, worn.answer.items if worn.answer else []
            rows.append(
                (name, hashlib.sha256(data).hexdigest(), filters, of_person, stands, at, article.name)
                + (np.float32(article.box).tolist(), np.float32(article.confidence), worn.says)
                + ([(item.product_id, item.score) for item in items],)
            )
    return rows


def told(row):
    """The same of a row."""
    person = (row["person"], *row["person_box"], row["person_confidence"])
    stands = (row["orientation"], row["orientation_confidence"], row["full_shot"], row["full_shot_confidence"])
    return (
        (row["image"], row["image_sha256"], row["filters"], person, stands, row["article"], row["class"])
        + (row["box"], row["confidence"], row["says"][-1])
        + (list(zip(row["items"], row["scores"], strict=True)),)
    )


# A folder -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looked(night, tmp_path_factory):
    """A folder of photos, good and bad, the run that has looked at it, and what that gave; a task a photo."""
    place = folder(tmp_path_factory.mktemp("photos"), GOOD | BAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "TASK_PHOTOS", 1)
        run = asked(night[0], place)
        yield place, run, execute("looks", run)


def test_each_photo_is_answered_as_it_is_alone(night, looked):
    _, run, result = looked
    rows, alone = rows_of(run, "looks"), night[3]
    found = {name: alone(data) for name, data in GOOD.items()}
    articles = [row for row in rows if row["class"]]
    assert [told(row) for row in articles] == [
        each for name in sorted(GOOD) for each in expected(name, GOOD[name], found[name])
    ]
    assert {row["image"] for row in articles} == {"a/two.png", "cut.png", "red.jpg"}
    assert all(len(row["items"]) == 10 for row in articles)
    assert "this is no full shot" in next(row["says"][0] for row in articles if row["image"] == "cut.png")
    assert result.figures["articles"] == len(articles)
    assert (result.figures["persons"], result.figures["without_article"], result.rows) == (4, 1, len(rows))


def test_a_photo_of_nobody_has_one_row_with_the_ordinary_answer(night, looked):
    (row,) = (row for row in rows_of(looked[1], "looks") if not row["class"])
    answer = night[3](GOOD["nobody.jpg"]).answer
    assert (row["image"], row["person"], row["box"]) == ("nobody.jpg", None, None)
    assert row["says"] == ["no person was found: the whole photo was searched for"]
    assert (row["stage"], row["why"]) == (answer.stage, answer.why)
    assert list(zip(row["items"], row["scores"], strict=True)) == [(i.product_id, i.score) for i in answer.items]


def test_what_cannot_be_read_is_a_reject_with_its_reason(looked):
    _, run, result = looked
    rejects = {row["image"]: row["reason"] for row in rows_of(run, "look_rejects")}
    assert rejects == {"deep/empty.jpg": "empty", "note.txt": "not an image", "torn.jpg": "damaged"}
    assert (result.rejects, result.figures["photos"], result.figures["looked_at"]) == (3, 7, 7)


def test_what_has_been_looked_at_is_not_looked_at_again_unless_it_or_the_products_have_changed(night, looked, tmp_path):
    place, run, first = looked
    again = execute("looks", run)
    assert (again.skipped, again.figures["looked_at"], again.tables) == (True, 0, first.tables)
    assert again.figures["articles"] == first.figures["articles"]
    others = {name: data for name, data in (GOOD | BAD).items() if name != "a/two.png"}
    moved = folder(tmp_path / "moved", others | {"cut.png": cut(RED, 440), "new.jpg": b"new"})
    third = execute("looks", asked(run, moved))
    assert (third.skipped, third.figures["looked_at"], third.figures["photos"]) == (False, 2, 7)
    assert {row["image"] for row in rows_of(run, "looks")} == {"cut.png", "nobody.jpg", "red.jpg"}
    fewer = asked(run, f"{folder(tmp_path / 'one', {'note.txt': b'no image'})}?k=3")
    assert execute("looks", fewer).figures["looked_at"] == 1
    assert rows_of(run, "looks") == []
    part = run.lake.table("look_rejects").parts[0]
    run.lake.delete(f"look_rejects/{part}")  # as a clean-up would that nobody should do
    assert execute("looks", fewer).figures["looked_at"] == 1


def test_a_task_ends_where_a_name_says_so_and_never_late(monkeypatch):
    monkeypatch.setattr(looks, "TASK_PHOTOS", 16)
    photos = [photo_source.Photo(f"{number}.jpg", {}) for number in range(400)]
    tasks = [tuple(map(int, task.split(":"))) for task in looks._tasks(photos)]
    assert [start for start, _ in tasks] == [0, *(stop for _, stop in tasks[:-1])]
    assert tasks[-1][1] == 400
    assert max(stop - start for start, stop in tasks) <= looks.TASK_MOST
    assert 8 < np.mean([stop - start for start, stop in tasks]) < 32
    fewer = [tuple(map(int, task.split(":"))) for task in looks._tasks(photos[1:])]
    ends, without = {stop for _, stop in tasks}, {stop + 1 for _, stop in fewer}
    assert len(ends & without) > 0.8 * len(ends)


def test_photos_in_s3_are_read_by_the_workers(night, looked, bucket):
    run, client = asked(night[0], f"s3://{bucket}/in"), boto3.client("s3", region_name="us-east-1")
    for name in ("red.jpg", "note.txt"):
        client.put_object(Bucket=bucket, Key=f"in/{name}", Body=(GOOD | BAD)[name])
    told_by = ("lake", "look_photos", "store", "spark", *SIZE)
    env = {f"LOOKALIKE_{name.upper()}": str(getattr(run.settings, name)) for name in told_by}
    command = [sys.executable, "-m", "jobs.looks", "--run", run.name]  # whose workers have the address of this S3
    subprocess.run(command, check=True, env=os.environ | env, cwd=ROOT)
    rows = rows_of(run, "looks")
    assert [told(row) for row in rows] == expected("red.jpg", RED, night[3](RED))
    assert [row["image"] for row in rows_of(run, "look_rejects")] == ["note.txt"]


# A table --------------------------------------------------------------------------------------------------------------


def test_a_table_gives_photos_filters_of_their_own_and_asks_each_question_once(night, tmp_path):
    run, _, _, alone = night
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows(
        [["image", "baseColour"], *[["in/red.jpg", colour] for colour in ("Red", "", "Red")], ["no.jpg", ""]]
    )
    folder(tmp_path, {"photos.csv": text.getvalue().encode(), "in/red.jpg": RED})
    execute("looks", asked(run, f"{tmp_path}/photos.csv?k=4"))
    filters = {'{"baseColour": "Red"}': {"baseColour": "Red"}, "{}": {}}
    rows = rows_of(run, "looks")
    assert [told(row) for row in rows] == [
        each
        for words, wanted in filters.items()
        for each in expected("in/red.jpg", RED, alone(RED, wanted, k=4), words)
    ]
    assert [(row["image"], row["reason"]) for row in rows_of(run, "look_rejects")] == [("no.jpg", "missing file")]


def test_photos_that_a_table_holds_are_read_from_it_by_the_workers(night, tmp_path):
    run, rows = night[0], [{"image": RED}, {"image": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photos.parquet")
    batch = looks._batch(asked(run, tmp_path), photo_source.open_source(f"{tmp_path}/photos.parquet", ()))
    assert RED not in pickle.dumps(batch)
    execute("looks", asked(run, tmp_path / "photos.parquet"))
    assert {row["image"] for row in rows_of(run, "looks")} == {"row 1"}
    assert [(row["image"], row["reason"]) for row in rows_of(run, "look_rejects")] == [("row 2", "no path")]


def test_a_delta_table_is_told_from_a_folder_of_photos(tmp_path):
    folder(tmp_path, {"_delta_log/00000000000000000000.json": b"{}", "part-0.parquet": b"PAR1"})
    with pytest.raises(UserError, match="it is a Delta table") as caught:
        photo_source.open_source(str(tmp_path), ())
    assert "to_parquet" in caught.value.remedy


def test_workers_are_told_no_password_and_of_photos_that_cannot_be_used_why(night, tmp_path):
    run = asked(night[0], tmp_path)
    folder(tmp_path, {"a.csv": b"image\nred.jpg\nb.jpg,too long\n"})
    batch = looks._batch(run, photo_source.open_source(f"{tmp_path}/a.csv", ()))
    data = pickle.dumps(batch)
    assert b"s3cret" not in data
    wrong = pickle.loads(data).source.photos[1].content  # noqa: S301
    assert isinstance(wrong, ImageError)
    assert (wrong.reason, str(wrong)) == ("too many fields", "too many fields: the row is longer than the header")


def test_what_was_remembered_with_other_columns_counts_for_nothing(night, tmp_path, monkeypatch):
    run, source = asked(night[0], tmp_path), photo_source.Source([], 10, ())
    before = looks._batch(run, source).fingerprint
    assert looks._batch(run, source).fingerprint == before
    monkeypatch.setitem(looks.SCHEMAS, "looks", looks.LOOKS.remove(0))
    assert looks._batch(run, source).fingerprint != before


def test_without_photos_there_is_nothing_to_do_and_the_step_says_so(night):
    result = execute("looks", open_run(night[0].lake, night[0].name))
    assert result.figures == {
        "photos": 0,
        "reason": "LOOKALIKE_LOOK_PHOTOS names no photos: there is nothing to look at",
    }


def test_a_run_whose_steps_do_not_fit_together_is_not_looked_for(night, tmp_path):
    run = asked(night[0], folder(tmp_path, {"red.jpg": RED}))
    kept = run.lake.read_bytes(f"runs/{run.name}/candidates.json")
    other = json.loads(kept)
    other["inputs"]["products"]["content"] = "another"
    run.lake.write_bytes(f"runs/{run.name}/candidates.json", json.dumps(other).encode())
    try:
        with pytest.raises(UserError, match="is no closed chain: step candidates read"):
            execute("looks", run)
    finally:
        run.lake.write_bytes(f"runs/{run.name}/candidates.json", kept)


# Without the store ----------------------------------------------------------------------------------------------------


def test_the_lake_answers_what_the_store_does(night):
    run, connection, searcher, _ = night
    from_lake = LakeSearcher(run)
    seen = searcher.see([photo(number, shift=number, background="peru") for number in range(5)])
    seen += [
        Seen(seen[0].embedding, np.full_like(seen[0].probabilities, 0.25)),
        Seen(np.zeros_like(seen[0].embedding), seen[0].probabilities),  # as near to all: ties
    ]
    questions = [
        ({}, 10, ()),
        ({"baseColour": "Red"}, 100, ("7", "none", "31")),
        ({"gender": {"not": "Men"}, "articleType": ["Handbags", "Tshirts", None]}, 4, ()),
        ({"season": None}, 10, ()),
        ({"baseColour": {"is": ["Red", "Blue"], "not": "Blue"}, "subCategory": "Shoes"}, 3, ("1",)),
    ]
    for each in seen:
        for filters, k, exclude in questions:
            asked_for = (each, filters, k, exclude)
            assert from_lake.answer(None, *asked_for) == searcher.answer(connection, *asked_for)
    with pytest.raises(UserError, match="unknown field 'size'"):
        from_lake.answer(None, seen[0], {"size": "L"})


def test_the_lake_sees_photos_as_the_store_does_whatever_other_images_products_have(night):
    run, _, searcher, _ = night
    main = searcher._sight.gallery.embeddings
    rows = [
        {"product_id": str(at), "embedding": of.tolist(), "unlabelled": None, OTHERS: main[::-1][at].tolist()}
        for at, of in enumerate(main)
    ]
    version = write_table(run, "embeddings", rows, similar.EMBEDDINGS.append(similar.OTHERS))
    several = replace(run, manifest=manifest(run))
    several.manifest["results"]["similar"] |= {"tables": run.result("similar").tables | {"embeddings": version}}
    photos = [on_ground(number, seed=number) for number in (0, 1, 3)]
    for ours, theirs in zip(LakeSearcher(several).see(photos), searcher.see(photos), strict=True):
        assert np.array_equal(ours.embedding, theirs.embedding)
        assert np.array_equal(ours.probabilities, theirs.probabilities)


def test_products_with_several_images_are_compared_by_the_nearest(lake):
    run, rng = open_run(lake), np.random.default_rng(0)
    images = {str(number): rng.normal(size=(number % 3 + 1, 4)).astype(np.float32) for number in (11, 2, 100, 7)}
    rows = [
        {"product_id": name, "embedding": of[0].tolist(), "unlabelled": None, OTHERS: of[1:].ravel().tolist()}
        for name, of in images.items()
    ]
    version = write_table(run, "embeddings", rows, similar.EMBEDDINGS.append(similar.OTHERS))
    write_result(run, "similar", tables={"embeddings": version})
    ids = sorted(images, key=key)
    embeddings, firsts = _read_embeddings(run, pa.chunked_array([ids]))
    query = rng.normal(size=4).astype(np.float32)
    scores = np.maximum.reduceat(embeddings @ query, firsts)
    assert scores == pytest.approx([(images[name] @ query).max() for name in ids])


# The DAG --------------------------------------------------------------------------------------------------------------


def test_the_dag_names_the_live_run_to_a_driver_that_cannot_ask_the_store(night):
    run = night[0]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{DAGS}:{DAGS.parent}"}
    env |= {"LOOKALIKE_LAKE": run.lake.uri, "LOOKALIKE_STORE": run.settings.store}
    asks = "from spark_step import run_name; print(run_name('latest'), run_name('2026-01-01'))"
    done = subprocess.run([sys.executable, "-c", asks], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{run.name} 2026-01-01"


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(night, monkeypatch):
    """Runs `lookalike look` on the live run and gives its exit code and output."""
    run = night[0]
    monkeypatch.setattr(cli, "out", Terminal(width=200))
    for name, value in {**SIZE, "lake": run.lake.uri, "store": run.settings.store, "spark": "local[1]"}.items():
        monkeypatch.setenv(f"LOOKALIKE_{name.upper()}", str(value))
    return lambda *arguments: CliRunner().invoke(app, ["look", *map(str, arguments)])


def test_the_command_looks_at_a_folder_and_says_what_it_found(night, command, tmp_path):
    folder(tmp_path, {"red.jpg": RED, "note.txt": b"no image"})
    done = command(tmp_path, "--filter", "baseColour=Red", "-k", 3)
    assert done.exit_code == 0, done.output
    assert "photos           2" in done.output
    assert "look_rejects (1 rows)" in done.output
    rows = rows_of(night[0], "looks")
    assert {(row["filters"], len(row["items"])) for row in rows} == {('{"baseColour": "Red"}', 3)}


def test_the_command_draws_no_picture_of_many_photos(command, tmp_path):
    done = command(tmp_path, "--picture", tmp_path / "look.png")
    assert isinstance(done.exception, UserError)
    assert "a picture is drawn of one photo" in str(done.exception)


def test_a_live_run_that_was_published_is_looked_for_as_it_was_published(night, tmp_path):
    run = night[0]
    published = replace(run, manifest={"results": {name: _stored(run, name) for name in looks.READ}})
    batch = looks._batch(
        replace(published, settings=asked(run, tmp_path).settings),
        photo_source.Source([], 10, ()),
    )
    assert looks._run(batch.run).result("similar") == run.result("similar")


def _stored(run, step):
    return json.loads(run.lake.read_bytes(f"runs/{run.name}/{step}.json"))
