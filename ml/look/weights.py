"""What the heads of the look have learnt, as a file: NumPy arrays of float16."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from ml.look.articles import KeypointBoxes
from ml.look.pose import Head
from ml.look.sight import SightHeads


class Learnt(NamedTuple):
    """The heads that tell the orientation and full shots, those for what a backbone sees, and the rules for boxes."""

    orientation: Head
    full_shot: Head
    sight: SightHeads
    boxes: KeypointBoxes


def to_bytes(learnt: Learnt) -> bytes:
    """The file of what was learnt."""
    heads = {"orientation": learnt.orientation, "full_shot": learnt.full_shot}
    heads |= {f"sight.{name}": head for name, head in learnt.sight._asdict().items()}
    arrays = {f"{name}.{part}": array for name, head in heads.items() for part, array in head._asdict().items()}
    arrays |= {f"box.{name}": rule for name, rule in learnt.boxes.rules.items()}
    arrays |= {f"share.{name}": np.array(share) for name, share in learnt.boxes.shares.items()}
    out = io.BytesIO()
    np.savez_compressed(out, **{name: array.astype(np.float16) for name, array in arrays.items()})
    return out.getvalue()


def from_bytes(data: bytes) -> Learnt:
    """What was learnt, of its file."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: array.astype(np.float64) for name, array in file.items()}
    names = ("orientation", "full_shot", *(f"sight.{name}" for name in SightHeads._fields))
    orientation, full_shot, *sight = (Head(*(arrays[f"{name}.{part}"] for part in Head._fields)) for name in names)
    rules = {name.removeprefix("box."): array for name, array in arrays.items() if name.startswith("box.")}
    shares = {name: float(arrays[f"share.{name}"]) for name in rules}
    return Learnt(orientation, full_shot, SightHeads(*sight), KeypointBoxes(rules, shares))
