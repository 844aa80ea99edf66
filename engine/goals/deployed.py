"""The goals of a schedule measured on a network as it is deployed: its exported file in its runtime.

`judge_goals`, from a `Deployed`. Called at the end of training, by the tester and by the search.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.analysis.latency_model.carried import inputs_of, read_model
from compress.analysis.latency_model.layers import layers_of
from compress.analysis.macs.layers import macs_table
from compress.errors import UserError
from compress.export.onnx.check import stored_in_integers
from compress.export.onnx.export import transform_to_onnx
from compress.goals.goal import FLOAT_LAYERS, IN_A_RUNTIME, LATENCY, Goal
from compress.goals.judge import Value, goals_table, judge, verdict_of
from compress.goals.latency import MOST_ROUNDS, measure_ratio
from compress.goals.runtimes import float_layers
from engine.goals.on_device import on_device
from engine.saved.dense_baseline import DenseQuality

logger = logging.getLogger("run")


@dataclass(frozen=True)
class Deployed:
    """A network and what its goals are measured on.

    Attributes:
        model: the network that was exported.
        file: its exported file.
        quality: metric -> value, of the file.
        higher_is_better: of each metric.
        dense_architecture: the network of the same arguments before anything was removed; its weights do not matter.
        dense_quality: finds the trained dense network and its quality on the same data, or tells why there is none.
        inputs: of one forward pass, real ones; times are taken for them.
        example_inputs: MACs are counted for these.
        threads: of the runtime.
        measured_on: what quality is measured on.
        most_rounds: see `measure_ratio`.
        device: of `read_device_results`: what was measured on the device whose times count instead of this machine's.
    """

    model: nn.Module
    file: Path
    quality: Mapping[str, float]
    higher_is_better: Mapping[str, bool]
    dense_architecture: nn.Module
    dense_quality: Callable[[], DenseQuality | str]
    inputs: tuple[Tensor, ...]
    example_inputs: tuple[Tensor, ...]
    threads: int
    measured_on: Mapping[str, Any]
    most_rounds: int = MOST_ROUNDS
    device: Mapping[str, Any] | None = None


def judge_goals(goals: Sequence[Goal], deployed: Deployed) -> dict[str, Any]:
    """Measures every goal; a record in the form of compress/goals/judge.py, which is shown too.

    What cannot be measured is said in its row and stops nothing.
    """
    values = _Values(deployed)
    rows = [judge(goal, values.of(goal)) for goal in goals]
    record = {
        "verdict": verdict_of(rows),
        "rows": rows,
        "file": str(deployed.file),
        "measured_on": dict(deployed.measured_on),
        "dense": values.dense_name,
        "threads": deployed.threads,
    }
    logger.info("\n%s\n%s", goals_table(rows), _how(record))
    return record


def _how(record: Mapping[str, Any]) -> str:
    dense = f", dense network: {record['dense']}" if record["dense"] else ""
    return f"goals: {record['verdict']}; measured on {record['file']}{dense}"


class _Values:
    """Measures once what several goals need."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._dense: DenseQuality | str | None = None
        self._costs: Mapping[str, float] = {}

    @property
    def dense_name(self) -> str | None:
        """Of the trained dense network, where one was needed and found."""
        return self._dense.name if isinstance(self._dense, DenseQuality) else None

    def of(self, goal: Goal) -> Value | str:
        """The value that a goal is about, or why there is none."""
        try:
            if self._deployed.device is not None and goal.metric in IN_A_RUNTIME:
                return on_device(goal, self._deployed.device)
            if goal.metric == LATENCY:
                return self._latency(goal) if goal.device is None else self._predicted(goal.device)
            if goal.metric == FLOAT_LAYERS:
                return self._float_layers(goal)
            return self._quality(goal) if goal.is_quality else Value(self._cost(goal.metric))
        except UserError as e:
            return str(e)

    def _latency(self, goal: Goal) -> Value:
        given = self._deployed
        assert goal.runtime is not None
        settings = {"threads": given.threads, "most_rounds": given.most_rounds}
        with tempfile.TemporaryDirectory() as folder:
            dense = Path(folder) / "dense.onnx"
            architecture = given.dense_architecture.cpu().eval()
            dummies = tuple(each.cpu() for each in given.example_inputs)
            transform_to_onnx(architecture, dense, dummies, False, check_inputs=[given.inputs])
            return measure_ratio(given.file, dense, given.inputs, goal.runtime, goal.bound, **settings)

    def _predicted(self, device: str) -> Value:
        """By the layers' times on another machine."""
        given, model = self._deployed, read_model(device)
        where = next((each.device for each in given.model.parameters()), None)
        inputs = inputs_of(model)
        model.check_is_of(layers_of(given.dense_architecture.cpu().eval(), inputs))
        layers = layers_of(given.model.eval(), tuple(each.to(where) for each in inputs))
        share = model.time(layers, set(stored_in_integers(given.file))) / model.time(model.layers)
        origin, error = model.origin, model.largest_error
        note = (
            f"predicted by the times of layers on {origin['processor']} ({origin['runtime']} {origin['version']}, "
            f"{origin['threads']} thread{'s' * (origin['threads'] != 1)}), off by {error:.1%} at most on "
            f"{len(model.anchors)} whole files there; python test.py --bundle=FOLDER carries this network there to be "
            "measured"
        )
        return Value(share, noise=share * error, note=note)

    def _float_layers(self, goal: Goal) -> Value | str:
        found, count = float_layers(str(goal.runtime), self._deployed.file, self._deployed.inputs)
        if not count:
            return f"{self._deployed.file} holds no 8-bit weights: the network is not quantized"
        return Value(float(len(found)), note=f"in float, of {count}: {', '.join(found)}" if found else "")

    def _cost(self, metric: str) -> float:
        given = self._deployed
        if metric == "file_bytes":
            return float(given.file.stat().st_size)
        if not self._costs:
            parameters = sum(each.numel() for each in given.model.parameters())
            self._costs = {**macs_table(given.model, given.example_inputs).total, "params": parameters}
        return float(self._costs[metric])

    def _quality(self, goal: Goal) -> Value | str:
        given = self._deployed
        if goal.metric not in given.quality:
            return f"the application measures {', '.join(given.quality)}, not {goal.metric}"
        own = given.quality[goal.metric]
        if goal.kind != "drop_at_most":
            return Value(own)
        self._dense = given.dense_quality() if self._dense is None else self._dense
        if isinstance(self._dense, str):
            return self._dense
        drop = self._dense.quality[goal.metric] - own
        drop = drop if given.higher_is_better.get(goal.metric, True) else -drop
        return Value(drop, note=f"{own:.4f}, the dense network's is {self._dense.quality[goal.metric]:.4f}")
