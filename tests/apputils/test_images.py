"""What images say: whole epochs at the axis of a plan, every large layer at a roof."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from compress.analysis.drawing.plan import draw_plan
from compress.analysis.macs.layers import MacsTable
from compress.analysis.macs.roofline import Machine, draw_roofline
from compress.plan import Plan, PlanRow


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    found: list[Figure] = []
    write = Figure.savefig

    def keep(figure: Figure, *given: Any, **named: Any) -> None:
        found.append(figure)
        write(figure, *given, **named)

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_a_plan_has_whole_epochs_only(tmp_path: Path, drawn: list[Figure], epochs: int) -> None:
    rows = [PlanRow(epoch, ("p",), {"a": 0.5}, (0.1,), zeros={"a": 0.5}) for epoch in range(epochs)]
    draw_plan(Plan(tuple(rows)), tmp_path / "plan.png")
    ticks = drawn[0].axes[-1].get_xticks()
    assert len(ticks) > 1
    assert all(float(tick).is_integer() for tick in ticks)


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
