"""Standard output and standard error that cannot end a program, and a command's way out.

`guard_screen`, `answer`. `python train.py | head -1` closes the pipe after a line, a terminal may hang up, `>&-`
gives no output at all: the program continues.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any

from compress.errors import UserError, printable
from compress.io.files import why

USER_ERROR, GOAL_MISSED, INTERRUPTED = 2, 4, 130
LAYOUT = "\n\t"  # of our own messages
STREAMS = ("stdout", "stderr")  # of the descriptors 1 and 2


class _Lasting(io.FileIO):
    """A file descriptor whose writes always succeed; after the first that does not, nothing more is written."""

    lost = False

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Writes everything, or drops it and answers as if it were written."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and not self.lost:
                count = super().write(left)
                if count is None:  # a pipe that does not block, and is full
                    select.select([], [self], [])
                left = left[count or 0 :]
        except OSError as e:
            self.lost = True
            if e.errno != errno.EPIPE and self.fileno() == 1:  # the reader of a closed pipe has seen enough
                sys.stderr.write(
                    f"standard output cannot be written ({e.strerror}); the command continues without it\n"
                )
        return size


def guard_screen() -> None:
    """Makes both streams last; those that are closed take what they are given and keep nothing.

    Streams that somebody else has put in their place, such as a notebook's, stay as they are.
    """
    _fill_closed()
    for number, name in enumerate(STREAMS, 1):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or isinstance(stream, _Text):
            continue
        raw = _Lasting(number, "w", closefd=False)
        lasting = _like(stream, raw, raw.isatty() or name == "stderr")
        setattr(sys, name, lasting)
        setattr(sys, f"__{name}__", lasting)


class _Text(io.TextIOWrapper):
    """The text of a lasting descriptor."""


def _like(stream: "io.TextIOWrapper | None", raw: _Lasting, by_line: bool) -> _Text:
    """A text stream on a descriptor that encodes and buffers as the one in its place does."""
    if stream is None:  # it was closed
        return _Text(_buffered(raw), "utf-8", "backslashreplace")
    stream.flush()
    unbuffered = getattr(stream, "write_through", False)  # python -u
    buffer: Any = raw if unbuffered else _buffered(raw)
    return _Text(
        buffer, stream.encoding, stream.errors, line_buffering=by_line, write_through=unbuffered
    )  # fmt: skip


def _buffered(raw: Any) -> io.BufferedWriter:
    return io.BufferedWriter(raw)


def _fill_closed() -> None:
    """A descriptor that is closed would be that of the next file that is opened, and output would go into that."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
            os.set_inheritable(null, True)


def answer(act: Callable[[], object]) -> int:
    """Runs a command and prints what it returns; returns the exit code: 2, after one line, for what people can mend."""
    guard_screen()
    try:
        sys.stdout.write(f"{act()}\n")
    except UserError as e:
        sys.stderr.write(f"error: {printable(e, LAYOUT)}\n")
        return USER_ERROR
    except OSError as e:
        sys.stderr.write(f"error: {printable(why(e), LAYOUT)}\n")
        return USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return 0
