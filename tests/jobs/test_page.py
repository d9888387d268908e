"""The page in a real Chromium, as wide as a desk and as a phone, on the real server and a small drawn catalogue."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
from PIL import Image
from psycopg.conninfo import make_conninfo

from infra import store
from infra.lake import Lake
from jobs.run import Run
from jobs.sample import COLUMNS, sample
from jobs.serve import guard
from jobs.step import execute
from tests.catalogues import extracted, open_run, serve
from tests.figures import mannequin
from tests.jobs.test_photo_search import SIZE
from tests.jobs.test_serve import Served

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium to test the page in: apt install chromium")
AXE = Path(__file__).with_name("axe") / "axe.min.js"
RUN = "2026-01-31"
N = 200
WIDTHS = {"desk": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


def files(products) -> dict[str, bytes]:
    """The files of a catalogue of drawn products."""
    rows = "\n".join([",".join(COLUMNS), *(",".join(product.row) for product in products)])
    pictures = {f"images/{product.row[0]}.jpg": product.image for product in products if product.image}
    return {"styles.csv": rows.encode(), **pictures}


@pytest.fixture(scope="module")
def live(postgres, tmp_path_factory) -> tuple[str, Run]:
    """A store and its live run, after two nights of a drawn catalogue; the second lacks and has some products."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE DATABASE page")
    uri = make_conninfo(postgres, dbname="page")
    lake = Lake(tmp_path_factory.mktemp("lake").as_uri())
    products = list(sample(N + 30, 7))
    for night, of_night in (("2026-01-30", products[:N]), (RUN, products[30:])):
        run = open_run(lake, night, store=uri, **SIZE)
        extracted(run, files(of_night))
        if night == RUN:  # photos are searched for in the live run alone
            execute("classify", run)
            execute("candidates", run)
        serve(run)
    return uri, run


@pytest.fixture(scope="module")
def server(live, tmp_path_factory) -> Iterator[str]:
    """Address of a server of that run."""
    served = Served(*live, tmp_path_factory.mktemp("served"), serve_photos="true")
    served.wait(lambda: served.client.get("/readyz").json()["photos"] == "ready")
    yield f"http://127.0.0.1:{served.port}"
    served.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """A function that opens an address of the page in a new, empty browser and gives its tab."""
    contexts, faults, asked = [], [], []

    def visit(address="/", width="desk", **options):
        phone = {"is_mobile": True, "has_touch": True} if width == "phone" else {}
        context = browser.new_context(viewport=WIDTHS[width], base_url=server, **phone, **options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda said: faults.append(said.text) if refused_by_policy(said) else None)
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert not faults
    assert {urlsplit(url).hostname for url in asked if not url.startswith("blob:")} <= {"127.0.0.1"}


def refused_by_policy(said) -> bool:
    return "Content Security Policy" in said.text


@pytest.fixture(params=list(WIDTHS))
def width(request) -> str:
    return request.param


def get(server: str, path: str, **parameters) -> dict:
    answer = requests.get(server + path, params=parameters, timeout=30)
    answer.raise_for_status()
    return answer.json()


def a_product(server: str) -> dict:
    """A product of a kind that the catalogue has many of."""
    kinds = next(of for of in get(server, "/filters")["fields"] if of["field"] == "articleType")["values"]
    found = get(server, "/products", articleType=kinds[0]["value"])["products"][0]
    return get(server, f"/products/{found['product_id']}")["product"]


def ids(tab, place: str) -> list[str]:
    """The products of a list on the page."""
    tab.locator(f"{place}:visible:not([aria-busy])").wait_for()
    return tab.locator(f"{place}:visible .card[data-id]").evaluate_all("cards => cards.map((card) => card.dataset.id)")


def home(tab) -> list[str]:
    return ids(tab, ".feed")


def ten(tab) -> list[str]:
    return ids(tab, ".items-place")


def count(tab) -> int:
    """How many products the page says there are."""
    sync_api.expect(tab.locator("h1")).to_have_text(re.compile(r"\d+ products?"))
    return int(re.sub(r"\D", "", tab.locator("h1").inner_text()))


def set_filter(tab, name: str) -> None:
    """Press a value of the filters, which a phone has in a sheet."""
    if tab.locator(".filter-button").is_visible():
        tab.locator(".filter-button").click()
        tab.locator("dialog[open]").get_by_role("button", name=name).first.click()
        tab.locator("dialog[open] footer button").click()
    else:
        tab.locator(".side").get_by_role("button", name=name).first.click()


# Browsing -------------------------------------------------------------------------------------------------------------


def test_browsing_shows_products_with_pictures_and_filters_with_counts(visit, server, width):
    tab = visit("/", width)
    assert count(tab) == get(server, "/products")["total"]
    assert home(tab)[:20] == [of["product_id"] for of in get(server, "/products", limit=20)["products"]]
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.feed img')].slice(0, 4).every((image) => image.naturalWidth)"
    )
    set_filter(tab, re.compile(r"^Women ?\d"))
    tab.wait_for_url("**/?gender=Women")
    women = get(server, "/products", gender="Women")["total"]
    sync_api.expect(tab.locator("h1")).to_have_text(f"{women} products")
    set_filter(tab, re.compile("^Not Black$"))
    tab.wait_for_url("**/?gender=Women&baseColour!=Black")
    left = get(server, "/products", **{"gender": "Women", "baseColour!": "Black"})["total"]
    sync_api.expect(tab.locator("h1")).to_have_text(f"{left} products")
    shown = home(tab)
    tab.reload()
    assert (count(tab), home(tab)) == (left, shown)  # the link has it all
    tab.get_by_role("button", name="Remove Gender: Women").click()
    tab.wait_for_url("**/?baseColour!=Black")


def test_a_word_of_the_name_or_the_beginning_of_an_id_finds_products(visit, server, width):
    tab = visit("/", width)
    product = a_product(server)
    tab.get_by_role("searchbox", name="Find by name or number").fill(product["product_id"])
    tab.wait_for_url(f"**/?text={product['product_id']}")
    sync_api.expect(tab.locator(".card")).to_have_count(get(server, "/products", text=product["product_id"])["total"])
    tab.get_by_role("searchbox", name="Find by name or number").fill("nothing is called so")
    notice = tab.locator(".notice")
    sync_api.expect(notice).to_contain_text("Nothing passes all of this")
    notice.get_by_role("button", name="Remove named").click()
    tab.wait_for_url(re.compile("/$"))
    sync_api.expect(tab.locator("h1")).to_have_text(f"{get(server, '/products')['total']} products")


def test_hidden_products_are_neither_shown_nor_counted(visit, server, width):
    first, second, third = (of["product_id"] for of in get(server, "/products", limit=3)["products"])
    gender = get(server, f"/products/{second}")["product"]["attributes"]["gender"]
    total = get(server, "/products")["total"]

    def shown(out: str) -> None:
        """The page has what the server answers without these products."""
        left = get(server, "/products", exclude=out, limit=20)
        sync_api.expect(tab.locator("h1")).to_have_text(f"{left['total']} products")
        assert home(tab)[:20] == [of["product_id"] for of in left["products"]]
        genders = next(of for of in get(server, "/filters", exclude=out)["fields"] if of["field"] == "gender")["values"]
        number = next(of["count"] for of in genders if of["value"] == gender)
        counted = tab.locator(f".pick[data-key='had gender {gender}'] .count").first
        sync_api.expect(counted).to_have_text(re.compile(rf"^{number}\b"))

    tab = visit(f"/?exclude={first}", width)
    shown(first)
    tab.locator(f".card[data-id='{second}'] .hide").dispatch_event("click")
    shown(f"{first},{second}")
    tab.reload()
    shown(f"{first},{second}")
    tab.locator(f".card[data-id='{third}'] .hide").dispatch_event("click")
    shown(f"{first},{second},{third}")
    tab.get_by_role("button", name=re.compile("^Dislikes ?2")).click()
    tab.locator("dialog[open]").get_by_role("button", name="Clear all").click()
    tab.keyboard.press("Escape")
    shown(first)
    tab.get_by_role("button", name=f"Remove without {first}").click()
    sync_api.expect(tab.locator("h1")).to_have_text(f"{total} products")


def test_scrolling_to_the_end_shows_every_product_once_and_keeps_few_in_the_document(visit, server, width):
    tab = visit("/", width)
    total, seen, most = count(tab), dict.fromkeys(home(tab)), 0
    until = time.monotonic() + 30
    while "That is all" not in tab.locator(".foot").inner_text() or not at_the_end(tab):
        tab.mouse.wheel(0, 1500) if width == "desk" else tab.evaluate("scrollBy(0, 1500)")
        shown = tab.locator(".feed .card[data-id]").evaluate_all("cards => cards.map((card) => card.dataset.id)")
        seen |= dict.fromkeys(shown)
        most = max(most, len(shown))
        assert time.monotonic() < until
    assert len(seen) == total
    assert most <= 180 < total


def at_the_end(tab) -> bool:
    return tab.evaluate("scrollY + innerHeight > document.documentElement.scrollHeight - 200")


def test_the_way_back_from_a_product_leads_to_the_same_place(visit, width):
    tab = visit("/", width)
    home(tab)
    tab.evaluate("scrollTo(0, 1200)")
    link = tab.locator(".feed .card-link").nth(14)
    name = link.locator(".card-name").text_content()
    link.evaluate("link => link.click()")
    sync_api.expect(tab.locator("h1")).to_have_text(name)
    tab.go_back()
    tab.locator(".feed").wait_for()
    tab.wait_for_function("() => scrollY === 1200")
    tab.go_forward()
    sync_api.expect(tab.locator("h1")).to_have_text(name)


def test_a_first_view_comes_soon_and_nothing_in_it_moves(visit, width):
    tab = visit("/", width)
    home(tab)
    tab.evaluate(
        "window.moved = 0; new PerformanceObserver((list) => list.getEntries().forEach("
        "(entry) => window.moved += entry.value)).observe({type: 'layout-shift', buffered: true})"
    )
    tab.wait_for_load_state("networkidle")
    ready = tab.evaluate("performance.getEntriesByName('first-view')[0].startTime")
    assert ready < 5000  # a second on a machine that does nothing else
    assert tab.evaluate("window.moved") < 0.02


def test_where_pictures_are_missing_the_page_shows_the_rest_in_the_same_places(visit, server, width):
    tab = visit("/", width)
    home(tab)
    places = (
        "[...document.querySelectorAll('.feed .card')].slice(0, 8).map((card) => card.getBoundingClientRect().toJSON())"
    )
    before = tab.evaluate(places)
    tab.route("**/images/**", lambda route: route.abort())
    tab.reload()
    home(tab)
    sync_api.expect(tab.locator(".feed .tile > .icon").first).to_be_visible()
    assert tab.evaluate(places) == before


# A product ------------------------------------------------------------------------------------------------------------


def test_a_products_ten_are_the_servers_and_follow_filters_and_dislikes(visit, server, width):
    product = a_product(server)
    path = f"/products/{product['product_id']}/similar"

    def answered(**parameters):
        return [item["product_id"] for item in get(server, path, **parameters)["items"]]

    tab = visit(f"/p/{product['product_id']}", width)
    assert ten(tab) == answered()
    sync_api.expect(tab.locator(".about")).to_contain_text(product["attributes"]["baseColour"])
    set_filter(tab, re.compile(r"^Men ?\d"))
    tab.wait_for_url("**?gender=Men")
    assert ten(tab) == answered(gender="Men")
    colour = product["attributes"]["baseColour"]
    tab.get_by_role("button", name=f"Never show {colour}", exact=True).click()
    sync_api.expect(tab.locator(".main-column > .chips")).to_contain_text(f"never {colour}")
    assert ten(tab) == answered(**{"gender": "Men", "baseColour!": colour})
    assert colour not in tab.url  # what somebody dislikes is in no address
    first = ten(tab)[0]
    hide = tab.locator(f".items .card[data-id='{first}'] .hide")
    hide.dispatch_event("click")
    sync_api.expect(tab.locator(f".items .card[data-id='{first}']")).to_have_count(0)
    left = answered(**{"gender": "Men", "baseColour!": colour, "exclude": first})
    assert ten(tab) == left
    tab.reload()
    assert ten(tab) == left
    tab.get_by_role("button", name=re.compile("^Dislikes ?2")).click()
    sheet = tab.locator("dialog[open]")
    sheet.get_by_role("button", name=f"Show {colour} again").click()
    sheet.get_by_role("button", name="Clear all").click()
    tab.keyboard.press("Escape")
    sync_api.expect(tab.locator(".chip.never")).to_have_count(0)
    assert ten(tab) == answered(gender="Men")


def test_scores_and_reasons_come_on_demand(visit, server, width):
    product = a_product(server)
    tab = visit(f"/p/{product['product_id']}", width)
    ten(tab)
    assert not tab.locator(".reason").count()
    tab.get_by_role("button", name="Scores and reasons").click()
    tab.wait_for_url("**?explain=true")
    sync_api.expect(tab.locator(".reason")).to_have_count(10)
    first = get(server, f"/products/{product['product_id']}/similar", explain="true")["items"][0]
    reason = tab.locator(".reason").first
    sync_api.expect(reason).to_contain_text(f"{first['score']:.4f}")
    for name, part in first["explain"]["blocks"].items():
        sync_api.expect(reason.locator(".legend")).to_contain_text(f"{name} {part:.2f}")


def test_a_short_answer_and_an_empty_one_say_why(visit, server, width):
    product = a_product(server)
    colours = next(of for of in get(server, "/filters")["fields"] if of["field"] == "baseColour")["values"]
    rare = next(of for of in reversed(colours) if of["value"] and of["value"] != product["attributes"]["baseColour"])
    tab = visit(f"/p/{product['product_id']}?baseColour={rare['value']}", width)
    assert len(ten(tab)) == rare["count"] < 10
    sync_api.expect(tab.locator(".said")).to_contain_text(f"Only {rare['count']} of the 10")
    tab.goto(f"/p/{product['product_id']}?baseColour={rare['value']}&baseColour!={rare['value']}")
    notice = tab.locator(".items-place .notice")
    sync_api.expect(notice).to_contain_text("Base colour can have no value")
    tab.goto(f"/p/{product['product_id']}?baseColour=no such colour")
    sync_api.expect(notice).to_contain_text("Nothing passes all of this")
    notice.get_by_role("button", name="Remove Base colour: no such colour").click()
    assert len(ten(tab)) == 10


def test_a_link_copied_with_dislikes_shows_them_to_others_and_keeps_none_with_them(visit, server):
    product = a_product(server)
    tab = visit(f"/p/{product['product_id']}", permissions=["clipboard-read", "clipboard-write"])
    ten(tab)
    tab.get_by_role("button", name="Never show Black", exact=True).or_(
        tab.locator("[data-key^='never baseColour']")
    ).first.click()
    tab.locator(".items .card .hide").first.dispatch_event("click")
    tab.get_by_role("button", name=re.compile("^Dislikes ?2")).click()
    tab.get_by_role("button", name="Copy a link").click()
    sync_api.expect(tab.locator("#toast")).to_contain_text("copied")
    shown = ten(tab)
    other = visit(tab.evaluate("navigator.clipboard.readText()"))
    assert ten(other) == shown
    assert other.evaluate("localStorage.length") == 0
    sync_api.expect(other.locator(".main-column > .chips")).to_contain_text("not ")


def test_an_unknown_product_says_so_and_leads_on(visit, width):
    tab = visit("/p/none%2Fsuch", width)
    sync_api.expect(tab.get_by_role("alert")).to_contain_text("none/such")
    tab.get_by_role("link", name="Browse the catalogue").click()
    assert home(tab)


def test_while_the_server_is_away_the_page_says_so_and_comes_back_by_itself(visit, server):
    product = a_product(server)
    tab = visit("/compare")
    tab.locator(".figures").wait_for()
    tab.context.set_offline(True)
    tab.get_by_role("link", name="Browse").click()
    sync_api.expect(tab.get_by_role("alert")).to_contain_text("The server cannot be reached")
    tab.context.set_offline(False)
    assert home(tab)
    assert product


def test_a_server_that_asks_for_keys_is_given_one_that_the_tab_keeps(visit, live, tmp_path):
    uri, _ = live
    key_id, key, sha256 = guard.draw()
    with store.connect(uri, tmp_path) as connection:
        store.add_key(connection, key_id, "page", sha256)
    served = Served(*live, tmp_path, serve_proxies="10.0.0.1")  # behind a proxy no address is trusted
    tab = visit(f"http://127.0.0.1:{served.port}/")
    notice = tab.get_by_role("alert")
    sync_api.expect(notice).to_contain_text("asks for a key")
    notice.get_by_label("Key").fill(key)
    notice.get_by_role("button", name="Use it").click()
    assert home(tab)
    tab.reload()
    assert home(tab)
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.feed img')].slice(0, 4).every((image) => image.naturalWidth)"
    )
    assert key not in tab.url
    served.stop()


# A photo --------------------------------------------------------------------------------------------------------------


def drawn_photo() -> bytes:
    """A picture of a product that no night has."""
    return next(product.image for product in sample(40, 99) if product.image)


def large_photo(at_least: int) -> bytes:
    """A picture of more than so many bytes."""
    side = int((at_least / 3) ** 0.5) + 1
    out = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(out, "BMP")
    assert len(out.getvalue()) > at_least
    return out.getvalue()


def choose(tab, name: str, content: bytes, kind: str = "image/jpeg") -> None:
    tab.locator("input[type=file]").first.set_input_files({"name": name, "mimeType": kind, "buffer": content})


def test_a_photo_is_answered_with_what_it_was_taken_for_and_can_be_taken_for_something_else(visit, server, width):
    tab = visit("/photo", width)
    photo = drawn_photo()
    choose(tab, "photo.jpg", photo)
    answer = requests.post(f"{server}/search", data=photo, headers={"Content-Type": "image/jpeg"}, timeout=60).json()
    assert ten(tab) == [item["product_id"] for item in answer["items"]]
    about = tab.locator(".photo .about")
    sync_api.expect(about).to_contain_text(answer["subcategory"]["value"])
    sync_api.expect(about).to_contain_text(f"{answer['subcategory']['confidence']:.0%} sure")
    other = answer["alternatives"][0]["value"]
    about.get_by_role("button", name=re.compile(f"^{re.escape(other)} ")).click()
    tab.wait_for_url(f"**/photo?{answer['group']}=*")
    sync_api.expect(about).to_contain_text(f"You said it is {other}")
    for product_id in ten(tab)[:3]:
        assert get(server, f"/products/{product_id}")["product"]["attributes"][answer["group"]] == other
    about.get_by_role("button", name="Let the photo decide again").click()
    assert ten(tab) == [item["product_id"] for item in answer["items"]]
    tab.locator(".items .card-link").first.click()
    tab.locator(".attributes").wait_for()
    tab.go_back()
    assert ten(tab) == [item["product_id"] for item in answer["items"]]  # the photo is still there


def test_the_look_of_a_photo_has_a_box_and_a_row_of_products_for_each_article(visit, server, width):
    tab = visit("/photo?gender=Women", width)
    choose(tab, "person.jpg", mannequin())
    ten(tab)
    tab.get_by_role("button", name="The look", exact=True).click()
    tab.wait_for_url("**/photo?gender=Women&look=true")
    answer = looked_at(server, mannequin(), gender="Women")
    articles = answer["persons"][0]["articles"]
    rows = tab.locator(".worn:visible")
    sync_api.expect(rows).to_have_count(len(articles))
    sync_api.expect(tab.locator(".photo h1")).to_have_text("One person")
    sync_api.expect(tab.locator(".person:visible")).to_contain_text("Faces the camera")
    frame = tab.locator(".boxed").bounding_box()
    for at, article in enumerate(articles):
        assert cards(rows.nth(at)) == [item["product_id"] for item in article["items"]]
        sync_api.expect(rows.nth(at)).to_contain_text(article["says"], ignore_case=True)
        box = tab.locator(".box").nth(at).bounding_box()
        left, top = article["box"][0] / answer["width"], article["box"][1] / answer["height"]
        assert box["x"] - frame["x"] == pytest.approx(left * frame["width"], abs=1)
        assert box["y"] - frame["y"] == pytest.approx(top * frame["height"], abs=1)
    last = tab.locator(".box").nth(len(articles) - 1)
    last.focus()
    tab.keyboard.press("Enter")
    sync_api.expect(tab.locator(f"#article-title-{len(articles)}")).to_be_focused()
    sync_api.expect(rows.last).to_be_in_viewport()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    first = articles[0]["items"][0]["product_id"]
    rows.first.locator(f".card[data-id='{first}'] .hide").dispatch_event("click")
    refilled = looked_at(server, mannequin(), gender="Women", exclude=first)["persons"][0]["articles"][0]["items"]
    sync_api.expect(rows.first.locator(f".card[data-id='{first}']")).to_have_count(0)
    assert cards(rows.first) == [item["product_id"] for item in refilled]
    found = serious_findings(tab, "{}")
    tab.emulate_media(color_scheme="dark")
    assert (found, serious_findings(tab, "{runOnly: ['color-contrast']}")) == ({}, {})


def test_a_photo_of_nobody_is_answered_as_a_whole_in_the_look_too(visit, server):
    tab = visit("/photo?look=true")
    choose(tab, "photo.jpg", drawn_photo())
    answer = looked_at(server, drawn_photo())
    sync_api.expect(tab.locator(".photo .about")).to_contain_text("No person was found")
    sync_api.expect(tab.locator(".photo h1")).to_have_count(1)
    shown = tab.locator(".items-place:visible")
    sync_api.expect(shown.locator(".card[data-id]")).to_have_count(len(answer["answer"]["items"]))
    assert cards(shown) == [item["product_id"] for item in answer["answer"]["items"]]
    tab.get_by_role("button", name="The whole photo").click()
    tab.wait_for_url(re.compile("/photo$"))
    assert ten(tab) == [item["product_id"] for item in answer["answer"]["items"]]


def looked_at(server: str, photo: bytes, **parameters) -> dict:
    headers = {"Content-Type": "image/jpeg"}
    answer = requests.post(f"{server}/look", data=photo, params=parameters, headers=headers, timeout=120)
    answer.raise_for_status()
    return answer.json()


def cards(place) -> list[str]:
    """The products of a part of the page."""
    return place.locator(".card[data-id]").evaluate_all("cards => cards.map((card) => card.dataset.id)")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_may_be_dropped_or_pasted_on_any_view(visit, server, way):
    tab = visit("/")
    home(tab)
    tab.evaluate(
        """([way, bytes]) => {
            const file = new File([new Uint8Array(bytes)], "photo.jpg", {type: "image/jpeg"});
            const data = new DataTransfer();
            data.items.add(file);
            const event = way === "drop"
                ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
                : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
            document.body.dispatchEvent(event);
        }""",
        [way, list(drawn_photo())],
    )
    answer = requests.post(f"{server}/search", data=drawn_photo(), headers={"Content-Type": "image/jpeg"}, timeout=60)
    assert ten(tab) == [item["product_id"] for item in answer.json()["items"]]
    assert urlsplit(tab.url).path == "/photo"


def test_a_photo_over_the_limit_is_made_smaller_before_it_is_sent(visit, tmp_path):
    tab = visit("/photo")
    large = tmp_path / "large.bmp"
    large.write_bytes(large_photo(10_000_000))
    with tab.expect_request("**/search*") as sent:
        tab.locator("input[type=file]").first.set_input_files(large)
    headers = sent.value.all_headers()
    assert int(headers["content-length"]) <= 10_000_000
    assert headers["content-type"] == "image/jpeg"
    sync_api.expect(tab.locator(".photo")).to_contain_text("Made smaller to send it")
    assert ten(tab)


def test_what_is_no_picture_is_refused_in_words(visit, width):
    tab = visit("/photo", width)
    choose(tab, "notes.txt", b"hello", "text/plain")
    sync_api.expect(tab.get_by_role("alert")).to_contain_text("That is no picture")
    choose(tab, "broken.jpg", b"hello")
    sync_api.expect(tab.locator(".photo h1")).to_have_text("No answer yet")
    sync_api.expect(tab.get_by_role("alert").last).to_be_visible()


# Two runs -------------------------------------------------------------------------------------------------------------


def test_two_runs_are_compared_as_a_whole_and_for_a_product(visit, server, width):
    runs = get(server, "/runs")["runs"]
    a, b = runs[1]["run_id"], runs[0]["run_id"]
    compared = get(server, f"/runs/{a}/compare/{b}")
    tab = visit("/compare", width)
    sync_api.expect(tab.locator(".figures")).to_contain_text(str(compared["products"]["both"]))
    sync_api.expect(tab.locator(".items .card")).to_have_count(len(compared["changed"]))
    first = compared["changed"][0]
    sync_api.expect(tab.locator(".items .card").first).to_contain_text(f"{first['kept']} of 10 kept")
    tab.locator(".items .card-link").first.click()
    tab.wait_for_url(f"**/compare?product={first['product_id']}")
    assert tab.evaluate("scrollY") == 0
    lists = get(server, f"/runs/{a}/compare/{b}", product=first["product_id"])["product"]
    tab.locator(".two-lists").wait_for()
    for column, items in zip(tab.locator(".two-lists section").all(), (lists["a"], lists["b"]), strict=True):
        assert column.locator(".ranked-item").count() == len(items)
    tab.reload()
    sync_api.expect(tab.locator(".two-lists .fresh")).to_have_count(10 - first["kept"])
    hidden = lists["b"][0]["product_id"]
    tab.goto(f"/compare?product={first['product_id']}&exclude={hidden}")
    refilled = get(server, f"/runs/{a}/compare/{b}", product=first["product_id"], exclude=hidden)["product"]["b"]
    assert len(refilled) == len(lists["b"])
    assert hidden not in [item["product_id"] for item in refilled]
    later = tab.locator(".two-lists section").nth(1).locator(".ranked-item")
    sync_api.expect(later).to_have_count(len(refilled))
    sync_api.expect(later.last).to_contain_text(refilled[-1]["name"])
    tab.goto(f"/compare?exclude={first['product_id']}")
    without = get(server, f"/runs/{a}/compare/{b}", exclude=first["product_id"])["changed"]
    assert without[: len(compared["changed"]) - 1] == compared["changed"][1:]
    sync_api.expect(tab.locator(".items .card")).to_have_count(len(without))


# Everybody ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding_in_any_view(visit, server, width, scheme):
    product, found = a_product(server), {}
    tab = visit("/?gender=Women&baseColour!=Black", width, color_scheme=scheme, reduced_motion="reduce")

    def audit():
        found.update(serious_findings(tab, "{}" if scheme == "light" else "{runOnly: ['color-contrast']}"))

    home(tab)
    audit()
    if width == "phone":
        tab.locator(".filter-button").click()
        audit()
    tab.goto(f"/p/{product['product_id']}?explain=true")
    ten(tab)
    tab.locator("[data-key^='never baseColour']").first.click()
    ten(tab)
    audit()
    tab.get_by_role("button", name=re.compile("^Dislikes ?1")).click()
    audit()
    tab.goto("/photo")
    choose(tab, "photo.jpg", drawn_photo())
    ten(tab)
    audit()
    tab.goto(f"/compare?product={product['product_id']}")
    tab.locator(".two-lists").wait_for()
    audit()
    assert found == {}


def serious_findings(tab, options: str) -> dict[str, list[str]]:
    """What axe-core finds on the page that is serious or critical: rule → where."""
    if not tab.evaluate("'axe' in window"):
        tab.evaluate(AXE.read_text())
    found = tab.evaluate(f"axe.run({{resultTypes: ['violations'], ...{options}}})")["violations"]
    return {
        f"{of['id']}: {of['help']}": [node["html"][:200] for node in of["nodes"]]
        for of in found
        if of["impact"] in ("serious", "critical")
    }


def test_everything_can_be_reached_and_done_with_a_keyboard(visit, server):
    tab = visit("/")
    home(tab)
    tab.keyboard.press("Tab")
    sync_api.expect(tab.locator(":focus")).to_have_text("Skip to the products")
    tab.keyboard.press("/")
    sync_api.expect(tab.locator("#search")).to_be_focused()
    tab.locator(".pick").first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => document.activeElement.getAttribute('aria-pressed') === 'true'")  # it keeps the focus
    tab.keyboard.press("Tab")
    sync_api.expect(tab.locator(":focus")).to_have_class("except")
    tab.keyboard.press("Space")
    home(tab)
    tab.locator(".feed .card-link").first.focus()
    tab.keyboard.press("Enter")
    assert len(ten(tab)) == 10
    sync_api.expect(tab.locator("#main")).to_be_focused()
    tab.locator("#dislikes").focus()
    tab.keyboard.press("Enter")
    tab.locator("dialog[open]").wait_for()
    tab.keyboard.press("Escape")
    sync_api.expect(tab.locator("#dislikes")).to_be_focused()


def test_who_asks_for_less_motion_gets_none(visit):
    tab = visit("/", reduced_motion="reduce")
    home(tab)
    tab.get_by_role("button", name="Dislikes").click()
    assert tab.locator("dialog[open]").evaluate("sheet => getComputedStyle(sheet).animationName") == "none"


def test_every_word_that_the_page_uses_is_there(visit):
    folder = Path(__file__).resolve().parents[2] / "jobs/serve/page"
    modules = "".join(file.read_text() for file in (folder / "assets").glob("*.js"))
    used = {tuple(name.split(".")) for name in re.findall(r"\btext\.(\w+(?:\.\w+)?)", modules) if name != "js"}
    named = re.findall(r'data-(?:text|label|hint)="(\w+)"', (folder / "index.html").read_text())
    known = visit("/").evaluate(
        "import('/assets/text.js').then(({text}) => Object.entries(text).flatMap(([part, words]) =>"
        "[[part], ...(typeof words === 'object' ? Object.keys(words).map((word) => [part, word]) : [])]))"
    )
    assert used | {("frame", name) for name in named} <= {tuple(name) for name in known}
