"""Importing somebody's code: a file, also one of a package with relative imports, or a module by its name.

`imported` and `own_code`. Only `own.py` calls the former, with what the command line names.
"""

import functools
import hashlib
import importlib
import importlib.util
import logging
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from compress.errors import UserError, did_you_mean, printable
from engine.architectures.neighbours import add_folder, at_home, hidden_neighbours, imports_of

logger = logging.getLogger("run")
START = "nothing was started"


@functools.cache
def warn_once(message: str) -> None:
    """A warning in the run's log, once in a process."""
    logger.warning("%s", message)


class own_code:
    """Block in which somebody else's code runs: whatever it raises is a UserError that says where.

    The present folder is afterwards what it was: a run's folders are relative to it.

    Args:
        words: begin the message.
        now: ends it: what happens now.
    """

    def __init__(self, words: str, now: str = START) -> None:
        self.words, self.now = words, now

    def __enter__(self) -> None:
        self.folder = _present_folder()

    def __exit__(self, kind: object, error: BaseException | None, trace: Any) -> None:
        if self.folder is not None and _present_folder() != self.folder:
            os.chdir(self.folder)
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, UserError):
            text = " ".join(str(error).split())[:300]
            raise UserError(f"{self.words}: {type(error).__name__}: {text}{_place(trace)}; {self.now}") from error


def _present_folder() -> str | None:
    """None where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _place(trace: Any) -> str:
    """File and line of the innermost frame that is neither of the bench nor of a library."""
    root = str(Path(__file__).resolve().parents[2])
    for frame in reversed(traceback.extract_tb(trace)):
        library = "site-packages" in frame.filename or frame.filename.startswith((root, "<", sys.base_prefix))
        if not library:
            return f" (line {frame.lineno} of {printable(frame.filename)})"
    return ""


def imported(place: str, name: str, option: str) -> ModuleType:
    """The module of a text `FILE.py` or `MODULE`.

    Args:
        place: which it is.
        name: what is looked for in it, for messages.
        option: with its whole value, for messages.

    Raises:
        UserError: there is none, or it cannot be imported; says where.
    """
    with torch.random.fork_rng([]):  # what a module draws when it is imported must not change the run
        return _of_file(Path(place), name, option) if place.endswith(".py") else _of_module(place, option)


def _of_file(path: Path, name: str, option: str) -> ModuleType:
    """Imports a file; under its plain name where that is free, so that other processes find it again."""
    if not path.is_file():
        there = [f"{each}:{name}" for each in sorted(path.parent.glob("*.py"))]
        near = f"; {did_you_mean(f'{path}:{name}', there)}" if there else ""
        raise UserError(f"{option}: there is no file {path}{near}; {START}")
    path = path.resolve()
    top = _top_of(path)
    for folder in (path.parent, top.parent):
        add_folder(folder)
    parts = path.relative_to(top.parent).with_suffix("").parts
    is_found = _is_found(".".join(parts), path)
    try:
        with at_home(path), own_code(f"{option} cannot be imported"):
            if is_found:
                module = importlib.import_module(".".join(parts))
            else:
                module = importlib.import_module(".".join((_alias_of(top), *parts[1:])))
    except UserError as e:
        raise UserError(f"{e}{_hidden(e.__cause__, path.parent)}") from e.__cause__
    for found, (elsewhere, beside) in hidden_neighbours(path).items():
        warn_once(
            f"{option} imports {found}, which is {printable(elsewhere)} here, not {printable(str(beside))}; "
            f"to use the latter, rename it, or write `from .{found} import ...`"
        )
    return module


def _top_of(path: Path) -> Path:
    """The file itself, or the folder of the outermost package that its relative imports need."""
    level = max((each for each, _ in imports_of(path)), default=0)
    if not 0 < level < len(path.parents):
        return path
    top = path.parents[level - 1]
    while (top / "__init__.py").is_file() and (top.parent / "__init__.py").is_file():
        top = top.parent
    return top


def _is_found(dotted: str, path: Path) -> bool:
    """Whether `import DOTTED` gives this file."""
    try:
        spec = importlib.util.find_spec(dotted)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin) == path


def _alias_of(top: Path) -> str:
    """A name of its own for a file or a package whose plain name is taken; under it the module is there."""
    alias = f"own_{top.stem}_{hashlib.sha256(str(top).encode()).hexdigest()[:8]}"
    if alias in sys.modules:
        return alias
    file, places = (top / "__init__.py", [str(top)]) if top.is_dir() else (top, None)
    module = ModuleType(alias)
    if places is not None:
        module.__path__ = places
    if file.is_file():
        spec = importlib.util.spec_from_file_location(alias, file, submodule_search_locations=places)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        if module.__spec__ is not None and module.__spec__.loader is not None:
            module.__spec__.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise
    return alias


def _hidden(error: BaseException | None, folder: Path) -> str:
    """What to do where an import found another module than the neighbour of that name."""
    wanted = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    neighbour = next((each for each in (folder / f"{wanted}.py", folder / wanted) if wanted and each.exists()), None)
    found = getattr(sys.modules.get(wanted), "__file__", None)
    if neighbour is None or found is None or Path(found).is_relative_to(folder):
        return ""
    return (
        f". {wanted} is {printable(found)} here, not {printable(str(neighbour))}: rename that, or write "
        f"`from .{wanted} import ...`"
    )


def _of_module(name: str, option: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        with own_code(f"{option} cannot be imported"):
            return importlib.import_module(name)
    except UserError as e:
        if isinstance(e.__cause__, ModuleNotFoundError) and e.__cause__.name and name.startswith(e.__cause__.name):
            raise UserError(
                f"{option}: there is no module {e.__cause__.name}, neither in this folder nor installed; a file "
                f"is named as path/to/net.py:MyNet; {START}"
            ) from e
        raise
