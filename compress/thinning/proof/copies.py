"""A model changed for a while, without a write into its memory: `restored`, and what is done inside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from compress.graph.recording.leaks import kept_state
from compress.thinning.recipe import Recipe, tensors_of


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Whatever happens to weights, buffers, attributes and classes of modules inside: it is undone.

    What attributes hold, too: state in lists, dictionaries and tensors that are no buffers.
    """
    weights = [(parameter, parameter.data, parameter.grad) for parameter in model.parameters()]
    # `__dict__` is copied one level deep: `_parameters`, `_modules` and the hooks' dictionaries in it are the live
    # ones, and nothing inside exchanges their entries but buffers, which are copied one by one.
    modules = [(module, type(module), dict(module.__dict__), dict(module._buffers)) for module in model.modules()]
    buffers = [(buffer, buffer.data) for buffer in model.buffers()]
    for parameter, _, _ in weights:
        parameter.grad = None
    try:
        with kept_state(model):
            yield
    finally:
        for module, kind, attributes, own in modules:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(own)
        for tensor, data in (*((p, data) for p, data, _ in weights), *buffers):
            tensor.data = data
        for parameter, _, grad in weights:
            parameter.grad = grad


def cast(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Give every floating-point tensor another type; parameters stay the same objects."""
    for tensor in tensors_of(model).values():
        if dtype is not None and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


@torch.no_grad()
def put_on_copies(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask parameters without writing into their memory."""
    for name, tensor in tensors_of(model).items():
        if name in masks:
            tensor.data = tensor.data.masked_fill(~masks[name].to(tensor.device), 0)


def memory_of(model: nn.Module) -> frozenset[int]:
    """Where the parameters lie; see `mask_removed`."""
    dense = (parameter for parameter in model.parameters() if parameter.layout is torch.strided)
    return frozenset(parameter.untyped_storage().data_ptr() for parameter in dense)


@torch.no_grad()
def mask_removed(model: nn.Module, recipe: Recipe, tells: bool = True, untouched: frozenset[int] | None = None) -> bool:
    """Zero whatever parameters lose, in copies of their memory.

    Args:
        model: changed in place.
        recipe: fits the model.
        tells: False returns False without a look at the values.
        untouched: memory that must not be written into; other memory is, without a copy. None leaves all untouched.

    Returns:
        whether anything was not zero before.
    """
    altered = False
    for name, parameter in model.named_parameters():
        dims = recipe.kept.get(name, {})
        if not dims:
            continue
        own = untouched is not None and parameter.data.untyped_storage().data_ptr() not in untouched
        values = parameter.data if own else parameter.data.clone()
        for dim, kept in dims.items():
            stays = torch.zeros(parameter.shape[dim], dtype=torch.bool).index_fill_(0, kept.cpu(), True)
            gone = (~stays).nonzero().flatten().to(parameter.device)
            altered = altered or (tells and bool(values.index_select(dim, gone).any()))
            values.index_fill_(dim, gone, 0)
        parameter.data = values
    return altered
