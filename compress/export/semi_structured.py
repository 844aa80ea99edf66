"""2:4 weights on NVIDIA GPUs: stored and multiplied in the sparse format of the tensor cores, and timed.

The conversion of linear layers, which is what torch multiplies in that format (2:4 convolutions keep their exact
zeros and stay dense). For deployment on such a GPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured
from torch.utils.benchmark import Timer

from compress.errors import UserError
from compress.selectors import canonical


@dataclass(frozen=True)
class SparseLayer:
    """One converted layer.

    Attributes:
        name: of the layer.
        dense: median seconds of a call before the conversion.
        sparse: median seconds of a call after it.
    """

    name: str
    dense: float
    sparse: float


def to_semi_structured(model: nn.Module, batch: int = 128) -> list[SparseLayer]:
    """Converts, in place, every linear layer whose weight is 2:4, and times each before and after.

    Args:
        model: on a CUDA device of compute capability 8.0 or later, in half precision or bfloat16.
        batch: rows of the input that is timed; a multiple of 8.

    Returns:
        one row a layer.

    Raises:
        UserError: the model is not on such a device or in such a precision, or no linear layer is 2:4.
    """
    device, dtype = next((p.device, p.dtype) for p in model.parameters())
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        raise UserError(
            f"semi-structured kernels need a CUDA device of compute capability 8.0 or later; the model is on {device}. "
            "It was left as it is: its zeros hold, its speed is the dense one"
        )
    if dtype not in (torch.float16, torch.bfloat16):
        raise UserError(f"semi-structured kernels need float16 or bfloat16; the model is in {dtype}")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and is_two_of_four(m.weight)}
    if not layers:
        raise UserError("no linear layer has 2:4 weights; prune with NMPruner(n: 2, m: 4) first")
    return [_convert(canonical(name, model), layer, batch) for name, layer in layers.items()]


def is_two_of_four(weight: Tensor) -> bool:
    """Whether each four neighbours of a row (N, K) hold at most two values that are not zero."""
    if weight.dim() != 2 or weight.shape[1] % 4:
        return False
    return bool((weight.reshape(-1, 4).count_nonzero(dim=1) <= 2).all())


@torch.inference_mode()
def _convert(name: str, layer: nn.Linear, batch: int) -> SparseLayer:
    example = torch.randn(batch, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype)
    dense = _seconds(layer, example)
    layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
    return SparseLayer(name, dense, _seconds(layer, example))


def _seconds(layer: nn.Module, example: Tensor) -> float:
    return float(Timer("layer(example)", globals={"layer": layer, "example": example}).blocked_autorange().median)
