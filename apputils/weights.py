"""A network's weights as a schedule names them."""

from tabulate import tabulate
from torch import nn

from compress.selectors import canonical, canonical_parameters


def weight_table(model: nn.Module) -> str:
    """One row a parameter that schedules usually act on (two or more dimensions): name, shape, elements, layer.

    Names stand first in the line and unquoted, ready to paste.
    """
    kinds = {canonical(name): type(module).__name__ for name, module in model.named_modules()}
    rows = [
        [name, " x ".join(map(str, parameter.shape)), f"{parameter.numel():,}", kinds[name.rpartition(".")[0]]]
        for name, parameter in canonical_parameters(model).items()
        if parameter.dim() > 1
    ]
    return tabulate(rows, ["weight", "shape", "elements", "layer"], disable_numparse=True)
