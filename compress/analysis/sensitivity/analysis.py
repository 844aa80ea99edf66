"""The sensitivity analysis from the model to the files.

The order of things. Called by `apputils.platform_summaries` and the tester.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from torch import nn

from compress.analysis.measured_words import measured_words
from compress.analysis.sensitivity.changes import (
    SenseType,
    Subject,
    as_levels,
    chosen_weights,
    find_subjects,
    values_together,
)
from compress.analysis.sensitivity.evaluation import Evaluation, TestFunction, as_metrics, directions
from compress.analysis.sensitivity.group_pruner import GROUPS, graph_of
from compress.analysis.sensitivity.meter import Meter, PlainMeter, in_place, same_state
from compress.analysis.sensitivity.plots import draw
from compress.analysis.sensitivity.record import Record, open_record, take_parts
from compress.analysis.sensitivity.replay import choose_meter
from compress.analysis.sensitivity.schedule import Header, write_schedule
from compress.analysis.sensitivity.suggestion import Tolerated, chosen, goal_of, suggest
from compress.analysis.sensitivity.workbook import suggestion_note, write_workbook
from compress.analysis.sensitivity.workers import Task, levels_of, measure_all
from compress.arguments.checked import CheckedArguments, checks_arguments
from compress.errors import UserError
from compress.graph.channels import ChannelGraph
from compress.io.optional import require
from compress.io.progress import Bar
from compress.thinning.current import CurrentGraph

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("run")


@dataclass(frozen=True)
class Settings(CheckedArguments):
    """How an analysis is done; none of it changes a number, `weights` and `stop_at_loss` leave some out.

    Attributes:
        weights: names or globs of the weights; None: those of all convolutions and linear layers.
        jobs: processes; each gets its share of the threads.
        tolerance: the loss that the suggestion allows each weight, in units of `metric`, >= 0; None: 0.05 dB, 0.5
            points of accuracy, of other metrics 1 % of the dense network's value.
        metric: the metric that the suggestion goes by; None: the first.
        higher_is_better: for each metric whether more of it is better; those left out are recognized by their names
            (`loss`, `error`, ... : lower).
        stop_at_loss: once a weight's loss of `metric` is above this, its further levels are left out; None: none is.
        cache_bytes: most memory for values computed once and used again, >= 0.
        resume: continue with a half-written analysis beside the workbook.
        parts: records (`.json`) of analyses of some of the weights, done elsewhere; what is in them is not done again.
        schedule_file: where the suggestion is written as a schedule; None: nowhere.
        data: which data `test_func` measures on, `test` or `validation`, for the same header; None: unknown.
        measured_on: those data, their part and the number of images (`data.measured.facts_of`); None: unknown.
        command: what trains this network, for that schedule's header, which adds `--compress`; '': a loop of one's own.
    """

    weights: Sequence[str] | None = None
    jobs: Annotated[int, Field(ge=1)] = 1
    tolerance: Annotated[float, Field(ge=0.0)] | None = None
    metric: str | None = None
    higher_is_better: Mapping[str, bool] | None = None
    stop_at_loss: float | None = None
    cache_bytes: Annotated[int, Field(ge=0, le=2**60)] = 2**30
    resume: bool = True
    parts: Sequence[Path] = ()
    schedule_file: Path | None = None
    data: Literal["test", "validation"] | None = None
    measured_on: Mapping[str, Any] | None = None
    command: str = ""


@checks_arguments
def sensitivity_analysis(
    model: nn.Module,
    sensitivity_file: str | Path,
    test_func: TestFunction,
    sense_type: SenseType = "element",
    levels: Sequence[float] | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Changes one weight at a time to each level, measures, restores it; writes a workbook and an image.

    By filter and by channel it prunes what a schedule's structured pruner would: whole coupled groups, biases and
    BatchNorm included, the weights that meet in one group together, as one curve under the first one's name.

    Args:
        model: the network; its weights are changed in place and are bit for bit as before afterwards.
        sensitivity_file: the workbook, `.xlsx`; the image (`.png`) and the record (`.json`) stand beside it.
        test_func: network -> a number, or named metrics. An `Evaluation` (evaluation.py), which is also such a
            function, is measured several times faster.
        sense_type: `element`, `filter` or `channel` prune by magnitude or L1 norm; `bits` quantizes.
        levels: fractions of zeros, [0, 1); numbers of bits, 2 to 16, for `bits`. Default: 0 to 0.95 by 0.05; 8, 6, 4,
            3, 2. The dense network is always measured.
        settings: the rest.

    Returns:
        one row a weight and level: `weight`, `level`, `zeros` (fraction of zeros in the weight, or in the weights that
        share its group), a column a metric, and by filter and channel `members`, all weights of the group; the dense
        network is level 0 (32 bits). `attrs["pinned"]` names the weights of which nothing can leave the network.

    Raises:
        UserError: something the user can mend; what was measured is kept, and the next call continues with it.
    """
    require("sensitivity_analysis", "pandas", "openpyxl", "matplotlib", "tqdm")
    settings, path = settings or Settings(), _checked(Path(sensitivity_file))
    harm = as_levels(sense_type, levels)
    subjects, meter, dense, graph = _prepare(model, test_func, sense_type, settings)
    goal = _goal(dense, test_func, settings)
    record = open_record(
        path.with_suffix(".json"), model, sense_type, subjects, dense, settings.resume, settings.measured_on
    )
    take_parts(record, settings.parts)
    names = [each.name for each in subjects]
    weights = [name for each in subjects for name in each.weights]
    task = Task(
        sense_type, harm, names, {name: record.done(name) for name in names}, dense, goal,
        settings.stop_at_loss, settings.cache_bytes, weights, graph,
    )  # fmt: skip
    logger.info("sensitivity by %s: %d curves x %d levels", sense_type, len(subjects), len(harm))
    started = time.perf_counter()
    _gather(record, measure_all(model, test_func, meter, subjects, task, settings.jobs), task)
    table = record.table(names, harm)
    pinned = {name for each in subjects for name in each.weights if each.pruner and each.pruner.pinned(name)}
    table.attrs["pinned"] = [each.name for each in subjects if pinned.issuperset(each.weights)]
    suggestion = suggest(table, goal, sense_type)
    together = _together(model, test_func, subjects, chosen(suggestion, sense_type))
    measured = "" if settings.measured_on is None else f"measured on {measured_words(settings.measured_on)}"
    write_workbook(path, table, suggestion, goal, together, sense_type, measured)
    draw(path.with_suffix(".png"), table, goal, sense_type, measured)
    record.finish({"suggestion": suggestion.to_dict("records"), "goal": vars(goal), "together": together})
    logger.info("sensitivity: %.1f s, written: %s, .png, .json", time.perf_counter() - started, path)
    if settings.schedule_file is not None:
        header = Header(
            settings.command, settings.data, "; ".join(filter(None, (suggestion_note(goal, together), measured)))
        )
        members = {each.name: each.weights for each in subjects}
        write_schedule(settings.schedule_file, suggestion, goal, sense_type, header, members, pinned)
    return table


def measure_shares(
    model: nn.Module,
    record_file: Path,
    test_func: TestFunction,
    sense_type: SenseType,
    take: Callable[[Sequence[str]], Iterable[str]],
    levels: Sequence[float] | None = None,
    settings: Settings | None = None,
) -> None:
    """One worker's part of an analysis, into a record that `Settings.parts` of the whole one names.

    Args:
        model: as of `sensitivity_analysis`, like the others.
        record_file: the worker's own, `.json`.
        test_func: see there.
        sense_type: see there.
        take: all curves' names -> those that this worker shall measure, one after another; what a name's levels gave is
            in the record before the next one is asked for.
        levels: see there.
        settings: `jobs`, `parts` and what is about the workbook do not count.
    """
    settings = settings or Settings()
    harm = as_levels(sense_type, levels)
    subjects, meter, dense, graph = _prepare(model, test_func, sense_type, settings)
    goal = _goal(dense, test_func, settings)
    record = open_record(record_file, model, sense_type, subjects, dense, settings.resume, settings.measured_on)
    by_name = {each.name: each for each in subjects}
    weights = [name for each in subjects for name in each.weights]
    for name in take(list(by_name)):
        done = {name: record.done(name)}
        task = Task(sense_type, harm, [name], done, dense, goal, settings.stop_at_loss, settings.cache_bytes, weights,
                    graph)  # fmt: skip
        logger.info("sensitivity by %s: measuring %s", sense_type, name)
        for row in levels_of(meter, by_name[name], task):
            record.add(name, row)
        record.write()


def _prepare(
    model: nn.Module, test_func: TestFunction, sense_type: SenseType, settings: Settings
) -> tuple[list[Subject], Meter, dict[str, float], ChannelGraph | None]:
    """What is changed, what measures it, the dense metrics, and the graph by which filters go together.

    The graph is traced from the evaluation's first batch, or from what the network is called with by a plain function.
    """
    grouped = sense_type in GROUPS
    if isinstance(test_func, Evaluation) or not grouped:
        inputs = next(iter(test_func.inputs), None) if isinstance(test_func, Evaluation) else None
        with same_state(model):  # a trace runs what writes weights and buffers
            graph = graph_of(model, inputs) if grouped else None
        subjects = find_subjects(model, sense_type, settings.weights, graph)
        with same_state(model):
            meter = choose_meter(model, test_func, subjects, settings.cache_bytes)
        return subjects, meter, meter.dense(), graph
    chosen_weights(model, settings.weights)  # a wrong name is found before anything is measured
    plain, current = PlainMeter(model, test_func), CurrentGraph(model)
    current.watch()
    try:
        dense = plain.dense()
    finally:
        current.unwatch()
    with same_state(model):
        graph = graph_of(model, current.inputs)
    return find_subjects(model, sense_type, settings.weights, graph), plain, dense, graph


def _checked(path: Path) -> Path:
    if path.suffix != ".xlsx":
        raise UserError(f"{path}: the workbook's name must end in .xlsx; nothing was measured")
    return path


def _goal(dense: dict[str, float], test_func: Any, settings: Settings) -> Tolerated:
    offered = test_func.higher_is_better if isinstance(test_func, Evaluation) else {}
    told = directions(dense, {**offered, **(settings.higher_is_better or {})})
    return goal_of(dense, told, settings.metric, settings.tolerance)


def _gather(record: Record, measured: Any, task: Task) -> None:
    """Remembers each row at once, so that an interruption loses none."""
    left = sum(level not in task.done[name] for name in task.names for level in task.levels)
    bar = Bar(measured, left, "sensitivity", "level")
    with contextlib.closing(measured):  # its processes end before this one goes on, or ends
        try:
            for name, row in bar:
                record.add(name, row)
                bar.note(functools.partial(str, name))
        finally:
            record.write()


def _together(
    model: nn.Module, test_func: TestFunction, subjects: Sequence[Subject], levels: Mapping[str, float]
) -> dict[str, float]:
    """The metrics with every suggested level at once: losses add up, which no single weight shows."""
    parameters = {name: own for each in subjects for name, own in each.parameters.items()}
    with in_place(parameters, values_together(subjects, levels)), same_state(model):
        return as_metrics(test_func(model))
