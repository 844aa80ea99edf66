"""Imports without the work of the garbage collector, which looks at what stays anyway.

`lasting_imports`. Called by the entry points and by the table of applications; imports no torch.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Around imports of many modules: the collector waits, and never again looks at what is there afterwards.

    torch and its exporter make millions of objects that live as long as the process; looking through them again and
    again is a sixth of the time of their import.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
