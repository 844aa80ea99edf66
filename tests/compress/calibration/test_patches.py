"""`patches`: rows times the weight are what the layer gives, also where its class pads the input by its own code."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.calibration import patches as module
from compress.calibration.patches import multiplies_by_its_weight, patches, thinned_rows


class PadsItself(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (0, 1, 0, 1))
        return functional.conv2d(x, self.weight, self.bias, self.stride, "valid", self.dilation, self.groups)


class OtherPadding(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv1d(x, self.weight, self.bias, padding="same", dilation=2)


class Standardised(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight / weight.std(), bias)


LAYERS = [
    nn.Conv2d(6, 4, 3, 2, 1), nn.Conv2d(6, 6, 3, groups=3, padding="same", dilation=2, bias=False),
    nn.Conv2d(6, 4, (3, 1), padding=(1, 0), padding_mode="reflect"), PadsItself(6, 4, 3, 2),
    PadsItself(6, 6, 4, 2, groups=6), nn.Conv1d(6, 4, 3, padding=1), OtherPadding(6, 4, 3), nn.Linear(5, 4),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@torch.no_grad()
def test_rows_times_the_weight_are_the_output(layer: Any) -> None:
    shape = (2, 6, 9, 8) if isinstance(layer, nn.Conv2d) else (2, 6, 9) if isinstance(layer, nn.Conv1d) else (2, 5)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    groups = getattr(layer, "groups", 1)
    rows = patches(layer, x) @ layer.weight.reshape(groups, len(layer.weight) // groups, -1).transpose(1, 2)
    if layer.bias is not None:
        rows = rows + layer.bias.view(groups, 1, -1)
    wanted = layer(x) if isinstance(layer, nn.Linear) else layer(x).flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(rows.transpose(0, 1).flatten(1), wanted, atol=1e-5)
    assert multiplies_by_its_weight(layer, x)


def test_a_weight_that_is_computed_anew_is_not_the_parameter() -> None:
    x = torch.randn(1, 6, 5, 5)
    assert not multiplies_by_its_weight(Standardised(6, 4, 3), x)
    assert not multiplies_by_its_weight(nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3)), x)


def test_thinning_keeps_at_least_as_many_positions_as_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUMBERS_OF_A_BATCH", 64)
    assert thinned_rows(torch.zeros(2, 100, 4)).shape[1] == 8  # 64 numbers: 8 positions of 4 in 2 groups
    assert thinned_rows(torch.zeros(2, 100, 20)).shape[1] == 20
    assert thinned_rows(torch.zeros(2, 100, 7), 4).shape[1] == 8
