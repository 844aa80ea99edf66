"""A network's weights as a schedule names them."""

import contextlib
import copy

import yaml
from torch import nn

from compress.errors import UserError
from compress.fusing.blocks import exchange, fusions_of
from compress.selectors import canonical_modules, canonical_parameters, unwrapped


def weight_list(model: nn.Module) -> str:
    """The parameters that schedules usually act on (two or more dimensions), as YAML that can be pasted as it is.

    Each line is an entry of the list `weights` with shape, number of elements and layer as its comment; the indentation
    is that of an instance's argument, so that all or some of the lines go into a schedule unchanged. Where the network
    has blocks that fuse, a second list has the weights of the fused network.
    """
    fused = _fused(model)
    if fused is None:
        return _listed(model)
    return f"{_listed(model)}\n    # from the epoch on in which Reparameterize fuses the blocks:\n{_listed(fused)}"


def _fused(model: nn.Module) -> nn.Module | None:
    """A copy of the network with all of its blocks fused; None if it has none, or one whose method fails."""
    with contextlib.suppress(UserError):
        if fusions_of(unwrapped(model)):
            copied = copy.deepcopy(unwrapped(model))
            exchange(copied, fusions_of(copied).values())
            return copied
    return None


def _listed(model: nn.Module) -> str:
    kinds = {name: type(module).__name__ for name, module in canonical_modules(model, remove_duplicate=False).items()}
    named = {name: parameter for name, parameter in canonical_parameters(model).items() if parameter.dim() > 1}
    width = max((len(_quoted(name)) for name in named), default=0)
    shapes = {name: " x ".join(map(str, parameter.shape)) for name, parameter in named.items()}
    wide = max(map(len, shapes.values()), default=0)
    lines = ["    weights:"]
    for name, parameter in named.items():
        comment = f"{shapes[name]:{wide}}  {parameter.numel():>11,}  {kinds[name.rpartition('.')[0]]}"
        lines.append(f"      - {_quoted(name):{width}}  # {comment}")
    return "\n".join(lines)


def _quoted(name: str) -> str:
    """A name as YAML reads it back: `0` would be a number."""
    return name if yaml.safe_load(name) == name else f"'{name}'"
