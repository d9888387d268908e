"""How soon the page shows its first products and their pictures in a real Chromium, with nothing in its cache.

    python benchmarks/first_view.py http://127.0.0.1:8000/

Prints a line of JSON: median milliseconds from asking for the page until the cards are there, and until every picture
in the window is, as wide as a desk and as a phone. serve.py measures it, too, beside all else.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys

from playwright.sync_api import Browser, sync_playwright

ROUNDS = 5
WIDTHS = {"": (1280, 800), "phone_": (390, 844)}
PICTURES = """() => [...document.querySelectorAll('.feed img')]
    .filter((image) => image.getBoundingClientRect().top < innerHeight)
    .every((image) => image.complete && image.naturalWidth) && performance.now()"""


def main() -> None:
    print(json.dumps(views(sys.argv[1], chromium())))


def chromium() -> str:
    """Where Chromium is."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("error: there is no Chromium\n  remedy: apt-get install chromium")
    return found


def views(address: str, executable: str) -> dict[str, float]:
    """Medians, in milliseconds, of the page at an address."""
    figures = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        seen(browser, address, (1280, 800))  # the server's first answers are slower
        for name, size in WIDTHS.items():
            times = [seen(browser, address, size) for _ in range(ROUNDS)]
            for what, of in zip(("first_view_ms", "first_pictures_ms"), zip(*times, strict=True), strict=True):
                figures[name + what] = round(statistics.median(of), 1)
        browser.close()
    return figures


def seen(browser: Browser, address: str, size: tuple[int, int]) -> tuple[float, float]:
    """Milliseconds until the cards and the pictures are there."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    tab = context.new_page()
    tab.goto(address)
    tab.locator(".feed:not([aria-busy])").wait_for()
    pictures = tab.wait_for_function(PICTURES, polling=10).json_value()
    cards = tab.evaluate("performance.getEntriesByName('first-view')[0].startTime")
    context.close()
    return cards, pictures


if __name__ == "__main__":
    main()
