"""What each output position of a convolution or linear layer reads, as rows of a matrix.

`patches`, `inputs_of_a_channel`.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

WIDEST = 8192  # inputs of an output channel; their second moments are its square
ROWS_OF_A_BATCH = 1 << 16  # positions of a batch that sums go over, at most


def inputs_of_a_channel(layer: Any) -> int | None:
    """How many weights an output channel has; None of a layer of another kind, or a too wide one."""
    known = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    width = layer.weight[0].numel() if known else WIDEST + 1
    return width if width <= WIDEST else None


def patches(layer: Any, x: Tensor) -> Tensor:
    """What each output position of a layer reads, (groups, positions, inputs), inputs in the weight's order."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    if isinstance(layer, nn.Conv1d):
        x = x.unsqueeze(-2)
    sizes = [
        (1, *each) if isinstance(layer, nn.Conv1d) else each
        for each in (layer.kernel_size, layer.dilation, layer.stride)
    ]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    kernel, dilation, stride = sizes
    columns = functional.unfold(x, kernel, dilation, 0, stride)  # (samples, channels * taps, positions)
    columns = columns.reshape(len(x), layer.groups, -1, columns.shape[-1])
    return columns.permute(1, 0, 3, 2).flatten(1, 2)


def thinned_rows(rows: Tensor) -> Tensor:
    """Every so many positions of (groups, positions, ...), so that at most `ROWS_OF_A_BATCH` are left."""
    return rows[:, :: -(-rows.shape[1] // ROWS_OF_A_BATCH)]
