"""What runs an exported file where a goal depends on it: the runtimes of `compress.export.runtimes`."""

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.errors import UserError, did_you_mean
from compress.export.latency import Way, onnx_way
from compress.export.onnx.check import stored_in_integers
from compress.export.runtimes.base import Loaded, RuntimeFault, Source
from compress.export.runtimes.table import RUNTIMES as ALL
from compress.goals.goal import DEFAULT_RUNTIME

RUNTIMES = tuple(name for name, runtime in ALL.items() if runtime.reads == "onnx")


def problem_with(runtime: str) -> str:
    """Why a runtime cannot be used, in words; empty where it can."""
    if runtime not in RUNTIMES and runtime in ALL:
        return (
            f"goals are measured on the exported ONNX file, which {runtime} does not read; python test.py --runtimes "
            f"{runtime} measures there. Goals take {', '.join(RUNTIMES)}"
        )
    if runtime not in RUNTIMES:
        return f"unknown runtime {runtime!r}; {did_you_mean(runtime, RUNTIMES)}"
    return ALL[runtime].available()


def way_of(runtime: str, file: Path, inputs: tuple[Tensor, ...], threads: int) -> Way:
    """One run of an ONNX file, to be timed; in the precision that is the runtime's default.

    Raises:
        UserError: the runtime is unknown or not installed, or refuses the file.
    """
    if problem := problem_with(runtime):
        raise UserError(problem)
    if runtime == DEFAULT_RUNTIME:
        return onnx_way(file, inputs, threads)
    arrays = [each.detach().cpu().numpy() for each in inputs]
    loaded = _loaded(runtime, file, arrays, threads)
    return lambda: loaded.run(arrays)


def float_layers(runtime: str, file: Path, inputs: tuple[Tensor, ...]) -> tuple[list[str], int]:
    """Layers with 8-bit weights that a runtime computes in float, and how many there are in all.

    Raises:
        UserError: the runtime is unknown or not installed, refuses the file, or does not say what it computes how.
    """
    if problem := problem_with(runtime):
        raise UserError(problem)
    layers = stored_in_integers(file)
    if not layers:
        return [], 0
    found = _loaded(runtime, file, [each.detach().cpu().numpy() for each in inputs], 1).kernels(layers)
    if found is None:
        raise UserError(f"{runtime} does not report which layers it computes in integers")
    return [each for each in layers if each not in found], len(layers)


def _loaded(name: str, file: Path, inputs: list[Any], threads: int) -> Loaded:
    """A file in a runtime, at the runtime's default precision."""
    runtime = ALL[name]
    shapes = [tuple(each.shape) for each in inputs]
    try:
        with tempfile.TemporaryDirectory() as folder:
            converted = runtime.convert(Source(file.stem, False, (), tuple(shapes), str(file)), folder)
            loaded = runtime.load(converted.file, runtime.precisions(False)[0], threads, shapes)
            loaded.run(inputs)  # while the converted files are there
    except (RuntimeFault, RuntimeError, OSError) as e:
        raise UserError(f"{name} refuses {file}: {str(e).strip().splitlines()[0][:300]}") from e
    return loaded
