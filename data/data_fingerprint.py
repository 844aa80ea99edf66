"""Which files a run was trained on: what a checkpoint keeps of them, so that a resumed run has the same.

`Origin`, and the comparison of two. The loaders put one on the training set as `origin`; engine/trainer.py keeps and
compares it, test loaders read it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from compress.errors import UserError, printable

EMBEDDED = "the embedded photographs"


class Origin:
    """The place of training and validation data, and their files.

    Args:
        place: the folder as it was named or found; None is the embedded photographs.
        files: that are trained on or validated with, in any order.
    """

    def __init__(self, place: Path | str | None, files: Iterable[Path]) -> None:
        self.place, self.files = place, sorted(files)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Plain data: the place, the number of files and a SHA-256 of their names and sizes; contents are not read."""
        found = hashlib.sha256()
        root = os.path.commonpath([path.parent for path in self.files]) if self.files else ""
        for path in self.files:
            found.update(os.fsencode(os.path.relpath(path, root)) + b"\0%d\0" % path.stat().st_size)
        where = None if self.place is None else str(self.place)
        return {"place": where, "files": len(self.files), "digest": found.hexdigest()}


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
    """Compares the files of a run with those that would keep being trained on. A folder may have moved.

    Args:
        saved: `Origin.facts` of the run; None of a run that kept none.
        here: the present ones.

    Raises:
        UserError: they differ.
    """
    if saved is None or here is None or saved["digest"] == here["digest"]:
        return
    raise UserError(
        f"the run was trained on {described(saved)}; here it would continue with {described(here)}"
        + (", of which names or sizes are not the same" if saved["files"] == here["files"] else "")
        + ". A resumed run is the same run: put the data back as they were, or start a new run"
    )


def described(facts: Mapping[str, Any]) -> str:
    """`Origin.facts` in words, for a message."""
    return f"{EMBEDDED if facts['place'] is None else printable(facts['place'])} ({facts['files']} files)"
