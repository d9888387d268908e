"""The network that tells a garment from its ground, loaded: what photo search cuts garments out of photos with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from infra.errors import UserError
from jobs.detectors import build_backbone
from ml.features import compiled
from ml.ground import framing
from ml.ground.framing import SIDE

WEIGHTS = Path(__file__).parent / "weights/ground.npz"
"""What `jobs.train_ground` has learnt; its SHA-256 and its card stand beside it."""
BACKBONE = "efficientnet-lite0"
"""The backbone whose maps it takes, with the weights of its package, whatever a catalogue is embedded with."""


class Cutter:
    """Cuts garments out of photos. Not for two threads at once."""

    def __init__(self) -> None:
        """Load the network, and call it once: seconds.

        Raises:
            UserError: its file is not the one that was released.
        """
        from ml.ground import network

        sha256 = WEIGHTS.with_suffix(".sha256").read_text().split()[0]
        try:
            model = network.from_bytes(WEIGHTS.read_bytes(), sha256, build_backbone(BACKBONE, SIDE, SIDE))
        except (ValueError, OSError) as error:
            raise UserError(str(error), where=str(WEIGHTS), remedy="install the release again") from None
        self._call = compiled(model)
        self._find(np.zeros((SIDE, SIDE, 3), np.uint8))

    def __call__(self, photo: np.ndarray) -> Image.Image | None:
        """The garment of a photo, uint8 (h, w, 3), alone on white; None where its mask is in doubt."""
        return framing.cut_out(Image.fromarray(photo), self._find)

    def _find(self, seen: np.ndarray) -> np.ndarray:
        logits = np.asarray(self._call(seen[None]), np.float32)[0, ..., 0]
        return 1 / (1 + np.exp(-logits))
