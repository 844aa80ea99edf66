"""The goals on the page: a row each, what was measured on what, and what could not be."""

from pathlib import Path
from typing import Any

from apputils.report.sections.run.goals import Goals
from compress.goals.goal import Goal
from compress.goals.judge import Value, judge

RECORD: dict[str, Any] = {
    "verdict": "missed",
    "rows": [judge(Goal("latency", at_most=0.5), Value(0.55, 0.01, 0.5, 0.6, "15 rounds")),
             judge(Goal("psnr", drop_at_most=0.1), "no dense network")],
    "file": "results/a/network.onnx", "dense": None, "measured_on": {"data": "images", "part": "test", "images": 4},
}  # fmt: skip


def test_a_row_a_goal_and_the_notes() -> None:
    content = {"goals": RECORD}
    [table] = Goals().tables(content)
    assert [col.cell(table.rows[0])[1] for col in table.columns or ()] == [
        "latency in onnxruntime at most 0.5", "0.55 [0.5, 0.6]", "0.5", "-0.05", "± 0.01", "missed",
    ]  # fmt: skip
    texts = [block.text for block in Goals().blocks(content, Path())[1:]]  # type: ignore[attr-defined]
    assert texts[0].startswith("Measured on results/a/network.onnx, quality on 4 images")
    assert texts[1:] == ["latency in onnxruntime at most 0.5: 15 rounds", "psnr drop at most 0.1: no dense network"]
    assert Goals().tiles(content)[0].figure == "missed"


def test_a_run_without_goals_and_one_that_could_not_be_exported() -> None:
    assert list(Goals().blocks({"goals": None}, Path())) == [Goals.missing]
    assert Goals().tables({"goals": None}) == [] == Goals().tiles({"goals": None})
    lost = {**RECORD, "rows": [], "file": None, "error": "x is not exported"}
    assert "x is not exported" in str(Goals().blocks({"goals": lost}, Path()))
