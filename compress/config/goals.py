"""The list `goals` of a schedule -> `Goal` objects; a file of goals alone.

`read_goals`, `load_goals`, `goals_of`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

from compress.arguments.places import Path
from compress.config.errors.faults import Report
from compress.config.loader import load_text
from compress.config.schema import check_arguments
from compress.errors import ScheduleError, UserError, did_you_mean, nearest, shown
from compress.goals.device import problem_with_device
from compress.goals.goal import MEASURED, Goal
from compress.goals.runtimes import problem_with
from compress.io.files import read_text

FORM = "a goal is a mapping, `{metric: NAME, at_most: X}`"
USUAL = ("psnr", "ssim", "top1", "top5", "loss")  # qualities whose misspelling is found where no application is known


def read_goals(given: Any, report: Report, metrics: Collection[str] | None = None) -> list[Goal]:
    """The goals of a list; faults are in the report.

    Args:
        given: the value of `goals`; None: there is none.
        report: takes the faults.
        metrics: the qualities that the application measures; None: unknown, so that any name may be one.
    """
    found: list[tuple[Path, Goal]] = []
    for i, entry in enumerate(given or []):
        path: Path = ("goals", i)
        if not isinstance(entry, Mapping):
            report.add(f"given {shown(entry)}; {FORM}", path)
        elif (arguments := check_arguments(Goal, entry, path, report)) is not None:
            goal = Goal(**arguments)
            problems = [*goal.problems(), *_names(goal, metrics)]
            for name, problem in problems:
                report.add(problem, (*path, name))
            found += [] if problems else [(path, goal)]
    _check_together(found, report)
    return [goal for _, goal in found]


def goals_of(resolved: Mapping[str, Any]) -> list[Goal]:
    """Those of a schedule that was checked, such as a checkpoint's."""
    return [Goal(**entry) for entry in resolved.get("goals") or []]


def load_goals(
    path: FilePath | str,
    metrics: Collection[str] | None = None,
    check_rest: Callable[[Mapping[str, Any], Report], None] | None = None,
) -> tuple[list[Goal], dict[str, Any]]:
    """A file that holds `goals`, and the rest of its content.

    Args:
        path: of the file.
        metrics: see `read_goals`.
        check_rest: adds to the report what is wrong with the rest; it is given all of the content.

    Raises:
        UserError: it cannot be read.
        ScheduleError: every fault, in one report.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"the goals {str(path)!r} cannot be read: {e}") from e
    report = Report(document := load_text(text, str(path)))
    data = document.data if isinstance(document.data, Mapping) else {}
    goals: list[Goal] = []
    if isinstance(data.get("goals"), list) and data["goals"]:
        goals = read_goals(data["goals"], report, metrics)
    else:
        report.add(f"it holds no list `goals:`; {FORM}", ())
    if check_rest is not None:
        check_rest(data, report)
    if report.fatal:
        raise ScheduleError(report.in_order(), "the file of goals")
    return goals, {str(name): value for name, value in data.items() if name != "goals"}


def _names(goal: Goal, metrics: Collection[str] | None) -> Iterable[tuple[str, str]]:
    """Faults of the metric's and the runtime's name."""
    known = [*MEASURED, *(USUAL if metrics is None else metrics)]
    unsure = metrics is None and not nearest(goal.metric, known, 1, alike=0.75)  # may be a quality of some application
    if goal.metric not in known and not unsure:
        yield "metric", f"unknown metric {shown(goal.metric)}; {did_you_mean(goal.metric, known)}"
    elif goal.runtime is not None and goal.device is None and (problem := problem_with(goal.runtime)):
        yield "runtime", problem
    elif goal.device is not None and (problem := problem_with_device(goal.device, goal.runtime)):
        yield "device", problem


def _check_together(found: list[tuple[Path, Goal]], report: Report) -> None:
    """Reports goals that are about the same bound, or that no network can meet together."""
    first: dict[Any, Goal] = {}
    for path, goal in found:
        key = goal.metric, goal.runtime, goal.device, goal.kind
        if key in first:
            report.add(f"{goal} stands beside {first[key]}; keep the stricter one", path)
        first.setdefault(key, goal)
    for path, goal in found:
        above = first.get((goal.metric, goal.runtime, goal.device, "at_most"))
        if goal.kind == "at_least" and above is not None and above.bound < goal.bound:
            report.add(f"{goal} contradicts {above}: no network meets both", path)
