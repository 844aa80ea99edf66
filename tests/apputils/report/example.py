"""A run with everything that a report may have, written below the present folder."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from apputils.platform_summaries import draw_model_to_file, macs_display, sparsity_display
from apputils.report.write import write_report
from compress.analysis.activations.statistics import ActivationStatistics, write_activations
from compress.analysis.macs.layers import macs_table

EXAMPLE = torch.empty(1, 3, 8, 8)
SCHEDULE = {
    "pruners": {"agp": {"class": "AutomatedGradualPruner"}},
    "lr_schedulers": {"<lr>": {"class": "StepLR"}},
    "policies": [
        {"pruner": {"instance_name": "agp"}, "starting_epoch": 0, "ending_epoch": 3, "frequency": 2},
        {"lr_scheduler": {"instance_name": "<lr>"}, "epochs": [1]},
    ],
}
MEASURED = {
    "measured_on": {"data": "<folder>", "part": "test", "images": 4}, "checkpoint": "c.pt",
    "sparsity": {"weights": {}, "scheduled": 0.5, "overall": 0.125},
}  # fmt: skip
RECIPES = [
    {"kept": {"0.weight": {0: torch.tensor([0, 2, 3, 5])}}, "sizes": {"0.weight": {0: 6}}},
    {"kept": {"0.weight": {0: torch.tensor([1, 3])}}, "sizes": {"0.weight": {0: 4}}},
]
REASON = {"epoch": 2, "scores": torch.tensor([0.5, 0.25, 1.0]), "threshold": 0.25, "removed": [1]}
PARTS = ("ms", "low", "high", "ratio", "ratio_low", "ratio_high")


def network() -> nn.Sequential:
    """The shared `net`, with two dead filters of four."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    net[0].weight.data[:2], net[0].bias.data[:2] = 0, -1
    return net


DIAGNOSIS = {
    "rows": [{"layer": "0", "kind": "Conv2d", "db": 40.25, "own_db": 41.0}, {"layer": "2", "kind": "ReLU", "db": 20.0}],
    "suspects": [{"layer": "2", "cause": "it is <cut off>", "remedy": "a wider range", "severity": 20.0,
                  "overrides": None, "where": "simulation"}],
}  # fmt: skip
RUNTIME_ROW = {
    "runtime": "onnxruntime", "version": "1", "network": "<net>", "quantized": True, "precision": "float32",
    "bytes": 1234, "max": 1e-6, "mean": 1e-7, "largest": 1.0, "quality": {"psnr": 30.5}, "ms": 2.5, "low": 2.0,
    "high": 3.0, "ratio": 0.5, "ratio_onnxruntime": 0.5, "integer": 2, "layers": 3, "float_layers": ["<last>"],
    "notes": ["<a note>"], "error": None,
}  # fmt: skip
IN_RUNTIMES = {
    "rows": [RUNTIME_ROW, {**RUNTIME_ROW, "runtime": "openvino", "error": "it <hung>", "quality": {}, "ms": None}],
    "missing": [{"runtime": "ncnn", "reason": "ncnn requires ncnn, not installed: pip install ncnn"}],
    "how": {"rounds": 7, "threads": 2, "others_cores": 0.0, "input_shapes": [[1, 3, 8, 8]], "seconds": 0.1},
}


def write_example(net: nn.Module) -> tuple[dict[str, Any], Path]:
    """Everything that a run may have, written below the present folder."""
    folder = Path("results/<run>")
    sparsity_display(net, folder / "sparsity.xlsx")
    macs_display(net, folder / "macs.xlsx", EXAMPLE)
    macs = json.loads((folder / "macs.json").read_text())
    (folder / "macs.json").write_text(json.dumps({**macs, "left_out": ["fft_rfft in mixer"]}))
    draw_model_to_file(net, folder / "arch.png", EXAMPLE)
    with torch.no_grad(), ActivationStatistics(net) as activations:
        net(torch.randn(2, 3, 8, 8))
    write_activations(activations.report(), folder / "activations.xlsx")
    (folder / "images").mkdir()
    for kind, color in (("bicubic", "red"), ("output", "green"), ("target", "blue"), ("input", "white")):
        size = (8, 8) if kind == "input" else (16, 16)
        Image.new("RGB", size, color).save(folder / "images" / f"one_{kind}.png")
    rows = [{"level": level, "zeros": level, "metrics": {"psnr": 30 - level}} for level in (0.0, 0.5)]
    record = {"kind": "sensitivity analysis", "complete": True, "sense_type": "element", "dense": {"psnr": 30.0}}
    (folder / "sense.json").write_text(json.dumps({**record, "weights": {"0.weight": rows}}))
    gone = dict.fromkeys(f"torch_{part}" for part in PARTS)
    times = [
        dict(zip((f"{runtime}_{part}" for part in PARTS), figures, strict=True))
        for runtime, figures in (
            ("onnxruntime", (5.0, 4.0, 6.0, 1.0, 1.0, 1.0)),
            ("torch", (9.0, 8.0, 9.5, 1.0, 1.0, 1.0)),
            ("onnxruntime", (2.5, 2.0, 3.0, 0.5, 0.375, 0.625)),
        )
    ]
    rows = [{"name": "dense network", **times[0], **times[1]}, {"name": "net.onnx", **times[2], **gone}]
    latency = {"rows": rows, "rounds": 7, "threads": 3, "others_cores": 0.0, "input_shapes": [[1, 3, 8, 8]]}
    export = {"file": "net.onnx", "mode": "float", "bytes": 1234, "compared_with": "the network"}
    export |= {
        "difference": {"max": 1e-6, "mean": 1e-7, "largest": 1.0, "inputs": 2},
        "warnings": ["<careful>", "and slow"],
        "weights": [{"layer": "0", "stored": "int8"}, {"layer": "2", "stored": "float"}],
    }
    (folder / "export.json").write_text(
        json.dumps(
            {
                "files": {"net.onnx": export, "net.pt2": {"file": "net.pt2", "bytes": 9}},
                "latency": latency,
                "error": "no <kernel>",
            }
        )
    )
    (folder / "diagnosis.json").write_text(json.dumps(DIAGNOSIS))
    (folder / "runtimes.json").write_text(json.dumps(IN_RUNTIMES))
    checkpoint = {
        "run": "<run>", "optform": "SR", "epoch": 1, "schedule": SCHEDULE, "model": net.state_dict(),
        "history": [
            {"epoch": e, "loss": 1.0 / (e + 1), "agp_loss": 0.1, "psnr": 20.0 + e, "lr": 1e-3, "sparsity": 0.25 * e,
             "sparsity/0.weight": 0.5 * e, "images_per_second": 9.0} for e in (0, 1)
        ],
        "options": {"optform": "SR", "seed": 3, "amp": True, "compile": False, "run": "x", "compress": "a b.yaml"},
        "scheduler": {"recipes": [RECIPES[0], {**RECIPES[1], "reasons": {"0.weight[0]": REASON}}]},
    }  # fmt: skip
    summary = {
        **MEASURED, "quality": {"psnr": {"bicubic": 19.0, "model": 21.0}}, "params": 270, "macs": 100,
        "warnings": [{"epoch": 1, "text": "<reaches 26 %>", "count": 2}], "planned_epochs": 3,
        "details": {
            "classes": [{"class": "<cat>", "accuracy": 97.22222}, {"class": "dog", "accuracy": None}],
            "exits": [{"threshold": 0.5, "left": [0.25, 0.75]}],
            "remark": "no table",
        },
        "commands": {"train": "python train.py '--run=<run>'", "test": "python test.py"},
    }  # fmt: skip
    return write_report(folder, checkpoint, summary, macs_table(net, EXAMPLE)), folder
