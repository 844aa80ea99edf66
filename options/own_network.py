"""Networks of one's own, as texts: `path/to/net.py:MyNet` or `package.module:MyNet`, and `--arch-args`.

Nothing is imported here. Code is imported only where the command line names it: `named` holds those names, and a name
that comes out of a checkpoint is not among them.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml

from compress.errors import UserError, did_you_mean, shown

LIBRARIES = ("torchvision", "timm", "spandrel")
OWN = re.compile(r"(?P<place>.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
NAMED_AFTER = re.compile(r":(?![\\/])")  # not that of a drive
FORM = "write it as --arch-args='{width: 32, depth: 8}'; nothing was started"
named: set[str] = set()  # that the command line of this process names


@dataclass(frozen=True)
class Named:
    """The networks of an application by name.

    Attributes:
        names: of its own table, separated by spaces.
        libraries: whose networks it takes too, as `LIBRARY:NAME`.
    """

    names: str
    libraries: tuple[str, ...] = ()

    def check(self, arch: str) -> None:
        """Refuses a name that can be nothing at all; what has a colon is looked at when the library is loaded.

        Raises:
            UserError: it is not in the table.
        """
        if ":" not in arch and arch not in self.names.split():
            raise UserError(unknown(arch, self.names.split(), self.libraries))


def unknown(arch: str, names: Iterable[str], libraries: Iterable[str]) -> str:
    """What is said of an architecture that is neither in an application's table nor of a library that it takes."""
    of_libraries = [f"{library}:NAME" for library in libraries]
    others = [f"those of libraries are {' and '.join(of_libraries)}"] if of_libraries else []
    prefix = arch.partition(":")[0]
    if "(" in prefix:
        others.append("arguments of its constructor go into --arch-args, as in --arch-args='{width: 32}'")
    elif prefix in LIBRARIES:
        others.append(f"there are no networks of {prefix} for this application")
    else:
        others.append("your own is FILE.py:CLASS or MODULE:CLASS")
    return f"--arch={arch}: unknown architecture; {did_you_mean(arch, names)}; {'; '.join(others)}"


def is_own(arch: str) -> bool:
    """Whether a text names a network of one's own: `net.py:MyNet`, `package.module:MyNet`."""
    found = OWN.fullmatch(arch)
    return found is not None and found["place"] not in LIBRARIES


def parts_of(text: str) -> list[str]:
    """What is joined by `+`: `noise:5+own.py:dark` -> `noise:5`, `own.py:dark`; a + in a file's path belongs to it."""
    parts: list[str] = []
    begun: list[str] = []  # perhaps a path, until its colon
    for piece in text.split("+"):
        begun.append(piece)
        if not begun[0].strip() or NAMED_AFTER.search(piece):
            whole = "+".join(begun).strip()
            parts += [whole] if OWN.fullmatch(whole) else begun
            begun = []
    return [part.strip() for part in (*parts, *begun)]


def _own_in(text: str) -> set[str]:
    """Code of one's own that a text names, alone or joined by `+`."""
    return {part for part in parts_of(text) if is_own(part)}


def allow(texts: Iterable[str]) -> None:
    """Notes code of one's own that was typed, so that it may be imported."""
    named.update(*map(_own_in, texts))


def texts_of(config: Any) -> dict[str, Sequence[str]]:
    """The options that may name code of one's own (`own_code`) and are given -> what they say."""
    names = [field.name for field in fields(config) if field.metadata.get("own_code")]
    given = {name: getattr(config, name) for name in names}
    return {name: [text] if isinstance(text, str) else text for name, text in given.items() if text}


def to_type_again(config: Any) -> str:
    """What a next command needs to import the same code of one's own, ` --arch=net.py:MyNet`; nothing without any."""
    found = {name: [text for text in texts if _own_in(text)] for name, texts in texts_of(config).items()}
    words = [
        [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts] for name, texts in found.items() if texts
    ]
    return "".join(f" {shlex.quote(word)}" for option in words for word in option)


def typed_for(arch: str) -> str | None:
    """What was typed for a network of one's own: the same text, or else the same class in a file that has moved."""
    if arch in named:
        return arch
    alike = [each for each in sorted(named) if same_class(each, arch)]
    return alike[0] if len(alike) == 1 else None


def same_class(one: str, other: str) -> bool:
    """Whether two texts are the same class of one's own, perhaps at another place."""
    return is_own(one) and is_own(other) and one.rpartition(":")[2] == other.rpartition(":")[2]


def constructor_arguments(text: str | None) -> dict[str, Any]:
    """What `--arch-args` says.

    Raises:
        UserError: it is no mapping of names to plain values.
    """
    if text is None:
        return {}
    try:
        given = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"--arch-args={shown(text)} is not YAML: {' '.join(str(e).split())[:200]}; {FORM}") from e
    if not isinstance(given, dict) or not all(isinstance(name, str) and name.isidentifier() for name in given):
        raise UserError(f"--arch-args={shown(text)} must hold arguments by name; {FORM}")
    return given
