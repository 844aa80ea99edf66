"""A run whose folder was renamed or copied takes its checkpoints over: python -m apputils.runs.adopt RUN

The command. Files that are not all of one run are refused: there a single one was copied, and which one is right
nobody can tell.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from apputils.runs.folders import Run, is_plain_name
from apputils.runs.lock import hold
from compress.errors import UserError, shown
from compress.io.terminal import answer, guard_screen


def adopt(name: str) -> str:
    """Writes the folder's name into its checkpoints; returns what was done, for people.

    Raises:
        UserError: there are none, one cannot be read, or they are of several runs.
    """
    run = Run(name)
    if not is_plain_name(name) or not (paths := sorted(run.checkpoints.glob("*.pt"))):
        raise UserError(f"there are no checkpoints in {run.checkpoints}; nothing was changed")
    with hold(run):
        found = {path: load_checkpoint(path) for path in paths}
        owners = {path: content["run"] for path, content in found.items() if "run" in content}
        if len(set(map(str, owners.values()))) > 1:
            listed = "; ".join(f"{path.name} of {shown(owner)}" for path, owner in owners.items())
            raise UserError(
                f"the checkpoints in {run.checkpoints} are of several runs: {listed}. One was copied there: put the "
                "run's own file back, or remove it. Nothing was changed"
            )
        if set(owners.values()) == {name}:
            return f"{run.checkpoints}: its checkpoints are those of {name} already; nothing was changed"
        for path, content in found.items():
            _write(path, content, name)
    return f"{len(found)} checkpoints in {run.checkpoints} are of the run {name} now; --resume={name} continues with it"


def _write(path: Path, content: dict[str, Any], name: str) -> None:
    options = content.get("options")
    if isinstance(options, dict) and options.get("run") is not None:
        content = {**content, "options": {**options, "run": name}}
    save_checkpoint(path, {**content, "run": name})


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 after a fault of the user's."""
    guard_screen()
    parser = argparse.ArgumentParser(prog="python -m apputils.runs.adopt", description="A renamed run's checkpoints.")
    parser.add_argument("run", metavar="RUN", help="the folder in checkpoints/, as it is called now")
    given = parser.parse_args(arguments)
    return answer(lambda: adopt(given.run))


if __name__ == "__main__":
    sys.exit(main())
