"""Learning a teacher's layers one after the other: `StagedDistillation`.

The stages and how the epochs are shared out.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from compress.distillation.base import Weight
from compress.distillation.capture import Features
from compress.distillation.features import AdaptorUse, ChannelDistiller
from compress.epoch_window import EpochWindow
from compress.registry import DISTILLERS
from compress.selectors import ModuleSelector

StageEpochs = list[Annotated[int, Field(ge=1)]]


@DISTILLERS.register
class StagedDistillation(ChannelDistiller):
    """Trains the layers up to a point against the teacher's output there, the rest frozen; then up to the next point.

    Paper: Romero et al. 2015, FitNets, arXiv 1412.6550, section 2.2, whose hint-based training is a single stage; here
    any number of stages follow each other. The term is the mean squared difference of the features (the paper has half
    the sum), with a trained 1x1 adaptor where widths differ. While a stage lasts, the loss of the labels does not
    count, and all that the point does not depend on is out of the optimizer's reach, momentum, weight decay and the
    statistics of BatchNorm included. The firing epochs are shared out evenly unless `epochs_of_stages` says otherwise.

    When to use: to make a network shallower, layer by layer, before a `KnowledgeDistillation` of the whole; with
    `earlier` where each replaced part is to stay as it was trained.

    Sample:
        distillers:
          squeeze:
            class: StagedDistillation
            teacher: self
            stages: {relu1: relu1, relu2: relu2}
            frozen: earlier

    Args:
        stages: student's layer -> teacher's layer; they are trained in the order of the student's layers.
        teacher: `self`, or a checkpoint, run or architecture that the loop knows.
        epochs_of_stages: firing epochs of each stage, >= 1; the last one continues to the end. None shares them evenly.
        frozen: `rest` trains everything up to the point; `earlier` also freezes what earlier stages trained.
        adaptors: `auto` trains a 1x1 adaptor where widths differ, `always` for every stage.
        distillation_wt: factor of the stage's term, >= 0.
        channel_dim: the dimension of the channels in all pairs, such as -1; null finds it, see `FeatureDistillation`.
    """

    loss = "l2"

    def __init__(
        self,
        stages: dict[ModuleSelector, str],
        teacher: str,
        epochs_of_stages: StageEpochs | None = None,
        frozen: Literal["rest", "earlier"] = "rest",
        adaptors: AdaptorUse = "auto",
        distillation_wt: Weight = 1.0,
        channel_dim: int | None = None,
    ) -> None:
        if not stages:
            raise ValueError("stages is empty, so nothing would be trained")
        super().__init__(stages, teacher, distillation_wt, student_wt=0.0)
        if epochs_of_stages is not None and len(epochs_of_stages) != len(self.pairs):
            raise ValueError(f"{len(self.pairs)} stages, but epochs_of_stages has {len(epochs_of_stages)} numbers")
        self.epochs_of_stages = epochs_of_stages
        self.frozen = frozen
        self.adaptors = adaptors
        self.channel_dim = channel_dim

    def terms(self, student: Features, teacher: Features, pairs: Mapping[str, str]) -> dict[str, Tensor]:
        """The distance of the stage's pair."""
        return {own: self.term(own, student[own], teacher[other]) for own, other in pairs.items()}

    def stage_at(self, epoch: int, window: EpochWindow) -> int:
        """The stage of a firing epoch, counted from 0."""
        position, count = list(window.epochs).index(epoch), len(self.pairs)
        if self.epochs_of_stages is None:
            return position * count // len(window.epochs)
        ends = [sum(self.epochs_of_stages[: stage + 1]) for stage in range(count)]
        return next((stage for stage, end in enumerate(ends) if position < end), count - 1)

    def check_window(self, window: EpochWindow) -> None:
        """Raises ValueError where the window is too short for the stages."""
        needed = len(self.pairs) if self.epochs_of_stages is None else sum(self.epochs_of_stages)
        if len(window.epochs) < needed:
            raise ValueError(
                f"its stages need {needed} firing epochs, the policy has {len(window.epochs)} ({window}), so the last "
                "ones would not be reached"
            )
