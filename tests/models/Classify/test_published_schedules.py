"""Schedules in the form that Distiller published load on the architectures that they were written for."""

from typing import Any

import pytest
import torch

from compress.config import dict_config
from models.Classify.zoo import build_network

FLOAT = {"bits_weights": None, "bits_activations": None}
AGP = {"class": "AutomatedGradualPruner", "initial_sparsity": 0.05, "final_sparsity": 0.6}


def policy(key: str) -> dict[str, Any]:
    return {key: {"instance_name": "it"}, "starting_epoch": 0, "ending_epoch": 10, "frequency": 1}


def quantized(cls: str, kept: list[str], **more: Any) -> dict[str, Any]:
    overrides = dict.fromkeys(kept, FLOAT)
    settings = {"class": cls, "bits_activations": 8, "bits_weights": 3, "overrides": overrides, **more}
    return {"quantizers": {"it": settings}, "policies": [policy("quantizer")]}


def pruned(weights: list[str]) -> dict[str, Any]:
    return {"pruners": {"it": {**AGP, "weights": weights}}, "policies": [policy("pruner")]}


PREACT = ["conv1", "layer1.0.pre_relu", "final_relu", "fc"]
CASES = [
    ("preact_resnet20_cifar", quantized("PACTQuantizer", PREACT, act_clip_init_val=8.0), {"width_mult": 0.25}, 32),
    ("preact_resnet20_cifar", quantized("DorefaQuantizer", PREACT), {"width_mult": 0.25}, 32),
    ("preact_resnet56_cifar_conv_ds", quantized("WRPNQuantizer", PREACT), {"width_mult": 0.25}, 32),
    ("vgg16_cifar", pruned(["features.module.0.weight", "features.module.28.weight"]), {"width_mult": 0.125}, 32),
    ("vgg16_bn_cifar", pruned(["features.module.40.weight", "classifier.weight"]), {"width_mult": 0.125}, 32),
]
LARGE = [
    ("alexnet_bn_dorefa",
     quantized("DorefaQuantizer", ["features.0", "features.1", "classifier.5", "classifier.6"]), {}, 64),
    ("alexnet", pruned(["classifier.1.weight", "classifier.4.weight", "features.module.10.weight"]), {}, 64),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "schedule", "settings", "size"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow, id=case[0]) for case in LARGE)],
)
def test_it_loads_and_acts(arch: str, schedule: dict[str, Any], settings: dict[str, Any], size: int) -> None:
    network = build_network(arch, 10, 3, size, settings)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scheduler = dict_config(network, optimizer, schedule, torch.zeros(1, 3, size, size), epochs=10, strict=True)
    scheduler.on_epoch_begin(0, optimizer)
    scheduler.on_minibatch_begin(0, 0, 1, optimizer)
    assert network.eval()(torch.randn(2, 3, size, size)).shape == (2, 10)
    if "quantizers" in schedule:
        names = {name for name, module in network.named_modules() if "Quantized" in type(module).__name__}
        assert scheduler.structures
        assert not names & set(schedule["quantizers"]["it"]["overrides"])
    else:
        assert all(masker.mask is not None for masker in scheduler.masks.masked())
        assert len(scheduler.masks.masked()) == len(schedule["pruners"]["it"]["weights"])


def test_the_numbers_of_weights_are_those_of_distillers_networks() -> None:
    def count(arch: str) -> int:
        return sum(parameter.numel() for parameter in build_network(arch, 10).parameters() if parameter.dim() > 1)

    assert count("preact_resnet20_cifar") == 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 640
    assert count("preact_resnet20_cifar_conv_ds") == count("preact_resnet20_cifar") + 16 * 32 + 32 * 64
    assert count("vgg16_cifar") == count("vgg16_bn_cifar") == 14_710_464 + 5120  # VGG-16's 14.7 M in convolutions
