"""What makes computing with tensors fast, and which processes are told so."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import ctypes, resource, sys, threading
from infra.allocator import keep_freed_memory, share_one_arena

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


ARENAS = """
import ctypes, importlib, runpy, sys, threading

how, module, shown = sys.argv[1:]
if how == "run":
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert ended.code == 0
else:
    importlib.import_module(module)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(3)


def work():
    libc.malloc(1000)
    together.wait()  # an arena whose thread has ended would serve the next one


threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = ctypes.c_void_p(libc.fopen(shown.encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def arenas(folder, how, module):
    """How many a process has with three threads of its own, once it has run a module or imported it."""
    subprocess.run([sys.executable, "-c", ARENAS, how, module, str(folder / "x")], check=True, capture_output=True)
    return (folder / "x").read_text().count("<heap nr=")


@pytest.mark.parametrize("module", ["jobs.train_embedding", "jobs.classify"])
def test_a_step_that_trains_has_one_arena_and_a_process_that_imports_it_has_more(tmp_path, module):
    assert arenas(tmp_path, "run", module) == 1
    assert arenas(tmp_path, "import", module) > 3


def test_importing_jobs_tells_the_allocator_nothing(tmp_path):
    assert arenas(tmp_path, "import", "jobs") == 4
