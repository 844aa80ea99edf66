"""A network made like a checkpoint's: thinned and quantized alike, with its weights.

`shape_as`, `load_exact_weights`, `rebuild`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from apputils.checkpoints import differences
from apputils.checkpoints.schema import Unfit
from apputils.checkpoints.weight_checks import by_own_names
from compress.errors import UserError
from compress.quantization.convert import apply
from compress.thinning.recipe import Recipe


@Unfit("the network of this checkpoint cannot be made again")
def shape_as(model: nn.Module, scheduler_state: Mapping[str, Any]) -> None:
    """Thins and quantizes a new network as a checkpoint's was."""
    for recipe in scheduler_state["recipes"]:
        Recipe.from_dict(recipe).apply(model)
    for structure in scheduler_state.get("structures", []):
        apply(model, structure)


@Unfit("the network of this checkpoint cannot be made again")
def rebuild(model: nn.Module, checkpoint: Mapping[str, Any]) -> nn.Module:
    """A new network becomes the checkpoint's: thinned and quantized alike, with the weights that count for quality.

    Those are the averaged ones if the run kept them.

    Raises:
        UserError: the checkpoint is of another network.
    """
    shape_as(model, checkpoint["scheduler"])
    averaged = checkpoint["averaged"]
    load_exact_weights(model, averaged["model"] if averaged else checkpoint["model"])
    return model


def load_exact_weights(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads weights that must fit exactly.

    Raises:
        UserError: names or shapes differ, or two tensors have one name.
    """
    here = {name: getattr(tensor, "shape", None) for name, tensor in model.state_dict().items()}
    named = by_own_names(state, here)
    try:
        model.load_state_dict(named)  # first: modules may take what they lack, such as a counter of older versions
    except RuntimeError as e:
        there = {name: getattr(tensor, "shape", None) for name, tensor in state.items()}
        found = "; ".join(differences.of_shapes(here, there)) or " ".join(str(e).split())[:400]
        raise UserError(f"the checkpoint does not fit this network ({type(model).__name__}): {found}") from e
