"""Modules that compute with a child's weight themselves, past whatever quantizes it, known without a trace.

`leave_fast_paths`, and `read_by_source` for networks that are not traced; a trace finds it itself (sharing.py).
`nn.TransformerEncoderLayer` has one kernel for all of it in evaluation mode without gradients, and
`nn.TransformerEncoder` hands it nested tensors; `nn.MultiheadAttention` reads `out_proj.weight` always.
"""

import inspect
import re
from typing import Any

from torch import nn

from compress.quantization.modules.activations import QuantActivation
from compress.quantization.modules.layers import QuantLayer
from compress.selectors import canonical_modules, first_names

READ = r"((?:\.\w+|\[\d+\])*)\.(?:weight|bias)(?:_(?:ih|hh|hr)\w*)?\b(?!\.(?:shape|dtype|device|size|dim|ndim|numel)\b)"


def leave_fast_paths(model: nn.Module) -> None:
    """Makes every transformer encoder that holds a quantized layer call its layers in evaluation mode too, in place."""
    for module in model.modules():
        if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            continue
        if any(isinstance(each, QuantLayer | QuantActivation) for each in module.modules()):
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
            else:
                module.activation_relu_or_gelu = 0  # neither: the kernel has these two only


def read_by_source(model: nn.Module) -> dict[str, str]:
    """Layer -> the module whose own code speaks of its weight or bias, as in `F.linear(x, self.fc.weight)`.

    For networks that are not traced: attributes are found by the words of the code, so what a loop or another name
    stands for is not.
    """
    modules, names = canonical_modules(model), first_names(model)
    found: dict[str, str] = {}
    for name, module in modules.items():
        for path in _paths(type(module)):
            full = f"{name}.{path}".lstrip(".")
            if full in names:
                found[names[full]] = name or type(module).__name__
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if name and any("" in _reads(hook) for hook in hooks if inspect.isfunction(hook)):
            found[names[name]] = f"a hook of {name}"
    return found


def _paths(cls: type[nn.Module]) -> set[str]:
    """The children whose weight or bias the methods of a class read, but for their shape, type or device."""
    if issubclass(cls, nn.MultiheadAttention):
        return {"out_proj"}
    own = [each for each in cls.__mro__ if not each.__module__.startswith(("torch.", "builtins"))]
    methods = [
        method
        for each in own
        for name, method in vars(each).items()
        if inspect.isfunction(method) and not name.lstrip("_").startswith(("init", "reset", "load", "save"))
    ]
    found = [match for method in methods for match in _reads(method)]
    return {re.sub(r"\[(\d+)\]", r".\1", match).lstrip(".") for match in found if match}


def _reads(method: Any) -> list[str]:
    """The attribute path between the first argument, usually `self`, and `.weight` or `.bias`."""
    names = inspect.unwrap(method).__code__.co_varnames
    try:
        return re.findall(rf"\b{names[0]}{READ}", inspect.getsource(method)) if names else []
    except OSError:
        return []
