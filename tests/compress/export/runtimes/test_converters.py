"""What the converters' files compute: the program itself is the reference. Skipped where a runtime is missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.export.decomposed import load_program
from compress.export.runtimes.base import Converted
from compress.export.runtimes.executorch import merge_clips
from compress.export.runtimes.sources import write_source
from compress.export.runtimes.table import RUNTIMES
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from compress.quantization.range_linear import QuantAwareTrainRangeLinearQuantizer


class Tied(nn.Module):
    """Two convolutions with one weight, whose inputs are of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.a, self.b = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(torch.relu(self.i(x)))) * 12
        found: Tensor = self.c(torch.relu(self.b(y)))
        return found


class Named(nn.Module):
    """A dictionary of outputs, or one with a single output and something that is no tensor."""

    def __init__(self, both: bool = True) -> None:
        super().__init__()
        self.both = both
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = torch.relu(self.a(x))
        if not self.both:
            return {"none": None, "size": 3, "z": self.b(y)}
        return {"z": self.b(y), "a": 10 * y}


def chain(shift: float = 0.0) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.add_(shift)  # type: ignore[operator]
    return nn.Sequential(*layers).eval()


def post_trained(model: nn.Module, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    batches = [torch.randn(4, 3, 16, 16) for _ in range(3)]
    options = {"per_channel_wts": True, **options}
    return PostTrainLinearQuantizer(**options).quantize(model.eval(), batches)


def converted(name: str, model: nn.Module, folder: Path) -> tuple[float, Sequence[str] | None, Converted]:
    """Mean difference to the network as a share of its largest output, layers in integers, what the converter says."""
    reason = RUNTIMES[name].available()
    if reason:
        pytest.skip(reason)
    torch.manual_seed(1)
    x = torch.randn(1, 3, 16, 16)
    source = write_source("net", model, [(x,)], folder, {"program"})
    (folder / "out").mkdir()
    file = RUNTIMES[name].convert(source, str(folder / "out"))
    loaded = RUNTIMES[name].load(file.file, "float32", 1)
    with torch.no_grad():
        wanted = [each for each in torch.utils._pytree.tree_leaves(model(x)) if isinstance(each, Tensor)]
    found = [torch.from_numpy(each) for each in loaded.run([x.numpy()])]
    assert [each.shape for each in found] == [each.shape for each in wanted]
    off = max(float((a - b).abs().mean() / b.abs().max()) for a, b in zip(found, wanted, strict=True))
    return off, loaded.kernels(source.layers), file


@pytest.mark.slow
def test_layers_of_one_weight_keep_the_scales_of_their_own_inputs(tmp_path: Path) -> None:
    """They were swapped in ncnn: 18 % off."""
    torch.manual_seed(0)
    off, layers, _ = converted("ncnn", post_trained(Tied(), round_results="all"), tmp_path)
    assert layers is not None
    assert len(layers) == 4
    assert off < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncnn", "executorch", "litert"])
@pytest.mark.parametrize("bits", [4, 2])
def test_activations_below_8_bits_keep_their_steps(name: str, bits: int, tmp_path: Path) -> None:
    """ncnn rounded them to other steps (4 and 13 % off), and ExecuTorch refused them."""
    torch.manual_seed(0)
    model = post_trained(chain(), bits_activations=bits, bits_parameters=8)
    off, layers, file = converted(name, model, tmp_path)
    assert off < 0.005  # an input that lies between two of 4 values
    assert layers is not None
    assert len(layers) >= 2
    assert not any("7 of their 8 bits" in each for each in file.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncnn", "executorch", "litert"])
def test_weights_with_a_zero_point_run_in_float(name: str, tmp_path: Path) -> None:
    """Kernels took the zero point for 0: 28 % off. LiteRT did not load the file."""
    torch.manual_seed(0)
    model = post_trained(chain(0.2), mode="ASYMMETRIC_UNSIGNED", per_channel_wts=False, round_results="all")
    off, layers, file = converted(name, model, tmp_path)
    assert off < 0.01
    assert layers == []
    assert "0, 2, 4: in float, because" in " ".join(file.notes)


@pytest.mark.slow
def test_integers_that_xnnpack_leaves_run_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here because two clips behind a layer stay two."""
    monkeypatch.setattr("compress.export.runtimes.executorch.merge_clips", lambda module: None)
    torch.manual_seed(0)
    off, layers, _ = converted("executorch", post_trained(chain(), bits_activations=4, bits_parameters=8), tmp_path)
    assert off < 0.005
    assert layers == []


@pytest.mark.slow
@pytest.mark.parametrize("both", [True, False])
def test_a_dictionary_of_outputs_comes_in_its_order(both: bool, tmp_path: Path) -> None:
    """The row had the text of PyTorch's tracer."""
    torch.manual_seed(0)
    off, _, _ = converted("ncnn", Named(both).eval(), tmp_path)
    assert off < 1e-5


@pytest.mark.parametrize("gamma", [[1.0, -1, 2, -0.5], [1.0, 0, 2, 0.5]])
def test_batch_norms_are_folded_into_weights_with_a_zero_point(gamma: list[float], tmp_path: Path) -> None:
    """A factor of 0 made integers of 0 instead of the zero point: off by 39 % of the largest value."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight.add_(0.1)  # type: ignore[operator]
        model[0].weight.clamp_min_(0.02 - 0.1)  # type: ignore[operator]
        model[1].weight.copy_(torch.tensor(gamma))  # type: ignore[operator]
        model[1].bias.normal_()  # type: ignore[operator]
    x = torch.randn(2, 3, 8, 8)
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        bits_activations=8, bits_weights=8, mode="ASYMMETRIC_UNSIGNED", example_inputs=x
    )
    quantizer.prepare(model, None)
    quantizer.convert(model)
    with torch.no_grad():
        model.train()(x)
        model.eval()
        found = load_program(write_source("net", model, [(x,)], tmp_path, {"program"}).program).module()(x)
        wanted = model(x)
    assert (found - wanted).abs().mean() < 1e-3 * wanted.abs().max()


def test_clips_become_one() -> None:
    """No value changes, also where one in place writes what another operation reads."""

    class Clips(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            y = x + 1
            return (
                torch.relu(x).clamp(-1, 2),
                nn.functional.hardtanh(nn.functional.relu6(x), -3, -2),
                x.clamp(-1, 1).clamp(0.5, 3),
                torch.relu(x),
                x.clamp(min=1).clamp(0, 2),
                nn.functional.hardtanh_(y, -2, 2) + y,
            )

    x = torch.linspace(-8, 8, 33)
    module = torch.export.export(Clips(), (x,)).module()
    merge_clips(module)
    for found, wanted in zip(module(x), Clips()(x), strict=True):
        assert torch.equal(found, wanted)
    kinds = [str(node.target).split(".")[1] for node in module.graph.nodes if str(node.target).startswith("aten.")]
    assert sum("relu" in each for each in kinds) == 1
    assert kinds.count("hardtanh") >= 4
