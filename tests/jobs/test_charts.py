"""Charts say what they were given, whatever the names in a catalogue are."""

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from jobs.charts import LABEL_LENGTH, bars, lines

SVG = "{http://www.w3.org/2000/svg}"


def drawing(chart) -> ElementTree.Element:
    kind, data = chart.image.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(data))  # noqa: S314  # ours


def words(chart) -> list[str]:
    return ["".join(text.itertext()).strip() for text in drawing(chart).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Tshirts", "Tshirts"),
        ("$\\frac$ and $x$", "$\\frac$ and $x$"),
        ("サリー", "サリー"),
        ("<script>a && b</script>", "<script>a && b</script>"),
        ("-->", "-->"),
        ("a\x01b\nc\ud800", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}"),
        ("x" * 5000, "x" * (LABEL_LENGTH - 1) + "…"),
        ("_hidden", "_hidden"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_any_name_is_a_label(name, shown):
    chart = bars("Types", {name: 12.0, "Shirts": 3.0}, "products")
    assert {shown, "Shirts", "12", "3"} < set(words(chart))
    assert f"{shown} 12, Shirts 3" in chart.text


def test_names_that_differ_only_past_the_end_of_their_labels_keep_their_bars():
    chart = bars("Types", {"x" * 40 + "1": 12.0, "x" * 40 + "2": 34.0}, "products")
    assert {"12", "34"} < set(words(chart))


def test_bars_are_as_long_as_their_values():
    widths = []
    for path in drawing(bars("Types", {"a": 10.0, "b": 5.0, "c": 0.0}, "products")).iter(f"{SVG}path"):
        if "fill: #4a86c5" in path.get("style", ""):
            x = [float(pair.split()[0]) for pair in re.findall(r"[ML] ([\d. -]+)", path.get("d"))]
            widths.append(max(x) - min(x))
    assert widths == pytest.approx([widths[0], widths[0] / 2, 0], abs=1e-3)
    assert widths[0] > 100


def test_lines_name_their_series_and_say_their_values():
    chart = lines("Right", {"type": np.array([10.0, 60.0]), "gender": np.array([20.0, 80.0])}, "allowed", "%")
    assert {"type", "gender", "allowed", "%"} < set(words(chart))
    assert chart.text == "Right, % at 0, 1, 2, … allowed: type 10, 60; gender 20, 80"


def test_lines_may_begin_at_one_and_reach_to_their_greatest_value():
    chart = lines("Loss", {"training": [4.0, 2.5, 0.25]}, "epoch", "loss", first=1, top=None)
    assert chart.text == "Loss, loss at 1, 2, 3, … epoch: training 4, 2.5, 0.25"
    shown = [float(word) for word in words(chart) if word.replace(".", "").isdigit()]
    assert max(shown) == 4  # the axis of losses, not one of percentages


def test_the_same_figures_give_the_same_drawing():
    assert bars("Types", {"a": 1.0}, "products") == bars("Types", {"a": 1.0}, "products")


def test_a_drawing_loads_nothing_and_takes_the_page_s_colours():
    style = drawing(bars("Types", {"a": 1.0}, "products")).find(f".//{SVG}style").text
    assert "prefers-color-scheme:dark" in style
    text = base64.b64decode(bars("Types", {"a": 1.0}, "products").image.split(",")[1]).decode()
    assert not re.search(r'(href|src)="(?!#)', text)
    assert "@import" not in text
