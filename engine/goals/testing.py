"""The goals of an evaluated checkpoint's schedule, on the test data: measured on the file that `test.py` exported."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.config.goals import goals_of
from engine.application import TestedApplication
from engine.goals.deployed import Deployed, judge_goals
from engine.goals.packing import PACKED, packed_format
from engine.saved.dense_baseline import DenseQuality, dense_quality

Metrics = Mapping[str, float]
DEPLOYED = ("network_int8.onnx", "network.onnx")  # the first that was exported is what is deployed
PACKED_FILE = f"network_{PACKED}.onnx"


def judge_tested(
    tester: TestedApplication,
    model: nn.Module,
    inputs: list[tuple[Tensor, ...]],
    exported: Mapping[str, Any] | None,
    known: Mapping[str, Metrics],
    device: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Measures the goals of the checkpoint's schedule; None without goals.

    Args:
        tester: of the checkpoint.
        model: its network.
        inputs: real ones.
        exported: what export.json holds; None if nothing was exported.
        known: name -> metrics of the dense networks that were measured already.
        device: what was measured on a device, which then is the clock.
    """
    goals = goals_of(tester.checkpoint["schedule"] or {})
    if not goals:
        return None
    files = (exported or {}).get("files", {})
    first = [PACKED_FILE] * bool(packed_format(goals, model))
    name = next((each for each in (*first, *DEPLOYED) if each in files), None)
    if name is None:
        why = (exported or {}).get("error", "--no-export leaves the file out that goals are measured on")
        return {"verdict": "not measured", "rows": [], "file": None, "error": why}

    def of_another(content: dict[str, Any]) -> Metrics:
        opt = dataclasses.replace(tester.config, model=str(Path("checkpoints") / content["run"] / "best.pt"), run=None)
        other = type(tester)(opt, tester.testing_loader, content)
        return other.test(other.build_model())

    def dense() -> DenseQuality | str:
        return dense_quality(tester.checkpoint, known, of_another)

    return judge_goals(
        goals,
        Deployed(
            model=model,
            file=tester.results / name,
            quality=files[name]["quality"],
            higher_is_better=tester.higher_is_better,
            dense_architecture=tester.new_network(tester.checkpoint["network"]["arguments"]),
            dense_quality=dense,
            inputs=inputs[0],
            example_inputs=tester.example_inputs(),
            threads=tester.config.threads or 1,
            measured_on=tester.data_facts(),
            device=device,
        ),
    )
