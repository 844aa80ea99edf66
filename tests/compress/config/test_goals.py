"""The section `goals`: every fault with its place; a file of goals alone; what the resolved schedule keeps."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from torch import nn

from compress.config.build import build_text, dict_config
from compress.config.describe import schedule_schema
from compress.config.goals import goals_of, load_goals
from compress.errors import ScheduleError, UserError
from compress.export.runtimes.openvino import Openvino
from tests.compress.config.test_build import GOOD

GOALS = """\
goals:
  - {metric: latency, at_most: 0.5}
  - {metric: psnr, drop_at_most: 0.1}
  - {metric: file_bytes, at_most: 60_000}
"""


def build(net: nn.Module, text: str, **settings: Any) -> Any:
    return build_text(text, "s.yaml", net, torch.optim.SGD(net.parameters(), 0.1), **settings)


def test_goals_are_kept_and_load_again(net: nn.Module) -> None:
    resolved = build(net, GOOD + GOALS, metrics=["psnr"]).resolved
    assert [str(goal) for goal in goals_of(resolved)] == [
        "latency in onnxruntime at most 0.5", "psnr drop at most 0.1", "file_bytes at most 60,000",
    ]  # fmt: skip
    again = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), resolved).resolved
    assert again["goals"] == resolved["goals"]


CASES = [
    ("latency", "latncy", r"s.yaml:14:6: goals\[0\].metric: unknown metric 'latncy'; did you mean 'latency'"),
    ("psnr", "pnsr", r"15:6: goals\[1\].metric: unknown metric 'pnsr'; did you mean 'psnr'"),
    ("drop_at_most", "drop_atmost", r"15:20: goals\[1\].drop_atmost: Goal has no argument 'drop_atmost'; did you mean"),
    ("60_000", "0.5", r"16:26: goals\[2\].at_most: given 0.5; file_bytes counts bytes of the exported file: a num"),
    ("metric: file_bytes, at_most", "metric: macs, at_least", r"goals\[2\].at_least: macs is a cost, which has an"),
    ("{metric: psnr, drop_at_most: 0.1}", "3", r"15:5: goals\[1\]: given 3; a goal is a mapping"),
    (", drop_at_most: 0.1", "", "the goal has no bound; give one of at_most, at_least, drop_at_most"),
    ("drop_at_most: 0.1", "at_least: 3, at_most: 4", "the goal has at_most and at_least; give one of"),
    ("at_most: 0.5", "at_most: 0.5, runtime: onnxrt", "unknown runtime 'onnxrt'; did you mean 'onnxruntime'"),
    ("60_000", "60_000, runtime: onnxruntime", "file_bytes does not depend on a runtime; only latency and"),
    ("at_most: 0.5", "at_most: '50%'", "given '50%'; at_most should be a number .50% is written 0.5"),
    ("at_most: 0.5", "at_most: 0", "given 0; a fraction of the dense float file's time is more than 0"),
    ("0.1", ".nan", "given nan; drop_at_most should be a number, >= 0"),
    ("0.1", "-0.1", "given -0.1; drop_at_most should be a number, >= 0"),
    ("goals:", "gaols:", "13:1: gaols: unknown section 'gaols'; did you mean 'goals'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), CASES, ids=[each[1] or "no bound" for each in CASES])
def test_each_fault_has_its_place(net: nn.Module, old: str, new: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        build(net, GOOD + GOALS.replace(old, new, 1))


def test_a_metric_that_the_application_does_not_measure(net: nn.Module) -> None:
    with pytest.raises(ScheduleError, match="unknown metric 'psnr'; there are: latency, .*top1"):
        build(net, GOOD + GOALS, metrics=["top1"])
    build(net, GOOD + GOALS.replace("psnr", "word_errors"))  # the library knows no application


def test_goals_that_contradict_each_other(net: nn.Module) -> None:
    text = GOOD + "goals:\n  - {metric: psnr, at_least: 34}\n  - {metric: psnr, at_most: 33}\n"
    with pytest.raises(ScheduleError, match="psnr at least 34 contradicts psnr at most 33: no network meets both"):
        build(net, text)
    twice = GOOD + GOALS + "  - {metric: latency, at_most: 0.4}\n"
    with pytest.raises(
        ScheduleError, match=r"latency in onnxruntime at most 0.4 stands beside .* 0.5; keep the strict"
    ):
        build(net, twice)


def test_a_runtime_that_is_not_installed_is_told_before_training(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Openvino, "packages", ("no_such_package",))
    text = GOOD + GOALS.replace("at_most: 0.5", "at_most: 0.5, runtime: openvino")
    with pytest.raises(ScheduleError, match=r"goals\[0\].runtime: openvino requires no_such_package, not inst"):
        build(net, text)


def test_a_file_of_goals(tmp_path: Path) -> None:
    path = tmp_path / "goals.yaml"
    path.write_text(GOALS + "search: {bits: [8]}\n")
    goals, rest = load_goals(path, ["psnr"])
    assert len(goals) == 3
    assert rest == {"search": {"bits": [8]}}
    path.write_text("policies: []\n")
    with pytest.raises(ScheduleError, match="it holds no list `goals:`"):
        load_goals(path)
    path.write_text(GOALS.replace("latency", "latncy"))
    with pytest.raises(ScheduleError, match=r"goals.yaml:2:6: goals\[0\].metric: unknown metric"):
        load_goals(path)
    with pytest.raises(UserError, match="the goals .* cannot be read"):
        load_goals(tmp_path / "absent.yaml")


@pytest.mark.parametrize(("goal", "good"), [
    ("{metric: latency, at_most: 0.5, runtime: onnxruntime}", True),
    ("{metric: word_errors, drop_at_most: 1}", True),
    ("{metric: psnr}", False),
    ("{metric: psnr, at_most: 1, at_least: 0}", False),
    ("{metric: psnr, atmost: 1}", False),
    ("{metric: latency, at_most: 0.5, runtime: onnxrt}", False),
])  # fmt: skip
def test_editors_check_goals(goal: str, good: bool) -> None:
    data = yaml.safe_load(f"policies: []\ngoals:\n  - {goal}\n")
    assert (not list(jsonschema.Draft202012Validator(schedule_schema()).iter_errors(data))) == good
