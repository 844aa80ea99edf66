"""Which records are analyses of whole networks."""

import json
from pathlib import Path

import torch
from torch import nn

from apputils.report.sections.network.sensitivity import find_sensitivity
from apputils.report.source import Source
from compress.analysis.macs.layers import macs_table


def test_a_share_of_an_analysis_is_no_analysis(tmp_path: Path) -> None:
    record = json.dumps({"kind": "sensitivity analysis", "complete": True, "sense_type": "element"})
    for name in ("sensitivity_element.json", "sensitivity_element_part_conv-0a1b2c3d.json"):
        (tmp_path / name).write_text(record)
    assert [
        each["file"]
        for each in find_sensitivity(
            Source(tmp_path, {}, {"checkpoint": ""}, macs_table(nn.Linear(1, 1), torch.empty(1, 1)))
        )
    ] == ["sensitivity_element.json"]
