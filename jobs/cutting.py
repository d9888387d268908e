"""The networks that tell a garment from its ground and how it is turned, loaded: photo search cuts garments out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infra.errors import UserError
from jobs.detectors import build_backbone
from ml.features import compiled
from ml.ground import framing
from ml.ground.framing import SIDE

WEIGHTS, TURNS = (Path(__file__).parent / f"weights/{name}.npz" for name in ("ground", "turn"))
"""What `jobs.train_ground` has learnt; the SHA-256 of each stands beside it, and one card for both."""
BACKBONE = "efficientnet-lite0"
"""The backbone whose maps it takes, with the weights of its package, whatever a catalogue is embedded with."""


class Cutter:
    """Cuts garments out of photos. Not for two threads at once."""

    def __init__(self) -> None:
        """Load the networks, and call each once: seconds.

        Raises:
            UserError: a file is not the one that was released.
        """
        from ml.ground import network, turning

        backbone = build_backbone(BACKBONE, SIDE, SIDE)
        self._find_call = compiled(_read(WEIGHTS, lambda data, sha256: network.from_bytes(data, sha256, backbone)))
        self._turn_call, self._seen = compiled(_read(TURNS, turning.from_bytes)), turning.seen
        self._tens = turning.TENS
        self._find(np.zeros((SIDE, SIDE, 3), np.uint8))
        self._turn(Image.new("RGBA", (SIDE, SIDE)))

    def __call__(self, photo: np.ndarray) -> Image.Image | None:
        """The garment of a photo, uint8 (h, w, 3), alone and upright, RGBA; None where its mask is in doubt."""
        garment = framing.cut_out(Image.fromarray(photo), self._find)
        return framing.turned(garment, -self._turn(garment)) if garment else None

    def _find(self, seen: np.ndarray) -> np.ndarray:
        logits = np.asarray(self._find_call(seen[None]), np.float32)[0, ..., 0]
        return 1 / (1 + np.exp(-logits))

    def _turn(self, garment: Image.Image) -> float:
        return self._tens * float(np.asarray(self._turn_call(self._seen(garment)[None]))[0, 0])


def _read(file: Path, read: Callable[[bytes, str], Any]) -> Any:
    sha256 = file.with_suffix(".sha256").read_text().split()[0]
    try:
        return read(file.read_bytes(), sha256)
    except (ValueError, OSError) as error:
        raise UserError(str(error), where=str(file), remedy="install the release again") from None
