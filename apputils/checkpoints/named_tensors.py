"""The named tensors of what a file holds: a state dict, a module, or a dict with one of these under a usual key.

`named_tensors`, `chosen`, `stripped`, `equal`.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import UserError, some
from compress.selectors import WRAPPING

STATE_KEYS = (
    "model", "state_dict", "model_state_dict", "net", "network", "params", "weights", "module",
    "ema", "model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "params_ema",
)  # fmt: skip
KEYS_DEEP = 2  # {"model": {"state_dict": ...}}


def named_tensors(content: Any, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The weights in what was read of a file.

    Names lose the `module.` (DataParallel) or `_orig_mod.` (torch.compile) that all of them begin with.

    Args:
        content: what the file holds.
        path: the file, for messages.
        key: where the weights are in it, as in `model.state_dict`; None looks under the usual keys.

    Raises:
        UserError: there are none, or several that differ.
    """
    content = content if key is None else _under(content, path, key)
    found = _only(content, path) if key is None else _state(content)
    if not found:
        keys = _keys(content)
        raise UserError(
            f"{path} holds no named tensors{f' under {key}' if key else ''}{f'; its keys are {keys}' if keys else ''}. "
            f"It has to be a state dict, or a dict with one under {', '.join(STATE_KEYS)}; for another key: "
            f"{_command(path)} --key=KEY"
        )
    while (first := {name.partition(".")[0] for name in found}) <= WRAPPING and len(first) == 1:
        found = {name.partition(".")[2]: tensor for name, tensor in found.items()}
    return found


def chosen(weights: Mapping[str, Tensor], only: Sequence[str], without: Sequence[str]) -> dict[str, Tensor]:
    """The tensors whose names match one of `only` (all, where it is empty) and none of `without`.

    Raises:
        UserError: a pattern matches no name, or none is left.
    """
    for pattern in (*only, *without):
        if not any(fnmatchcase(name, pattern) for name in weights):
            raise UserError(f"{pattern!r} matches none of the {len(weights)} names ({some(list(weights))})")
    found = {
        name: tensor
        for name, tensor in weights.items()
        if (not only or any(fnmatchcase(name, each) for each in only))
        and not any(fnmatchcase(name, each) for each in without)
    }
    if not found:
        raise UserError(f"none of the {len(weights)} tensors is left")
    return found


def stripped(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors, without a beginning that some of the names have.

    Raises:
        UserError: no name begins so, or two tensors would get one name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = name.removeprefix(prefix) or name
        if short in found:
            raise UserError(f"without {prefix!r} two tensors are called {short}; leave one out: --without=PATTERN")
        found[short] = tensor
    if found.keys() == weights.keys():
        raise UserError(f"none of the {len(weights)} names begins with {prefix!r} ({some(list(weights))})")
    return found


def equal(one: Any, other: Any) -> bool:
    """Whether two tensors are of one kind, shape and value."""
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and one.dtype == other.dtype and torch.equal(one, other)


def _only(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights under the usual keys, or else the tensors that stand beside each other."""
    candidates = _candidates(content, KEYS_DEEP)
    if not candidates:
        return _state(content)
    (first, found), *others = candidates.items()
    differing = [key for key, other in others if not _same(found, other)]
    if differing:
        raise UserError(
            f"{path} holds weights under {', '.join(candidates)}, and they differ; nothing was loaded. Choose: "
            f"{_command(path)} --key={differing[0]}, or --key={first}"
        )
    return found


def _candidates(content: Any, deep: int) -> dict[str, dict[str, Tensor]]:
    """Key, or keys with dots, -> the weights there."""
    if not isinstance(content, Mapping) or not deep:
        return {}
    found: dict[str, dict[str, Tensor]] = {}
    for key in STATE_KEYS:
        value = content.get(key)
        if inner := _candidates(value, deep - 1):
            found |= {f"{key}.{name}": state for name, state in inner.items()}
        elif isinstance(value, Mapping | nn.Module) and (state := _state(value)):
            found[key] = state
    return found


def _state(content: Any) -> dict[str, Tensor]:
    state = content.state_dict() if isinstance(content, nn.Module) else content
    items = state.items() if isinstance(state, Mapping) else ()
    return {str(name): tensor.detach() for name, tensor in items if isinstance(tensor, Tensor)}


def _under(content: Any, path: Path, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            raise UserError(f"{path} has nothing under {key}; its keys are {_keys(content) or 'none'}")
        content = content[part]
    return content


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(equal(tensor, other[name]) for name, tensor in one.items())


def _keys(content: Any) -> str:
    return some([str(each)[:60] for each in content], 8) if isinstance(content, Mapping) else ""


def _command(path: Path) -> str:
    return f"python -m apputils.checkpoints.file weights {path} OUT"
