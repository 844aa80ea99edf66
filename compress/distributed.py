"""Statistics that every process must agree on.

Here: sums and means over ranks. Not here: setting processes up, which `torchrun` and the training loop do.
"""

import torch.distributed
from torch import Tensor


def several_processes() -> bool:
    """Whether this is one of several processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def of_first_rank(value: int) -> int:
    """The whole number that the first process has, in every process."""
    if not several_processes():
        return value
    return int(sum_over_ranks(torch.tensor(value if torch.distributed.get_rank() == 0 else 0)))


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself where there is one process.

    Gloo takes CPU tensors and NCCL takes CUDA tensors: the sum travels on the device that the backend wants.
    """
    if not several_processes():
        return value
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = value.detach().to(device, copy=True)
    torch.distributed.all_reduce(total)
    return total.to(value.device)


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; the tensor itself where there is one process."""
    if not several_processes():
        return value
    return sum_over_ranks(value) / torch.distributed.get_world_size()
