"""Bias correction: one pass gives what a pass for each layer gives, and means become those of the float network."""

from typing import Any

import pytest
import torch
import torch.nn.modules.module as every_module
from torch import Tensor, nn

from compress import PostTrainLinearQuantizer
from compress.quantization.post_training import bias_correction
from compress.quantization.post_training.bias_correction import channel_means


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(6 * 16, 5)).eval()


def quantized(batches: list[Tensor], **more: Any) -> nn.Module:
    settings = {"bits_parameters": 3, "per_channel_wts": True, "bias_correction": True, **more}
    return PostTrainLinearQuantizer(**settings).quantize(net(), batches)


@pytest.mark.parametrize("more", [{}, {"round_results": "all"}], ids=["", "results are rounded"])
def test_one_pass_gives_what_a_pass_for_each_layer_gives(more: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = list(torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).split(4))
    made = quantized(batches, **more).state_dict()
    monkeypatch.setattr(bias_correction, "together", lambda *_: None)
    apart = quantized(batches, **more).state_dict()
    plain = quantized(batches, **{**more, "bias_correction": False}).state_dict()
    assert all(torch.allclose(made[name], apart[name], atol=1e-6) for name in made)
    assert sum(not torch.allclose(made[name], plain[name], atol=1e-4) for name in made) == 3


class Residual(nn.Module):
    """What the second BatchNorm gives is rounded before it is added, in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.second, self.again, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        x += self.again(self.second(x))
        return self.last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["bias_correction", "gptq", "adaround"])
def test_calibrated_ranges_do_not_move_with_what_runs_after(how: str) -> None:
    batches = list(torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).split(2))
    made = []
    for settings in ({}, {how: True, **({"adaround_steps": 2} if how == "adaround" else {})}):
        quantizer = PostTrainLinearQuantizer(bits_parameters=4, **settings)
        made.append(quantizer.quantize(Residual().eval(), batches).state_dict())
    ranges = [name for name in made[0] if name.endswith("ranges")]
    assert "again.result_quantizer.ranges" in ranges
    assert all(torch.equal(made[0][name], made[1][name]) for name in ranges)


def test_means_are_those_of_the_float_network() -> None:
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        right, found = net()(x), quantized([x])(x)
        wrong = quantized([x], bias_correction=False)(x)
    assert torch.allclose(channel_means([found], -1), channel_means([right], -1), atol=1e-5)
    assert not torch.allclose(channel_means([wrong], -1), channel_means([right], -1), atol=1e-3)


class NormAct(nn.BatchNorm2d):
    """As timm's: the activation is a part of the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))  # type: ignore[no-any-return]


def clipped(kind: str) -> nn.Sequential:
    """Conv-BN, what clips them, and a layer that reads that; most of what the convolution gives is cut off."""
    torch.manual_seed(0)
    norm = NormAct(8) if kind == "inside the norm" else nn.BatchNorm2d(8)
    clip = {"ReLU6": nn.ReLU6(), "in place": nn.ReLU(inplace=True), "clamp": nn.Hardtanh(0.0, 1.0)}.get(kind, nn.ReLU())
    behind = [] if kind == "inside the norm" else [clip]
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm, *behind, nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        norm.bias.sub_(0.5)
        network[0].weight.mul_(2)
    return network


def means_behind(network: nn.Module, x: Tensor) -> Tensor:
    """Of what the last layer reads."""
    found: list[Tensor] = []
    with network[-1].register_forward_pre_hook(lambda _, given: found.append(given[0].clone())), torch.no_grad():
        network(x)
    return channel_means(found, 1)


@pytest.mark.parametrize("kind", ["ReLU", "ReLU6", "in place", "clamp", "inside the norm"])
def test_means_behind_a_clip_are_corrected_not_those_in_front_of_it(kind: str) -> None:
    network = clipped(kind)
    x = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    settings = {"bits_parameters": 2, "bits_activations": None, "per_channel_wts": True}
    right = means_behind(network, x)
    plain = PostTrainLinearQuantizer(**settings).quantize(network, [x])
    made = PostTrainLinearQuantizer(**settings, bias_correction=True).quantize(network, [x])
    before, after = ((means_behind(each, x) - right).abs().mean() for each in (plain, made))
    assert float(after) < 0.5 * float(before)


@pytest.mark.parametrize("kind", ["ReLU", "inside the norm"])
def test_a_clip_is_found_behind_and_inside_the_norm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    settings = {"bits_parameters": 3, "per_channel_wts": True, "bias_correction": True}
    made = PostTrainLinearQuantizer(**settings).quantize(clipped(kind), list(x.split(4))).state_dict()
    other = PostTrainLinearQuantizer(**settings).quantize(clipped("in place"), list(x.split(4))).state_dict()
    assert torch.allclose(made["1.bias"], other["1.bias"], atol=1e-6)
    monkeypatch.setattr(bias_correction, "together", lambda *_: None)
    apart = PostTrainLinearQuantizer(**settings).quantize(clipped(kind), list(x.split(4))).state_dict()
    assert torch.allclose(made["1.bias"], apart["1.bias"], atol=1e-6)


class Named(nn.Module):
    """Conv-BN-Conv-Conv-Linear, one layer called by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.b = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        self.c, self.head = nn.Conv2d(4, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.c(torch.relu(self.b(input=torch.relu(self.bn(self.a(x)))))))
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("more", [{}, {"gptq": True}, {"adaround": True, "adaround_steps": 5}])
def test_hooks_on_a_layer_and_calls_by_name(hooked: bool, more: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Named().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if hooked:
        network.b.register_forward_hook(lambda _, __, output: output * 2 + 1)
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = {"bits_parameters": 4, "bias_correction": True, "example_inputs": x[:1], **more}
    made = PostTrainLinearQuantizer(**settings).quantize(network, [x])
    found = made.state_dict()
    monkeypatch.setattr(bias_correction, "together", lambda *_: None)
    apart = PostTrainLinearQuantizer(**settings).quantize(network, [x]).state_dict()
    assert all(torch.allclose(found[name], apart[name], atol=1e-5) for name in found)
    with torch.no_grad():
        assert torch.allclose(channel_means([made(x)], -1), channel_means([network(x)], -1), atol=1e-5)


@pytest.mark.parametrize("how", ["bias_correction", "equalization", "gptq"])
def test_a_surrounding_autocast_sees_the_weights_that_are_set(how: str) -> None:
    x, made = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), []
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3)).eval()
    for cached in (False, True):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            made.append(PostTrainLinearQuantizer(bits_parameters=3, **{how: True}).quantize(network, [x]).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("apart", [False, True])
def test_hooks_on_all_modules_come_after_the_correction(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = Named().eval(), torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quantizer = PostTrainLinearQuantizer(bits_parameters=4, bias_correction=True, example_inputs=x[:1])
    if apart:
        monkeypatch.setattr(bias_correction, "together", lambda *_: None)
    handle = every_module.register_module_forward_hook(
        lambda layer, _, output: output * 2 + 1 if isinstance(layer, nn.Conv2d) else None
    )
    try:
        made = quantizer.quantize(network, [x])
        with torch.no_grad():
            assert torch.allclose(channel_means([made(x)], -1), channel_means([network(x)], -1), atol=1e-5)
    finally:
        handle.remove()
