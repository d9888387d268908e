"""Speed of the HTTP server: answers a second and latencies by wrk, photos, and the first view of the page in Chromium.

    apt-get install wrk chromium
    python benchmarks/serve.py --lake var/lake --run 2026-01-31      # a run that is done up to publish

The run is loaded into an embedded Postgres in a temporary folder, with two small runs beside it as a store keeps three;
Postgres, the server and the load share the machine. Sixteen connections ask for the ten most similar of one product
each, with ids, names, scores and images: products at random, 20 % without a filter, 50 % with one value, 20 % with a
list of values or an exclusion, 10 % with two fields and one excluded id. First as fast as they are answered, then at
70 % of that rate, where each waits between its questions; beside it the same server's rate for a constant body. So with
the store answering, then from the mapped copy (`mapped_…`). The last line has all figures as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import first_view
import numpy as np
import requests
from PIL import Image

from infra import embedded, store
from infra.lake import Lake
from infra.settings import read_settings
from jobs.order import STEPS
from jobs.publish import load
from jobs.run import Run
from jobs.serve import asking
from jobs.stored import read_images

CONNECTIONS, QUESTIONS, ROUNDS = 16, 50_000, 3
PORT = 18_764
CHECKED, PUBLISHES = 10_000, 20
PHOTOS, PHOTO_SIZE = 40, (4000, 3000)
LUA = """
local paths, delay_ms, at = {}, tonumber("%(delay)s"), 0
for line in io.lines("%(paths)s") do paths[#paths + 1] = wrk.format("GET", line) end
math.randomseed(%(seed)d)
at = math.random(#paths)
function request()
  at = at %% #paths + 1
  return paths[at]
end
%(wait)s
function done(summary, latency, requests)
  io.write(string.format("FIGURES %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.read + summary.errors.write + summary.errors.timeout + summary.errors.connect))
end
"""
WAIT = "function delay() return math.floor(-math.log(1 - math.random()) * delay_ms + 0.5) end"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lake", required=True, help="a lake that holds the run")
    parser.add_argument("--run", required=True)
    parser.add_argument("--seconds", type=int, default=10, help="how long wrk runs, each time")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-photos", action="store_true")
    given = parser.parse_args()
    browser = first_view.chromium()
    if shutil.which("wrk") is None:
        raise SystemExit("error: there is no wrk\n  remedy: apt-get install wrk")
    uri = Path(given.lake).resolve().as_uri() if "://" not in given.lake else given.lake
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as place:
        folder = Path(place)
        run = Run(given.run, read_settings(lake=uri, store=embedded.uri(folder / "store")), Lake(uri))
        publish(run)
        paths = folder / "paths.txt"
        paths.write_text("\n".join(questions(run)) + "\n")
        figures: dict[str, object] = {"products": len(run.products(["product_id"]))}
        with served(run, folder, given.workers, mapped="false"):
            figures |= rates(paths, folder, given.seconds)
        with served(run, folder, given.workers):
            mapped = rates(paths, folder, given.seconds)
            figures |= {f"mapped_{name}": value for name, value in mapped.items()} | first_data()
            figures |= first_view.views(f"http://127.0.0.1:{PORT}/", browser)
            figures["different"] = different(run, paths.read_text().split())
        if not given.no_photos:
            with served(run, folder, 1, photos="true"):
                figures["search_p50_ms"] = photos(run)
    print(json.dumps(figures))


def publish(run: Run) -> None:
    """Load the run, and twice more what a store holds beside, and make the first live."""
    manifest = {"run": run.name, "results": {step: run._stored(step) for step in STEPS if _done(run, step)}}
    with store.connect(run.settings.store, Path(), prepares=True) as connection:
        for content in ("a", "b", "live"):
            with connection.transaction():
                load(connection, run, content, manifest)
        with connection.transaction():
            store.lock(connection)
            store.flip(connection, store.runs(connection)[0].run_id)
        connection.execute("VACUUM ANALYZE")


def _done(run: Run, step: str) -> bool:
    return run.lake.exists(f"runs/{run.name}/{step}.json")


def questions(run: Run) -> Iterator[str]:
    """Paths of questions, drawn with a seed."""
    rng, fields = random.Random(0), run.fields  # noqa: S311
    rows = run.attributes(["product_id", *fields]).to_pylist()
    labels = {field: sorted({row[field] for row in rows if row[field]}) for field in fields}

    def some(field: str, k: int) -> str:
        return ",".join(quote(value) for value in rng.sample(labels[field], min(k, len(labels[field]))))

    for _ in range(QUESTIONS):
        row, kind = rng.choice(rows), rng.random()
        one, two = rng.sample(fields, 2)
        if kind < 0.2:
            query = ""
        elif kind < 0.7:
            query = f"?{one}={quote(row[one] or '')}"
        elif kind < 0.8:
            query = f"?{one}={some(one, 3)}"
        elif kind < 0.9:
            query = f"?{one}!={some(one, 2)}"
        else:
            left_out = quote(rng.choice(rows)["product_id"], safe="")
            query = f"?{one}={quote(row[one] or '')}&{two}={quote(row[two] or '')}&exclude={left_out}"
        yield f"/products/{quote(row['product_id'], safe='')}/similar{query}"


@contextmanager
def served(run: Run, folder: Path, workers: int, mapped: str = "true", photos: str = "false") -> Iterator[None]:
    """The server, while the block runs, which begins when all processes have what they answer from."""
    told = {"store": run.settings.store, "lake": run.lake.uri, "scratch": folder, "serve_port": PORT}
    told |= {"serve_workers": workers, "serve_photos": photos, "serve_mapped": mapped}
    env = os.environ | {f"LOOKALIKE_{name.upper()}": str(value) for name, value in told.items()}
    process = subprocess.Popen([sys.executable, "-m", "jobs.cli", "serve"], env=env, stdout=subprocess.DEVNULL)
    try:
        wanted = ("ready" if photos == "true" else "off", mapped == "true")
        for _ in range(1200):
            time.sleep(0.1)
            try:
                states = [asked("/readyz").json() for _ in range(8 * workers)]
            except requests.ConnectionError:
                continue
            if all((state.get("photos"), state.get("mapped")) == wanted for state in states):
                break
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def asked(path: str, **how: object) -> requests.Response:
    return requests.request(str(how.pop("method", "GET")), f"http://127.0.0.1:{PORT}{path}", timeout=60, **how)  # type: ignore[arg-type]


def rates(paths: Path, folder: Path, seconds: int) -> dict[str, float]:
    """Medians over the rounds."""
    found: dict[str, list[float]] = {}
    constant = folder / "constant.txt"
    constant.write_text("/healthz\n")
    wrk(paths, folder, 3)  # plans are made, pages read
    for number in range(ROUNDS):
        rate, p50, p99 = wrk(paths, folder, seconds, seed=number)
        wait = 1000 * CONNECTIONS / (0.7 * rate)
        for _ in range(4):  # what an answer takes is part of the time between two questions
            slow, _, p99_at_70 = wrk(paths, folder, max(3, seconds // 2), seed=number, delay=wait)
            if abs(slow / rate - 0.7) < 0.03:
                break
            wait = max(0.5, wait + 1000 * CONNECTIONS * (1 / (0.7 * rate) - 1 / slow))
        bare, _, _ = wrk(constant, folder, max(3, seconds // 2))
        told = {"answers_per_s": rate, "p50_ms": p50, "p99_ms": p99, "p99_at_70_ms": p99_at_70, "constant_per_s": bare}
        told["share_at_70"] = slow / rate
        for name, value in told.items():
            found.setdefault(name, []).append(value)
        print({name: round(value, 2) for name, value in told.items()}, flush=True)
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def wrk(paths: Path, folder: Path, seconds: int, seed: int = 0, delay: float = 0) -> tuple[float, float, float]:
    """Answers a second, and p50 and p99 in milliseconds; every answer has to be one."""
    script = folder / "wrk.lua"
    script.write_text(LUA % {"paths": paths, "delay": delay, "seed": seed + 1, "wait": WAIT if delay else ""})
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{PORT}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers = [int(number) for number in re.search(r"FIGURES ([\d ]+)", told)[1].split()]  # type: ignore[index]
    requests_done, micros, p50, p99, bad, broken = numbers
    assert (bad, broken) == (0, 0), told
    return requests_done / (micros / 1e6), p50 / 1000, p99 / 1000


def different(run: Run, paths: list[str]) -> int:
    """How many of 10,000 answers are not the store's to the byte; during the last 5,000, runs go live 20 times."""
    with store.connect(run.settings.store, Path()) as connection, requests.Session() as session:
        runs, wrong = [stored.run_id for stored in store.runs(connection)], 0
        for number, path in enumerate(paths[:CHECKED]):
            if number >= CHECKED // 2 and number % (CHECKED // 2 // PUBLISHES) == 0:
                with connection.transaction():
                    store.lock(connection)
                    store.flip(connection, runs[number // (CHECKED // 2 // PUBLISHES) % len(runs)])
            encoded, _, query = path.removeprefix("/products/").partition("?")
            question = asking.read(query.encode(), ("exclude",))
            ((_, expected),) = connection.execute(
                "SELECT * FROM lookalike.similar_as_json(%s::text, %s::jsonb, 10, %s::text[])",
                (
                    asking.segment(encoded.removesuffix("/similar").encode()),
                    asking.as_json(question.filters).decode(),
                    asking.as_array(question.exclude).decode(),
                ),
            ).fetchall()
            got = session.get(f"http://127.0.0.1:{PORT}{path}", timeout=60).text
            # Just after a run went live the one before may still answer, and says so; all are of the same content.
            wrong += re.sub(r'"run_id":\d+', "", got) != re.sub(r'"run_id":\d+', "", expected)
    return wrong


def first_data() -> dict[str, float]:
    """Milliseconds until what the page first asks for is there: products, counts, and 60 pictures, six at once."""
    from concurrent.futures import ThreadPoolExecutor

    times = []
    for _ in range(5):
        started = time.perf_counter()
        products = asked("/products?limit=60").json()["products"]
        asked("/filters")
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda product: asked(f"{product['image']}?width=240"), products))
        times.append(1000 * (time.perf_counter() - started))
    return {"first_data_ms": round(times[0], 1), "again_ms": round(statistics.median(times[1:]), 1)}


def photos(run: Run) -> float:
    """Median milliseconds of a photo of 12 megapixels: images of the run, enlarged, with noise as cameras have."""
    hashes = run.products(["image_sha256"])["image_sha256"].to_pylist()[:: max(1, 44_000 // PHOTOS)][:PHOTOS]
    noise = np.random.default_rng(0).normal(0, 6, (*PHOTO_SIZE[::-1], 1))
    times = []
    for data in read_images(run, hashes).values():
        enlarged = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize(PHOTO_SIZE, Image.Resampling.BICUBIC))
        out = io.BytesIO()
        Image.fromarray((enlarged + noise).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
        started = time.perf_counter()
        answer = asked("/search", method="POST", data=out.getvalue(), headers={"Content-Type": "image/jpeg"})
        times.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, answer.text
    print(f"{len(times)} photos of {len(out.getvalue()) / 1e6:.1f} MB: p90 {np.percentile(times, 90):.0f} ms")
    return round(statistics.median(times), 1)


if __name__ == "__main__":
    main()
