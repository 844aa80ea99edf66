"""The teachers of a schedule: where they come from, what they say to a minibatch, how they are saved.

`Teachers`, which every distiller of a schedule shares, so that a teacher runs once for each minibatch and the student
is hooked once.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compress.distillation.capture import Call, Capture, Features, chosen, evaluated
from compress.errors import UserError, did_you_mean
from compress.parameters import copied
from compress.selectors import unwrapped
from compress.thinning.recipe import Recipe

SELF = "self"
Source = Mapping[str, nn.Module | Callable[[], nn.Module]] | Callable[[str], nn.Module]
"""What a loop knows of teachers: name -> a network, or a function that makes it; or one function of the name."""


class UnseenTeacher(nn.Module):
    """Stands for a teacher that only the training loop can find, where a schedule is checked without that loop.

    Nothing that depends on the teacher's layers is checked against it.
    """


@dataclass(frozen=True)
class Teacher:
    """A network that is asked and never changes.

    Attributes:
        network: asked in eval mode, whatever mode its owner has put it in, and without gradients.
        recipes: how many thinnings of the student it has gone through; 0 unless it is a copy of it.
    """

    network: nn.Module
    recipes: int = 0


class Teachers:
    """The teachers of one schedule, and the minibatch that they are asked about.

    Args:
        source: finds a teacher by the name in the schedule; None where the loop knows none but `self`.
    """

    def __init__(self, source: Source | None = None) -> None:
        self._source = source
        self._teachers: dict[str, Teacher] = {}
        self._capture = Capture()
        self._wanted: dict[str, list[str]] = {}
        self._answers: dict[str, Features] = {}
        self._answered: Call | None = None
        self._epoch = -1

    # Who they are -------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Those that are there; `self` is one of them from the moment that it was copied."""
        return list(self._teachers)

    def find(self, name: str, model: nn.Module) -> nn.Module:
        """The teacher of that name, made when it is asked for first; for `self` the student as it is now.

        Raises:
            UserError: there is none.
        """
        if name == SELF:
            return self._teachers[SELF].network if SELF in self._teachers else unwrapped(model)
        if name not in self._teachers:
            network = self._make(name)
            _check_apart(name, network, model)
            self._teachers[name] = Teacher(_frozen(network))
        return self._teachers[name].network

    def start(self, name: str, model: nn.Module, recipes: int) -> Teacher:
        """The teacher, on the student's device; `self` is copied now if it is not there yet.

        Args:
            name: in the schedule.
            model: the student.
            recipes: how many thinnings it has gone through.
        """
        if name == SELF and SELF not in self._teachers:
            self._teachers[SELF] = Teacher(_copy(model), recipes)
        teacher = self._teachers[name]
        device = next((parameter.device for parameter in model.parameters()), None)
        if device is not None:
            teacher.network.to(device)
        return teacher

    def _make(self, name: str) -> nn.Module:
        if self._source is None:
            raise UserError(f"no teacher {name!r} is known: this loop gave dict_config / file_config no `teachers`")
        if isinstance(self._source, Mapping):
            if name not in self._source:
                raise UserError(f"no teacher {name!r}; {did_you_mean(name, [SELF, *self._source])}")
            found = self._source[name]
            return found if isinstance(found, nn.Module) else found()
        return self._source(name)

    def begin_epoch(self, epoch: int) -> None:
        """A distiller acts in this epoch; after epochs without one, what was compiled in them hears no student."""
        if self._epoch not in (epoch - 1, epoch):
            self._capture.forget_compiled()
        self._epoch = epoch

    # A minibatch --------------------------------------------------------------------------------------------------

    def watch(self, model: nn.Module, layers: Collection[str], teacher: str, teacher_layers: Iterable[str]) -> None:
        """Before the student's forward pass: what one distiller will want of student and teacher."""
        if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
            raise UserError(
                "distillers need each process to see one forward pass; use DistributedDataParallel (torchrun)"
            )
        self._capture.watch(model, layers)
        self._wanted.setdefault(teacher, []).extend(teacher_layers)

    def call(self) -> Call:
        """The student's forward pass.

        Raises:
            UserError: there was none in training mode.
        """
        if self._capture.call is None:
            raise UserError(
                "distillation: between on_minibatch_begin and before_backward_pass the network was not called in "
                "training mode (model.train()), so there is nothing to compare with the teacher"
            )
        return self._capture.call

    def student(self, layers: Iterable[str]) -> Features:
        """What the student's layers gave, with gradients."""
        return chosen(self.call().layers, layers, "the student")

    def says(self, name: str, layers: Iterable[str]) -> Features:
        """What a teacher's layers give for the student's inputs; it runs once for each of the student's passes.

        Raises:
            UserError: the teacher does not take these inputs.
        """
        call = self.call()
        if self._answered is not call:
            self._answered, self._answers = call, {}
        if name not in self._answers:
            network = self._teachers[name].network
            self._answers[name] = self.asked(name, call.args, lambda: evaluated(network, call, self._wanted[name]))
        return chosen(self._answers[name], layers, f"the teacher {name!r}")

    @staticmethod
    def asked(name: str, inputs: Iterable[Any], call: Callable[[], Features]) -> Features:
        """What a call of a teacher gives.

        Raises:
            UserError: it does not take the student's inputs.
        """
        try:
            return call()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as e:
            text = (str(e).splitlines() or [type(e).__name__])[0]
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, torch.Tensor))
            raise UserError(
                f"the teacher {name!r} cannot take what the student is given ({shapes}): {text}; a teacher must have "
                "been trained on images of the same size and channels"
            ) from e

    def release(self) -> None:
        """After the minibatch: no hook and no tensor is left."""
        self._capture.release()
        self._wanted.clear()
        self._answers.clear()
        self._answered = None

    # State --------------------------------------------------------------------------------------------------------

    def state_dict(self, weights: bool = True) -> dict[str, Any]:
        """Name -> what makes the same teacher again; `weights=False` leaves these to be kept elsewhere."""
        return {
            name: {"recipes": teacher.recipes, "weights": dict(teacher.network.state_dict()) if weights else None}
            for name, teacher in self._teachers.items()
        }

    def load_state_dict(
        self, state: Mapping[str, Any], model: nn.Module, recipes: Sequence[Mapping[str, Any]], applied: int
    ) -> None:
        """Restores every teacher of `state_dict`.

        Args:
            state: with weights.
            model: the student, of which `self` is a copy.
            recipes: all thinnings of the student.
            applied: how many of them `model` has gone through already.

        Raises:
            UserError: weights are left out or do not fit, or the student is thinner than its copy was.
        """
        for name in [name for name in self._teachers if name == SELF and name not in state]:
            del self._teachers[name]  # it is copied again where the interrupted run did
        for name, entry in state.items():
            if entry["weights"] is None:
                raise UserError(
                    f"the weights of the teacher {name!r} are not in this state: they were saved apart from it"
                )
            if name == SELF:
                self._teachers[name] = self._again(entry["recipes"], model, recipes, applied)
            elif name not in self._teachers:
                raise UserError(f"the state has a teacher {name!r}, which this schedule does not name")
            try:
                self._teachers[name].network.load_state_dict(entry["weights"])
            except RuntimeError as e:
                raise UserError(f"the saved teacher {name!r} does not fit: {' '.join(str(e).split())[:300]}") from e

    def _again(self, count: int, model: nn.Module, recipes: Sequence[Mapping[str, Any]], applied: int) -> Teacher:
        if SELF in self._teachers and self._teachers[SELF].recipes == count:
            return self._teachers[SELF]
        if applied > count:
            raise UserError("the teacher 'self' cannot be made again: this network is thinner already than it was then")
        network = _copy(model)
        for recipe in recipes[applied:count]:
            Recipe.from_dict(recipe).apply(network)
        return Teacher(network, count)


def _check_apart(name: str, teacher: nn.Module, student: nn.Module) -> None:
    """Raises UserError where a teacher has tensors of the student, which would be frozen with it."""
    if unwrapped(teacher) is unwrapped(student):
        raise UserError(f"the teacher {name!r} is the student itself, which would be frozen; write teacher: self")
    own = {id(tensor) for tensor in (*student.parameters(), *student.buffers())}
    named = (*teacher.named_parameters(), *teacher.named_buffers())
    shared = [full for full, tensor in named if id(tensor) in own]
    if shared:
        raise UserError(
            f"the teacher {name!r} shares {shared[0]!r} and {len(shared) - 1} more tensors with the student, which "
            "would be frozen with it; give it copies of its own (copy.deepcopy), or write teacher: self"
        )


def _copy(model: nn.Module) -> nn.Module:
    inner = unwrapped(model)
    try:
        return _frozen(copied(inner))
    except UserError as e:
        raise UserError(f"{e}; so it cannot be its own teacher") from e


def _frozen(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        parameter.grad = None
    return network.eval().requires_grad_(False)
