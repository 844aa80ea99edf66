"""Features of different width made comparable: trained 1x1 adaptors, and the channels that a thinned student has left.

`Adaptors`.

    Widths 16 (student) and 64 (teacher): a matrix (64, 16) is trained with the student and multiplies its features.
    Widths 8 and 8, then the student is thinned to channels [0, 2, 5]: it is compared with these three of the teacher's.
    Widths 16 and 64, then the student is thinned to 12: the matrix loses the same four columns.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.distillation.feature_dims import channel_dim
from compress.errors import UserError
from compress.parameters import replace_data
from compress.thinning.recipe import Recipe, slice_state

Width = tuple[int, int]


class Adaptors:
    """The adaptors of one distiller; their number never changes after the start, so neither do the optimizer's groups.

    Args:
        widths: student's layer -> its width and the teacher's, for the layers that get an adaptor.

    Attributes:
        matrices: student's layer -> (teacher's width, student's width).
        kept: student's layer -> positions in the teacher's channels that the student still has; for layers without
            adaptor that were thinned.
    """

    def __init__(self, widths: Mapping[str, Width]) -> None:
        self.kept: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(0)  # of its own: equal on every rank, and the run's is left alone
        self.matrices: dict[str, nn.Parameter] = {}
        for layer, (own, wanted) in widths.items():
            bound = math.sqrt(3.0 / own)
            values = torch.empty(wanted, own).uniform_(-bound, bound, generator=generator)
            self.matrices[layer] = nn.Parameter(values)

    def parameters(self) -> list[nn.Parameter]:
        """All matrices."""
        return list(self.matrices.values())

    def to(self, device: torch.device) -> None:
        """Moves the matrices in place; before training."""
        for matrix in self.matrices.values():
            replace_data(matrix, matrix.data.to(device))

    def match(self, layer: str, student: Tensor, teacher: Tensor, dim: int | None = None) -> tuple[Tensor, Tensor]:
        """Both features with the same channels, in the last dimension.

        Raises:
            UserError: they have different widths and there is no adaptor.
        """
        dim = channel_dim(student) if dim is None else dim  # of both: the teacher's has no autograd graph
        own, wanted = (each.float().movedim(dim, -1) for each in (student, teacher))
        if layer in self.matrices:
            with torch.autocast(own.device.type, enabled=False):  # features are compared in float32
                own = nn.functional.linear(own, self.matrices[layer])
        elif layer in self.kept:
            wanted = wanted.index_select(-1, self.kept[layer].to(wanted.device))
        if own.shape[-1] != wanted.shape[-1]:
            raise UserError(
                f"the student's layer {layer!r} has {own.shape[-1]} channels, the teacher's {wanted.shape[-1]}, and "
                "there was no such difference when the schedule was built, so there is no adaptor between them"
            )
        return own, wanted

    @torch.no_grad()
    def follow(self, layer: str, kept: Tensor, teacher_too: bool, optimizer: Optimizer | None) -> None:
        """The student's layer has been thinned.

        Args:
            layer: of the student.
            kept: the positions of its channels that stayed, in order.
            teacher_too: the teacher is a copy that was made after this thinning.
            optimizer: whose momenta of the matrix are cut like it.
        """
        if layer in self.matrices:
            matrix = self.matrices[layer]
            _cut(layer, matrix, kept, 1, optimizer)
            if teacher_too:
                _cut(layer, matrix, kept, 0, optimizer)
        elif not teacher_too:
            before = self.kept.get(layer)
            self.kept[layer] = kept.cpu() if before is None else before[kept.cpu()]

    def state_dict(self) -> dict[str, Any]:
        """The matrices and the kept positions."""
        return {
            "matrices": {layer: matrix.detach() for layer, matrix in self.matrices.items()},
            "kept": dict(self.kept),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave; a matrix takes the saved size and stays the same object.

        Raises:
            UserError: the state has adaptors of other layers.
        """
        if set(state["matrices"]) != set(self.matrices):
            raise UserError(f"the saved adaptors are of {sorted(state['matrices'])}, here are {sorted(self.matrices)}")
        for layer, values in state["matrices"].items():
            matrix = self.matrices[layer]
            replace_data(matrix, values.to(matrix.device, copy=True))
        self.kept = dict(state["kept"])


def _cut(layer: str, matrix: nn.Parameter, kept: Tensor, dim: int, optimizer: Optimizer | None) -> None:
    name, cut = f"the adaptor of {layer}", {dim: kept.cpu()}
    recipe = Recipe({name: cut}, {name: {dim: matrix.shape[dim]}}, {})
    replace_data(matrix, recipe.slice(name, matrix.data))
    if optimizer is not None:
        slice_state(recipe, name, matrix, optimizer)
