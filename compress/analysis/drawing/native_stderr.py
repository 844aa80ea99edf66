"""Lines that a C library prints to standard error past Python's streams, filtered."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_lines(beginning: str) -> Iterator[None]:
    """Drops the lines with this beginning; what else is written to file descriptor 2 in the block comes out after it.

    Fontconfig warns of configuration files of other versions; that is of no use to a user of this program.
    """
    try:
        before = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
            sys.stderr.write("".join(line for line in lines if not line.startswith(beginning)))
