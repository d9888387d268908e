"""A process that keeps to itself is one that no other of its user may read, by Linux's rules."""

import subprocess
import sys

import pytest

GET_DUMPABLE = 3


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can be told so")
def test_a_process_that_keeps_to_itself_leaves_no_dump_and_is_read_by_nobody():
    program = (
        "import ctypes; from infra.privacy import keep_to_itself; asked = ctypes.CDLL(None).prctl; "
        f"before = asked({GET_DUMPABLE}); keep_to_itself(); print(before, asked({GET_DUMPABLE}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]
