"""Gradients of functions that define their own: equal outputs do not show that training would go alike.

`own_functions`, which sees the `torch.autograd.Function`s of other code that run inside it, and `first_other_gradient`.
Autograd's own derivatives follow from the operations, which are compared; a `backward` written by hand may divide by
the number of channels, and no forward pass runs it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import _pytree as pytree

from compress.graph.calls import Call, calling, copies
from compress.graph.dropout import NoDropout
from compress.graph.own_code import is_foreign
from compress.graph.recording.variation import noted
from compress.graph.trace import plain_outputs
from compress.thinning.proof.copies import cast, mask_removed, put_on_copies, restored
from compress.thinning.proof.inputs import cast_inputs
from compress.thinning.proof.observe import FAILURES, ForwardFailed, kept_buffers, quiet_numerics
from compress.thinning.proof.perturb import Draw, perturb
from compress.thinning.proof.written import kept_weights
from compress.thinning.recipe import Recipe, tensors_of

TOLERANCE = 1e-7
"""Of a gradient in float64, relative to the largest of all."""


@contextlib.contextmanager
def own_functions() -> Iterator[list[str]]:
    """Inside, the names of functions with a `backward` by hand are collected; torch's and this library's are known.

    However they are called: `self.f = Rev.apply` is bound before anything here could see its call, but what it runs is
    the `forward` of its class.
    """
    seen: dict[str, None] = {}
    cls: Any = torch.autograd.Function
    before = vars(cls)["apply"]

    def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        if is_foreign(function.__module__):
            seen[function.__name__] = None
        return before.__get__(None, function)(*args, **kwargs)

    forwards = [
        (each, vars(each)["forward"]) for each in _below(cls) if "forward" in vars(each) and is_foreign(each.__module__)
    ]
    found: list[str] = []
    cls.apply = classmethod(apply)
    try:
        for function, forward in forwards:
            function.forward = _noting(function, forward, seen)
        yield found
    finally:
        for function, forward in forwards:
            function.forward = forward
        cls.apply = before
        found += seen


def _below(cls: Any) -> list[Any]:
    """All classes that derive from a class; one with two bases may be there twice."""
    return [each for child in cls.__subclasses__() for each in (child, *_below(child))]


def _noting(function: Any, forward: Any, seen: dict[str, None]) -> Any:
    """The `forward` of a function, which notes that it ran."""
    run = forward.__get__(None, function)

    @functools.wraps(run)  # its signature, too: torch fills in defaults by it
    def noted(*args: Any, **kwargs: Any) -> Any:
        seen[function.__name__] = None
        return run(*args, **kwargs)

    return staticmethod(noted)


def first_other_gradient(
    model: nn.Module, recipe: Recipe, masks: Mapping[str, Tensor], calls: Sequence[Call], modes: Sequence[str]
) -> tuple[str, float] | None:
    """The first parameter whose gradient is another one once channels are gone, and by how much; in float64.

    Args:
        model: left as it was.
        recipe: fits the model.
        masks: what else is masked.
        calls: the first is run.
        modes: `eval` and `train`.
    """
    (call,) = cast_inputs(calls[:1], torch.float64)
    with restored(model):
        perturb(model, Draw())
        cast(model, torch.float64)
        put_on_copies(model, masks)
        mask_removed(model, recipe, tells=False)
        with restored(model):  # what forward keeps at its first call is of its width
            expected = {mode: gradients(model, call, mode) for mode in modes}
        with restored(model):
            recipe.apply(model)
            found = {mode: gradients(model, call, mode) for mode in modes}
    for mode, old in expected.items():
        largest = max((each.abs().max().item() for each in old.values() if each.numel()), default=0.0) or 1.0
        for name, gradient in old.items():
            kept = recipe.slice(name, gradient)
            by = (kept - found[mode][name]).abs().max().item() / largest if kept.numel() else 0.0
            if by > TOLERANCE:
                return name, by
    return None


def gradients(model: nn.Module, call: Call, mode: str, as_they_are: bool = False) -> dict[str, Tensor]:
    """Of all parameters, for a sum over the outputs with fixed random factors; none where nothing can be derived.

    What is not finite counts as zero or as a huge number, unless they are wanted `as_they_are`.
    """
    watch = NoDropout()
    with (
        quiet_numerics(watch),
        noted(model),
        kept_weights(model, watch),
        kept_buffers(model, mode),
        torch.enable_grad(),
    ):
        try:
            with calling(model, call), plain_outputs(model):
                arguments, keywords = copies((call.arguments, call.keywords))
                # Leaves of its own: a hook that holds its tensor keeps the nodes of parameters, with their old shape.
                own = {n: p.detach().requires_grad_() for n, p in tensors_of(model).items() if p.requires_grad}
                # Not functional_call: of a layer under two names it would leave the tensors in the place of parameters.
                with _reparametrize_module(model, dict(own), tie_weights=True, stack_weights=True):
                    outputs = model(*arguments, **keywords)
        except FAILURES as error:
            raise ForwardFailed("", str(error)) from error
        total = sum(_weighted(leaf) for leaf in pytree.tree_leaves(outputs) if _derived(leaf))
        if not isinstance(total, Tensor) or not own:
            return {}
        got = torch.autograd.grad(total, list(own.values()), allow_unused=True)
    found = {name: g for name, g in zip(own, got, strict=True) if g is not None}
    return found if as_they_are else {name: torch.nan_to_num(g) for name, g in found.items()}


def _derived(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_floating_point()


def _weighted(output: Tensor) -> Tensor:
    random = torch.rand(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (output * random.to(output)).sum()
