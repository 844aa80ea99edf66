"""Parameters that no traced call reads, and the channels that they may be fed with.

An input that is optional, a method that only the training loop calls, a stage that is switched on later: such a layer
keeps its size, and breaks when what feeds it has become smaller. Which tensor that is cannot be seen, so by size:
here is `held_by`, which says why a group must stay. `misdeclared` names what is declared as unused and run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from compress.errors import some
from compress.graph.calls import Unused, how_to_declare
from compress.graph.trace import Trace, canonical_names, module_of


@dataclass(frozen=True)
class Unread:
    """A parameter that no call reads.

    Attributes:
        name: its full name.
        beside: numbers of channels that it may be added to or multiplied with, or give.
        behind: numbers of channels that it may read, of one tensor or of several joined or flattened.
        part: the largest part of the network around it of which no call reads anything, by which it can be declared.
    """

    name: str
    beside: frozenset[int]
    behind: frozenset[int]
    part: str = ""

    def fits(self, counts: Collection[int], all_counts: Collection[int]) -> bool:
        """Whether channels in these numbers may meet it: alone, several times, or joined with another tensor's."""
        if set(counts) & self.beside:
            return True
        return any(
            size % count == 0 or size - count in all_counts for size in self.behind for count in counts if count <= size
        )


def unread_in(model: nn.Module, traces: Iterable[Trace]) -> tuple[Unread, ...]:
    """The parameters that none of the traces reads, but for those that the user declares to be in no use.

    Nor those of parts that failed in training mode: what feeds them is known, and the walk pins it.
    """
    traces = list(traces)
    read = {name for trace in traces for name in trace.read}
    unused = traces[0].unused if traces else ()
    canonical = canonical_names(model)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        apart = any(name.startswith(f"{part}.") for trace in traces for part in trace.failed)
        if canonical[name] not in read and not apart and not any(each.covers(name) for each in unused):
            found[name] = parameter
    parts = _parts(found, [name for name, _ in model.named_parameters() if name not in found])
    sized = (
        _sizes(name, parameter, model.get_submodule(name.rpartition(".")[0]), parts[name])
        for name, parameter in found.items()
    )
    return tuple(each for each in sized if each.beside)


def misdeclared(model: nn.Module, traces: Sequence[Trace]) -> tuple[str, ...]:
    """What to say of each declaration of parts as unused that covers some which the traces run.

    A tensor of two names is run by the other one, unless both are covered.
    """
    canonical, unused = canonical_names(model), traces[0].unused if traces else ()
    names: dict[str, list[str]] = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        names.setdefault(canonical[name], []).append(name)
    run = {name for trace in traces for name in trace.read}
    called = {module_of(node) for trace in traces for node in trace.operations if module_of(node) not in trace.failed}
    found = []
    for each in unused:
        covered = [name for own in names.values() for name in own if each.covers(name)]
        wrong = [
            name
            for name in covered
            if name.rpartition(".")[0] in called or (canonical[name] in run and {*names[canonical[name]]} <= {*covered})
        ]
        if wrong:
            found.append(_wrongly(each, wrong, [name for name in covered if name not in wrong], model))
    return tuple(found)


def _wrongly(unused: Unused, run: Sequence[str], left: Sequence[str], model: nn.Module) -> str:
    """That parts which are declared as unused are run, and what to declare instead."""
    others = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    parts = [*dict.fromkeys(_parts(run, [name for name in others if name not in run]).values())]
    rest = [*dict.fromkeys(_parts(left, [name for name in others if name not in left]).values())]
    advice = "leave it out of --unused (in Python of Unused(), declare_unused() or the class's unused_parts)"
    return (
        f"{unused.pattern!r} is declared as unused, but the example calls run {some(parts)}, which is pruned and "
        f"proved like every other part: {f'declare only what is not run, {how_to_declare(rest)}' if rest else advice}"
    )


def _parts(unread: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Each unread name -> the longest chain of modules upwards that holds none of the others."""
    used = {name[:end] for name in others for end in range(len(name)) if name[end] == "."}
    found = {}
    for name in unread:
        above = [name[:end] for end in range(len(name)) if name[end] == "."]
        found[name] = next((part for part in above if part not in used), name)
    return found


def _sizes(name: str, parameter: Tensor, owner: nn.Module, part: str) -> Unread:
    shape = tuple(parameter.shape)
    if isinstance(owner, nn.modules.conv._ConvNd) and len(shape) > 2:
        return Unread(name, frozenset({owner.in_channels, owner.out_channels}), frozenset({owner.in_channels}), part)
    sizes = [size for size in shape if size > 1]
    if isinstance(owner, nn.Linear | nn.RNNBase | nn.RNNCellBase | nn.Bilinear) and len(shape) == 2:
        return Unread(name, frozenset(sizes), frozenset(shape[1:]) - {1}, part)
    return Unread(name, frozenset(sizes), frozenset(sizes if len(sizes) > 1 else ()), part)


TRAINS = "inputs on which the network trains, or "


def held_by(unread: Sequence[Unread], counts: Mapping[str, Collection[int]], untrained: str = "") -> dict[str, str]:
    """Group -> why it stays; groups that can meet none of the parameters are left out.

    Args:
        unread: from `unread_in`.
        counts: group -> the numbers of channels in which it appears.
        untrained: why the network was not traced in training mode; empty if it was.
    """
    why = f"; the trace in training mode failed: {untrained}" if untrained else ""
    everything = {count for each in counts.values() for count in each}
    found = {}
    for group, own in counts.items():
        fitting = [each for each in unread if each.fits(own, everything)]
        if fitting:
            names = some([each.name for each in fitting], 1)
            found[group] = (
                f"no example call reads {names}, which may be fed with these channels{why}: if nobody runs it, "
                f"{how_to_declare(each.part for each in fitting)}; else give {TRAINS if untrained else ''}"
                f"example_inputs as a list with a call that runs it, [inputs, Call(inputs, method=...)]"
            )
    return found
