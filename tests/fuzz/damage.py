"""Files damaged in every way that a disk, a network or a malicious person has: a strategy of hypothesis.

Here: `damaged`. Not here: what must come of reading them (the tests beside this file).
"""

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hypothesis import strategies

ABSURD = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x8000_0000, 0x0100_0000)
WORDS = (
    b"", b"\x00" * 16, b"\xff" * 16, b"../../../../tmp/escaped", b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"PK\x03\x04", b"\x80\x02cposix\nsystem\n", b"=cmd|' /C calc'!A0", b"nan", b"1e999", b"-1",
    b"\r\n", b"\x1b]0;x\x07", b"[" * 4000,
)  # fmt: skip


class Damaged(NamedTuple):
    """A damaged file: the name of what it was, and its content."""

    name: str
    content: bytes


def _cut(content: bytes, place: int, value: int) -> bytes:
    return content[:place]


def _flip(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << value % 8)]) + content[place + 1 :]


def _byte(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + bytes([value % 256]) + content[place + 1 :]


def _number(content: bytes, place: int, value: int) -> bytes:
    order = "<" if value & 1 else ">"
    return content[:place] + struct.pack(f"{order}I", ABSURD[value % len(ABSURD)]) + content[place + 4 :]


def _lose(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + content[place + 1 + value % 64 :]


def _double(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + content[place : place + 1 + value % 256] + content[place:]


def _put_in(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + WORDS[value % len(WORDS)] + content[place:]


def _write_over(content: bytes, place: int, value: int) -> bytes:
    word = WORDS[value % len(WORDS)]
    return content[:place] + word + content[place + len(word) :]


EDITS: tuple[Callable[[bytes, int, int], bytes], ...] = (
    _cut, _flip, _flip, _byte, _number, _number, _lose, _double, _put_in, _write_over,
)  # fmt: skip
EDIT = strategies.tuples(
    strategies.sampled_from(EDITS),
    strategies.one_of(strategies.floats(0, 1), strategies.integers(0, 600), strategies.integers(-300, -1)),
    strategies.integers(0, 2**16 - 1),
)


def damaged(samples: Mapping[str, bytes], most: int = 4) -> strategies.SearchStrategy[Damaged]:
    """One of the samples, under the name of one of them (often its own), after none to `most` edits.

    Places are drawn from the whole file, from its head and from its end, where formats keep what matters.
    """

    @strategies.composite
    def draw_one(draw: strategies.DrawFn) -> Damaged:
        name = draw(strategies.sampled_from(sorted(samples)))
        content = samples[name]
        for edit, where, value in draw(strategies.lists(EDIT, max_size=most)):
            if content:
                place = int(where * (len(content) - 1)) if isinstance(where, float) else where % len(content)
                content = edit(content, place, value)
        called = draw(strategies.sampled_from(sorted(samples))) if draw(strategies.integers(0, 7)) == 0 else name
        return Damaged(called, content)

    return draw_one()
