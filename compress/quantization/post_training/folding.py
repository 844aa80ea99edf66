"""BatchNorm folded into the layer in front of it, before anything is rounded.

`fold_batch_norms`, `same_outputs`, and where a folded layer keeps its bias. The BatchNorm stays in the network as a
plain addition of the folded bias (mean 0, variance 1, scale 1), so that names and shapes of all tensors are those of
the float network and a checkpoint of one fits the other; the ONNX exporter takes it away.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree
from torch import Tensor, nn

from compress.graph.calls import run_on
from compress.quantization.modules.layers import channel_axis
from compress.selectors import submodule

Norms = Mapping[str, str]  # layer -> its BatchNorm


@torch.no_grad()
def fold_batch_norms(model: nn.Module, norms: Norms) -> None:
    """Puts each BatchNorm's scale into its layer's weight (arXiv 1806.08342, eq. 20-21), in place.

    W' = W gamma / sqrt(variance + eps), b' = beta + (b - mean) gamma / sqrt(variance + eps).
    """
    for name, norm_name in norms.items():
        layer: Any = submodule(model, name)
        norm: Any = submodule(model, norm_name)
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        if layer.bias is not None:
            shift = shift + layer.bias * scale
            layer.bias.zero_()
        layer.weight.mul_(scale.reshape(along(layer.weight, channel_axis(layer))))
        if norm.weight is not None:
            norm.bias.add_(shift)
            norm.weight.fill_(1.0)
            norm.running_mean.zero_()
        else:
            # affine=False has no bias; x - mean adds the shift as well.
            norm.running_mean.copy_(-shift)
        # variance + eps is 1 now, so that the BatchNorm computes x + bias.
        norm.running_var.fill_(1.0 - norm.eps)


@torch.no_grad()
def same_outputs(first: nn.Module, second: nn.Module, batches: Sequence[Any]) -> bool:
    """Whether two networks in evaluation mode give the same but for rounding errors, on all batches.

    A network that does not repeat itself on a batch is not judged by it.
    """
    for batch in batches:
        outputs, again, others = (_tensors(run_on(net, batch)) for net in (first, first, second))
        if _near(outputs, again) and not _near(outputs, others):
            return False
    return True


def _tensors(output: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(output)
    return [each for each in leaves if isinstance(each, Tensor) and each.is_floating_point()]


def _near(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether all are of the same shapes and differ by less than a thousandth of their norms."""
    return len(left) == len(right) and all(
        a.shape == b.shape and bool((a - b).norm() <= 1e-3 * a.norm() + 1e-12) for a, b in zip(left, right, strict=True)
    )


def along(tensor: Tensor, axis: int) -> list[int]:
    """The shape in which one number a channel multiplies a tensor along `axis`."""
    return [-1 if i == axis % tensor.dim() else 1 for i in range(tensor.dim())]


class Bias:
    """What is added to each output channel of a layer: its own bias, or that of the BatchNorm folded into it.

    Args:
        layer: float or quantized.
        norm: its folded BatchNorm, if any.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module | None) -> None:
        self.layer, self.norm = layer, norm

    @property
    def exists(self) -> bool:
        """Whether there is a tensor to add to."""
        return self.norm is not None or getattr(self.layer, "bias", None) is not None

    @property
    def values(self) -> Tensor | None:
        """(channels,), of a BatchNorm as folded; None where there is none."""
        norm: Any = self.norm
        if norm is None:
            return self.layer.get_parameter("bias").detach() if self.exists else None
        return norm.bias.detach() if norm.bias is not None else -norm.running_mean

    @torch.no_grad()
    def add(self, change: Tensor) -> None:
        """Adds (channels,) to the bias."""
        norm: Any = self.norm
        if norm is None:
            self.layer.get_parameter("bias").add_(change)
        elif norm.bias is not None:
            norm.bias.add_(change)
        else:
            norm.running_mean.sub_(change)

    @torch.no_grad()
    def scale(self, factor: Tensor) -> None:
        """Multiplies the bias by (channels,); a layer without one has none to multiply."""
        norm: Any = self.norm
        if norm is None:
            if self.exists:
                self.layer.get_parameter("bias").mul_(factor)
        elif norm.bias is not None:
            norm.bias.mul_(factor)
        else:
            norm.running_mean.mul_(factor)
