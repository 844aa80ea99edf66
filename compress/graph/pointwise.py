"""The one table of point-wise operations: each element of the result comes from the same element of the operands.

Which operations are, torch's own tag completed by name. Whether a masked channel is still exactly zero afterwards is
found by running that very operation on numbers: sigmoid(0) is not, 0 * x is, 0 / 0 is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from compress.graph.trace import operation_name


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNTAGGED = _names(
    "__and__ __lshift__ __or__ __rshift__ __xor__ absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh clip "
    "complex conj _conj copysign divide eq fill fix floor_divide ge greater greater_equal gt hardsigmoid hardswish "
    "hardtanh heaviside imag isclose isreal le leaky_relu less less_equal log_sigmoid lt masked_fill mish multiply ne "
    "negative not_equal polar positive real relu6 resolve_conj resolve_neg rrelu rsub subtract threshold true_divide "
    "where xlogy zero"
)
"""Point-wise operations that torch does not tag, or tags in some forms only; in-place forms (`mish_`) follow."""

SAMPLES = 32


def plain_form(name: str) -> str:
    """`relu` of the in-place `relu_`, `__and__` of `__iand__`; other names as they are."""
    if name.endswith("__"):
        return f"__{name.removeprefix('__i')}" if name.startswith("__i") else name
    return name.removesuffix("_")


def is_pointwise(node: Node) -> bool:
    """Whether each element is computed by itself; in-place and `out=` forms are what the plain form is."""
    name = plain_form(operation_name(node))
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    tagged = any(torch.Tag.pointwise in each.tags for each in (*overloads, node.target) if hasattr(each, "tags"))
    return tagged or name in UNTAGGED


def stays_zero(node: Node, flags: list[bool]) -> bool:
    """Run the operation on numbers, zeros for the operands that are zero: are all results exactly zero?

    The other operands are of both signs, so that max(0, x) does not pass for zero. An operand without dimensions stays
    one, because some operations (`fill_`) take nothing else: it is one number after the other.
    """
    if not any(flags):
        return False
    operands = [*node.all_input_nodes]
    lone = any(isinstance(each.meta["val"], torch.Tensor) and not each.meta["val"].dim() for each in operands)
    return all(_is_zero(node, flags, place) for place in range(SAMPLES if lone else 1))


def _is_zero(node: Node, flags: list[bool], place: int) -> bool:
    """Whether all results are zero, with the number at `place` for operands without dimensions."""
    remaining = iter(flags)

    def sample(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [sample(item) for item in argument]
        if not isinstance(argument, Node):
            return argument
        value = argument.meta["val"]
        if not isinstance(value, torch.Tensor):  # a number that the code took out of a tensor; any but zero
            next(remaining)
            return 1.5
        numbers = _numbers(value.dtype, zero=next(remaining))
        return numbers if value.dim() else numbers[place]

    arguments, keywords = sample(list(node.args)), {key: sample(v) for key, v in node.kwargs.items()}
    result = node.target(*arguments, **keywords)  # type: ignore[operator]
    return bool((result == 0).all())


def _numbers(dtype: torch.dtype, zero: bool) -> torch.Tensor:
    if zero:
        return torch.zeros(SAMPLES, dtype=dtype)
    if dtype == torch.bool:
        return torch.arange(SAMPLES) % 2 == 0
    numbers = torch.arange(SAMPLES) - SAMPLES / 2 + 0.5
    return numbers.to(dtype) if dtype.is_floating_point else numbers.long().to(dtype)
