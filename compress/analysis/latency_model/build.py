"""Measures a latency model: every kind of layer over widths, then a few whole files for the rest.

`measure_latency_model`.
"""

import copy
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.analysis.latency_model.fingerprint import fingerprint
from compress.analysis.latency_model.layers import Kind, Layer, layers_of, without
from compress.analysis.latency_model.model import LatencyModel, features
from compress.analysis.latency_model.profile import ROUNDS, kernel_times
from compress.analysis.latency_model.table import Table, nonnegative, table_of, widths_to_measure
from compress.errors import UserError
from compress.export.latency import measure_latency, onnx_way
from compress.export.onnx.export import transform_to_onnx
from compress.graph.channels import ChannelGraph
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.thinning.removal_plan import plan_recipe
from compress.thinning.trials.trial import prunable_graph

logger = logging.getLogger("compress")
PROFILED = "onnxruntime"  # the runtime whose profiler has the time of each layer
SHARES = {"float": (1.0, 0.75, 0.5, 0.25), "int8": (1.0, 0.5)}  # of each group's channels, of whole files
DRAWN = {"float": 14, "int8": 0}  # further files, of random widths
ENOUGH = 10  # whole files, to see what alignment costs
SECONDS = 4.0  # about, of measuring one kind in one precision
CROSSES = 4  # widths at which both are smaller than full, to judge the tables
BELIEF = 0.3  # weight of k = 1 among the whole files


def measure_latency_model(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    runtime: str = PROFILED,
    threads: int = 1,
    int8: bool = True,
    graph: ChannelGraph | None = None,
) -> LatencyModel:
    """Times a dense network's kinds of layers over widths, in float and int8, as exported files run them.

    Args:
        model: dense, float, on the CPU; left as it was.
        example_inputs: whose sizes are those of use.
        runtime: `onnxruntime`, whose profiler has the time of each layer.
        threads: of the runtime.
        int8: also integers.
        graph: of `prunable_graph`, if it is there.

    Raises:
        UserError: another runtime, or the network cannot be traced or exported.
    """
    if runtime != PROFILED:
        raise UserError(
            f"a latency model reads the times of layers from the profiler of {PROFILED}, and {runtime} has none here; "
            "goals measure whole files and take any runtime. Nothing was measured"
        )
    model = model.eval()
    layers = layers_of(model, example_inputs)
    graph = graph or prunable_graph(model, example_inputs)
    tables: dict[tuple[Kind, str], Table] = {}
    precisions = ["float", *(["int8"] if int8 else [])]
    for kind, precision in itertools.product(dict.fromkeys(layer.kind for layer in layers), precisions):
        tables[kind, precision] = _table(kind, [each for each in layers if each.kind == kind], precision, threads)
    origin = fingerprint(runtime, threads)
    whole = _Whole(model, graph, example_inputs, threads)
    with tempfile.TemporaryDirectory() as folder:
        anchors = whole.measured(Path(folder), precisions)
    rest = {
        each: _rest(each, [a for a in anchors if a["precision"] == each], layers, graph, tables) for each in precisions
    }
    dense_ms = next(a["ms"] for a in anchors if a["precision"] == "float" and a["share"] == 1)
    found = LatencyModel(tuple(layers), tables, rest, dense_ms, origin)
    return replace(found, anchors=tuple(_told(found, graph, anchor) for anchor in anchors))


def _told(found: LatencyModel, graph: ChannelGraph, anchor: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a whole file: how it was predicted and measured."""
    predicted = found.removed(graph, anchor["removed"], anchor["precision"] == "int8")
    return {name: anchor[name] for name in ("share", "precision", "ms", "bytes", "params")} | {
        "predicted_ms": predicted
    }


def _table(kind: Kind, layers: Sequence[Layer], precision: str, threads: int) -> Table:
    """Measures one kind up to the widest of its layers."""
    full = max(each.channels_in for each in layers), max(each.channels_out for each in layers)
    groups = max(kind.groups, 1)
    widths = _widths(full, kind.groups)
    started = time.perf_counter()
    kernel_times(kind, [full], precision == "int8", threads, rounds=2)
    each = (time.perf_counter() - started) / 3
    rounds = int(np.clip(SECONDS / (each * len(widths)), 4, ROUNDS))
    times = kernel_times(kind, widths, precision == "int8", threads, rounds)
    logger.info("%s, %s, up to %d x %d: %d widths, %d rounds", kind, precision, *full, len(widths), rounds)
    assert all(width % groups == 0 for pair in widths for width in pair)
    return table_of(dict(zip(widths, times, strict=True)), full, depthwise=kind.groups == 0)


def _widths(full: tuple[int, int], groups: int) -> list[tuple[int, int]]:
    """Both sweeps and a few pairs between; of grouped layers multiples of the groups."""
    if groups == 0:
        return [(each, each) for each in widths_to_measure(full[0])]
    first, second = ([each * groups for each in widths_to_measure(width // groups)] for width in full)
    shares = [(k + 1) / (CROSSES + 1) for k in range(CROSSES)]
    crosses = [
        (max(1, round(full[0] * s / groups)) * groups, max(1, round(full[1] * s / groups)) * groups) for s in shares
    ]
    pairs = [(each, full[1]) for each in first] + [(full[0], each) for each in second] + crosses
    return list(dict.fromkeys(pairs))


@dataclass(frozen=True)
class _Whole:
    """Whole exported files at a few widths."""

    model: nn.Module
    graph: ChannelGraph
    inputs: tuple[Tensor, ...]
    threads: int

    def measured(self, folder: Path, precisions: Sequence[str]) -> list[dict[str, Any]]:
        """One entry a file: share of the channels, precision, the units removed, milliseconds."""
        anchors: list[dict[str, Any]] = []
        draw = np.random.default_rng(0)
        for precision in precisions:
            removals: list[tuple[float | None, dict[str, list[int]]]] = [
                (share, evenly(self.graph, share)) for share in SHARES[precision]
            ]
            removals += [(None, drawn(self.graph, draw)) for _ in range(DRAWN[precision])]
            for share, removed in removals:
                file = folder / f"{len(anchors)}.onnx"
                params = self._export(removed, precision, file)
                size = {"bytes": file.stat().st_size, "params": params}
                anchors.append({"share": share, "precision": precision, "removed": removed, "file": file, **size})
        ways = {str(i): onnx_way(a["file"], self.inputs, self.threads) for i, a in enumerate(anchors)}
        found = measure_latency(ways, rounds=15)
        dense = next(iter(found.values())).milliseconds
        return [{**a, "ms": dense * each.ratio} for a, each in zip(anchors, found.values(), strict=True)]

    def _export(self, removed: Mapping[str, list[int]], precision: str, file: Path) -> int:
        """Writes the file; the number of parameters of the float network."""
        network = copy.deepcopy(self.model)
        network = plan_recipe(network, self.graph, removed).apply(network).eval()
        params = sum(each.numel() for each in network.parameters())
        if precision == "int8":
            settings: dict[str, Any] = {"bits_activations": 8, "bits_parameters": 8, "per_channel_wts": True}
            quantizer = PostTrainLinearQuantizer(**settings, example_inputs=self.inputs)
            network = quantizer.quantize(network, [self.inputs])
            transform_to_onnx(network, file, self.inputs, True, "qdq", [self.inputs])
        elif not any(removed.values()):
            transform_to_onnx(network, file, self.inputs, False, check_inputs=[self.inputs])
        else:
            _quick_export(network, file, self.inputs)
        return params


def evenly(graph: ChannelGraph, share: float) -> dict[str, list[int]]:
    """Units to remove so that every prunable group keeps about a share of its own, at least one."""
    removed = {}
    for group in graph.groups(prunable_only=True):
        gone = min(group.units - max(1, round(group.units * share)), group.prunable)
        removed[group.name] = list(range(gone))
    return removed


def drawn(graph: ChannelGraph, draw: np.random.Generator) -> dict[str, list[int]]:
    """Units to remove so that groups keep random numbers around a random share; half of the times multiples of 8."""
    share, step = draw.uniform(0.2, 0.95), int(draw.choice([1, 8]))
    removed = {}
    for group in graph.groups(prunable_only=True):
        left = round(group.units * share * draw.uniform(0.6, 1.4) / step) * step
        gone = group.units - min(group.units, max(1, left))
        removed[group.name] = list(range(min(gone, group.prunable)))
    return removed


def _quick_export(network: nn.Module, file: Path, inputs: tuple[Tensor, ...]) -> None:
    """A float network's file by the older exporter, in a tenth of the time; the runtime makes the same kernels of it.

    What it cannot export goes the usual way.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, inputs, str(file), dynamo=False)
    except Exception:
        transform_to_onnx(network, file, inputs, False, check_inputs=[inputs])


def _rest(
    precision: str,
    anchors: Sequence[Mapping[str, Any]],
    layers: Sequence[Layer],
    graph: ChannelGraph,
    tables: Mapping[tuple[Kind, str], Table],
) -> tuple[float, ...]:
    """Coefficients of the features, by least squares of relative errors, with a weak belief that the first is 1."""
    rows = []
    for anchor in anchors:
        now = without(layers, graph, anchor["removed"])
        times = [tables[each.kind, precision].time(each.channels_in, each.channels_out) for each in now]
        # Divided by the measured time, and the right side is 1: errors count relative to the file's time.
        rows.append(features(now, times) / anchor["ms"])
    count = len(rows[0]) if len(anchors) >= ENOUGH else 3  # few files do not show what alignment costs
    rows = [row[:count] for row in rows]
    # One more equation, BELIEF * k_1 = BELIEF, so that few files do not overrule the tables.
    rows.append(BELIEF * np.eye(count)[0])
    found = nonnegative(np.array(rows), np.array([1.0] * len(anchors) + [BELIEF]))
    return tuple(found + [0.0] * (len(features(layers, [0.0] * len(layers))) - count))
