"""The options that choose a network.

`ArchitectureConfig`, which an application with several networks extends, and its rules.
"""

from dataclasses import dataclass

from options.configs import TrainConfig
from options.option import option
from options.rules import Rule

ARCH_HELP = "architecture: a name of --list-archs, or your own network as FILE.py:CLASS or MODULE:CLASS"


@dataclass(frozen=True)
class ArchitectureConfig(TrainConfig):
    """Options of `train.py` for an application with several networks; it says the default of `arch`."""

    arch: str = option("", ARCH_HELP, metavar="NAME")
    arch_args: str | None = option(
        None, "further arguments of its constructor, as in '{width: 32, depth: 8}'", metavar="YAML"
    )
    weights: str | None = option(None, "start from the weights in this file, as far as they fit", metavar="FILE")
    match: str = option("name", "pair the weights of --weights by name or by order", choices=("name", "order"))


RULES: tuple[Rule[ArchitectureConfig], ...] = (
    Rule(("match",), lambda c: c.weights, "says how the file of --weights is read; name that too"),
)
