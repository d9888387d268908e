"""train_pose: street photos → `weights/pose.npz`, the heads that tell poses and genders, and the rules that draw boxes.

    python -m jobs.train_pose ../shared/data/street-photos.zip

Learns from all pictures of the archive; how well that does, `benchmarks/look.py` measures by folds. Takes minutes, in
which the networks look at every picture; the same archive gives the same file on the same machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from rich.progress import track

from infra.errors import UserError
from jobs.looking import WEIGHTS, Eyes, Onlooker
from jobs.street_photos import StreetPhotos, labelled, orientation_of
from ml.look.articles import fit_boxes
from ml.look.keypoints import Person
from ml.look.pose import fit_full_shot, fit_orientation
from ml.look.sight import Sight, fit_sight
from ml.look.weights import Learnt, to_bytes

Seen = dict[str, list[Person]]
"""The persons of each picture."""
SHOD_COUNTS = 0.03
"""How much a photo counts of which only the boxes tell whether it is a full shot, by those whose poses have labels."""
Sights = dict[str, Sight]
"""What is seen of the largest person of each picture that has one."""


def see(photos: StreetPhotos, eyes: Eyes, onlooker: Onlooker) -> tuple[Seen, Sights]:
    """The persons of all pictures that have a label, and what is seen of them."""
    seen, sights = Seen(), Sights()
    for name in track(sorted({*photos.poses, *photos.worn}), "looking at the pictures"):
        image = photos.image(name)
        seen[name] = eyes(image)
        if seen[name]:
            sights[name] = onlooker(image, seen[name][0])
    return seen, sights


def learn(photos: StreetPhotos, seen: Seen, sights: Sights, names: Collection[str]) -> Learnt:
    """What some of the pictures teach: poses by the largest person, boxes by the one who wears what is labelled.

    Where the pose has no label, a picture with a box of footwear is taken for a full shot: of 142 that have both, 135
    agree.
    """
    posed = [(seen[name][0], photos.poses[name]) for name in names if name in photos.poses and seen[name]]
    oriented = [(person, found) for person, label in posed if (found := orientation_of(label))]
    shod = [
        (seen[name][0], "footwear" in photos.worn[name]) for name in sorted({*names} - {*photos.poses}) if seen[name]
    ]
    full_shot = [(person, label["full_shot"], 1.0) for person, label in posed]
    full_shot += [(person, is_shod, SHOD_COUNTS) for person, is_shod in shod]
    dressed = [(labelled(seen[name], worn), worn) for name, worn in photos.worn.items() if name in names]
    whose = [name for name in sorted(names) if name in sights and name in photos.genders]
    return Learnt(
        fit_orientation(*zip(*oriented, strict=True)),
        fit_full_shot(*zip(*full_shot, strict=True)),
        fit_sight([sights[name] for name in whose], [photos.genders[name] for name in whose]),
        fit_boxes(*zip(*((person, worn) for person, worn in dressed if person), strict=True)),
    )


def main() -> None:
    """Train, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    given = parser.parse_args()
    try:
        photos = StreetPhotos(given.archive)
        seen, sights = see(photos, Eyes(), Onlooker())
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    WEIGHTS.write_bytes(to_bytes(learn(photos, seen, sights, seen)))
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
