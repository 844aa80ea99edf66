"""Errors for people: what was given, where, what is allowed, the nearest name, what happens now.

The error classes and the "did you mean" helper. Everything may import this module; it imports nothing of ours.
"""

import difflib
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_BITS = 4096  # of a whole number that is written out


class UserError(Exception):
    """Something that the user can mend: printed as it stands, without a traceback, exit code 2."""


@dataclass(frozen=True)
class Fault:
    """One fault of a schedule.

    Attributes:
        message: what is wrong and what is allowed, one sentence.
        where: `file:line:column`, or the schedule's name when it did not come from a file.
        path: the dotted path inside the schedule, such as `pruners.conv_pruner.final_sparsity`.
        fatal: False for a warning, which `strict` turns into an error.
    """

    message: str
    where: str = ""
    path: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        return self._joined("" if self.fatal else "warning")

    @property
    def unlabelled(self) -> str:
        """The same without the word `warning`, for a logger, which says it in front."""
        return self._joined("")

    def _joined(self, kind: str) -> str:
        return ": ".join(part for part in (self.where, self.path, kind, self.message) if part)


class ScheduleError(UserError):
    """All faults found in one schedule, or another such file, in one report.

    Args:
        faults: of it.
        what: has them.

    Attributes:
        faults: every fault, in the order of the file.
    """

    def __init__(self, faults: Iterable[Fault], what: str = "the schedule") -> None:
        self.faults = tuple(faults)
        fatal = sum(fault.fatal for fault in self.faults)
        warnings = len(self.faults) - fatal
        counts = [_count(n, kind) for n, kind in ((fatal, "fault"), (warnings, "warning")) if n]
        strict = ", which strict makes errors" if not fatal else ""
        lines = [f"{what} has {' and '.join(counts)}{strict}; nothing was started:"]
        super().__init__("\n".join(lines + [f"  {fault}" for fault in self.faults]))


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}" if number == 1 else f"{number} {kind}s"


def shown(value: object) -> str:
    """What was given, for a message: at most about a hundred characters, however large or deep it is."""
    short = _Short()
    short.maxlevel, short.maxlist, short.maxdict, short.maxstring, short.maxother = 3, 8, 6, 80, 80
    text = short.repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


class _Short(reprlib.Repr):
    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write numbers of more than 4,300 digits."""
        if value.bit_length() > MOST_BITS:
            return f"a whole number of {value.bit_length():,} bits"
        return super().repr_int(value, level)


def printable(text: object, keep: str = "") -> str:
    """Text in which what cannot be printed is written out, such as `\\n` and `\\x1b`: for names from outside.

    Args:
        text: whose `str` is taken.
        keep: characters that stay as they are.
    """
    plain = str(text).encode("utf-8", "backslashreplace").decode()  # bytes of a file name that are not UTF-8
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in plain)


MADE = re.compile(r"parametrizations\.(\w+)\.original\d*")  # torch.nn.utils.parametrize: the parameters of `\1`


def nearest(name: str, known: Iterable[str], count: int = 3, alike: float = 0.6) -> list[str]:
    """The `count` names of `known` that look most like `name`, best first; case is ignored.

    A name that is `name` but for words behind it (`resnet20` of `resnet20_cifar`) comes before all others. A parameter
    that a parametrization keeps (`conv.parametrizations.weight.original1`) goes by what it makes, `conv.weight`.

    Args:
        name: what was given.
        known: what there is.
        count: how many at most.
        alike: how near they must be, [0, 1].
    """
    by_lower: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(known):
        by_lower.setdefault(MADE.sub(r"\1", candidate.lower()), []).append(candidate)
    lower = MADE.sub(r"\1", name.lower())
    begun = sorted((each for each in by_lower if each and lower.startswith(f"{each}_")), key=len, reverse=True)
    found = [*begun, *difflib.get_close_matches(lower, by_lower, n=count, cutoff=alike)]
    return [candidate for each in dict.fromkeys(found) for candidate in reversed(by_lower[each])][:count]


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """A sentence part that helps after an unknown name: the nearest names, else all of them (at most 12)."""
    names = list(known)
    close = nearest(name, names, count)
    if close:
        return "did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    if not names:
        return "there are none"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return "there are: " + ", ".join(names[:12]) + more


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names, by commas, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
