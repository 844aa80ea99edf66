"""What a checkpoint must look like before anything is made of it, and what is said of one that looks otherwise.

`check_run`, `check_resumable`, `check_teachers`, `check_exported`, `plain_arguments`, `built`, `Unfit`. A checkpoint
may come from anyone: names in it become folders, numbers in it become sizes.
"""

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from apputils.checkpoints.bounded import OutOfBoundsError, bounded
from apputils.runs.folders import Run, check_owner, is_plain_name
from compress.errors import UserError, shown

MOST_FAULTS = 9  # that a message names
MOST_VALUES, DEEPEST = 1000, 5  # of a network's arguments
MOST_BITS = 64  # of a whole number among them
MOST_GROWTH, ALWAYS = 1000, 10_000_000  # parameters of the network before it was thinned, for each in the file


def _folder(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError("the name of a run is one folder name")
    return name


def plain_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a network's constructor, if a checkpoint can keep them.

    Raises:
        ValueError: one is no plain value, or a number that no file keeps; or they are too many.
    """
    waiting: list[tuple[Any, int]] = [(arguments, 0)]
    for count, (value, depth) in enumerate(waiting):
        if depth > DEEPEST or count > MOST_VALUES:
            raise ValueError("they are too many")
        if isinstance(value, Mapping):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list | tuple):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise ValueError(f"{shown(value)} has more than {MOST_BITS} bits")
        elif not isinstance(value, int | float | str | None):
            raise ValueError(f"{shown(value)} is no plain value")
    return arguments


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True, strict=True)


class _Network(_Form):
    class_name: str = Field(alias="class")
    arguments: Annotated[dict[str, Any], AfterValidator(plain_arguments)]


class _Averaged(_Form):
    model: dict[str, Tensor]


class _Recipe(_Form):
    kept: dict[str, dict[int, Tensor]]
    sizes: dict[str, dict[int, int]]
    attributes: dict[str, dict[str, int | tuple[int, ...] | None]]
    headed: list[str]
    fused: list[str] = []
    padded: dict[str, list[int]] = {}


class _Structure(_Form):
    layers: dict[str, dict[str, dict[str, bool | int | float | str | list[int] | None]]]
    folded: dict[str, str]


class _Scheduler(_Form):
    recipes: list[_Recipe]
    structures: list[_Structure] = []


class _Companion(_Form):
    model: dict[str, Tensor]
    optimizer: dict[str, Any]


class _Middle(_Form):
    step: int
    steps: int


class _Warning(_Form):
    epoch: int | None
    text: str
    count: int


class _Described(_Form):
    """What an exported file keeps of its checkpoint."""

    run: Annotated[str, AfterValidator(_folder)]
    optform: str
    network: _Network
    options: dict[str, Any] = {}
    task: dict[str, Any] = {}


class _Run(_Described):
    """What evaluation reads of a run's checkpoint."""

    options: dict[str, Any]
    task: dict[str, Any]
    epoch: Annotated[int, Field(ge=-1)]  # -1 before the first one is finished
    model: dict[str, Tensor]
    averaged: _Averaged | None
    scheduler: _Scheduler
    scheduled_weights: list[str]
    history: list[dict[str, float]] = []
    warnings: list[_Warning] = []
    planned_epochs: int | None = None


class _Resumable(_Run):
    """What a resumed run reads too."""

    schedule: dict[str, Any]
    schedule_text: str | None = None
    optimizer: dict[str, Any]
    companions: dict[str, _Companion]
    history: list[dict[str, float]]
    best: dict[str, Any] | None
    sizes: list[dict[str, Any]]
    random_state: dict[str, Any]
    seconds: float
    middle: _Middle | None
    middles: list[_Middle]


class _Source(_Form):
    optform: str
    network: dict[str, Any]
    recipes: list[_Recipe]


class _Teachers(_Form):
    """What keeps a run's teachers."""

    sources: dict[str, _Source]
    teachers: dict[str, Any]


class Unfit(ContextDecorator):
    """Block or function in which content of a file is used: what it trips over is a UserError, saying of what.

    Args:
        words: begin the message.
    """

    ERRORS = (
        LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, ArithmeticError, MemoryError,
    )  # fmt: skip

    def __init__(self, words: str) -> None:
        self.words = words

    def __enter__(self) -> "Unfit":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, self.ERRORS):
            text = " ".join(str(error).split())[:300]
            raise UserError(f"{self.words}: {type(error).__name__}: {text}") from error


def check_run(content: dict[str, Any], where: object) -> dict[str, Any]:
    """The checkpoint of a run, if it has the form of one.

    Raises:
        UserError: a part is missing or of another kind; the first few are named.
    """
    return _of_its_folder(_checked(_Run, content, f"{where} is not a checkpoint of a run"), where)


def check_resumable(content: dict[str, Any], run: str) -> dict[str, Any]:
    """The checkpoint of a run that is to continue, if it has the form of one.

    Raises:
        UserError: parts are missing or of another kind.
    """
    words = f"the run {run} cannot continue from its last checkpoint, which has not its form"
    return _of_its_folder(_checked(_Resumable, content, words), Run(run).last)


def check_teachers(content: dict[str, Any], where: object) -> dict[str, Any]:
    """The file of a run's teachers, if it has the form of one.

    Raises:
        UserError: as for `check_run`.
    """
    content = _checked(_Teachers, content, f"{where} is not a file of teachers")
    return _of_its_folder(content, where) if "run" in content else content  # older files do not say it


def check_exported(content: dict[str, Any], where: object) -> dict[str, Any]:
    """What an exported file keeps of its checkpoint, if it has the form of that.

    Raises:
        UserError: as for `check_run`.
    """
    return _of_its_folder(
        _checked(_Described, content, f"what {where} keeps of its checkpoint has another form"), where
    )


def _of_its_folder(content: dict[str, Any], where: object) -> dict[str, Any]:
    """The content of a file, if it is of the run in whose folder it stands."""
    if isinstance(where, Path | str):
        check_owner(content["run"], Path(where))
    return content


def built(make: Callable[[dict[str, Any]], nn.Module], checkpoint: Mapping[str, Any]) -> nn.Module:
    """A new network of a checkpoint's arguments, unless it would be out of proportion to the file.

    Args:
        make: arguments -> network.
        checkpoint: of the network.

    Raises:
        UserError: it cannot be built, or would be far larger than what the file holds.
    """
    with Unfit("the network of this checkpoint cannot be built"):
        arguments = plain_arguments(checkpoint["network"]["arguments"])
        try:
            with torch.device("meta"), bounded(memory=sys.maxsize):  # nothing is allocated
                size = sum(parameter.numel() for parameter in make(arguments).parameters())
        except OutOfBoundsError as e:
            raise UserError(f"the network of this checkpoint cannot be built: {e}") from e
        except (NotImplementedError, RuntimeError, UserError):  # a constructor that computes with tensors' values
            size = 0
        weights = checkpoint.get("model")  # a teacher's source has none beside it
        stored = sum(tensor.numel() for tensor in weights.values()) if weights is not None else size
        if size > MOST_GROWTH * stored + ALWAYS:
            raise ValueError(f"it would have {size:,} parameters, and the file holds {stored:,}")
        with bounded():
            return make(arguments)


def _checked(form: type[BaseModel], content: dict[str, Any], words: str) -> dict[str, Any]:
    try:
        form.model_validate(content)
    except ValidationError as e:
        found = [f"{'.'.join(map(str, each['loc']))[:60]}: {each['msg'][:70]}" for each in e.errors()]
        more = f" and {len(found) - MOST_FAULTS} more" if len(found) > MOST_FAULTS else ""
        raise UserError(f"{words}: {'; '.join(found[:MOST_FAULTS])}{more}") from e
    except RecursionError as e:
        raise UserError(f"{words}: it is nested too deeply") from e
    return content
