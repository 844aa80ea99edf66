"""A network from a file, without code that builds it by hand.

`load_network`. The table of applications says what makes a network; a file names no code.
Any checkpoint of a run will do, and so will what `python -m apputils.checkpoints.file network` made of one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import built, check_run
from compress.errors import UserError
from compress.graph.calls import declare_unused
from engine.saved.rebuild import rebuild
from options.applications import APPLICATIONS


def load_network(path: str | Path) -> nn.Module:
    """The network of a checkpoint, thinned as it was, with the weights that count for quality, in eval mode.

    Raises:
        UserError: the file cannot be read, or is of an application that is not here.
    """
    checkpoint = check_run(load_checkpoint(Path(path)), path)
    return rebuild(new_network(checkpoint), checkpoint).eval()


def unused_parts(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """What `--unused` of a run named; nothing for a checkpoint of before there was that option, or a damaged one."""
    options = checkpoint.get("options")
    named = options.get("unused") if isinstance(options, Mapping) else None
    return tuple(str(each) for each in named) if isinstance(named, tuple | list) else ()


def new_network(checkpoint: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint, new: neither thinned nor trained. It knows which of its parts nobody runs.

    Raises:
        UserError: there is no such application, or its network cannot be built with these arguments.
    """
    optform = checkpoint["optform"]
    if optform not in APPLICATIONS:
        raise UserError(f"networks of --optform={optform} cannot be built here; {', '.join(APPLICATIONS)} can")
    make = APPLICATIONS[optform].load("network")
    network = built(lambda arguments: make(**arguments), checkpoint)
    declare_unused(network, unused_parts(checkpoint))
    return network
