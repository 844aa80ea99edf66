"""What runs an exported file where a goal's time is measured: the names, and how each is made ready."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from compress.errors import UserError, did_you_mean
from compress.export.latency import Way, onnx_way
from compress.goals.goal import DEFAULT_RUNTIME
from compress.io.optional import MissingPackageError, require

RUNTIMES: dict[str, Callable[[Path, tuple[Tensor, ...], int], Way]] = {DEFAULT_RUNTIME: onnx_way}


def problem_with(runtime: str) -> str:
    """Why a runtime cannot be used, in words; empty where it can."""
    if runtime not in RUNTIMES:
        return f"unknown runtime {runtime!r}; {did_you_mean(runtime, RUNTIMES)}"
    try:
        require(f"a goal with runtime {runtime}", runtime)
    except MissingPackageError as e:
        return str(e)
    return ""


def way_of(runtime: str, file: Path, inputs: tuple[Tensor, ...], threads: int) -> Way:
    """One run of a file, to be timed.

    Raises:
        UserError: the runtime is unknown or not installed, or refuses the file.
    """
    if problem := problem_with(runtime):
        raise UserError(problem)
    return RUNTIMES[runtime](file, inputs, threads)
