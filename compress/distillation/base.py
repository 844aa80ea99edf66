"""WHAT to learn from a teacher: the base of every distiller.

`Distiller`. To add one: a file in this folder, an import in `compress/config/families.py`, a test.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.arguments.checked import CheckedArguments
from compress.distillation.capture import OUTPUT, Call, Features, check_layers, seen_on
from compress.distillation.teachers import SELF, Teachers, UnseenTeacher
from compress.errors import UserError
from compress.graph.calls import forward_call
from compress.graph.trace import ExampleInputs
from compress.selectors import ModuleSelector

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
LayerPairs = list[ModuleSelector] | dict[ModuleSelector, str]
"""Layers of the student, each with its own name in the teacher or with the teacher's layer beside it."""


class Distiller(CheckedArguments, ABC):
    """Compares what layers of the student give with what layers of a teacher give for the same inputs.

    A subclass overrides `terms`. The constructor's signature is the schedule's schema; every one has these three
    arguments.

    Args:
        pairs: student's layer -> teacher's layer; `OUTPUT` stands for the whole network.
        teacher: `self` (the student as it is when the first policy with that teacher begins), or a name that the loop
            knows: a checkpoint, a run, an architecture.
        distillation_wt: factor of the distiller's terms.
        student_wt: factor of the loss as it comes, with the terms of the policies listed before.
    """

    def __init__(self, pairs: Mapping[str, str], teacher: str, distillation_wt: float, student_wt: float) -> None:
        self.pairs = dict(pairs)
        self.teacher = teacher
        self.distillation_wt = distillation_wt
        self.student_wt = student_wt
        self.teachers = Teachers()

    @abstractmethod
    def terms(self, student: Features, teacher: Features, pairs: Mapping[str, str]) -> dict[str, Tensor]:
        """The terms, not yet multiplied by `distillation_wt`: student's layer -> scalar; `OUTPUT` for a single one.

        Args:
            student: by the student's names, with gradients.
            teacher: by the teacher's names, without.
            pairs: the pairs to compare now, all of `self.pairs` unless the distiller works in stages.
        """

    def prepare(self, model: nn.Module, teachers: Teachers, example_inputs: ExampleInputs | None) -> None:
        """Once, before training: finds the teacher and checks the layers' names.

        Raises:
            ValueError: there is no such teacher, or it has no such layer.
        """
        self.teachers = teachers
        try:
            network = teachers.find(self.teacher, model)
        except UserError as e:
            raise ValueError(str(e)) from e
        check_layers(model, self.pairs, "the student")
        if not isinstance(network, UnseenTeacher):
            check_layers(network, self.pairs.values(), f"the teacher {self.teacher!r}")

    def rehearse(self, model: nn.Module, example_inputs: ExampleInputs | None) -> None:
        """Once, after `prepare`: compares student and teacher on the example inputs, so that faults are found now.

        Raises:
            ValueError: the teacher does not take the student's inputs, or gives what cannot be compared.
        """
        if example_inputs is None or self.teacher == SELF:
            return
        try:
            network = self.teachers.find(self.teacher, model)
            if isinstance(network, UnseenTeacher):
                return
            student, first = seen_on(model, self.pairs, example_inputs), forward_call(example_inputs)
            teacher = self.teachers.asked(
                self.teacher,
                (*first.arguments, *first.keywords.values()),
                lambda: seen_on(network, self.pairs.values(), example_inputs),
            )
            device = next(iter(student.values())).device
            with torch.no_grad():
                self.terms(student, {layer: each.to(device) for layer, each in teacher.items()}, self.pairs)
        except UserError as e:
            raise ValueError(str(e)) from e

    def parameters(self) -> list[nn.Parameter]:
        """What is trained beside the student; they are in the optimizer from the start."""
        return []

    def follow(
        self,
        model: nn.Module,
        recipes: Sequence[dict[str, Any]],
        call: Call,
        teacher_recipes: int,
        optimizer: Optimizer | None,
    ) -> None:
        """The student may have been thinned since the last minibatch; before `terms`.

        Args:
            model: the student.
            recipes: all of its thinnings.
            call: a forward pass of it as it is now.
            teacher_recipes: how many thinnings the teacher, a copy of the student, has gone through.
            optimizer: of the loop.
        """

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors that a resumed run needs; the teacher is saved by the scheduler."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""


def as_pairs(layers: LayerPairs) -> dict[str, str]:
    """Student's layer -> teacher's layer; a list means the same names in both.

    Raises:
        ValueError: there is none.
    """
    if not layers:
        raise ValueError("layers is empty, so nothing would be learned from the teacher")
    return dict(layers) if isinstance(layers, dict) else {layer: layer for layer in layers}


OUTPUT_PAIR = {OUTPUT: OUTPUT}
__all__ = ["OUTPUT_PAIR", "SELF", "Distiller", "LayerPairs", "Weight", "as_pairs"]
