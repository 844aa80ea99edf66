"""Runs and their folders: logs/<run>/, results/<run>/, checkpoints/<run>/.

Names, paths, the newest run. Imports no torch.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from compress.errors import UserError, did_you_mean, shown
from compress.io.files import read_text

LONGEST_NAME = 100  # characters
GROUP_FILE = "group.json"  # in logs/, of a group of seeds, which is no run
_TAKEN = "--run={0}: there is a run of that name; --resume={0} continues with it; nothing was started"


@dataclass(frozen=True)
class Run:
    """A run's name and folders, below the present folder.

    Attributes:
        name: one folder name, the same in all three places.
    """

    name: str

    @property
    def logs(self) -> Path:
        """Text log, CSV, TensorBoard events, resolved schedule and options."""
        return Path("logs") / self.name

    @property
    def results(self) -> Path:
        """Summaries, tables and images."""
        return Path("results") / self.name

    @property
    def checkpoints(self) -> Path:
        """`last.pt` and those before it, `best.pt`."""
        return Path("checkpoints") / self.name

    @property
    def last(self) -> Path:
        """The newest checkpoint, from which `--resume` continues."""
        return self.kept(0)

    def kept(self, number: int) -> Path:
        """The checkpoint `number` saves before the newest: `last.pt`, `last.1.pt`, ..."""
        return self.checkpoints / (f"last.{number}.pt" if number else "last.pt")

    def kept_files(self) -> list[Path]:
        """Those that there are, the newest first."""
        numbered = [path for path in self.checkpoints.glob("last.*.pt") if path.name.split(".")[1].isdecimal()]
        before = sorted(numbered, key=lambda path: int(path.name.split(".")[1]))
        return [path for path in (self.last, *before) if path.is_file()]

    @property
    def teachers(self) -> Path:
        """The teachers of a run that distils, written once."""
        return self.checkpoints / "teachers.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.checkpoints / "best.pt"


def new_run(name: str | None, stem: str) -> Run:
    """Claims a new run's folders.

    Args:
        name: the user's `--run`, or None for `<stem>-<date>-<time>`.
        stem: such as `SR-agp_prune`.

    Raises:
        UserError: the name is no plain folder name, or taken.
    """
    if name is not None:
        check_new_name(name)
        if not _claim(Run(name)):
            raise UserError(_TAKEN.format(name))
        return Run(name)
    base = dated_name(stem)
    candidates = (Run(base if i == 0 else f"{base}-{i}") for i in range(1000))
    return next(run for run in candidates if _claim(run))  # two that start in the same second get two folders


def dated_name(stem: str) -> str:
    """`<stem>-<date>-<time>`, what is not fit for a folder's name replaced."""
    plain = "".join(character if is_plain_name(character) else "_" for character in stem[:LONGEST_NAME])
    return f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_new_name(name: str) -> None:
    """Whether a new run may have this name.

    Raises:
        UserError: it is no plain folder name, or taken.
    """
    if not is_plain_name(name):
        raise UserError(
            f"--run={shown(name)}: a run's name is one folder name of at most {LONGEST_NAME} printable characters, "
            "without '/'; nothing was started"
        )
    if Run(name).logs.exists():
        raise UserError(_TAKEN.format(name))


def is_plain_name(name: object) -> bool:
    """Whether a name can be one folder below another: printable, without '/', not '.' or '..'."""
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\")
    return plain and name not in ("", ".", "..") and len(name) <= LONGEST_NAME  # type: ignore[arg-type]


def _claim(run: Run) -> bool:
    try:
        run.logs.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def newest_runs() -> list[Run]:
    """The runs that have finished an epoch, the newest first.

    Raises:
        UserError: there is none.
    """
    runs = [run for run in started_runs() if run.best.is_file()]
    if not runs:
        raise UserError("there is no run in checkpoints/ yet; train one first: python train.py --optform=SR")
    return runs


def started_runs() -> list[Run]:
    """The runs that `--resume` can resume, the newest first."""
    runs = [Run(folder.name) for folder in Path("checkpoints").glob("*")]
    ages = {run: max(path.stat().st_mtime for path in run.kept_files()) for run in runs if run.kept_files()}
    return sorted(ages, key=lambda run: ages[run], reverse=True)


def run_to_resume(name: str) -> Run:
    """The run of that name, if there is a checkpoint to continue from.

    Raises:
        UserError: there is none.
    """
    runs = started_runs()
    if Run(name) in runs:
        return Run(name)
    if Run(name).logs.is_dir():
        raise UserError(
            f"the run {name!r} ended before it had saved anything, so there is nothing to continue from; start it "
            f"again under another name, or under this one after removing {Run(name).logs}"
        )
    raise _no_run(name, runs)


def check_owner(owner: object, path: Path) -> None:
    """Compares the run that a file says it is of with the run in whose folder it stands, if it stands in one.

    Args:
        owner: what the file says.
        path: of the file; outside of checkpoints/ and results/ it may be of any run.

    Raises:
        UserError: another run's file was put there, or the folder was renamed.
    """
    name = _run_around(path)
    if name is not None and owner != name:
        raise UserError(
            f"{path} is of the run {shown(owner)}, and stands in the folder of {name!r}: it was not used. If it was "
            f"copied there, put {name}'s own file back. If the whole run was renamed or copied, `python -m "
            f"apputils.runs.adopt {name}` makes its checkpoints {name}'s; `python test.py --run={name}` writes "
            "exported files anew"
        )


def _run_around(path: Path) -> str | None:
    """The name of the run in whose folder a file stands, as its path is written, else behind links; None if in none."""
    for find in (os.path.abspath, os.path.realpath):
        for top in ("checkpoints", "results"):
            inner = Path(find(path)).parent
            if inner.is_relative_to(find(top)) and inner != Path(find(top)):
                return inner.relative_to(find(top)).parts[0]
    return None


def recorded_optform(run: str | None, model: str | None) -> str | None:
    """The application of the run that is meant, as its logs have it; None if they do not say. Quick: no torch.

    Args:
        run: its name, or None for the newest.
        model: a checkpoint's path, which stands in the run's folder.
    """
    try:
        name = Path(model).parent.name if model else run or newest_runs()[0].name
        group = Run(name).logs / GROUP_FILE  # JSON is YAML
        options = yaml.safe_load(read_text(group if group.is_file() else Run(name).logs / "options.yaml"))
        return options["optform"] if isinstance(options["optform"], str) else None
    except (UserError, OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError):
        return None


def find_run(name: str | None) -> Run:
    """An existing run: the one named, or the newest.

    Raises:
        UserError: there is no such run, or none at all.
    """
    runs = newest_runs()
    if name is None:
        return runs[0]
    for run in runs:
        if run.name == name:
            return run
    raise _no_run(name, runs)


def _no_run(name: str, runs: list[Run]) -> UserError:
    if is_plain_name(name) and (Run(name).logs / GROUP_FILE).is_file():
        members = ", ".join(sorted(run.name for run in runs if run.name.startswith(f"{name}-s")))
        return UserError(f"{name!r} is a group of seeds; name one of its runs here: {members or 'there is none yet'}")
    return UserError(f"there is no run {name!r} with a checkpoint; {did_you_mean(name, [run.name for run in runs])}")
