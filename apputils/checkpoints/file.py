"""Checkpoints: written whole or not at all, loaded without running anything.

`save_checkpoint`, `load_checkpoint`, `load_weights`, and three commands. A checkpoint is plain data and tensors, so
that `torch.load(weights_only=True)` reads it: no code, no class of ours. Behind them stands a checksum (checksum.py).

    python -m apputils.checkpoints.file weights FILE OUT                  the weights alone, names without `module.`;
                                                                          --key, --only, --without choose among them,
                                                                          --strip takes a prefix off the names
    python -m apputils.checkpoints.file network FILE OUT                  structure and weights, without the run's state
    python -m apputils.checkpoints.file import FILE --trust-pickle [OUT]  the weights of a pickled module from elsewhere
"""

import argparse
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apputils.checkpoints.checksum import ChecksumWriter, check_checksum, is_zip
from apputils.checkpoints.named_tensors import chosen, named_tensors, stripped
from compress.errors import UserError, shown
from compress.io.archive_limits import check_archive, check_tensors
from compress.io.files import check_place, checked, why
from compress.io.terminal import answer, guard_screen

FORMAT = 2
WITH_CHECKSUM = 2  # the first format whose files have a checksum
UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, MemoryError,
    ArithmeticError, NotImplementedError, zipfile.BadZipFile,
)  # fmt: skip
OF_THE_RUN = ("optimizer", "random_state", "history")  # what a network alone does not need


class Damaged(UserError):
    """A file that is not as it was written: cut off, or changed since."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint so that the file at `path` is always a whole one: the old, or the new.

    Args:
        path: its folder is made if needed.
        content: plain data and tensors.

    Raises:
        UserError: it cannot be written (a full disk, no permission); the last good file is left as it was.
    """
    _save(path, {"format": FORMAT, **content}, with_checksum=True)


def save_plain(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain data and tensors in the same way, without the mark of our format: such as weights alone.

    Raises:
        UserError: as for `save_checkpoint`.
    """
    _save(path, dict(content), with_checksum=False)


def _save(path: Path, content: dict[str, Any], with_checksum: bool) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer: ChecksumWriter | None = None
    try:
        check_place(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            writer = ChecksumWriter(file)
            torch.save(content, writer)  # type: ignore[arg-type]
            if with_checksum:
                writer.close()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as e:  # torch wraps a failed write in a RuntimeError
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = writer.fault if writer is not None and writer.fault is not None else e
        reason = why(cause) if isinstance(cause, OSError) else str(cause)
        raise UserError(
            f"the checkpoint {path} could not be written: {reason}; the last good one is left as it was"
        ) from e


def _sync_folder(folder: Path) -> None:
    """A renamed file has its name for good only when the folder is on the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; one of an older format becomes one of today's.

    Raises:
        Damaged: it is not as it was written.
        UserError: no such file, of a newer format or none of ours, or holding something that would run code.
    """
    content = _read(path)
    number = _format(content)
    tensors = sum(isinstance(each, Tensor) for each in content.values()) if isinstance(content, dict) else 0
    if tensors and "format" not in content:
        raise UserError(
            f"{path} is no checkpoint of a run: it holds weights alone ({tensors} tensors), from which "
            f"`train.py --weights={path}` starts a run"
        )
    if not 1 <= number <= FORMAT:
        given = content.get("format") if isinstance(content, dict) else type(content).__name__
        newer = ": a newer version of this bench wrote it" if number else ""
        raise UserError(f"{path} is of format {shown(given)}{newer}; this version reads formats 1 to {FORMAT}")
    for older in range(number, FORMAT):
        content = MIGRATIONS[older](content)
    return {**content, "format": FORMAT}


def _format(content: Any) -> int:
    """The number of our format; 0 for anything else."""
    given = content.get("format") if isinstance(content, dict) else None
    return given if isinstance(given, int) and given > 0 else 0


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 was written at epochs' ends only, without a checksum."""
    return {**content, "middle": None, "middles": []}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}  # from a format to the next


def load_weights(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The weights in a file: of a checkpoint of ours (the averaged ones if there are any), or from elsewhere.

    Names lose the `module.` (DataParallel) or `_orig_mod.` (torch.compile) that all of them begin with.

    Args:
        path: the file.
        key: where in it they are, as in `model.state_dict`; None looks under the usual keys.

    Raises:
        UserError: no such file, damaged, without tensors or with several sets of them, or holding code: a pickled
            module is refused.
    """
    content = _read(path)
    if key is None and 1 <= _format(content) <= FORMAT:
        averaged = content.get("averaged")
        content = averaged if isinstance(averaged, Mapping) and averaged else content
        content = content.get("model")
    return named_tensors(content, path, key)


def import_pickle(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The weights of a pickled module, or of a file that holds one. Reading it runs whatever code is in it.

    Raises:
        UserError: it cannot be read, or has no weights.
    """
    try:
        content = torch.load(checked(path), map_location="cpu", weights_only=False)
    except Exception as e:  # unpickling runs foreign code, which may raise anything
        raise UserError(f"{path} cannot be unpickled: {type(e).__name__}: {_first(e)}; the code of its classes must be "
                        "importable") from e  # fmt: skip
    return named_tensors(content, path, key)


def _read(path: Path) -> Any:
    """What a file holds, if it is as it was written."""
    checksum, content = _unpickled(path)
    if checksum == "none" and WITH_CHECKSUM <= _format(content) <= FORMAT:
        raise Damaged(f"{path} is damaged: the checksum at its end is missing, so the file was cut off or written anew")
    return content


def _unpickled(path: Path) -> tuple[str, Any]:
    try:
        checksum = check_checksum(path)
        if checksum == "damaged":
            raise Damaged(f"{path} is damaged: its checksum is not that of its content")
        if is_zip(path):
            check_archive(path)
        content = torch.load(checked(path), map_location="cpu", weights_only=True)
        check_tensors(content)
        return checksum, content
    except FileNotFoundError as e:
        raise UserError(f"there is no checkpoint {path}") from e
    except pickle.UnpicklingError as e:
        kind = UserError if is_zip(path) else Damaged  # a file of zeros, such as a power failure leaves, is not a zip
        raise kind(
            f"{path} is refused: it is not a checkpoint of this bench, or holds code: {_refused(e)}. If you trust "
            f"whoever made it: python -m apputils.checkpoints.file import {path} --trust-pickle"
        ) from e
    except UNREADABLE as e:
        if isinstance(e.__cause__, ImportError):
            package = (e.__cause__.name or "that reads it").partition(".")[0]
            raise UserError(f"{path}: this kind of file needs the package {package}: pip install {package}") from e
        raise Damaged(f"{path} cannot be read as a checkpoint, it may be damaged: {_first(e)}") from e


def _refused(error: pickle.UnpicklingError) -> str:
    """What torch did not make; its advice to read the file nevertheless is left out."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
    return f"it names {found[1]}" if found else "it is no plain data"


def _first(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().split("\n")[0][:200]


TRUST = "--trust-pickle"


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code, 2 after a fault of the user's."""
    guard_screen()
    parser = argparse.ArgumentParser(prog="python -m apputils.checkpoints.file", description="Files of weights.")
    commands = parser.add_subparsers(required=True, dest="command")
    for name, text in (("weights", "the weights alone"), ("network", "structure and weights without the run's state")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path)
        command.add_argument("out", type=Path)
    command = commands.choices["weights"]
    command.add_argument("--only", action="append", default=[], metavar="PATTERN",
                         help="tensors of these names alone, as in 'backbone.*'")  # fmt: skip
    command.add_argument("--without", action="append", default=[], metavar="PATTERN", help="no tensors of these names")
    command.add_argument("--key", help="where in the file they are, as in state_dict_ema or model.state_dict")
    command.add_argument("--strip", metavar="PREFIX", help="a beginning that names lose, as in backbone.")
    command = commands.add_parser("import", help="the weights of a pickled module")
    command.add_argument("file", type=Path)
    command.add_argument("out", type=Path, nargs="?")
    command.add_argument("--key", help="where in the file they are")
    command.add_argument(TRUST, action="store_true", help="run whatever code the file holds")
    words = sys.argv[1:] if arguments is None else arguments
    last = [word for word in words if word == TRUST]  # argparse takes OUT behind it for an unknown word
    given = parser.parse_args([word for word in words if word != TRUST] + last)
    return answer(lambda: COMMANDS[given.command](given))


def _weights(given: argparse.Namespace) -> str:
    weights = chosen(load_weights(given.file, given.key), given.only, given.without)
    return _save_plain(weights if given.strip is None else stripped(weights, given.strip), given.out)


def _network(given: argparse.Namespace) -> str:
    content = load_checkpoint(given.file)
    save_checkpoint(given.out, {key: value for key, value in content.items() if key not in OF_THE_RUN})
    return f"written: {given.out}: engine.saved.load_model.load_network gives the network back"


def _import(given: argparse.Namespace) -> str:
    if not given.trust_pickle:
        raise UserError(
            f"{given.file}: a pickle from elsewhere runs whatever code is in it when it is read. If you trust whoever "
            "made it, give --trust-pickle"
        )
    return _save_plain(import_pickle(given.file, given.key), given.out or given.file.with_suffix(".weights.pt"))


def _save_plain(weights: dict[str, Tensor], out: Path) -> str:
    save_plain(out, weights)
    return f"written: {out}: {len(weights)} tensors; --weights={out} starts a run from them"


COMMANDS = {"weights": _weights, "network": _network, "import": _import}

if __name__ == "__main__":
    sys.exit(main())
