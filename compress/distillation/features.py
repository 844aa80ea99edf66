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
from compress.distillation.feature_dims import channel_dim, told_channel_dim
from compress.distillation.losses import attention_distance, distance, same_positions
from compress.distillation.teachers import Teachers, UnseenTeacher
from compress.errors import UserError
from compress.graph.trace import ExampleInputs
from compress.registry import DISTILLERS

WIDTHS = ("out_channels", "out_features", "num_features", "num_channels", "embedding_dim")
AdaptorUse = Literal["auto", "always"]


class ChannelDistiller(Distiller):
    """What distillers of features share: channels' places, adaptors, and following a student that is thinned."""

    loss: str
    adaptors: AdaptorUse
    channel_dim: int | None = None

    def prepare(self, model: nn.Module, teachers: Teachers, example_inputs: ExampleInputs | None) -> None:
        """Also makes the adaptors; widths are seen in a forward pass of the example inputs, or read off the layers.

        Raises:
            ValueError: as above, or a width cannot be known without example inputs.
        """
        super().prepare(model, teachers, example_inputs)
        self._followed = 0
        self.matching = Adaptors({})
        self._seen = dims_of(model, self.pairs, example_inputs)
        self._taught: dict[str, tuple[int, int]] = {}  # the same of the teacher's layers, by the student's
        teacher = teachers.find(self.teacher, model)
        if not isinstance(teacher, UnseenTeacher):
            its = dims_of(teacher, self.pairs.values(), example_inputs)
            self._taught = {own: its[other] for own, other in self.pairs.items() if other in its}
        if self.loss == "attention" or isinstance(teacher, UnseenTeacher):
            return
        same = self.teacher == SELF and self.adaptors == "auto"
        pairs = {own: other for own, other in self.pairs.items() if not (same and own == other)}
        own = widths_of(model, pairs, example_inputs, self.channel_dim)
        wanted = widths_of(teacher, pairs.values(), example_inputs, self.channel_dim)
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
        """The distance of one pair.

        Raises:
            UserError: the features cannot be compared, or which dimension holds the channels is not known.
        """
        dim = self._dim(layer, student, teacher)
        rank, its = self._taught.get(layer, (0, 0))
        if self.channel_dim is None and rank == student.dim() == teacher.dim():
            teacher = teacher.movedim(its, dim)
        student, teacher = same_positions(student, teacher, layer, dim)
        if self.loss == "attention":
            return attention_distance(student, teacher, dim)
        return distance(*self.matching.match(layer, student, teacher, dim), "l2")

    def _dim(self, layer: str, student: Tensor, teacher: Tensor) -> int:
        """Where the channels are: as given, as the example inputs have shown, or by what autograd remembers."""
        rank, seen = student.dim(), self._seen.get(layer)
        if self.channel_dim is not None:
            if not -rank <= self.channel_dim < rank:
                raise UserError(f"channel_dim {self.channel_dim}: {layer or 'output'!r} gives {tuple(student.shape)}")
            return self.channel_dim % rank
        if seen is not None and seen[0] == rank:
            return seen[1]
        found = told_channel_dim(student)
        alike = student.shape == teacher.shape and self.loss != "attention"
        if found is None and not (alike and layer not in {**self.matching.matrices, **self.matching.kept}):
            raise UserError(
                f"{type(self).__name__}: which dimension of {layer or 'output'!r}, {tuple(student.shape)}, holds the "
                "channels is not known, since its maker is inside of a checkpoint or of compiled code, or its output "
                f"was reshaped; give channel_dim: 1 (N, C, ...) or channel_dim: {rank - 1} (N, ..., C), or "
                "example_inputs, with which the network is run without torch.compile"
            )
        return channel_dim(student) if found is None else found

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
        channel_dim: the dimension of the channels in all pairs, such as -1. null takes that of the layer that made the
            feature: 1 behind a convolution, the last behind Linear or LayerNorm; where that is not known (inside of a
            checkpoint or of compiled code) and matters, it is asked for.
    """

    def __init__(
        self,
        layers: LayerPairs,
        teacher: str,
        loss: Literal["l2", "attention"] = "l2",
        adaptors: AdaptorUse = "auto",
        distillation_wt: Weight = 1.0,
        student_wt: Weight = 1.0,
        channel_dim: int | None = None,
    ) -> None:
        super().__init__(as_pairs(layers), teacher, distillation_wt, student_wt)
        self.channel_dim = channel_dim
        self.loss = loss
        self.adaptors = adaptors

    def terms(self, student: Features, teacher: Features, pairs: Mapping[str, str]) -> dict[str, Tensor]:
        """A distance for each pair."""
        return {own: self.term(own, student[own], teacher[other]) for own, other in pairs.items()}


def dims_of(
    model: nn.Module, layers: Iterable[str], example_inputs: ExampleInputs | None
) -> dict[str, tuple[int, int]]:
    """Layer -> how many dimensions its output has and which holds the channels, where the example inputs show it."""
    if example_inputs is None:
        return {}
    seen = {
        layer: (each.dim(), told_channel_dim(each)) for layer, each in seen_on(model, layers, example_inputs).items()
    }
    return {layer: (rank, dim) for layer, (rank, dim) in seen.items() if dim is not None}


def widths_of(
    model: nn.Module, layers: Iterable[str], example_inputs: ExampleInputs | None, dim: int | None = None
) -> dict[str, int]:
    """The number of channels that each layer gives, along `dim` or, if that is None, where they were found.

    Raises:
        ValueError: there are no example inputs and a layer has no such number of its own.
    """
    names = list(dict.fromkeys(layers))
    modules = modules_by_name(model)
    if not names:
        return {}
    if example_inputs is not None:
        seen = seen_on(model, names, example_inputs)
        return {name: each.shape[channel_dim(each) if dim is None else dim] for name, each in seen.items()}
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
