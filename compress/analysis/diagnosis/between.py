"""What lies between the layers: is each layer given what the float network gives it, where all before it are right?

`between_suspects`. Each layer's result is replaced by the float network's, so that only the operations between layers
(additions, scalings, concatenations, functions) can make a difference, and nothing is rounded.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.analysis.diagnosis.points import Inputs, hooked
from compress.analysis.diagnosis.suspects import LOST, QUIET, Suspect, decibels
from compress.graph.calls import copies
from compress.quantization.modules.layers import QuantLayer
from compress.quantization.post_training.replay import set_aside
from compress.selectors import canonical_modules

END = "the network's output"
_REMEDY = "compare the two forward passes there: what is called between these layers, and on what"


def between_suspects(
    dense: nn.Module,
    quantized: nn.Module,
    points: Mapping[str, str],
    inputs: Sequence[Inputs],
    free: Mapping[str, float],
) -> list[Suspect]:
    """The first place between layers where another operation is computed than in the float network, if there is one.

    Args:
        dense: the float network.
        quantized: the same, quantized; left as it was.
        points: of the float network, in the order of execution.
        inputs: real ones.
        free: point -> decibels of what it gives with all that was lost before; a layer that keeps `QUIET` is named for
            nothing: rounding to values without a sign makes good for a ReLU that is gone.

    Returns:
        at most one: what comes behind a wrong place reads other values too.
    """
    plain = copy.deepcopy(quantized)
    with set_aside(plain), torch.no_grad():
        found = _worst(dense, plain, points, inputs)
        # Layers that are no points, as of recurrent cells, lie between: their weights may have been rounded for good.
        layers = {name for name, each in canonical_modules(plain).items() if isinstance(each, QuantLayer)}
        bound = QUIET if layers <= set(points) else LOST
        heard = [name for name in points if free.get(name, -200.0) < QUIET]
        wrong = next((name for name in [*heard, END] if found.get(name, 200.0) < bound), None)
        if wrong is None or _worst(dense, dense, points, inputs).get(wrong, 200.0) < bound:  # a network of random noise
            return []
    return [_suspect(wrong, list(points), found[wrong])]


def _worst(dense: nn.Module, other: nn.Module, points: Mapping[str, str], inputs: Sequence[Inputs]) -> dict[str, float]:
    """Of each point, and of the network's output, the decibels of the worst call."""
    worst: dict[str, float] = {}
    for each in inputs:
        for name, decibel in _compared(other, points, each, _recorded(dense, points, each)):
            worst[name] = min(worst.get(name, 200.0), decibel)
    return worst


_Calls = dict[str, list[Tensor | None]]
Recorded = tuple[_Calls, _Calls, list[Tensor]]


def _recorded(dense: nn.Module, points: Mapping[str, str], inputs: Inputs) -> Recorded:
    """What each point reads and gives, call by call, and what the network gives."""
    modules = canonical_modules(dense)
    read: _Calls = defaultdict(list)
    given: _Calls = defaultdict(list)

    def before(name: str) -> Callable[..., None]:
        return lambda module, args: read[name].append(_kept(args[0] if args else None))

    def after(name: str) -> Callable[..., None]:
        return lambda module, args, output: given[name].append(_kept(output))

    handles = [modules[name].register_forward_pre_hook(before(name)) for name in points]
    handles += [modules[end].register_forward_hook(after(name)) for name, end in points.items()]
    with hooked(handles):
        result = dense(*copies(inputs))
    return read, given, list(_tensors(result))


def _compared(
    model: nn.Module, points: Mapping[str, str], inputs: Inputs, wanted: Recorded
) -> Iterator[tuple[str, float]]:
    """Decibels of what each point reads, and of the network's output, where each gives what is wanted."""
    modules, (read, given, result) = canonical_modules(model), wanted
    calls: dict[str, int] = defaultdict(int)
    found: list[tuple[str, float]] = []

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            own = read[name][calls[name]] if calls[name] < len(read[name]) else None
            if own is not None and args and isinstance(args[0], Tensor):
                found.append((name, _alike(own, args[0])))

        return hook

    def after(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            calls[name] += 1
            own = given[name][calls[name] - 1] if calls[name] <= len(given[name]) else None
            return own.clone() if own is not None and own.shape == getattr(output, "shape", None) else output

        return hook

    handles = [modules[name].register_forward_pre_hook(before(name)) for name in points]
    for name, end in points.items():  # a BatchNorm that is gone is its layer's fault
        handles.append(modules[end if end in modules else name].register_forward_hook(after(name)))
    with hooked(handles):
        given_now = list(_tensors(model(*copies(inputs))))
    found += [(END, _alike(a, b)) for a, b in zip(result, given_now, strict=False)]
    yield from found


def _kept(value: Any) -> Tensor | None:
    return value.detach().clone() if isinstance(value, Tensor) else None  # operations in place may follow


def _alike(wanted: Tensor, found: Tensor) -> float:
    if wanted.numel() != found.numel():
        return -200.0
    return decibels(wanted, found.reshape(wanted.shape))


def _tensors(result: Any) -> Iterator[Tensor]:
    """Those of floats in a result of any structure."""
    if isinstance(result, Tensor):
        if result.is_floating_point():
            yield result
    elif isinstance(result, Mapping):
        for each in result.values():
            yield from _tensors(each)
    elif isinstance(result, list | tuple):
        for each in result:
            yield from _tensors(each)


def _suspect(name: str, order: Sequence[str], decibel: float) -> Suspect:
    place = len(order) if name == END else order.index(name)
    before = order[place - 1] if place else "the network's input"
    cause = (
        f"between {before} and {name}: what reaches {name} differs from the float network's ({decibel:.0f} dB) "
        "although each layer before it gives the float network's values: an operation between them (an addition, a "
        "scaling, a concatenation, a function) is missing or another"
    )
    layer = order[-1] if name == END else name
    return Suspect(layer, cause, _REMEDY, 400.0 + QUIET - decibel, where="simulation")
