"""Norms over the channels that compute what they did when channels go: mean and variance over the width before.

A masked channel is 0, and counts in the statistics. Here: `as_padded`: a layer becomes one that puts zeros where
channels went, computes as before, and takes them out again; its class becomes a subclass of what it was.

    LayerNorm(4), channel 2 masked: (1 3 0 5), mean 9/4        LayerNorm(3) of (1 3 5): mean 3
    PaddedLayerNorm, full_width 4:  (1 3 5) -> (1 3 5 0) -> norm, mean 9/4 -> the first three
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from compress.graph.sizes.origins import number_at, set_number


class Padded(nn.Module):
    """Mix-in: computes at the width before, on zeros in place of the channels that went.

    Attributes:
        pad_dim: the dimension of the channels, from the end (-1).
        full_width: how many there were.
        full_numbers: numbers of the layer (`normalized_shape`) -> what they were.
        pad_tensors: own parameters and buffers -> their dimension of the channels.
    """

    pad_dim: int
    full_width: int
    full_numbers: dict[str, Any]
    pad_tensors: dict[str, int]
    alike_in_training = True

    def forward(self, *given: Any, **named: Any) -> Any:
        """The one tensor that is given has the channels that are left in `pad_dim`, and so has the result."""
        width = next(each for each in (*given, *named.values()) if isinstance(each, Tensor)).shape[self.pad_dim]
        given, named = tuple(self._wide(each) for each in given), {key: self._wide(x) for key, x in named.items()}
        own = {name: _tensors(self, name)[name] for name in self.pad_tensors}
        numbers = {path: number_at(self, path) for path in self.full_numbers}
        try:
            for name, dim in self.pad_tensors.items():
                _tensors(self, name)[name] = _padded(own[name], dim, self.full_width)
            for path, number in self.full_numbers.items():
                set_number(self, path, number)
            # The layer's own code, at the width before: its tensors and numbers
            # are swapped for the call and put back, also after an error.
            result = super().forward(*given, **named)
        finally:
            for name, tensor in own.items():
                _tensors(self, name)[name] = tensor
            for path, number in numbers.items():
                set_number(self, path, number)
        return result.narrow(self.pad_dim, 0, width)

    def _wide(self, argument: Any) -> Any:
        return _padded(argument, self.pad_dim, self.full_width) if isinstance(argument, Tensor) else argument

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled by the class that it was: a subclass that is made when it is needed has no name."""
        return _revived, (plain_kind(self),), vars(self)


class PaddedLayerNorm(Padded, nn.LayerNorm):
    """`nn.LayerNorm` over one dimension."""

    def forward(self, input: Tensor) -> Tensor:
        """input (.., channels that are left)."""
        width, full = input.shape[-1], self.full_width
        weight, bias = (None if each is None else _padded(each, 0, full) for each in (self.weight, self.bias))
        return functional.layer_norm(_padded(input, -1, full), [full], weight, bias, self.eps)[..., :width]


def _padded(tensor: Tensor, dim: int, width: int) -> Tensor:
    """Zeros behind what is left."""
    behind = -dim - 1 if dim < 0 else tensor.dim() - dim - 1
    return functional.pad(tensor, [0, 0] * behind + [0, width - tensor.shape[dim]])


def _tensors(module: nn.Module, name: str) -> dict[str, Any]:
    return module._parameters if name in module._parameters else module._buffers


_KINDS: dict[Any, Any] = {nn.LayerNorm: PaddedLayerNorm}


def _padded_kind(kind: Any) -> Any:
    if kind not in _KINDS:
        # One class per kind, or two networks would have layers of
        # different types. Padded first: its forward calls the kind's.
        _KINDS[kind] = type(f"Padded{kind.__name__}", (Padded, kind), {"__module__": __name__})
    return _KINDS[kind]


def _revived(kind: Any) -> Any:
    made = _padded_kind(kind)
    return made.__new__(made)


def plain_kind(module: nn.Module) -> type[Any]:
    """The class that a layer has or had before it was padded."""
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, Padded))


def as_padded(module: nn.Module, dim: int, width: int, numbers: Mapping[str, Any], tensors: Mapping[str, int]) -> None:
    """Turn a layer into its padded subclass; one that is already stays as it is.

    Args:
        module: before its tensors and numbers become smaller.
        dim: of the channels in what it reads and gives, from the end.
        width: the number of channels so far.
        numbers: of the module, as they are so far, that will change.
        tensors: its own parameters and buffers that will be cut -> the dimension.
    """
    # A second thinning leaves `full_width` as it is: the norm stays what it was in the network that was trained.
    if not isinstance(module, Padded):
        module.__dict__.update(pad_dim=dim, full_width=width, full_numbers=dict(numbers), pad_tensors=dict(tensors))
        module.__class__ = _padded_kind(type(module))


@contextlib.contextmanager
def plain_norms(model: nn.Module) -> Iterator[None]:
    """Inside, padded layers compute at the width that they have, so that a trace sees the layers of the code."""
    padded: list[tuple[nn.Module, type[Any]]] = [
        (each, type(each)) for each in model.modules() if isinstance(each, Padded)
    ]
    try:
        for module, _ in padded:
            module.__class__ = plain_kind(module)
        yield
    finally:
        for module, kind in padded:
            module.__class__ = kind
