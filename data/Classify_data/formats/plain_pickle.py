"""Pickles that hold plain data and arrays of numbers, read without making anything else.

`read_plain`. The pickle's instructions are followed by Python's own reader in Python, whose memory grows with what is
there and not with what a file claims; every name in the file is answered by a stand-in of ours, so that neither the
file's code nor numpy's unpickling runs.
"""

import io
import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compress.io.files import read_bytes

MOST_BYTES = 1 << 28  # of a file; a batch of CIFAR-10 has 31 million
NUMBERS = frozenset({"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"})
ERRORS = (
    OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, RecursionError,
    MemoryError, OverflowError, AssertionError, struct.error,
)  # fmt: skip


class Refused(ValueError):
    """A pickle that would make something else than plain data and arrays of numbers."""


def read_plain(path: Path) -> Any:
    """The content of a pickle; arrays are numpy's.

    Raises:
        Refused: it names anything but numpy's arrays and types of numbers; nothing of it was made.
        one of `ERRORS`: it is no such file.
    """
    content = _Reader(io.BytesIO(read_bytes(path, MOST_BYTES)), encoding="bytes").load()
    return _arrays_in(content)


class _Type:
    """Stands for a numpy.dtype."""

    def __init__(self, code: Any) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if text not in NUMBERS:
            raise Refused(f"it holds values of the type {str(text)[:20]!r}, which are not numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">" if order == ">" else "=")


class _Array:
    """Stands for a numpy.ndarray until its values are known."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, values = state
        if not isinstance(kind, _Type) or not isinstance(values, bytes):
            raise Refused("it holds an array of something else than numbers")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"an array has the shape {shape!r:.60}")
        if math.prod(shape) * kind.dtype.itemsize != len(values):
            raise ValueError(f"an array of the shape {shape!r:.60} has {len(values)} bytes")
        self.value = np.frombuffer(values, kind.dtype).reshape(shape, order="F" if columns_first else "C").copy()


def _new_array(*_: Any) -> _Array:
    return _Array()


def _new_type(code: Any, *_: Any) -> _Type:
    return _Type(code)


def _as_bytes(text: str, encoding: Any) -> bytes:
    """How protocol 2 writes bytes: `_codecs.encode(text, "latin1")`, and nothing else of that function."""
    if encoding != "latin1":
        raise Refused(f"it asks for the encoding {encoding!r:.40}, which no array needs")
    return text.encode("latin1")


class _StandIn:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Refused("it would change a function")


STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(_new_array),
    ("numpy._core.multiarray", "_reconstruct"): _StandIn(_new_array),
    ("numpy", "ndarray"): _StandIn(_new_array),
    ("numpy", "dtype"): _StandIn(_new_type),
    ("_codecs", "encode"): _StandIn(_as_bytes),
}


class _Reader(pickle._Unpickler):  # the reader that is written in Python
    """Finds nothing but `STAND_INS`."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        if (module, name) not in STAND_INS:
            raise Refused(
                f"it holds {module[:60]}.{name[:60]}, which is neither an array nor plain data; it was not read"
            )
        return STAND_INS[module, name]


def _arrays_in(content: Any) -> Any:
    """A dictionary with its arrays in the place of the stand-ins; what else is in it stays."""
    if not isinstance(content, dict):
        return content
    return {key: value.value if isinstance(value, _Array) else value for key, value in content.items()}
