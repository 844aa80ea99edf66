"""Fake tensors for a model's tensors and inputs: shape, type and device, and no numbers."""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

KINDS = (Tensor, nn.Parameter, FakeTensor)
"""Types of tensors that are what they seem; any other class may compute anything."""
PLAIN = (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.memory_format, torch.layout)
"""Types of arguments that are no tensors."""


class Unrecordable(Exception):
    """A pass does what only torch.export can write down."""


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is of no class of its own, and inside no transformation such as `torch.vmap`."""
    return type(tensor) in KINDS and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def memory_of(tensor: Tensor) -> int:
    """Identity of the memory in which a tensor lies; a sparse one has none that torch shows, and counts as its own."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def fakes_of(model: nn.Module, fake_mode: FakeTensorMode) -> dict[str, Tensor]:
    """Fake tensors for all parameters and buffers by all their names, the same one for the same tensor.

    Raises:
        Unrecordable: one is of a class of its own.
    """
    own = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    odd = next((name for name, tensor in own if not is_plain(tensor)), None)
    if odd is not None:
        raise Unrecordable(f"{odd} is of a class of its own")
    tensors = {id(tensor): tensor for _, tensor in own}
    sharing = collections.Counter(memory_of(tensor) for tensor in tensors.values())
    fakes = {
        key: _lone(tensor, fake_mode)
        if sharing[memory_of(tensor)] == 1 and _is_simple(tensor)
        else fake_mode.from_tensor(tensor, static_shapes=True)
        for key, tensor in tensors.items()
    }
    return {name: fakes[id(tensor)] for name, tensor in own}


def _is_simple(tensor: Tensor) -> bool:
    leaf = type(tensor) is nn.Parameter or not tensor.requires_grad
    return leaf and not tensor.is_complex() and tensor.layout is torch.strided and not tensor._is_view()


def _lone(tensor: Tensor, fake_mode: FakeTensorMode) -> Tensor:
    """For one that has its memory for itself; `from_tensor`, which looks into much more, takes ten times as long."""
    meta = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad
    )
    fake = FakeTensor(fake_mode, meta, tensor.device)
    if isinstance(tensor, nn.Parameter):
        fake._is_param = True  # what `isinstance(fake, nn.Parameter)` looks at
    if tensor.grad is not None:
        fake.grad = _lone(tensor.grad, fake_mode)
    return fake


def fake_input(leaf: Any, fake_mode: FakeTensorMode) -> Any:
    """What stands for one leaf of the inputs.

    Raises:
        Unrecordable: it is neither a plain tensor nor a number, a text or the like.
    """
    if isinstance(leaf, Tensor) and is_plain(leaf):
        return fake_mode.from_tensor(leaf, static_shapes=True)
    if isinstance(leaf, PLAIN):
        return leaf
    raise Unrecordable(f"an input of type {type(leaf).__name__}")
