"""Times of one layer in many small files, read from onnxruntime's profiler; all files take turns.

`sweep_times`, `layer_times`. No torch and nothing of the project, so that a bundle carries this file as it is.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAYER = "LAYER"  # names of the measured nodes begin with it
ENDS_NAMES = ("before", "after", "first")  # parts of the names of those around it
ROUNDS, LEAST_ROUNDS = 15, 4
SECONDS = 4.0  # about, of measuring one sweep
QUANTILE = 0.25  # of a layer's times over the rounds: what else the machine does only adds


def sweep_times(files: Sequence[Path], slowest: int, threads: int) -> list[float]:
    """Milliseconds of the layer in each file, over as many rounds as fit into `SECONDS`.

    Args:
        files: with a layer each.
        slowest: place of the one of full widths, by which the rounds are chosen.
        threads: of the runtime.
    """
    started = time.perf_counter()
    layer_times([files[slowest]], threads, rounds=2)
    each = (time.perf_counter() - started) / 3
    rounds = int(np.clip(SECONDS / (each * len(files)), LEAST_ROUNDS, ROUNDS))
    return layer_times(files, threads, rounds)


def layer_times(files: Sequence[Path], threads: int, rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of the layer in each file: the first quartile over the rounds."""
    import onnxruntime

    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        sessions = [_session(onnxruntime, file, Path(folder) / f"{i}_", threads) for i, file in enumerate(files)]
        feeds = {"x": draw.random(sessions[0].get_inputs()[0].shape, dtype=np.float32)}
        for _ in range(rounds + 1):  # the first warms up
            for session in sessions:
                session.run(None, feeds)
        parts = [_parts(Path(session.end_profiling()), rounds) for session in sessions]
    # What stands around the layer at every width (the small layers' own
    # reorderings) is not its own; what comes on top at some widths is.
    always = min(around for _, around in parts)
    return [own + around - always for own, around in parts]


def _session(runtime: Any, file: Path, prefix: Path, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _parts(file: Path, rounds: int) -> tuple[float, float]:
    """Milliseconds of the layer's nodes, and of those that the runtime put around them: at some widths it reorders."""
    times: dict[str, list[float]] = {}
    for event in json.loads(file.read_text()):
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
