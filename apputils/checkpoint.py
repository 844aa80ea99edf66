"""Checkpoints: written whole or not at all, loaded without running anything.

Here: `save_checkpoint`, `load_checkpoint`. Not here: what is in one (models/base_solver.py). A checkpoint is plain data
and tensors, so that `torch.load(weights_only=True)` reads it: no code, no class of ours.
"""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from compress.errors import UserError

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint so that the file at `path` is always a whole one: the old, or the new.

    Args:
        path: its folder is made if needed.
        content: plain data and tensors.

    Raises:
        UserError: it cannot be written (a full disk, no permission); the last good file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as e:  # torch wraps a failed write in a RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(f"the checkpoint {path} could not be written: {e}; the last good one is left as it was") from e


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU.

    Raises:
        UserError: no such file, damaged, of another format, or holding something that would run code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise UserError(f"there is no checkpoint {path}") from e
    except pickle.UnpicklingError as e:
        raise UserError(f"{path} is refused: it is no checkpoint of this bench, or holds code: {_first(e)}") from e
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} cannot be read as a checkpoint, it may be damaged: {_first(e)}") from e
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        given = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} is of format {given!r}; this version reads format {FORMAT}")
    return content


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
