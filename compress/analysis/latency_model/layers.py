"""The layers of a network that a latency model has tables for, and their widths once units are gone.

`layers_of`, `without`, `widened`. A `Kind` is what makes two layers take the same time at the same widths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from compress.graph.channels import ChannelGraph
from compress.graph.macs.count import count_macs
from compress.graph.trace import ExampleInputs
from compress.thinning.cost import removed_positions


@dataclass(frozen=True)
class Kind:
    """What a layer's time depends on beside its widths.

    Attributes:
        operation: `conv2d` or `linear`.
        size: of the input: (batch, height, width) of a convolution, (rows,) of a linear layer.
        kernel: of a convolution, as are the next three.
        stride: step of the window.
        padding: zeros on each side.
        dilation: distance of the window's positions.
        groups: 0 stands for a depthwise convolution, whose groups are its channels.
    """

    operation: str
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> "Kind":
        """The kind of `to_dict`."""
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        return cls(**given)

    def __str__(self) -> str:
        if self.operation == "linear":
            return f"linear, {self.size[0]} rows"
        depth = {0: "depthwise ", 1: ""}.get(self.groups, f"{self.groups} groups ")
        stride = f"/{self.stride[0]}" if self.stride[0] > 1 else ""
        return f"{depth}conv {self.kernel[0]}x{self.kernel[1]}{stride} at {self.size[1]}x{self.size[2]}"


@dataclass(frozen=True)
class Layer:
    """A layer of a network at its widths.

    Attributes:
        name: of its module.
        kind: see `Kind`.
        channels_in: width of its input.
        channels_out: width of its output.
        positions: of its output, the batch included: times `channels_out` these are its elements.
    """

    name: str
    kind: Kind
    channels_in: int
    channels_out: int
    positions: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "kind": self.kind.to_dict()}

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> "Layer":
        """The layer of `to_dict`."""
        return cls(**{**data, "kind": Kind.of_dict(data["kind"])})


def layers_of(model: nn.Module, example_inputs: ExampleInputs) -> list[Layer]:
    """The convolutions and linear layers that one forward pass runs, in order; a module called twice is there twice.

    Other operations belong to the rest, which a model predicts together.

    Raises:
        UserError: the model cannot be traced.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for row in count_macs(model, example_inputs).rows:
        module = modules.get(row.module)
        if row.operation == "conv2d" and isinstance(module, nn.Conv2d) and not isinstance(module.padding, str):
            found.append(_conv(row.module, module, row.input_shape, row.output_shape))
        elif row.operation == "linear" and isinstance(module, nn.Linear):
            rows = _product(row.input_shape[:-1])
            kind = Kind("linear", (rows,))
            found.append(Layer(row.module, kind, module.in_features, module.out_features, rows))
    return found


def without(layers: Sequence[Layer], graph: ChannelGraph, removed: Mapping[str, list[int]]) -> list[Layer]:
    """The layers once units are gone: each loses the positions of its weight that go.

    Args:
        layers: of the network that the graph is of.
        graph: its coupled channels.
        removed: group name -> units.
    """
    gone = removed_positions(graph, removed)
    found = []
    for layer in layers:
        rows, columns = (gone.get((f"{layer.name}.weight", dim), 0) for dim in (0, 1))
        if layer.kind.groups == 0:
            columns = rows
        else:
            columns *= layer.kind.groups
        widths = layer.channels_in - columns, layer.channels_out - rows
        found.append(replace(layer, channels_in=widths[0], channels_out=widths[1]))
    return found


def widened(layers: Sequence[Layer], widths: Sequence[Sequence[int]]) -> list[Layer]:
    """The layers at other widths, (in, out) of each."""
    pairs = zip(layers, widths, strict=True)
    return [replace(layer, channels_in=int(a), channels_out=int(b)) for layer, (a, b) in pairs]


def _conv(name: str, module: nn.Conv2d, inputs: Sequence[int], outputs: Sequence[int]) -> Layer:
    depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
    padding = module.padding
    assert not isinstance(padding, str)
    kind = Kind(
        "conv2d", (inputs[0], *inputs[2:]), tuple(module.kernel_size), tuple(module.stride), tuple(padding),
        tuple(module.dilation), 0 if depthwise else module.groups,
    )  # fmt: skip
    return Layer(name, kind, module.in_channels, module.out_channels, outputs[0] * _product(outputs[2:]))


def _product(sizes: Sequence[int]) -> int:
    found = 1
    for each in sizes:
        found *= int(each)
    return found
