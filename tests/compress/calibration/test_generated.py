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
