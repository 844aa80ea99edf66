"""What became of a run as a whole: its history, its warnings, and whether it was trained to its end.

A `best.pt` was written when its epoch ended and knows nothing of later ones: the run's newest checkpoint does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apputils.checkpoints.file import load_checkpoint
from apputils.checkpoints.schema import check_run
from apputils.runs.folders import Run
from compress.errors import UserError


@dataclass(frozen=True)
class RunRecord:
    """The run that a checkpoint is of.

    Attributes:
        history: a row a finished epoch.
        warnings: entries of `RunWarnings`.
        planned_epochs: the run's length as it was started; None of a run that did not keep it.
    """

    history: list[dict[str, float]]
    warnings: list[dict[str, Any]]
    planned_epochs: int | None

    @classmethod
    def of(cls, run: Run, path: Path, checkpoint: Mapping[str, Any]) -> "RunRecord":
        """By the run's newest checkpoint if `path` is one of its folder, else by the checkpoint itself."""
        newest = _newest(run) if path != run.last and path.resolve().parent == run.checkpoints.resolve() else None
        content = checkpoint if newest is None else newest
        warnings = [dict(entry) for entry in content.get("warnings", [])]
        return cls(list(content.get("history", [])), warnings, content.get("planned_epochs"))

    @property
    def trained_epochs(self) -> int:
        """How many epochs were finished."""
        return len(self.history)

    @property
    def cut_short(self) -> str:
        """A sentence, where fewer epochs were trained than were planned; else ''."""
        if self.planned_epochs is None or self.trained_epochs >= self.planned_epochs:
            return ""
        return (
            f"the run was ended after {self.trained_epochs} of its {self.planned_epochs} epochs, so what its schedule "
            "had for the later ones was not done; --resume=RUN trains on"
        )


def _newest(run: Run) -> dict[str, Any] | None:
    """The content of `last.pt`, if it can be read and is of this run."""
    try:
        content = check_run(load_checkpoint(run.last), run.last) if run.last.is_file() else None
    except UserError:
        return None  # the evaluated checkpoint's own history will do
    return content if content is not None and content["run"] == run.name else None
