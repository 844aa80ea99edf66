"""What each layer of two networks gives on the same inputs, and each layer by itself.

`Points`, `points_of`, `run_free`, `run_forced`. A point is where a layer's result can be compared: behind the
BatchNorm that directly follows it, because a quantizer may fold that one into the layer.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compress.graph.calls import copies
from compress.quantization.modules.activations import ACTIVATIONS, QuantActivation
from compress.quantization.modules.layers import LAYERS, QuantLayer
from compress.selectors import canonical_modules

Inputs = tuple[Tensor, ...]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass
class Seen:
    """Of one pass.

    Attributes:
        inputs: module -> what its first call read, all passes joined.
        passes: the same, pass by pass.
        outputs: point -> what it gave.
        reads: layer -> what its first call would have read, had it not been given something else.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    passes: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)


def points_of(model: nn.Module, example: Inputs) -> dict[str, str]:
    """Layer or activation of a float network, in the order of execution -> the module behind which it is compared."""
    modules = _watched(model)
    made_by: dict[int, str] = {}
    found: dict[str, str] = {}
    kept: list[Tensor] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or not inputs or not isinstance(inputs[0], Tensor):
                return
            kept.append(output)  # so that no other tensor gets its identity
            before = made_by.get(id(inputs[0]))
            if isinstance(module, _NORMS):
                if before is not None:
                    found[before] = name
            else:
                found.setdefault(name, name)
                made_by[id(output)] = name

        return hook

    with hooked([module.register_forward_hook(note(name)) for name, module in modules.items()]), torch.no_grad():
        model(*copies(example))
    return found


def _watched(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (*LAYERS, *ACTIVATIONS, *_NORMS, QuantLayer, QuantActivation)
    found = {name: each for name, each in canonical_modules(model).items() if isinstance(each, kinds)}
    return {name: each for name, each in found.items() if not name.endswith("_quantizer")}  # stand-ins of what rounds


@torch.no_grad()
def run_free(model: nn.Module, points: Mapping[str, str], inputs: Sequence[Inputs]) -> Seen:
    """What each point gives while the network runs as it is; first calls, all inputs joined."""
    return _run(model, points, inputs, {})


@torch.no_grad()
def run_forced(
    model: nn.Module, points: Mapping[str, str], inputs: Sequence[Inputs], given: Mapping[str, Sequence[Tensor]]
) -> Seen:
    """The same, each layer reading what is given for it: what it loses by itself."""
    return _run(model, points, inputs, given)


def _run(
    model: nn.Module, points: Mapping[str, str], inputs: Sequence[Inputs], given: Mapping[str, Sequence[Tensor]]
) -> Seen:
    modules, seen = canonical_modules(model), [Seen() for _ in inputs]
    now = 0

    def before(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
            first = name not in seen[now].inputs
            if first:
                seen[now].reads[name] = args[0].detach()
            if first and name in given and given[name][now].numel() == args[0].numel():
                # Joined passes cannot be cut by batches, which need not stand in its first dimension; a file may read
                # the same values in two dimensions.
                args = (given[name][now].reshape(args[0].shape), *args[1:])
            if first:
                seen[now].inputs[name] = args[0].detach()
            return args

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            seen[now].outputs.setdefault(name, output.detach())

        return hook

    handles = [modules[name].register_forward_pre_hook(before(name)) for name in points]
    handles += [modules[end].register_forward_hook(after(name)) for name, end in points.items() if end in modules]
    with hooked(handles):
        for now, each in enumerate(inputs):  # noqa: B007  (the hooks read it)
            model(*copies(each))
    joined = Seen()
    for part in ("inputs", "outputs", "reads"):
        found = {name: [getattr(each, part)[name] for each in seen] for name in _in_all(seen, part)}
        setattr(joined, part, {name: together(tensors) for name, tensors in found.items()})
        joined.passes = found if part == "inputs" else joined.passes
    return joined


def _in_all(seen: Sequence[Seen], part: str) -> list[str]:
    """What every pass has called: a network may choose its way by its input."""
    return [name for name in getattr(seen[0], part) if all(name in getattr(each, part) for each in seen)]


def together(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor of those of several passes: joined in the first dimension where that is possible, else flat."""
    alike = all(each.dim() and each.shape[1:] == tensors[0].shape[1:] for each in tensors)
    return torch.cat(list(tensors)) if alike else torch.cat([each.flatten() for each in tensors])


@contextlib.contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Removes hooks behind the block."""
    try:
        yield
    finally:
        for each in handles:
            each.remove()
