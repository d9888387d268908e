"""Charts of the report, drawn by matplotlib as SVG that reads on light and dark pages, whatever the labels hold."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported late, and without pyplot: it takes half a second, and pyplot wants a window system
    from matplotlib.axes import Axes

COLOURS = ("#4a86c5", "#cf7d47", "#5f9d57")
GREY = "#808791"
"""Of axes; at least 3:1 against both pages (WCAG 2.2, 1.4.11). Text needs 4.5:1, which no one grey has on both."""
LABEL_LENGTH = 28
WIDTH, HEIGHT = 5.2, 2.6
"""Inches of a chart; one of many bars is higher."""
STYLE: Any = {  # matplotlib types its settings as one long list of literals
    "svg.fonttype": "none",  # text stays text: the browser has fonts for every script
    "svg.hashsalt": "lookalike",  # the same figures give the same file
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
CSS = (
    "text{font-family:system-ui,sans-serif!important;fill:#4d5766!important}"
    "@media(prefers-color-scheme:dark){text{fill:#aab4c1!important}}"
)


@dataclass(frozen=True)
class Chart:
    """A chart: its title, the drawing as a data URI, and the same in words for those who can't see it."""

    title: str
    image: str
    text: str


def bars(title: str, values: Mapping[str, float], unit: str) -> Chart:
    """A horizontal bar for each value, in the order given."""
    labels = [_label(name) for name in values]

    def draw(axes: Axes) -> None:
        drawn = axes.barh(range(len(values)), list(values.values()), height=0.68, color=COLOURS[0])
        axes.bar_label(drawn, [_number(value) for value in values.values()], padding=4, fontsize=8)
        axes.set_yticks(range(len(values)), labels)
        axes.set_xlabel(unit, fontsize=8)
        axes.margins(x=0.12, y=0.02)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.invert_yaxis()
        axes.spines["left"].set_visible(False)
        axes.tick_params(left=False)

    shown = ", ".join(f"{name} {_number(value)}" for name, value in zip(labels, values.values(), strict=True))
    return Chart(title, _svg(draw, max(HEIGHT, 0.6 + 0.19 * len(values))), f"{title}, in {unit}: {shown}")


def lines(
    title: str, series: Mapping[str, Sequence[float]], x: str, y: str, first: int = 0, top: float | None = 100
) -> Chart:
    """A line for each of up to three series, over `first`, `first` + 1, …; from 0 to `top`, None: to the greatest."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for (name, values), colour in zip(series.items(), COLOURS, strict=False):
            places = range(first, first + len(values))
            axes.plot(places, values, marker="o", markersize=3.5, label=name, color=colour)
        axes.set_ylim(0, None if top is None else 1.03 * top)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x, fontsize=8)
        axes.set_ylabel(y, fontsize=8)
        axes.grid(alpha=0.3, color=GREY, linewidth=0.6)
        axes.legend(frameon=False, fontsize=8, loc="best")

    shown = "; ".join(f"{name} " + ", ".join(_number(value) for value in values) for name, values in series.items())
    return Chart(title, _svg(draw, HEIGHT), f"{title}, {y} at {first}, {first + 1}, {first + 2}, … {x}: {shown}")


def _label(name: str) -> str:
    """A name as one short line without the control characters that XML forbids."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return shown if len(shown) <= LABEL_LENGTH else shown[: LABEL_LENGTH - 1] + "…"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _svg(draw: Callable[[Axes], None], height: float) -> str:
    """What `draw` puts on the axes of a figure of `height` inches, as a data URI.

    As an image the drawing can neither run nor load anything, and its ids meet no other drawing's.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # only matplotlib's own font lacks it
        figure = Figure((WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.tick_params(color=GREY, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawing = out.getvalue().replace("</style>", f"{CSS}</style>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()
