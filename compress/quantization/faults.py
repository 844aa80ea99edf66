"""What is wrong with a quantizer's settings for a network, and what its user should know, in sentences.

Pure functions of settings and modules, asked by `Quantizer.faults` and `Quantizer._decide` in base.py.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from compress.errors import UserError, did_you_mean, shown, some
from compress.quantization.modules.activations import ACTIVATIONS
from compress.quantization.modules.layers import quantized_class, weight_names
from compress.quantization.placement.sharing import has_weight
from compress.selectors import canonical_modules, expand, expand_mapping

V = TypeVar("V")

FLOAT = 32
UNTRACED = (
    "without example_inputs only activation modules are quantized: what functions, sums and concatenations make stays "
    "float"
)


def is_on(bits: int | None) -> bool:
    """Whether so many bits are a rounding; null and 32 are float."""
    return bits is not None and bits != FLOAT


def written_out(overrides: Mapping[str, V], model: nn.Module) -> dict[str, V]:
    """Overrides by full names: what a schedule's selectors are before a quantizer is made, and Python's may still be.

    Raises:
        UserError: a selector matches no module.
    """
    names = [name for name in canonical_modules(model) if name]
    for selector in overrides:
        if not expand(selector, names, expression=True):
            kind, help_text = type(model).__name__, did_you_mean(selector, names)
            raise UserError(f"overrides: {shown(selector)} matches no module of this {kind}; {help_text}")
    return expand_mapping(overrides, names, expression=True)


def faults_of_settings(model: nn.Module, bits: Mapping[str, int | None], overrides: Mapping[str, Any]) -> list[str]:
    """What is wrong before any layer is looked at, a sentence each."""
    return [*uninitialized(model), *faults_of_bits(bits, overrides), *faults_of_overrides(model, overrides)]


def faults_of_bits(bits: Mapping[str, int | None], overrides: Mapping[str, Any]) -> list[str]:
    """Settings by which nothing is quantized."""
    if is_on(bits["weights"]) or is_on(bits["activations"]) or overrides:
        return []
    return ["bits_weights and bits_activations are both 32 or null, so nothing would be quantized"]


def faults_of_overrides(model: nn.Module, overrides: Iterable[str]) -> list[str]:
    """Overrides of modules that are never quantized, a sentence each."""
    modules = canonical_modules(model)
    found, names = [], list(overrides)
    for name in names:
        if _has_form(modules[name]):
            continue
        inside = [each for each in modules if each.startswith(f"{name}.") and _has_form(modules[each])]
        if not inside:
            found.append(f"overrides: {name!r} is a {type(modules[name]).__name__}, which is never quantized")
        elif not set(inside) & set(names):
            found.append(f"overrides: {name!r} holds layers but is none; write '{name}.*'")
    return found


def _has_form(module: nn.Module) -> bool:
    return quantized_class(module) is not None or type(module) in ACTIVATIONS


def too_few_bits(whose: str, what: str, spec: tuple[Any, ...], fewest: int) -> list[str]:
    """That a fake quantizer's bits are below `fewest`; `spec` is what `Quantizer._piece` takes."""
    bits = spec[0]
    if bits >= fewest:
        return []
    why = ", because it may be negative" if what == "activation" and spec[1] else ""
    return [f"given {bits} bit for the {what}; {whose} needs at least {fewest} there{why}"]


def too_many_bits(model: nn.Module, decided: Mapping[str, Mapping[str, tuple[Any, ...]]]) -> list[str]:
    """That a layer's type has too few digits for its integers, as float16 has for 16 bits; a sentence each.

    Args:
        model: the float network.
        decided: layer -> slot -> what `Quantizer._piece` takes, bits first.
    """
    modules = canonical_modules(model)
    of_network = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    found: dict[str, list[str]] = {}
    for name, slots in decided.items():
        own = [each.dtype for each in modules[name].parameters(recurse=False) if each.is_floating_point()]
        dtype = (own or [of_network])[0]
        digits = 1 - round(math.log2(torch.finfo(dtype).eps))  # whole numbers up to 2^digits are exact
        most = max((spec[0] for spec in slots.values()), default=0)
        if most > digits:
            what = f"given {most} bits, and {str(dtype).removeprefix('torch.')} has {digits} binary digits"
            found.setdefault(what, []).append(name)
    return [
        f"{some(names)}: {what}, so that not every integer would have a value of its own; take fewer bits, or make the "
        "network .float() and train it under autocast"
        for what, names in found.items()
    ]


def why_float(name: str, module: nn.Module, overrides: Mapping[str, Any]) -> str:
    """Why a layer of a known type stays float; empty where it does not."""
    if not has_weight(module):
        return "its weight is computed from other parameters"
    if any(module.get_parameter(own).numel() == 0 for own in weight_names(module)):
        return "its weight is empty"
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "max_norm changes its weight in place"
    return "overrides" if name in overrides and overrides[name] in (None, FLOAT) else ""


def computes_itself(module: nn.Module, traced: bool) -> str:
    """Why a layer of a class derived from torch's stays float."""
    name = type(module).__name__
    if traced:
        return f"{name} is called nowhere, or does more than pad its input and compute with its weight"
    return f"{name} has a forward of its own, which only a trace with example inputs can judge"


def uninitialized(model: nn.Module) -> list[str]:
    """What is wrong with lazy modules that have not run yet, a sentence each."""
    return [
        f"{name} is a {type(module).__name__} without weights yet: run the network on one batch first"
        for name, module in canonical_modules(model).items()
        if any(is_lazy(each) for each in module._parameters.values() if each is not None)
    ]


def reads_past(name: str, reader: str) -> str:
    """That a layer stays float because `reader` computes with its weight itself."""
    return (
        f"{name} stays float: {reader} computes with its weight itself, past the layer's quantizer, as "
        f"`self.{name}.forward(x)` and `F.linear(x, self.{name}.weight)` do; write `self.{name}(x)` instead to "
        "have it quantized"
    )


def shared_ranges(names: Iterable[str], calls: Mapping[str, int]) -> list[str]:
    """That activation modules are called more than once, in one sentence; none where no module is."""
    shared = [name for name in names if calls[name] > 1]
    if not shared:
        return []
    what = "activation modules are called more than once, and all calls of one share its range"
    return [f"{len(shared)} {what}: {', '.join(shared)}"]
