"""`lookalike …`: parses, calls, prints. The work is in the steps and in infra.

What a command needs is imported in it: `--help` and a mistyped option wait for nothing.
"""

from __future__ import annotations

import datetime
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from infra import sealing
from infra.errors import TransientError, UserError
from jobs.order import APART, STEPS
from jobs.printing import Terminal, plain_table, tolerate_any_encoding

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from psycopg import Connection
    from rich.table import Table

    from infra.settings import Settings
    from infra.store import Item
    from jobs.console import Watch
    from jobs.filters import Filters
    from jobs.look import Look, Worn
    from jobs.run import Run
    from jobs.serve.search import Answer, Searcher

app = typer.Typer(
    help="Look-alike tables for fashion catalogues.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would read arguments in messages as markup, and takes 0.15 s
)
out = Terminal()
ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.5
IGNORED_SHOWN = 8
"""Variables of the shell that are named; of another Airflow there can be dozens."""
DAYS_MAX = 36_500


def _is_text(value: str | list[str] | None) -> str | list[str] | None:
    """The value of an option that is stored or looked up. Raises UserError where its bytes are no UTF-8."""
    for text in value if isinstance(value, list) else [value or ""]:
        if not text.isprintable() and any(0xD800 <= ord(character) < 0xE000 for character in text):
            raise UserError(
                f"{text!r} is no UTF-8", where="the command line", remedy="type it in a terminal that writes UTF-8"
            )
    return value


Dataset = Annotated[
    str,
    typer.Option(
        help="Source of the catalogue: path, s3://, https://, kaggle:, sample:N?seed=S. The process list shows it: "
        "put an address with a password into LOOKALIKE_DATASET."
    ),
]
PublishAnyway = Annotated[
    str,
    typer.Option(
        metavar="REASON",
        callback=_is_text,
        help="Publish what a gate, a hold or the order of nights would refuse; say why.",
    ),
]
NewCatalogue = Annotated[
    bool, typer.Option("--new-catalogue", help="The catalogue shares few products with the live one, and is meant to.")
]
FilterOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        callback=_is_text,
        help="field=value or field=a,b, field!=value for all others, field= for none; once for each field to narrow.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(callback=_is_text, help="Products to leave out: ids, separated by commas."),
]
RunName = Annotated[str, typer.Option("--run", help="Logical date that names the run; default: today (UTC).")]


@app.callback()
def seal(context: typer.Context) -> None:
    """Seal this process; `context.obj` names what of the shell now counts for nothing."""
    context.obj = sealing.seal()


@app.command()
def refresh(
    context: typer.Context,
    dataset: Dataset = "",
    run: RunName = "",
    publish_anyway: PublishAnyway = "",
    new_catalogue: NewCatalogue = False,
) -> None:
    """Run the nightly DAG through Airflow, here and now, and show its steps."""
    from infra import airflow
    from infra.lake import Lake
    from infra.places import shown
    from infra.settings import read_settings
    from jobs import console as display
    from jobs.run import Run, check_night

    name = run or datetime.datetime.now(datetime.UTC).date().isoformat()
    check_night(name)
    settings = read_settings(**({"dataset": dataset} if dataset else {}))
    env, home = airflow.environment(settings, ROOT / "dags"), airflow.home_of(settings)
    _say_ignored(context.obj)
    dict(_look_around(settings, env))
    opened = Run(name, settings, Lake(settings.lake))
    params: dict[str, object] = {"publish_anyway": publish_anyway.strip(), "new_catalogue": new_catalogue}
    started = time.perf_counter()
    log = settings.logs / name / "airflow.log"
    _make_folder(log.parent)
    source = shown(settings.dataset)
    out.print(Text.assemble(f"refresh of {source} as run ", (name, "bold"), f"; logs in {log.parent}"))
    with airflow.alone(home):
        airflow.migrate(settings, env, log)
        watch = display.Watch(settings.logs, name, out)
        process = airflow.start_run(name, params, env, log)
        try:
            with watch.progress:
                while process.poll() is None:
                    time.sleep(POLL_S)
                    watch.poll()
                watch.poll()
        except KeyboardInterrupt:
            out.print(f"stopped; `{_again(dataset, run)}` resumes")
            raise typer.Exit(130) from None
        finally:
            if process.poll() is None:
                airflow.stop(process)
    if process.returncode or watch.failed or set(watch.results) != set(STEPS):
        _report_failure(watch, opened, log, _again(dataset, run))
    _report_success(watch, opened, time.perf_counter() - started)


def _report_failure(watch: Watch, run: Run, log: Path, again: str) -> None:
    """Say what stopped the run, and end as the step that failed did."""
    from infra.telemetry import log_file
    from jobs.console import BUG

    failed, code = next(iter(watch.failed), None), BUG
    if failed:
        code = watch.exit_codes[failed]
        out.print(Text.assemble((f"\n{failed} failed:", "red"), f" {watch.failed[failed]}"))
        log = log_file(run.settings.logs, run.name, failed)
    else:
        missing = [step for step in STEPS if step not in watch.results]
        out.print(f"\nthe run ended before {missing[0] if missing else 'its end'}", style="red")
    out.print(f"  log:    {log}\n  resume: {again}")
    raise typer.Exit(code)


def _report_success(watch: Watch, run: Run, seconds: float) -> None:
    from jobs.console import closing_table
    from jobs.filters import join

    out.print()
    out.print(closing_table(watch.results))
    out.print(f"wall time   {seconds:.1f} s\n")
    report = run.lake.path(str(watch.results["evaluate"].figures["report"]))
    field = next((field for field in run.fields if field == run.layout.colour), run.fields[0])
    product, value = (row[0].as_py() for row in run.attributes(["product_id", field]).columns)
    value = value[0] if isinstance(value, list) else value
    option = ["--filter", f"{field}={join([value])}"] if value else []
    asked = [*option, "--", product] if product.startswith("-") else [product, *option]
    out.print(f"report:  {report}")
    out.print(f"try:     {_command('lookalike')} query {shlex.join(asked)}")
    out.print("page:    make serve")


def _again(dataset: str, run: str) -> str:
    """The command that resumes; an address that holds more than may be shown is for its user to fill in."""
    from infra.places import shown

    source = shlex.quote(dataset) if shown(dataset) == dataset else "…"
    extra = (f" DATASET={source}" if dataset else "") + (f" RUN={run}" if run else "")
    return f"make refresh{extra}"


def _command(name: str) -> str:
    """How a person in the current folder calls one of our executables."""
    executable = Path(sys.executable).parent / name
    return str(executable.relative_to(Path.cwd())) if executable.is_relative_to(Path.cwd()) else name


def _say_ignored(names: list[str]) -> None:
    """One line on what the shell says and this machine's own processes are not told."""
    shown = ", ".join(names[:IGNORED_SHOWN]) + (f" and {more} more" if (more := len(names) - IGNORED_SHOWN) > 0 else "")
    if names:
        out.print(f"ignored of this shell: {shown} (docs/platform.md#one-machine)", style="dim")


def _look_around(settings: Settings, env: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What a run needs, part for part, as it is here; raises what is wrong, before anything is computed."""
    from infra import airflow, spark, store

    yield "java", spark.check_java()
    yield "spark", spark.check_master(settings.spark)
    yield "airflow", airflow.check(settings, env)
    yield "lake", settings.lake
    store.check(settings.store, settings.store_folder)
    yield "store", "answers"


@app.command("step")
def run_step(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(STEPS + APART)}.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run: its logical date, or latest.")],
    dataset: Dataset = "",
    publish_anyway: PublishAnyway = "",
    new_catalogue: NewCatalogue = False,
) -> None:
    """Run one step of a run."""
    known = STEPS + APART
    if name not in known:
        raise UserError(
            f"there is no step {name!r}", where="lookalike step", remedy=f"choose one of {', '.join(known)}"
        )
    from jobs import step as steps

    _say_ignored(context.obj)
    arguments = ["--run", run, *(["--dataset", dataset] if dataset else [])]
    arguments += ["--publish-anyway", publish_anyway] if publish_anyway else []
    arguments += ["--new-catalogue"] if new_catalogue else []
    raise typer.Exit(steps.main(name, arguments))


@app.command()
def query(
    product_id: Annotated[str, typer.Argument(callback=_is_text, help="Id of the product whose look-alikes to list.")],
    filters: FilterOptions = None,
    exclude: Exclude = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many.")] = 10,
) -> None:
    """List the products most like one product, among those that the filters leave."""
    from infra import store
    from infra.settings import read_settings
    from jobs.filters import read_ids, write

    wanted, left_out = _read_filters(filters), read_ids(exclude or (), "--exclude")
    with _store(read_settings()) as connection:
        items = store.similar_items(connection, product_id, wanted, k, left_out)
        names = store.product_names(connection, [product_id, *(item.product_id for item in items)])
    asked = " and ".join(f"{field}={value}" for field, value in write(wanted)) or "no filter"
    out.print(Text.assemble((product_id, "bold"), f" {names.get(product_id, '')} — {asked}"))
    if not items:
        out.print("no product passes these filters" + (" but those left out" if left_out else ""))
        return
    out.print(_listed(items, names))
    compared = items[0].scanned
    how = "read off the shortlist" + (f", and {compared:,} products compared" if compared else "")
    out.print("of a run that an earlier release published" if compared is None else how, style="dim")


@app.command()
def search(
    photo: Annotated[str, typer.Argument(help="Photo; or a folder or table (CSV, Parquet) of photos, local or s3://.")],
    filters: FilterOptions = None,
    exclude: Exclude = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=100, help="How many.")] = 10,
) -> None:
    """List the products most like a photo that need not be in the catalogue, and what it is taken for."""
    from infra.places import local
    from infra.settings import read_settings
    from jobs.filters import read_ids
    from jobs.run import open_live
    from jobs.serve.search import check_fields

    wanted, left_out = _read_filters(filters), read_ids(exclude or (), "--exclude")
    settings, place = read_settings(), local(photo)
    with _store(settings) as connection:
        run, _ = open_live(connection, settings)
        check_fields(run, wanted)
        if _holds_many(place):
            _search_all(place, run, wanted, k, left_out)
        else:
            _search_one(place, run, connection, wanted, k, left_out)


def _holds_many(place: str) -> bool:
    """Whether a place is a folder or table of photos, rather than one."""
    return "://" in place or os.path.isdir(place) or place.lower().endswith((".csv", ".parquet"))


def _search_one(photo: str, run: Run, connection: Connection, filters: Filters, k: int, exclude: Sequence[str]) -> None:
    """Search for one photo, and show what it is taken for and the products."""
    from infra import store
    from jobs.serve.decoding import normalised
    from jobs.serve.search import Searcher

    limit = run.settings.image_max_bytes
    data, started = _read_photo(photo, limit + 1), time.perf_counter()
    with _photo_errors(photo):
        normalised(data, limit)  # before anybody waits for the models
        with out.status(f"loading the models of run {run.name} …"):
            searcher = Searcher(connection, run.settings)
        loaded = time.perf_counter()
        answer = searcher.search(connection, data, filters, k, exclude)
    ended = time.perf_counter()
    _show_answer(photo, answer, store.product_names(connection, [item.product_id for item in answer.items]))
    out.print(f"{1000 * (ended - loaded):.0f} ms, after {loaded - started:.1f} s to load the models", style="dim")


@app.command()
def look(
    photo: Annotated[
        str, typer.Argument(help="Photo of a person, or of several; or a folder or table of photos, local or s3://.")
    ],
    filters: FilterOptions = None,
    exclude: Exclude = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=100, help="How many for each article.")] = 10,
    picture: Annotated[Path | None, typer.Option(help="Picture of the answer to write: .png, .jpg or .webp.")] = None,
) -> None:
    """Find the persons of a photo, how each stands and what each wears, and the products most like each article."""
    from infra.places import local
    from infra.settings import read_settings
    from jobs.filters import read_ids
    from jobs.grid import check_file
    from jobs.run import open_live
    from jobs.serve.search import check_fields

    wanted, left_out = _read_filters(filters), read_ids(exclude or (), "--exclude")
    settings, place = read_settings(), local(photo)
    if picture:
        check_file(picture)
    if picture and _holds_many(place):
        raise UserError("a picture is drawn of one photo", where="--picture", remedy="name a photo, or leave it out")
    with _store(settings) as connection:
        run, _ = open_live(connection, settings)
        check_fields(run, wanted)
        if not _holds_many(place):
            _look_at_one(place, run, connection, wanted, k, left_out, picture)
    if _holds_many(place):
        _look_at_all(place, run, wanted, k, left_out)


def _look_at_one(
    photo: str,
    run: Run,
    connection: Connection,
    filters: Filters,
    k: int,
    exclude: Sequence[str],
    picture: Path | None,
) -> None:
    """Look at one photo, show the answer, and draw it."""
    from jobs import looking
    from jobs.look import look
    from jobs.serve.decoding import normalised
    from jobs.serve.search import Searcher

    limit = run.settings.image_max_bytes
    data, started = _read_photo(photo, limit + 1), time.perf_counter()
    with _photo_errors(photo):
        normalised(data, limit)  # before anybody waits for the models
        with out.status(f"loading the models of run {run.name} …"):
            models, searcher = looking.load(run.lake), Searcher(connection, run.settings)
        loaded = time.perf_counter()
        found = look(searcher, models, connection, data, filters, k, exclude)
    _show_look(photo, found, connection)
    took = ", ".join(f"{name} {value:.0f}" for name, value in found.ms.items())
    out.print(f"ms: {took}; after {loaded - started:.1f} s to load the models", style="dim")
    if picture:
        _draw_look(picture, data, found, searcher, connection)


def _look_at_all(photos: str, live: Run, filters: Filters, k: int, exclude: Sequence[str]) -> None:
    """Run the step looks for a folder or table, and show what was found."""
    from infra import telemetry
    from infra.settings import read_settings
    from jobs import step as steps
    from jobs.photo_source import dataset_of

    run = replace(live, settings=read_settings(look_photos=dataset_of(photos, filters, k, exclude)))
    telemetry.start(run.settings.logs, run.name, "looks", aloud=False)
    with out.status(f"looking at {photos} by run {run.name}; Spark and the models are started first …"):
        result = steps.execute("looks", run)
    for name, value in result.figures.items():
        out.print(f"{name:<16} {value}")
    out.print(f"tables looks ({result.rows:,} rows) and look_rejects ({result.rejects:,} rows) of the lake")


def _show_look(photo: str, found: Look, connection: Connection) -> None:
    """Show an answer person by person, article by article."""
    from infra import store

    out.print(photo, style="bold")
    for words in found.says:
        out.print(words)
    for number, person in enumerate(found.persons, 1):
        pose, shot = person.pose, "full shot" if person.pose.full_shot else "no full shot"
        out.print(f"person {number:<6} {_place(person.box)}, confidence {person.confidence:.2f}")
        out.print(f"stands        {pose.orientation}, confidence {pose.confidence:.2f}")
        out.print(f"is            {shot}, confidence {pose.full_shot_confidence:.2f}")
        if person.gender:
            out.print(f"wears         clothes for {person.gender}")
        for worn in person.worn:
            _show_worn(worn, connection)
    if found.answer:
        names = store.product_names(connection, [item.product_id for item in found.answer.items])
        _show_answer("the whole photo", found.answer, names)
    elif found.persons:
        out.print(f"found by {found.boxes_by}", style="dim")


def _show_worn(worn: Worn, connection: Connection) -> None:
    from infra import store

    article = worn.article
    place = f" {_place(article.box)}, confidence {article.confidence:.2f}: {worn.says}"
    out.print(Text.assemble((article.name, "bold"), place))
    if worn.answer:
        names = store.product_names(connection, [item.product_id for item in worn.answer.items])
        out.print(_listed(worn.answer.items, names))


def _place(box: tuple[float, float, float, float]) -> str:
    """A box in words, in pixels of the photo as it was looked at."""
    left, top, right, bottom = box
    return f"at {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}"


def _draw_look(file: Path, photo: bytes, found: Look, searcher: Searcher, connection: Connection) -> None:
    """Draw an answer into a file."""
    from infra import store
    from jobs import look_picture
    from jobs.grid import write_picture
    from jobs.look import PHOTO_SIDE
    from jobs.stored import read_images
    from ml.images import decode, within

    named = store.named(connection, [item for row in look_picture.rows_of(found) for item in row.items])
    stored = read_images(searcher.run, [sha for _, sha in named.values()])
    pictures = {product_id: decode(stored[sha]) for product_id, (_, sha) in named.items()}
    write_picture(file, look_picture.draw(within(photo, PHOTO_SIDE), found, pictures))
    out.print(f"picture: {file}")


@contextmanager
def _photo_errors(photo: str) -> Iterator[None]:
    """Turn what is wrong with a photo into a message for its user."""
    from ml.images import ImageError

    try:
        yield
    except ImageError as error:
        raise UserError(
            f"the photo cannot be used: {error}",
            where=photo,
            remedy="give a JPEG, PNG, WEBP, GIF, BMP, HEIC or AVIF image",
        ) from None


def _read_photo(photo: str, most: int) -> bytes:
    """A photo's bytes, at most `most` of them: a device has no end."""
    try:
        with open(photo, "rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise UserError(
            f"the photo cannot be read: {error.strerror}", where=photo, remedy="give the path of an image file"
        ) from None


def _search_all(photos: str, live: Run, filters: Filters, k: int, exclude: Sequence[str]) -> None:
    """Run the step search for a folder or table, and show how many photos each stage answered."""
    from infra import telemetry
    from jobs import step as steps
    from jobs.photo_source import dataset_of
    from jobs.run import open_run

    run = open_run(live.name, dataset=dataset_of(photos, filters, k, exclude))
    telemetry.start(run.settings.logs, run.name, "search", aloud=False)
    with out.status(f"searching for {photos} in run {run.name}; the models are loaded first …"):
        result = steps.execute("search", run)
    for name, value in result.figures.items():
        out.print(f"{name:<16} {value}")
    out.print(f"tables searches ({result.rows:,} rows) and search_rejects ({result.rejects:,} rows) of the lake")


def _show_answer(photo: str, answer: Answer, names: dict[str, str]) -> None:
    out.print(photo, style="bold")
    for stage, guess in (("subCategory", answer.subcategory), ("derivedType", answer.derived_type)):
        found = f"{guess.value}, confidence {guess.confidence:.2f}" if guess else "not asked for"
        out.print(f"{stage:<13} {found}")
    out.print(f"searched in   {answer.stage}: {answer.why}")
    if answer.items:
        out.print(_listed(answer.items, names))


def _listed(items: Sequence[Item], names: dict[str, str]) -> Table:
    """A table of products by rank."""
    table = plain_table("", "product", "score", "name")
    for rank, item in enumerate(items, 1):
        table.add_row(str(rank), Text(item.product_id), f"{item.score:.4f}", names.get(item.product_id, ""))
    return table


def _read_filters(texts: Sequence[str] | None) -> Filters:
    """What was given with `--filter`."""
    from jobs.filters import read

    pairs = []
    for text in texts or ():
        field, equals, values = text.partition("=")
        if not equals or not field.removesuffix("!"):
            raise UserError(
                f"{text!r} is no filter",
                where="--filter",
                remedy="write field=value, such as baseColour=Blue, or field!=value",
            )
        pairs.append((field, values))
    return read(pairs, "--filter")


def _store(settings: Settings) -> AbstractContextManager[Connection]:
    from infra import store

    return store.connect(settings.store, settings.store_folder)


@app.command()
def status() -> None:
    """Show the runs that the store holds, the live one marked, and what is held."""
    from infra import store
    from infra.settings import read_settings

    with _store(read_settings()) as connection:
        live, runs, holds = store.live(connection), store.runs(connection), store.holds(connection)
    held = {hold.content_hash for hold in holds}
    table = plain_table("", "run", "loaded", "products", "cells", "")
    for run in runs:
        mark = "live" if live and run.run_id == live.run_id else "held" if run.content_hash in held else ""
        figures = [f"{run.figures.get(name, 0):,}" for name in ("products", "cells")]
        reason = str(run.manifest.get("published_anyway", ""))
        note = f"published anyway: {reason}" if reason else ""
        table.add_row(mark, run.run, f"{run.loaded_at:%Y-%m-%d %H:%M}", *figures, note)
    out.print(table if runs else "the store holds no run; `make refresh` publishes one")
    for hold in holds:
        reason = f": {hold.reason}" if hold.reason else ""
        out.print(f"held since {hold.held_at:%Y-%m-%d %H:%M}: the content of run {hold.run}{reason}")


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(callback=_is_text, help="Why; shown by status.")] = "",
) -> None:
    """Make the run before the live one live again, and hold what was live: no night publishes it until `unhold`."""
    from infra import store
    from infra.settings import read_settings

    with _store(read_settings()) as connection:
        live = store.rollback(connection, reason)
        held = store.holds(connection)[0]
    out.print(f"live: run {live.run}\nheld: the content of run {held.run}, until `{_command('lookalike')} unhold`")


@app.command()
def unhold(
    run: Annotated[
        str, typer.Argument(callback=_is_text, help="Run whose content may be published again; default: all.")
    ] = "",
) -> None:
    """Let what was rolled back be published again."""
    from infra import store
    from infra.settings import read_settings

    with _store(read_settings()) as connection:
        ended = store.unhold(connection, run or None)
    out.print("\n".join(f"no longer held: the content of run {hold.run}" for hold in ended) or "nothing is held")


@app.command()
def evaluate(
    run: Annotated[str, typer.Option("--run", help="Name of the run: its logical date, or latest.")] = "latest",
    queries: Annotated[int, typer.Option(min=0, help="Held-out images to search for as if unknown.")] = 5000,
    copies: Annotated[int, typer.Option(min=0, help="Held-out photos whose copies to look for; 0: none.")] = 500,
) -> None:
    """Measure a run on all products and on held-out ones, and compare it with the live run."""
    from jobs import console as display
    from jobs import step as steps
    from jobs.run import Run, open_run

    opened = open_run(run, evaluate_queries=queries, evaluate_copies=copies)
    with out.status(f"evaluating run {opened.name}"):
        figures = steps.execute("evaluate", opened).figures
    other = figures["compared_with"]
    before = Run(str(other), opened.settings, opened.lake).result("evaluate").figures if other else {}
    for table in display.evaluation_tables(figures, before):
        out.print(table, end="\n\n")
    report = opened.lake.path(str(figures["report"]))
    out.print(f"report:  {report}\nimages:  table heldout of {opened.settings.lake}")


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(help="Archive, folder or address of a catalogue, as DATASET takes it.")],
    save: Annotated[Path | None, typer.Option(help="File to write the proposed mapping to: catalogue.toml.")] = None,
) -> None:
    """Look at a source: its columns, a mapping to begin with, what a run would reject. The lake is not touched."""
    from infra import telemetry
    from infra.settings import read_settings
    from jobs import inspection

    telemetry.hush()
    with out.status(f"reading {source} …"):
        seen = inspection.inspect(read_settings(dataset=source))
    for part in inspection.told(seen):
        out.print(part)
    if save:
        inspection.save(seen.layout, save)
        out.print(f"saved:    {save}")


@app.command()
def champion(
    use: Annotated[str, typer.Option(help="Number of the embedder to go back to, or untrained.")] = "",
) -> None:
    """List the trained embedders, the champion marked, or go back to one; a night uses it if it is better than none."""
    from infra.lake import Lake
    from infra.settings import read_settings
    from jobs import champion as champions
    from jobs import extraction
    from jobs.console import embedders_table

    settings = read_settings()
    lake, base = Lake(settings.lake), extraction.choose_model(settings).base
    if use:
        champions.use(lake, base, champions.parse_number(use))
    used = champions.find_champion(lake, base).embedder
    table = embedders_table(champions.read_rows(lake), used)
    out.print(table if table.row_count else "no embedder is trained; `make train` trains one")


@app.command()
def grid(
    file: Annotated[Path, typer.Argument(help="Picture to write: .png, .jpg or .webp.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run: its logical date, or latest.")],
    rows: Annotated[int, typer.Option(min=1, max=50, help="Products to show.")] = 6,
) -> None:
    """Draw products of a run with their ten neighbours."""
    from jobs.evaluate import result_grid
    from jobs.grid import check_file, write_grid
    from jobs.run import open_run

    check_file(file)
    opened = open_run(run)
    with out.status(f"drawing products of run {opened.name} …"):
        pictures = result_grid(opened, rows)
        write_grid(file, pictures)
    out.print(f"{file}: {len(pictures)} products, each followed by its ten most similar")


@app.command("compare-backbones")
def compare_backbones(
    run: Annotated[str, typer.Option("--run", help="Run on whose images to compare: its logical date.")] = "latest",
    backbones: Annotated[
        str, typer.Option(help="name, name@HEIGHTxWIDTH or scratch (those trained here), by commas; default: all.")
    ] = "",
    sample: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 4000,
    weights: Annotated[str, typer.Option(help="Folder or URI that holds <name>.weights.h5 or .pth.")] = "",
    folder: Annotated[Path, typer.Option("--out", help="Folder for the table and the plot.")] = Path("var/backbones"),
) -> None:
    """Measure the accuracy and speed of the backbones whose weights are at hand, by one protocol."""
    from jobs import compare_backbones as comparing
    from jobs.run import open_run

    opened = open_run(run)
    choices = comparing.parse_choices(backbones, comparing.find_trained(opened))
    taken, rows = comparing.take_sample(opened, sample), []
    _make_folder(folder)
    with out.status("") as status:
        try:
            for choice in choices:
                told = f"{choice}: {{:,}} of {len(taken.hashes):,} images"
                rows.append(comparing.measure(opened, taken, choice, weights, lambda n: status.update(told.format(n))))  # noqa: B023
                comparing.write(comparing.describe(opened, taken, rows), folder)
        except KeyboardInterrupt:
            out.print(f"stopped; {len(rows)} of {len(choices)} backbones are done")
    if rows:
        found = comparing.describe(opened, taken, rows)
        Terminal(width=max(out.width, comparing.WIDTH)).print(comparing.table(found))
        for row in rows:
            if row.missing:
                out.print(f"{row.backbone} was not measured: {row.missing}")
        out.print(
            f"{found.images:,} images of run {found.run}, {found.queries:,} held-out queries, {found.device}; "
            f"% of the ten nearest that are right\n{folder}/backbones.csv, .json, .png"
        )
    if len(rows) < len(choices):
        raise typer.Exit(130)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder cannot be made: {error.strerror}", where=str(folder), remedy="name another folder"
        ) from None


@app.command()
def up(context: typer.Context) -> None:
    """Start Airflow's scheduler, DAG processor and UI in the background."""
    from infra import airflow
    from infra.settings import read_settings

    settings = read_settings()
    env = airflow.environment(settings, ROOT / "dags")
    _say_ignored(context.obj)
    dict(_look_around(settings, env))
    _make_folder(settings.logs)
    out.print("starting Airflow …")
    address, user, password = airflow.up(env, airflow.home_of(settings), settings.logs / "airflow-standalone.log")
    out.print(f"Airflow:  {address}/dags/{airflow.DAG}\nlogin:    {user} / {password}\nstop:     make down")


@app.command()
def down() -> None:
    """Stop what `up` started."""
    from infra import airflow
    from infra.settings import read_settings

    home = airflow.home_of(read_settings())
    out.print("stopped" if airflow.down(home) else "Airflow was not running")


@app.command("leftovers")
def list_leftovers(
    days: Annotated[
        int, typer.Option(min=1, max=DAYS_MAX, help="Untouched for so many days; longer than any step takes.")
    ] = 7,
    remove: Annotated[bool, typer.Option("--remove", help="Delete them.")] = False,
) -> None:
    """List what killed attempts left in the lake and no version of a table names, or delete it."""
    from infra import leftovers
    from infra.lake import Lake
    from infra.settings import read_settings

    lake, age = Lake(read_settings().lake), datetime.timedelta(days=days)
    names = leftovers.remove(lake, age) if remove else leftovers.find(lake, age)
    for name in names:
        out.print(name)
    out.print(f"{len(names):,} {'removed' if remove else 'files that nobody reads; --remove deletes them'}")


@app.command()
def doctor(context: typer.Context) -> None:
    """Check what this machine needs: Java, Spark, Airflow, the settings, the store."""
    from infra import airflow
    from infra.settings import read_settings

    settings = read_settings()
    _say_ignored(context.obj)
    for name, found in _look_around(settings, airflow.environment(settings, ROOT / "dags")):
        out.print(f"{name:<9} {found}")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback asks for keys.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; default: 8000.")] = 0,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes that answer; default: 2.")] = 0,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="A port for Prometheus, without a key.")] = 0,
) -> None:
    """Serve the page and the API: products, their look-alikes under any filter, photos."""
    from infra.settings import read_settings
    from jobs.serve import server
    from jobs.serve.guard import is_loopback

    given = {"serve_host": host, "serve_port": port, "serve_workers": workers, "serve_metrics_port": metrics_port}
    settings = read_settings(**{name: value for name, value in given.items() if value})
    shown = settings.serve_host if ":" not in settings.serve_host else f"[{settings.serve_host}]"

    def say() -> None:
        out.print(
            f"page:     http://{shown}:{settings.serve_port}/\nAPI:      http://{shown}:{settings.serve_port}/docs"
        )
        if settings.serve_metrics_port:
            out.print(f"metrics:  http://{shown}:{settings.serve_metrics_port}/metrics")
        if settings.serve_proxies or not is_loopback(settings.serve_host):
            out.print(f"keys:     are asked for; `{_command('lookalike')} key add NAME` makes one")
        out.print("stop:     Ctrl-C")

    out.print("starting …", style="dim")
    server.run(settings, say)


keys_app = typer.Typer(help="Keys of those who ask the server over the network.", no_args_is_help=True)
app.add_typer(keys_app, name="key")


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(callback=_is_text, help="Whom the key is for; list shows it.")],
) -> None:
    """Make a key and show it, once: the store keeps its hash alone."""
    from infra import store
    from infra.settings import read_settings
    from jobs.serve.guard import draw

    key_id, key, sha256 = draw()
    with _store(read_settings()) as connection:
        store.add_key(connection, key_id, name, sha256)
    out.print(f"key {key_id} for {name}; it is not shown again:", style="dim")
    typer.echo(key)


@keys_app.command("list")
def list_keys() -> None:
    """List the keys by their ids."""
    from infra import store
    from infra.settings import read_settings

    with _store(read_settings()) as connection:
        keys = store.keys(connection)
    table = plain_table("id", "name", "added", "revoked")
    for key in keys:
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(key.key_id, Text(key.name), f"{key.added_at:%Y-%m-%d %H:%M}", revoked)
    out.print(table if keys else f"there is no key; `{_command('lookalike')} key add NAME` makes one")


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(callback=_is_text, help="Id of the key.")]) -> None:
    """End a key; servers know within seconds."""
    from infra import store
    from infra.settings import read_settings

    with _store(read_settings()) as connection:
        store.revoke_key(connection, key_id)
    out.print(f"revoked: key {key_id}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: the one place that turns errors into messages and exit codes."""
    tolerate_any_encoding()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' words to those who develop with them
    try:
        app(arguments)
    except (UserError, TransientError) as error:
        Terminal(stderr=True).print(Text.assemble(("error:", "red"), f" {error}"))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
