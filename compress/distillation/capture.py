"""What a network takes in and gives out, taken by forward hooks.

`Call`, `Capture` (the student, in the training loop's own forward pass) and `run` (the teacher, or any network, here
and now).
"""

import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from compress.errors import UserError, did_you_mean
from compress.graph.calls import copies, forward_call
from compress.graph.trace import ExampleInputs
from compress.parameters import widened
from compress.selectors import canonical_modules, unwrapped

Features = dict[str, Tensor]
OUTPUT = ""  # the layer's name that stands for the whole network


@dataclass
class Call:
    """One forward pass.

    Attributes:
        args: positional arguments of `forward`.
        kwargs: keyword arguments.
        autocast: device type, whether autocast was on there, and its type.
        layers: layer's name -> what it gave, with its gradient; a layer called several times has its last output.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    autocast: tuple[str, bool, torch.dtype] = ("cpu", False, torch.bfloat16)
    layers: Features = field(default_factory=dict)


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer by canonical name; `OUTPUT` is the network itself, inside of whatever wraps it."""
    return {**canonical_modules(model, remove_duplicate=False), OUTPUT: unwrapped(model)}


def check_layers(model: nn.Module, layers: Iterable[str], whose: str) -> None:
    """Raises ValueError for names that are not layers of the network, with the nearest ones."""
    known = modules_by_name(model)
    for layer in layers:
        if layer not in known:
            raise ValueError(f"{whose} has no layer {layer!r}; {did_you_mean(layer, [name for name in known if name])}")


def main_tensor(output: Any, layer: str) -> Tensor:
    """The tensor of an output: itself, `logits` or else the first of a mapping, the first of a tuple or list.

    Raises:
        UserError: there is none.
    """
    found = output
    if isinstance(found, Mapping):
        found = found["logits"] if "logits" in found else next(iter(found.values()), None)
    if isinstance(found, tuple | list):
        found = next(iter(found), None)
    if not isinstance(found, Tensor):
        raise UserError(f"the layer {layer or 'output'!r} gives a {type(output).__name__}, in which there is no tensor")
    return found


def _taken(output: Any, layer: str) -> Tensor:
    """The tensor of an output; autocast's narrow ones in float32, in which they are compared."""
    tensor = main_tensor(output, layer)
    return widened(tensor) if torch.is_autocast_enabled(tensor.device.type) else tensor


class Capture:
    """Takes note of a network's forward passes in training mode, from `watch` to `release`.

    A forward pass in eval mode, or of a layer on its own, is ignored. Of several passes the last one counts. A network
    under torch.compile is heard too: code compiled before a layer was watched is dropped, and compiled again.

    Attributes:
        call: the last finished pass, None while there was none.
    """

    def __init__(self) -> None:
        self.call: Call | None = None
        self._open: list[Call | None] = []  # passes under way, None for those in eval mode
        self._watched: set[str] = set()
        self._heard: set[str] = set()  # layers whose hooks are in the code compiled so far
        self._active = False  # hooks that were compiled in stay when they are removed
        self._handles: list[RemovableHandle] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Capture":
        """A copy of the network has hooks that hear nothing: what was heard has a history, which cannot be copied."""
        return Capture()

    def watch(self, model: nn.Module, layers: Collection[str]) -> None:
        """Hooks further layers of the network; those that are hooked already stay."""
        modules = modules_by_name(model)
        self._active = True
        if not {OUTPUT, *layers} <= self._heard:
            self.forget_compiled()
            self._heard |= {OUTPUT, *layers}
        if not self._handles:
            root = modules[OUTPUT]
            self._handles.append(root.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True))
            self._handles.append(root.register_forward_hook(self._end))
        for layer in dict.fromkeys(layers):
            if layer != OUTPUT and layer not in self._watched:
                self._watched.add(layer)
                self._handles.append(modules[layer].register_forward_hook(self._note(layer)))

    def release(self) -> None:
        """Removes the hooks and forgets every tensor."""
        self._active = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watched.clear()
        self._open.clear()
        self.call = None

    def forget_compiled(self) -> None:
        """torch.compile does not look whether hooks have come or gone, so what it has compiled is dropped."""
        # Importing it takes a second, and where it is not imported nothing is compiled.
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._active:
            return
        # A stack, because passes can be nested: a hook may run the network itself.
        known = Call(copies(args), copies(kwargs), _autocast((*args, *kwargs.values()))) if module.training else None
        self._open.append(known)

    def _note(self, layer: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            call = self._open[-1] if self._active and self._open else None
            if call is not None:  # a copy, since an in-place ReLU behind the layer would overwrite it
                call.layers[layer] = _taken(output, layer).clone()

        return hook

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self._open.pop() if self._active and self._open else None
        if call is not None:
            call.layers[OUTPUT] = _taken(output, OUTPUT)
            self.call = call


def run(network: nn.Module, call: Call, layers: Iterable[str], gradients: bool = False) -> Features:
    """Calls a network, as it stands, with the inputs of a call; returns what the layers gave.

    Raises:
        UserError: a layer was not called.
    """
    found: Features = {}

    def noting(layer: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found[layer] = _taken(output, layer).clone()

        return hook

    wanted = list(dict.fromkeys(layers))
    modules = modules_by_name(network)
    handles = [modules[layer].register_forward_hook(noting(layer)) for layer in wanted if layer != OUTPUT]
    device, enabled, dtype = call.autocast
    try:
        with torch.set_grad_enabled(gradients), torch.autocast(device, dtype, enabled=enabled):
            output = modules[OUTPUT](*copies(call.args), **copies(call.kwargs))
            if OUTPUT in wanted:
                found[OUTPUT] = _taken(output, OUTPUT)
    finally:
        for handle in handles:
            handle.remove()
    return chosen(found, wanted, type(modules[OUTPUT]).__name__)


def evaluated(network: nn.Module, call: Call, layers: Iterable[str], gradients: bool = False) -> Features:
    """`run` in eval mode, which changes no statistics and draws no random numbers; modes are put back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        return run(network, call, layers, gradients)
    finally:
        for module, training in modes:
            module.training = training


def seen_on(network: nn.Module, layers: Iterable[str], example_inputs: ExampleInputs) -> Features:
    """What layers give for the example inputs, on the network's device, in eval mode, with what autograd knows of it.

    Modes are put back, and so is what is frozen.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    first = forward_call(example_inputs)
    arguments, named = pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, (first.arguments, first.keywords)
    )
    frozen = [each for each in network.parameters() if each.is_floating_point() and not each.requires_grad]
    for parameter in frozen:
        # Autograd's graph is what shows the layer behind a tensor
        # (`feature_dims.py`); through frozen weights it has none.
        parameter.requires_grad_(True)
    try:
        return evaluated(network, Call(arguments, named), layers, gradients=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def chosen(found: Features, layers: Iterable[str], whose: str) -> Features:
    """The named layers' outputs.

    Raises:
        UserError: one of them was not called in that forward pass.
    """
    missing = [layer for layer in layers if layer not in found]
    if missing:
        raise UserError(f"{whose} has a layer {missing[0]!r}, but its forward pass did not call it")
    return {layer: found[layer] for layer in layers}


def _autocast(values: Iterable[Any]) -> tuple[str, bool, torch.dtype]:
    device = next((value.device.type for value in values if isinstance(value, Tensor)), "cpu")
    return device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
