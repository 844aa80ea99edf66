"""Outputs and buffers of two passes compared: `difference`, `relative`; `is_blind`, of outputs that show nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.thinning.proof.observe import Observation
from compress.thinning.proof.steps import elements
from compress.thinning.recipe import Recipe


def difference(recipe: Recipe, before: Observation, after: Observation) -> float:
    """The largest relative difference over all outputs and kept buffers."""
    if [tensor.shape for tensor in before.outputs] != [tensor.shape for tensor in after.outputs]:
        return float("inf")
    found = [relative(old, new) for old, new in zip(before.outputs, after.outputs, strict=True)]
    for name, old in before.buffers.items():
        # A mean of 1e-9 beside a deviation of 1 is 0: relative to itself its rounding errors would look huge.
        spread = before.buffers.get(name.replace("running_mean", "running_var"))
        least = spread.max().sqrt().item() if spread is not None and name.endswith("running_mean") else 0.0
        if name not in after.buffers:  # a weight that only one of them writes
            return float("inf")
        found.append(relative(recipe.slice(name, old), after.buffers[name], least))
    return max(found, default=0.0)


def relative(old: Tensor, new: Tensor, least: float = 0.0) -> float:
    """max |old - new| / max |old|; integers and flags: 0 if equal, else infinite.

    `least` bounds the divisor from below: a running mean that is 0 but for rounding is measured by its deviation.
    """
    if old.shape == new.shape:
        old, new = elements(old), elements(new)
    if old.shape != new.shape:
        return float("inf")
    if not old.numel() or torch.equal(old, new):
        return 0.0
    if not (old.is_floating_point() or old.is_complex()):
        return float("inf")
    if not torch.equal(old.isfinite(), new.isfinite()):
        return float("inf")
    old, new = torch.where(old.isfinite(), old, 0), torch.where(new.isfinite(), new, 0)
    # All zero on one side: then the difference is absolute.
    scale = max(old.abs().max().item(), least) or 1.0
    return (old - new).abs().max().item() / scale


def is_blind(observation: Observation) -> bool:
    """Whether every floating-point output is constant or nowhere finite, so that equal outputs prove nothing."""
    floating = [elements(each) for each in observation.outputs if each.is_floating_point() and each.numel()]
    return bool(floating) and all(_says_nothing(each) for each in floating)


def _says_nothing(output: Tensor) -> bool:
    finite = output[output.isfinite()]
    if output.numel() == 1:
        return not finite.any()
    return not finite.numel() or bool((finite == finite[0]).all())


def not_repeatable(model: nn.Module, by: float) -> str:
    """What to say where two runs of the same network differ, by so much."""
    return (
        f"{type(model).__name__} does not compute the same twice on the same input and weights (the outputs differ "
        f"by {by:.1e}), so no removal can be proved. Does its forward draw random numbers, keep a state or change its "
        "own weights?"
    )
