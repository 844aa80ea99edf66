"""A process that dies, in the process of the tests: `BaseException` passes every handler of ours."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from apputils.checkpoints.file import load_checkpoint
from apputils.runs.folders import Run


class Death(BaseException):
    """The process is gone."""


@contextmanager
def dies_at(owner: Any, name: str, call: int, after: bool = False) -> Any:
    """Ends with `Death` at the given call (from 1) of a method, before it runs or after it."""
    original, calls = getattr(owner, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call and not after:
            raise Death
        result = original(*args, **kwargs)
        if len(calls) == call:
            raise Death
        return result

    with patch.object(owner, name, dying):
        yield


def death_of(run: Callable[[], Any]) -> bool:
    """Whether a run died."""
    try:
        run()
    except Death:
        return True
    return False


def state_of(run: str) -> dict[str, Any]:
    """The last checkpoint of a run without what may differ: names, times, options."""
    content = load_checkpoint(Run(run).last)
    history = [{key: row[key] for key in row if key != "images_per_second"} for row in content["history"]]
    leave = ("run", "options", "seconds", "history", "warnings")
    return {**{key: value for key, value in content.items() if key not in leave}, "history": history}


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested structures of plain data and tensors differ, to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.shape == b.shape and torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [each for key in a for each in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        return [each for i in range(len(a)) for each in differences(a[i], b[i], f"{path}/{i}")]
    return [] if a == b else [path]
