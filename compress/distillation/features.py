"""Learning from layers inside of a teacher: `FeatureDistillation`.

Pairs of layers, their widths and adaptors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from compress.distillation.adaptors import Adaptors
from compress.distillation.base import SELF, Distiller, LayerPairs, Weight, as_pairs
from compress.distillation.capture import Call, Features, modules_by_name, seen_on
from compress.distillation.channel_owners import carriers
from compress.distillation.feature_dims import channel_dim
from compress.distillation.losses import attention_distance, distance, same_positions
from compress.distillation.teachers import Teachers, UnseenTeacher
from compress.graph.trace import ExampleInputs
from compress.registry import DISTILLERS

WIDTHS = ("out_channels", "out_features", "num_features", "num_channels", "embedding_dim")
AdaptorUse = Literal["auto", "always"]


class ChannelDistiller(Distiller):
    """What distillers of features share: adaptors, and following a student that is thinned."""

    loss: str
    adaptors: AdaptorUse

    def prepare(self, model: nn.Module, teachers: Teachers, example_inputs: ExampleInputs | None) -> None:
        """Also makes the adaptors; widths are seen in a forward pass of the example inputs, or read off the layers.

        Raises:
            ValueError: as above, or a width cannot be known without example inputs.
        """
        super().prepare(model, teachers, example_inputs)
        self._followed = 0
        self.matching = Adaptors({})
        teacher = teachers.find(self.teacher, model)
        if self.loss == "attention" or isinstance(teacher, UnseenTeacher):
            return
        same = self.teacher == SELF and self.adaptors == "auto"
        pairs = {own: other for own, other in self.pairs.items() if not (same and own == other)}
        own = widths_of(model, pairs, example_inputs)
        wanted = widths_of(teacher, pairs.values(), example_inputs)
        adapted = {
            layer: (own[layer], wanted[other])
            for layer, other in pairs.items()
            if self.adaptors == "always" or own[layer] != wanted[other]
        }
        self.matching = Adaptors(adapted)
        self.matching.to(next(model.parameters()).device)

    def parameters(self) -> list[nn.Parameter]:
        """The adaptors."""
        return self.matching.parameters()

    def follow(
        self,
        model: nn.Module,
        recipes: Sequence[dict[str, Any]],
        call: Call,
        teacher_recipes: int,
        optimizer: Optimizer | None,
    ) -> None:
        """Cuts adaptors, or chooses among the teacher's channels, as the student's layers were cut."""
        if self.loss != "attention" and self._followed < len(recipes):
            found = carriers(model, self.pairs, call)
            for number in range(self._followed, len(recipes)):
                for layer, carrier in found.items():
                    kept = recipes[number]["kept"].get(carrier[0], {}).get(carrier[1]) if carrier else None
                    if kept is not None:
                        self.matching.follow(layer, kept, number < teacher_recipes, optimizer)
        self._followed = len(recipes)

    def term(self, layer: str, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance of one pair."""
        student, teacher = same_positions(student, teacher, layer)
        if self.loss == "attention":
            return attention_distance(student, teacher)
        return distance(*self.matching.match(layer, student, teacher), "l2")

    def state_dict(self) -> dict[str, Any]:
        """The adaptors, and which thinnings they have followed."""
        return {"followed": self._followed, **self.matching.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._followed = state["followed"]
        self.matching.load_state_dict(state)


@DISTILLERS.register
class FeatureDistillation(ChannelDistiller):
    """Learns to compute the same features as the teacher in chosen layers.

    Papers: `l2` is the hint of Romero et al. 2015, FitNets, arXiv 1412.6550, eq. 3, as the mean over all elements
    instead of half the sum; a trained 1x1 adaptor makes the student's features as wide as the teacher's. `attention` is
    Zagoruyko and Komodakis 2017, Paying More Attention to Attention, arXiv 1612.03928, eq. 2: channels are summed as
    squares to a map, which is normalised to length 1, so widths may differ without adaptor; the squared distance is
    summed over positions, the mean over the batch. Where heights and widths differ, both are pooled to the smaller.

    A student that is thinned while it learns stays comparable: adaptors lose the same channels, and without adaptor it
    is compared with the teacher's channels that it still has.

    When to use: for students that are much shallower or thinner than the teacher, whose logits alone teach too little;
    `attention` when the widths differ much.

    Sample:
        distillers:
          hints:
            class: FeatureDistillation
            teacher: self
            layers: {relu1: relu1, relu2: relu2}
            loss: attention
            distillation_wt: 100.0

    Args:
        layers: student's layer -> teacher's layer; or a list of layers that have the same names in both.
        teacher: `self`, or a checkpoint, run or architecture that the loop knows.
        loss: `l2` or `attention`.
        adaptors: `auto` trains a 1x1 adaptor where widths differ, `always` for every pair; `attention` needs none.
        distillation_wt: factor of the sum of the pairs' terms, >= 0.
        student_wt: factor of the loss as it comes, >= 0.
    """

    def __init__(
        self,
        layers: LayerPairs,
        teacher: str,
        loss: Literal["l2", "attention"] = "l2",
        adaptors: AdaptorUse = "auto",
        distillation_wt: Weight = 1.0,
        student_wt: Weight = 1.0,
    ) -> None:
        super().__init__(as_pairs(layers), teacher, distillation_wt, student_wt)
        self.loss = loss
        self.adaptors = adaptors

    def terms(self, student: Features, teacher: Features, pairs: Mapping[str, str]) -> dict[str, Tensor]:
        """A distance for each pair."""
        return {own: self.term(own, student[own], teacher[other]) for own, other in pairs.items()}


def widths_of(model: nn.Module, layers: Iterable[str], example_inputs: ExampleInputs | None) -> dict[str, int]:
    """The number of channels that each layer gives.

    Raises:
        ValueError: there are no example inputs and a layer has no such number of its own.
    """
    names = list(dict.fromkeys(layers))
    modules = modules_by_name(model)
    if not names:
        return {}
    if example_inputs is not None:
        return {name: each.shape[channel_dim(each)] for name, each in seen_on(model, names, example_inputs).items()}
    found = {}
    for name in names:
        numbers = [getattr(modules[name], attribute) for attribute in WIDTHS if hasattr(modules[name], attribute)]
        if not numbers:
            raise ValueError(
                f"the width of the layer {name!r} ({type(modules[name]).__name__}) is not known before training; give "
                "file_config / dict_config example_inputs, or name a convolution, linear or normalisation layer"
            )
        found[name] = int(numbers[0])
    return found
