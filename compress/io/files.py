"""Files, opened with care: the one way in and the one way out of the whole project.

Reading of regular files only (a FIFO would wait for ever, a device never ends, neither is ever opened for real),
writing whole or not at all, and an OSError in words. Everything may import this.

A library that wants a name, not an open file, is given `checked(path)`.
"""

import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

MOST_TEXT, CHUNK = 1 << 28, 1 << 20  # bytes of a file that is read whole, and read at a time
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
PATIENT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # opening a FIFO returns at once
KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)  # fmt: skip
LONGEST_STEM = 100  # characters of a name that a temporary file takes over


class NotRegular(OSError):
    """Something else than a regular file stands under a name: a folder, a FIFO, a socket, a device."""


def opened(path: str | Path) -> BinaryIO:
    """A regular file, open for reading in binary.

    Raises:
        NotRegular: it is something else.
        OSError: it cannot be opened.
    """
    try:
        file = open(path, "rb", opener=_patiently)  # noqa: SIM115  the caller closes it
    except OSError as e:
        if e.errno in (errno.ENXIO, errno.EISDIR, errno.ENODEV):  # how systems refuse sockets and folders
            raise _not_regular(path, os.stat(path).st_mode) from e
        raise
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        raise _not_regular(path, mode)
    return file


def checked(path: str | Path) -> str:
    """The name of a regular file that can be read, for a library that opens it by itself.

    Raises:
        OSError: as for `opened`.
    """
    opened(path).close()
    return os.fspath(path)


def read_bytes(path: str | Path, most: int = MOST_TEXT) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger.
    """
    content = bytearray()
    with opened(path) as file:
        while data := file.read(CHUNK):
            content += data
            if len(content) > most:
                raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
    return bytes(content)


def read_text(path: str | Path, most: int = MOST_TEXT) -> str:
    """The text of a regular file, UTF-8, every line ended by a newline alone, without a byte order mark in front.

    Raises:
        OSError: as for `read_bytes`.
        UnicodeDecodeError: it is no text in UTF-8.
    """
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, most)), encoding="utf-8-sig").read()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Block that writes a file under another name, which takes its place at the end; after an error nothing is left.

    Its folder is made if needed; the name keeps its ending, by which libraries choose a format.

    Raises:
        OSError: it cannot be written, or something else than a file stands there.
    """
    path = Path(path)
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:LONGEST_STEM]}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as e:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(e, OSError) and str(e.filename) == str(temporary):
            raise _about(path, e) from e
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; its folder is made if needed.

    Raises:
        OSError: as for `replacing`.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file, whole or not at all; its folder is made if needed.

    Raises:
        OSError: as for `replacing`.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_json(path: str | Path, content: Any, indent: int = 2) -> None:
    """Writes plain data as JSON, whole or not at all; its folder is made if needed.

    Raises:
        OSError: as for `replacing`.
    """
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def appending(path: str | Path) -> IO[str]:
    """A text file, open for adding lines at its end; made if there is none.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    check_place(path)
    return open(path, "a", encoding="utf-8", opener=_patiently)


def check_place(path: str | Path) -> None:
    """Whether a file can take this name: nothing stands there, or a regular file.

    Raises:
        NotRegular: something else does.
        OSError: the system cannot resolve it, such as a loop of links.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise _not_regular(path, mode)


def check_folder(folder: str | Path) -> None:
    """Whether files can be written in a folder, which is made if needed: one is, and removed.

    Raises:
        OSError: they cannot.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{os.getpid()}.tmp"
    try:
        with open(probe, "wb") as file:
            file.write(b"\n")
    except OSError as e:
        raise _about(folder, e) from e
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _about(path: Path, error: OSError) -> OSError:
    """The error with the name that people know, not a temporary file's."""
    return type(error)(error.errno, error.strerror, os.fspath(path))


def why(error: OSError) -> str:
    """Why something could not be read or written, with its name; a full disk is called that."""
    text = error.strerror or str(error) or type(error).__name__
    name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    full = "the disk is full: " if error.errno in NO_SPACE else ""
    return f"{full}{name}{text}"


def _patiently(path: str, flags: int) -> int:
    return os.open(path, flags | PATIENT, 0o666)


def _not_regular(path: str | Path, mode: int) -> NotRegular:
    kind = next((words for holds, words in KINDS if holds(mode)), "no regular file")
    return NotRegular(errno.EINVAL, f"it is {kind}, and a regular file is needed", os.fspath(path))
