"""Networks of one's own: `path/to/net.py:MyNet` and `package.module:MyNet`, imported because the command line says so.

`own_network`. A checkpoint holds the text and the arguments; it never leads to an import unless the text was typed too.
"""

import contextlib
import functools
import hashlib
import inspect
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from compress.errors import UserError, did_you_mean, nearest, printable, shown
from compress.io.files import read_bytes
from compress.selectors import unwrapped
from engine.architectures.neighbours import at_home, imported_files
from engine.architectures.own_modules import imported, own_code, warn_once
from options.own_network import OWN, is_own, parts_of, typed_for

logger = logging.getLogger("run")
ENTRIES = ("train.py", "test.py", "search.py")


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
        UserError: it is not on the command line, cannot be imported, or cannot be built; says where.
    """
    typed = typed_for(arch)
    if typed is None:
        raise UserError(_ask(arch, f"--arch={arch}"))
    maker = _maker(typed, f"--arch={typed}")
    if isinstance(maker, nn.Module):
        raise UserError(
            f"--arch={typed} is a network; name its class, or a function that returns a new one: resuming and "
            "evaluation build it again. Nothing was started"
        )
    arguments = _fitting(typed, maker, given, settings)
    with_them = f" with {', '.join(f'{name}: {shown(value)}' for name, value in settings.items())}" if settings else ""
    with at_home(_file_of(typed)), own_code(f"--arch={typed} cannot be built{with_them}"):
        network = maker(**arguments)
    if not isinstance(network, nn.Module):
        raise UserError(f"--arch={typed} gives {type(network).__name__}, not a torch.nn.Module; nothing was started")
    if any(map(is_lazy, network.parameters())):
        raise UserError(
            f"--arch={typed} has lazy layers, whose sizes only a first batch gives; write them out (nn.Conv2d, not "
            "nn.LazyConv2d); nothing was started"
        )
    inner = unwrapped(network)
    if inner is not network:
        logger.info(
            "--arch=%s is wrapped in %s; the %s inside is trained (--compile compiles, torchrun runs in parallel)",
            typed, type(network).__name__, type(inner).__name__,
        )  # fmt: skip
    of = (
        f"the network of --arch={typed} was trained with; its weights are loaded only if they fit, but what it "
        "computes with them may differ"
    )
    return inner, _checked_source(typed, maker, source, of)


def check_typed(options: Mapping[str, Any]) -> None:
    """Whether the code of one's own that a run's options name was typed in this process too.

    Args:
        options: of its checkpoint.

    Raises:
        UserError: it was not; says what to type.
    """
    for name in ("arch", "degradation"):
        text = options.get(name)
        for part in parts_of(text) if isinstance(text, str) else ():
            if is_own(part) and typed_for(part) is None:
                raise UserError(_ask(part, f"--{name}={text}"))


def own_function(option: str, name: str) -> Callable[..., Any]:
    """A function of one's own, `FILE.py:NAME` or `MODULE:NAME`, that the command line names.

    Args:
        option: with its whole value, such as `--degradation=jpeg:40+mine.py:dark`, for messages.
        name: of the function.

    Returns:
        The function; what it raises is a UserError that says where.

    Raises:
        UserError: it is not on the command line, or cannot be imported.
    """
    typed = typed_for(name) if is_own(name) else None
    if typed is None:
        raise UserError(_ask(name, option))
    function = _maker(typed, option)
    with contextlib.suppress(ValueError):  # it has no signature, as some of C have not: the trial says whether it runs
        signature = inspect.signature(function)
        try:
            signature.bind(None, None)
        except TypeError as e:
            raise UserError(
                f"{option}: {typed} takes {signature}, and is called with two arguments, (pixels, draw): an image "
                "(H, W, 3) and a numpy generator; nothing was started"
            ) from e

    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        with own_code(f"{option}: {typed} failed", now="the run ends here"):
            return function(*arguments)

    return called


def function_sources(option: str, text: str, before: Any = None) -> dict[str, str]:
    """The checksums of the files of one's own functions; a warning for one that is not what a run was trained with.

    Args:
        option: that names them, with two dashes.
        text: its value, parts joined by `+`.
        before: what this function gave when the run was trained; None of a new run or of an earlier version's.
    """
    known = before if isinstance(before, Mapping) else {}
    found = {}
    for part in filter(is_own, parts_of(text)):
        typed = typed_for(part)
        if typed is not None:
            of = (
                f"the run was trained with by {option}={typed}: what it does may differ, and so would the images and "
                "their baseline"
            )
            found[part] = _checked_source(typed, _maker(typed, f"{option}={text}"), known.get(part), of)
    return {part: source for part, source in found.items() if source is not None}


def _ask(name: str, option: str) -> str:
    """What to type so that the code may be imported."""
    program = Path(sys.argv[0]).name
    if program in ENTRIES and "RANK" not in os.environ:
        how = "type: " + printable(shlex.join(["python", program, *_with(sys.argv[1:], option)]))
    else:
        how = f"add {shlex.quote(printable(option))} to the command"
    return (
        f"the run needs {printable(name)}, code that is not the bench's; a checkpoint never imports code by itself. "
        f"If you trust that file, {how}"
    )


def _with(arguments: Sequence[str], option: str) -> list[str]:
    """A command line with `--NAME=VALUE`, in place of that option's value; beside it where runs are compared."""
    flag, _, value = option.partition("=")
    kept: list[str] = []
    values: list[str] = []
    inside = False
    for each in arguments:
        name, equals, given = each.partition("=")
        if name == flag or (inside and not each.startswith("-")):
            inside = inside or not equals
            values += [] if each == flag else [given if name == flag else each]
        else:
            inside = False
            kept.append(each)
    several = [*values, value] if values and "--compare" in arguments else []
    return [*kept, flag, *several] if several else [*kept, option]


def _maker(text: str, option: str) -> Callable[..., Any]:
    found = OWN.fullmatch(text)
    assert found is not None, "the caller knows that it is one's own"
    place, name = found["place"], found["name"]
    module = imported(place, name, option)
    maker = getattr(module, name, None)
    if callable(maker):
        return maker
    what = "is not callable" if maker is not None else "is not in it"
    raise UserError(f"{option}: {name} {what}; {did_you_mean(name, _there(module, name, option))}; nothing was started")


def _there(module: ModuleType, name: str, option: str) -> list[str]:
    """What may have been meant: a name that is near, else a module's networks, or its functions if it has none."""
    own = {
        key: value for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__ and not key.startswith("_")
    }  # fmt: skip
    classes = own if option.startswith("--arch") else {}
    networks = [key for key, value in classes.items() if isinstance(value, type) and issubclass(value, nn.Module)]
    functions = [key for key, value in own.items() if inspect.isfunction(value)]
    return nearest(name, own) or networks or functions


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


def _file_of(text: str) -> Path | None:
    """The file of `FILE.py:NAME`; None of a module."""
    place = text.rpartition(":")[0]
    return Path(place).resolve() if place.endswith(".py") else None


def _checked_source(text: str, maker: Callable[..., Any], before: str | None, of: str) -> str | None:
    """The checksum of the file, `+` and that of those it imports from beside it; a warning where one is another now.

    Checkpoints of earlier versions have the former alone.

    Args:
        text: that names the maker.
        maker: of a network, or a degradation.
        before: the checksum when the run was trained; None of a new run.
        of: what the file was then, and what may differ now; ends the warning.
    """
    try:
        file, beside = _sources(text, maker)
        own = _checksum([file])
    except (OSError, TypeError, ValueError):
        return before
    parts = [own, *([_checksum(beside)] if beside else [])]
    known = (before or "").split("+")
    if before is not None and known[0] != own:
        warn_once(f"{file} is not the file that {of}")
    elif before is not None and len(known) > 1 and known != parts:
        warn_once(f"{file} imports {', '.join(each.name for each in beside)}, which are not what {of}")
    return "+".join(parts)


def _sources(arch: str, maker: Any) -> tuple[Path, list[Path]]:
    """The file in which what makes the network is written, and the others that belong to it."""
    file = Path(inspect.getsourcefile(_written_as(maker)) or "").resolve()
    named = _file_of(arch) or file
    belong = [named, *imported_files(named)]
    if file not in belong:  # such as a partial of a library's class
        file = named
    return file, [each for each in belong if each != file]


def _written_as(maker: Any) -> Any:
    """What has the source of a maker: a partial's function, an instance's class."""
    while isinstance(maker, functools.partial):
        maker = maker.func
    maker = inspect.unwrap(maker)
    return maker if isinstance(maker, type) or inspect.isroutine(maker) else type(maker)


def _checksum(files: Sequence[Path]) -> str:
    content = b"".join(read_bytes(file).replace(b"\r\n", b"\n") for file in files)  # any encoding, any system's lines
    return hashlib.sha256(content).hexdigest()[:16]
