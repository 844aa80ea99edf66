"""Learning which samples look alike: `SimilarityDistillation`."""

from collections.abc import Mapping

from torch import Tensor

from compress.distillation.base import Distiller, LayerPairs, Weight, as_pairs
from compress.distillation.capture import Features
from compress.distillation.losses import similarity_distance
from compress.registry import DISTILLERS


@DISTILLERS.register
class SimilarityDistillation(Distiller):
    """Learns that those samples of a minibatch look alike which look alike to the teacher.

    Paper: Tung and Mori 2019, Similarity-Preserving Knowledge Distillation, arXiv 1907.09682, eqs. 1 to 4. Of each
    layer's features the N x N matrix of the samples' dot products is taken, its rows normalised to length 1; the term
    is the squared Frobenius distance of student's and teacher's, divided by N^2. Channels and positions are summed
    over, so layers of any width and size can be compared, also while the student is thinned.

    When to use: beside the labels, with minibatches of 32 samples or more; the paper's weight is 3000.

    Sample:
        distillers:
          alike:
            class: SimilarityDistillation
            teacher: self
            layers: [relu2]
            distillation_wt: 3000.0

    Args:
        layers: student's layer -> teacher's layer; or a list of layers that have the same names in both.
        teacher: `self`, or a checkpoint, run or architecture that the loop knows.
        distillation_wt: factor of the sum of the pairs' terms, >= 0.
        student_wt: factor of the loss as it comes, >= 0.
    """

    def __init__(
        self, layers: LayerPairs, teacher: str, distillation_wt: Weight = 1.0, student_wt: Weight = 1.0
    ) -> None:
        super().__init__(as_pairs(layers), teacher, distillation_wt, student_wt)

    def terms(self, student: Features, teacher: Features, pairs: Mapping[str, str]) -> dict[str, Tensor]:
        """A distance for each pair."""
        return {own: similarity_distance(student[own], teacher[other]) for own, other in pairs.items()}
