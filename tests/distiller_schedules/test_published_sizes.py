"""Schedules of ResNet-20 that Distiller published, at full width, leave networks of the sizes that it published.

The numbers of weights are those of the tables in its schedules' headers: elements of all weights of two or more
dimensions, zeros included. Only the epochs in which a policy acts are entered; nothing is trained.
"""

from typing import Any

import pytest
import torch

from compress.config import dict_config
from tests.distiller_schedules.networks import ResNet20

STAGE = {n: [f"layer{n}.{k}.conv1.weight" for k in range(3)] for n in (1, 2, 3)}
ADDED = {n: [f"layer{n}.0.downsample.0.weight", *(f"layer{n}.{k}.conv2.weight" for k in range(3))] for n in (2, 3)}
DEEP = ["layer3.0.conv1.weight", "layer3.0.conv2.weight"]
FINE = [f"layer3.{k}.conv{n}.weight" for k in (1, 2) for n in (1, 2)]
ROWS = {"fc": {"final": 0.5, "group_type": "Rows", "weights": ["fc.weight"]}}
HALF = {"low": {"final": 0.5, "group_type": "Filters", "weights": [*STAGE[2], *ADDED[2]]}}
LEADER = {"final": 0.5, "group_type": "Filters", "group_dependency": "Leader", "weights": ADDED[3]}
PUBLISHED: dict[str, tuple[dict[str, Any], int, int, int]] = {  # pruners, thinner's delay, weights, columns of fc left
    "filters": ({**HALF, "fine": {"final": 0.7, "weights": FINE}, **ROWS}, 0, 223_536, 32),
    "filters_2": (
        {
            "low": {"final": 0.4, "group_type": "Filters", "weights": [*STAGE[1], *STAGE[2]]},
            "fine": {"final": 0.7, "weights": FINE},
        },
        2, 246_704, 64,
    ),
    "filters_3": (
        {**HALF, "fine": {"final": 0.5, "weights": DEEP}, "fine_2": {"final": 0.7, "weights": FINE}, **ROWS},
        2, 223_536, 32,
    ),
    "filters_4": ({**HALF, "low_2": LEADER, "fine": {"final": 0.7, "weights": FINE}, **ROWS}, 2, 130_544, 16),
}  # fmt: skip


def schedule_of(pruners: dict[str, Any], delay: int) -> dict[str, Any]:
    """`low` pruners in epochs 0 to 28, the thinner in epoch 30 plus the delay, the others in 30 to 48."""
    built, policies = {}, []
    for name, given in pruners.items():
        structured = "group_type" in given
        options = {key: value for key, value in given.items() if key != "final"}
        built[name] = {
            "class": "L1RankedStructureParameterPruner_AGP" if structured else "AutomatedGradualPruner",
            "initial_sparsity": 0.10 if name.startswith("low") else 0.05,
            "final_sparsity": given["final"],
            **options,
        }
        first, last = (0, 30) if name.startswith("low") else (30, 50)
        window = {"starting_epoch": first, "ending_epoch": last, "frequency": 2}
        policies.append({"pruner": {"instance_name": name}, **window})
    at = next((k for k, name in enumerate(pruners) if not name.startswith("low")), len(pruners))
    thinning = {"extension": {"instance_name": "thinner"}, "epochs": [30 + delay]}
    policies.insert(at if delay == 0 else len(policies), thinning)
    remover = {"class": "FilterRemover", "thinning_func_str": "remove_filters", "arch": "resnet20_cifar"}
    return {"version": 1, "pruners": built, "extensions": {"thinner": remover}, "policies": policies}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_number_of_weights_is_left(name: str) -> None:
    pruners, delay, published, columns = PUBLISHED[name]
    torch.manual_seed(0)
    network = ResNet20(width=16)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    example = torch.randn(1, 3, 32, 32)
    scheduler = dict_config(network, optimizer, schedule_of(pruners, delay), example_inputs=example)
    for epoch in (0, 28, 30, 32, 48):
        scheduler.on_epoch_begin(epoch, optimizer)
        scheduler.on_minibatch_begin(epoch, 0, 2, optimizer)
    weights = {key: value for key, value in network.named_parameters() if value.dim() > 1}
    assert sum(each.numel() for each in weights.values()) == published
    assert int(weights["fc.weight"].detach().any(0).sum()) == columns


def test_rows_of_the_classifier_leave_the_last_stage_whole() -> None:
    torch.manual_seed(0)
    network = ResNet20()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    schedule = schedule_of({"fc": {"final": 0.5, "group_type": "Rows", "weights": ["fc.weight"]}}, 18)
    scheduler = dict_config(network, optimizer, schedule, example_inputs=torch.randn(1, 3, 32, 32))
    before = sum(each.numel() for each in network.parameters())
    for epoch in (30, 48):
        scheduler.on_epoch_begin(epoch, optimizer)
        scheduler.on_minibatch_begin(epoch, 0, 2, optimizer)
    assert sum(each.numel() for each in network.parameters()) == before
    assert [masker.name for masker in scheduler.masks.masked()] == ["fc.weight"]
    assert network.fc.weight.detach().any(0).sum() == 8
