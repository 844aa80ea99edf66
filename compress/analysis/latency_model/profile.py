"""Times of one layer in many small files, read from onnxruntime's profiler; all files take turns.

`kernel_times`.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.analysis.latency_model.kernels import LAYER, kernel_model
from compress.analysis.latency_model.layers import Kind
from compress.io.files import read_text
from compress.io.optional import needed

ROUNDS = 15
ENDS_NAMES = ("before", "after", "first")
QUANTILE = 0.25  # of a layer's times over the rounds: what else the machine does only adds


def kernel_times(
    kind: Kind, widths: Sequence[tuple[int, int]], int8: bool, threads: int, rounds: int = ROUNDS
) -> list[float]:
    """Milliseconds of a layer of a kind at each pair of widths (in, out): the first quartile over the rounds."""
    runtime = needed("onnxruntime", "measuring layers")
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for number, (channels_in, channels_out) in enumerate(widths):
            content = kernel_model(kind, channels_in, channels_out, int8).SerializeToString()
            sessions.append(_session(runtime, content, Path(folder) / f"{number}_", threads))
        shape = sessions[0].get_inputs()[0].shape
        feeds = {"x": draw.random(shape, dtype=np.float32)}
        for _ in range(rounds + 1):  # the first warms up
            for session in sessions:
                session.run(None, feeds)
        parts = [_parts(Path(session.end_profiling()), rounds) for session in sessions]
    # What stands around the layer at every width (the small layers' own
    # reorderings) is not its own; what comes on top at some widths is.
    always = min(around for _, around in parts)
    return [own + around - always for own, around in parts]


def _session(runtime: Any, content: bytes, prefix: Path, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _parts(file: Path, rounds: int) -> tuple[float, float]:
    """Milliseconds of the layer's nodes, and of those that the runtime put around them: at some widths it reorders."""
    times: dict[str, list[float]] = {}
    for event in json.loads(read_text(file)):
        name = str(event["name"])
        if (
            event.get("cat") == "Node"
            and name.endswith("_kernel_time")
            and not any(each in name for each in ENDS_NAMES)
        ):
            times.setdefault(name, []).append(event["dur"] / 1000)
    found = {name: float(np.quantile(each[-rounds:], QUANTILE)) for name, each in times.items()}
    own = sum(time for name, time in found.items() if LAYER in name)
    assert own, "the layer's node keeps its name"
    return own, sum(found.values()) - own
