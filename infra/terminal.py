"""What a terminal is shown: no character that would steer it, and no line that a library says of itself only."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

_KEPT = "\t\n"
_STEERING = [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x061C, 0x200E, 0x200F, 0x2028, 0x2029]
_STEERING += [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)]
"""Control characters, the marks that turn the direction of writing, and what is no character (a byte of no UTF-8)."""
_VISIBLE = dict.fromkeys(_STEERING, "\N{REPLACEMENT CHARACTER}")
_VISIBLE |= {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\N{SYMBOL FOR DELETE}"}
for _character in _KEPT:
    del _VISIBLE[ord(_character)]

NOISE = re.compile(
    rb"WARNING: (All log messages before absl|Using incubator modules)"
    rb"|I0000 .*oneDNN custom operations are on|[EW]0000 .*(Unable to register cu|computation placer already)"
    rb"|Using Spark's default log4j|Setting default log level|To adjust logging level|Picked up \w*JAVA\w*OPTIONS"
    rb"|\S+ \S+ WARN (Utils: (Your hostname|Set SPARK_LOCAL_IP)|NativeCodeLoader: Unable to load native-hadoop)"
)
"""Lines that TensorFlow and Java write to stderr whatever they are told, and that ask nobody to do anything."""


def visible(text: str) -> str:
    """`text` with a sign in place of each character that would steer a terminal; as many characters as before."""
    return text.translate(_VISIBLE)


@contextmanager
def without_noise() -> Iterator[None]:
    """Let all lines but `NOISE` of what is written to stderr meanwhile through, also by libraries that are no Python.

    A process that is started meanwhile inherits the filter, which works as long as that process does.
    """
    try:
        before = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    threading.Thread(target=_filter, args=(reading, os.dup(before)), daemon=True).start()
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _filter(reading: int, writing: int) -> None:
    with os.fdopen(reading, "rb") as lines, os.fdopen(writing, "wb", buffering=0) as kept:
        for line in lines:
            if not NOISE.match(line):
                kept.write(line)


class _Quietly:
    """Loads a library without its noise, whoever imports it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_quietly(module: object) -> None:
                with without_noise():
                    load(module)  # type: ignore[arg-type]

            spec.loader.exec_module = load_quietly  # type: ignore[method-assign,assignment]
        return spec


def quiet_tensorflow() -> None:
    """Let TensorFlow be loaded without its noise in this process: it writes it before anybody can set its log level."""
    if not any(isinstance(finder, _Quietly) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Quietly())
