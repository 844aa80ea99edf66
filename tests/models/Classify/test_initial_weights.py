"""How a network starts."""

import pytest
import torch
from torch import nn

from compress.errors import UserError
from models.Classify.initial_weights import initialise, start
from options.Classify_options.train_options import TrainOptions


@pytest.mark.parametrize("how", ["kaiming", "xavier", "orthogonal"])
def test_initialisations(net: nn.Module, how: str) -> None:
    before = net[0].weight.clone()
    initialise(net, how)
    assert not torch.equal(net[0].weight, before)
    assert not net[0].bias.any()
    if how == "orthogonal":
        flat = net[5].weight
        gram = flat @ flat.T
        assert torch.allclose(gram, torch.eye(2), atol=1e-5)


def test_own_leaves_the_network_alone(net: nn.Module) -> None:
    before = net[0].bias.clone()
    initialise(net, "own")
    assert torch.equal(net[0].bias, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretrained", "--weights=.", "--arch=timm:x"], "--pretrained and --weights are two ways to start"),
        (["--pretrained"], "is for --arch=torchvision:NAME and timm:NAME; others have no trained weights"),
        (["--weights=absent.pt"], "--weights=absent.pt: there is no such file"),
    ],
)
def test_weights_that_cannot_be_had(net: nn.Module, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(net, TrainOptions().parse(arguments))


def test_the_librarys_weights_are_matched(monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> None:
    given = {name: value + 1 for name, value in net.state_dict().items()}
    given["5.weight"] = torch.zeros(1000, 4)  # another number of classes
    monkeypatch.setattr("models.Classify.initial_weights.library_weights", lambda arch: given)
    start(net, TrainOptions().parse(["--pretrained", "--arch=torchvision:resnet18"]))
    assert torch.equal(net.state_dict()["0.weight"], given["0.weight"])
