"""What a trainer with several architectures adds to the shared one: `--arch`, `--arch-args`, `--weights`.

`ChosenArchitecture`, `start_from_file`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from torch import nn

from apputils.checkpoints.file import load_weights
from apputils.checkpoints.weight_matching import match_weights
from compress.errors import UserError
from engine.architectures.zoo import Zoo
from options.architecture import ArchitectureConfig
from options.own_network import constructor_arguments
from options.rules import is_said

logger = logging.getLogger("run")


class ChosenArchitecture:
    """Part of a trainer: the network is one of several.

    Attributes:
        zoo: the application's architectures.
        setting_options: options that are arguments of networks by the same name, where they are given.
    """

    zoo: ClassVar[Zoo]
    setting_options: ClassVar[tuple[str, ...]] = ()

    config: ArchitectureConfig
    _source: str | None = None  # checksum of one's own file when a resumed run was trained

    def build(self, checkpoint: dict[str, Any] | None = None) -> None:
        """See `BaseTrainer`; where a run is resumed, its network is compared with the file it was trained with."""
        self._source = None if checkpoint is None else self.arguments_in(checkpoint).get("source")
        super().build(checkpoint)  # type: ignore[misc]

    def arguments_in(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of the chosen network that a checkpoint keeps."""
        arguments: Mapping[str, Any] = checkpoint["network"]["arguments"]
        return arguments

    def given(self) -> dict[str, Any]:
        """The arguments of networks that follow from the data."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The other arguments: those of options, then those of `--arch-args`.

        A preset may have more settings than an architecture of the table takes; those that were typed are not dropped.
        """
        arch, config = self.config.arch, self.config
        options = {name: getattr(config, name) for name in self.setting_options}
        chosen = {name: value for name, value in options.items() if is_said(value)}
        if arch in self.zoo.architectures:
            taken = {*self.zoo.settings_of(arch), *config.explicit}
            chosen = {name: value for name, value in chosen.items() if name in taken}
        return chosen | constructor_arguments(config.arch_args)

    def build_model(self) -> nn.Module:
        """The network of `--arch`, new."""
        return self.zoo(self.config.arch, settings=self.settings(), source=self._source, **self.given())

    def start_model(self, model: nn.Module) -> None:
        """`--weights`."""
        start_from_file(model, self.config)

    def build_architecture(self, name: str, pretrained: bool = False) -> nn.Module:
        """A network of `ARCHITECTURE` or `ARCHITECTURE(setting=value, ...)`, as a teacher.

        Raises:
            UserError: there is none, or no library has trained it.
        """
        arch, _, inside = name.partition("(")
        if pretrained:
            raise UserError(f"{name}: no library has trained it; write {arch}=FILE with a file of its weights")
        return self.zoo(arch.strip(), settings=_of_text(name, inside.removesuffix(")")), **self.given())


def start_from_file(model: nn.Module, config: ArchitectureConfig) -> None:
    """Loads the weights of `--weights` as far as they fit; what was loaded and what was not is logged.

    Raises:
        UserError: they cannot be read, none of them fits, or some are not finite.
    """
    if config.weights:
        weights = load_weights(Path(config.weights))
        try:
            found = match_weights(model, weights, by_order=config.match == "order")
        except UserError as e:
            raise UserError(f"--weights={config.weights}: {e}") from e
        logger.log(logging.WARNING if found.doubtful else logging.INFO, "%s", found.story(config.weights))


def _of_text(name: str, text: str) -> dict[str, Any]:
    """`width=16, depth=2` -> arguments."""
    settings = {}
    for pair in filter(None, (each.strip() for each in text.split(","))):
        setting, equals, value = (each.strip() for each in pair.partition("="))
        if not equals or not setting.isidentifier():
            raise UserError(f"{name}: write its settings as {name.partition('(')[0]}(width=16, depth=2)")
        settings[setting] = yaml.safe_load(value)
    return settings
