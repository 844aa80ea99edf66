"""What runs an exported file where a goal depends on it: the runtimes of `compress.export.runtimes`."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from compress.errors import UserError, did_you_mean
from compress.export.latency import Way, onnx_way
from compress.export.onnx.check import difference, stored_in_integers
from compress.export.onnx.session import open_session
from compress.export.runtimes.base import FLOAT32, Source, wrong_of
from compress.export.runtimes.client import RuntimeModel, RuntimeProcess, RuntimeTurn
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


@contextmanager
def timed_in(
    runtime: str, files: Mapping[str, Path], inputs: tuple[Tensor, ...], threads: int
) -> Iterator[tuple[dict[str, Way], str]]:
    """Ways of ONNX files in one runtime, to be timed inside the block, and the precision of their floats: its default.

    Raises:
        UserError: the runtime is unknown or not installed, refuses a file, crashes, hangs or computes something else.
    """
    if problem := problem_with(runtime):
        raise UserError(problem)
    if runtime == DEFAULT_RUNTIME:
        yield {name: onnx_way(file, inputs, threads) for name, file in files.items()}, FLOAT32
        return
    with _loaded(runtime, files, inputs, threads) as (process, precision):
        yield {name: RuntimeTurn(process, name) for name in files}, precision


def float_layers(runtime: str, file: Path, inputs: tuple[Tensor, ...]) -> tuple[list[str], int]:
    """Layers with 8-bit weights that a runtime computes in float, and how many there are in all.

    Raises:
        UserError: the runtime is unknown or not installed, refuses the file, crashes or hangs, or does not say what it
            computes how.
    """
    if problem := problem_with(runtime):
        raise UserError(problem)
    layers = stored_in_integers(file)
    if not layers:
        return [], 0
    with _loaded(runtime, {file.stem: file}, inputs, 1) as (process, _):
        found = process.call("kernels", file.stem, layers)
    if found is None:
        raise UserError(f"{runtime} does not report which layers it computes in integers")
    return [each for each in layers if each not in found], len(layers)


@contextmanager
def _loaded(
    runtime: str, files: Mapping[str, Path], inputs: tuple[Tensor, ...], threads: int
) -> Iterator[tuple[RuntimeProcess, str]]:
    """Files in a runtime's process by their names, run once and right, and the precision: the runtime's default."""
    arrays = [each.detach().cpu().numpy() for each in inputs]
    shapes = tuple(each.shape for each in arrays)
    with tempfile.TemporaryDirectory() as folder, RuntimeProcess(runtime) as process:
        precision: str = process.call("precisions", False)[0]
        for i, (name, file) in enumerate(files.items()):
            target = Path(folder) / str(i)
            target.mkdir()
            converted = process.call("convert", Source(name, False, (), shapes, str(file)), str(target))
            process.load(name, converted.file, precision, threads, arrays, True)
            _check(runtime, precision, file, inputs, RuntimeModel(process, name).outputs(inputs))
        yield process, precision


def _check(runtime: str, precision: str, file: Path, inputs: tuple[Tensor, ...], found: Sequence[Tensor]) -> None:
    """What onnxruntime computes of the same file is right: the export has compared that with the network.

    Raises:
        UserError: the runtime computes something else, so that its time or its kernels are not those of this network.
    """
    session = open_session(file)
    feeds = {each.name: x.detach().cpu().numpy() for each, x in zip(session.get_inputs(), inputs, strict=True)}
    apart = difference([[torch.as_tensor(each) for each in session.run(None, feeds)]], [found]).worst
    row = {"runtime": runtime, "precision": precision, "quantized": bool(stored_in_integers(file))}
    if text := wrong_of({**row, "mean": apart.mean, "largest": apart.largest}):
        raise UserError(f"{runtime} on {file.name}: {text}")
