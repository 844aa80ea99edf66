"""What a layer feeds: follows tensors through a forward pass, from a layer's output to the activation function.

`ForwardProbe` and `ForwardListener`. No module or name is guessed: a layer is known by the weight tensor that it
multiplies with, and its output is followed through normalisation, dropout, additions and whatever else keeps its
channels, until the first activation function. `nn.ReLU`, `torch.relu` and `functional.relu_` are all the same to it.

A model under torch.compile is followed too: while a probe is attached its functions run one by one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from compress.graph.calls import Arguments, by_name
from compress.selectors import unwrapped

_ACTIVATIONS = (
    "relu relu6 leaky_relu rrelu prelu elu celu selu gelu silu mish hardtanh hardswish hardsigmoid sigmoid tanh "
    "softplus softsign tanhshrink hardshrink softshrink threshold clamp clamp_min clip"
)
ACTIVATIONS = frozenset(name + suffix for name in _ACTIVATIONS.split() for suffix in ("", "_"))
CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class LayerCall:
    """One call of a convolution or a linear layer.

    Attributes:
        function: such as `conv2d` or `linear`.
        arguments: by name: input, weight, bias, stride, ...
        output: what it returned.
    """

    function: str
    arguments: dict[str, Any]
    output: Tensor

    @property
    def channel_dim(self) -> int:
        """The dimension of the output that the layer's filters make."""
        if self.function == "linear":
            return self.output.dim() - 1
        return self.output.dim() + 1 - self.arguments["weight"].dim()  # 1, or 0 of one image without a batch


class ForwardListener:
    """Called when something happens to watched layers in a forward pass. All hooks do nothing by default."""

    def on_inputs(self, inputs: Arguments) -> None:
        """A forward pass begins, with these positional arguments; all of them by name where some are named."""

    def on_layer(self, name: str, call: LayerCall) -> None:
        """The layer whose weight is `name` was called."""

    def on_activation(self, name: str, output: Tensor, function: str) -> None:
        """The activation function that follows the layer of weight `name` was called.

        Args:
            name: the weight.
            output: of the function, with the layer's channels in the first dimension.
            function: such as `relu`.
        """


class ForwardProbe(TorchFunctionMode):
    """Watches every forward pass of a model while it is attached.

    Args:
        model: whose forward passes are watched.
        watched: name -> weight of the layers to follow.
        listener: its hooks are called.

    Attributes:
        norms: name of a watched weight -> id of the scale of the BatchNorm that its layer feeds directly, where neither
            the weight nor the layer's output nor the scale has another use, and the channels are the layer's.
    """

    def __init__(self, model: nn.Module, watched: Mapping[str, Tensor], listener: ForwardListener) -> None:
        super().__init__()
        self.norms: dict[str, int] = {}
        self._pass = _Uses()
        self._names = {id(weight): name for name, weight in watched.items()}
        self._listener = listener
        self._carriers: dict[int, tuple[Tensor, dict[str, int], bool]] = {}  # tensor, layer -> channel dim, direct
        self._hooks = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._exit, always_call=True),
        ]

    def detach(self) -> None:
        """Watches no more."""
        for hook in self._hooks:
            hook.remove()
        self._carriers.clear()

    def _enter(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._pass = _Uses()
        self._listener.on_inputs(by_name(unwrapped(model), inputs, named))
        self.__enter__()

    def _exit(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self.__exit__(None, None, None)
        self._read(tree_leaves(output))
        self.norms.update(self._pass.alone())
        self._carriers.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the function, and takes note of it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            name = getattr(func, "__name__", "")
            self._read(tree_leaves((args, kwargs)))
            if name in CONVOLUTIONS or name == "linear":
                self._start(LayerCall(name, {**dict(zip(CONV_ARGUMENTS, args, strict=False)), **kwargs}, result))
            else:
                self._follow(name, args, kwargs, result)
        return result

    def _start(self, call: LayerCall) -> None:
        weight = self._names.get(id(call.arguments["weight"]))
        if weight is not None:
            self._pass.calls[weight] += 1
            # The tensor is kept beside its id: Python gives a freed object's id to the next one.
            self._carriers[id(call.output)] = (call.output, {weight: call.channel_dim}, True)
            self._listener.on_layer(weight, call)

    def _read(self, values: Iterable[Any]) -> None:
        """Notes who reads a layer's output as it is."""
        for value in values:
            _, layers, direct = self._carriers.get(id(value), (None, {}, False))
            self._pass.reads.update(layers if direct else ())

    def _follow(self, function: str, args: Any, kwargs: Any, result: Tensor) -> None:
        found = [self._carriers[id(arg)] for arg in (*args, *kwargs.values()) if id(arg) in self._carriers]
        if function == "batch_norm":
            scale = id(kwargs.get("weight", args[3] if len(args) > 3 else None))
            self._pass.normings[scale] += 1
            if found and found[0][2]:
                self._pass.pairs += [(name, scale) for name, dim in found[0][1].items() if dim == 1]
        if not found:
            return
        layers = {
            name: dim for tensor, origin, _ in found for name, dim in origin.items() if _same(tensor, result, dim)
        }
        if function in ACTIVATIONS:
            for name, dim in layers.items():
                self._listener.on_activation(name, result.detach().movedim(dim, 0), function)
            # An in-place ReLU returns the tensor that it read, which
            # is a carrier: what follows belongs to the activation.
            self._carriers.pop(id(result), None)
        elif layers:
            self._carriers[id(result)] = (result, layers, False)


@dataclass
class _Uses:
    """Of one forward pass: how often a layer is called, its output read, a scale used, and which layer feeds which."""

    calls: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    normings: Counter[int] = field(default_factory=Counter)
    pairs: list[tuple[str, int]] = field(default_factory=list)

    def alone(self) -> dict[str, int]:
        """The weights and scales that have each other alone."""
        return {
            name: scale
            for name, scale in self.pairs
            if self.calls[name] == self.reads[name] == self.normings[scale] == 1
        }


def _same(before: Tensor, after: Tensor, dim: int) -> bool:
    """Whether the channels are still there."""
    return before.dim() == after.dim() and before.shape[dim] == after.shape[dim]
