"""A refresh as a person sees it: a bar while a step works, a line when it is done, no progress noise in a log."""

import io
import json

from infra.telemetry import log_file
from jobs.console import Watch, _gates, closing_table, embedders_table
from jobs.printing import Terminal
from jobs.run import StepResult

FINISHED = {"event": "finished", "rows": 3000, "files": 3, "rejects": 2, "seconds": 9.0, "skipped": False, "tables": {}}


def watch(tmp_path, terminal: bool):
    shown = io.StringIO()
    console = Terminal(file=shown, force_terminal=terminal, width=100)
    return Watch(tmp_path, "r", console), shown


def log(tmp_path, step, *events):
    file = log_file(tmp_path, "r", step)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)


def test_a_finished_step_is_one_line_with_its_figures(tmp_path):
    seen, shown = watch(tmp_path, terminal=False)
    log(tmp_path, "embed", {"event": "progress", "unit": "images", "done": 5, "total": 10})
    log(tmp_path, "embed", FINISHED | {"figures": {"images": 3000, "images_per_s": 291.4}})
    seen.poll()
    assert shown.getvalue() == "✓ embed           9.0 s  images 3,000 · images_per_s 291.4 · rejects 2\n"
    assert seen.results["embed"].rows == 3000


def test_a_terminal_shows_a_bar_until_the_step_is_done(tmp_path):
    seen, _ = watch(tmp_path, terminal=True)
    log(tmp_path, "embed", {"event": "progress", "unit": "images", "done": 5, "total": 10})
    seen.poll()
    assert [(task.completed, task.total) for task in seen.progress.tasks] == [(5, 10)]
    log(tmp_path, "embed", FINISHED | {"figures": {}})
    seen.poll()
    assert seen.progress.tasks == []


def test_only_what_is_logged_from_now_on_counts_and_half_a_line_waits(tmp_path):
    log(tmp_path, "pull", FINISHED | {"figures": {}})
    seen, shown = watch(tmp_path, terminal=False)
    with log_file(tmp_path, "r", "pull").open("a") as stream:
        stream.write('{"event": "fini')
    seen.poll()
    assert (shown.getvalue(), seen.results) == ("", {})


def test_a_step_that_failed_and_then_succeeded_has_not_failed(tmp_path):
    seen, _ = watch(tmp_path, terminal=False)
    log(tmp_path, "pull", {"event": "failed", "message": "away", "kind": "TransientError", "exit_code": 75})
    seen.poll()
    assert (seen.failed, seen.exit_codes) == ({"pull": "away"}, {"pull": 75})
    log(tmp_path, "pull", FINISHED | {"figures": {}})
    seen.poll()
    assert seen.failed == {}


def test_a_failure_that_no_step_foresaw_is_a_bug(tmp_path):
    seen, _ = watch(tmp_path, terminal=False)
    log(tmp_path, "embed", {"event": "failed", "message": "unexpected error", "kind": "bug"})
    seen.poll()
    assert seen.exit_codes == {"embed": 1}


def test_what_a_step_says_of_names_and_paths_is_shown_as_it_is(tmp_path):
    seen, shown = watch(tmp_path, terminal=False)
    log(tmp_path, "pull", FINISHED | {"figures": {"bytes": "[/] :dress:"}, "rejects": 0})
    seen.poll()
    assert shown.getvalue() == "✓ pull            9.0 s  bytes [/] :dress:\n"


def test_the_tables_of_an_evaluation_show_what_users_wrote(tmp_path):
    verdicts = _gates([("coverage", "failed", "[/] :dress:"), ("shrink", "passed", "")])
    row = {"number": 1, "promoted": True, "sha256": "a", "judged": "", "run": "[/]", "catalogue": "", "reason": "[b]"}
    console = Terminal(file=(shown := io.StringIO()), width=100)
    console.print(verdicts, embedders_table([row], "a"))
    words = shown.getvalue().split()
    assert words[:5] == ["gates", "coverage", "failed", "[/]", ":dress:"]
    assert {"[/]", "[b]"} <= set(words[7:])


def test_the_closing_table_lists_every_step_and_the_sum(tmp_path):
    console = Terminal(file=(out := io.StringIO()), width=80)
    console.print(
        closing_table({"pull": StepResult(1, seconds=1.5), "catalog": StepResult(20, rejects=3, seconds=2.0)})
    )
    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["step", "rows", "rejects", "seconds"],
        ["pull", "1", "0", "1.5"],
        ["catalog", "20", "3", "2.0"],
        ["in", "all", "3.5"],
    ]
