"""The inputs of a proof: real numbers, few samples, another floating-point type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.errors import UserError
from compress.graph.calls import Call, calls_of
from compress.graph.trace import ExampleInputs, as_arguments
from compress.thinning.proof.observe import ForwardFailed, observe


@dataclass(frozen=True, eq=False)
class WholeCall(Call):
    """A call of which no part runs, since its first dimension counts no samples, but the nodes of a graph."""


def cast_inputs(calls: Sequence[Call], dtype: torch.dtype | None) -> list[Call]:
    """Calls whose floating-point tensors have another type; None leaves theirs, and the calls as they are."""
    if dtype is None:
        return list(calls)

    def convert(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return [replace(call, inputs=pytree.tree_map(convert, call.inputs)) for call in calls]


@dataclass(frozen=True)
class Samples:
    """What a proof runs on.

    Attributes:
        given: for the comparison in eval mode on the model's own values: a batch of one stays one.
        several: for all others, at least two samples.
    """

    given: Sequence[Call]
    several: Sequence[Call]

    @staticmethod
    def of(
        example_inputs: ExampleInputs, device: torch.device | None = None, model: nn.Module | None = None
    ) -> Samples:
        """Real numbers in the place of example inputs; of a model that does not run on a part of them, all of them.

        Raises:
            UserError: the model or the inputs have no numbers, as on the meta device.
        """
        _refuse_meta(example_inputs, model)
        given, several = (calls_of(real_inputs(example_inputs, device, each)) for each in (False, True))
        for number, call in enumerate(calls_of(example_inputs) if model is not None else ()):
            if model is not None and _is_large(call) and not _runs(model, fewer([several[number]])[0]):
                given[number] = several[number] = WholeCall(_real(call.inputs, device, False, None), *_how(call))
        return Samples(given, several)

    @staticmethod
    def all_alike(inputs: ExampleInputs | Samples) -> Samples:
        """The same calls everywhere, unless they are sorted already."""
        return inputs if isinstance(inputs, Samples) else Samples(calls_of(inputs), calls_of(inputs))


ENOUGH, MOST = 2, 4
"""Samples: what perturbed values are run on, and at most of the model's own ones."""


def fewer(calls: Sequence[Call], count: int = ENOUGH) -> list[Call]:
    """Two samples are enough, if the tensors agree on how many there are, and that is the number of samples."""

    def cut(inputs: Any) -> Any:
        if len({tensor.shape[0] for tensor in _tensors(inputs)}) != 1:
            return inputs
        return pytree.tree_map(lambda leaf: leaf[:count] if isinstance(leaf, Tensor) and leaf.dim() else leaf, inputs)

    return [call if isinstance(call, WholeCall) else replace(call, inputs=cut(call.inputs)) for call in calls]


def _refuse_meta(example_inputs: ExampleInputs, model: nn.Module | None) -> None:
    named = [*model.named_parameters(), *model.named_buffers()] if model is not None else []
    named += [("an example input", each) for call in calls_of(example_inputs) for each in _tensors(call.inputs)]
    on_meta = next((name for name, tensor in named if tensor.is_meta), "")
    proved = "has shapes and no numbers, and what leaves a network is proved on numbers"
    if on_meta:
        raise UserError(
            f"{on_meta} is on the meta device, which {proved}: load the weights onto a real one "
            "(`model.to_empty(device=...)`, then `load_state_dict`), and give inputs there"
        )
    if torch.get_default_device().type == "meta":
        raise UserError(
            f"torch's default device is meta, which {proved}: set another one (`torch.set_default_device`) before"
        )


def _is_large(call: Call) -> bool:
    """Whether proofs would take a part of its samples."""
    counts = {tensor.shape[0] for tensor in _tensors(call.inputs)}
    return len(counts) == 1 and max(counts) > ENOUGH


def _runs(model: nn.Module, call: Call) -> bool:
    try:
        observe(model, call, "eval")
    except ForwardFailed:
        return False
    return True


def _how(call: Call) -> tuple[str, Any]:
    return call.method, call.setting


def _tensors(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]


def real_inputs(
    example_inputs: ExampleInputs, device: torch.device | None = None, several: bool = True
) -> ExampleInputs:
    """Example inputs fit for a comparison: at least two and at most four samples, numbers that differ.

    Floating-point tensors that are constant or not finite (an example may be uninitialised) become normal
    random numbers. Integers stay: what they index is not known. A batch of one is doubled, if there must be several.
    """
    if isinstance(example_inputs, list):
        return [replace(call, inputs=_real(call.inputs, device, several)) for call in calls_of(example_inputs)]
    if isinstance(example_inputs, Call):
        return replace(example_inputs, inputs=_real(example_inputs.inputs, device, several))
    real: ExampleInputs = _real(example_inputs, device, several)
    return real if isinstance(real, dict) else as_arguments(real)


def _real(inputs: Any, device: torch.device | None, several: bool, most: int | None = MOST) -> Any:
    batches = {tensor.shape[0] for tensor in _tensors(inputs)}
    generator = torch.Generator().manual_seed(0)

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return leaf
        leaf = leaf.detach()
        if len(batches) == 1:
            leaf = torch.cat([leaf, leaf]) if several and leaf.shape[0] == 1 else leaf[:most]
        usable = not leaf.is_floating_point() or (bool(leaf.isfinite().all()) and leaf.numel() and leaf.std() > 0)
        lone = len(leaf) == 1 and not several
        if not usable or (leaf.is_floating_point() and not lone and torch.equal(leaf[0], leaf[-1])):
            leaf = torch.randn(leaf.shape, generator=generator).to(leaf)
        return leaf if device is None else leaf.to(device)

    return pytree.tree_map(convert, inputs)


def are_real(example_inputs: ExampleInputs, several: bool = True) -> bool:
    """Whether `real_inputs` takes the numbers as they are, instead of random ones in their place."""

    def floating(inputs: Any) -> list[Tensor]:
        every = [leaf for call in calls_of(inputs) for leaf in _tensors(call.inputs)]
        return [leaf.detach() for leaf in every if leaf.is_floating_point()]

    pairs = zip(floating(example_inputs), floating(real_inputs(example_inputs, several=several)), strict=True)
    return all(torch.equal(given[:1], used[:1]) for given, used in pairs)
