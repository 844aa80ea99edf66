"""What the code does for other sizes of the input, of which the examples show one: `undecided`.

It names choices and cuts:

    if x.shape[-1] > 64:            # every example is smaller: what stands here was never seen
        y = y * self.table
    y.view(b, -1, 64)               # 64 happens to be the width: half the width would put two rows into one
"""

from __future__ import annotations

from collections.abc import Collection

from compress.errors import some
from compress.graph.coupling import Coupling
from compress.graph.sizes.numbers import Cut, Decision, Size
from compress.graph.trace import Trace


def by_inputs(c: Coupling, trace: Trace) -> list[Decision]:
    """Those about a size that no removal changes, but another input, and cuts; for the trace that was walked last."""
    kept = {node.name for node in trace.tensor_names}  # parameters and buffers are as large for any input

    def of_the_input(size: Size) -> bool:
        value = c.sized(size.serial) if size.serial not in kept else None
        return value is not None and value.units[size.dim] is None

    return [*c.cuts, *(each for each in trace.decisions if any(map(of_the_input, each.sizes)))]


def undecided(decisions: Collection[Decision]) -> tuple[str, ...]:
    """What to say of the places at which every example takes the same way, and of cuts: a sentence each, or none."""
    outcomes: dict[str, dict[type, set[int]]] = {}  # by kind: what a dictionary looks for is compared there, too
    cuts = dict.fromkeys(each.place for each in decisions if isinstance(each, Cut))
    for each in decisions:
        if not isinstance(each, Cut):
            outcomes.setdefault(each.place, {}).setdefault(type(each.outcome), set()).add(each.outcome)
    places = [place for place, kinds in outcomes.items() if all(len(seen) == 1 for seen in kinds.values())]
    found = []
    if places:
        found.append(
            f"the code may choose by the size of the input, of which the examples show one side: {some(places, 2)}; "
            "what it does on the other side is not proved: give an example of each side, example_inputs=[small, large]"
        )
    if cuts:
        found.append(
            f"a number in the code stands where the examples have a size that may be the input's, beside a -1 for the "
            f"channels: {some(list(cuts), 2)}; an input of another size would be cut across channels, which is not "
            "proved: write the tensor's own sizes there"
        )
    return tuple(found)
