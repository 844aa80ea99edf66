"""The proof that a removal changes nothing: run before and after on real tensors, then put all back.

Here: `trial`, which masks a model, runs it, applies a recipe, runs it again and compares outputs and running
statistics, in eval and in training mode; the model is as before when it returns. Not here: the decision what
to remove. Called by `thin` (the proof) and by `probe` (finding sizes that are literals in the code).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from compress.graph.trace import ExampleInputs, as_arguments
from compress.thinning.recipe import Recipe, tensors_of

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
DOUBLE_UP_TO = 400_000_000
"""Parameters; a larger model is not judged again in float64, to save memory."""
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ArithmeticError)
"""What a forward pass of a network whose sizes do not fit raises."""


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        difference: largest difference of an output or running statistic, relative to the largest value of it.
        tolerance: what the type of the numbers allows.
        module: where the two runs part or the thinned one fails; '' is the model itself.
        reason: the error that the thinned model raised; empty if it ran.
        modes: the modes that were compared (a model that cannot run in training mode is compared in eval).
        masking_change: relative change of the eval output by masking what goes (measured together with `train`).
    """

    difference: float
    tolerance: float
    module: str = ""
    reason: str = ""
    modes: tuple[str, ...] = ("eval",)
    masking_change: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the thinned model ran and its outputs agree within the tolerance."""
        return not self.reason and self.difference <= self.tolerance


@dataclass(frozen=True)
class Observation:
    """One forward pass: all tensors that came out, and the buffers that it left."""

    outputs: list[Tensor]
    buffers: dict[str, Tensor]


class ForwardFailed(Exception):
    """A forward pass raised an error.

    Attributes:
        module: the innermost module that was running.
    """

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(reason)
        self.module = module


def trial(
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    inputs: ExampleInputs,
    modes: Sequence[str] = ("eval", "train"),
) -> Outcome:
    """Compare the masked model with what the recipe makes of it; the model is left as it was.

    The comparison runs in the model's own type. Where rounding may be the cause of a difference (a batch norm over
    few numbers blows it up in training mode), float64 and its tolerance of 1e-8 have the last word.

    Args:
        model: any module.
        recipe: fits the model; what it takes out is masked for the comparison.
        masks: parameter name -> bool, True = kept: what else is masked.
        inputs: real numbers, at least two samples (`real_inputs`).
        modes: `eval` and `train`, in the order of the comparison.

    Raises:
        ForwardFailed: the masked model itself does not run on the inputs.
    """
    outcome = _trial(model, recipe, masks, inputs, modes, None)
    double = sum(tensor.numel() for tensor in model.parameters()) <= DOUBLE_UP_TO
    if outcome.passed or outcome.reason or not double:
        return outcome
    try:
        return _trial(model, recipe, masks, inputs, modes, torch.float64)
    except ForwardFailed:
        return outcome


def _trial(
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    inputs: ExampleInputs,
    modes: Sequence[str],
    dtype: torch.dtype | None,
) -> Outcome:
    """One trial in one floating-point type; None is the model's own."""
    change = 0.0
    with restored(model):
        cast(model, dtype)
        arguments = cast_inputs(as_arguments(inputs), dtype)
        put_on_copies(model, masks)
        tolerance = TOLERANCE[_floating(model)]
        before = observe(model, arguments, "eval") if "train" in modes else None
        altered = mask_removed(model, recipe)
        expected = {modes[0]: observe(model, arguments, modes[0]) if altered or before is None else before}
        if before is not None:
            change = difference(Recipe(), before, expected["eval"])
        for mode in modes[1:]:
            with contextlib.suppress(ForwardFailed):
                expected[mode] = observe(model, arguments, mode)
        recipe.apply(model)
        worst = 0.0
        for mode, masked in expected.items():
            try:
                worst = max(worst, difference(recipe, masked, observe(model, arguments, mode)))
            except ForwardFailed as error:
                return Outcome(float("inf"), tolerance, error.module, str(error), tuple(expected))
    return Outcome(worst, tolerance, modes=tuple(expected), masking_change=change)


@torch.no_grad()
def put_on_copies(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask parameters without writing into their memory."""
    for name, tensor in tensors_of(model).items():
        if name in masks:
            tensor.data = tensor.data.masked_fill(~masks[name].to(tensor.device), 0)


@torch.no_grad()
def mask_removed(model: nn.Module, recipe: Recipe) -> bool:
    """Zero whatever parameters lose, in copies of their memory; whether anything was not zero before."""
    altered = False
    for name, parameter in model.named_parameters():
        for dim, kept in recipe.kept.get(name, {}).items():
            stays = torch.zeros(parameter.shape[dim], dtype=torch.bool).index_fill_(0, kept.cpu(), True)
            gone = (~stays).nonzero().flatten().to(parameter.device)
            altered |= bool(parameter.index_select(dim, gone).any())
            parameter.data = parameter.data.index_fill(dim, gone, 0)
    return altered


def difference(recipe: Recipe, before: Observation, after: Observation) -> float:
    """The largest relative difference over all outputs and kept buffers."""
    if [tensor.shape for tensor in before.outputs] != [tensor.shape for tensor in after.outputs]:
        return float("inf")
    found = [relative(old, new) for old, new in zip(before.outputs, after.outputs, strict=True)]
    for name, old in before.buffers.items():
        spread = before.buffers.get(name.replace("running_mean", "running_var"))
        least = spread.max().sqrt().item() if spread is not None and name.endswith("running_mean") else 0.0
        found.append(relative(recipe.slice(name, old), after.buffers[name], least))
    return max(found, default=0.0)


def relative(old: Tensor, new: Tensor, least: float = 0.0) -> float:
    """max |old - new| / max |old|; integers and flags: 0 if equal, else infinite.

    `least` bounds the divisor from below: a running mean that is 0 but for rounding is measured by its deviation.
    """
    if old.shape != new.shape:
        return float("inf")
    if not old.numel() or torch.equal(old, new):
        return 0.0
    if not old.is_floating_point():
        return float("inf")
    old, new = torch.nan_to_num(old), torch.nan_to_num(new)
    scale = max(old.abs().max().item(), least) or 1.0
    return (old - new).abs().max().item() / scale


def observe(model: nn.Module, arguments: tuple[Any, ...], mode: str) -> Observation:
    """Run a model once, without dropout, autocast or TF32; buffers and random numbers are put back.

    Raises:
        ForwardFailed: with the innermost module that was running.
    """
    running: list[str] = []
    with _quiet_numerics(), _kept_buffers(model), _named_calls(model, running), torch.no_grad():
        for module in model.modules():
            module.training = mode == "train"
        try:
            outputs = model(*arguments)
        except FAILURES as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ForwardFailed(running[-1] if running else "", reason) from error
        leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if not leaves:
            raise ForwardFailed("", "the model returns no tensor, so there is nothing to compare")
        buffers = {name: buffer.clone() for name, buffer in tensors_of(model).items() if _is_buffer(buffer)}
    return Observation([leaf.clone() for leaf in leaves], buffers if mode == "train" else {})


def _is_buffer(tensor: Tensor) -> bool:
    return not isinstance(tensor, nn.Parameter)


class _NoDropout(TorchDispatchMode):
    """Random masks keep everything, whatever operation draws them, outside the branches of `torch.cond`."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "overloadpacket", ""))  # `torch.cond` has none
        if name == "aten.bernoulli_":
            return args[0].fill_(1)
        if name == "aten.bernoulli":
            return torch.ones_like(args[0])
        if name == "aten.native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _quiet_numerics() -> Iterator[None]:
    """Same random numbers for each run; no reduced precision."""
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            torch.manual_seed(0)
            with _NoDropout():
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


@contextlib.contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put values and identity of every buffer and every training flag back."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, key, buffer, buffer.clone())
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
        for module, key, buffer, values in buffers:
            module._buffers[key] = buffer
            buffer.copy_(values)


@contextlib.contextmanager
def _named_calls(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running, innermost last."""

    def leave(*_: object) -> None:
        running.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Whatever happens to weights, buffers, attributes and classes of modules inside: it is undone."""
    weights = [(parameter, parameter.data, parameter.grad) for parameter in model.parameters()]
    modules = [(module, type(module), dict(module.__dict__), dict(module._buffers)) for module in model.modules()]
    buffers = [(buffer, buffer.data) for buffer in model.buffers()]
    for parameter, _, _ in weights:
        parameter.grad = None
    try:
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


def cast_inputs(arguments: tuple[Any, ...], dtype: torch.dtype | None) -> tuple[Any, ...]:
    """The same for the inputs."""

    def convert(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point() and dtype is not None
        return leaf.to(dtype) if floating else leaf

    return pytree.tree_map(convert, arguments)


def _floating(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def real_inputs(example_inputs: ExampleInputs, device: torch.device | None = None) -> tuple[Any, ...]:
    """Example inputs fit for a comparison: at least two and at most four samples, numbers that differ.

    Floating-point tensors that are constant or not finite (an example may be uninitialised) become normal
    random numbers. Integers stay: what they index is not known. A batch of one is doubled.
    """
    arguments = as_arguments(example_inputs)
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.dim()]
    batches = {tensor.shape[0] for tensor in tensors}
    generator = torch.Generator().manual_seed(0)

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return leaf
        leaf = leaf.detach()
        if len(batches) == 1:
            leaf = torch.cat([leaf, leaf]) if leaf.shape[0] == 1 else leaf[:4]
        usable = not leaf.is_floating_point() or (bool(leaf.isfinite().all()) and leaf.numel() and leaf.std() > 0)
        if not usable or (leaf.is_floating_point() and torch.equal(leaf[0], leaf[-1])):
            leaf = torch.randn(leaf.shape, generator=generator).to(leaf)
        return leaf if device is None else leaf.to(device)

    return pytree.tree_map(convert, arguments)


def are_real(example_inputs: ExampleInputs) -> bool:
    """Whether `real_inputs` takes the numbers as they are, instead of random ones in their place."""

    def floating(inputs: Any) -> list[Tensor]:
        leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
        return [leaf.detach() for leaf in leaves if leaf.is_floating_point()]

    pairs = zip(floating(as_arguments(example_inputs)), floating(real_inputs(example_inputs)), strict=True)
    return all(torch.equal(given[:1], used[:1]) for given, used in pairs)
