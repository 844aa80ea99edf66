"""Several processes that train one network together, as `torchrun` starts them.

The process group, what the first process tells the others, and what waits for it. Called by engine/commands/train.py
and the trainer. Every function does nothing, or the obvious, where there is one process.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

from compress.distributed import is_first, rank, several_processes, world_size
from compress.errors import UserError
from engine.environment import local_rank, set_up

T = TypeVar("T")
logger = logging.getLogger("run")
LOST = ("closed by peer", "connection", "Socket", "timed out", "Timed out", "Broken pipe", "NCCL", "remote process")


def started_together() -> int:
    """How many processes were started together, as the environment has it; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def in_one_process(what: str) -> None:
    """Refuses what makes no sense several times at once.

    Raises:
        UserError: several processes were started.
    """
    if started_together() > 1:
        raise UserError(f"{what} runs in one process, {started_together()} were started; leave torchrun out")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that `torchrun` started: gloo between CPUs, NCCL between CUDA devices.

    Only the first process says what is not an error: the others have nothing else to tell.

    Args:
        device: this process's own, of `choose_device`.

    Raises:
        UserError: another process is gone, while this one waits for it.
    """
    if started_together() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    root, level = logging.getLogger(), logging.getLogger().level
    if not is_first():
        root.setLevel(logging.ERROR)
    try:
        yield
    except RuntimeError as e:  # what torch raises for a lost connection is of no type of its own
        if isinstance(e, distributed.DistError) or any(word in str(e) for word in LOST):
            raise UserError(
                f"process {rank()} of {world_size()} lost another one and ends ({str(e).splitlines()[0][:160]}). What "
                "was saved is kept: torchrun --max-restarts=N continues from it by itself, --resume=RUN by hand"
            ) from e
        raise
    finally:
        root.setLevel(level)
    distributed.destroy_process_group()  # not after an error: it could wait for a process that is gone


def told_by_first(value: T) -> T:
    """What the first process has, in every process."""
    if not several_processes():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def of_every_process(value: T) -> list[T]:
    """What each process has, by rank, in every process."""
    if not several_processes():
        return [value]
    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, value)
    return found


def set_apart(seed: int) -> None:
    """Each process draws numbers of its own from now on, such as dropout's; the first one's stay as they were."""
    if rank() > 0:
        set_up(seed + rank(), None)


@contextmanager
def first_of_machine_first() -> Iterator[None]:
    """The others of a machine wait until its first process has done this, such as fetching a data set."""
    if several_processes() and local_rank() > 0:
        distributed.barrier()
    yield
    if several_processes() and local_rank() == 0:
        distributed.barrier()
