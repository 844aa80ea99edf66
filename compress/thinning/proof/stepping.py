"""Whether masked and thinned network train alike under an optimizer: `other_steps`.

SGD and Adam update each element by itself. Some take a step from the whole tensor: factored second moments, an
orthogonal update, a preconditioner, a rate by the tensor's norm. Found by a few steps of the optimizer on a small
matrix with rows and columns of zeros, and on the same matrix without them; no list of names is complete.
"""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

KNOWN = frozenset(
    """adafactor adafactorbigvision adahessian adamini came dion galoreadamw kron lamb larc lars lbfgs muon novograd
    nvnovograd shampoo sm3 soap""".split()  # noqa: SIM905
)
"""Names, in lower case, for those that do not step a matrix of their own accord."""
STEPS, TOLERANCE, LEAST_RATE = 3, 1e-9, 1e-3


def other_steps(optimizer: torch.optim.Optimizer) -> str:
    """A sentence if the step of an element depends on the tensor that it is part of; '' if not."""
    name = type(optimizer).__name__
    try:
        alike = all(_alike(optimizer, group) for group in optimizer.param_groups)
    except Exception:  # any optimizer's code runs here, on what it was not made for
        alike = name.lower().replace("_", "") not in KNOWN
    return "" if alike else NOTE.format(name)


NOTE = (
    "{0} takes the step of an element from the whole tensor, which has another shape now: from here on the thinned "
    "network trains otherwise than the masked one would (under SGD, Adam or AdamW it would train alike)"
)


def _alike(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    random = torch.Generator().manual_seed(0)
    stays = torch.ones(8, 6, dtype=torch.float64)
    stays[[2, 3, 7]] = 0
    stays[:, [1, 4]] = 0
    # What is masked has a gradient all the same.
    values = [torch.randn(8, 6, generator=random, dtype=torch.float64) for _ in range(STEPS + 1)]
    whole, smaller = (nn.Parameter(each) for each in (values[0] * stays, _cut(values[0])))
    for parameter, part in ((whole, lambda each: each), (smaller, _cut)):
        copied = _copy_for(optimizer, group, parameter)
        for gradient in values[1:]:
            parameter.grad = part(gradient).clone()
            with contextlib.redirect_stdout(None), torch.enable_grad():
                copied.step()
            with torch.no_grad():
                if parameter is whole:
                    parameter.mul_(stays)
    return torch.allclose(_cut(whole.detach()), smaller.detach(), rtol=TOLERANCE, atol=TOLERANCE)


def _cut(matrix: Tensor) -> Tensor:
    return matrix[[0, 1, 4, 5, 6]][:, [0, 2, 3, 5]]


def _copy_for(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: nn.Parameter) -> Any:
    """The same optimizer for one parameter, without what it knows of its own."""
    made: Any = copy.copy(optimizer)
    made.state = defaultdict(dict)
    rate = group.get("lr", 0.0)
    rate = max(float(rate), LEAST_RATE)  # a schedule may begin at 0, where nothing is seen
    made.param_groups = [{**group, "params": [parameter], "lr": rate}]
    return made
