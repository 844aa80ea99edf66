"""A time budget in a runtime for a pruner: which units go, by the knapsack over a latency model.

`RuntimeBudget`. Called by `GlobalRankedGroupPruner` by its place in compress/thinning/cost.py, as no pruner imports
analyses.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from compress.analysis.latency_model.build import measure_latency_model
from compress.analysis.latency_model.knapsack import widths_for
from compress.analysis.latency_model.layers import layers_of, without
from compress.analysis.latency_model.model import LatencyModel
from compress.errors import UserError
from compress.graph.calls import forward_call
from compress.graph.channels import ChannelGraph, ChannelGroup
from compress.graph.trace import ExampleInputs


class RuntimeBudget:
    """Times of a network in a runtime, as the exported float file has them.

    Args:
        model: the network as it is when the budget is first asked for: its time is 1.
        inputs: example inputs; those of the first call of `forward`, which is what an exported file runs.
        runtime: see `measure_latency_model`.
        saved: of `to_dict`, instead of measuring; None measures.

    Raises:
        UserError: see `measure_latency_model`; or the forward takes keyword arguments.
    """

    def __init__(
        self, model: nn.Module, inputs: ExampleInputs, runtime: str, saved: Mapping[str, Any] | None = None
    ) -> None:
        call = forward_call(inputs)
        if call.keywords or not all(isinstance(each, Tensor) for each in call.arguments):
            raise UserError("a latency target with `runtime:` needs a network whose inputs are tensors; leave it out")
        self._inputs = tuple(call.arguments)
        if saved is None:
            on_cpu = tuple(each.detach().cpu() for each in self._inputs)
            self.model = measure_latency_model(copy.deepcopy(model).cpu(), on_cpu, runtime=runtime, int8=False)
        else:
            self.model = LatencyModel.of_dict(saved)

    def choose(
        self, network: nn.Module, graph: ChannelGraph, scores: Mapping[str, np.ndarray], budget: float, limit: "Limit"
    ) -> tuple[dict[str, list[int]], float]:
        """The units that go, and the share of the first network's time that is left.

        Args:
            network: as it is now, thinned perhaps since it was measured.
            graph: of it.
            scores: group -> importance of its units.
            budget: share of the first network's time.
            limit: group -> the widths that it may have.
        """
        now = layers_of(network, self._inputs)
        first = self.model.time(self.model.layers)
        groups = {group.name: group for group in graph.groups(prunable_only=True) if group.name in scores}
        steps = self.model.steps_of(now, graph)
        choices = {name: limit(group, steps[name][0]) for name, group in groups.items()}

        def removed(widths: Mapping[str, int]) -> dict[str, list[int]]:
            lowest = {name: np.argsort(scores[name], kind="stable") for name in widths}
            return {name: sorted(map(int, lowest[name][: groups[name].units - w])) for name, w in widths.items()}

        def time_of(widths: Mapping[str, int]) -> float:
            return self.model.time(without(now, graph, removed(widths))) / first

        widths = widths_for(budget, {name: scores[name].tolist() for name in groups}, choices, time_of)
        return removed(widths), time_of(widths)


class Limit:
    """The widths that a group may have.

    Args:
        max_sparsity: at most this fraction goes.
        round_to: 1 takes the useful widths; else multiples of it.
    """

    def __init__(self, max_sparsity: float, round_to: int) -> None:
        self.max_sparsity, self.round_to = max_sparsity, round_to

    def __call__(self, group: ChannelGroup, useful: list[int]) -> list[int]:
        """Increasing widths, the full one last."""
        least = max(1, group.units - min(int(self.max_sparsity * group.units + 1e-9), group.prunable))
        multiples = range(self.round_to, group.units, self.round_to)
        widths = useful if self.round_to == 1 else list(multiples)
        return [*(each for each in widths if least <= each < group.units), group.units]
