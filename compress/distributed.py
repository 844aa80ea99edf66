"""Statistics that every process must agree on.

Sums, maxima, means and the first process's values.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed
from torch import Tensor

from compress.errors import UserError

T = TypeVar("T")

_by_itself: list[bool] = []  # not empty: this process works by itself for a while


def several_processes() -> bool:
    """Whether this is one of several processes that train together."""
    return not _by_itself and torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def by_itself() -> Iterator[None]:
    """Block in which this process sends no message and waits for none, whatever the others do."""
    _by_itself.append(True)
    try:
        yield
    finally:
        _by_itself.pop()


def rank() -> int:
    """This process's number, from 0; 0 where there is one process."""
    return torch.distributed.get_rank() if several_processes() else 0


def world_size() -> int:
    """How many processes train together; 1 where there is one."""
    return torch.distributed.get_world_size() if several_processes() else 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return rank() == 0


def of_first_rank(value: int) -> int:
    """The whole number that the first process has, in every process."""
    if not several_processes():
        return value
    return int(sum_over_ranks(torch.tensor(value if is_first() else 0)))


def made_by_first_rank(make: Callable[[], T]) -> T:
    """What the first process makes, in every process; the others wait for it and do nothing.

    Args:
        make: called in the first process only; what it returns can be pickled, tensors are on the CPU.

    Raises:
        UserError: in the other processes, where the first one's `make` raised an error.
    """
    if not several_processes():
        return make()
    box: list[Any] = [None, None]
    error: Exception | None = None
    if is_first():
        try:
            with by_itself():
                box[0] = make()
        except Exception as e:
            error, box[1] = e, f"{type(e).__name__}: {e}"
    device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else None
    torch.distributed.broadcast_object_list(box, src=0, device=device)
    if error is not None:
        raise error
    if box[1] is not None:
        raise UserError(f"the first process failed: {box[1]}")
    found: T = box[0]
    return found


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself where there is one process."""
    return _reduced(value, "SUM") if several_processes() else value


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest of each element over all processes; the tensor itself where there is one process."""
    return _reduced(value, "MAX") if several_processes() else value


def _reduced(value: Tensor, how: str) -> Tensor:
    """Gloo takes CPU tensors and NCCL takes CUDA tensors: the value travels on the device that the backend wants."""
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = value.detach().to(device, copy=True)
    torch.distributed.all_reduce(total, getattr(torch.distributed.ReduceOp, how))
    return total.to(value.device)


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; the tensor itself where there is one process."""
    if not several_processes():
        return value
    return sum_over_ranks(value) / world_size()


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Each floating tensor becomes its mean over all processes, in place, by one message for each type."""
    if not several_processes():
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        flat = mean_over_ranks(torch.cat([tensor.reshape(-1) for tensor in group]))
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.reshape(tensor.shape))


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Each tensor becomes the first process's, in place; nothing where there is one process."""
    if not several_processes():
        return
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    for tensor in tensors:
        value = tensor.detach().to(device, copy=True).contiguous()
        torch.distributed.broadcast(value, 0)
        tensor.copy_(value)
