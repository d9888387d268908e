"""Lines that libraries say of themselves do not reach the terminal; all others do, whoever writes them."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.terminal import NOISE, visible, without_noise

NOISY = [
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    b"I0000 00:00:1795683022.286240    5341 port.cc:153] oneDNN custom operations are on. You may see slightly",
    b"E0000 00:00:1795683022.286240    5341 cuda_dnn.cc:8310] Unable to register cuDNN factory: Attempting to",
    b"WARNING: Using incubator modules: jdk.incubator.vector",
    b"Using Spark's default log4j profile: org/apache/spark/log4j2-defaults.properties",
    b'Setting default log level to "WARN".',
    b"To adjust logging level use sc.setLogLevel(newLevel). For SparkR, use setLogLevel(newLevel).",
    b"26/11/26 08:49:43 WARN Utils: Your hostname, vm, resolves to a loopback address: 127.0.0.1; using 192.0.2.2",
    b"26/11/26 08:49:45 WARN NativeCodeLoader: Unable to load native-hadoop library for your platform...",
    b"Picked up JAVA_TOOL_OPTIONS: -Dx=y",
    b"Picked up _JAVA_OPTIONS: -Dx=y",
]
TELLING = [
    b"Traceback (most recent call last):",
    b"java.lang.OutOfMemoryError: Java heap space",
    b"26/11/26 08:49:45 ERROR Executor: Exception in task 0.0",
    b"26/11/26 08:49:45 WARN TaskSetManager: Lost task 0.0",
    b"E0000 00:00:1795683022.286240    5341 cuda.cc:1] out of memory",
    b"2 of 3 photos",
]


@contextmanager
def stderr_in(file: Path):
    """A file takes the place of stderr: pytest's own would lose what a thread writes while it is read."""
    before = os.dup(2)
    with file.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def read(stderr: Path, expected: bytes) -> bytes:
    """What has arrived, as soon as it is `expected`, or after a while."""
    for _ in range(500):
        if stderr.read_bytes() == expected:
            break
        time.sleep(0.02)
    return stderr.read_bytes()


def test_only_lines_that_tell_nothing_are_left_out(tmp_path):
    stderr = tmp_path / "stderr"
    with stderr_in(stderr), without_noise():
        for line in [*NOISY, *TELLING]:
            os.write(2, line + b"\n")
        os.write(2, b"no newline")
    expected = b"".join(line + b"\n" for line in TELLING) + b"no newline"
    assert read(stderr, expected) == expected
    assert all(NOISE.match(line) for line in NOISY)


def test_a_process_that_was_started_meanwhile_stays_filtered(tmp_path):
    stderr = tmp_path / "stderr"
    program = "import sys; sys.stdin.read(); sys.stderr.write('Setting default log level\\nlate\\n')"
    with stderr_in(stderr):
        with without_noise():
            child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        child.communicate(b"")
        assert read(stderr, b"late\n") == b"late\n"
        os.write(2, b"Setting default log level\n")
    assert stderr.read_bytes() == b"late\nSetting default log level\n"


def test_tensorflow_is_loaded_without_a_word():
    program = "import jobs, os; import tensorflow; os.write(2, b'mine\\n'); print(tensorflow.__name__)"
    env = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("tensorflow\n", "mine\n")


@pytest.mark.parametrize(
    ("text", "expected"), [("a\tb\nc", "a\tb\nc"), ("\x00\x1b\x7f", "␀␛␡"), ("\u200d\u200c é", "\u200d\u200c é")]
)
def test_a_sign_stands_for_what_would_steer_a_terminal_alone(text, expected):
    assert visible(text) == expected
