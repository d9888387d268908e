"""The console shows text as it is: no markup, no emoji's names, and nothing that steers the terminal."""

import ast
import io
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.text import Text

import jobs
from jobs.printing import Terminal, plain_table

ODD = ["[/]", "[bold red]Sale[/bold red]", "[/red]", ":dress:", "C:\\[temp]\\x", "\\[a]", "[link=https://x]y[/link]"]


def printed(*objects, **options) -> str:
    console = Terminal(file=(shown := io.StringIO()), width=100)
    console.print(*objects, **options)
    return shown.getvalue()


@pytest.mark.parametrize("text", ODD)
def test_what_looks_like_markup_is_shown_wherever_it_stands(text):
    table = plain_table("name", title=text, caption=text)
    table.add_row(text)
    table.add_row(Text(text, "red"))
    assert printed(text) == f"{text}\n"
    assert printed(text, style="bold") == f"{text}\n"
    assert printed(Text.assemble((text, "bold"), text)) == f"{text}{text}\n"
    assert [line.strip() for line in printed(table).splitlines()] == [text, "name", text, text, text]


@pytest.mark.parametrize("text", ODD)
def test_a_line_that_shows_while_something_works_is_no_markup_either(text):
    console = Terminal(file=(shown := io.StringIO()), width=100, force_terminal=True)
    with console.status(text):
        pass
    assert text in shown.getvalue()


def test_characters_that_would_steer_the_terminal_are_shown_as_signs():
    text = "a\x1b[31mb\x1b]0;title\x07c\x08\r\x9b2J\u202etxt.exe\u2066x\udce9"
    expected = "a␛[31mb␛]0;title␇c␈␍\ufffd2J\ufffdtxt.exe\ufffdx\ufffd"
    table = plain_table()
    table.add_row(text)
    assert printed(text) == f"{expected}\n"
    assert printed(table).strip() == expected
    shown = printed(Text(text, "bold"))
    assert not set("\x1b\x07\x08\r\x9b\u202e\u2066\udce9") & set(shown)
    assert printed("👩‍👩‍👧 عربى a\tb\nc") == "👩‍👩‍👧 عربى a       b\nc\n"


def test_a_line_is_as_long_as_its_text():
    assert printed("long " * 100) == "long " * 100 + "\n"


def test_nothing_prints_otherwise():
    """No file of ours makes a console of its own or asks rich to read markup, as Progress and Spinner would."""
    forbidden = {"Console", "from_markup", "escape", "Spinner", "Panel"}
    for file in Path(jobs.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                named = {name.name for name in node.names} & forbidden
                assert file.name == "printing.py" or not named, f"{file}: {named}"
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "TextColumn":
                assert {"markup"} <= {keyword.arg for keyword in node.keywords}, f"{file}:{node.lineno}"
            assert getattr(node, "attr", "") != "from_markup", f"{file}"
    assert Progress.get_default_columns  # what these names are of
    assert TextColumn("x").markup  # rich's default, which is why it is asked for
