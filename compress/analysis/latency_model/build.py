"""Measures a latency model: every kind of layer over widths, then a few whole files for the rest.

`measure_latency_model`, here; `fitted`, from times that were measured anywhere.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from compress.analysis.latency_model.fingerprint import fingerprint
from compress.analysis.latency_model.layers import Kind, Layer, layers_of, widened
from compress.analysis.latency_model.model import ENOUGH, LatencyModel, features
from compress.analysis.latency_model.plan import Sweep, sweeps_of
from compress.analysis.latency_model.table import Table, nonnegative
from compress.analysis.latency_model.whole import write_whole_files
from compress.errors import UserError
from compress.export.latency import measure_latency
from compress.export.layer_times import PROFILED
from compress.export.runtimes.client import RuntimeProcess, RuntimeTurn
from compress.export.runtimes.table import RUNTIMES
from compress.graph.channels import ChannelGraph
from compress.thinning.trials.trial import prunable_graph

logger = logging.getLogger("compress")
REFERENCE = "onnxruntime"
BELIEF = 0.3  # weight of k = 1 among the whole files


def measure_latency_model(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    runtime: str = REFERENCE,
    threads: int = 1,
    int8: bool = True,
    graph: ChannelGraph | None = None,
) -> LatencyModel:
    """Times a dense network's kinds of layers over widths, in float and int8, as exported files run them.

    Args:
        model: dense, float, on the CPU; left as it was.
        example_inputs: whose sizes are those of use.
        runtime: one of those whose profiler has the time of each layer, in the precision that it chooses.
        threads: of the runtime.
        int8: also integers.
        graph: of `prunable_graph`, if it is there.

    Raises:
        UserError: a runtime without a profiler or not installed, or the network cannot be traced or exported.
    """
    check_profiled(runtime)
    model = model.eval()
    layers = layers_of(model, example_inputs)
    graph = graph or prunable_graph(model, example_inputs)
    precisions = ["float", *(["int8"] if int8 else [])]
    sweeps = sweeps_of(layers, precisions)
    origin = {**fingerprint(runtime, threads), "inputs": described(example_inputs)}
    with RuntimeProcess(runtime) as process, tempfile.TemporaryDirectory() as folder:
        times = [measured_sweep(process, each, threads) for each in sweeps]
        anchors = write_whole_files(model, layers, graph, example_inputs, Path(folder), precisions)
        timed = measured_files(process, [each["file"] for each in anchors], example_inputs, threads)
    return fitted(layers, sweeps, times, [{**a, "ms": ms} for a, ms in zip(anchors, timed, strict=True)], origin)


def described(inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Shape and type of each input, as plain data."""
    return [{"shape": list(each.shape), "dtype": str(each.dtype).removeprefix("torch.")} for each in inputs]


def measured_sweep(process: RuntimeProcess, sweep: Sweep, threads: int) -> list[float]:
    """Milliseconds of the layer at each pair of widths, in a runtime's process on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        times: list[float] = process.call("layer_times", sweep.write(Path(folder)), sweep.slowest, threads)
    logger.info("%s, %s, up to %d x %d: %d widths", sweep.kind, sweep.precision, *sweep.full, len(sweep.widths))
    return times


def check_profiled(runtime: str) -> None:
    """Refuses a runtime whose layers cannot be timed here.

    Raises:
        UserError: why not.
    """
    if runtime not in PROFILED:
        raise UserError(
            f"a latency model reads the times of layers from a profiler, which {' and '.join(PROFILED)} have, and not "
            f"{runtime}; goals measure whole files and take more runtimes. Nothing was measured"
        )
    if reason := RUNTIMES[runtime].available():
        raise UserError(f"{reason}; nothing was measured")


def measured_files(
    process: RuntimeProcess, files: Sequence[Path], inputs: tuple[Tensor, ...], threads: int
) -> list[float]:
    """Milliseconds of whole files, in turns: the first one's median, and by each round's ratio to it."""
    arrays, precision = [each.numpy() for each in inputs], process.call("precisions", False)[0]
    for i, file in enumerate(files):
        process.load(str(i), str(file), precision, threads, arrays, True)
    ways = {str(i): RuntimeTurn(process, str(i)) for i in range(len(files))}
    found = list(measure_latency(ways, rounds=15).values())
    return [found[0].milliseconds * each.ratio for each in found]


def fitted(
    layers: Sequence[Layer],
    sweeps: Sequence[Sweep],
    times: Sequence[Sequence[float]],
    anchors: Sequence[Mapping[str, Any]],
    origin: Mapping[str, Any],
) -> LatencyModel:
    """The model of measured times.

    Args:
        layers: of the dense network.
        sweeps: of every kind and precision.
        times: milliseconds of each sweep.
        anchors: whole files: share of the channels, precision, widths of the layers, milliseconds, bytes, parameters.
        origin: machine, runtime and threads.
    """
    tables = {(each.kind, each.precision): each.table(own) for each, own in zip(sweeps, times, strict=True)}
    rest = {
        precision: _rest(precision, [a for a in anchors if a["precision"] == precision], layers, tables)
        for precision in dict.fromkeys(each.precision for each in sweeps)
    }
    dense_ms = next(a["ms"] for a in anchors if a["precision"] == "float" and a["share"] == 1)
    found = LatencyModel(tuple(layers), tables, rest, dense_ms, origin)
    return replace(found, anchors=tuple(_judged(found, anchor) for anchor in anchors))


def _judged(found: LatencyModel, anchor: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a whole file: how it was predicted and measured."""
    now = widened(found.layers, anchor["widths"])
    kept = {name: anchor[name] for name in ("share", "precision", "ms", "bytes", "params")}
    return {**kept, "predicted_ms": found.time(now, anchor["precision"] == "int8")}


def _rest(
    precision: str,
    anchors: Sequence[Mapping[str, Any]],
    layers: Sequence[Layer],
    tables: Mapping[tuple[Kind, str], Table],
) -> tuple[float, ...]:
    """Coefficients of the features, by least squares of relative errors, with a weak belief that the first is 1."""
    rows = []
    for anchor in anchors:
        now = widened(layers, anchor["widths"])
        times = [tables[each.kind, precision].time(each.channels_in, each.channels_out) for each in now]
        # Divided by the measured time, and the right side is 1: errors count relative to the file's time.
        rows.append(features(now, times) / anchor["ms"])
    count = len(rows[0]) if len(anchors) >= ENOUGH else 3  # few files do not show what alignment costs
    rows = [row[:count] for row in rows]
    # One more equation, BELIEF * k_1 = BELIEF, so that few files do not overrule the tables.
    rows.append(BELIEF * np.eye(count)[0])
    found = nonnegative(np.array(rows), np.array([1.0] * len(anchors) + [BELIEF]))
    return tuple(found + [0.0] * (len(features(layers, [0.0] * len(layers))) - count))
