"""Learning from a teacher's output: `KnowledgeDistillation` for classes, `OutputDistillation` for images.

Distillers that need no layer inside.
"""

import logging
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from compress.distillation.base import OUTPUT_PAIR, Distiller, Weight
from compress.distillation.capture import OUTPUT, Features
from compress.distillation.feature_dims import is_compiled, known_channel_dim
from compress.distillation.losses import Distance, distance, softened_divergence
from compress.errors import UserError
from compress.registry import DISTILLERS

logger = logging.getLogger("compress")
Temperature = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


@DISTILLERS.register
class KnowledgeDistillation(Distiller):
    """Learns the teacher's softened class probabilities beside the labels.

    Paper: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv 1503.02531. The loss becomes
    student_wt * loss + distillation_wt * T^2 * KL(teacher / T || student / T), the divergence of the softmax of logits
    at temperature T, the mean over the batch, as in Distiller. Distiller's third weight, of the teacher's own loss,
    is not there: the teacher does not learn. Unlike Distiller's, the logged term is the one that is added.

    When to use: for a small classifier whose teacher has the same classes; also with `teacher: self`, so that a
    network that is being pruned remembers what it knew.

    Sample:
        distillers:
          hinton:
            class: KnowledgeDistillation
            teacher: self
            temperature: 4.0
            distillation_wt: 0.7
            student_wt: 0.3

    Args:
        teacher: `self`, or a checkpoint, run or architecture that the loop knows.
        temperature: T, > 0; 1 leaves the probabilities as they are, 2 to 8 are usual.
        distillation_wt: factor of the teacher's term, >= 0.
        student_wt: factor of the loss as it comes, >= 0.
        class_dim: the dimension of the logits' classes, such as -1. null takes 1 of (N, C), (N, C, H, W) and more; of
            three dimensions that of the layer that made them: 1 behind Conv1d, the last behind Linear, the last too
            where it is not known, with a warning.
    """

    def __init__(
        self,
        teacher: str,
        temperature: Temperature = 1.0,
        distillation_wt: Weight = 0.5,
        student_wt: Weight = 0.5,
        class_dim: int | None = None,
    ) -> None:
        super().__init__(OUTPUT_PAIR, teacher, distillation_wt, student_wt)
        self.temperature = temperature
        self.class_dim = class_dim
        self._said = False

    def terms(self, student: Features, teacher: Features, pairs: Mapping[str, str]) -> dict[str, Tensor]:
        """T^2 * KL."""
        check_sizes(student[OUTPUT], teacher[OUTPUT])
        logits, rank = student[OUTPUT], student[OUTPUT].dim()
        if self.class_dim is not None and not -rank <= self.class_dim < rank:
            raise UserError(f"class_dim {self.class_dim}: the logits are of shape {tuple(logits.shape)}")
        if self.class_dim is None and known_channel_dim(logits) is None and not self._said:
            if is_compiled(logits):
                raise UserError(
                    f"KnowledgeDistillation: the logits {tuple(logits.shape)} come out of a compiled network, which "
                    "does not tell by which layer they were made; give class_dim: 1 (N, classes, L) or class_dim: 2 "
                    "(N, tokens, classes)"
                )
            self._said = True
            logger.warning(
                "KnowledgeDistillation: which layer made the logits %s is not known, so their last dimension is taken "
                "for the classes; give class_dim: 1 or class_dim: 2",
                tuple(logits.shape),
            )
        return {OUTPUT: softened_divergence(logits, teacher[OUTPUT], self.temperature, self.class_dim)}


@DISTILLERS.register
class OutputDistillation(Distiller):
    """Learns to give the same image, or whatever the output is, as the teacher.

    Paper: Ba and Caruana 2014, Do Deep Nets Really Need to be Deep?, arXiv 1312.6184, eq. 1, which regresses on the
    teacher's output; here with the L1 distance too, which super-resolution is trained with, and the mean in place of
    the sum.

    When to use: super-resolution, deblurring and other networks whose output is not a set of classes.

    Sample:
        distillers:
          image:
            class: OutputDistillation
            teacher: self
            loss: l1
            distillation_wt: 0.5

    Args:
        teacher: `self`, or a checkpoint, run or architecture that the loop knows.
        loss: `l1`, mean absolute difference, or `l2`, mean squared difference.
        distillation_wt: factor of the teacher's term, >= 0.
        student_wt: factor of the loss as it comes, >= 0.
    """

    def __init__(
        self, teacher: str, loss: Distance = "l1", distillation_wt: Weight = 1.0, student_wt: Weight = 1.0
    ) -> None:
        super().__init__(OUTPUT_PAIR, teacher, distillation_wt, student_wt)
        self.loss = loss

    def terms(self, student: Features, teacher: Features, pairs: Mapping[str, str]) -> dict[str, Tensor]:
        """The mean distance."""
        check_sizes(student[OUTPUT], teacher[OUTPUT])
        return {OUTPUT: distance(student[OUTPUT], teacher[OUTPUT], self.loss)}


def check_sizes(student: Tensor, teacher: Tensor) -> None:
    """Raises UserError where the two outputs are of different shapes, which would be broadcast without a word."""
    if student.shape != teacher.shape:
        raise UserError(
            f"the student's output is {tuple(student.shape)}, the teacher's {tuple(teacher.shape)} for the same "
            "inputs; a teacher needs the same classes, or the same image size"
        )
