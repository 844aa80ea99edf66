"""What cannot do on this network what its name says is found before training."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.config import dict_config
from compress.errors import ScheduleError, UserError

IMAGE = torch.zeros(1, 3, 8, 8)


def small(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), last)


def build(model: nn.Module, section: str, settings: dict[str, Any], strict: bool = False) -> None:
    key = section.removesuffix("s")
    policies = [{key: {"instance_name": "it"}, "starting_epoch": 0, "ending_epoch": 2, "frequency": 1}]
    schedule = {"version": 1, section: {"it": settings}, "policies": policies}
    dict_config(model, torch.optim.SGD(model.parameters(), 0.1), schedule, IMAGE, strict=strict)


@pytest.mark.parametrize(
    "settings",
    [
        {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5, "weights": ["*.weight"]},
        {"class": "L2RankedStructureParameterPruner", "reg_regims": {"2.weight": [0.5, "3D"]}},
        {"class": "L1RankedStructureParameterPruner_AGP", "initial_sparsity": 0.1, "final_sparsity": 0.5,
         "group_type": "Filters", "weights": ["2.weight"]},
    ],
)  # fmt: skip
def test_filters_of_the_last_layer(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    build(small(nn.Conv2d(6, 3, 3, padding=1)), "pruners", settings)
    assert "'2.weight': what 'it' masks there cannot leave the network" in caplog.text
    assert "whole outputs of the network become zero" in caplog.text
    assert "'0.weight'" not in caplog.text
    with pytest.raises(ScheduleError, match="leave it out of its weights"):
        build(small(nn.Conv2d(6, 3, 3, padding=1)), "pruners", settings, strict=True)


def test_filters_that_can_leave_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5, "weights": ["0.weight"]}
    build(small(nn.Conv2d(6, 3, 3, padding=1)), "pruners", settings, strict=True)
    assert "cannot leave" not in caplog.text


KD = {"class": "KnowledgeDistillation", "teacher": "self"}


def test_class_probabilities_of_an_image(caplog: pytest.LogCaptureFixture) -> None:
    build(small(nn.Conv2d(6, 3, 3, padding=1)), "distillers", KD)
    assert "the network makes images of images" in caplog.text
    assert "OutputDistillation" in caplog.text


def test_a_single_class_is_a_fault() -> None:
    with pytest.raises(ScheduleError, match="has a single class, whose softmax is always 1"):
        build(small(nn.Conv2d(6, 1, 3, padding=1)), "distillers", KD)


@pytest.mark.parametrize("last", [nn.Conv2d(6, 5, 1), nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 10))])
def test_segmentation_and_classification_are_what_it_is_for(last: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    build(small(last), "distillers", KD, strict=True)
    assert not [each for each in caplog.records if each.name == "compress"]


def test_a_fault_brings_no_warning_that_only_follows_from_it() -> None:
    model = small(nn.Conv2d(6, 3, 3, padding=1))
    schedule = {
        "version": 1,
        "pruners": {"p": {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 3, "weights": ["0.weight"]}},
        "extensions": {"t": {"class": "FilterRemover"}},
        "policies": [
            {"pruner": {"instance_name": "p"}, "epochs": [0]},
            {"extension": {"instance_name": "t"}, "epochs": [0]},
        ],
    }
    with pytest.raises(ScheduleError) as caught:
        dict_config(model, torch.optim.SGD(model.parameters(), 0.1), schedule, IMAGE)
    assert "desired_sparsity" in str(caught.value)
    assert "makes zeros" not in str(caught.value)


def test_without_an_optimizer_nothing_is_built() -> None:
    schedule = {"pruners": {"p": {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5,
                                  "weights": ["0.weight"]}},
                "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}]}  # fmt: skip
    with pytest.raises(UserError, match="given NoneType for optimizer; give the torch.optim.Optimizer"):
        dict_config(small(nn.Conv2d(6, 3, 3)), None, schedule)  # type: ignore[arg-type]
