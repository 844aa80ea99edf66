"""Whether all processes have the same network, masks and states (`--check-ranks`).

Hashes, their comparison. Called by the trainer.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.distributed import several_processes
from compress.errors import UserError
from engine.distributed.process_group import of_every_process

SHOWN = 5


def check_ranks(parts: Mapping[str, Any], when: str) -> None:
    """Compares plain data and tensors over all processes; does nothing where there is one.

    Args:
        parts: name -> state, such as state dicts.
        when: for the message, such as `after epoch 3`.

    Raises:
        UserError: something differs; it is named, and the ranks that differ from the first.
    """
    if not several_processes():
        return
    hashes = {name: _hash(value) for name, value in _leaves(parts)}
    whole = hashlib.sha256("".join(f"{name} {each}\n" for name, each in hashes.items()).encode()).hexdigest()
    if len(set(of_every_process(whole))) == 1:
        return
    differing = _differing(of_every_process(hashes))
    lines = [f"{name} (ranks {', '.join(map(str, ranks))})" for name, ranks in differing.items()]
    more = f", and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    raise UserError(
        f"{when} the processes are not alike: rank 0 has another {', '.join(lines[:SHOWN])}{more}. Their networks "
        "would drift apart, so the run ends; the last checkpoint was written when they were alike"
    )


def _differing(found: list[dict[str, str]]) -> dict[str, list[int]]:
    """Name -> ranks whose hash is not the first's, in the first's order; a name that only others have comes last."""
    names = list(dict.fromkeys(name for each in found for name in each))
    ranks = {n: [rank for rank, each in enumerate(found) if each.get(n) != found[0].get(n)] for n in names}
    return {name: each for name, each in ranks.items() if each}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and plain value with the way to it, such as `masks.conv1.weight.mask`."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from _leaves(each, f"{name}.{i}")
    else:
        yield name, value


def _hash(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        return hashlib.sha256(repr(value).encode()).hexdigest()
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode() + data.tobytes()).hexdigest()
