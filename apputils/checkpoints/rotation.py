"""The last checkpoints of a run: `last.pt`, and before it `last.1.pt`, `last.2.pt`, ...

`save_last`, `load_last`. A run that is killed between two renames has no `last.pt` for a moment; then `last.1.pt` is
the newest.
"""

import logging
from pathlib import Path
from typing import Any

from apputils.checkpoints.file import Damaged, load_checkpoint, save_checkpoint
from apputils.runs.folders import Run
from compress.errors import UserError

logger = logging.getLogger("run")


def save_last(run: Run, content: dict[str, Any], keep: int) -> None:
    """Writes `last.pt`; the one before becomes `last.1.pt`, and so on.

    Args:
        run: whose.
        content: of the checkpoint.
        keep: how many there are afterwards, at most, >= 1.

    Raises:
        UserError: it cannot be written; those that are there are left as they were.
    """
    new = run.checkpoints / "new.pt"
    save_checkpoint(new, content)  # whole and on the disk before anything else is touched
    for number in range(keep - 1, 0, -1):
        if run.kept(number - 1).exists():
            run.kept(number - 1).replace(run.kept(number))
    new.replace(run.last)
    for path in run.kept_files()[keep:]:  # --keep may be smaller than it was
        path.unlink()


def load_last(run: Run) -> dict[str, Any]:
    """The newest checkpoint that is whole; says so when it is not the last one.

    Raises:
        UserError: there is none, or all are damaged.
    """
    files = run.kept_files()
    for number, path in enumerate(files):
        try:
            content = load_checkpoint(path)
        except Damaged as e:
            logger.warning("%s", e)
        else:
            if number:
                logger.warning("continuing from the checkpoint before it, %s: %s", path, progress(content))
            return content
    raise UserError(f"no checkpoint of the run {run.name} can be read: {', '.join(map(str, files)) or 'there is none'}")


def progress(content: dict[str, Any]) -> str:
    """Where a checkpoint stands, in words."""
    epoch, middle = content.get("epoch"), content.get("middle")
    if not isinstance(epoch, int):  # nobody has looked at its form yet
        return "which does not say where it stands"
    if isinstance(middle, dict) and {"step", "steps"} <= middle.keys():
        return f"epoch {epoch + 1}, {middle['step']} of {middle['steps']} steps"
    return f"epoch {epoch} finished" if epoch >= 0 else "before the first epoch"


def remove_leftovers(run: Run) -> list[Path]:
    """Removes what a process that was killed while it wrote has left; returns what that was."""
    left = sorted([*run.checkpoints.glob(".*.tmp"), *run.checkpoints.glob("new.pt")])
    for path in left:
        path.unlink()
    return left
