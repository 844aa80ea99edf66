"""Every architecture is built from plain data, and says what it cannot do."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from compress.config import dict_config
from compress.errors import UserError
from compress.selectors import canonical_parameters
from models.Classify.initial_weights import start
from models.Classify.teacher_networks import pretrained_network
from models.Classify.zoo import ARCHITECTURES, build_network, settings_of
from options.Classify_options.train_options import TrainOptions

SMALL = {"width_mult": 0.125}
SIZES = {"alexnet": 64, "alexnet_bn": 64, "alexnet_bn_dorefa": 64, "resnet_signs": 64}
LARGE = {"alexnet", "alexnet_bn", "alexnet_bn_dorefa"}


@pytest.mark.parametrize(
    "arch", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in ARCHITECTURES]
)
def test_a_network_comes_back_from_its_arguments(arch: str, tmp_path: Path) -> None:
    size = SIZES.get(arch, 32)
    settings = SMALL if "width_mult" in settings_of(arch) else {}
    network = build_network(arch, 7, 1, size, settings)
    save_checkpoint(tmp_path / "a.pt", {"arguments": network.arguments, "model": network.state_dict()})
    saved = load_checkpoint(tmp_path / "a.pt")
    again = build_network(**saved["arguments"])
    again.load_state_dict(saved["model"])
    images = torch.randn(2, 1, size, size)
    assert network.train()(images).shape == (2, 7)
    network.load_state_dict(saved["model"])  # training moved the norms' statistics
    assert torch.equal(network.eval()(images), again.eval()(images))


def test_published_sizes() -> None:
    count = lambda name, *shape: sum(p.numel() for p in build_network(name, *shape).parameters())  # noqa: E731
    assert count("simplenet", 10, 3, 32) == 62_006  # Distiller's, LeNet-5's classical form for CIFAR
    assert count("resnet20", 10, 3, 32) == 272_474  # 0.27 M (He et al. 2015, table 6) with 1 x 1 shortcuts
    assert count("lenet5", 10, 1, 32) == 222_128
    assert 23.4e6 < count("resnet_signs", 6, 3, 64) < 23.7e6
    assert count("mobilenet", 1000, 3, 224) == 4_231_976


def test_distillers_names() -> None:
    names = canonical_parameters(build_network("resnet20", 10))
    assert {
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.0.weight",
        "layer3.2.bn2.weight",
        "fc.weight",
    } <= set(names)
    vgg = canonical_parameters(build_network("vgg16_named", 10, 3, 32, SMALL))
    assert {"conv1_1.weight", "conv5_3.weight", "fc7.weight", "classifier.weight"} <= set(vgg)


def test_the_named_vgg_tells_what_each_layer_gave() -> None:
    network = build_network("vgg6_named", 5, 3, 32, SMALL).eval()
    images = torch.randn(2, 3, 32, 32)
    logits, given = network(images, features=True)
    assert torch.equal(logits, network(images))
    assert torch.equal(given["classifier"], logits)
    assert torch.equal(given["conv1_1"], network.conv1_1(images))
    assert list(given)[:3] == ["conv1_1", "bn1_1", "relu1_1"]


def test_shortcuts_are_what_plain20_lacks() -> None:
    assert not any("downsample" in name for name, _ in build_network("plain20", 10).named_parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvisions_networks(channels: int) -> None:
    network = build_network("torchvision:squeezenet1_1", 4, channels, 64).eval()
    assert network(torch.randn(1, channels, 64, 64)).shape == (1, 4)
    assert network.arguments["arch"] == "torchvision:squeezenet1_1"


@pytest.mark.parametrize(
    ("arch", "settings", "size", "message"),
    [
        ("resnet21", {}, 32, "--arch=resnet21: unknown architecture; did you mean .*'resnet20'"),
        ("os:system", {}, 32, "a checkpoint never imports code by itself"),
        ("torchvision:resnet19", {}, 32, "torchvision:resnet19: unknown classifier; did you mean"),
        ("torchvision:resnet18", {"width_mult": 2}, 32, "torchvision:resnet18: .*width_mult"),
        ("lenet5", {"width_mult": 2.0}, 32, "--width-mult does not apply to --arch=lenet5; it takes --dropout"),
        ("simplenet", {"dropout": 0.5}, 32, "it takes no settings"),
        ("lenet5", {}, 12, "cannot be built for images of 12 pixels: it needs 16"),
        ("vgg_cifar", {}, 28, "it needs 32"),
        ("vgg6_named", {}, 28, "it needs 32"),
        ("alexnet_bn", {}, 32, "it needs 63"),
        ("simplenet_mnist", {}, 12, "it needs 16"),
        ("simplenet", {}, 12, "it needs 16"),
        ("resnet20", {"exits": ["layer3"]}, 32, "an exit is behind layer1 or layer2; given layer3"),
    ],
)
def test_what_cannot_be_built_is_refused(arch: str, settings: dict, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(arch, 10, 3, size, settings)


class Tiny(nn.Module):
    """What the fake timm below has."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv_stem = nn.Conv2d(in_chans, 4, 3)
        self.drop, self.classifier = nn.Dropout(drop_rate), nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.drop(self.conv_stem(x).mean((2, 3))))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with timm's three functions as it declares them, and one network."""

    def create_model(
        model_name: str, pretrained: bool = False, checkpoint_path: str | None = None, **kwargs: Any
    ) -> Tiny:
        assert checkpoint_path is None
        network = Tiny(**kwargs)
        if pretrained:
            nn.init.constant_(network.conv_stem.weight, 0.5)
        return network

    module = SimpleNamespace(
        create_model=create_model, is_model=lambda name: name == "tiny", list_models=lambda filter="": ["tiny"]
    )
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("timm")
def test_timms_networks() -> None:
    network = build_network("timm:tiny", 5, 1, 32).eval()
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    again = build_network(**network.arguments)
    again.load_state_dict(network.state_dict())
    with pytest.raises(UserError, match="--arch=timm:tinny: unknown network; did you mean 'tiny'"):
        build_network("timm:tinny", 5)
    with pytest.raises(UserError, match="--arch=timm:tiny: .*unexpected keyword argument 'width_mult'"):
        build_network("timm:tiny", 5, settings={"width_mult": 0.5})


@pytest.mark.usefixtures("timm")
def test_timms_trained_weights_start_a_network_and_teach() -> None:
    network = build_network("timm:tiny", 5)
    start(network, TrainOptions().parse(["--arch=timm:tiny", "--pretrained"]))
    assert network.conv_stem.weight.unique().tolist() == [0.5]  # the classifier is of other classes and stays new
    teacher = pretrained_network("timm:tiny", 3, 32)
    assert teacher.classifier.out_features == 1000
    assert teacher.conv_stem.weight.unique().tolist() == [0.5]


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="needs the package timm, which is not installed"):
        build_network("timm:resnet18", 10)
    with pytest.raises(UserError, match="timm:resnet18 needs the package timm, which is not installed"):
        pretrained_network("timm:resnet18", 3, 32)


# Schedules in the form that Distiller published load on the architectures that they were written for.


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
IMAGENET = [
    ("alexnet_bn_dorefa",
     quantized("DorefaQuantizer", ["features.0", "features.1", "classifier.5", "classifier.6"]), {}, 64),
    ("alexnet", pruned(["classifier.1.weight", "classifier.4.weight", "features.module.10.weight"]), {}, 64),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "schedule", "settings", "size"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow, id=case[0]) for case in IMAGENET)],
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
