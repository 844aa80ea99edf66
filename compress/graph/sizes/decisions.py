"""Paths that the code chooses by a size of the input, of which the examples show one: `undecided`.

if x.shape[-1] > 64:            # every example is smaller: what stands here was never seen
    y = y * self.table
"""

from __future__ import annotations

from collections.abc import Iterable

from compress.errors import some
from compress.graph.coupling import Coupling
from compress.graph.sizes.origins import Decision


def by_inputs(c: Coupling, decisions: Iterable[Decision]) -> list[Decision]:
    """Those about a size that no removal changes, but another input; for the trace that was walked last."""
    values = [(each, c.sized(each.size.serial)) for each in decisions]
    return [each for each, value in values if value is not None and value.units[each.size.dim] is None]


def undecided(decisions: Iterable[Decision]) -> tuple[str, ...]:
    """What to say of the places at which every example takes the same way: a sentence, or none."""
    outcomes: dict[str, set[bool]] = {}
    for each in decisions:
        outcomes.setdefault(each.place, set()).add(each.outcome)
    places = [place for place, seen in outcomes.items() if len(seen) == 1]
    if not places:
        return ()
    return (
        f"the code may choose by the size of the input, of which the examples show one side: {some(places, 2)}; what "
        "it does on the other side is not proved: give an example of each side, example_inputs=[small, large]",
    )
