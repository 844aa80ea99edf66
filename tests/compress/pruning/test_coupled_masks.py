"""Structured pruners mask whole coupled groups."""

import logging

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError
from tests.compress.graph.nets import resnet_cifar
from tests.compress.harness import tiny_net

IMAGES = torch.zeros(2, 3, 8, 8)
LAST = "4.conv2.weight"  # of the second block of the first stage, added to 0.weight's and 3.conv2.weight's filters


def net() -> nn.Module:
    torch.manual_seed(0)
    model = resnet_cifar(blocks=2, widths=(8, 8, 16))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, 0.5, 1.0)
    return model


def started(schedule, model=None, inputs=IMAGES):
    model = model or net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = dict_config(model, optimizer, schedule, example_inputs=inputs)
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 2, optimizer)
    return model, optimizer, scheduler


def pruning(weights, cls="L1RankedStructureParameterPruner", **arguments):
    arguments.setdefault("desired_sparsity", 0.25)
    return {
        "pruners": {"it": {"class": cls, "weights": weights, **arguments}},
        "policies": [{"pruner": {"instance_name": "it"}, "epochs": [0]}],
    }


def gone(model, name, dim=0):
    weight = dict(model.named_parameters())[name].detach()
    zero = (weight == 0).movedim(dim, 0)
    return zero.reshape(len(zero), -1).all(1).nonzero().flatten().tolist()


def test_one_named_weight_takes_its_whole_residual_sum_along(caplog) -> None:
    with caplog.at_level(logging.INFO, "compress"):
        model, _, scheduler = started(pruning([LAST]))
    units = gone(model, LAST)
    assert len(units) == 2
    for name in ("0.weight", "3.conv2.weight", "1.weight", "1.bias", "4.bn2.weight", "4.bn2.bias"):
        assert gone(model, name) == units, name
    assert gone(model, "3.conv1.weight", dim=1) == units
    seen = {}
    model[3].register_forward_hook(lambda module, inputs, output: seen.update(out=output))
    model.eval()(torch.randn(2, 3, 8, 8))
    assert not seen["out"][:, units].any()  # exactly zero where it is read
    assert "masked along, as they are coupled: 0.weight, 1.weight, 1.bias" in caplog.text
    assert "0.weight" not in scheduler.policies[0].weights


def test_all_named_weights_of_a_group_vote() -> None:
    names = ["0.weight", "3.conv2.weight", LAST]
    dense = net()
    scores = [dict(dense.named_parameters())[name].detach().abs().flatten(1).mean(1) for name in names]
    mean = sum(each / each.mean() for each in scores)
    model, _, _ = started(pruning(names))
    assert gone(model, LAST) == sorted(mean.argsort()[:2].tolist())
    model, _, _ = started(pruning(names, group_dependency="Leader"))
    assert gone(model, LAST) == sorted(scores[0].argsort()[:2].tolist())


def test_differing_levels_in_one_group_are_a_fault_of_the_schedule() -> None:
    schedule = pruning([])
    schedule["pruners"]["it"] = {
        "class": "L1RankedStructureParameterPruner",
        "reg_regims": {"0.weight": [0.25, "3D"], LAST: [0.5, "3D"]},
    }
    with pytest.raises(ScheduleError, match=r"coupled.*different levels: 0.weight 0.25, 4.conv2.weight 0.5"):
        started(schedule)


def test_two_instances_in_one_group_are_warned_of(caplog) -> None:
    schedule = pruning(["0.weight"])
    schedule["pruners"]["other"] = {**schedule["pruners"]["it"], "weights": [LAST]}
    schedule["policies"].append({"pruner": {"instance_name": "other"}, "epochs": [0]})
    model, _, scheduler = started(schedule)
    assert "'4.conv2.weight' is coupled to '0.weight', which 'it' prunes in epoch 0 too" in caplog.text
    assert len(gone(model, "1.weight")) >= 2
    both = sorted({*gone(model, "1.weight")})
    assert gone(model, "3.conv2.weight") == both  # named by neither: the units of both
    assert scheduler.masks["3.conv2.weight"].coupled.keys() == {"it", "other"}


def test_a_channel_pruner_masks_what_writes_the_channels() -> None:
    model, _, _ = started(pruning(["3.conv2.weight"], group_type="Channels"))
    units = gone(model, "3.conv2.weight", dim=1)
    assert len(units) == 2
    assert gone(model, "3.conv1.weight") == units
    assert gone(model, "3.bn1.bias") == units


def test_gammas_decide_together() -> None:
    model = net()
    with torch.no_grad():
        for name in ("1", "3.bn2", "4.bn2"):
            dict(model.named_parameters())[f"{name}.weight"][3] = 1e-4
        dict(model.named_parameters())["3.bn2.weight"][5] = 1e-5
    started(
        pruning(["1.weight", "3.bn2.weight", "4.bn2.weight"], "BatchNormScalePruner", desired_sparsity=4 / 24), model
    )
    assert gone(model, "1.weight") == [3]
    assert gone(model, "3.bn2.weight") == [3, 5]  # 5 is off in it alone: the sum still has it from the others
    assert gone(model, "0.weight") == gone(model, LAST) == [3]


def test_without_example_inputs_each_weight_is_masked_alone_and_that_is_told(caplog) -> None:
    model, _, scheduler = started(pruning([LAST]), inputs=None)
    assert len(gone(model, LAST)) == 2
    assert gone(model, "0.weight") == []
    assert "4.conv2.weight: each is masked by itself, without what is coupled to it: no example_inputs" in caplog.text
    model(torch.randn(2, 3, 8, 8))
    assert scheduler.graph.inputs is not None  # the next masks will be coupled


def test_pinned_filters_are_masked_in_place_and_that_is_told(caplog) -> None:
    model, _, _ = started(pruning(["fc.weight"], group_type="Filters"), tiny_net(), torch.zeros(2, 3, 6, 6))
    assert len(gone(model, "fc.weight")) == 1
    assert "fc.weight: masked in place, they cannot leave the network: network output" in caplog.text


def test_coupled_masks_survive_a_checkpoint() -> None:
    schedule = pruning(["0.weight"])
    _, _, scheduler = started(schedule)
    other = dict_config(model := net(), torch.optim.SGD(model.parameters(), lr=0.1), schedule, example_inputs=IMAGES)
    other.load_state_dict(scheduler.state_dict())
    for name, masker in scheduler.masks.items():
        assert (masker.mask is None) == (other.masks[name].mask is None)
        assert masker.mask is None or torch.equal(masker.mask, other.masks[name].mask)
        assert masker.coupled.keys() == other.masks[name].coupled.keys()
        other.masks[name].set_mask(None, coupled_by="it")
        assert name == "0.weight" or other.masks[name].mask is None


def test_differing_levels_in_a_pinned_group_are_the_same_fault() -> None:
    """Coupled by an addition that is the network's output: the run would refuse it, so the check does."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    model = Sum()
    schedule = pruning([])
    schedule["pruners"]["it"] = {
        "class": "L1RankedStructureParameterPruner",
        "reg_regims": {"a.weight": [0.25, "3D"], "b.weight": [0.5, "3D"]},
    }
    with pytest.raises(ScheduleError, match=r"coupled.*different levels: a.weight 0.25, b.weight 0.5"):
        dict_config(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule, torch.zeros(1, 3, 8, 8))
