"""Packages that only a part of the library needs: imported when they are used, named when they are missing.

    pd = on_use("pandas")                                    # imports nothing yet; pd.DataFrame does
    require("macs_display", "pandas", "openpyxl")            # first line of a public function

`EXTRAS` says by which extra of the installed library each package comes; tests hold it equal to pyproject.toml.
"""

import importlib
import importlib.metadata
from types import ModuleType
from typing import Any

from compress.errors import UserError

DISTRIBUTION = "compress-bench"
EXTRAS = {
    "export": ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "analysis": ("pandas", "openpyxl", "matplotlib", "pygraphviz", "tqdm"),
    "search": ("optuna",),
}


class MissingPackageError(UserError, ImportError):
    """A package is not installed that only a part of the library needs; says who requires it and how to get it."""


def require(what: str, *packages: str) -> None:
    """Checks that packages can be imported, before any work is done.

    Args:
        what: the function, or the purpose, for the message.
        packages: names as in an `import` statement.

    Raises:
        MissingPackageError: names all that cannot be imported.
    """
    errors: dict[str, ImportError] = {}
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as e:
            errors[package] = e
    if errors:
        raise MissingPackageError(_message(what, errors)) from next(iter(errors.values()))


def needed(package: str, purpose: str) -> Any:
    """An optional package, or one of its modules.

    Raises:
        MissingPackageError: it cannot be imported.
    """
    require(purpose, package)
    return importlib.import_module(package)


def on_use(module: str) -> Any:
    """Stands for a module until one of its names is looked up; that imports it, or raises MissingPackageError."""
    return _OnUse(module)


class _OnUse(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by inspection and by copies; such a question needs no import
            raise AttributeError(name)
        return getattr(needed(self.__name__, "this analysis"), name)


def _message(what: str, errors: dict[str, ImportError]) -> str:
    names = list(dict.fromkeys(package.partition(".")[0] for package in errors))
    extra = next((extra for extra, packages in EXTRAS.items() if names[0] in packages), "")
    # In a clone that is used in place the name would be looked up in an index, where it may be somebody else's.
    source = f"'{DISTRIBUTION}[{extra}]'" if extra and _installed() else " ".join(names)
    broken = [str(e) for e in errors.values() if not isinstance(e, ModuleNotFoundError)]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    reason = f" ({'; '.join(broken)[:300]})" if broken else ""
    return f"{what} requires {listed}, which cannot be imported{reason}: pip install {source}"


def _installed() -> bool:
    try:
        importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
