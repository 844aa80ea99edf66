"""The proof that a removal changes nothing: run before and after on real tensors, then put all back.

`trial`, which masks a model, runs it, applies a recipe, runs it again and compares outputs and running statistics, in
eval and in training mode; the model is as before when it returns. It does so with the model's own values, and with
perturbed ones (perturb.py), for what is zero today. Called by `thin` (the proof) and by `trials/trial.py` (finding
sizes that are literals in the code).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compress.graph.calls import Call
from compress.graph.own_code import asks_for_training, hooks_gradients
from compress.graph.trace import ExampleInputs
from compress.thinning.proof.copies import cast, mask_removed, memory_of, put_on_copies, restored
from compress.thinning.proof.gradients import first_other_gradient, own_functions
from compress.thinning.proof.inputs import Samples, cast_inputs, fewer
from compress.thinning.proof.observe import ForwardFailed, Observation, asked_for, observe, told_apart
from compress.thinning.proof.outputs import difference, is_blind
from compress.thinning.proof.perturb import Draw, perturb, switches_of
from compress.thinning.proof.sizes import remember, smaller
from compress.thinning.proof.steps import Parting, first_parting
from compress.thinning.recipe import Recipe, tensors_of

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
Calls = Sequence[Call]
DOUBLE_UP_TO = 400_000_000
"""Parameters; a larger model is not judged again in float64, to save memory."""


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        difference: largest difference of an output or running statistic, relative to the largest value of it; also of
            the result of an operation, on perturbed values.
        tolerance: what the type of the numbers allows.
        module: where the two runs part or the thinned one fails; '' is the model itself.
        reason: the error that the thinned model raised, or why nothing can be proved; empty if it ran.
        modes: the modes that were compared (a model that cannot run in training mode is compared in eval); with an
            error of the thinned model, the one in which it was raised.
        masking_change: relative change of the eval output by masking what goes, on the model's own values.
        what: the operation at which the two runs part, if it is known.
        closed: on perturbed values, the operations behind which nothing is seen, by their place in the first run.
    """

    difference: float
    tolerance: float
    module: str = ""
    reason: str = ""
    modes: tuple[str, ...] = ("eval",)
    masking_change: float = 0.0
    what: str = ""
    closed: frozenset[int] = frozenset()

    @property
    def passed(self) -> bool:
        """Whether the thinned model ran and its outputs agree within the tolerance."""
        return not self.reason and self.difference <= self.tolerance


def trial(
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    inputs: ExampleInputs | Samples,
    modes: Sequence[str] = ("eval", "train"),
    own_values: bool = True,
) -> Outcome:
    """Compare the masked model with what the recipe makes of it; the model is left as it was.

    The comparison runs twice: with the model's own values in its own type, and on a copy of the values in which
    nothing is zero, tiny, constant or huge (`perturb`), since a branch may be closed today. Where rounding
    may be the cause of a difference (a batch norm over few numbers blows it up in training mode), float64 and its
    tolerance of 1e-8 have the last word. The perturbed copy is in float64, and is compared operation by operation.

    Args:
        model: any module.
        recipe: fits the model; what it takes out is masked for the comparison.
        masks: parameter name -> bool, True = kept: what else is masked.
        inputs: real numbers, at least two samples (`real_inputs`), or `Samples`.
        modes: `eval` and `train`, in the order of the comparison; further ones follow (`observe.asked_for`).
        own_values: False leaves out the first of the two comparisons, which a trial of the graph can do without.

    Raises:
        ForwardFailed: the masked model itself does not run on the inputs.
    """
    samples, modes = Samples.all_alike(inputs), asked_for(model, modes)
    if not own_values:  # of sizes, not of values: single precision is enough, in half the time and memory
        found = _perturbed(model, recipe, masks, samples.several, modes, (torch.float32, torch.float64, None))
        return found or _trial(model, recipe, masks, samples, modes)
    with own_functions() as functions:
        outcome = _own(model, recipe, masks, samples, modes)
    if outcome.reason:
        return outcome
    other = _perturbed(model, recipe, masks, samples.several, modes)  # if it failed already, this names the place
    if other is not None and not other.passed:
        return replace(other, masking_change=outcome.masking_change)
    if not outcome.passed:
        return outcome
    if other is None:
        return replace(outcome, reason=INCONCLUSIVE)
    functions += ["a hook"] if hooks_gradients(model) else []
    return _trained(outcome, functions, model, recipe, masks, samples.several, modes) if functions else outcome


def measured(model: nn.Module, recipe: Recipe, masks: Mapping[str, Tensor], calls: Calls, mode: str) -> float:
    """The largest relative difference by a removal in one mode, of the model's own values; arguments as in `trial`."""
    return _trial(model, recipe, masks, Samples(calls, calls), (mode,)).difference


def _trained(
    outcome: Outcome,
    functions: Sequence[str],
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    calls: Calls,
    modes: Sequence[str],
) -> Outcome:
    """The outcome, if functions that define their own gradient give the same gradients too."""
    modes = tuple(dict.fromkeys("train" if mode == "train" else "eval" for mode in told_apart(model, modes)))
    with contextlib.suppress(ForwardFailed):
        other = first_other_gradient(model, recipe, masks, calls, modes) if fits_twice(model) else None
        if other is not None:
            name, by = other
            what = f"the gradient of {name} becomes another one, by {by:.1e}; {' or '.join(functions)} changes it"
            return replace(outcome, difference=math.inf, module=name.rpartition(".")[0], what=what)
    return outcome


INCONCLUSIVE = (
    "nothing can be proved: with parameters of ordinary size in place of zero and tiny ones the model does not run, or "
    "all its outputs are constant or not finite"
)
# Ordinary size first; smaller ones for networks that overflow on it.
DRAWS = (Draw(0), Draw(1), Draw(2, 0.3), Draw(3, 0.1, buffers=False))
# Of several numbers in one tensor some may be indices, with which nothing runs once they are large.
SWITCHED = (Draw(4, switched=16), Draw(4, switched=1))
ENOUGH = 2
"""Draws in which something runs, if operations give constants: a ReLU that one draw closes the other may open."""


def _own(
    model: nn.Module, recipe: Recipe, masks: Mapping[str, Tensor], samples: Samples, modes: Sequence[str]
) -> Outcome:
    """With the model's own values; in float64 once more if they differ."""
    outcome = _trial(model, recipe, masks, samples, modes)
    if outcome.passed or outcome.reason or not fits_twice(model):
        return outcome
    try:
        return _trial(model, recipe, masks, samples, modes, torch.float64)
    except ForwardFailed:
        return outcome


def _perturbed(
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    calls: Calls,
    modes: Sequence[str],
    dtypes: Sequence[torch.dtype | None] = (torch.float64, None),
) -> Outcome | None:
    """With perturbed values; None if no draw of them gives a model that runs and shows anything.

    In other modes only where the model's code asks for them: the norms' statistics are compared on its own values.
    """
    modes = told_apart(model, modes)
    dtypes = dtypes if fits_twice(model) else dtypes[-1:]
    found: list[Outcome] = []
    calls = fewer(smaller(model, calls, modes))
    for draw in DRAWS:
        outcome = _first_that_runs(model, recipe, masks, calls, modes, dtypes, draw)
        found += [outcome] if outcome is not None else []
        if found and (not found[-1].passed or not found[0].closed & found[-1].closed or len(found) == ENOUGH):
            break
    for draw in SWITCHED if found and found[-1].passed else ():  # what a counter or a flag keeps closed today
        other = _first_that_runs(model, recipe, masks, calls, modes, dtypes, draw) if _opens(model, draw) else None
        if other is not None:
            found.append(other)
            break
    return found[-1] if found else None


def _opens(model: nn.Module, draw: Draw) -> bool:
    """Whether a draw switches more than a later one does."""
    switches = switches_of(model, draw.switched)
    return bool(switches) and (draw is SWITCHED[-1] or any(each.numel() > 1 for each in switches))


def _first_that_runs(
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    calls: Calls,
    modes: Sequence[str],
    dtypes: Sequence[torch.dtype | None],
    draw: Draw,
) -> Outcome | None:
    for dtype in dtypes:
        with contextlib.suppress(ForwardFailed, Inconclusive):
            return _trial(model, recipe, masks, Samples(calls, calls), modes, dtype, draw)
    return None


class Inconclusive(Exception):
    """The outputs are constant or not finite, whatever the model computes, or rounding alone decides them."""


def _trial(
    model: nn.Module,
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    samples: Samples,
    modes: Sequence[str],
    dtype: torch.dtype | None = None,
    draw: Draw | None = None,
) -> Outcome:
    """One trial in one floating-point type (None is the model's own), with the model's values or perturbed ones."""
    change, inside, before = 0.0, draw is not None, None
    with restored(model):
        memory = memory_of(model)
        if draw is not None:
            perturb(model, draw, dtype)
        cast(model, dtype)
        calls, several = cast_inputs(samples.given, dtype), cast_inputs(samples.several, dtype)
        put_on_copies(model, masks)
        # Three networks: as it is (`before`), with whole units masked (`first`), thinned. The proof compares the last
        # two; the first pair tells what completing the masks does, such as zeroing a bias beside a masked filter.
        if not inside:
            before = observe(model, calls[0], "eval", named=True)
            remember(model, samples.several[0], before.ran, calls[0])
        # The first mode sees the images as they are given, the later ones smaller ones, if the network does the same.
        later = _later(model, samples.several, modes, inside)
        given = {modes[0]: list(calls), **{mode: cast_inputs(each, dtype) for mode, each in later.items()}}
        altered = mask_removed(model, recipe, tells=before is not None, untouched=memory)
        # What forward keeps at its first call (a scale, a table) is of its width, and made anew by the thinned network;
        # a state that goes on from call to call shows on the model's own values.
        with restored(model) if inside else contextlib.nullcontext():
            first = observe(model, calls[0], modes[0], inside) if altered or before is None else before
            expected = {(modes[0], 0): first, **_others(model, given, several, inside)}
        if before is not None:
            change = difference(Recipe(), before, first)
        if inside and any(is_blind(each) for each in expected.values()):
            raise Inconclusive
        tolerance = _tolerance(model, [] if draw is None else expected.values())
        closed = frozenset(k for k, step in enumerate(first.steps) if step.closed)
        compared = tuple(dict.fromkeys(mode for mode, _ in expected))
        found = Outcome(0.0, tolerance, modes=compared, masking_change=change, closed=closed)
        partings = {}
        with restored(model):
            recipe.apply(model)
            for (mode, number), masked in expected.items():
                try:
                    thinned = observe(model, given[mode][number], mode, inside, masked.steps)
                    partings[mode, number] = compare(recipe, masked, thinned, tolerance)
                except ForwardFailed as error:
                    failed = replace(found, difference=math.inf, modes=(mode,))
                    return replace(failed, module=error.module, reason=str(error))
        for (mode, number), parting in partings.items():
            excused = 0.0
            if tolerance < parting.difference < math.inf and (inside or mode == "train"):
                excused = _excused(model, given[mode][number], mode, expected[mode, number], tolerance)
            if parting.difference > excused:
                found = _worse(found, parting)
    return found


def _later(model: nn.Module, calls: Calls, modes: Sequence[str], inside: bool) -> dict[str, Calls]:
    """What the modes after the first one run on, in the type that is given: in float64 no path is run once more."""
    fits = not inside and _has_modes(model)
    return {mode: smaller(model, calls, [mode]) if fits else calls for mode in modes[1:]}


NUDGE = 64
"""Rounding errors, of the type of the numbers."""
CHAOS = 1e-2
"""The largest difference that rounding may ever excuse, in training mode."""
CHAOTIC = 1e-6
"""Perturbed values on which rounding grows to more are not used: deep networks make something large of anything."""


def _excused(model: nn.Module, call: Call, mode: str, before: Observation, tolerance: float) -> float:
    """The difference that may come of rounding alone, in float64; none in other types.

    Raises:
        Inconclusive: on perturbed values rounding decides what comes out; other values, or a finer type, may tell.
    """
    exact = _floating(model) == torch.float64
    if not exact and not before.steps:
        return 0.0
    moved = rounding(model, call, mode, before)
    if before.steps and moved > (tolerance if not exact else CHAOS if mode == "train" else CHAOTIC):
        raise Inconclusive
    return min(moved, CHAOS) if exact else 0.0


def rounding(model: nn.Module, call: Call, mode: str, before: Observation) -> float:
    """How far outputs, buffers and results of operations move when each parameter moves by next to nothing.

    In training mode a batch norm over two numbers makes +-1 of any two that differ; several in a row blow rounding up.
    """
    generator = torch.Generator().manual_seed(0)
    with restored(model):
        for tensor in tensors_of(model).values():
            if tensor.is_floating_point():
                nudge = NUDGE * torch.finfo(tensor.dtype).eps
                # A new tensor, not in place: `restored` puts the old memory back and relies on it being untouched.
                tensor.data = tensor.data * (1 + nudge * torch.randn(tensor.shape, generator=generator).to(tensor))
        after = observe(model, call, mode, bool(before.steps))
    moved = [difference(Recipe(), before, after)]
    moved += [
        abs(old.mark - new.mark) / max(old.norm, 1e-3) for old, new in zip(before.steps, after.steps, strict=False)
    ]
    return max((each for each in moved if each == each), default=0.0)


def _others(
    model: nn.Module, given: dict[str, list[Call]], whole: Calls, inside: bool
) -> dict[tuple[str, int], Observation]:
    """All calls of all modes but the first call of the first mode; in later modes a call may fail (a batch of one).

    Training mode is left out where nothing computes otherwise in it: dropout is off in all of them. What fails on
    smaller images is given the whole ones.
    """
    found, modes = {}, list(given)
    for mode in modes if _has_modes(model) else [each for each in modes if each != "train" or each == modes[0]]:
        for number, call in enumerate(given[mode]):
            if mode == modes[0]:
                if number:
                    found[mode, number] = observe(model, call, mode, inside)
                continue
            for size in dict.fromkeys((call, whole[number])):
                with contextlib.suppress(ForwardFailed):
                    found[mode, number] = observe(model, size, mode, inside)
                    given[mode][number] = size
                    break
    return found


def _has_modes(model: nn.Module) -> bool:
    """Whether training mode may compute something else: by a norm's or a quantizer's buffers, or by code of its own."""
    return any(buffer.is_floating_point() for buffer in model.buffers()) or asks_for_training(model)


def compare(recipe: Recipe, masked: Observation, thinned: Observation, tolerance: float) -> Parting:
    """What two passes differ by: outputs, buffers and, if they were kept, the operations inside."""
    outside = difference(recipe, masked, thinned)
    exact = tolerance <= TOLERANCE[torch.float64]
    inside = first_parting(masked.steps, thinned.steps, tolerance, (*recipe.headed, *recipe.padded), exact)
    if inside is None:
        return Parting("", outside, "")
    return replace(inside, difference=max(inside.difference, outside))


def _worse(outcome: Outcome, found: Parting) -> Outcome:
    if found.difference <= outcome.difference:
        return outcome
    return replace(outcome, difference=found.difference, module=found.module, what=found.what)


def _tolerance(model: nn.Module, observations: Iterable[Observation]) -> float:
    """Of the model's type; of the coarsest type inside, if the operations were kept."""
    seen = {step.dtype for each in observations for step in each.steps if step.dtype is not None}
    return max(TOLERANCE.get(dtype, 1e-4) for dtype in {*seen, _floating(model)})


def fits_twice(model: nn.Module) -> bool:
    """Whether a model is small enough to be judged again in float64."""
    return sum(tensor.numel() for tensor in model.parameters()) <= DOUBLE_UP_TO


def run_only(model: nn.Module, recipe: Recipe, calls: Calls) -> Outcome:
    """Whether a model runs at all after a removal: one pass a call, nothing is compared."""
    with restored(model):
        recipe.apply(model)
        try:
            for call in calls:
                observe(model, call, "eval")
        except ForwardFailed as error:
            return Outcome(float("inf"), 0.0, error.module, str(error))
    return Outcome(0.0, 0.0)


def _floating(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
