"""What goes together when filters or channels go: the analysis prunes what the structured pruner would prune.

`GroupPruner`, the schedules' own pruner at the level of an analysis, and which analysed weights share one curve.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.context import StepContext
from compress.epoch_window import EpochWindow
from compress.errors import UserError
from compress.graph.channels import ChannelGraph, ChannelGroup, Place
from compress.groups import Tilings, group_count
from compress.masks import MaskTable
from compress.pruning.coupled_masks import channel_dim
from compress.pruning.ranked import L1RankedStructureParameterPruner
from compress.quantization.post_training.replay import set_aside
from compress.selectors import canonical_parameters
from compress.thinning.current import CurrentGraph

logger = logging.getLogger("run")
GROUPS: dict[str, Literal["Filters", "Channels"]] = {"filter": "Filters", "channel": "Channels"}
ONCE = EpochWindow.of_list([0])


class GroupPruner:
    """Prunes filters or channels as `L1RankedStructureParameterPruner` does in a schedule.

    Args:
        model: the network, dense.
        sense_type: `filter` or `channel`.
        graph: of the network; None masks each weight by itself, as the pruner does then.
    """

    def __init__(self, model: nn.Module, sense_type: str, graph: ChannelGraph | None) -> None:
        self.model, self.kind, self.graph = model, GROUPS[sense_type], graph
        self._parameters = canonical_parameters(model)
        self._tilings = Tilings()
        current = None
        if graph is not None:
            current = CurrentGraph(model)
            current.take(graph)
        self._ctx = StepContext(0, model, MaskTable(model), torch.Generator(), graph=current)

    def check(self, name: str) -> None:
        """Raises ValueError, which names the weight, where it has no such groups, or only one."""
        shape = self._parameters[name].shape
        if group_count(shape, self._tilings.tile(self.model, name, shape, self.kind)) == 1:
            what = next(sense for sense, kind in GROUPS.items() if kind == self.kind)
            raise ValueError(f"{name!r} has one {what} only, so that no part of them can go")

    def together(self, names: Sequence[str]) -> list[list[str]]:
        """The weights that share a coupled group, directly or by a third: they can only have one level."""
        parts = [[name] for name in names]
        for group in self._groups():
            meeting = [part for part in parts if self._meet(part, group)]
            if len(meeting) > 1:
                joined = [name for part in meeting for name in part]
                parts = [part for part in parts if part not in meeting] + [joined]
        ordered = [sorted(part, key=list(names).index) for part in parts]
        return sorted(ordered, key=lambda part: list(names).index(part[0]))

    def affected(self, names: Sequence[str]) -> dict[str, nn.Parameter]:
        """Every parameter that is masked when units of these weights' groups go: these weights first."""
        found = dict.fromkeys(names)
        for group in self._groups():
            if not group.pinned and self._meet(names, group):
                found.update(dict.fromkeys(name for name, _ in group.members if name in self._parameters))
        return {name: self._parameters[name] for name in found}

    def pinned(self, name: str) -> bool:
        """Whether nothing of a weight's filters (or channels) can leave: the last layer's, or one's that never runs."""
        return self.graph is not None and all(
            group.pinned for group in self._groups() if self._place(name) in group.members
        )

    def along(self, names: Sequence[str]) -> list[str]:
        """Further weights whose filters (or channels) go with those of these weights."""
        met = [group for group in self._groups() if not group.pinned and self._meet(names, group)]
        others = [name for name, weight in self._parameters.items() if weight.dim() > 1 and name not in names]
        return [name for name in others if any(self._place(name) in group.members for group in met)]

    def masks(self, levels: Mapping[str, float]) -> dict[str, Tensor]:
        """Parameter name -> bool, True = kept, over all that goes with these levels of named weights at once."""
        pruner = L1RankedStructureParameterPruner(reg_regims={name: (lv, self.kind) for name, lv in levels.items()})
        weights = {name: self._parameters[name].detach() for name in levels}
        return pruner.masks(weights, self._ctx, ONCE)

    def _groups(self) -> list[ChannelGroup]:
        return [] if self.graph is None else [group for group in self.graph.groups() if not group.within_heads]

    def _meet(self, names: Sequence[str], group: ChannelGroup) -> bool:
        return any(self._place(name) in group.members for name in names)

    def _place(self, name: str) -> Place:
        shape = self._parameters[name].shape
        try:
            dim = channel_dim(self.kind, shape, self._tilings.tile(self.model, name, shape, self.kind))
        except ValueError:
            dim = None
        return name, -1 if dim is None else dim


def graph_of(model: nn.Module, inputs: Any) -> ChannelGraph | None:
    """The network's graph, of a quantized one as if it rounded nothing; None, with a warning, where it has none.

    Args:
        model: the network.
        inputs: example inputs; None where none were seen.
    """
    try:
        with set_aside(model):  # ranges are reduced over the channels, which would hold all of them
            return CurrentGraph(model, inputs).get()
    except UserError as e:
        logger.warning("each weight is pruned by itself, without what is coupled to it: %s", e)
        return None
