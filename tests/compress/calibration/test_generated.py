"""`generate_inputs`: the statistics are met, limits are kept, seeds repeat, networks without statistics are refused."""

import pytest
import torch
from torch import Tensor, nn

from compress.calibration.generated import generate_inputs, noise
from compress.errors import UserError


def trained(network: nn.Module, data: Tensor) -> nn.Module:
    """With the statistics of these data."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        network.train()(data)
    return network.eval()


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = [
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
    ]
    return nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(3))


def test_inputs_have_the_statistics_that_batch_norm_holds() -> None:
    torch.manual_seed(1)
    network = trained(net(), torch.randn(64, 2, 9, 9) * 1.5 + 1)
    (made,) = generate_inputs(network, torch.zeros(1, 2, 9, 9), 1, batch_size=32, steps=60)
    given = network[0](made).detach().transpose(0, 1).flatten(1)  # type: ignore[index]
    norm = network[1]  # type: ignore[index]
    assert made.shape == (32, 2, 9, 9)
    assert torch.allclose(given.mean(1), norm.running_mean, atol=0.3 * float(norm.running_var.sqrt().max()))
    assert torch.allclose(given.std(1), norm.running_var.sqrt(), rtol=0.2)


def test_limits_seeds_and_the_network_stays() -> None:
    network = trained(net(), torch.rand(8, 2, 9, 9))
    before = {name: each.clone() for name, each in network.state_dict().items()}
    limits = (torch.full((2, 1, 1), -0.5), torch.full((2, 1, 1), 0.25))
    made = generate_inputs(network, torch.zeros(1, 2, 9, 9), 2, batch_size=4, steps=3, limits=limits)
    again = generate_inputs(network, torch.ones(1, 2, 9, 9), 2, batch_size=4, steps=3, limits=limits)
    assert len(made) == 2
    assert all(float(x.min()) >= -0.5 and float(x.max()) <= 0.25 and not x.requires_grad for x in made)
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))
    assert not torch.equal(*made)
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


def test_features_of_a_vector_and_no_grad_around() -> None:
    torch.manual_seed(0)
    network = trained(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(32, 3))
    with torch.no_grad():
        (made,) = generate_inputs(network, torch.zeros(1, 3), 1, batch_size=8, steps=2)
    assert made.shape == (8, 3)


def test_noise_of_images_is_smooth_and_of_unit_size() -> None:
    x = noise((4, 3, 32, 32), torch.Generator().manual_seed(0))
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std()) == pytest.approx(1, abs=1e-4)
    assert float((x[..., 1:] * x[..., :-1]).mean()) > 0.4  # neighbours are alike
    assert noise((4, 3, 2, 2), torch.Generator()).shape == (4, 3, 2, 2)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.round().detach())  # type: ignore[no-any-return]


class Unused(Detached):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_refusals() -> None:
    x = torch.zeros(1, 3)
    with pytest.raises(UserError, match="Linear has no BatchNorm with running statistics"):
        generate_inputs(nn.Linear(3, 3), x, 1)
    with pytest.raises(UserError, match="no BatchNorm with running statistics"):
        generate_inputs(nn.BatchNorm1d(3, track_running_stats=False), x, 1)
    with pytest.raises(UserError, match="given a torch.int64 tensor"):
        generate_inputs(nn.BatchNorm1d(3), torch.zeros(1, 3, dtype=torch.long), 1)
    with pytest.raises(UserError, match="no gradient reaches the network's input"):
        generate_inputs(Detached(), x, 1)
    with pytest.raises(UserError, match="runs none of its BatchNorm layers"):
        generate_inputs(Unused(), x, 1)
    broken = nn.BatchNorm1d(3)
    assert broken.running_var is not None
    broken.running_var[1] = float("nan")
    with pytest.raises(UserError, match="holds NaN or infinite statistics"):
        generate_inputs(nn.Sequential(broken), x, 1)


def test_the_default_type_of_numbers_changes_no_input() -> None:
    made = noise((2, 3, 16, 16), torch.Generator().manual_seed(0))
    torch.set_default_dtype(torch.float64)
    try:
        again = noise((2, 3, 16, 16), torch.Generator().manual_seed(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(made, again)


@pytest.mark.parametrize("name", ["0.weight", "1.bias", "extra"])
def test_a_network_that_holds_nan_is_refused(name: str) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    network.register_buffer("extra", torch.full((2,), float("inf")))
    generate_inputs(network, torch.zeros(1, 3), 1, batch_size=4, steps=1)  # a mask may be infinite
    dict([*network.named_parameters(), *network.named_buffers()])[name].data.flatten()[0] = float("nan")
    with pytest.raises(UserError, match=f"{name} holds NaN or infinite values; no inputs can be generated"):
        generate_inputs(network, torch.zeros(1, 3), 1, batch_size=4, steps=1)


@pytest.mark.parametrize(
    ("low", "high", "why"),
    [
        (torch.tensor(float("nan")), torch.ones(()), "limits: they hold NaN"),
        (torch.ones(3), torch.tensor([2.0, 0.0, 2.0]), "limits: a least value is above the largest"),
        (torch.zeros(2), torch.ones(2), "limits: of shapes .2. and .2., which do not broadcast to the inputs' .4, 3."),
    ],
)
def test_limits_that_make_no_sense_are_refused(low: Tensor, high: Tensor, why: str) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(UserError, match=why):
        generate_inputs(network, torch.zeros(1, 3), 1, batch_size=4, steps=1, limits=(low, high))


def test_an_example_without_a_batch_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()
    with pytest.raises(UserError, match="of shape .2, 9, 9., dimension 0 being the batch .* does not take 4 such"):
        generate_inputs(network, torch.zeros(2, 9, 9), 1, batch_size=4, steps=1)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(input=x)  # type: ignore[no-any-return]


def test_a_norm_called_by_name_within_inference_mode() -> None:
    with torch.inference_mode():
        (made,) = generate_inputs(Named(), torch.zeros(1, 3), 1, batch_size=4, steps=1)
    assert made.shape == (4, 3)
    assert not made.is_inference()
