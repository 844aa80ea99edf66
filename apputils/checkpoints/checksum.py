"""A checksum at a file's end, by which damage is found: a cut file, a bit that flipped.

`ChecksumWriter` writes it, `check_checksum` compares it. It stands behind the last byte that `torch.save` writes,
where readers of zip files do not look, so that `torch.load` reads such a file as it reads any other. It does not
protect against tampering: one who changes a file can write its checksum again.

    <what torch.save wrote>  "\\nsha256 "  64 hexadecimal digits  "\\n"
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Literal

from compress.io.files import opened

MARK = b"\nsha256 "
LENGTH = len(MARK) + 64 + 1
CHUNK = 1 << 20  # bytes read at a time


class ChecksumWriter:
    """What `torch.save` needs of a file, with the checksum of all that was written.

    Args:
        file: open for writing in binary.

    Attributes:
        fault: why the first write that failed did so; torch raises an error of its own, which does not tell.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fault: OSError | None = None
        self._sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Writes bytes; returns how many."""
        self._sum.update(data)
        try:
            return self._file.write(data)
        except OSError as e:
            self.fault = self.fault or e
            raise

    def flush(self) -> None:
        """Hands what was written to the system."""
        self._file.flush()

    def close(self) -> None:
        """Writes the checksum; the file stays open."""
        self._file.write(MARK + self._sum.hexdigest().encode() + b"\n")


def check_checksum(path: Path) -> Literal["whole", "damaged", "none"]:
    """Whether a file is as it was written; `none` where it has no checksum.

    Raises:
        OSError: it cannot be read.
    """
    with opened(path) as file:
        length = os.fstat(file.fileno()).st_size - LENGTH
        if length < 0:
            return "none"
        found, left = hashlib.sha256(), length
        while left and (data := file.read(min(CHUNK, left))):
            found.update(data)
            left -= len(data)
        checksum = file.read(LENGTH)
    if not checksum.startswith(MARK):
        return "none"
    return "whole" if checksum[len(MARK) :].strip() == found.hexdigest().encode() else "damaged"


def is_zip(path: Path) -> bool:
    """Whether a file begins as what `torch.save` writes."""
    with opened(path) as file:
        return file.read(2) == b"PK"
