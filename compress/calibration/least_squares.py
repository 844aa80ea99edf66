"""Ridge regression of a layer's outputs on its inputs, for all groups of a convolution at once.

`ridge_step`.
"""

import torch
from torch import Tensor

RIDGE = 0.01  # of the inputs' mean power: how firmly a weight is held where the data do not tell


def ridge_step(square: Tensor, cross: Tensor, kept: Tensor, firmness: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The change of the weights that brings the outputs nearest to a target.

    Args:
        square: sum of x x', (groups, inputs, inputs), double precision.
        cross: sum of x e', e being what the outputs lack, (groups, inputs, outputs).
        kept: which weights may change, (groups, outputs, inputs).
        firmness: what is added to the diagonal of `square` beside the ridge, (groups, inputs).

    Returns:
        the change, (groups, outputs, inputs), and the squared error of each output that it takes, (groups, outputs).
    """
    held = RIDGE * square.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-12
    held = held.expand(square.shape[:2]) if firmness is None else held + firmness
    step = torch.linalg.solve(square + torch.diag_embed(held), cross).transpose(1, 2) * kept
    gained = 2 * (step.transpose(1, 2) * cross).sum(1) - ((step @ square) * step).sum(2)
    step = step * (gained > 0)[..., None]  # a row that it would make worse stays
    return step, gained.clamp_min(0)
