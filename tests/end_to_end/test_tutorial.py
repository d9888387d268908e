"""The tutorial of docs/catalogue.md, as it stands there: a made-up shop's catalogue, from nothing to answers."""

import os
import re
import subprocess
import sys
from pathlib import Path

from infra import store

TEXT = (Path(__file__).parents[2] / "docs/catalogue.md").read_text(encoding="utf-8")


def blocks(kind):
    """(What stands behind its kind, its text) of each block of the tutorial of this kind."""
    return re.findall(rf"^```{kind} ?(\S*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_tutorial_brings_a_made_up_shop_from_nothing_to_answers(tmp_path):
    for name, code in blocks("python"):
        (tmp_path / name).write_text(code, encoding="utf-8")
    script = "\n".join(["set -euo pipefail", "trap 'kill $(jobs -p)' EXIT", *(code for _, code in blocks("bash"))])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    ((_, mapping),) = blocks("toml")
    assert mapping in done.stdout
    assert (tmp_path / "shop/table/catalogue.toml").read_text(encoding="utf-8") == mapping
    *_, answer = done.stdout.partition("color=red and fit!=slim")
    answer, _, tagged = answer.partition("tags")
    assert len(re.findall(r"SKU-\d{4} .* red ", answer)) == 10
    assert len(re.findall(r"SKU-\d{4} ", tagged)) == 10
    ((_, questions),) = blocks("sql")
    with store.connect("", tmp_path / "var/store") as connection:
        asked = (connection.execute(question).fetchall() for question in questions.strip().split(";\n"))
        similar, new, own, images = asked
        shown = "SELECT attributes FROM lookalike.live_products WHERE product_id = ANY (%s)"
        found, tagged = (
            [row for (row,) in connection.execute(shown, ([item for item, _ in answer],))] for answer in (similar, new)
        )
    assert len(found) == 5
    assert {row["color"] for row in found} <= {"red", "blue"}
    assert "slim" not in {row["fit"] for row in found}
    assert len(tagged) == 5
    assert all("new" in row["tags"] and "sale" not in row["tags"] for row in tagged)
    assert [number for number, _ in images] in ([1], [1, 2])
    ((sku, name, kind, attributes),) = own
    assert (sku, name) == ("SKU-0007", f"{attributes['brand']} {attributes['color']} {kind}")
