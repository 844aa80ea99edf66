"""Which data a run was trained on: what a checkpoint keeps of them, so that a resumed run has the same.

`Origin`, and the comparison of two. The loaders put one on the training set as `origin`; engine/trainer.py keeps and
compares it, test loaders read it.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import UserError, printable

EMBEDDED = "the embedded photographs"
UNKNOWN = hashlib.sha256().hexdigest()  # checkpoints of data in arrays had this digest, of nothing, up to 0.1.0
_logger = logging.getLogger("run")


class Origin:
    """The place of training and validation data, and what is there.

    Args:
        place: the folder as it was named or found; None is the embedded photographs.
        files: that are trained on or validated with, in any order.
        arrays: what names and sizes of files do not say, such as labels, and the images of one large file. They are
            read once, when `facts` are asked for.
        images: how many `arrays` hold that are no files of their own.
    """

    def __init__(
        self, place: Path | str | None, files: Iterable[Path], arrays: Iterable[NDArray[Any]] = (), images: int = 0
    ) -> None:
        self.place, self.files, self.images = place, sorted(files), images
        self._arrays = arrays

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Plain data: the place, the numbers of files and of other images, and a SHA-256.

        It is of the names and sizes of files, whose contents are not read, and of the contents of arrays.
        """
        found = hashlib.sha256()
        root = os.path.commonpath([path.parent for path in self.files]) if self.files else ""
        for path in self.files:
            found.update(os.fsencode(os.path.relpath(path, root)) + b"\0%d\0" % path.stat().st_size)
        for array in self._arrays:
            found.update(f"{array.dtype.str} {array.shape}\0".encode())
            found.update(np.ascontiguousarray(array).data)
        where = None if self.place is None else str(self.place)
        images = {"images": self.images} if self.images else {}
        return {"place": where, "files": len(self.files), **images, "digest": found.hexdigest()}


def trained_place(checkpoint: Mapping[str, Any], otherwise: Callable[[], Path | None]) -> Path | None:
    """The folder that a checkpoint was trained on, None if it was the embedded photographs.

    Args:
        checkpoint: of a run.
        otherwise: says it for a checkpoint that kept no origin.
    """
    facts = checkpoint["task"].get("data")
    if not isinstance(facts, Mapping) or "place" not in facts:
        return otherwise()
    return None if facts["place"] is None else Path(str(facts["place"]))


def check_same_data(saved: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> None:
    """Compares the data of a run with those that would keep being trained on. A folder may have moved.

    Args:
        saved: `Origin.facts` of the run; None of a run that kept none. Of one that kept no content a warning says so.
        here: the present ones.

    Raises:
        UserError: they differ.
    """
    if saved and here and UNKNOWN == saved["digest"] != here["digest"]:
        _logger.warning(
            "the run's checkpoint says nothing of what %s held, so whether %s holds the same is not checked",
            _place(saved), _place(here),
        )  # fmt: skip
    if saved and here and (other := difference(saved, here)) is not None:
        raise UserError(
            f"the run was trained on {described(saved)}; here it would continue with {described(here)}{other}. "
            "A resumed run is the same run: put the data back as they were, or start a new run"
        )


def warn_of_other_data(saved: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> None:
    """Warns where what is calibrated or measured on, as training data of a run, is not what it was trained on.

    Args:
        saved: see `check_same_data`.
        here: the present ones.
    """
    if saved and here and (other := difference(saved, here)) is not None:
        _logger.warning(
            "the run was trained on %s; what is read now in their place is %s%s",
            described(saved), described(here), other,
        )  # fmt: skip


def origin_facts(loader: Any) -> dict[str, Any] | None:
    """`Origin.facts` of what a loader loads; None of a data set without an origin."""
    origin = getattr(getattr(loader, "dataset", None), "origin", None)
    return None if origin is None else origin.facts


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """None of the same data, or where one of them is not known; else what follows the words for the other.

    Args:
        one: `Origin.facts`.
        other: others.
    """
    if one["digest"] == other["digest"] or UNKNOWN in (one["digest"], other["digest"]):
        return None
    if _counted(one) != _counted(other):
        return ""
    return ", of which names or sizes are not the same" if one["files"] else ", which are other images or labels"


def described(facts: Mapping[str, Any]) -> str:
    """`Origin.facts` in words, for a message."""
    return f"{_place(facts)} ({_counted(facts)})"


def _place(facts: Mapping[str, Any]) -> str:
    return EMBEDDED if facts["place"] is None else printable(facts["place"])


def _counted(facts: Mapping[str, Any]) -> str:
    return f"{facts['images']:,} images" if facts.get("images") else f"{facts['files']} files"
