"""A drawn roofline shows every large layer."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from compress.analysis.macs.layers import MacsTable
from compress.analysis.macs.roofline import Machine, draw_roofline


def test_every_large_layer_stands_at_the_roof(tmp_path: Path, drawn: list[Figure]) -> None:
    """Also those of the same intensity, whose names would lie upon each other."""
    names = [f"layer{i}" for i in range(9)]
    shares = [1 / 9] * 9
    layers = pd.DataFrame({
        "layer": names, "operation": "conv2d", "kind": "Conv2d", "intensity": [4.0, 4.0, 4.01] * 3, "share": shares,
    })  # fmt: skip
    draw_roofline(MacsTable(layers, {}, ()), Machine("cpu", 1, 1e10, 1e9), tmp_path / "roof.png")
    said = "\n".join(text.get_text() for text in drawn[0].axes[0].texts)
    assert all(f"{name}, 11.1 %" in said for name in names)
