"""Terms of many weights: values and gradients are, to the bit, those of the sums as one writes them."""

import pytest
import torch
from torch import Tensor

from compress.groups import group_norms
from compress.regularization.terms import sum_of_magnitudes, sum_of_norms

TILES = [(1, 4, 3, 3), (8, 1, 3, 3), (1, 1, 3, 3), (8, 1, 1, 1)]
STRENGTHS = [1e-4, 0.3, 7e-3, 2.0]


TYPES = {
    "float32": [torch.float32] * 4,
    "bfloat16": [torch.bfloat16] * 4,
    "mixed": [torch.bfloat16, torch.float32, torch.float64, torch.float16],
}


def weights(types: str) -> list[Tensor]:
    torch.manual_seed(0)
    made = [torch.randn(8, 4, 3, 3).to(dtype) for dtype in TYPES[types]]
    made[0][2] = 0.0  # a whole filter
    made[1][:, :, 1] = -0.0
    return [each.requires_grad_() for each in made]


@pytest.mark.parametrize("factor", [1.0, 0.37])
@pytest.mark.parametrize("kind", ["norms", "magnitudes"])
@pytest.mark.parametrize("types", TYPES)
def test_they_are_the_written_sums(types: str, kind: str, factor: float) -> None:
    plain, quick = weights(types), weights(types)
    pairs = list(zip(plain, STRENGTHS, TILES, strict=True))
    if kind == "norms":
        pairs.append((plain[1], 0.9, TILES[0]))  # Rows+Cols: the same weight with other groups
        written = torch.stack([s * group_norms(w, tile, 2).sum() for w, s, tile in pairs]).sum()
        term = sum_of_norms([*quick, quick[1]], [*STRENGTHS, 0.9], [*TILES, TILES[0]])
    else:
        written = torch.stack([s * w.abs().sum() for w, s, _ in pairs]).sum()
        term = sum_of_magnitudes(quick, STRENGTHS)
    ((written + sum(w.square().sum() for w in plain)) * factor).backward()
    ((term + sum(w.square().sum() for w in quick)) * factor).backward()
    assert torch.equal(term, written)
    for a, b in zip(quick, plain, strict=True):
        assert torch.equal(a.grad, b.grad)
