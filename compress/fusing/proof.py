"""The proof that fusing changes nothing: blocks and network run before and after, in float64; then all is put back.

`prove`. Each block is compared on what the network feeds to it, with its own values and with perturbed ones: a bias
or a running mean that is zero today says nothing about a method that forgets it; and at another size. In training mode
the method may leave out nothing that is random. Then the whole network is compared,
in eval mode and in training mode. In the latter the blocks use their running statistics on both sides, since those
are what is folded; everything around them computes as in training.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.errors import UserError
from compress.fusing.blocks import Fusion, exchange, fused_copy
from compress.graph.calls import Call, copies, run_on
from compress.graph.trace import ExampleInputs
from compress.thinning.proof.copies import cast, restored
from compress.thinning.proof.inputs import Samples, cast_inputs, fewer
from compress.thinning.proof.observe import FAILURES, ForwardFailed, Observation, kept_buffers, observe
from compress.thinning.proof.outputs import difference, is_blind
from compress.thinning.proof.perturb import Draw, perturb
from compress.thinning.proof.verify import CHAOS, TOLERANCE, fits_twice, rounding
from compress.thinning.recipe import Recipe

DRAWS = tuple(Draw(seed, buffers=False) for seed in range(3))
Norm = nn.modules.batchnorm._NormBase


def prove(model: nn.Module, fusions: Mapping[str, Fusion], inputs: ExampleInputs) -> float:
    """Compare a network with what it becomes when its blocks are fused; it is left as it was.

    Args:
        model: unwrapped.
        fusions: of this network.
        inputs: what it is run with.

    Returns:
        The largest difference found, relative to the largest value of the output that differs.

    Raises:
        UserError: a block, or the network, computes something else, or cannot be compared; names the module.
    """
    device = next((p.device for p in model.parameters()), None)
    calls = Samples.of(inputs, device, model).several
    dtypes = [torch.float64, None] if fits_twice(model) else [None]
    for number, dtype in enumerate(dtypes):
        try:
            return _proved(model, fusions, fewer(calls), dtype)
        except ForwardFailed as error:
            if number == len(dtypes) - 1:
                where = error.module or "the network"
                raise UserError(
                    f"fusing cannot be proved, as {where} does not run: {error}; nothing was changed"
                ) from error
    raise AssertionError("unreachable")


def _proved(model: nn.Module, fusions: Mapping[str, Fusion], calls: Sequence[Call], dtype: torch.dtype | None) -> float:
    with restored(model):
        cast(model, dtype)
        calls = cast_inputs(calls, dtype)
        tolerance = TOLERANCE.get(_floating(model), 1e-4)
        with _inputs_of(fusions) as seen:
            before = {("eval", number): observe(model, call, "eval") for number, call in enumerate(calls)}
        _refuse_unseen(fusions, seen)
        worst = max(_block_difference(each, seen[name], tolerance) for name, each in fusions.items())
        blocks = [each.block for each in fusions.values()]
        with _held(blocks):
            for number, call in enumerate(calls):
                with contextlib.suppress(ForwardFailed):  # a batch norm over one value
                    before["train", number] = observe(model, call, "train")
        found = _network_differences(model, fusions, calls, before)
        for (mode, number), difference_found in found.items():
            if difference_found > tolerance == TOLERANCE[torch.float64] and mode == "train":  # norms of few values do
                with _held(blocks):
                    noise = min(rounding(model, calls[number], mode, before[mode, number]), CHAOS)
                difference_found = 0.0 if difference_found <= noise else difference_found
            if difference_found > tolerance:
                raise UserError(
                    f"the network with fused blocks differs by {difference_found:.1e} (relative, {mode} mode), though "
                    f"each block computes the same: the network uses more of {', '.join(list(fusions)[:3])} than "
                    "their outputs; nothing was changed"
                )
            worst = max(worst, difference_found)
    return worst


def _network_differences(
    model: nn.Module,
    fusions: Mapping[str, Fusion],
    calls: Sequence[Call],
    before: Mapping[tuple[str, int], Observation],
) -> dict[tuple[str, int], float]:
    """The difference in each mode and call of the network with fused blocks; the blocks are back when it returns."""
    fused = [Fusion(name, each.block, fused_copy(name, each.block)) for name, each in fusions.items()]
    found = {}
    exchange(model, fused)
    try:
        with _held([each.fused for each in fused]), _refusing(fused):
            for (mode, number), old in before.items():
                new = observe(model, calls[number], mode)
                found[mode, number] = difference(Recipe(), _kept(old, new), new)
    finally:
        exchange(model, fused, back=True)
    return found


def _block_difference(fusion: Fusion, call: Call, tolerance: float) -> float:
    """The largest difference of a block and what it becomes: its own values, perturbed ones, and another size."""
    worst, compared = 0.0, 0
    _refuse_lost_noise(fusion, call)
    larger = _larger(call)
    tried: list[tuple[Draw | None, Call]] = [(draw, call) for draw in (None, *DRAWS)]
    for draw, given in (*tried, *([(DRAWS[0], larger)] if larger is not None else [])):
        with restored(fusion.block):
            if draw is not None:
                perturb(fusion.block, draw)
                _perturb_statistics(fusion.block, draw.seed)
            try:
                old = observe(fusion.block, given, "eval")
            except ForwardFailed:
                if given is call:
                    raise
                continue  # it takes one size only
            new = observe(fused_copy(fusion.name, fusion.block), given, "eval")
        if draw is not None and is_blind(old):
            continue
        compared += draw is not None
        found = difference(Recipe(), old, new)
        if found > tolerance:
            values = "" if draw is None else ", once its parameters have other values"
            where = values if given is call else f", for an input of {_sizes(given)}"
            raise UserError(
                f"{fusion.name}: what {type(fusion.block).__name__} becomes computes something else: outputs differ "
                f"by {found:.1e} (relative){where}; nothing was changed"
            )
        worst = max(worst, found)
    if not compared:
        raise UserError(
            f"{fusion.name}: nothing can be proved: with parameters of ordinary size all outputs of "
            f"{type(fusion.block).__name__} are constant or not finite; nothing was changed"
        )
    return worst


def _larger(call: Call) -> Call | None:
    """The call with maps of another size: a method may be right for one size alone. None where no input has a size."""
    maps = [leaf for leaf in pytree.tree_leaves(call.inputs) if _is_map(leaf)]
    if not maps:
        return None
    return replace(call, inputs=pytree.tree_map(lambda leaf: _grown(leaf) if _is_map(leaf) else leaf, call.inputs))


def _is_map(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() in (3, 4) and leaf.is_floating_point()


def _grown(values: Tensor) -> Tensor:
    """(N, C, L) or (N, C, H, W), each size by other numbers of pixels more."""
    more = (2, 3) if values.dim() == 3 else (2, 3, 1, 2)
    return nn.functional.pad(values, more, mode="replicate")


def _sizes(call: Call) -> str:
    leaves = pytree.tree_leaves(call.inputs)
    return ", ".join(" x ".join(map(str, leaf.shape)) for leaf in leaves if isinstance(leaf, Tensor))


def _refuse_lost_noise(fusion: Fusion, call: Call) -> None:
    """Refuses a method that leaves out what is random in training mode; the other comparisons run without dropout."""
    if _is_random(fusion.block, call) and not _is_random(fused_copy(fusion.name, fusion.block), call):
        raise UserError(
            f"{fusion.name}: {type(fusion.block).__name__} is random in training mode (dropout, noise), and what it "
            "becomes is not, so training would continue without; keep that in what the method returns, or outside of "
            "the block; nothing was changed"
        )


@torch.no_grad()
def _is_random(module: nn.Module, call: Call) -> bool:
    """Whether a module in training mode, its norms aside, gives something else for other random numbers."""
    found = []
    for seed in (0, 1):
        with restored(module), kept_buffers(module, "train"), torch.random.fork_rng():
            for norm in module.modules():
                if isinstance(norm, Norm):
                    norm.eval()
            torch.manual_seed(seed)
            try:
                outputs = pytree.tree_leaves(run_on(module, copies(call.inputs)))
            except FAILURES:
                return False
            found.append([leaf.clone() for leaf in outputs if isinstance(leaf, Tensor)])
    return not all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@torch.no_grad()
def _perturb_statistics(block: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for norm in block.modules():
        if isinstance(norm, Norm) and norm.running_mean is not None and norm.running_var is not None:
            drawn = torch.rand(2, *norm.running_mean.shape, generator=generator).to(norm.running_mean)
            norm.running_mean.data = drawn[0] - 0.5
            norm.running_var.data = drawn[1] + 0.5


@contextlib.contextmanager
def _inputs_of(fusions: Mapping[str, Fusion]) -> Iterator[dict[str, Call]]:
    """What each block is first called with."""
    seen: dict[str, Call] = {}

    def keep(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if name in seen:
            return
        if arguments and named:  # a Call has one kind
            named = inspect.signature(fusions[name].block.forward).bind(*arguments, **named).arguments
        copied: Any = {key: _clone(each) for key, each in named.items()} or tuple(map(_clone, arguments))
        seen[name] = Call(copied)

    handles = [
        each.block.register_forward_pre_hook(
            lambda _, arguments, named, name=name: keep(name, arguments, named), with_kwargs=True
        )
        for name, each in fusions.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _refuse_unseen(fusions: Mapping[str, Fusion], seen: Mapping[str, Call]) -> None:
    missing = [name for name in fusions if name not in seen]
    if missing:
        raise UserError(
            f"{missing[0]} never ran on the example inputs, so its fusing cannot be proved; name the other blocks in "
            "`blocks`, or give example inputs that reach it; nothing was changed"
        )


@contextlib.contextmanager
def _held(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, these modules are in eval mode whenever they run."""

    def hold(module: nn.Module, _: Any) -> None:
        # Whenever it runs: `observe` sets the training flag of all modules just before.
        module.eval()

    handles = [module.register_forward_pre_hook(hold, prepend=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _refusing(fusions: Sequence[Fusion]) -> Iterator[None]:
    """Inside, a block that still runs is refused: the network reaches it by another way than its modules."""

    names = {id(each.block): each.name for each in fusions}

    def refuse(module: nn.Module, _: Any) -> None:
        if id(module) in names:  # its hooks are the fused one's too
            raise UserError(
                f"{names[id(module)]} still runs after its exchange: the network also holds it in an attribute that is "
                "no child module (such as a Python list), so it cannot be replaced; nothing was changed"
            )

    handles = [each.block.register_forward_pre_hook(refuse) for each in fusions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept(old: Observation, new: Observation) -> Observation:
    """The buffers of the blocks' norms are gone; the others must agree."""
    return replace(old, buffers={name: each for name, each in old.buffers.items() if name in new.buffers})


def _floating(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
