"""Which groups make a removal fail, so that those stay and all others can go.

Here: `first_fault`, a binary search over the groups, and `retreat`, which goes on until what is left holds. A trial is
two forward passes of the network, so that n groups of which k fail take about k * log2(n) of them. Not here: the trial
(`verify.py`) and what is done about a group that fails. Called by `probe` and by `thin`.

    groups  a b c d e f, of which c and e fail
    trials  abcdef - , abc - , a + , ab +         -> c stays
            abdef - , abde - , abd +              -> e stays
            abdf +
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from compress.thinning.verify import Outcome

Attempt = Callable[[Sequence[str]], Outcome]
"""Tries to remove units of the named groups together."""
ALIKE = 3
"""So many groups of one name but for its numbers have failed: the others of that name are not tried any more."""


def retreat(names: Sequence[str], attempt: Attempt, failed: Outcome) -> tuple[list[str], dict[str, Outcome], Outcome]:
    """Give up groups until the rest goes through.

    Args:
        names: of groups.
        attempt: the trial.
        failed: the outcome for all of them, which was none that holds.

    Returns:
        the names that can go, those that cannot with what their removal led to, and the last outcome (`failed` if
        nothing can go).
    """
    left, outcome, alike = list(names), failed, Lookalikes()
    faults: dict[str, Outcome] = {}
    held = 0
    while left and not outcome.passed:
        at, fault = first_fault(left, attempt, outcome, held)
        gone = alike.add(left[at], left)
        faults.update(dict.fromkeys(gone, fault))
        held = sum(name not in faults for name in left[:at])
        left = [name for name in left if name not in faults]
        outcome = attempt(left) if left else failed
    return left, faults, outcome


def first_fault(names: Sequence[str], attempt: Attempt, failed: Outcome, held: int = 0) -> tuple[int, Outcome]:
    """The place of the first group with which those before it fail, while without it they hold.

    Args:
        names: of groups that fail together.
        attempt: the trial.
        failed: how.
        held: so many from the start are known to hold.
    """
    low, high = held, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        outcome = attempt(names[:middle])
        low, high, failed = (middle, high, failed) if outcome.passed else (low, middle, outcome)
    return high - 1, failed


def reason_of(outcome: Outcome) -> str:
    """Why a removal does not hold, for people."""
    where = f"module {outcome.module!r}" if outcome.module else "the model's own forward"
    if outcome.reason:
        return f"its size is fixed in the code: a trial without some of it failed in {where}: {outcome.reason}"
    return f"a trial without some of it changed the outputs by {outcome.difference:.1e} relative"


class Lookalikes:
    """Groups that have failed, by their names without numbers: `blocks.3.attn.qkv.weight[0]` is one of twelve."""

    def __init__(self) -> None:
        self._failed: dict[str, int] = {}

    def add(self, name: str, names: Sequence[str]) -> list[str]:
        """A name that failed; once `ALIKE` of its kind have, all of that kind among `names`."""
        kind = _kind(name)
        self._failed[kind] = self._failed.get(kind, 0) + 1
        return [name] if self._failed[kind] < ALIKE else [each for each in names if _kind(each) == kind]


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)
