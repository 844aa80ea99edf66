"""Learned steps and clips: no optimizer makes them useless, and while they are useful nothing changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.config import dict_config
from compress.quantization.fake_quant import FakeQuantizer, Learned
from compress.quantization.lsq import LearnedStepActivation, LearnedStepWeight
from compress.quantization.pact import ClippedActivation
from compress.scheduler import CompressionScheduler

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda each: torch.optim.SGD(each, lr=0.1),
    "momentum": lambda each: torch.optim.SGD(each, lr=0.05, momentum=0.9),
    "Adam": lambda each: torch.optim.Adam(each, lr=3e-3),
    "fast Adam": lambda each: torch.optim.Adam(each, lr=3e-2),
    "AdamW": lambda each: torch.optim.AdamW(each, lr=3e-3, weight_decay=0.1),
    "RMSprop": lambda each: torch.optim.RMSprop(each, lr=3e-3),
}
LSQ = {"class": "LSQQuantizer", "step_weight_decay": None}
PACT = {"class": "PACTQuantizer", "weight_scale": "max", "act_clip_init_val": 1.0}


def images() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.PReLU(), nn.Conv2d(6, 1, 3, padding=1))


def trained(instance: dict[str, Any], optimizer: str, steps: int = 60) -> tuple[nn.Module, CompressionScheduler]:
    """Learns to blur."""
    model, x = net(), images()
    wanted = nn.functional.avg_pool2d(x, 3, 1, 1) * 2 - 0.5
    optimizer_ = OPTIMIZERS[optimizer](model.parameters())
    schedule = {"quantizers": {"q": instance}, "policies": [{"quantizer": {"instance_name": "q"}, "epochs": [0]}]}
    scheduler = dict_config(model, optimizer_, schedule, x)
    scheduler.on_epoch_begin(0)
    for step in range(steps):
        scheduler.on_minibatch_begin(0, step, steps)
        loss = (model(x) - wanted).square().mean()
        optimizer_.zero_grad()
        loss.backward()
        scheduler.before_parameter_optimization(0, step, steps, optimizer_)
        optimizer_.step()
        scheduler.on_minibatch_end(0, step, steps)
    return model, scheduler


def learned(model: nn.Module) -> list[Tensor]:
    return [getattr(each, each.scale).detach() for each in model.modules() if isinstance(each, Learned)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["per tensor", "per channel", "PACT"])
def test_no_optimizer_makes_a_learned_scale_useless(kind: str, bits: int, optimizer: str) -> None:
    instance = PACT if kind == "PACT" else {**LSQ, "per_channel_wts": kind == "per channel"}
    model, _ = trained({**instance, "bits_weights": max(bits, 4), "bits_activations": bits}, optimizer)
    with torch.no_grad():
        assert float(model.eval()(images()).std()) > 1e-3
    assert all(bool((scale > 0).all() and torch.isfinite(scale).all()) for scale in learned(model))


@pytest.mark.parametrize("instance", [LSQ, {**LSQ, "per_channel_wts": True}, PACT], ids=["LSQ", "channels", "PACT"])
@pytest.mark.parametrize("optimizer", ["momentum", "AdamW"])
def test_while_scales_are_useful_training_is_what_the_papers_say(
    instance: dict[str, Any], optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**instance, "bits_weights": 4, "bits_activations": 4}
    model, _ = trained(settings, optimizer, 20)
    monkeypatch.setattr("compress.quantization.functions._led_back", lambda total, *rest: total)
    monkeypatch.setattr("compress.quantization.functions._led_back_clip", lambda total, *rest: total)
    monkeypatch.setattr("compress.quantization.functions.at_least", lambda value, least: value.clamp_min(least))
    monkeypatch.setattr(Learned, "keep_scale", lambda self: None)
    plain, _ = trained(settings, optimizer, 20)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=0)


def lost(kind: str, start: float) -> tuple[FakeQuantizer, Tensor]:
    """A fake quantizer whose scale is where it should never be, and what it rounds."""
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    if kind == "weight":
        piece: Any = LearnedStepWeight(4)
    elif kind == "channels":
        piece = LearnedStepWeight(4, axis=0)
        piece.start(x)
    elif kind == "activation":
        piece = LearnedStepActivation(4, True)
        piece(x)
    else:
        piece = ClippedActivation(4, kind == "signed clip")
        x = x if kind == "signed clip" else x.relu()
    getattr(piece, piece.scale).data.fill_(10 * start if start > 1 and "clip" in kind else start)
    return piece, x


@pytest.mark.parametrize("start", [-0.02, 0.0, 1e-8, 40.0])
@pytest.mark.parametrize("kind", ["weight", "channels", "activation", "clip", "signed clip"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_lost_scale_comes_back(optimizer: str, kind: str, start: float) -> None:
    """Whichever way the loss would push it: here it asks for the negative of what comes in."""
    piece, x = lost(kind, start)
    scale = getattr(piece, piece.scale)
    stepper = OPTIMIZERS[optimizer]([scale])
    for group in stepper.param_groups:
        group["lr"] *= 10
    wanted = -x if start <= 1e-8 else x
    first = (scale.detach().clone() - 1.0).abs()
    for _ in range(100):
        piece.note_scale()
        stepper.zero_grad()
        (piece(x) - wanted).square().mean().backward()
        stepper.step()
        piece.keep_scale()
        if start <= 1e-8 and float(scale.detach().min()) > 1e-4:
            return
    assert start > 1e-8
    assert bool(((scale.detach() - 1.0).abs() < first).all())


@pytest.mark.parametrize("kind", ["weight", "channels", "activation", "clip"])
def test_one_update_changes_a_scale_by_limited_factors(kind: str) -> None:
    piece, _ = lost(kind, 1.0)
    scale = getattr(piece, piece.scale)
    for update, expected in ((-5.0, 0.5), (100.0, type(piece).up), (0.7, 1.7), (-0.4, 0.6)):
        scale.data.fill_(1.0)
        piece.note_scale()
        scale.data.add_(update)
        piece.keep_scale()
        assert torch.equal(scale.detach(), torch.full_like(scale, expected))
