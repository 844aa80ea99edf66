"""What is said of networks that cannot be traced."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.errors import UserError
from compress.graph.calls import Call
from compress.graph.recording.untraced import replaced_weights
from compress.graph.trace import trace_model


class Fused(nn.Module):
    """spandrel's SPAN: in eval mode a forward pass writes the weight of the layer that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.deployed = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.one(x)
        weight = self.one.weight.data.clone().detach()
        self.fused = functional.conv2d(weight, torch.eye(3).view(3, 3, 1, 1))
        self.deployed.weight.data = self.fused.contiguous()
        return self.deployed(x)


def test_a_weight_written_through_data_is_named() -> None:
    model, x = Fused().eval(), torch.rand(1, 3, 4, 4)
    assert replaced_weights(model, Call(x)) == ["deployed.weight"]
    with pytest.raises(UserError, match=r"forward replaces deployed.weight through `.data`.*F.conv2d"):
        trace_model(model, x)


def test_a_network_that_does_not_run_replaces_nothing() -> None:
    assert replaced_weights(nn.Linear(2, 3), Call(torch.rand(1, 5))) == []


class Forward(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, follow):
        super().__init__()
        self.conv, self.follow = nn.Conv2d(3, 8, 3), follow

    def forward(self, x):
        return self.follow(self.conv(x))


def clipped(y):
    return y * 2 if y.sum() > 0 else y


@pytest.mark.parametrize(
    ("follow", "said"),
    [
        (
            lambda y: y.view(2, 7, -1),
            "is invalid for input of size 576.*The model itself does not run on these inputs: give",
        ),
        (lambda y: y.nothing, "The model itself does not run on these inputs.*mend that line"),
        (clipped, "data-dependent.*A trace has shapes and no values: take what looks at values"),
        (lambda y: torch.from_numpy(y.detach().numpy()), "numpy.*A trace has shapes and no values: take what looks"),
    ],
)
def test_the_advice_is_about_what_failed(follow, said):
    with pytest.raises(UserError, match=rf"(?s){said}"):
        trace_model(Forward(follow), torch.rand(2, 3, 8, 8))
