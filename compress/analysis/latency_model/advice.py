"""Which widths are worth having, beside how far the tables that say so are off: `advice_of`, `Advice`."""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.analysis.latency_model.layers import Layer, without
from compress.analysis.latency_model.model import LatencyModel
from compress.graph.channels import ChannelGraph, ChannelGroup


@dataclass(frozen=True)
class Advice:
    """Of one group in one precision.

    Attributes:
        widths: worth having, increasing.
        step: their common one.
        saves: what the next narrower of these widths saves on average, as a share of the time of the group's layers;
            0 where only the full width is worth having.
        error: by how much the tables of these layers err where both widths are narrower, as a share of a layer's time:
            the median of each table, weighted by the layers' times.
    """

    widths: Sequence[int]
    step: int
    saves: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the tables err by less than what a step saves; without a step there is nothing to withhold."""
        return self.error < self.saves or len(self.widths) < 2

    def __str__(self) -> str:
        if not self.holds:
            return f"withheld: a step saves {self.saves:.0%}, and the tables err by {self.error:.0%}"
        saves = f"a step saves {self.saves:.0%}" if len(self.widths) > 1 else "no narrower one is faster"
        return f"{self.step}: {', '.join(map(str, self.widths))} ({saves}, error {self.error:.0%})"


def advice_of(model: LatencyModel, graph: ChannelGraph, precision: str) -> dict[str, Advice]:
    """Prunable group -> the widths that are worth having on the machine of the model."""
    groups = {group.name: group for group in graph.groups(prunable_only=True)}
    steps = model.steps(graph, precision == "int8")
    return {name: _advice(model, graph, groups[name], precision, *found) for name, found in steps.items()}


def _advice(
    model: LatencyModel, graph: ChannelGraph, group: ChannelGroup, precision: str, widths: list[int], step: int
) -> Advice:
    def time(width: int) -> float:
        return model.removed(graph, {group.name: list(range(group.units - width))}, precision == "int8")

    touched = _touched(model.layers, without(model.layers, graph, {group.name: [0]}))
    tables = [(model.table_for(each, precision), each) for each in touched]
    own = [table.time(each.channels_in, each.channels_out) for table, each in tables]
    total = sum(own)
    if not total:
        return Advice(widths, step, 0.0, 0.0)
    error = sum(time * table.error for time, (table, _) in zip(own, tables, strict=True)) / total
    saves = (time(widths[-1]) - time(widths[0])) / (len(widths) - 1) / total if len(widths) > 1 else 0.0
    return Advice(widths, step, saves, error)


def _touched(before: Sequence[Layer], after: Sequence[Layer]) -> list[Layer]:
    """The layers that have other widths afterwards, as they were."""
    return [own for own, other in zip(before, after, strict=True) if own != other]
