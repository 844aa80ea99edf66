"""The latency model of a run's network on the command line.

    python -m compress.analysis.latency_model --run=DENSE [--runtime onnxruntime] [--threads 1]
    python -m compress.analysis.latency_model --model models.C2SRCNN.model:Net --example-shape 1x3x90x120
    python -m compress.analysis.latency_model --run=DENSE --device-results=device.json    # of another machine

Writes results/RUN/latency_model.json, and prints the tables, how well they predict, and the widths worth having.
"""

import argparse
import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from compress.analysis.latency_model.advice import advice_of
from compress.analysis.latency_model.build import REFERENCE, measure_latency_model
from compress.analysis.latency_model.carried import inputs_of, read_model
from compress.analysis.latency_model.layers import layers_of
from compress.analysis.latency_model.model import LatencyModel
from compress.errors import UserError
from compress.export.layer_times import PROFILED
from compress.graph.channels import ChannelGraph
from compress.io.terminal import answer, guard_screen
from compress.thinning.trials.trial import prunable_graph

WITHHELD = (
    "withheld: what a step saves of the layers' own time is less than the error of their tables, so it is not known "
    "which widths are worth having; --benchmark of networks thinned to the widths in question measures it"
)
OF_A_RUN = "engine.saved.latency_subject"  # loads runs; the library alone knows none


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 after a fault of the user's."""
    guard_screen()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m compress.analysis.latency_model", description="Times of layers.")
    parser.add_argument("--run", help="a dense run in checkpoints/")
    parser.add_argument("--model", help="MODULE:NAME of what makes a network without arguments, instead of a run")
    parser.add_argument("--example-shape", help="of its input, such as 1x3x64x64")
    parser.add_argument("--runtime", default=REFERENCE, help=f"that runs the file: {' or '.join(PROFILED)}")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime")
    parser.add_argument("--device-results", help="device.json with a layer table: take its times, measure nothing here")
    parser.add_argument("--no-int8", action="store_true", help="measure float only")
    parser.add_argument("--out", type=Path, help="the file (default: results/RUN/latency_model.json)")
    given = parser.parse_args(arguments)
    return answer(lambda: _measured(given))


def _measured(given: Any) -> str:
    network, inputs = _subject(given)
    path = given.out or Path("results") / (given.run or "network") / "latency_model.json"
    graph = prunable_graph(network, inputs)
    if given.device_results:
        found = read_model(given.device_results)
        found.check_is_of(layers_of(network, inputs_of(found)))
    else:
        settings = {"runtime": given.runtime, "threads": given.threads, "int8": not given.no_int8}
        found = measure_latency_model(network, inputs, graph=graph, **settings)
    found.save(path)
    return f"{describe(found, graph)}\nwritten: {path}"


def _subject(given: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    if (given.run is None) == (given.model is None):
        raise UserError("give --run=RUN or --model=MODULE:NAME; nothing was measured")
    if given.run is not None:
        found: tuple[nn.Module, tuple[Tensor, ...]] = importlib.import_module(OF_A_RUN).latency_subject(given.run)
        return found
    if not given.example_shape:
        raise UserError("--model needs --example-shape, such as 1x3x64x64; nothing was measured")
    module, _, name = given.model.partition(":")
    try:
        network = getattr(importlib.import_module(module), name)()
        shape = tuple(int(each) for each in given.example_shape.split("x"))
    except (ImportError, AttributeError, TypeError, ValueError) as e:
        raise UserError(
            f"--model={given.model} --example-shape={given.example_shape}: {e}; nothing was measured"
        ) from e
    return network.eval(), (torch.rand(shape),)


def describe(found: LatencyModel, graph: ChannelGraph) -> str:
    """The tables in short, how whole files were predicted, and the widths worth having."""
    kinds = [
        [str(kind), precision, f"{table.full[0]} x {table.full[1]}", table.time(*table.full), f"{table.error:.1%}"]
        for (kind, precision), table in found.tables.items()
    ]
    errors = {each: [abs(a["predicted_ms"] / a["ms"] - 1) for a in found.anchors if a["precision"] == each]
              for each in found.precisions}  # fmt: skip
    fits = [
        [name, len(each), f"{sorted(each)[len(each) // 2]:.1%}", f"{max(each):.1%}"] for name, each in errors.items()
    ]
    parts = [tabulate(kinds, ["kind of layer", "precision", "widths", "ms", "error between"], floatfmt=".4g"),
             tabulate(fits, ["whole files", "count", "median error", "largest"])]  # fmt: skip
    advice = {each: advice_of(found, graph, each) for each in found.precisions}
    rows = [[name, *(str(each[name]) for each in advice.values())] for name in next(iter(advice.values()))]
    parts.append(tabulate(rows, ["group", *(f"{each}, step: widths worth having" for each in advice)]))
    if any(not each.holds for groups in advice.values() for each in groups.values()):
        parts.append(WITHHELD)
    origin = ", ".join(f"{name} {value}" for name, value in found.origin.items() if name != "inputs")
    return "\n\n".join([*parts, f"dense float file: {found.dense_ms:.4g} ms; {origin}"])


if __name__ == "__main__":
    sys.exit(main())
