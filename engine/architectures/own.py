"""Networks of one's own: `path/to/net.py:MyNet` and `package.module:MyNet`, imported because the command line says so.

`own_network`. A checkpoint holds the text and the arguments; it never leads to an import unless the text was typed too.
"""

import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from compress.errors import UserError, did_you_mean, printable
from compress.io.files import read_text
from options.own_network import OWN, is_own, typed_for

logger = logging.getLogger("run")
ENTRIES = ("train.py", "test.py")


def own_network(
    arch: str, given: Mapping[str, Any], settings: Mapping[str, Any], source: str | None
) -> tuple[nn.Module, str | None]:
    """A new network of a class, or of a function that returns one.

    Args:
        arch: `FILE.py:NAME` or `MODULE:NAME`.
        given: what follows from the data; the constructor gets those that it has parameters for.
        settings: further arguments.
        source: checksum of its source file when it was trained; None of a new run.

    Returns:
        the network, and the checksum of its source file.

    Raises:
        UserError: it was not typed, cannot be imported, or cannot be built; says where.
    """
    typed = typed_for(arch)
    if typed is None:
        raise UserError(_ask(arch, f"--arch={arch}"))
    maker = _maker(typed, f"--arch={typed}")
    arguments = _fitting(typed, maker, given, settings)
    with own_code(f"--arch={typed} cannot be built"):
        network = maker(**arguments)
    if not isinstance(network, nn.Module):
        raise UserError(f"--arch={typed} gives {type(network).__name__}, not a torch.nn.Module; nothing was started")
    return network, _checked_source(typed, maker, source)


def own_function(option: str, name: str) -> Callable[..., Any]:
    """A function of one's own, `FILE.py:NAME` or `MODULE:NAME`, that the command line names.

    Args:
        option: with its whole value, such as `--degradation=jpeg:40+mine.py:dark`, for messages.
        name: of the function.

    Raises:
        UserError: it was not typed, or cannot be imported.
    """
    typed = typed_for(name) if is_own(name) else None
    if typed is None:
        raise UserError(_ask(name, option))
    return _maker(typed, option)


class own_code:
    """Block in which somebody else's code runs: whatever it raises is a UserError that says where.

    Args:
        words: begin the message.
    """

    def __init__(self, words: str) -> None:
        self.words = words

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            text = " ".join(str(error).split())[:300]
            raise UserError(
                f"{self.words}: {type(error).__name__}: {text}{_place(trace)}; nothing was started"
            ) from error


def _place(trace: Any) -> str:
    """File and line of the innermost frame that is neither of the bench nor of a library."""
    root = str(Path(__file__).resolve().parents[2])
    for frame in reversed(traceback.extract_tb(trace)):
        library = "site-packages" in frame.filename or frame.filename.startswith((root, "<", sys.base_prefix))
        if not library:
            return f" (line {frame.lineno} of {printable(frame.filename)})"
    return ""


def _ask(name: str, option: str) -> str:
    """What to type so that the code may be imported."""
    program = Path(sys.argv[0]).name
    if program in ENTRIES and "RANK" not in os.environ:
        how = "type: " + printable(shlex.join(["python", program, *sys.argv[1:], option]))
    else:
        how = f"add {shlex.quote(printable(option))} to the command"
    return (
        f"the run needs {printable(name)}, code that is not the bench's; a checkpoint never imports code by itself. "
        f"If you trust that file, {how}"
    )


def _maker(text: str, option: str) -> Callable[..., Any]:
    found = OWN.fullmatch(text)
    assert found is not None, "the caller knows that it is one's own"
    place, name = found["place"], found["name"]
    module = _of_file(Path(place), name, option) if place.endswith(".py") else _of_module(place, option)
    maker = getattr(module, name, None)
    if callable(maker):
        return maker
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    what = "is not callable" if maker is not None else "is not in it"
    raise UserError(f"{option}: {name} {what}; {did_you_mean(name, own)}; nothing was started")


def _of_file(path: Path, name: str, option: str) -> ModuleType:
    """Imports a file; under its plain name where that is free, so that other processes find it again."""
    if not path.is_file():
        there = [f"{each}:{name}" for each in sorted(path.parent.glob("*.py"))]
        near = f"; {did_you_mean(f'{path}:{name}', there)}" if there else ""
        raise UserError(f"{option}: there is no file {path}{near}; nothing was started")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: its neighbours can be imported and hide nothing
    with own_code(f"{option} cannot be imported"):
        if _is_found(path):
            return importlib.import_module(path.stem)
        alias = f"own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if alias in sys.modules:
            return sys.modules[alias]
        spec = importlib.util.spec_from_file_location(alias, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[alias] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[alias]
            raise
        return module


def _is_found(path: Path) -> bool:
    """Whether `import STEM` gives this file."""
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin) == path


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
                "is named as path/to/net.py:MyNet; nothing was started"
            ) from e
        raise


def _fitting(
    arch: str, maker: Callable[..., Any], given: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of the constructor: settings, and what it takes of what is given.

    Raises:
        UserError: it does not take a setting, or needs one that was not given.
    """
    with own_code(f"--arch={arch}: its arguments cannot be read"):
        parameters = inspect.signature(maker).parameters.values()
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    open_ended = any(each.kind == each.VAR_KEYWORD for each in parameters)
    for name in settings:
        if name not in named and not open_ended:
            raise UserError(
                f"--arch={arch} takes no argument {name!r}; {did_you_mean(name, named)}; nothing was started"
            )
    arguments = {**{name: value for name, value in given.items() if name in named}, **settings}
    lacking = [
        each.name for each in parameters
        if each.name in named and each.default is each.empty and each.name not in arguments
    ]  # fmt: skip
    if lacking:
        form = ", ".join(f"{name}: ..." for name in lacking)
        raise UserError(f"--arch={arch} needs {', '.join(lacking)}; give --arch-args='{{{form}}}'; nothing was started")
    return arguments


def _checked_source(arch: str, maker: Callable[..., Any], before: str | None) -> str | None:
    """The checksum of the file; a warning where it is not what the network was trained with."""
    try:
        file = inspect.getsourcefile(maker)
        now = hashlib.sha256(read_text(file).encode()).hexdigest()[:16] if file else None
    except (OSError, TypeError, ValueError):
        return before
    if before is not None and now != before:
        logger.warning(
            "%s has changed since the network of --arch=%s was trained; its weights are loaded only if they fit, but "
            "what it computes with them may differ", file, arch,
        )  # fmt: skip
    return now
