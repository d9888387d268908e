"""The one console that commands print on: it shows text as it is.

Nothing in a text is markup or the name of an emoji, and none of its characters steers the terminal, whosoever it is: a
product's name, a path, an error of another library. A style stands beside the text that it is for, in a `Text`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

from infra.terminal import visible


class Terminal(Console):
    """A console that shows text as it is, in lines as long as they are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]  # all strings pass here
        """The text to show for a string."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is to be shown; all that is no string passes here."""
        if isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = visible(renderable.plain)
        return super().render(renderable, options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A line that shows while a block works; a spinner would read a string as markup."""
        return super().status(Text(status) if isinstance(status, str) else status, **options)


def plain_table(*headers: str, **options: Any) -> Table:
    """A table without lines between its columns."""
    return Table(*headers, box=None, pad_edge=False, header_style="bold", **options)


def tolerate_any_encoding() -> None:
    """Let this process write `?` for what the encoding of its output lacks, such as LC_ALL=C's, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
