"""Rows, columns, kernels and blocks go alone: nothing is masked along, and no thinner takes what they clear."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.config import dict_config

PIXELS = {1: (8,), 2: (6, 6), 3: (4, 4, 4)}
INPUTS = torch.randn(2, 3, 6, 6)


def conv_net(dim: int = 2, transposed: bool = False) -> nn.Sequential:
    """Convolution, depthwise and pointwise convolution, each with BatchNorm; pool, two linear layers."""
    torch.manual_seed(0)
    kind = f"ConvTranspose{dim}d" if transposed else f"Conv{dim}d"
    conv, norm = getattr(nn, kind), getattr(nn, f"BatchNorm{dim}d")
    layers = {
        "stem": conv(3, 8, 3, padding=1), "bn1": norm(8), "relu1": nn.ReLU(),
        "deep": conv(8, 8, 3, padding=1, groups=8), "bn2": norm(8), "relu2": nn.ReLU(),
        "point": conv(8, 8, 1), "bn3": norm(8), "relu3": nn.ReLU(),
        "pool": getattr(nn, f"AdaptiveAvgPool{dim}d")(1), "flat": nn.Flatten(),
        "fc1": nn.Linear(8, 8), "relu4": nn.ReLU(), "fc2": nn.Linear(8, 5),
    }  # fmt: skip
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def begun(net: nn.Module, section: str, instance: dict[str, Any], dim: int = 2, steps: int = 1, **args: Any) -> Any:
    """One epoch's beginning, or all of its steps, under one instance and a thinner after it."""
    key = section.removesuffix("s")
    schedule = {
        section: {"it": instance},
        "extensions": {"thinner": {"class": "FilterRemover"}},
        "policies": [
            {key: {"instance_name": "it", "args": args}, "epochs": [0]},
            {"extension": {"instance_name": "thinner"}, "epochs": [0]},
        ],
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    inputs = torch.randn(2, 3, *PIXELS[dim])
    scheduler = dict_config(net, optimizer, schedule, example_inputs=inputs)
    scheduler.on_epoch_begin(0, optimizer)
    for step in range(steps):
        scheduler.on_minibatch_begin(0, step, steps, optimizer)
        scheduler.before_backward_pass(0, step, steps, net(inputs).square().mean(), optimizer).backward()
        scheduler.before_parameter_optimization(0, step, steps, optimizer)
        optimizer.step()
        scheduler.on_minibatch_end(0, step, steps, optimizer)
    scheduler.on_epoch_end(0, optimizer)
    return scheduler


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in net.named_parameters()}


def zeros(weight: Tensor) -> int:
    return int((weight.detach() == 0).sum())


RANKED = "L1RankedStructureParameterPruner"
CASES = [
    ("fc1.weight", {"class": RANKED, "group_type": "Rows"}, 32),
    ("fc1.weight", {"class": RANKED, "group_type": "Cols"}, 32),
    ("fc2.weight", {"class": RANKED, "group_type": "Cols"}, 16),
    ("fc1.weight", {"class": "L2RankedStructureParameterPruner", "group_type": "Rows"}, 32),
    ("fc1.weight", {"class": RANKED, "group_type": "Blocks", "block_shape": [8, 1]}, 32),
    ("deep.weight", {"class": RANKED, "group_type": "2D"}, 36),
    ("point.weight", {"class": RANKED, "group_type": "Rows"}, 32),
    ("point.weight", {"class": RANKED, "group_type": "Cols"}, 32),
    ("stem.weight", {"class": RANKED, "group_type": "Cols"}, 108),
    ("stem.weight", {"class": RANKED, "group_type": "Blocks", "block_shape": [1, 3, 3, 3]}, 108),
]


@pytest.mark.parametrize(("name", "instance", "gone"), CASES, ids=lambda each: str(each))
def test_a_ranked_pruner_masks_that_weight_only(name: str, instance: dict[str, Any], gone: int) -> None:
    net = conv_net()
    whole = shapes(net)
    scheduler = begun(net, "pruners", {**instance, "weights": [name], "desired_sparsity": 0.5})
    assert [masker.name for masker in scheduler.masks.masked()] == [name]
    mask = scheduler.masks[name].mask
    assert mask.untyped_storage().nbytes() >= mask.numel()  # not an expanded view, which no checkpoint can hold
    assert shapes(net) == whole
    assert zeros(dict(net.named_parameters())[name]) in (gone, gone - 12)  # half of 9 columns is 4
    assert not any(zeros(each) for key, each in net.named_parameters() if key.endswith("weight") and key != name)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_and_rows_of_other_layers_go_alone(dim: int, transposed: bool) -> None:
    for name, group in (("deep.weight", "2D"), ("fc1.weight", "Rows"), ("point.weight", "Cols")):
        net = conv_net(dim, transposed)
        whole = shapes(net)
        pruner = {"class": RANKED, "group_type": group, "weights": [name], "desired_sparsity": 0.5}
        scheduler = begun(net, "pruners", pruner, dim)
        assert [masker.name for masker in scheduler.masks.masked()] == [name], group
        assert shapes(net) == whole


def test_the_forms_by_level_chance_and_threshold_go_alone() -> None:
    threshold = {"class": "StructureParameterPruner", "threshold_criteria": "Max"}
    for instance in (
        {"class": "L1RankedStructureParameterPruner_AGP", "group_type": "Rows", "weights": ["fc1.weight"],
         "initial_sparsity": 0.1, "final_sparsity": 0.5},
        {"class": "RandomLevelStructureParameterPruner", "group_type": "Rows", "weights": ["fc1.weight"],
         "sparsity_range": [0.4, 0.6]},
        {**threshold, "reg_regims": {"fc1.weight": [0.1, "Cols"]}},
        {**threshold, "reg_regims": {"fc1.weight": [0.1, "Rows"]}},
        {**threshold, "reg_regims": {"fc1.weight": [0.1, "Rows"]}, "threshold_criteria": "Mean_Abs"},
    ):  # fmt: skip
        net = conv_net()
        with torch.no_grad():
            net.fc1.weight[2] *= 1e-3
            net.fc1.weight[:, 3] *= 1e-3
        whole = shapes(net)
        if "_AGP" in instance["class"]:
            policies = {"starting_epoch": 0, "ending_epoch": 2, "frequency": 1}
            schedule = {"pruners": {"it": instance}, "policies": [{"pruner": {"instance_name": "it"}, **policies}]}
            scheduler = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule, INPUTS)
            scheduler.on_epoch_begin(1)
        else:
            scheduler = begun(net, "pruners", instance)
        assert [masker.name for masker in scheduler.masks.masked()] == ["fc1.weight"], instance
        assert shapes(net) == whole


@pytest.mark.parametrize("group", ["Rows", "Cols", "Rows+Cols"])
@pytest.mark.parametrize("keep_mask", [False, True])
def test_what_a_group_lasso_zeroes_by_rows_stays_in_the_network(group: str, keep_mask: bool) -> None:
    net = conv_net()
    with torch.no_grad():
        net.fc1.weight[2] *= 1e-6
        net.fc1.weight[:, 3] *= 1e-6
    whole = shapes(net)
    lasso = {"class": "GroupLassoRegularizer", "reg_regims": {"fc1.weight": [1e-3, group]}, "threshold_criteria": "Max"}
    begun(net, "regularizers", lasso, steps=2, keep_mask=keep_mask)
    assert zeros(net.fc1.weight) == (15 if "+" in group else 8)
    assert shapes(net) == whole


def test_filters_and_channels_still_take_their_group_along_beside_rows(caplog: pytest.LogCaptureFixture) -> None:
    net = conv_net()
    schedule = {
        "pruners": {
            "rows": {"class": RANKED, "group_type": "Rows", "weights": ["fc1.weight"], "desired_sparsity": 0.5},
            "filters": {"class": RANKED, "weights": ["stem.weight"], "desired_sparsity": 0.25},
        },
        "extensions": {"thinner": {"class": "FilterRemover"}},
        "policies": [
            {"pruner": {"instance_name": "rows"}, "epochs": [0, 1]},
            {"pruner": {"instance_name": "filters"}, "epochs": [0]},
            {"extension": {"instance_name": "thinner"}, "epochs": [0, 1]},
        ],
    }
    scheduler = dict_config(net, torch.optim.SGD(net.parameters(), 0.1), schedule, INPUTS)
    with caplog.at_level("INFO", "compress"):
        scheduler.on_epoch_begin(0)
        scheduler.on_minibatch_begin(0, 0, 2)
    assert (net.stem.out_channels, net.deep.groups, net.point.in_channels, net.point.out_channels) == (6, 6, 6, 8)
    assert "rows, columns, kernels and blocks go alone, so units that only the masks of fc1.weight clear" in caplog.text
    state = scheduler.state_dict()
    other = dict_config(net := conv_net(), torch.optim.SGD(net.parameters(), 0.1), schedule, INPUTS)
    other.load_state_dict(state)
    for each in (scheduler, other):  # a resumed run's thinner leaves them too
        each.on_minibatch_begin(1, 0, 2)
        assert each.model.fc1.in_features == 8
        assert each.masks["fc1.weight"].alone


def test_a_channel_mask_on_the_same_columns_takes_them_out() -> None:
    net = conv_net()
    pruner = {"class": RANKED, "group_type": "Channels", "weights": ["fc1.weight"], "desired_sparsity": 0.5}
    begun(net, "pruners", pruner)
    assert (net.fc1.in_features, net.point.out_channels) == (4, 4)
