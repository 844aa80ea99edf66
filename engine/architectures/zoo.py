"""The architectures of an application, and a network from plain data.

`Zoo`, `arguments_of`. A checkpoint holds the arguments of a call of `Zoo` and no code.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from apputils.checkpoints.bounded import OutOfBoundsError, bounded
from apputils.checkpoints.schema import plain_arguments
from compress.errors import UserError, did_you_mean
from engine.architectures.own import own_network
from options.own_network import is_own, unknown

Maker = Callable[..., nn.Module]
Library = Callable[[str, Mapping[str, Any], Mapping[str, Any]], nn.Module]  # name, given, settings -> network
FAULTS = (RuntimeError, TypeError, ValueError, ZeroDivisionError, OverflowError, AttributeError, MemoryError)


@dataclass(frozen=True)
class Zoo:
    """What `--arch` may be for an application; called, it builds a network.

    Attributes:
        architectures: name -> what makes it of the given arguments and settings.
        usual: the arguments that come from the data, as `--list-archs` has them.
        options: settings that have an option of their own, which is `--NAME`.
        libraries: prefix -> what makes a network of a library.
        library_settings: those that libraries may be given: one from a checkpoint must not load a file.
        purpose: of a message about a network that cannot be built, with the given arguments in braces.
        hidden: arguments that are no settings, such as a number of colors that the data do not have.
        bare: those whose `arguments` are their constructor's, without a name: checkpoints hold them like that.
        unnamed: makes a network of such arguments.
    """

    architectures: Mapping[str, Maker]
    usual: Mapping[str, Any]
    options: tuple[str, ...] = ()
    libraries: Mapping[str, Library] = field(default_factory=dict)
    library_settings: tuple[str, ...] | None = None
    purpose: str = ""
    hidden: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    unnamed: Maker | None = None

    def __call__(
        self,
        arch: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        source: str | None = None,
        **given: Any,
    ) -> nn.Module:
        """A new network, whose `arguments_of` make the same structure again.

        Args:
            arch: a name of the table, `LIBRARY:NAME`, or a network of one's own; None is the one without a name.
            settings: further arguments of its constructor.
            source: of one's own: the checksum of its file when it was trained.
            given: what follows from the data.

        Raises:
            UserError: there is no such architecture, it does not take a setting, or it cannot be built.
        """
        if arch is None and self.unnamed is not None:
            return self.unnamed(**given)
        chosen = dict(settings or {})
        try:
            plain_arguments(chosen)
        except ValueError as e:
            raise UserError(f"--arch-args: {e}; nothing was started") from e
        try:
            with bounded():
                return self._made(arch or "", given, chosen, source)
        except OutOfBoundsError as e:
            raise OutOfBoundsError(f"--arch={arch} cannot be built{_with(chosen)}: {e}") from e

    def _made(self, arch: str, given: dict[str, Any], chosen: dict[str, Any], source: str | None) -> nn.Module:
        """A network, which knows its arguments."""
        prefix, colon, name = arch.partition(":")
        if is_own(arch):
            network, source = own_network(arch, given, chosen, source)
            own = {"arch": arch, **given, "settings": chosen, "source": source}
            vars(network)["checkpoint_arguments"] = own  # it may have `arguments` of its own
            return network
        if colon and prefix in self.libraries:
            self._check_library_settings(chosen)
            network = self.libraries[prefix](name, given, chosen)
        else:
            network = self._of_table(arch, given, chosen)
        if arch not in self.bare:
            network.arguments = {"arch": arch, **given, "settings": chosen}  # type: ignore[assignment]
        return network

    def settings_of(self, arch: str) -> list[str]:
        """The names of the settings that an architecture of the table takes."""
        names = inspect.signature(self._maker(arch)).parameters
        return [name for name in names if name not in self.usual and name not in self.hidden]

    def _of_table(self, arch: str, given: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
        allowed = self.settings_of(arch)
        for name in settings:
            if name not in allowed:
                takes = f"it takes {', '.join(map(self._written, allowed))}" if allowed else "it takes no settings"
                near = "" if name in self.options else f"; {did_you_mean(name, allowed)}" if allowed else ""
                raise UserError(f"{self._written(name)} does not apply to --arch={arch}; {takes}{near}")
        try:
            taken = inspect.signature(self._maker(arch)).parameters
            data = {name: value for name, value in given.items() if name in taken}
            return self._maker(arch)(**data, **settings)
        except FAULTS as e:
            purpose = self.purpose.format(**given)
            raise UserError(f"--arch={arch} cannot be built{purpose}{_with(settings)}: {e}") from e

    def _written(self, name: str) -> str:
        return f"--{name.replace('_', '-')}" if name in self.options else f"{name} (in --arch-args)"

    def _check_library_settings(self, settings: Mapping[str, Any]) -> None:
        """A checkpoint may come from anyone, and libraries take settings that load files."""
        if self.library_settings is not None and set(settings) - set(self.library_settings):
            known, given = ", ".join(self.library_settings), ", ".join(map(str, settings))
            raise UserError(f"a network's settings are {known}; given are {given}")

    def _maker(self, arch: str) -> Maker:
        if arch in self.architectures:
            return self.architectures[arch]
        raise UserError(unknown(arch, self.architectures, self.libraries))


def _with(settings: Mapping[str, Any]) -> str:
    return f" with {', '.join(f'{name} {value}' for name, value in settings.items())}" if settings else ""


def arguments_of(network: nn.Module) -> dict[str, Any]:
    """What a checkpoint keeps of a network, so that its application makes the same structure again."""
    arguments: Any = vars(network).get("checkpoint_arguments") or network.arguments
    return dict(arguments)
