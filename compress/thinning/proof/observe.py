"""One forward pass, seen through: its outputs, the buffers that it left, and on request every operation of it.

`observe`, and `path`, which only names the operations; both without dropout, autocast or TF32, with the same random
numbers each time; buffers, written weights, flags and random numbers are put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.graph.calls import calling, calls_of, copies
from compress.graph.dropout import NoDropout
from compress.graph.modes import in_mode
from compress.graph.own_code import WATCHED, asks_for_gradients, asks_for_inference, asks_for_training
from compress.graph.recording.compiled import asked_whether, told
from compress.graph.recording.leaks import kept_state
from compress.graph.recording.variation import laid_out, noted
from compress.graph.recording.watch import watched
from compress.graph.trace import ExampleInputs, plain_outputs
from compress.thinning.proof.steps import Recording, Step
from compress.thinning.proof.written import kept_weights
from compress.thinning.recipe import tensors_of

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ArithmeticError)
"""What a forward pass of a network whose sizes do not fit raises."""


@dataclass(frozen=True)
class Ran:
    """An operation of a pass: its name, the module that was running, and the shape of its result."""

    module: str
    operation: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Observation:
    """One forward pass: all tensors that came out, the buffers that it left, and the operations if they were kept.

    `ran`: their names and shapes alone.
    """

    outputs: list[Tensor]
    buffers: dict[str, Tensor]
    steps: tuple[Step, ...] = ()
    ran: Sequence[Ran] = ()


class ForwardFailed(Exception):
    """A forward pass raised an error.

    Attributes:
        module: the innermost module that was running.
    """

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(reason)
        self.module = module


def observe(
    model: nn.Module,
    inputs: ExampleInputs,
    mode: str,
    inside: bool = False,
    before: Sequence[Step] | None = None,
    named: bool = False,
) -> Observation:
    """Run a model once, without dropout, autocast or TF32; buffers, weights and random numbers are put back.

    Args:
        model: any module.
        inputs: what it is called with; of a list the first call.
        mode: `eval`, `train`, or one of `asked_for`.
        inside: keep every operation too; a branch that a factor in the code closes is open then.
        before: the operations of the pass that this one will be compared with; see `Recording`.
        named: keep which operations ran, as `path` does.

    Raises:
        ForwardFailed: with the innermost module that was running.
    """
    running = [calls_of(inputs)[0].owner]
    watch = Recording(running, before) if inside else _Names(running) if named else NoDropout()
    outputs, buffers = _run(model, inputs, mode, running, watch)
    steps = tuple(watch.steps) if isinstance(watch, Recording) else ()
    return Observation(outputs, buffers, steps, watch.found if isinstance(watch, _Names) else ())


def _run(
    model: nn.Module, inputs: ExampleInputs, mode: str, running: list[str], watch: NoDropout
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The tensors that come out, the weights that the pass writes, and in training mode the buffers after it.

    Arguments as in `observe`.
    """
    call = calls_of(inputs)[0]
    wanted = mode == GRADIENTS or (mode == "train" and asks_for_gradients(model))
    with (
        quiet_numerics(watch),
        noted(model),
        kept_weights(model, watch) as written,
        kept_buffers(model, mode),
        _named_calls(model, running),
        _with_gradients(model) if wanted else contextlib.nullcontext(),
        torch.inference_mode() if mode == INFERENCE else torch.set_grad_enabled(wanted),
    ):
        try:
            with watched(model, again=False), calling(model, call), plain_outputs(model), told(mode):
                arguments, keywords = laid_out(copies((call.arguments, call.keywords)))  # it may write into them
                try:
                    outputs = model(*arguments, **keywords)
                finally:
                    watch.is_over = True
        except FAILURES as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ForwardFailed(running[-1], reason) from error
        leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if not leaves:
            raise ForwardFailed("", "the model returns no tensor, so there is nothing to compare")
        buffers = tensors_of(model).items() if mode == "train" else ()
        kept = {**{name: buffer for name, buffer in buffers if _is_buffer(buffer)}, **written}
        left = {name: tensor.detach().clone() for name, tensor in kept.items()}
    return [leaf.detach().clone() for leaf in leaves], left


@contextlib.contextmanager
def _with_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, parameters have gradients of ones, as in a later step of training: code may ask `weight.grad is None`."""
    before = [(parameter, parameter.grad) for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter, _ in before:
            parameter.grad = torch.ones_like(parameter)
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


GRADIENTS, INFERENCE = "eval with gradients", "inference"
"""Eval mode where gradients are wanted, and under `torch.inference_mode()`."""


def asked_for(model: nn.Module, modes: Sequence[str]) -> tuple[str, ...]:
    """The modes, and those in which some code may compute something else than in eval and training mode."""
    gradients = (GRADIENTS,) if asks_for_gradients(model) else ()
    # Last, since what code keeps of it may be of no use with gradients.
    compiled = asked_whether(model)
    return tuple(dict.fromkeys((*modes, *gradients, *compiled, *((INFERENCE,) if asks_for_inference(model) else ()))))


def told_apart(model: nn.Module, modes: Sequence[str]) -> Sequence[str]:
    """The first mode, and of the others those that some code asks for."""
    return [mode for mode in modes if mode == modes[0] or mode != "train" or asks_for_training(model)]


def watch_anew(model: nn.Module, call: ExampleInputs) -> None:
    """Forget which modes code has asked for, and run it once to see."""
    WATCHED.pop(id(model), None)
    with contextlib.suppress(ForwardFailed):
        observe(model, call, "eval")


def path(
    model: nn.Module, inputs: ExampleInputs, mode: str, alike: Callable[[int, Ran], bool] | None = None
) -> list[Ran]:
    """The operations of one forward pass; none where it fails.

    Args:
        model: any module.
        inputs: as for `observe`.
        mode: `eval` or `train`.
        alike: whether an operation is the one that is wanted in its place; the first that is not ends the pass.
    """
    running = [calls_of(inputs)[0].owner]
    names = _Names(running, alike)
    with contextlib.suppress(ForwardFailed), kept_state(model):
        _run(model, inputs, mode, running, names)
        return [] if names.parted else names.found
    return []


class _Names(NoDropout):
    """Keeps each operation; see `path`."""

    def __init__(self, running: Sequence[str], alike: Callable[[int, Ran], bool] | None = None) -> None:
        super().__init__()
        self.found: list[Ran] = []
        self.parted = False  # code may catch the error; and buffers are put back after it
        self._running, self._alike = running, alike

    def call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operation and keeps it."""
        result = func(*args, **kwargs)
        if self.is_over:  # an error here would end what puts the buffers back
            return result
        ran = Ran(self._running[-1], name, tuple(getattr(result, "shape", ())))
        if self._alike is not None and not self.parted and not self._alike(len(self.found), ran):
            self.parted = True
            raise RuntimeError(f"another path from {name} on")
        self.found.append(ran)
        return result


def _is_buffer(tensor: Tensor) -> bool:
    return not isinstance(tensor, nn.Parameter)


@contextlib.contextmanager
def quiet_numerics(watch: NoDropout) -> Iterator[None]:
    """Same random numbers for each run; no reduced precision."""
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            torch.manual_seed(0)
            with watch:
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


@contextlib.contextmanager
def kept_buffers(model: nn.Module, mode: str) -> Iterator[None]:
    """Inside, the model is in a mode; put values and identity of every buffer and every training flag back."""
    buffers = [
        (module, key, buffer, buffer.data, buffer.clone(), buffer.grad_fn)
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(in_mode(model, mode == "train"))
            except FAILURES as error:
                raise ForwardFailed("", f"it cannot be put into {mode} mode: {error}") from error
            yield
    finally:
        for module, key, buffer, data, values, history in buffers:
            module._buffers[key] = buffer
            if buffer.grad_fn is not history:  # it was written into with gradients enabled
                buffer.detach_()
            if buffer.shape != data.shape:  # `.data = ...`, `resize_`
                buffer.data = data
            buffer.copy_(values)


@contextlib.contextmanager
def _named_calls(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running, innermost last."""

    def leave(*_: object) -> None:
        running.pop()

    handles, owner = [], running[0]
    for name, module in model.named_modules():
        # name=name binds now; a plain closure would see the loop's last name. After an error `running` is left as it
        # stood: its last entry is the module that failed.
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name or owner)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
