"""What a network costs once units are gone: parameters, MACs, measured latency.

Costs of a choice of units, before anything is removed.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from compress.graph.calls import Call, calling
from compress.graph.channels import ChannelGraph, Place
from compress.graph.trace import ExampleInputs
from compress.parameters import copied
from compress.thinning.complete import gone_positions
from compress.thinning.proof.inputs import Samples
from compress.thinning.removal_plan import plan_recipe

Cost = Literal["macs", "params", "latency"]
Removed = Mapping[str, list[int]]
RUNTIME_BUDGET = "compress.analysis.latency_model.budget"  # imported on use: pruners stand below analyses


def parameter_count(graph: ChannelGraph, model: nn.Module, removed: Removed) -> float:
    """Elements of all parameters that are left."""
    gone = removed_positions(graph, removed)
    return sum(_left(name, tuple(p.shape), gone) * p.numel() for name, p in model.named_parameters())


def weight_macs_left(graph: ChannelGraph, model: nn.Module, removed: Removed) -> float:
    """Multiply-accumulates, in all example calls, of the layers with weights; each shrinks with its weight."""
    gone = removed_positions(graph, removed)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return sum(_left(name, shapes[name], gone) * macs for name, macs in graph.macs.items() if name in shapes)


def left_out_of_budget(graph: ChannelGraph) -> str:
    """What a budget of MACs does not count, in a sentence; '' if it counts everything."""
    counted = sum(graph.macs.values())
    share = graph.other_macs / max(counted + graph.other_macs, 1)
    if not share:
        return ""
    return (
        f"the budget counts the MACs of layers with weights; operations without weights, such as products of two "
        f"activations in attention, are not in it: {100 * share:.2g} % of the network's"
    )


def latency_ratio(
    graph: ChannelGraph, model: nn.Module, inputs: ExampleInputs, removed: Removed, rounds: int = 7
) -> float:
    """Median over interleaved rounds of a thinned copy's time over the model's, of all calls, in eval mode."""
    device = next(model.parameters()).device
    calls = Samples.of(inputs, device, model).several
    dense = copied(model).eval()
    thinned = plan_recipe(model, graph, removed).apply(copied(model)).eval()
    ratios = []
    with torch.inference_mode():
        for _ in range(2):  # warm up
            _seconds(dense, calls, device), _seconds(thinned, calls, device)
        for _ in range(rounds):
            first, second = _seconds(dense, calls, device), _seconds(thinned, calls, device)
            ratios.append(second / first)
    return statistics.median(ratios)


def runtime_budget() -> Any:
    """The module of budgets in a runtime, with `RuntimeBudget` and `Limit`."""
    return importlib.import_module(RUNTIME_BUDGET)


def removed_positions(graph: ChannelGraph, removed: Removed) -> dict[Place, int]:
    """Place -> how many of its positions go; one that goes with two units (its head's, and within heads) once."""
    found: dict[Place, int] = {}
    gone: dict[Place, np.ndarray] = {}
    for group in graph.groups():
        for place, positions in gone_positions(group, removed.get(group.name, [])).items():
            known = gone.get(place)
            gone[place] = positions if known is None else np.union1d(known, positions)
            found[place] = len(gone[place])
    return found


def _left(name: str, shape: tuple[int, ...], gone: Mapping[Place, int]) -> float:
    return math.prod(1 - gone.get((name, dim), 0) / size for dim, size in enumerate(shape) if size)


def _seconds(model: nn.Module, calls: Sequence[Call], device: torch.device) -> float:
    return sum(_seconds_of(model, call, device) for call in calls)


def _seconds_of(model: nn.Module, call: Call, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    with calling(model, call):
        started = time.perf_counter()
        model(*call.arguments, **call.keywords)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started
