"""Tensors that an optimizer and autograd know: new values of another shape in place, joining an optimizer, copies.

`replace_data`, `add_group`, `copied`.
"""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils import _pytree as pytree

from compress.errors import UserError

N = TypeVar("N", bound=nn.Module)


@torch.no_grad()
def replace_data(tensor: Tensor, values: Tensor) -> None:
    """Gives a parameter or buffer other values, which may have another shape or type; the object stays the same.

    Its gradient is dropped. While a loss of an earlier minibatch is alive (a loop's variable keeps it), so is the
    node of autograd that the parameter's gradient goes to, and autograd would take it again and refuse a gradient of
    the new shape. It lets go of that node when the type of the data changes, so the type is changed for a moment.
    """
    if tensor.is_leaf:
        tensor.grad = None
    if tensor.is_floating_point() or tensor.is_complex():
        other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
        kept = torch.complex64 if tensor.dtype == torch.complex128 else torch.complex128
        tensor.data = tensor.data.new_empty(0, dtype=kept if tensor.is_complex() else other)
    tensor.data = values


HALVES = (torch.bfloat16, torch.float16)


def widened(tensor: Tensor) -> Tensor:
    """A tensor of bfloat16 or float16 in float32, with its gradient; others as they are."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def add_group(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], options: Mapping[str, Any]) -> None:
    """Puts parameters in a group of the optimizer of their own, with their names where the optimizer keeps names.

    Args:
        optimizer: of the training loop.
        parameters: by name.
        options: of the group, where they differ from the first group's rate and the optimizer's defaults.

    Raises:
        UserError: this optimizer cannot train them.
    """
    first = optimizer.param_groups[0]
    members: list[Any] = list(parameters.items() if "param_names" in first else parameters.values())
    kind = type(optimizer).__name__
    if isinstance(optimizer, LBFGS):
        raise UserError(f"{kind} has one group of parameters only, so {next(iter(parameters))!r} would not be trained")
    try:
        optimizer.add_param_group({"params": members, "lr": first["lr"], **options})
    except (ValueError, TypeError) as e:
        raise UserError(f"{kind} does not take {next(iter(parameters))!r} in a group of its own: {e}") from e


def copied(model: N) -> N:
    """A deep copy of a network, on its device.

    A network may keep what it has computed: its last features, or a weight that `torch.nn.utils.prune` or the older
    `weight_norm` makes anew in each forward pass. torch refuses to copy tensors with a history, so the copy has their
    values alone.

    Raises:
        UserError: it cannot be copied.
    """
    kept = [leaf for module in model.modules() for leaf in pytree.tree_leaves(_own_attributes(module))]
    memo: dict[int, Any] = {
        id(each): each.detach().clone() for each in kept if isinstance(each, Tensor) and each.grad_fn
    }
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as e:
        raise UserError(f"{type(model).__name__} cannot be copied: {' '.join(str(e).split())[:300]}") from e


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in ("_parameters", "_modules")}
