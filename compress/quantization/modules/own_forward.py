"""Layers of a class derived from torch's, such as convolutions that pad their input themselves, quantized as they are.

`OwnForward`. Which of them may be is what the trace says (placement/plain_forward.py): the class's own code runs, and
finds the rounded weight where it looks for its weight.
"""

from typing import Any, ClassVar

import torch
from torch import nn


class OwnForward:
    """The mixin in front of a class derived from a layer of torch: its `forward`, fed with rounded tensors.

    `forward` is called on a stand-in, a module of the float class with the same attributes whose weight and bias are
    the rounded ones, so that the layer's own parameters are never exchanged.

    Attributes:
        own_class: the float layer's class.
    """

    own_class: ClassVar[type[Any]]
    alike_in_training: ClassVar[bool] = True  # graph/own_code.py looks at own_class for that

    def forward(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What `own_class` computes, of the rounded input, weight and bias."""
        own: Any = self
        stand_in = object.__new__(self.own_class)
        stand_in.__dict__.update(self.__dict__)
        stand_in.__dict__["_parameters"] = {**own._parameters, "weight": None, "bias": None}
        stand_in.__dict__.update(weight=own.quantized_weight(), bias=own.quantized_bias())
        result: torch.Tensor = own.rounded_result(
            self.own_class.forward(stand_in, own.quantized_input(input), *args, **kwargs)
        )
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and pickled by its float class: its own is made as the program runs."""
        return _made_again, (self.own_class, type(self).__mro__[2]), self.__dict__


def own_form(cls: type[nn.Module], base: type[Any]) -> type[Any]:
    """The quantized class of a class derived from a layer of torch; one for each.

    Args:
        cls: the float class.
        base: the quantized class of the layer that it derives from.
    """
    if cls not in _MADE:
        members = {"own_class": cls, "__module__": cls.__module__, "__doc__": f"`{cls.__name__}`, quantized."}
        _MADE[cls] = type(f"Quant{cls.__name__}", (OwnForward, base, cls), members)
    return _MADE[cls]


_MADE: dict[type[nn.Module], type[Any]] = {}


def _made_again(cls: type[nn.Module], base: type[Any]) -> Any:
    return object.__new__(own_form(cls, base))
