"""Results of batch norms, which fake tensors compute by a dozen smaller operations, and of which networks have many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


class QuickResults:
    """Gives the shape, type, layout and differentiability of a result by one addition.

    Args:
        fake_mode: of the tensors.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        # Adding a lone number keeps shape, type (each floating-point one) and layout, and the sum has a gradient
        # function exactly if one of the two needs gradients.
        fixed, learned = torch.zeros(()), torch.zeros((), requires_grad=True)
        self._fixed, self._learned = fake_mode.from_tensor(fixed), fake_mode.from_tensor(learned)

    def of(self, func: Any, args: Any) -> Tensor | None:
        """The result of an operation; None if it has to be run: for any other one, and where sizes do not fit."""
        if func is not torch.ops.aten.batch_norm.default or torch._C._is_any_autocast_enabled():
            return None
        image, *vectors = args[:5]
        given = [each for each in vectors if each is not None]
        fits = all(each.shape == image.shape[1:2] and each.dtype == image.dtype for each in given)
        if not fits or not image.is_floating_point():
            return None
        learned = any(each.requires_grad for each in (image, *given))
        return torch.add(image, self._learned if learned else self._fixed)
