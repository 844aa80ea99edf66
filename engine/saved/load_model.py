"""A network from a file, without code that builds it by hand.

`load_network`. Which class is meant follows from the application's name and this table; a file names no code.
Any checkpoint of a run will do, and so will what `python -m apputils.checkpoints.file network` made of one.
"""

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import built, check_run
from compress.errors import UserError
from engine.saved.rebuild import rebuild

BUILDERS = {  # optform -> what makes a network of the checkpoint's arguments
    "SR": "models.C2SRCNN.model:Net",
    "Classify": "models.Classify.zoo:build_network",
    "Deblur": "models.Deblur.networks:build_networks",
}


def load_network(path: str | Path) -> nn.Module:
    """The network of a checkpoint, thinned as it was, with the weights that count for quality, in eval mode.

    Raises:
        UserError: the file cannot be read, or is of an application without a builder here.
    """
    checkpoint = check_run(load_checkpoint(Path(path)), path)
    return rebuild(new_network(checkpoint), checkpoint).eval()


def new_network(checkpoint: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint, new: neither thinned nor trained.

    Raises:
        UserError: there is no such application, or its network cannot be built with these arguments.
    """
    optform = checkpoint["optform"]
    if optform not in BUILDERS:
        raise UserError(f"networks of --optform={optform} cannot be built here; {', '.join(BUILDERS)} can")
    module, name = BUILDERS[optform].split(":")
    make = getattr(importlib.import_module(module), name)
    return built(lambda arguments: make(**arguments), checkpoint)
