"""The files beside somebody's code that it imports: which they are, and to each folder its own.

`imported_files`, `hidden_neighbours` and `at_home`. Two folders compared may both hold a `blocks.py`, and Python has
one place for a module of that name: the second would be given the first one's, whose weights fit.
"""

import ast
import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from compress.io.files import read_bytes

_folders: list[str] = []  # that were put at the end of `sys.path`
_claims: dict[str, set[Path]] = {}  # plain name -> folders whose code imports it from beside itself
_held: dict[Path, dict[str, ModuleType]] = {}  # folder -> its modules of names that another folder has too


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Level and dotted name of all that a file imports, also within functions; [] where it cannot be parsed."""
    try:
        tree = ast.parse(read_bytes(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the import says where
        return []
    found: list[tuple[int, str]] = []
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            found += [(0, alias.name) for alias in each.names]
        elif isinstance(each, ast.ImportFrom):
            base = each.module or ""
            found += [(each.level, base), *((each.level, f"{base}.{alias.name}".lstrip(".")) for alias in each.names)]
    return found


def imported_files(path: Path) -> list[Path]:
    """The files beside a file, or in packages beside it, that it imports, also through one another; sorted."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        for level, name in imports_of(file):
            bases = [file.parents[level - 1]] if 0 < level <= len(file.parents) else [path.parent]
            new = {each for base in bases for each in _files_of(base, name)} - found - {path}
            found |= new
            waiting += new
    return sorted(found)


def _files_of(base: Path, name: str) -> list[Path]:
    """Of a dotted name: the files of the module and of the packages around it."""
    parts = name.split(".") if name else []
    places = [base.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    candidates = [each for place in places for each in (place.with_name(f"{place.name}.py"), place / "__init__.py")]
    return [each for each in candidates if each.is_file()]


def _plain_neighbours(path: Path) -> set[str]:
    """Plain names that a file, or what it imports from beside it, imports and that are beside it."""
    names = {
        name.partition(".")[0]
        for file in (path, *imported_files(path))
        for level, name in imports_of(file)
        if not level
    }
    return {name for name in names if _beside(path.parent, name) is not None}


def _beside(folder: Path, name: str) -> Path | None:
    return next((each for each in (folder / f"{name}.py", folder / name) if name and each.exists()), None)


def hidden_neighbours(path: Path) -> dict[str, tuple[str, Path]]:
    """Names that a file imports and that are beside it, but are found elsewhere -> where, and the one beside it."""
    found = {}
    for name in sorted(_plain_neighbours(path)):
        elsewhere, beside = _elsewhere(name), _beside(path.parent, name)
        if elsewhere is not None and beside is not None and not Path(elsewhere).is_relative_to(path.parent):
            found[name] = (elsewhere, beside)
    return found


def _elsewhere(name: str) -> str | None:
    """Where a plain name is found without the folders of somebody's code."""
    if name in sys.builtin_module_names:
        return name
    here = os.getcwd()  # what an empty entry of the path means
    spec = PathFinder.find_spec(name, [each for each in sys.path if (each or here) not in _folders])
    return None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or []), None)


def add_folder(folder: Path) -> None:
    """Neighbours in this folder can be imported by their plain names; last, so that they hide nothing."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _folders.append(str(folder))


@contextlib.contextmanager
def at_home(path: Path | None) -> Iterator[None]:
    """Inside, what a file imports by a plain name is beside it, and not beside another file of somebody's code.

    Args:
        path: of the file; None does nothing.
    """
    if path is None:
        yield
        return
    folder = path.parent
    for name in _plain_neighbours(path):
        if _elsewhere(name) is None:
            _claims.setdefault(name, set()).add(folder)
    _put_aside()
    sys.modules.update(_held.get(folder, {}))
    before, _finder.inside = list(sys.path), True
    sys.path[:] = [each for each in before if each not in _folders or path.is_relative_to(each)]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = [*before, *(each for each in sys.path if each not in before)]
        _finder.inside = False
        _put_aside()


def _put_aside() -> None:
    """Modules whose plain names two folders have leave `sys.modules`; under a name of their own they stay."""
    shared = {name for name, folders in _claims.items() if len(folders) > 1}
    if shared and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    tops = {name: sys.modules[name] for name in shared if name in sys.modules}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        if top in tops:
            folder = _folder_of(tops[top])
            _held.setdefault(folder, {})[name] = module
            del sys.modules[name]
            _rename(module, name, folder)


def _folder_of(top: ModuleType) -> Path:
    file = getattr(top, "__file__", None) or f"{next(iter(top.__path__))}/__init__.py"
    return Path(file).parents[1 if hasattr(top, "__path__") else 0]


def _rename(module: ModuleType, name: str, folder: Path) -> None:
    """Its classes say a module that is there: their source is looked up by it."""
    top, dot, rest = name.partition(".")
    alias = f"own_{top}_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}{dot}{rest}"
    sys.modules[alias] = module
    for each in vars(module).values():
        if isinstance(each, type) and each.__module__ == name:
            each.__module__ = alias


class _Refusing:
    """A finder that refuses a name that two folders have, in code that runs later and may be either's."""

    inside = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        folders = _claims.get(name, set())
        if not self.inside and len(folders) > 1:
            listed = " and ".join(sorted(map(str, folders)))
            raise ImportError(
                f"{name} is in {listed}: import it at the top of the file, or write `from .{name} import`"
            )


_finder = _Refusing()
