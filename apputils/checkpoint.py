"""Checkpoints: written whole or not at all, loaded without running anything.

Here: `save_checkpoint`, `load_checkpoint`, `load_weights`, and three commands. Not here: what is in one
(models/run_state.py). A checkpoint is plain data and tensors, so that `torch.load(weights_only=True)` reads it: no
code, no class of ours.

    python -m apputils.checkpoint weights FILE OUT                   the weights alone, names without `module.`
    python -m apputils.checkpoint network FILE OUT                   structure and weights, without the run's state
    python -m apputils.checkpoint import FILE --trust-pickle [OUT]   the weights of a pickled module from elsewhere
"""

import argparse
import os
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.selectors import canonical

FORMAT = 1
OF_THE_RUN = ("optimizer", "random_state", "history")  # what a network alone does not need
STATE_KEYS = ("model", "state_dict", "model_state_dict", "net")  # where files from elsewhere keep their weights


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint so that the file at `path` is always a whole one: the old, or the new.

    Args:
        path: its folder is made if needed.
        content: plain data and tensors.

    Raises:
        UserError: it cannot be written (a full disk, no permission); the last good file is left as it was.
    """
    save_plain(path, {"format": FORMAT, **content})


def save_plain(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain data and tensors in the same way, without the mark of our format: such as weights alone.

    Raises:
        UserError: as for `save_checkpoint`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(content), file)
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
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        given = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} is of format {given!r}; this version reads format {FORMAT}")
    return content


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file: of a checkpoint of ours (the averaged ones if there are any), or from elsewhere.

    Names lose `module.` (DataParallel) and `_orig_mod.` (torch.compile).

    Raises:
        UserError: no such file, damaged, without tensors, or holding code: a pickled module is refused.
    """
    content = _read(path)
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        content = (content.get("averaged") or content)["model"]
    return _tensors(content, path)


def import_pickle(path: Path) -> dict[str, Tensor]:
    """The weights of a pickled module, or of a file that holds one. Reading it runs whatever code is in it.

    Raises:
        UserError: it cannot be read, or has no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as e:  # unpickling runs foreign code, which may raise anything
        raise UserError(f"{path} cannot be unpickled: {type(e).__name__}: {_first(e)}; the code of its classes must be "
                        "importable") from e  # fmt: skip
    return _tensors(content, path)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise UserError(f"there is no checkpoint {path}") from e
    except pickle.UnpicklingError as e:
        raise UserError(
            f"{path} is refused: it is no checkpoint of this bench, or holds code: {_first(e)}. If you trust whoever "
            f"made it: python -m apputils.checkpoint import {path} --trust-pickle"
        ) from e
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} cannot be read as a checkpoint, it may be damaged: {_first(e)}") from e


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors of a module, of a state dict, or of a dict that holds either."""
    for key in STATE_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), (Mapping, nn.Module)):
            content = content[key]
            break
    state = content.state_dict() if isinstance(content, nn.Module) else content
    items = state.items() if isinstance(state, Mapping) else ()
    found = {str(name): tensor.detach() for name, tensor in items if isinstance(tensor, Tensor)}
    if not found:
        raise UserError(
            f"{path} holds no named tensors; a state dict, or a dict with one under {', '.join(STATE_KEYS)}"
        )
    return {canonical(name): tensor for name, tensor in found.items()}


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code, 2 after a fault of the user's."""
    parser = argparse.ArgumentParser(prog="python -m apputils.checkpoint", description="Files of weights.")
    commands = parser.add_subparsers(required=True, dest="command")
    for name, text in (("weights", "the weights alone"), ("network", "structure and weights without the run's state")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path)
        command.add_argument("out", type=Path)
    command = commands.add_parser("import", help="the weights of a pickled module")
    command.add_argument("file", type=Path)
    command.add_argument("out", type=Path, nargs="?")
    command.add_argument("--trust-pickle", action="store_true", help="run whatever code the file holds")
    given = parser.parse_args(arguments)
    try:
        print(COMMANDS[given.command](given))
    except UserError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    return 0


def _weights(given: argparse.Namespace) -> str:
    return _save_plain(load_weights(given.file), given.out)


def _network(given: argparse.Namespace) -> str:
    content = load_checkpoint(given.file)
    save_checkpoint(given.out, {key: value for key, value in content.items() if key not in OF_THE_RUN})
    return f"written: {given.out}: models.whole.load_network gives the network back"


def _import(given: argparse.Namespace) -> str:
    if not given.trust_pickle:
        raise UserError(
            f"{given.file}: a pickle from elsewhere runs whatever code is in it when it is read. If you trust whoever "
            "made it, give --trust-pickle"
        )
    return _save_plain(import_pickle(given.file), given.out or given.file.with_suffix(".weights.pt"))


def _save_plain(weights: dict[str, Tensor], out: Path) -> str:
    save_plain(out, weights)
    return f"written: {out}: {len(weights)} tensors; --weights={out} starts a run from them"


COMMANDS = {"weights": _weights, "network": _network, "import": _import}

if __name__ == "__main__":
    sys.exit(main())
