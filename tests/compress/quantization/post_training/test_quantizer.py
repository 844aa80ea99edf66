"""`PostTrainLinearQuantizer` as a whole: settings, statistics, files of settings, the ladder, bits under a budget."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from compress.config import dict_config
from compress.config.post_training import load_post_training
from compress.errors import ScheduleError, UserError
from compress.quantization.convert import apply
from compress.quantization.post_training.ladder import climb_ladder, rungs
from compress.quantization.post_training.mixed_precision import MixedPrecision, choose
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer as Ptq
from tests.compress.harness import one_policy, tiny_net

BATCHES = list(torch.randn(3, 8, 3, 6, 6, generator=torch.Generator().manual_seed(7)))


def net() -> nn.Module:
    return tiny_net().eval()


def noise(network: nn.Module, other: nn.Module) -> float:
    """Relative square error of the outputs."""
    with torch.no_grad():
        y = other(BATCHES[0])
        return float((network(BATCHES[0]) - y).square().mean() / y.square().mean())


def test_eight_bits_are_close_and_the_float_network_stays() -> None:
    model = net()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    quantizer = Ptq()
    quantized = quantizer.quantize(model, BATCHES)
    assert quantizer.bits_table() == {"conv1": "W8 A8", "relu1": "A8", "conv2": "W8", "relu2": "A8", "fc": "W8"}
    assert 0 < noise(quantized, model) < 1e-3
    assert not quantized.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert type(model.get_submodule("conv1")) is nn.Conv2d


def test_fewer_bits_cost_more_and_per_channel_costs_less() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0] *= 20
    error = {(bits, per): noise(Ptq(bits_parameters=bits, per_channel_wts=per).quantize(model, BATCHES), model)
             for bits in (8, 4, 3) for per in (False, True)}  # fmt: skip
    assert error[8, True] < error[4, True] < error[3, True]
    assert error[4, True] < error[4, False]


def test_the_grid_is_that_of_the_statistics() -> None:
    quantizer = Ptq(mode={"activations": "ASYMMETRIC_UNSIGNED", "weights": "SYMMETRIC_RESTRICTED"}, bits_parameters=4)
    model = net()
    quantized: Any = quantizer.quantize(model, BATCHES)
    x = torch.cat(BATCHES)
    grid = quantized.conv1.input_quantizer.grid()
    assert (grid.low, grid.high) == (0, 255)
    assert float(grid.scale) == pytest.approx(float(x.max() - x.min()) / 255, rel=1e-5)
    assert grid.clip_range() == pytest.approx((float(x.min()), float(x.max())), abs=float(grid.scale))
    weights = quantized.fc.weight_quantizer.grid()
    assert (weights.low, weights.high) == (-7, 7)
    assert float(weights.scale) == pytest.approx(float(model.get_parameter("fc.weight").detach().abs().max()) / 7)


def test_symmetric_is_unsigned_where_nothing_is_negative() -> None:
    quantizer = Ptq()
    quantized: Any = quantizer.quantize(net(), [batch.abs() for batch in BATCHES])
    grid = quantized.conv1.input_quantizer.grid()
    assert (grid.low, grid.high, int(grid.zero_point)) == (0, 255, 0)
    signed: Any = Ptq().quantize(net(), BATCHES)
    assert signed.conv1.input_quantizer.grid().low == -128


def test_a_saved_network_is_the_same_again() -> None:
    quantizer = Ptq(per_channel_wts=True, bits_parameters=4, bias_correction=True, clip_acts="MSE")
    quantized = quantizer.quantize(net(), [batch.abs() for batch in BATCHES])
    assert quantizer.structure is not None
    again = apply(net(), yaml.safe_load(yaml.safe_dump(quantizer.structure)))
    again.load_state_dict(quantized.state_dict())
    assert torch.equal(again.eval()(BATCHES[0]), quantized(BATCHES[0]))


def test_overrides_and_ends() -> None:
    quantizer = Ptq(overrides={"conv2": None, "fc": {"bits_weights": 4}, "relu1": {"clip_acts": "AVG"}},
                    first_last_bits=16)  # fmt: skip
    quantized: Any = quantizer.quantize(net(), BATCHES)
    assert quantizer.bits_table() == {"conv1": "W16 A8", "relu1": "A8", "fc": "W4", "relu2": "A8"}
    stats = quantizer.statistics["relu1.output_quantizer"]
    assert float(quantized.relu1.output_quantizer.ranges[1]) == pytest.approx(stats.avg_max)


def test_statistics_are_saved_and_used_again(tmp_path: Path) -> None:
    first = Ptq(clip_acts="KL")
    quantized = first.quantize(net(), BATCHES)
    path = tmp_path / "made" / "stats.yaml"
    first.write_statistics(path)
    data = yaml.safe_load(path.read_text())
    x = torch.cat(BATCHES)
    assert data["conv1"]["inputs"][0]["max"] == pytest.approx(float(x.max()))
    assert data["conv1"]["inputs"][0]["shape"] == "(8, 3, 6, 6)"
    assert data["relu1"]["output"]["min"] == 0
    again = Ptq(clip_acts="KL", model_activation_stats=str(path)).quantize(net(), [torch.zeros(1, 3, 6, 6)])
    assert torch.equal(again(BATCHES[0]), quantized(BATCHES[0]))


def test_a_file_of_distillers_serves_what_it_can(tmp_path: Path) -> None:
    row = {"min": -1.0, "max": 3.0, "avg_min": -0.5, "avg_max": 2.0, "mean": 0.5, "std": 1.0, "b": 0.5, "shape": "(1,)"}
    data = {"conv1": {"inputs": {0: row}, "output": row}, "relu1": {"output": row}, "relu2": {"output": row}}
    path = tmp_path / "stats.yaml"
    path.write_text(yaml.safe_dump(data))
    quantized: Any = Ptq(clip_acts="AVG", model_activation_stats=str(path)).quantize(net(), BATCHES)
    assert quantized.relu1.output_quantizer.ranges.tolist() == [0, 2, 1]
    for method, lacking in (("KL", "histogram"), ("MOVING_AVERAGE", "moving_min or moving_max")):
        with pytest.raises(UserError, match=f"has no {lacking} of conv1, which clip_acts: {method} needs"):
            Ptq(clip_acts=method, model_activation_stats=str(path)).quantize(net(), BATCHES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds no statistics"),
        ("{conv1: {inputs: {0: {min: 1}}}}", "conv1 lacks min or max"),
        ("{conv1: {inputs: {0: {min: a, max: 2}}}}", "is not a number"),
        ("{conv1: {inputs: {0: {min: 0, max: 2}}}}", "no statistics of relu1, relu2; they belong to another network"),
        (
            "{(network): {equalization: true}}",
            "of an equalized network, and this one is not",
        ),
        ("{a: [", "cannot be read"),
    ],
)
def test_wrong_statistics(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "stats.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Ptq(model_activation_stats=str(path)).quantize(net(), BATCHES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_acts": "N_STD"}, "N_STD needs clip_n_stds"),
        ({"clip_n_stds": 2.0}, "clip_n_stds has no effect with clip_acts: NONE"),
        ({"clip_acts": "KL", "also_clip_weights": True}, "KL, given for clip_acts, chooses no range of weights"),
    ],
)
def test_settings_that_contradict_each_other(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ptq(**arguments)


def test_what_cannot_be_quantized() -> None:
    with pytest.raises(UserError, match="there are no calibration data"):
        Ptq().quantize(net(), [])
    quantized = Ptq().quantize(net(), BATCHES)
    with pytest.raises(UserError, match="quantized already"):
        Ptq().quantize(quantized, BATCHES)
    with pytest.raises(UserError, match="both 32 or null"):
        Ptq(bits_parameters=32, bits_activations=32).quantize(net(), BATCHES)


# Files of settings ------------------------------------------------------------------------------------------------


def settings(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ptq.yaml"
    path.write_text(text)
    return path


def test_a_file_of_settings(tmp_path: Path) -> None:
    path = settings(
        tmp_path, "quantizers: {it: {class: PostTrainLinearQuantizer, bits_parameters: 4, overrides: {'conv*': 6}}}"
    )
    quantizer = load_post_training(net(), path, BATCHES[0])
    quantizer.quantize(net(), BATCHES)
    assert quantizer.bits_table() == {"conv1": "W6 A6", "relu1": "A8", "conv2": "W6", "relu2": "A8", "fc": "W4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policies: []", "a file of post-training settings holds"),
        ("{quantizers: {a: {class: PostTrainLinearQuantizer}}, policies: []}", "'policies' has no place here"),
        ("{quantizers: {a: {class: DorefaQuantizer, bits_weights: 4}}}", "quantizes in training"),
        ("{quantizers: {a: {class: PostTrainLinearQuantizer, clip_act: MSE}}}", "did you mean 'clip_acts'"),
        ("{quantizers: {a: {class: PostTrainLinearQuantizer, clip_acts: MAX}}}", "given 'MAX'"),
        ("{quantizers: {a: {class: PostTrainLinearQuantizer, overrides: {con1: 4}}}}", "did you mean 'conv1'"),
        ("{quantizers: {a: {class: PostTrainLinearQuantizer}, b: {class: PostTrainLinearQuantizer}}}", "2 quantizers"),
        ("{version: 2, quantizers: {a: {class: PostTrainLinearQuantizer}}}", "version 1"),
    ],
)
def test_faults_of_a_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        load_post_training(net(), settings(tmp_path, text), BATCHES[0])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_post_training(net(), tmp_path / "none.yaml", BATCHES[0])


def test_it_has_no_policy() -> None:
    model = net()
    schedule = one_policy("quantizers", {"class": "PostTrainLinearQuantizer"}, [0])
    with pytest.raises(ScheduleError, match="it has no policy.*test.py --quantize"):
        dict_config(model, torch.optim.SGD(model.parameters(), 0.1), schedule, BATCHES[0])


# The ladder -------------------------------------------------------------------------------------------------------


def test_each_rung_has_what_the_one_before_has_but_that_adaround_takes_the_place_of_gptq() -> None:
    found = rungs({"bits_parameters": 4})
    assert found[-2][1]["gptq"]
    assert found[-1][1].pop("gptq") is False
    before = dict(found[-2][1])
    assert before.pop("gptq")
    assert before.items() < found[-1][1].items()
    for (_, lower), (_, upper) in itertools.pairwise(found[:-1]):
        assert lower.items() < upper.items()
    assert found[0][1] == {"bits_parameters": 4}
    assert found[-1][1]["adaround"]


@pytest.mark.parametrize(
    ("drops", "max_drop", "chosen", "within"),
    [
        ([0.05], 0.1, 0, True),
        ([0.3, 0.2, 0.1], 0.1, 2, True),
        ([0.4, 0.2, 0.3, math.nan, 0.5, 0.6, 0.7], 0.1, 1, False),
    ],
)
def test_the_first_rung_within_is_taken(drops: list[float], max_drop: float, chosen: int, within: bool) -> None:
    told = iter(drops)
    ladder = climb_ladder(net(), BATCHES, lambda network: next(told), max_drop, {"adaround_steps": 2})
    assert [rung.drop for rung in ladder.tried] == [math.inf if math.isnan(drop) else drop for drop in drops]
    assert ladder.chosen is ladder.tried[chosen]
    assert ladder.within is within
    assert ladder.quantizer is not None
    assert ladder.quantizer.per_channel is (chosen > 0)


def test_higher_rungs_are_better_on_a_network_that_is_hard() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0] *= 30
    ladder = climb_ladder(
        model, BATCHES, lambda network: noise(network, model), 0.0, {"bits_parameters": 4, "adaround_steps": 50}
    )
    assert not ladder.within
    assert len(ladder.tried) == 7
    assert ladder.tried[1].drop < ladder.tried[0].drop


# Bits under a budget ----------------------------------------------------------------------------------------------


def test_the_choice_is_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(5):
        costs = draw.integers(1, 50, (5, 3)).tolist()
        losses = draw.random((5, 3)).tolist()
        budget = 0.5 * (sum(map(max, costs)) + sum(map(min, costs)))
        fitting = [
            pick
            for pick in itertools.product(range(3), repeat=5)
            if sum(row[i] for row, i in zip(costs, pick, strict=True)) <= budget
        ]
        best = min(sum(row[i] for row, i in zip(losses, pick, strict=True)) for pick in fitting)
        found = choose(costs, losses, budget)
        assert found is not None
        assert tuple(found) in fitting
        assert sum(row[i] for row, i in zip(losses, found, strict=True)) == pytest.approx(best)
    assert choose([[2.0, 1.0]], [[0.0, 1.0]], 0.5) is None
    assert choose([[8.0, 4.0]] * 3, [[0.0, 1.0]] * 3, 24.0) == [0, 0, 0]  # just fits


def test_bits_follow_sensitivity_within_the_budget(tmp_path: Path) -> None:
    model = net()
    batches: list[Tensor] = BATCHES[:1]
    plan = MixedPrecision(4 / 32, candidates=(8, 4, 2)).pick(model, batches)
    sizes = {name: model.get_submodule(name).get_parameter("weight").numel() for name in plan.bits}
    cost = sum(sizes[name] * bits for name, bits in plan.bits.items()) / (32 * sum(sizes.values()))
    assert plan.cost == pytest.approx(cost)
    assert cost <= 4 / 32
    uniform = sum(each[4] for each in plan.losses.values())
    assert plan.loss <= uniform
    for each in plan.losses.values():
        assert 0 < each[8] < each[4] < each[2]
    path = tmp_path / "made" / "mixed.yaml"
    plan.write(path)
    quantizer = load_post_training(model, path, BATCHES[0])
    quantized: Any = quantizer.quantize(model, batches)
    assert {name: quantized.get_submodule(name).weight_quantizer.bits for name in plan.bits} == plan.bits


def test_the_loss_of_a_layer_is_that_of_rounding_it_alone() -> None:
    model = net()
    plan = MixedPrecision(0.25, candidates=(8, 3), settings={"clip_acts": "NONE"}).pick(model, BATCHES[:1])
    alone = Ptq(bits_activations=32, bits_parameters=32, overrides={"fc": {"bits_weights": 3}}).quantize(
        model, BATCHES[:1]
    )
    assert plan.losses["fc"][3] == pytest.approx(noise(alone, model), rel=1e-3)


def test_a_budget_of_operations() -> None:
    plan = MixedPrecision(0.2 * 8 / 32, "bitops", candidates=(8, 4)).pick(net(), BATCHES[:1])
    macs = {"conv1": 8 * 36 * 27, "conv2": 4 * 36 * 72, "fc": 5 * 144}
    cost = sum(macs[name] * bits * 8 for name, bits in plan.bits.items()) / (32 * 32 * sum(macs.values()))
    assert plan.cost == pytest.approx(cost)
    assert cost <= 0.05


def test_budgets_that_cannot_be() -> None:
    with pytest.raises(UserError, match="size budget of 0.05 is less than 2 bits everywhere cost"):
        MixedPrecision(0.05).pick(net(), BATCHES[:1])
    with pytest.raises(ValueError, match="a share of the float network's size"):
        MixedPrecision(1.5)
    with pytest.raises(ValueError, match="bits of weights are 2 to 8 or 16"):
        MixedPrecision(0.5, candidates=(8, 1))


class NormWithActivation(nn.BatchNorm2d):
    """A BatchNorm of a class of its own that has its activation inside, as libraries of networks write them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises, then activates."""
        plain = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        return self.act(plain)  # type: ignore[no-any-return]


def test_a_norm_of_a_class_of_its_own_is_folded_after_training_and_biases_are_corrected() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), NormWithActivation(8), nn.Conv2d(8, 4, 3, bias=False), NormWithActivation(4)
    ).eval()
    for norm in (model[1], model[3]):
        norm.running_var.uniform_(0.01, 4.0)
        norm.running_mean.normal_()
        norm.weight.data.uniform_(0.05, 3.0)
    x = torch.randn(8, 3, 9, 9)
    quantizer = Ptq(per_channel_wts=True, bias_correction=True)
    quantized = quantizer.quantize(model, [x])
    assert not any("no bias to correct" in note for note in quantizer.notes)
    scale = model[1].weight / torch.sqrt(model[1].running_var + model[1].eps)
    folded = model[0].weight * scale[:, None, None, None]
    step = folded.abs().flatten(1).amax(1) / 127.5
    assert torch.all((quantized[0].weight - folded).abs().flatten(1).amax(1) <= step)  # type: ignore[index, operator, union-attr]
    with torch.no_grad():
        difference = (quantized(x) - model(x)).norm() / model(x).norm()
    assert float(difference) < 0.02
    assert isinstance(quantized[1], NormWithActivation)  # type: ignore[index]
    assert not [name for name in quantizer.left_float if name in ("1", "3")], "their numbers are in the layers' weights"
