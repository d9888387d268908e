"""What makes features fast without changing them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import ctypes, resource, sys, threading
from ml.features import keep_freed_memory, share_one_arena

kept = sys.argv[1] == "kept"
if kept:
    share_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def use(size):
    found = libc.malloc(size)
    ctypes.memset(found, 1, size)
    libc.free(found)


def work():
    use(2**20)
    if kept:
        keep_freed_memory()
    use(2**26)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use(2**26)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


worker = threading.Thread(target=work)
if sys.argv[2] == "thread":
    worker.start()
    worker.join()
else:
    work()
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_memory_of_a_freed_tensor_serves_the_next_one_without_new_pages(where):
    pages = {
        how: int(
            subprocess.run([sys.executable, "-c", PAGES, how, where], capture_output=True, text=True, check=True).stdout
        )
        for how in ("kept", "default")
    }
    assert pages["kept"] < 10 < pages["default"]
