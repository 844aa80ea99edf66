"""AdaRound where gradients are off."""

import pytest
import torch
from torch import nn

from compress import PostTrainLinearQuantizer
from compress.errors import UserError


def test_gradients_are_off_around_it() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), torch.rand(16, 6)

    def quantized() -> nn.Module:
        settings = {"bits_parameters": 3, "adaround": True, "adaround_steps": 3, "example_inputs": x[:1]}
        return PostTrainLinearQuantizer(**settings).quantize(network, [x])  # type: ignore[arg-type]

    made = quantized().state_dict()
    with torch.no_grad():
        found = quantized().state_dict()
    assert all(torch.equal(made[name], each) for name, each in found.items())
    with torch.inference_mode(), pytest.raises(UserError, match="AdaRound learns by gradients.*quantize outside it"):
        quantized()
