"""Folding, equalization, bias correction and AdaRound, each by what it promises."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.quantization.post_training.bias_correction import channel_means
from compress.quantization.post_training.equalization import Pair, equalize, find_pairs, input_rows, output_rows, scales
from compress.quantization.post_training.folding import fold_batch_norms
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer as Ptq
from compress.quantization.post_training.rounding.adaround import (
    Candidates,
    adaround,
    beta_at,
    regularizer,
    soft_rounding,
    start_of,
)
from tests.compress.harness import tiny_net

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(5))


def lived_in(net: nn.Module, seed: int = 0) -> nn.Module:
    """A network whose BatchNorms and channels are not alike, in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=draw)
            module.running_var.uniform_(0.3, 3, generator=draw)
            if module.affine:
                module.weight.data.uniform_(-1, 2, generator=draw)
                module.bias.data.normal_(generator=draw)
        elif isinstance(module, nn.Conv2d):
            module.weight.data *= torch.exp(2 * torch.randn(len(module.weight), 1, 1, 1, generator=draw))
    return net.eval()


class Branched(nn.Module):
    """Transposed, depthwise and flattened layers; a sum that parts what may not be scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, affine=False)
        self.depthwise, self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.c, self.d = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.prelu, self.pool = nn.PReLU(), nn.MaxPool2d(6)
        self.fc, self.last = nn.Linear(4 * 4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = self.prelu(self.b(self.depthwise(x)))
        x = nn.functional.relu6(self.c(x)) + x
        x = torch.flatten(self.pool(nn.functional.leaky_relu(self.d(x), 0.1)), 1)
        return self.last(torch.sigmoid(self.fc(x)))


def test_folding_keeps_the_function_and_the_names() -> None:
    for net, norms in (
        (lived_in(tiny_net()), {"conv1": "bn1", "conv2": "bn2"}),
        (lived_in(Branched()), {"a": "norm"}),
    ):
        before, names = net(X), {name: value.shape for name, value in net.state_dict().items()}
        norm = net.get_submodule(next(iter(norms.values())))
        weight = net.get_submodule(next(iter(norms))).get_parameter("weight").clone()
        scale = 1 / torch.sqrt(norm.running_var + norm.eps) * (norm.weight if norm.affine else 1)
        fold_batch_norms(net, norms)
        torch.testing.assert_close(net(X), before, rtol=1e-4, atol=1e-5)
        assert {name: value.shape for name, value in net.state_dict().items()} == names
        folded = net.get_submodule(next(iter(norms))).get_parameter("weight")
        torch.testing.assert_close(folded, weight * scale[:, None, None, None])
        noise = torch.randn(1, 8, 6, 6)
        shift = norm(noise) - noise  # the BatchNorm only adds now
        assert float(shift.detach().std((0, 2, 3)).max()) < 1e-5


def test_scales_make_ranges_equal() -> None:
    first, second = torch.randn(5, 7), 10 * torch.randn(5, 3)
    first[2] = 0
    s = scales(first, second)
    assert s[2] == 1
    a, b = (first / s[:, None]).abs().amax(1), (second * s[:, None]).abs().amax(1)
    keep = [0, 1, 3, 4]
    torch.testing.assert_close(a[keep], b[keep])


def test_equalization_keeps_the_output_and_equalizes() -> None:
    net = lived_in(Branched())
    norms = {"a": "norm"}
    fold_batch_norms(net, norms)
    before = net(X)
    pairs = find_pairs(net, X, norms)
    assert pairs == [Pair("a", "depthwise"), Pair("depthwise", "b"), Pair("d", "fc")]
    equalize(net, pairs, norms)
    torch.testing.assert_close(net(X), before, rtol=1e-4, atol=1e-4)
    for pair in pairs:
        rows = output_rows(net.get_submodule(pair.first))
        first = rows.abs().amax(1)
        second = input_rows(net.get_submodule(pair.second)).reshape(len(rows), -1).abs().amax(1)
        torch.testing.assert_close(first, second, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("gamma", [1e-30, 1e-9, 1e-3])
@pytest.mark.parametrize("folded", [True, False])
def test_a_channel_of_next_to_no_weight_keeps_its_bias(gamma: float, folded: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8) if folded else nn.Identity()
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        if folded:
            net[1].weight[::2] = gamma
            net[1].bias.uniform_(0.5, 1.0)
        else:
            net[0].weight[::2] *= gamma
            net[0].bias.uniform_(0.5, 1.0)
    x = torch.randn(8, 3, 6, 6)
    wanted = net.eval()(x)
    for equalization in (False, True):
        found = Ptq(per_channel_wts=True, equalization=equalization).quantize(net, [x])(x)
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_what_may_not_be_scaled_is_no_pair() -> None:
    def pairs(*layers: nn.Module) -> list[Pair]:
        return find_pairs(nn.Sequential(*layers).eval(), X, {})

    conv, other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    assert pairs(conv, nn.ReLU(), other) == [Pair("0", "2")]
    assert pairs(conv, nn.ReLU6(), other) == []
    assert pairs(conv, nn.BatchNorm2d(3), other) == []  # not folded
    assert pairs(conv, nn.ReLU(), conv) == []  # one module, called twice
    assert pairs(conv, nn.PixelUnshuffle(2), nn.Conv2d(12, 3, 1)) == []
    assert pairs(conv, nn.Conv2d(3, 6, 1, groups=3)) == []  # grouped, not depthwise
    assert pairs(nn.Linear(6, 8), nn.MaxPool2d((1, 2)), nn.Linear(4, 2)) == []  # pools over channels
    tied = nn.Conv2d(3, 3, 1)
    tied.weight = conv.weight
    assert pairs(conv, nn.ReLU(), other, nn.ReLU(), tied) == []


CLIPPED = {"bn1", "bn2", "norm"}  # a ReLU alone reads them


def test_bias_correction_removes_the_mean_error() -> None:
    for net, biases in ((lived_in(tiny_net()), {"bn1", "bn2", "fc"}), (lived_in(Branched()), {"norm", "b", "last"})):
        batches = list(torch.randn(4, 16, 3, 6, 6, generator=torch.Generator().manual_seed(1)))
        wrong = errors(net, Ptq(bits_parameters=3, bits_activations=32), batches, biases)
        right = errors(net, Ptq(bits_parameters=3, bits_activations=32, bias_correction=True), batches, biases)
        for name in biases:
            assert wrong[name] > 1e-3
            within = 0.4 if name in CLIPPED else 1e-4  # behind a ReLU the mean is approached
            assert right[name] < within * wrong[name] + 1e-4, name


def errors(net: nn.Module, quantizer: Ptq, batches: list[Tensor], names: set[str]) -> dict[str, float]:
    """The largest mean error of a channel at the outputs of modules, measured apart from the code under test."""
    seen: dict[tuple[int, str], list[Tensor]] = {}
    for i, model in enumerate((copy.deepcopy(net), quantizer.quantize(net, batches))):
        for name in names:
            own = seen.setdefault((i, name), [])
            model.get_submodule(name).register_forward_hook(
                lambda m, x, y, own=own, name=name: own.append((y.relu() if name in CLIPPED else y).detach().clone())
            )
        for batch in batches:
            model(batch)
    found = {}
    for name in names:
        float_, rounded = (torch.cat(seen[i, name]).double() for i in (0, 1))
        kept = [i for i in range(float_.dim()) if i != 1]
        found[name] = float((rounded - float_).mean(kept).abs().max())
    return found


def test_channel_means_weigh_batches_by_their_size() -> None:
    a, b = torch.randn(3, 2, 4), torch.randn(1, 2, 7)
    expected = torch.cat([a.movedim(1, 0).flatten(1), b.movedim(1, 0).flatten(1)], 1).mean(1)
    torch.testing.assert_close(channel_means([a, b], 1).float(), expected)


def test_a_layer_without_a_bias_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3))
    quantizer = Ptq(bits_parameters=4, bias_correction=True)
    quantizer.quantize(net, [X])
    assert "no bias to correct in 0" in quantizer.notes


def test_soft_rounding() -> None:
    fraction = torch.linspace(0, 0.999, 50)
    torch.testing.assert_close(soft_rounding(start_of(fraction)), fraction, atol=1e-5, rtol=1e-5)
    assert soft_rounding(torch.tensor([-9.0, 9.0])).tolist() == [0, 1]
    assert float(regularizer(torch.tensor([0.0, 1.0]), 4.0)) == 0
    assert float(regularizer(torch.tensor([0.5]), 4.0)) == 1
    assert float(regularizer(torch.tensor([0.75]), 2.0)) == pytest.approx(0.75)
    assert (beta_at(0, 100), beta_at(20, 100), beta_at(100, 100)) == (20, 20, 2)
    assert beta_at(60, 100) == pytest.approx(11)


def correlated(count: int) -> list[Tensor]:
    """Smooth images, whose neighbouring values are alike, so that rounding errors may cancel."""
    noise = torch.randn(count, 32, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return [nn.functional.avg_pool2d(each, 3, 1) + 1 for each in noise]


def test_adaround_beats_nearest_and_moves_a_weight_by_one_step_at_most() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 8, 3), relu=nn.ReLU(), b=nn.Conv2d(8, 4, 3, bias=False))).eval()
    with torch.no_grad():
        net.a.weight[0, 0] = 0  # pruned
    batches, settings = correlated(2), {"bits_parameters": 3, "bits_activations": 8}
    plain = Ptq(**settings).quantize(net, batches)  # type: ignore[arg-type]
    quantizer = Ptq(adaround=True, adaround_steps=250, **settings)  # type: ignore[arg-type]
    learned = quantizer.quantize(net, batches)
    assert [each.name for each in quantizer.rounding] == ["a", "b"]
    for each in quantizer.rounding:
        assert each.learned < 0.7 * each.nearest
        assert each.changed > 0.02
    for name in ("a", "b"):
        weight, layer = net.get_submodule(name).weight, learned.get_submodule(name)
        grid = layer.weight_quantizer.grid()
        ratio = weight / grid.scale
        integers = grid.integers(layer.weight)
        torch.testing.assert_close(layer.quantized_weight(), layer.weight, atol=1e-6, rtol=1e-6)  # it is on the grid
        off = integers - torch.floor(ratio).clamp(grid.low, grid.high)
        assert set(off.unique().tolist()) <= {0, 1}
        assert set(off[ratio == ratio.floor()].tolist()) <= {0}
    assert bool((learned.a.quantized_weight()[0, 0] == 0).all())
    right = torch.cat([net(x) for x in batches])
    error = {key: float((torch.cat([m(x) for x in batches]) - right).square().mean().detach())
             for key, m in (("nearest", plain), ("learned", learned))}  # fmt: skip
    assert error["learned"] < 0.7 * error["nearest"]


def test_adaround_never_does_worse_than_nearest() -> None:
    """One step learns nothing: rounding stays what it was."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    quantized = Ptq(bits_parameters=3, bits_activations=32).quantize(net, [X])
    weight = quantized.get_submodule("0").quantized_weight().clone()
    (result,) = adaround(quantized, net, ["0"], [X], 1)
    assert result.learned <= result.nearest
    if result.changed == 0:
        torch.testing.assert_close(quantized.get_submodule("0").weight, weight)


def test_candidates_are_both_neighbours() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    quantized = Ptq(bits_parameters=4, bits_activations=32, per_channel_wts=True).quantize(net, [X])
    layer = quantized.get_submodule("0")
    candidates = Candidates(layer)
    ones = torch.ones_like(layer.weight)
    down, up = candidates.values(0 * ones), candidates.values(ones)
    assert bool((down <= layer.weight + 1e-6).all())
    step = layer.weight_quantizer.step.reshape(-1, 1, 1, 1)
    inside = (layer.weight / step).ceil() <= 7
    torch.testing.assert_close((up - down)[inside], (ones * step)[inside])
    torch.testing.assert_close(candidates.nearest(), layer.quantized_weight())
