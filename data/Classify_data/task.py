"""What a classification run knows of its data, and what a checkpoint keeps of that.

`Task`, and the check that other data have the same classes in the same order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compress.errors import UserError

LARGEST_SIDE = 4096  # pixels


@dataclass(frozen=True)
class Task:
    """The classes and the form of the images.

    Attributes:
        classes: names; a label is a place in it.
        channels: 1 (grey) or 3 (RGB).
        size: height and width that the network sees, pixels.
        mean: of each channel, pixel values in [0, 1].
        std: the same, > 0.
        majority: labels, the class with most training images first: what the trivial baseline always answers.
    """

    classes: tuple[str, ...]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    majority: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Task":
        """What `to_dict` gave.

        Raises:
            UserError: something else, such as from a file that was changed.
        """
        try:
            task = TypeAdapter(Task).validate_python(dict(data))
        except ValidationError as e:
            first = e.errors()[0]
            raise UserError(f"the classes cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}") from e
        per_channel = len(task.mean) == len(task.std) == task.channels and all(map(math.isfinite, task.mean + task.std))
        if task.channels not in (1, 3) or not 1 <= task.size <= LARGEST_SIDE or not per_channel or min(task.std) <= 0:
            raise UserError("the classes cannot be read: the form of the images makes no sense")
        if not task.classes or not task.majority or not set(task.majority) <= set(range(len(task.classes))):
            raise UserError("the classes cannot be read: the majority class is none of them")
        return task


def check_classes(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Compares the classes of some data with those of a checkpoint.

    Raises:
        UserError: a class is missing or extra, or the order is another; they are named.
    """
    if tuple(found) == tuple(wanted):
        return
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    parts = [f"{what} {', '.join(names[:8])}" for what, names in (("missing:", missing), ("extra:", extra)) if names]
    if not parts:
        parts = [f"the order is {', '.join(list(found)[:8])} instead of {', '.join(list(wanted)[:8])}"]
    raise UserError(
        f"{where}: the classes are not those that the network was trained with ({len(found)} instead of "
        f"{len(wanted)}); {'; '.join(parts)}. Labels would mean other classes, so nothing was started"
    )
