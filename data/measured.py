"""What quality was measured on: the data, their part and the number of images.

Loaders put a `Measured` on the data sets that are evaluated; summaries, reports and comparisons name it beside
quality.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.errors import printable
from data.data_fingerprint import EMBEDDED

WHOLE = "whole"  # a place without parts, measured as it is


@dataclass(frozen=True)
class Measured:
    """Which images are measured.

    Attributes:
        data: the place, such as a folder.
        part: train, validation, test, or `WHOLE`.
        images: their number.
    """

    data: str
    part: str
    images: int

    @classmethod
    def of(cls, place: Path | str | None, part: str, images: int) -> "Measured":
        """Of a place; None is the embedded photographs."""
        return cls(EMBEDDED if place is None else printable(str(place)), part, images)

    @classmethod
    def of_part(cls, place: Path | None, part: str, has_test: Callable[[Path], bool], images: int) -> "Measured":
        """Of a part as people call it: a folder without a test part that is tested is taken whole."""
        whole = part == "test" and place is not None and not has_test(place)
        return cls.of(place, WHOLE if whole else part, images)

    def facts(self) -> dict[str, Any]:
        """Plain data, for summaries."""
        return asdict(self)


def facts_of(loader: Any) -> dict[str, Any]:
    """What is known of the data of a loader; of a loader of somebody's own perhaps only their number, or None."""
    dataset = getattr(loader, "dataset", loader)
    measured = getattr(dataset, "measured", None)
    if measured is not None:
        return dict(measured.facts())
    return {"data": None, "part": None, "images": len(dataset) if hasattr(dataset, "__len__") else None}
