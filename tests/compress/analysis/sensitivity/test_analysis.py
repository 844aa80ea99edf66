"""Sensitivity analysis: the changes, the suggestion, the record, the files, the whole."""

import copy
import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.ao.quantization import PerChannelMinMaxObserver

from compress.analysis.sensitivity import analysis as analysis_module
from compress.analysis.sensitivity import record as record_module
from compress.analysis.sensitivity.analysis import Settings, sensitivity_analysis
from compress.analysis.sensitivity.changes import find_subjects, quantize_symmetric
from compress.analysis.sensitivity.evaluation import Evaluation, as_metrics, directions, loss_of
from compress.analysis.sensitivity.plots import draw
from compress.analysis.sensitivity.schedule import Header, write_schedule
from compress.analysis.sensitivity.suggestion import Tolerated, chosen, suggest
from compress.analysis.sensitivity.workbook import suggestion_note
from compress.config import file_config
from compress.errors import UserError
from compress.quantization.fake_quant import WeightQuantizer
from compress.scheduler import CompressionScheduler


class Tiny(nn.Module):
    """A convolution, a depthwise one, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.head = nn.Linear(6, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.conv(x).relu()).relu()
        return self.norm(self.head(x.mean((2, 3))))


def score(target, outputs):
    """Two metrics of opposite directions; at the top of the module, so that processes can be sent it."""
    error = float((torch.cat(list(outputs)) - target).square().mean())
    return {"quality": 1 - error, "loss": error}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture
def evaluation(model: nn.Module) -> Evaluation:
    inputs = torch.randn(6, 3, 8, 8)
    with torch.no_grad():
        target = model(inputs)
    return Evaluation(inputs.split(3), partial(score, target))


LEVELS = [0.25, 0.5, 0.9]


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Images take most of the time of an analysis as small as these: only their names are noted."""
    names: list[Path] = []
    monkeypatch.setattr(analysis_module, "draw", lambda path, *_: names.append(path))
    return names


@pytest.fixture
def function(evaluation: Evaluation) -> "Counting":
    """The same as a plain function, which needs no tracing."""
    return Counting(evaluation)


UNIT = [("conv", "weight", 0), ("conv", "bias", 0), ("depthwise", "weight", 0), ("depthwise", "bias", 0)]
UNIT += [("head", "weight", 1)]
BY_GROUPS = {  # weight -> the weights that rank (with their axis), all that goes (nothing else where it is pinned)
    "filter": {
        "conv.weight": ([("conv", 0), ("depthwise", 0)], UNIT),
        "head.weight": ([("head", 0)], [("head", "weight", 0)]),  # the network's output
    },
    "channel": {
        "conv.weight": ([("conv", 1)], [("conv", "weight", 1)]),  # the network's input
        "head.weight": ([("head", 1)], UNIT),
    },
}


def by_hand(model: nn.Module, evaluation: Evaluation, kind: str) -> dict[tuple[str, float], tuple[float, float]]:
    """(zeros, quality) of every weight and level, by numpy and a copy of the network."""
    found = {}
    for level in LEVELS:
        for name in ("conv", "depthwise", "head") if kind == "element" else ():
            other = copy.deepcopy(model)
            array = other.get_submodule(name).weight.detach().numpy()  # shares its memory
            count = int(np.floor(level * array.size + 0.5))
            array[np.unravel_index(np.argsort(np.abs(array).reshape(-1), kind="stable")[:count], array.shape)] = 0
            found[f"{name}.weight", level] = float(np.mean(array == 0)), evaluation(other)["quality"]
        for name, (ranked, goes) in BY_GROUPS.get(kind, {}).items():
            other = copy.deepcopy(model)
            arrays = [np.moveaxis(other.get_submodule(n).weight.detach().numpy(), axis, 0) for n, axis in ranked]
            norms = [np.abs(array).reshape(len(array), -1).mean(1) for array in arrays]
            mean = sum(each / each.mean() for each in norms)
            gone = np.argsort(mean, kind="stable")[: int(level * len(mean))]
            for module, parameter, axis in goes:
                np.moveaxis(getattr(other.get_submodule(module), parameter).detach().numpy(), axis, 0)[gone] = 0
            zeros = sum(int((array == 0).sum()) for array in arrays) / sum(array.size for array in arrays)
            found[name, level] = zeros, evaluation(other)["quality"]
    return found


@pytest.mark.parametrize(("kind", "way"), [("element", "function"), ("filter", "evaluation"), ("channel", "function")])
def test_the_numbers_are_those_of_pruning_by_hand(
    model: nn.Module, evaluation: Evaluation, tmp_path: Path, kind: str, way: str
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured = evaluation if way == "evaluation" else evaluation.__call__
    table = sensitivity_analysis(model, tmp_path / "sense.xlsx", measured, kind, LEVELS)
    expected = by_hand(model, evaluation, kind)
    changed = table[table["level"] > 0]
    assert {(row.weight, row.level) for row in changed.itertuples()} == set(expected)
    for row in changed.itertuples():
        assert (row.zeros, row.quality) == pytest.approx(expected[row.weight, row.level], abs=1e-6)
    dense = table[table["level"] == 0]
    assert list(dense["quality"]) == pytest.approx([1.0] * len(dense))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bits_are_a_symmetric_grid_for_each_channel() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3)
    weight[2] = 0
    for bits in (8, 4, 3):
        top = 2 ** (bits - 1) - 1
        observer = PerChannelMinMaxObserver(
            0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-top, quant_max=top
        )
        observer(weight)
        scale, zero = observer.calculate_qparams()
        scale = weight.abs().amax((1, 2, 3)) / top  # torch divides by half a step more
        expected = torch.fake_quantize_per_channel_affine(weight, scale.clamp_min(1e-9), zero.int(), 0, -top, top)
        assert torch.allclose(quantize_symmetric(weight, bits), expected, atol=1e-6)
    ternary = quantize_symmetric(weight, 2)
    peak = weight.abs().amax((1, 2, 3), keepdim=True)
    assert torch.equal(ternary, torch.where(weight.abs() > peak / 2, weight.sign() * peak, torch.zeros(())))
    error = [float((quantize_symmetric(weight, bits) - weight).abs().max()) for bits in (8, 6, 4, 3, 2)]
    assert error == sorted(error)
    swapped = quantize_symmetric(weight.transpose(0, 1), 4, axis=1)
    assert torch.equal(swapped, quantize_symmetric(weight, 4).transpose(0, 1))


def test_bits_analysis(model: nn.Module, evaluation: Evaluation, tmp_path: Path) -> None:
    table = sensitivity_analysis(model, tmp_path / "bits.xlsx", Counting(evaluation), "bits")
    own = table[table["weight"] == "conv.weight"]
    assert list(own["level"]) == [32, 8, 6, 4, 3, 2]
    with torch.no_grad():
        model.conv.weight.copy_(quantize_symmetric(model.conv.weight, 3))
    assert own["loss"].iloc[4] == pytest.approx(evaluation(model)["loss"], abs=1e-6)


def test_what_has_one_group_is_left_out_aloud(model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    names = [each.name for each in find_subjects(model, "channel")]
    assert names == ["conv.weight", "head.weight"]
    assert "'depthwise.weight' has one channel only" in caplog.text


def test_weights_are_chosen_by_selectors(model: nn.Module) -> None:
    assert [each.name for each in find_subjects(model, "element", ["*wise.weight"])] == ["depthwise.weight"]
    with pytest.raises(UserError, match=r"'dept.weight' matches no weight; did you mean 'depthwise.weight'"):
        find_subjects(model, "element", ["dept.weight"])
    with pytest.raises(UserError, match="has no weight to analyse by element"):
        find_subjects(nn.ReLU(), "element")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sense_type": "filtr"}, "did you mean 'filter'"),
        ({"levels": [0.5, 1.0]}, r"a level is a fraction of zeros, \[0, 1\)"),
        ({"sense_type": "bits", "levels": [8, 2.5]}, "from 2 to 16"),
        ({"sensitivity_file": "sense.xls"}, "must end in .xlsx"),
        ({"settings": Settings(metric="psnr")}, "metric 'psnr' is not measured; there are: quality, loss"),
        ({"test_func": lambda model: "good"}, "test_func returned str; it must return a number"),
        ({"test_func": lambda model: {}}, "an empty dict"),
    ],
)
def test_wrong_requests_say_what_is_allowed(
    model: nn.Module, evaluation: Evaluation, tmp_path: Path, given: dict, message: str
) -> None:
    wanted = {"sensitivity_file": str(tmp_path / "sense.xlsx"), "test_func": Counting(evaluation), **given}
    with pytest.raises(UserError, match=message):
        sensitivity_analysis(model, **wanted)
    assert not list(tmp_path.iterdir())


def test_directions() -> None:
    told = directions(["psnr", "loss", "val_loss", "top1", "mse", "glossy"], {"top1": False})
    assert told == {"psnr": True, "loss": False, "val_loss": False, "top1": False, "mse": False, "glossy": True}
    assert loss_of(30.0, 33.0, True) == 3.0
    assert loss_of(0.3, 0.1, False) == pytest.approx(0.2)
    assert loss_of(float("nan"), 0.1, False) == float("inf")
    assert loss_of(float("inf"), float("inf"), True) == 0.0
    assert as_metrics(torch.tensor(0.5)) == {"quality": 0.5}


def test_the_hardest_level_before_the_first_that_is_not_tolerated() -> None:
    rows = [("a", 0.0, 0.0, 10.0), ("a", 0.3, 0.3, 9.95), ("a", 0.5, 0.5, 9.8), ("a", 0.7, 0.7, 9.99)]
    rows += [("b", 0.0, 0.0, 10.0), ("b", 0.3, 0.0, 10.0), ("b", 0.5, 0.5, 3.0), ("b", 0.7, 0.7, float("nan"))]
    table = pd.DataFrame(rows, columns=["weight", "level", "zeros", "psnr"])
    found = suggest(table, Tolerated("psnr", 0.1, 10.0, True), "element")
    assert dict(zip(found["weight"], found["level"], strict=True)) == {"a": 0.3, "b": 0.0}  # b's 0.3 prunes nothing
    assert chosen(found, "element") == {"a": 0.3}
    assert chosen(suggest(table, Tolerated("psnr", 0.2, 10.0, True), "element"), "element") == {"a": 0.7}
    renamed = suggest(table.rename(columns={"psnr": "loss"}), Tolerated("loss", 0.1, 10.0, True), "element")
    assert list(renamed["loss"]) == [9.95, 10.0]
    assert list(renamed["worse by"]) == pytest.approx([0.05, 0.0])


def test_the_workbook_has_values_native_charts_and_a_suggestion(
    model: nn.Module, function: "Counting", tmp_path: Path, drawn: list[Path]
) -> None:
    path = tmp_path / "out" / "sense.xlsx"
    table = sensitivity_analysis(model, path, function, "element", LEVELS, Settings(tolerance=0.2))
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["values", "quality", "loss", "charts", "suggestion"]
    read = pd.read_excel(path, sheet_name="values")
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    wide = pd.read_excel(path, sheet_name="loss").set_index("level")
    for row in table.itertuples():
        assert wide.loc[row.level, row.weight] == pytest.approx(row.loss)
    charts = book["charts"]._charts
    assert [type(chart).__name__ for chart in charts] == ["LineChart", "LineChart"]
    assert [len(chart.series) for chart in charts] == [3, 3]
    assert "'loss'!" in charts[1].series[0].val.numRef.f
    suggestion = pd.read_excel(path, sheet_name="suggestion", header=2)
    assert list(suggestion["weight"]) == ["conv.weight", "depthwise.weight", "head.weight"]
    assert (suggestion["worse by"] <= 0.2).all()
    assert (suggestion["level"] > 0).any()
    assert drawn == [path.with_suffix(".png")]
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["complete"]
    pd.testing.assert_frame_equal(pd.DataFrame(record["suggestion"]), suggestion, check_dtype=False)


def test_all_suggested_levels_at_once_are_measured(model: nn.Module, evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "sense.xlsx"
    sensitivity_analysis(model, path, Counting(evaluation), "element", LEVELS, Settings(tolerance=0.2))
    record = json.loads(path.with_suffix(".json").read_text())
    for row in record["suggestion"]:
        weight = model.get_parameter(row["weight"]).data
        weight.view(-1)[weight.abs().view(-1).argsort(stable=True)[: round(row["level"] * weight.numel())]] = 0
    assert record["together"] == pytest.approx(evaluation(model), abs=1e-6)


@pytest.mark.parametrize(("kind", "pruned"), [("element", "conv.weight"), ("filter", "conv.weight")])
def test_the_schedule_loads_and_prunes_what_was_suggested(
    model: nn.Module, evaluation: Evaluation, tmp_path: Path, kind: str, pruned: str
) -> None:
    path = tmp_path / "suggested.yaml"
    settings = Settings(tolerance=0.5, schedule_file=path, weights=[pruned])
    sensitivity_analysis(model, tmp_path / "sense.xlsx", Counting(evaluation), kind, LEVELS, settings)
    suggestion = json.loads((tmp_path / "sense.json").read_text())["suggestion"][0]
    assert suggestion["zeros"] > 0
    head = path.read_text().split("\nversion: 1")[0]  # neither the command nor the data is known
    assert f"#   file_config(model, optimizer, {str(path)!r}, example_inputs) in a training loop\n" in head
    assert "Measured on the data of the given function" in head
    assert "train.py" not in head
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = file_config(model, optimizer, str(path), example_inputs=torch.zeros(1, 3, 8, 8), strict=True)
    assert isinstance(scheduler, CompressionScheduler)
    scheduler.on_epoch_begin(10, optimizer)
    scheduler.on_minibatch_begin(10, 0, 1, optimizer)
    weight = model.get_parameter(pruned)
    assert float((weight == 0).float().mean()) == pytest.approx(suggestion["zeros"])


def test_the_schedule_of_bits_quantizes_each_layer_as_suggested(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "suggested.yaml"
    levels = {"conv.weight": 3.0, "depthwise.weight": 32.0, "head.weight": 12.0}
    suggestion = pd.DataFrame({"weight": list(levels), "level": list(levels.values())})
    header = Header("python train.py --optform=Classify", "validation", "a note")
    write_schedule(path, suggestion, Tolerated("quality", 0.5, 1.0, True), "bits", header)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = file_config(model, optimizer, str(path), example_inputs=torch.zeros(1, 3, 8, 8), strict=True)
    scheduler.on_epoch_begin(9, optimizer)
    assert not any(isinstance(module, WeightQuantizer) for module in model.modules())
    scheduler.on_epoch_begin(10, optimizer)
    bits = {name: module.bits for name, module in model.named_modules() if isinstance(module, WeightQuantizer)}
    assert {name.split(".")[0]: each for name, each in bits.items()} == {"conv": 3, "head": 16}


@pytest.mark.parametrize("kind", ["element", "bits"])
def test_the_image(tmp_path: Path, kind: str) -> None:
    levels = [32.0, 8.0, 2.0] if kind == "bits" else [0.0, 0.5, 0.9]
    rows = [(f"layer{i}.weight", level, 0.5, 9.0 - i * j) for i in range(3) for j, level in enumerate(levels)]
    table = pd.DataFrame(rows, columns=["weight", "level", "zeros", "psnr"])
    draw(tmp_path / "a.png", table, Tolerated("psnr", 1.0, 9.0, True), kind)
    image = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert image.shape[1] > 1000
    assert image.std() > 5  # something is on it


def test_no_schedule_when_nothing_is_tolerated(model: nn.Module, evaluation: Evaluation, tmp_path: Path) -> None:
    settings = Settings(tolerance=0.0, schedule_file=tmp_path / "s.yaml")
    with pytest.raises(UserError, match="no weight can be pruned with quality at most 0 worse"):
        sensitivity_analysis(model, tmp_path / "sense.xlsx", Counting(evaluation), "element", [0.9], settings)
    assert (tmp_path / "sense.xlsx").exists()


def test_early_stop_only_when_asked(model: nn.Module, evaluation: Evaluation, tmp_path: Path) -> None:
    def rows(settings: Settings | None) -> int:
        return len(sensitivity_analysis(model, tmp_path / "s.xlsx", Counting(evaluation), "element", LEVELS, settings))

    assert rows(None) == 3 * 4
    assert rows(Settings(stop_at_loss=0.0)) == 3 * 2  # the first level of each already loses something


class Stopped(Exception):
    """What ends an analysis in the middle."""


class Counting:
    """A plain test function that counts its calls, and may end them."""

    def __init__(self, evaluation: Evaluation, most: int = 10**6) -> None:
        self.evaluation, self.calls, self.most = evaluation, 0, most

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.calls += 1
        if self.calls > self.most:
            raise Stopped
        return self.evaluation(model)


def stopped_analysis(model: nn.Module, evaluation: Evaluation, path: Path) -> None:
    with pytest.raises(Stopped):
        sensitivity_analysis(model, path, Counting(evaluation, most=5), "element", LEVELS)


def test_a_stopped_analysis_goes_on(
    model: nn.Module, evaluation: Evaluation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, before = tmp_path / "sense.xlsx", {n: v.clone() for n, v in model.state_dict().items()}
    stopped_analysis(model, evaluation, path)  # the dense level and four of nine
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    counting = Counting(evaluation)
    resumed = sensitivity_analysis(model, path, counting, "element", LEVELS)
    assert counting.calls == 1 + 5 + 1  # dense, the five that were left, all suggestions at once
    assert "4 levels are measured already" in caplog.text
    whole = sensitivity_analysis(model, tmp_path / "other.xlsx", Counting(evaluation), "element", LEVELS)
    pd.testing.assert_frame_equal(resumed, whole)
    again = Counting(evaluation)
    sensitivity_analysis(model, path, again, "element", LEVELS)
    assert again.calls == 11  # a finished one is done anew


@pytest.mark.parametrize("what", ["weights", "kind", "data"])
def test_a_record_of_something_else_is_not_gone_on_with(
    model: nn.Module, evaluation: Evaluation, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    path, kind = tmp_path / "sense.xlsx", "element"
    stopped_analysis(model, evaluation, path)
    if what == "weights":
        model.norm.bias.data[0] += 1e-3
    elif what == "kind":
        kind = "filter"
    else:
        evaluation = Evaluation([each + 1 for each in evaluation.inputs], evaluation.measure)
    table = sensitivity_analysis(model, path, Counting(evaluation), kind, LEVELS)
    assert "the analysis starts anew" in caplog.text
    fresh = sensitivity_analysis(model, tmp_path / "other.xlsx", Counting(evaluation), kind, LEVELS)
    pd.testing.assert_frame_equal(table, fresh)


@pytest.mark.parametrize("text", ["{", '{"kind": "notes"}', "[]"])
def test_a_file_that_is_no_record_is_not_overwritten(
    model: nn.Module, evaluation: Evaluation, tmp_path: Path, text: str
) -> None:
    (tmp_path / "sense.json").write_text(text)
    with pytest.raises(UserError, match="move it away"):
        sensitivity_analysis(model, tmp_path / "sense.xlsx", Counting(evaluation), "element", LEVELS)
    assert (tmp_path / "sense.json").read_text() == text


def test_numbers_that_are_not_finite_survive_the_record(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "SECONDS", 0.0)
    values = iter([float("inf"), 5.0, float("nan"), 4.0, 3.0])

    def test_func(model: nn.Module) -> dict[str, float]:
        value = next(values, None)
        if value is None:
            raise Stopped
        return {"psnr": value}

    settings = Settings(weights=["conv.weight", "head.weight"], tolerance=1.0)
    with pytest.raises(Stopped):
        sensitivity_analysis(model, tmp_path / "s.xlsx", test_func, "element", LEVELS, settings)
    values = iter([float("inf"), 2.0, 1.0])
    table = sensitivity_analysis(model, tmp_path / "s.xlsx", test_func, "element", LEVELS[:2], settings)
    assert table["psnr"].fillna(-1).tolist() == [float("inf"), 5.0, -1, float("inf"), 3.0, 2.0]


@pytest.mark.parametrize("way", ["function", pytest.param("evaluation", marks=pytest.mark.slow)])
def test_processes_measure_the_same(model: nn.Module, evaluation: Evaluation, tmp_path: Path, way: str) -> None:
    measured = evaluation if way == "evaluation" else Counting(evaluation)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    alone = sensitivity_analysis(model, tmp_path / "a.xlsx", measured, "element", LEVELS)
    shared = sensitivity_analysis(model, tmp_path / "b.xlsx", measured, "element", LEVELS, Settings(jobs=2))
    pd.testing.assert_frame_equal(alone, shared, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_sent_to_processes_is_refused(model: nn.Module, evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"failed with test_func: .*at the top of a module \(no lambda"):
        sensitivity_analysis(
            model, tmp_path / "a.xlsx", lambda model: evaluation(model), "element", LEVELS, Settings(jobs=2)
        )
    last = [name for name, _ in model.named_modules()][-1]
    model.get_submodule(last).hand_made = lambda: None
    with pytest.raises(UserError, match=rf"failed with module '{last}' \("):
        sensitivity_analysis(model, tmp_path / "b.xlsx", evaluation, "element", LEVELS, Settings(jobs=2))


@pytest.mark.parametrize("folder", ["", "results/run", "../elsewhere"])
def test_a_written_schedule_names_the_schema_from_its_own_folder(tmp_path, folder):
    path = tmp_path / "here" / folder / "suggested.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    suggestion = pd.DataFrame({"weight": ["0.weight"], "level": [0.5]})
    header = Header("python train.py", "validation", "a note")
    write_schedule(path, suggestion, Tolerated("quality", 0.5, 1.0, True), "element", header)
    place = path.read_text().splitlines()[0].partition("$schema=")[2]
    assert (path.parent / place).resolve().name == "schedule.schema.json"
    assert (path.parent / place).is_file()


@pytest.mark.parametrize(("value", "words"), [(19.0, "(0.5 worse)"), (20.0, "(0.5 better)"), (19.5, "(0 worse)")])
def test_better_is_not_called_worse(value, words):
    assert words in suggestion_note(Tolerated("psnr", 0.1, 19.5, True), {"psnr": value})


class Writing(nn.Module):
    """Writes a buffer in place, assigns another one, and scales a weight, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu()
        self.mean.add_(y.detach().mean(0))
        self.calls = self.calls + 1
        self.last.weight.data.mul_(0.9)
        return self.last(y + self.mean) + self.calls


def squares(outputs):
    return {"mse": float(torch.cat(list(outputs)).square().mean())}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("sense_type", ["element", "filter"])
def test_what_forward_writes_in_eval_mode_is_put_back_before_each_level(tmp_path, plain, sense_type) -> None:
    model, batches = Writing().eval(), [torch.randn(4, 5), torch.randn(4, 5)]
    state = copy.deepcopy(model.state_dict())
    levels = [0.25, 0.5]

    @torch.no_grad()
    def function(network):
        return squares([network(each) for each in batches])

    test_func = function if plain else Evaluation(batches, squares)
    table = sensitivity_analysis(model, tmp_path / "s.xlsx", test_func, sense_type, levels)
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    dense = function(copy.deepcopy(model))["mse"]
    assert table["mse"][table["level"] == 0].tolist() == pytest.approx([dense] * (table["level"] == 0).sum())
    for row in table[(table["level"] > 0) & (table["weight"] == "first.weight")].itertuples():
        fresh = copy.deepcopy(model)
        subject = next(each for each in find_subjects(fresh, "element") if each.name == "first.weight")
        with torch.no_grad():
            fresh.first.weight.copy_(subject.values(row.level)["first.weight"])
        assert sense_type == "filter" or row.mse == pytest.approx(function(fresh)["mse"])


@torch.no_grad()
def _without_gradients(image, network):
    return float(network(image).double().abs().sum())


@pytest.mark.parametrize("fast", [False, True])
def test_a_surrounding_autocast_sees_changed_weights(tmp_path, fast):
    torch.manual_seed(0)
    model, image = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(4, 8)
    plain = partial(_without_gradients, image)  # autocast keeps nothing in inference mode

    def inside(network):
        with torch.autocast("cpu", torch.bfloat16):
            return plain(network)

    measured = Evaluation([image], lambda outputs: float(sum(each.double().abs().sum() for each in outputs)))
    expected = sensitivity_analysis(model, tmp_path / "a.xlsx", inside, levels=[0.5, 0.9])
    with torch.autocast("cpu", torch.bfloat16):
        given = sensitivity_analysis(model, tmp_path / "b.xlsx", measured if fast else plain, levels=[0.5, 0.9])
    assert expected["quality"].nunique() > 3
    assert given["quality"].tolist() == expected["quality"].tolist()
