"""Sensitivity by filter and by channel is what the structured pruner costs, and its schedule reproduces it."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from compress.analysis.sensitivity import analysis as analysis_module
from compress.analysis.sensitivity.analysis import Settings, sensitivity_analysis
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.config import dict_config, file_config
from tests.compress.thinning.blocks import Cat, conv

PIXELS = (4, 3, 6, 6)


class Residual(nn.Module):
    """A stem, a block whose last convolution is added to it, a strided head; all with BatchNorm and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a1, self.b1 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.a2, self.b2 = nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = (x + self.b2(self.a2(self.b1(self.a1(x)).relu()))).relu()
        return self.head(x.mean((2, 3)))


class Chunked(nn.Module):
    """One convolution's filters in two groups, each coupled with another convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.both(x).chunk(2, 1)
        x = torch.cat([one + self.left(x), two * self.right(x).sigmoid()], 1)
        return self.head(x.relu().mean((2, 3)))


class Recurrent(nn.Module):
    """A convolution that is added to its own input: rows and columns are in one group; called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for _ in range(2):
            x = (x + self.again(x)).relu()
        return self.head(x)


def shuffled() -> nn.Module:
    """Grouped convolutions around a channel shuffle."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8),
        nn.ReLU(), nn.ChannelShuffle(2), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8),
        nn.ReLU6(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "chunked": Chunked,
    "recurrent": Recurrent,
    "shuffle": shuffled,
    "depthwise": depthwise,
    "concat": lambda: nn.Sequential(Cat(conv(3, 4), conv(3, 6), nn.Identity()), conv(13, 5), nn.Conv2d(5, 4, 1)),
}
QUICK = ("residual", "chunked")


def score(target: Tensor, outputs: Any) -> dict[str, float]:
    """At the top of the module, so that processes can be sent it."""
    return {"loss": float((torch.cat(list(outputs)) - target).double().square().mean())}


def made(name: str) -> tuple[nn.Module, Evaluation]:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    model.eval()
    inputs = torch.randn(PIXELS)
    with torch.no_grad():
        target = model(inputs)
    return model, Evaluation(inputs.split(2), partial(score, target))


def pruned_loss(name: str, levels: dict[str, float], kind: str) -> float:
    """What the schedule's own pruner costs, on a network of its own."""
    model, evaluation = made(name)
    pruner = {
        "class": "L1RankedStructureParameterPruner",
        "reg_regims": {each: [level, kind] for each, level in levels.items()},
    }
    schedule = {"pruners": {"it": pruner}, "policies": [{"pruner": {"instance_name": "it"}, "epochs": [0]}]}
    return scheduled_loss(model, evaluation, partial(dict_config, schedule=schedule), 0)


def scheduled_loss(model: nn.Module, evaluation: Evaluation, configure: Callable[..., Any], epoch: int) -> float:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = configure(model, optimizer, example_inputs=torch.zeros(PIXELS))
    scheduler.on_epoch_begin(epoch, optimizer)
    scheduler.on_minibatch_begin(epoch, 0, 1, optimizer)
    return evaluation(model)["loss"]


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_module, "draw", lambda *_: None)


@pytest.mark.parametrize("kind", ["filter", "channel"])
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
@pytest.mark.parametrize("way", ["evaluation", pytest.param("function", marks=pytest.mark.slow)])
def test_every_row_is_what_the_pruner_costs_and_the_schedule_what_was_measured(
    tmp_path: Path, name: str, kind: str, way: str
) -> None:
    model, evaluation = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "suggested.yaml"
    settings = Settings(tolerance=0.5 * float(evaluation.inputs[0].square().mean()), schedule_file=path)
    test_func = evaluation if way == "evaluation" else evaluation.__call__
    table = sensitivity_analysis(model, tmp_path / "s.xlsx", test_func, kind, [0.25, 0.5], settings)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    record = json.loads((tmp_path / "s.json").read_text())
    group_type = {"filter": "Filters", "channel": "Channels"}[kind]
    for row in table[table["level"] > 0].itertuples():
        levels = dict.fromkeys(record["ranked"][row.weight], row.level)
        expected = pruned_loss(name, levels, group_type)
        assert row.loss == pytest.approx(expected, rel=1e-5, abs=1e-9), (row.weight, row.level)
    assert any(row["zeros"] > 0 for row in record["suggestion"])
    fresh, evaluation = made(name)
    written = scheduled_loss(fresh, evaluation, partial(file_config, filename=str(path), epochs=20, strict=True), 10)
    assert written == pytest.approx(record["together"]["loss"], abs=1e-6)


@pytest.mark.parametrize(("kind", "fixed"), [("filter", "head.weight"), ("channel", "stem.weight")])
def test_what_cannot_leave_the_network_stays_dense_in_the_suggestion(tmp_path: Path, kind: str, fixed: str) -> None:
    model, evaluation = made("residual")
    path = tmp_path / "suggested.yaml"
    settings = Settings(tolerance=1e9, schedule_file=path)
    table = sensitivity_analysis(model, tmp_path / "s.xlsx", evaluation, kind, [0.5], settings)
    assert table.set_index("weight")["zeros"][fixed].max() > 0  # it has its curve
    record = json.loads((tmp_path / "s.json").read_text())
    assert {row["weight"] for row in record["suggestion"] if row["zeros"] == 0} == {fixed}
    assert f"# {fixed}: nothing of it can leave the network" in path.read_text()


def test_a_layer_that_never_runs_stays_dense_in_the_suggestion(tmp_path: Path) -> None:
    model, evaluation = made("residual")
    model.aside = nn.Linear(8, 6)  # type: ignore[assignment]
    path = tmp_path / "suggested.yaml"
    sensitivity_analysis(
        model, tmp_path / "s.xlsx", evaluation, "filter", [0.5], Settings(tolerance=1e9, schedule_file=path)
    )
    assert "# aside.weight: nothing of it can leave the network" in path.read_text()


def test_a_residual_sum_is_one_curve_and_its_members_are_named(tmp_path: Path) -> None:
    model, evaluation = made("residual")
    table = sensitivity_analysis(model, tmp_path / "s.xlsx", evaluation, "filter", [0.5])
    members = dict(zip(table["weight"], table["members"], strict=True))
    assert members == {"stem.weight": "stem.weight, a2.weight", "a1.weight": "a1.weight", "head.weight": "head.weight"}
    book = pd.read_excel(tmp_path / "s.xlsx", sheet_name="suggestion", header=2)
    assert list(book["members"]) == list(members.values())
    wide = pd.read_excel(tmp_path / "s.xlsx", sheet_name="loss")
    assert list(wide.columns) == ["level", *members]


def test_one_named_weight_ranks_alone_and_takes_its_group_along(tmp_path: Path) -> None:
    """The case that was wrong: `a2` at 0.5 without the stem that is added to it."""
    model, evaluation = made("residual")
    settings = Settings(weights=["a2.weight"])
    table = sensitivity_analysis(model, tmp_path / "s.xlsx", evaluation, "filter", [0.5], settings)
    assert list(table["members"]) == ["a2.weight, stem.weight (no vote)"] * 2
    expected = pruned_loss("residual", {"a2.weight": 0.5}, "Filters")
    assert table["loss"].iloc[1] == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():  # what it said before: the rows of a2 alone
        norms = model.a2.weight.abs().sum((1, 2, 3))
        model.a2.weight[norms.argsort()[:4]] = 0
    assert evaluation(model)["loss"] < 0.7 * expected


@pytest.mark.slow
def test_processes_and_a_resumed_analysis_give_the_same_groups(tmp_path: Path) -> None:
    model, evaluation = made("residual")
    levels = [0.25, 0.5]
    whole = sensitivity_analysis(model, tmp_path / "a.xlsx", evaluation, "filter", levels)
    shared = sensitivity_analysis(model, tmp_path / "b.xlsx", evaluation, "filter", levels, Settings(jobs=2))
    pd.testing.assert_frame_equal(whole, shared, rtol=1e-5)
    half = json.loads((tmp_path / "a.json").read_text())
    half["complete"] = False
    half["weights"] = {"stem.weight": [{**half["weights"]["stem.weight"][0], "zeros": -1.0}]}
    (tmp_path / "c.json").write_text(json.dumps(half))
    resumed = sensitivity_analysis(model, tmp_path / "c.xlsx", evaluation, "filter", levels)
    assert resumed["zeros"].iloc[1] == -1.0  # the row that was there is taken over
    pd.testing.assert_frame_equal(resumed.drop(index=1), whole.drop(index=1))


def test_a_curve_ranked_by_other_weights_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model, evaluation = made("residual")
    part = Settings(weights=["stem.weight"])
    sensitivity_analysis(model, tmp_path / "part.xlsx", evaluation, "filter", [0.5], part)
    settings = Settings(parts=[tmp_path / "part.json"])
    whole = sensitivity_analysis(model, tmp_path / "s.xlsx", evaluation, "filter", [0.5], settings)
    fresh = sensitivity_analysis(model, tmp_path / "f.xlsx", evaluation, "filter", [0.5])
    pd.testing.assert_frame_equal(whole, fresh)
    assert "stem.weight was ranked by stem.weight only; it is measured again" in caplog.text


class Looking(nn.Module):
    """Looks at values, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) if x.sum() > -1e9 else x


def test_without_a_graph_each_weight_goes_by_itself_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, inputs = Looking(), torch.randn(PIXELS)
    evaluation = Evaluation([inputs], partial(score, model(inputs).detach()))
    table = sensitivity_analysis(model, tmp_path / "s.xlsx", evaluation, "filter", [0.5])
    assert "each weight is pruned by itself, without what is coupled to it: Looking cannot be traced" in caplog.text
    with torch.no_grad():
        model.one.weight[model.one.weight.abs().sum((1, 2, 3)).argsort()[:4]] = 0
    assert table["loss"].iloc[1] == pytest.approx(evaluation(model)["loss"], rel=1e-5)
    assert not model._forward_pre_hooks
