"""Files of a run's network, timed beside the dense network's."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from apputils.runs.folders import Run
from engine.commands.export import export_run


class Small(nn.Module):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


def test_a_network_that_only_has_zeros_is_timed_beside_the_dense_one(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither thinned nor quantized: that its zeros make it no faster is what one must see."""
    model, example = Small().eval(), (torch.empty(1, 3, 16, 16),)
    with torch.no_grad():
        model.conv.weight[:3] = 0
    tester: Any = SimpleNamespace(
        new_network=lambda arguments: Small(), data_facts=dict,
        test=lambda network: {"score": 1.0}, example_inputs=lambda: example,
        folders=Run("a"), results=Path("results/a"), device=torch.device("cpu"),
        config=SimpleNamespace(threads=1, reduce_range=False, complete=False, free_axes=None),
        checkpoint={"run": "a", "optform": "SR", "network": {"class": "Small", "arguments": {}}, "options": {},
                    "task": {}, "epoch": 0, "scheduler": {"recipes": []}},
    )  # fmt: skip
    with caplog.at_level("INFO"):
        result = export_run(tester, model, [(torch.rand(2, 3, 16, 16),)], {"score": 1.0})
    assert "error" not in result
    latency = json.loads(Path("results/a/export.json").read_text())["latency"]
    dense, now = latency["rows"]
    assert (dense["name"], now["name"]) == ("dense network", "network.onnx")
    for runtime in ("torch", "onnxruntime"):
        assert dense[f"{runtime}_ratio"] == 1.0
        assert now[f"{runtime}_ratio"] > 0
        assert now[f"{runtime}_ratio_low"] <= now[f"{runtime}_ratio"] <= now[f"{runtime}_ratio_high"]
    assert (latency["threads"], latency["input_shapes"]) == (1, [[2, 3, 16, 16]])
    assert "the dense network's, in the same runtime and rounds" in caplog.text
    assert set(result["files"]) == {"network.onnx", "network.pt2"}
