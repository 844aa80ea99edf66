"""What each output position of a convolution or linear layer reads, as rows of a matrix.

`patches`, `inputs_of_a_channel`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

WIDEST = 8192  # inputs of an output channel; their second moments are its square
ROWS_OF_A_BATCH = 1 << 16  # positions of a batch that sums go over, at most
NUMBERS_OF_A_BATCH = 1 << 24  # that these positions read in all groups; at least as many positions as inputs are kept


def inputs_of_a_channel(layer: Any) -> int | None:
    """How many weights an output channel has; None of a layer of another kind, or a too wide one."""
    known = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)
    width = layer.weight[0].numel() if known else WIDEST + 1
    return width if width <= WIDEST else None


def patches(layer: Any, x: Tensor) -> Tensor:
    """What each output position of a layer reads, (groups, positions, inputs), inputs in the weight's order."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    call = None if _is_plain(layer) else _own_call(layer, x)
    if call is None:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    else:
        x, stride, dilation = call["input"], _each(call["stride"], kernel), _each(call["dilation"], kernel)
        x = functional.pad(x, _padding(call["padding"], kernel, dilation))
    if isinstance(layer, nn.Conv1d):
        x, kernel, stride, dilation = x.unsqueeze(-2), (1, *kernel), (1, *stride), (1, *dilation)
    columns = functional.unfold(x, kernel, dilation, 0, stride)  # (samples, channels * taps, positions)
    columns = columns.reshape(len(x), layer.groups, -1, columns.shape[-1])
    return columns.permute(1, 0, 3, 2).flatten(1, 2)


def output_rows(layer: nn.Module, output: Tensor, groups: int) -> Tensor:
    """What a layer gives at each position, (groups, positions, outputs of a group), in the order of `patches`."""
    if isinstance(layer, nn.Linear):
        return output.reshape(1, -1, output.shape[-1])
    columns = output.flatten(2).reshape(len(output), groups, -1, output[0, 0].numel())
    return columns.permute(1, 0, 3, 2).flatten(1, 2)


def multiplies_by_its_weight(layer: Any, x: Tensor) -> bool:
    """Whether the layer's own code uses the parameter `weight` as it is: not standardised, say, or from elsewhere."""
    weight = layer._parameters.get("weight")
    if weight is None:  # computed anew for each call, as by torch's parametrizations
        return False
    if _is_plain(layer):
        return True
    call = _own_call(layer, x)
    return call is not None and call["weight"] is weight


def _is_plain(layer: Any) -> bool:
    """Whether it computes as torch's own: by its class's code, or quantized by a class that changes nothing else."""
    if hasattr(layer, "weight_quantizer"):
        return not hasattr(layer, "own_class")
    kind = type(layer)
    return kind.forward in PLAIN and getattr(kind, "_conv_forward", None) in PLAIN_CONVOLUTIONS


PLAIN = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Linear.forward)
PLAIN_CONVOLUTIONS = (None, nn.Conv1d._conv_forward, nn.Conv2d._conv_forward)
ARGUMENTS = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


class _Reached(Exception):
    """A convolution's arguments: the rest of the call is not needed."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class _Watching(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (functional.conv1d, functional.conv2d, functional.linear):
            raise _Reached({**ARGUMENTS, **dict(zip(ARGUMENTS, args, strict=False)), **(kwargs or {})})
        return func(*args, **(kwargs or {}))


def _own_call(layer: nn.Module, x: Tensor) -> dict[str, Any] | None:
    """The arguments with which a class of its own, such as one that pads its input itself, calls torch's function.

    None if it does not.
    """
    try:
        with _Watching():
            layer.forward(x)
    except _Reached as e:
        return e.arguments
    return None


def _each(value: Any, like: Sequence[int]) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * len(like) if len(values) == 1 else values


def _padding(given: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Of a convolution's argument, as `functional.pad` takes it: the last dimension first, both ends of each."""
    if given == "valid":
        given = 0
    if isinstance(given, str):  # same
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        ends = [(total // 2, total - total // 2) for total in totals]
    else:
        ends = [(each, each) for each in _each(given, kernel)]
    return [each for pair in reversed(ends) for each in pair]


def thinned_rows(rows: Tensor, inputs: int | None = None) -> Tensor:
    """Every so many positions of (groups, positions, ...), so that the sums over them stay cheap.

    Args:
        rows: of `patches`, or what the same positions give.
        inputs: that a position reads in a group; None: as many as `rows` have in their last dimension.
    """
    width = rows.shape[2] if inputs is None else inputs
    return rows[:, :: -(-rows.shape[1] // rows_of_a_batch(rows.shape[0], width))]


def rows_of_a_batch(groups: int, inputs: int) -> int:
    """Positions that sums go over, at most."""
    return max(inputs, min(ROWS_OF_A_BATCH, NUMBERS_OF_A_BATCH // max(1, groups * inputs)))
