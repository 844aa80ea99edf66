"""Times of one layer in many small files, read from the runtime's profiler; all files take turns.

`PROFILED`, `sweep_times`, `layer_times`. No torch and nothing of the project, so that a bundle carries this file as it
is.
"""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAYER = "LAYER"  # names of the measured nodes begin with it
ENDS_NAMES = ("before", "after", "first")  # parts of the names of those around it
ROUNDS, LEAST_ROUNDS = 15, 4
SECONDS = 4.0  # about, of measuring one sweep
QUANTILE = 0.25  # of a layer's times over the rounds: what else the machine does only adds


def sweep_times(files: Sequence[Path], slowest: int, threads: int, runtime: str = "onnxruntime") -> list[float]:
    """Milliseconds of the layer in each file, over as many rounds as fit into `SECONDS`.

    Args:
        files: with a layer each.
        slowest: place of the one of full widths, by which the rounds are chosen.
        threads: of the runtime.
        runtime: one of `PROFILED`.
    """
    started = time.perf_counter()
    layer_times([files[slowest]], threads, 2, runtime)
    each = (time.perf_counter() - started) / 3
    rounds = int(np.clip(SECONDS / (each * len(files)), LEAST_ROUNDS, ROUNDS))
    return layer_times(files, threads, rounds, runtime)


def layer_times(files: Sequence[Path], threads: int, rounds: int = ROUNDS, runtime: str = "onnxruntime") -> list[float]:
    """Milliseconds of the layer in each file: the first quartile over the rounds."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        profiles = [PROFILED[runtime](file, threads, Path(folder) / f"{i}_") for i, file in enumerate(files)]
        x = draw.random(profiles[0].shape, dtype=np.float32)
        for _ in range(rounds + 1):  # the first warms up
            for profile in profiles:
                profile.run(x)
        parts = [_parts(profile.times(), rounds) for profile in profiles]
    # What stands around the layer at every width (the small layers' own
    # reorderings) is not its own; what comes on top at some widths is.
    always = min(around for _, around in parts)
    return [own + around - always for own, around in parts]


class Profile:
    """A file in a runtime that tells how long each of its nodes takes.

    Args:
        file: ONNX.
        threads: of the runtime.
        prefix: of files that its profiler writes.
    """

    shape: list[int]

    def __init__(self, file: Path, threads: int, prefix: Path) -> None:
        raise NotImplementedError

    def run(self, x: Any) -> None:
        """Runs it once."""
        raise NotImplementedError

    def times(self) -> Mapping[str, Sequence[float]]:
        """Name of a node -> milliseconds of each run; it is not run again."""
        raise NotImplementedError


class OnnxruntimeProfile(Profile):
    """onnxruntime on the CPU, whose profiler writes a file."""

    def __init__(self, file: Path, threads: int, prefix: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, threads
        options.enable_profiling, options.profile_file_prefix = True, str(prefix)
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.shape = self._session.get_inputs()[0].shape

    def run(self, x: Any) -> None:
        """See `Profile`."""
        self._session.run(None, {"x": x})

    def times(self) -> Mapping[str, Sequence[float]]:
        """See `Profile`."""
        found: dict[str, list[float]] = {}
        for event in json.loads(Path(self._session.end_profiling()).read_text()):
            name = str(event["name"])
            if event.get("cat") == "Node" and name.endswith("_kernel_time"):
                found.setdefault(name, []).append(event["dur"] / 1000)
        return found


class OpenvinoProfile(Profile):
    """OpenVINO on the CPU, floats in the precision of its choice, as users get it."""

    def __init__(self, file: Path, threads: int, prefix: Path) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(file))
        self.shape = list(model.inputs[0].get_partial_shape().to_shape())
        settings = {
            "PERF_COUNT": True,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "SNIPPETS_MODE": "DISABLE",
        }
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        self._found: dict[str, list[float]] = {}

    def run(self, x: Any) -> None:
        """See `Profile`."""
        self._request.infer([x])
        for node in self._request.profiling_info:
            if milliseconds := 1000 * node.real_time.total_seconds():
                self._found.setdefault(node.node_name, []).append(milliseconds)

    def times(self) -> Mapping[str, Sequence[float]]:
        """See `Profile`."""
        return self._found


PROFILED: Mapping[str, type[Profile]] = {"onnxruntime": OnnxruntimeProfile, "openvino": OpenvinoProfile}


def _parts(times: Mapping[str, Sequence[float]], rounds: int) -> tuple[float, float]:
    """Milliseconds of the layer's nodes, and of those that the runtime put around them: at some widths it reorders."""
    inner = {name: each for name, each in times.items() if not any(end in name for end in ENDS_NAMES)}
    found = {name: float(np.quantile(each[-rounds:], QUANTILE)) for name, each in inner.items()}
    own = sum(time for name, time in found.items() if LAYER in name)
    assert own, "the layer's node keeps its name"
    return own, sum(found.values()) - own
