"""A network's weights as a schedule names them."""

import yaml
from torch import nn

from compress.selectors import canonical_modules, canonical_parameters


def weight_list(model: nn.Module) -> str:
    """The parameters that schedules usually act on (two or more dimensions), as YAML that can be pasted as it is.

    Each line is an entry of the list `weights` with shape, number of elements and layer as its comment; the indentation
    is that of an instance's argument, so that all or some of the lines go into a schedule unchanged.
    """
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
