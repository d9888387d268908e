"""What the heads of the look have learnt, as a file: NumPy arrays of float16."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from ml.look.articles import KeypointBoxes
from ml.look.pose import Head


class Learnt(NamedTuple):
    """The heads that tell the orientation and full shots, and the rules for boxes."""

    orientation: Head
    full_shot: Head
    boxes: KeypointBoxes


def to_bytes(learnt: Learnt) -> bytes:
    """The file of what was learnt."""
    heads = {"orientation": learnt.orientation, "full_shot": learnt.full_shot}
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
    orientation, full_shot = (
        Head(*(arrays[f"{name}.{part}"] for part in Head._fields)) for name in ("orientation", "full_shot")
    )
    rules = {name.removeprefix("box."): array for name, array in arrays.items() if name.startswith("box.")}
    return Learnt(
        orientation, full_shot, KeypointBoxes(rules, {name: float(arrays[f"share.{name}"]) for name in rules})
    )
