"""`lookalike …`: parses, calls, prints. The work is in the steps and in infra."""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import airflow, leftovers, spark, store
from infra.errors import TransientError, UserError
from infra.lake import Lake
from infra.places import shown
from infra.settings import Settings, read_settings
from infra.telemetry import log_file
from jobs import console as display
from jobs import step as steps
from jobs.evaluate import result_grid
from jobs.grid import draw_grid
from jobs.run import APART, STEPS, Run, check_night, open_run
from ml.images import ImageError

if TYPE_CHECKING:
    from jobs.serve.search import Answer

app = typer.Typer(
    help="Look-alike tables for fashion catalogues.", no_args_is_help=True, pretty_exceptions_enable=False
)
out = Console(highlight=False)
ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.5

Dataset = Annotated[
    str,
    typer.Option(
        help="Source of the catalogue: path, s3://, https://, kaggle:, sample:N?seed=S. The process list shows it: "
        "put an address with a password into LOOKALIKE_DATASET."
    ),
]
PublishAnyway = Annotated[
    str,
    typer.Option(metavar="REASON", help="Publish what a gate, a hold or the order of nights would refuse; say why."),
]
NewCatalogue = Annotated[
    bool, typer.Option("--new-catalogue", help="The catalogue shares few products with the live one, and is meant to.")
]
RunName = Annotated[str, typer.Option("--run", help="Logical date that names the run; default: today (UTC).")]


@app.command()
def refresh(
    dataset: Dataset = "", run: RunName = "", publish_anyway: PublishAnyway = "", new_catalogue: NewCatalogue = False
) -> None:
    """Run the nightly DAG through Airflow, here and now, and show its steps."""
    name = run or datetime.datetime.now(datetime.UTC).date().isoformat()
    check_night(name)
    settings = read_settings(**({"dataset": dataset} if dataset else {}))
    spark.check_java()
    opened = Run(name, settings, Lake(settings.lake))
    params: dict[str, object] = {"publish_anyway": publish_anyway.strip(), "new_catalogue": new_catalogue}
    started = time.perf_counter()
    log = settings.logs / name / "airflow.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    source = shown(settings.dataset)
    out.print(f"refresh of {escape(source)} as run [bold]{name}[/]; logs in {escape(str(log.parent))}", soft_wrap=True)
    env = airflow.environment(settings, _airflow_home(), ROOT / "dags")
    with airflow.alone(_airflow_home()):
        airflow.migrate(env, _airflow_home(), log)
        watch = display.Watch(settings.logs, name, out)
        process = airflow.start_run(name, params, env, log)
        try:
            with watch.progress:
                while process.poll() is None:
                    time.sleep(POLL_S)
                    watch.poll()
                watch.poll()
        except KeyboardInterrupt:
            out.print(f"stopped; `{escape(_again(dataset, run))}` resumes")
            raise typer.Exit(130) from None
        finally:
            if process.poll() is None:
                airflow.stop(process)
    if process.returncode or watch.failed or set(watch.results) != set(STEPS):
        _report_failure(watch, opened, log, _again(dataset, run))
    _report_success(watch, opened, time.perf_counter() - started)


def _report_failure(watch: display.Watch, run: Run, log: Path, again: str) -> None:
    """Say what stopped the run, and end as the step that failed did."""
    failed, code = next(iter(watch.failed), None), display.BUG
    if failed:
        code = watch.exit_codes[failed]
        out.print(f"\n[red]{failed} failed:[/] {escape(watch.failed[failed])}", soft_wrap=True)
        log = log_file(run.settings.logs, run.name, failed)
    else:
        missing = [step for step in STEPS if step not in watch.results]
        out.print(f"\n[red]the run ended before {missing[0] if missing else 'its end'}[/]")
    out.print(f"  log:    {escape(str(log))}\n  resume: {escape(again)}", soft_wrap=True)
    raise typer.Exit(code)


def _report_success(watch: display.Watch, run: Run, seconds: float) -> None:
    out.print()
    out.print(display.closing_table(watch.results))
    out.print(f"wall time   {seconds:.1f} s\n")
    report = run.lake.path(str(watch.results["evaluate"].figures["report"]))
    product = run.products(["product_id"])["product_id"][0].as_py()
    out.print(f"report:  {report}", soft_wrap=True)
    out.print(f"try:     {_command('lookalike')} query {product} --filter baseColour=Blue", soft_wrap=True)


def _again(dataset: str, run: str) -> str:
    """The command that resumes; an address that holds more than may be shown is for its user to fill in."""
    source = dataset if shown(dataset) == dataset else "…"
    extra = (f" DATASET={source}" if dataset else "") + (f" RUN={run}" if run else "")
    return f"make refresh{extra}"


def _command(name: str) -> str:
    """How a person in the current folder calls one of our executables."""
    executable = Path(sys.executable).parent / name
    return str(executable.relative_to(Path.cwd())) if executable.is_relative_to(Path.cwd()) else name


def _airflow_home() -> Path:
    return Path.cwd() / "var/airflow"


@app.command("step")
def run_step(
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
    arguments = ["--run", run, *(["--dataset", dataset] if dataset else [])]
    arguments += ["--publish-anyway", publish_anyway] if publish_anyway else []
    arguments += ["--new-catalogue"] if new_catalogue else []
    raise typer.Exit(steps.main(name, arguments))


@app.command()
def query(
    product_id: Annotated[int, typer.Argument(help="Product whose look-alikes to list.")],
    filters: Annotated[list[str] | None, typer.Option("--filter", help="field=value; give it again to narrow.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many.")] = 10,
) -> None:
    """List the products most like one product, among those that the filters leave."""
    wanted = dict(_field_value(text) for text in filters or [])
    settings = read_settings()
    with _store(settings) as connection:
        items = store.similar_items(connection, product_id, wanted, k)
        names = store.product_names(connection, [product_id, *(item.product_id for item in items)])
    shown = " and ".join(f"{field}={value}" for field, value in wanted.items()) or "no filter"
    out.print(f"[bold]{product_id}[/] {names.get(product_id, '')} — {shown}")
    if not items:
        out.print("no product passes these filters")
        return
    table = Table("", "product", "score", "name", box=None, pad_edge=False, header_style="bold")
    for rank, item in enumerate(items, 1):
        table.add_row(str(rank), str(item.product_id), f"{item.score:.4f}", names.get(item.product_id, ""))
    out.print(table)
    out.print("precomputed" if items[0].precomputed else "computed on read", style="dim")


@app.command()
def search(
    photo: Annotated[str, typer.Argument(help="Photo; or a folder or table (CSV, Parquet) of photos, local or s3://.")],
    filters: Annotated[list[str] | None, typer.Option("--filter", help="field=value; give it again to narrow.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=100, help="How many.")] = 10,
) -> None:
    """List the products most like a photo that need not be in the catalogue, and what it is taken for."""
    wanted = dict(_field_value(text) for text in filters or [])
    if "://" in photo or Path(photo).is_dir() or photo.endswith((".csv", ".parquet")):
        _search_all(photo, wanted | {"k": str(k)})
        return
    try:
        data = Path(photo).read_bytes()
    except OSError as error:
        raise UserError(
            f"the photo cannot be read: {error.strerror}", where=photo, remedy="give the path of an image file"
        ) from None
    from jobs.serve.search import Searcher  # with TensorFlow: seconds

    settings, started = read_settings(), time.perf_counter()
    with _store(settings) as connection:
        searcher = Searcher(connection, settings)
        loaded = time.perf_counter()
        try:
            answer = searcher.search(connection, data, wanted, k)
        except ImageError as error:
            raise UserError(
                f"the photo cannot be used: {error}", where=photo, remedy="give a JPEG, PNG, WEBP, GIF or BMP image"
            ) from None
        ended = time.perf_counter()
        names = store.product_names(connection, [item.product_id for item in answer.items])
    _show_answer(photo, answer, names)
    out.print(f"{1000 * (ended - loaded):.0f} ms, after {loaded - started:.1f} s to load the models", style="dim")


def _search_all(photos: str, asked: dict[str, str]) -> None:
    """Run the step search for a folder or table, and show how many photos each stage answered."""
    with _store(read_settings()) as connection:
        live = store.live(connection)
    if live is None:
        raise UserError("no run is live", where="the store", remedy="publish one with `make refresh`")
    code = steps.main("search", ["--run", live.run, "--dataset", f"{photos}?{urlencode(asked)}"])
    if code:
        raise typer.Exit(code)
    result = open_run(live.run).result("search")
    for name, value in result.figures.items():
        out.print(f"{name:<16} {value}")
    out.print(f"tables searches ({result.rows:,} rows) and search_rejects ({result.rejects:,} rows) of the lake")


def _show_answer(photo: str, answer: Answer, names: dict[int, str]) -> None:
    out.print(f"[bold]{escape(photo)}[/]", soft_wrap=True)
    for stage, guess in (("subCategory", answer.subcategory), ("derivedType", answer.derived_type)):
        found = f"{escape(guess.value)}, confidence {guess.confidence:.2f}" if guess else "not asked for"
        out.print(f"{stage:<13} {found}")
    out.print(f"searched in   {answer.stage}: {escape(answer.why)}", soft_wrap=True)
    table = Table("", "product", "score", "name", box=None, pad_edge=False, header_style="bold")
    for rank, item in enumerate(answer.items, 1):
        table.add_row(str(rank), str(item.product_id), f"{item.score:.4f}", escape(names.get(item.product_id, "")))
    if answer.items:
        out.print(table)


def _field_value(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise UserError(f"{text!r} is no filter", where="--filter", remedy="write field=value, such as baseColour=Blue")
    return field, value


def _store(settings: Settings):  # type: ignore[no-untyped-def]
    return store.connect(settings.store, settings.store_folder)


@app.command()
def status() -> None:
    """Show the runs that the store holds, the live one marked, and what is held."""
    with _store(read_settings()) as connection:
        live, runs, holds = store.live(connection), store.runs(connection), store.holds(connection)
    held = {hold.content_hash for hold in holds}
    table = Table("", "run", "loaded", "products", "lists", "", box=None, pad_edge=False, header_style="bold")
    for run in runs:
        mark = "live" if live and run.run_id == live.run_id else "held" if run.content_hash in held else ""
        figures = [f"{run.figures.get(name, 0):,}" for name in ("products", "lists")]
        reason = str(run.manifest.get("published_anyway", ""))
        note = f"published anyway: {escape(reason)}" if reason else ""
        table.add_row(mark, escape(run.run), f"{run.loaded_at:%Y-%m-%d %H:%M}", *figures, note)
    out.print(table if runs else "the store holds no run; `make refresh` publishes one")
    for hold in holds:
        reason = f": {escape(hold.reason)}" if hold.reason else ""
        out.print(f"held since {hold.held_at:%Y-%m-%d %H:%M}: the content of run {escape(hold.run)}{reason}")


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; shown by status.")] = "",
) -> None:
    """Make the run before the live one live again, and hold what was live: no night publishes it until `unhold`."""
    with _store(read_settings()) as connection:
        live = store.rollback(connection, reason)
        held = store.holds(connection)[0]
    out.print(f"live: run {live.run}\nheld: the content of run {held.run}, until `{_command('lookalike')} unhold`")


@app.command()
def unhold(
    run: Annotated[str, typer.Argument(help="Run whose content may be published again; default: all.")] = "",
) -> None:
    """Let what was rolled back be published again."""
    with _store(read_settings()) as connection:
        ended = store.unhold(connection, run or None)
    out.print(
        "\n".join(f"no longer held: the content of run {escape(hold.run)}" for hold in ended) or "nothing is held"
    )


@app.command()
def evaluate(
    run: Annotated[str, typer.Option("--run", help="Name of the run: its logical date, or latest.")] = "latest",
    queries: Annotated[int, typer.Option(min=0, help="Held-out images to search for as if unknown.")] = 5000,
    copies: Annotated[int, typer.Option(min=0, help="Held-out photos whose copies to look for; 0: none.")] = 500,
) -> None:
    """Measure a run on all products and on held-out ones, and compare it with the live run."""
    opened = open_run(run, evaluate_queries=queries, evaluate_copies=copies)
    with out.status(f"evaluating run {opened.name}"):
        figures = steps.execute("evaluate", opened).figures
    other = figures["compared_with"]
    before = Run(str(other), opened.settings, opened.lake).result("evaluate").figures if other else {}
    for table in display.evaluation_tables(figures, before):
        out.print(table, end="\n\n")
    report = opened.lake.path(str(figures["report"]))
    out.print(f"report:  {report}\nimages:  table heldout of {opened.settings.lake}", soft_wrap=True)


@app.command()
def champion(
    use: Annotated[str, typer.Option(help="Number of the embedder to go back to, or untrained.")] = "",
) -> None:
    """List the trained embedders, the champion marked, or go back to one; a night uses it if it is better than none."""
    from jobs import champion as champions
    from jobs import extraction

    settings = read_settings()
    lake, base = Lake(settings.lake), extraction.choose_model(settings).base
    if use:
        champions.use(lake, base, champions.parse_number(use))
    used = champions.find_champion(lake, base).embedder
    table = display.embedders_table(champions.read_rows(lake), used)
    out.print(table if table.row_count else "no embedder is trained; `make train` trains one")


@app.command()
def grid(
    file: Annotated[Path, typer.Argument(help="PNG file to write.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run: its logical date.")],
    rows: Annotated[int, typer.Option(min=1, max=50, help="Products to show.")] = 6,
) -> None:
    """Draw products of a run with their ten neighbours."""
    settings = read_settings()
    pictures = result_grid(Run(run, settings, Lake(settings.lake)), rows)
    Image.fromarray(draw_grid(pictures)).save(file, optimize=True)
    out.print(f"{file}: {rows} products, each followed by its ten most similar")


@app.command("compare-backbones")
def compare_backbones(
    run: Annotated[str, typer.Option("--run", help="Run on whose images to compare: its logical date.")] = "latest",
    backbones: Annotated[str, typer.Option(help="name or name@HEIGHTxWIDTH, by commas; default: all.")] = "",
    sample: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 4000,
    weights: Annotated[str, typer.Option(help="Folder or URI that holds <name>.weights.h5 or .pth.")] = "",
    folder: Annotated[Path, typer.Option("--out", help="Folder for the table and the plot.")] = Path("var/backbones"),
) -> None:
    """Measure the accuracy and speed of the backbones whose weights are at hand, by one protocol."""
    from jobs import compare_backbones as comparing  # with the models' libraries: seconds

    choices, opened = comparing.parse_choices(backbones), open_run(run)
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
        Console(highlight=False, width=max(out.width, comparing.WIDTH)).print(comparing.table(found))
        for row in rows:
            if row.missing:
                out.print(f"{row.backbone} was not measured: {escape(row.missing)}", soft_wrap=True)
        out.print(
            f"{found.images:,} images of run {found.run}, {found.queries:,} held-out queries, {found.device}; "
            f"% of the ten nearest that are right\n{folder}/backbones.csv, .json, .png",
            soft_wrap=True,
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
def up() -> None:
    """Start Airflow's scheduler, DAG processor and UI in the background."""
    spark.check_java()
    settings = read_settings()
    settings.logs.mkdir(parents=True, exist_ok=True)
    env = airflow.environment(settings, _airflow_home(), ROOT / "dags")
    out.print("starting Airflow …")
    address, user, password = airflow.up(env, _airflow_home(), settings.logs / "airflow-standalone.log")
    out.print(f"Airflow:  {address}/dags/{airflow.DAG}\nlogin:    {user} / {password}\nstop:     make down")


@app.command()
def down() -> None:
    """Stop what `up` started."""
    out.print("stopped" if airflow.down(_airflow_home()) else "Airflow was not running")


@app.command("leftovers")
def list_leftovers(
    days: Annotated[int, typer.Option(min=1, help="Untouched for so many days; longer than any step takes.")] = 7,
    remove: Annotated[bool, typer.Option("--remove", help="Delete them.")] = False,
) -> None:
    """List what killed attempts left in the lake and no version of a table names, or delete it."""
    lake, age = Lake(read_settings().lake), datetime.timedelta(days=days)
    names = leftovers.remove(lake, age) if remove else leftovers.find(lake, age)
    for name in names:
        out.print(escape(name), soft_wrap=True)
    out.print(f"{len(names):,} {'removed' if remove else 'files that nobody reads; --remove deletes them'}")


@app.command()
def doctor() -> None:
    """Check what this machine needs: Java, the settings, the store."""
    out.print(f"java      {spark.check_java()}")
    settings = read_settings()
    out.print(f"lake      {settings.lake}")
    with _store(settings) as connection:
        live = store.live(connection)
    out.print(f"store     answers; live run: {live.run if live else 'none'}")


def main() -> None:
    """Entry point: the one place that turns errors into messages and exit codes."""
    try:
        app()
    except (UserError, TransientError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
