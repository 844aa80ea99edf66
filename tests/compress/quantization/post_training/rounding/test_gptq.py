"""GPTQ against an independent search, and on every form of layer that it rounds."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.calibration.patches import patches
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.post_training.rounding import gptq as gptq_module
from compress.quantization.post_training.rounding.gptq import DAMPING, gptq


def smooth(samples: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """Images whose neighbouring pixels are nearly equal, as those of photographs."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(samples, channels, 3, 3, generator=draw)
    return nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)


def relative_error(quantized: nn.Module, model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((quantized(x) - model(x)).square().sum() / model(x).square().sum())


def made(model: nn.Module, batches: list[torch.Tensor], **settings: object) -> nn.Module:
    plain = {"bits_parameters": 4, "bits_activations": None, "per_channel_wts": True}
    return PostTrainLinearQuantizer(**{**plain, **settings}).quantize(model, batches)  # type: ignore[arg-type]


LAYERS = {
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), smooth(8, 4, 12)),
    "groups, stride, dilation": (nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), smooth(8, 4, 12)),
    "dense": (nn.Conv2d(4, 5, 3, padding="same"), smooth(8, 4, 12)),
    "reflected": (nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"), smooth(8, 4, 12)),
    "one dimension": (nn.Conv1d(4, 6, 5, padding=2, groups=2, stride=2), smooth(8, 4, 12).flatten(2)),
    "linear": (nn.Linear(12, 7), smooth(8, 4, 12)),
    "linear of vectors": (nn.Linear(16, 7), smooth(40, 1, 4).flatten(1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_the_weight_are_the_layers_output(name: str) -> None:
    layer, x = LAYERS[name]
    layer, x = layer.double(), x.double()
    rows = patches(layer, x)
    weight = layer.weight.reshape(rows.shape[0], -1, rows.shape[-1])
    product = rows @ weight.transpose(1, 2)  # (groups, positions, channels of a group)
    product = product.permute(1, 0, 2).flatten(1) + layer.bias
    output = layer(x)
    output = (
        output.reshape(-1, output.shape[-1]) if isinstance(layer, nn.Linear) else output.movedim(1, -1).flatten(0, -2)
    )
    assert torch.allclose(product, output, atol=1e-12)
    layer.float()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mode", ["SYMMETRIC", "ASYMMETRIC_UNSIGNED"])
def test_the_error_of_unseen_inputs_falls(name: str, mode: str) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[name]
    layer.reset_parameters()
    model, calibration, unseen = nn.Sequential(layer), [x[: len(x) // 2]], x[len(x) // 2 :]
    nearest = relative_error(made(model, calibration, mode=mode), model, unseen)
    rounded = relative_error(made(model, calibration, mode=mode, gptq=True), model, unseen)
    assert rounded < 0.6 * nearest


def test_filters_whose_taps_cancel_lose_the_constant_part_of_their_error() -> None:
    """What rounding to nearest cannot see: taps of 8 bits that sum to zero, on bright smooth images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 32, 3, groups=32, bias=False))
    model[0].weight.data -= model[0].weight.data.mean((2, 3), keepdim=True)
    x = 5 + 0.1 * smooth(6, 32, 10)
    errors = [relative_error(made(model, [x[:3]], bits_parameters=8, gptq=on), model, x[3:]) for on in (False, True)]
    assert errors[1] < errors[0] / 4


def test_against_all_roundings_of_a_small_filter() -> None:
    """The best of all 2^6 roundings down or up, by brute force in numpy; GPTQ comes near it and beats nearest."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 1, bias=False))
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(200, 2, generator=draw) @ torch.randn(2, 6, generator=draw)  # six inputs, all but two redundant
    x += 0.05 * torch.randn(200, 6, generator=draw)
    weight = model[0].weight.detach().double().numpy()[0]
    scale = np.abs(weight).max() / 7
    hessian = (x.double().T @ x.double()).numpy()

    def cost(q: np.ndarray) -> float:
        return float((q - weight) @ hessian @ (q - weight))

    down = np.floor(weight / scale)
    best = min(cost((down + np.array(up)) * scale) for up in itertools.product((0, 1), repeat=6))
    nearest = cost(np.round(weight / scale) * scale)
    quantized = made(model, [x], gptq=True)
    found = cost(quantized[0].weight.detach().double().numpy()[0])  # type: ignore[index, operator, union-attr]
    assert found < 0.5 * nearest
    assert found < 3 * best


def test_zeros_stay_zero_and_their_grid_holds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    model[0].weight.data[::2, 1] = 0
    model[0].weight.data[1] = 0
    quantized = made(model, [smooth(4, 4, 9)], gptq=True)
    weight = quantized[0].weight.detach()  # type: ignore[index, operator, union-attr]
    assert bool((weight[model[0].weight == 0] == 0).all())
    grid = quantized[0].weight_quantizer.grid()  # type: ignore[index, operator, union-attr]
    live = weight.flatten(1).abs().amax(1) > 0
    multiples = weight.flatten(1)[live] / grid.scale[live, None]
    assert torch.allclose(multiples, multiples.round(), atol=1e-4)
    assert float(multiples.min()) >= grid.low - 1e-4
    assert float(multiples.max()) <= grid.high + 1e-4


def test_an_output_channel_never_does_worse_than_nearest_and_results_say_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    quantizer = PostTrainLinearQuantizer(per_channel_wts=True, bits_parameters=3, gptq=True)
    quantizer.quantize(model, [torch.randn(4, 3, 8, 8)])
    assert [each.name for each in quantizer.rounding] == ["0", "2"]
    assert all(each.learned <= each.nearest for each in quantizer.rounding)
    assert 0 < quantizer.rounding[0].changed < 1


def test_layers_of_other_kinds_are_named_and_left() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.Conv2d(4, 3, 1))
    quantizer = PostTrainLinearQuantizer(gptq=True, fold_batchnorm=False)
    quantizer.quantize(model, [torch.randn(2, 3, 5, 5)])
    assert [each.name for each in quantizer.rounding] == ["1"]
    assert any("gptq rounds to nearest what is no convolution or linear layer: 0" in note for note in quantizer.notes)


def test_inputs_of_rank_one_and_dead_inputs_are_damped() -> None:
    model = nn.Sequential(nn.Linear(5, 3))
    x = torch.ones(4, 5)
    x[:, 3] = 0
    quantized = made(model, [x], gptq=True)
    assert bool(torch.isfinite(quantized(x)).all())
    assert relative_error(quantized, model, x) <= relative_error(made(model, [x]), model, x)
    assert 0 < DAMPING < 1


def test_both_ways_of_rounding_are_refused() -> None:
    with pytest.raises(ValueError, match="gptq and adaround are two ways to round the same weights"):
        PostTrainLinearQuantizer(gptq=True, adaround=True)


def test_layers_are_gathered_in_several_passes_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 2 bits: rounded, those of an earlier pass would give a later one another network's values."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    model, x = nn.Sequential(*layers), [torch.rand(2, 3, 12, 12)]
    whole = made(model, x, gptq=True, bits_parameters=2).state_dict()
    monkeypatch.setattr(gptq_module, "TOGETHER", 1)
    found = made(model, x, gptq=True, bits_parameters=2).state_dict()
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    assert callable(gptq)


def test_a_layer_is_judged_by_what_float_weights_in_front_of_it_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weights rounded to nearest, filters whose taps cancel would drown what the second layer reads."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 12, 1), nn.ReLU(), nn.Conv2d(12, 3, 1)
    )
    model[0].weight.data -= model[0].weight.data.mean((2, 3), keepdim=True)
    x = 5 + smooth(6, 16, 10)
    wanted: dict[str, Tensor] = {}
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d):
            with layer.register_forward_pre_hook(
                lambda layer, given, name=name: wanted.__setitem__(name, patches(layer, given[0]).double())
            ):
                model(x)
    seen: dict[str, Any] = {}
    inner = gptq_module._round

    def look(name: str, layer: Any, gathered: Any) -> Any:
        seen[name] = gathered.sum
        return inner(name, layer, gathered)

    monkeypatch.setattr(gptq_module, "_round", look)
    made(model, [x], gptq=True)
    for name, rows in wanted.items():
        assert torch.allclose(seen[name], rows.transpose(1, 2) @ rows, rtol=1e-4), name
