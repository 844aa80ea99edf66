"""A drawn plan has whole epochs at its axis."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from compress.analysis.drawing.plan import draw_plan
from compress.plan import Plan, PlanRow


@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_a_plan_has_whole_epochs_only(tmp_path: Path, drawn: list[Figure], epochs: int) -> None:
    rows = [PlanRow(epoch, ("p",), {"a": 0.5}, (0.1,), zeros={"a": 0.5}) for epoch in range(epochs)]
    draw_plan(Plan(tuple(rows)), tmp_path / "plan.png")
    ticks = drawn[0].axes[-1].get_xticks()
    assert len(ticks) > 1
    assert all(float(tick).is_integer() for tick in ticks)
