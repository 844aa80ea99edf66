"""onnxruntime and onnx, opened with care: missing packages are said, hostile files are refused, threads are stated.

`open_session`, `run_session`, `has_vnni`.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.errors import UserError
from compress.io.files import checked, read_text
from compress.io.optional import needed

_CPU_FLAGS = Path("/proc/cpuinfo")


def open_session(
    file: Path | str,
    *,
    threads: int | None = None,
    exact: bool = False,
    fused: bool = True,
    optimized: Path | None = None,
) -> Any:
    """An onnxruntime session on the CPU.

    Args:
        file: the ONNX file.
        threads: of one operator; None leaves it to onnxruntime.
        exact: integer kernels do not saturate: on an x86 CPU without VNNI, uint8 x int8 kernels add pairs of products
            in 16 bits, and this asks for slower ones that do not. It changes nothing on other CPUs.
        fused: onnxruntime's graph optimizations; without them every node runs as it is written in the file.
        optimized: where to write the graph that onnxruntime makes of the file.

    Raises:
        UserError: onnxruntime is missing, there is no such file, or onnxruntime refuses it.
    """
    runtime = needed("onnxruntime", "running an ONNX file")
    if not Path(file).is_file():
        raise UserError(f"there is no file {file}")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, with what was given
    if threads is not None:
        options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not fused:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = os.fspath(optimized)
    try:
        return runtime.InferenceSession(checked(file), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's errors share no base class but Exception
        raise UserError(f"onnxruntime refuses {file}: {_first_line(e)}") from e


def run_session(session: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Runs a session on tensors; its outputs, on the CPU.

    Raises:
        UserError: the file does not take inputs of these shapes or types.
    """
    wanted = session.get_inputs()
    if len(wanted) != len(inputs):
        raise UserError(f"the file takes {len(wanted)} inputs, given are {len(inputs)}")
    feeds = {each.name: x.detach().cpu().numpy() for each, x in zip(wanted, inputs, strict=True)}
    try:
        return [torch.from_numpy(array) for array in session.run(None, feeds)]
    except Exception as e:  # see open_session
        shapes = ", ".join(f"{each.name} {each.shape} {each.type}" for each in wanted)
        given = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in inputs)
        raise UserError(f"the file takes {shapes}; given is {given}: {_first_line(e)}") from e


@cache
def has_vnni() -> bool | None:
    """Whether this CPU multiplies uint8 by int8 without saturating (VNNI, AMX, or an Arm CPU); None if unknown."""
    try:
        text = read_text(_CPU_FLAGS)
    except OSError:
        return None
    return flags_have_vnni(text)


def flags_have_vnni(cpuinfo: str) -> bool | None:
    """The same of the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            flags = set(value.split())
            return bool(flags & {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
        if name.strip() == "Features":  # Arm: its dot products keep 32 bits
            return True
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
