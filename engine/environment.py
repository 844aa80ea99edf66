"""Device, threads and random state of a run.

Choosing and restoring them. Called by the trainer and the tester.
"""

import ctypes
import os
import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from compress.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """The device that `--device` means; `auto` is CUDA if there is one, else the CPU.

    Raises:
        UserError: no such device here, or CUDA was asked for and is absent.
    """
    if name == "auto":
        return _own("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise UserError(f"--device={name}: unknown device; give cpu, cuda, cuda:N or auto") from e
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device={name}: this machine offers no CUDA device to torch; leave it out or give cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device={name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device={name} is not supported; give cpu, cuda, cuda:N or auto")
    if device.index is not None and "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"--device={name}: each of several processes takes a CUDA device of its own; give cuda or auto")
    return _own(device.type) if device.index is None else device


def local_rank() -> int:
    """This process's number on this machine, from 0; 0 without `torchrun`."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _own(kind: str) -> torch.device:
    """The device of that type that is this process's."""
    if kind == "cpu" or "LOCAL_RANK" not in os.environ:
        return torch.device(kind)
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank()} of this machine (counted from 0) has no CUDA device: there are "
            f"{torch.cuda.device_count()}; start at most as many with --nproc-per-node, or give --device=cpu"
        )
    return torch.device(kind, local_rank())


def set_up(seed: int, threads: int | None) -> None:
    """Seeds python, numpy and torch, sets the number of CPU threads, and lets the process keep its memory."""
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # for users' own code; ours draws from (seed, epoch, sample)
    torch.manual_seed(seed)


def keep_freed_memory() -> bool:
    """Freed memory stays with the process instead of going back to the system and being asked for again in each step.

    glibc returns large blocks (activations) when they are freed, and the system clears every page of them when they are
    needed again: `benchmarks/memory.py` measures what that costs. A step's peak stays the same. See mallopt(3).

    Returns:
        whether it was set; False where the C library is not glibc.
    """
    setter = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if setter is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    return bool(setter(M_MMAP_MAX, 0)) and bool(setter(M_TRIM_THRESHOLD, 2**31 - 1))


def random_state() -> dict[str, Any]:
    """Every generator's state as plain data and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": list(random.getstate()[1]),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    random.setstate((3, tuple(state["python"]), None))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])
