"""What the sections collect from."""

import json
import os
from pathlib import Path

from torch import nn

from apputils.report.write import write_report
from compress.analysis.macs.layers import macs_table
from tests.apputils.report.example import EXAMPLE, MEASURED


def test_what_is_older_than_the_checkpoint_is_left_out(here: Path, net: nn.Module) -> None:
    """Such as an analysis from before the run went on."""
    folder = Path("results/a")
    folder.mkdir(parents=True)
    record = {"kind": "sensitivity analysis", "complete": True, "sense_type": "element", "dense": {}, "weights": {}}
    Path("c.pt").write_text("")
    (folder / "sensitivity_element.json").write_text(json.dumps(record))
    (folder / "export.json").write_text(json.dumps({"files": {"net.onnx": {"file": "net.onnx", "bytes": 9}}}))
    checkpoint = {
        "run": "a", "optform": "SR", "epoch": 0, "schedule": {}, "history": [], "options": {},
        "scheduler": {"recipes": []}, "model": net.state_dict(),
    }  # fmt: skip
    summary = {**MEASURED, "quality": {"acc": {"majority": 0.1, "model": 0.9}}, "params": 1, "macs": 1}
    found = [write_report(folder, checkpoint, summary, macs_table(net, EXAMPLE))]
    for name in ("sensitivity_element.json", "export.json"):
        os.utime(folder / name, (1, 1))
    found.append(write_report(folder, checkpoint, summary, macs_table(net, EXAMPLE)))
    assert [(len(each["sensitivity"]), len(each["export"])) for each in found] == [(1, 1), (0, 0)]
    assert "of another network: export.json, sensitivity_element.json" in (folder / "report.html").read_text()
