"""A schedule -> a `CompressionScheduler`, or one report of every fault.

`file_config`, `dict_config`, and the order of the steps.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path as FilePath
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compress.arguments.checked import checks_arguments
from compress.config.checks import across_policies as checks
from compress.config.checks.after_training import check_quantize_after
from compress.config.checks.coupled_weights import check_coupling
from compress.config.checks.distillers import check_outputs
from compress.config.errors.faults import Report
from compress.config.families import Instance
from compress.config.goals import read_goals
from compress.config.instances import Instances
from compress.config.loader import Document, load_text
from compress.config.policies import Entries
from compress.config.sections import QUANTIZE_AFTER, check_sections
from compress.distillation.teachers import Source, Teachers
from compress.errors import ScheduleError, UserError, did_you_mean
from compress.graph.trace import ExampleInputs
from compress.io.files import read_text
from compress.policies.distillation import add_adaptors
from compress.scheduler import CompressionScheduler
from compress.thinning.current import CurrentGraph

logger = logging.getLogger("compress")


@checks_arguments
def file_config(
    model: nn.Module,
    optimizer: Optimizer,
    filename: str | FilePath,
    example_inputs: ExampleInputs | None = None,
    epochs: int | None = None,
    *,
    strict: bool = False,
    seed: int = 0,
    teachers: Source | None = None,
    optimizers: Mapping[str, Optimizer] | None = None,
    metrics: Collection[str] | None = None,
) -> CompressionScheduler:
    """Builds the scheduler of a YAML schedule.

    Args:
        model: the network; selectors are resolved against its parameters.
        optimizer: of the training loop.
        filename: the schedule.
        example_inputs: what graph-based parts trace with: a tensor, a tuple of arguments, or a list of calls (see
            `compress/graph/calls.py`); without them they take the first batch that they see.
        epochs: the run's length, for the checks that need it.
        strict: warnings are errors.
        seed: of the scheduler's random generator.
        teachers: finds the network that a distiller's `teacher: NAME` means: a mapping of networks, or of functions
            that make them, or one function of the name. `self` is always known.
        optimizers: those of the loop by name, where it has several: what `optimizer: NAME` of a learning-rate policy
            may be.
        metrics: the qualities that the loop measures, for the names in `goals`; None takes any name.

    Raises:
        UserError: the file cannot be read.
        ScheduleError: every fault of the schedule, in one report.
    """
    try:
        text = read_text(filename)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"the schedule {str(filename)!r} cannot be read: {_why(e, FilePath(filename))}") from e
    settings: dict[str, Any] = {"strict": strict, "seed": seed, "teachers": teachers, "optimizers": optimizers}
    settings["metrics"] = metrics
    return build_text(text, str(filename), model, optimizer, example_inputs, epochs, **settings)


def build_text(
    text: str,
    name: str,
    model: nn.Module,
    optimizer: Optimizer,
    example_inputs: ExampleInputs | None = None,
    epochs: int | None = None,
    *,
    strict: bool = False,
    seed: int = 0,
    teachers: Source | None = None,
    optimizers: Mapping[str, Optimizer] | None = None,
    metrics: Collection[str] | None = None,
) -> CompressionScheduler:
    """Builds the scheduler of a YAML schedule that is text already; `name` stands for it in reports."""
    context = {"model": model, "optimizer": optimizer, "example_inputs": example_inputs, "teachers": Teachers(teachers)}
    return _build(load_text(text, name), context, epochs, strict, seed, optimizers, metrics)


@checks_arguments
def dict_config(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Mapping[str, Any],
    example_inputs: ExampleInputs | None = None,
    epochs: int | None = None,
    *,
    strict: bool = False,
    seed: int = 0,
    teachers: Source | None = None,
    optimizers: Mapping[str, Optimizer] | None = None,
    metrics: Collection[str] | None = None,
) -> CompressionScheduler:
    """Builds the scheduler of a schedule given as plain data, which is left as it was; see `file_config`."""
    context = {"model": model, "optimizer": optimizer, "example_inputs": example_inputs, "teachers": Teachers(teachers)}
    return _build(Document(schedule, "schedule"), context, epochs, strict, seed, optimizers, metrics)


def _build(
    document: Document,
    context: dict[str, Any],
    epochs: int | None,
    strict: bool,
    seed: int,
    optimizers: Mapping[str, Optimizer] | None,
    metrics: Collection[str] | None,
) -> CompressionScheduler:
    """Builds from a document; `context` is what constructors may be given beside the schedule's arguments."""
    report, model, optimizer = Report(document), context["model"], context["optimizer"]
    if not isinstance(optimizer, Optimizer):
        raise UserError(
            f"given {type(optimizer).__name__} for optimizer; give the torch.optim.Optimizer of the training loop, "
            "which learning rates, masks and thinning act on; nothing was started"
        )
    if epochs is not None and epochs < 1:
        raise UserError(f"given {epochs}; epochs should be the number of epochs of the run, >= 1; nothing was started")
    data = check_sections(document.data, report)
    instances = Instances(context, report)
    found = instances.build(data)
    reader = Entries(data, found, instances.misplaced, optimizer, report, optimizers or {})
    entries = reader.policies()
    given = data.get("policies")
    all_there = isinstance(given, list) and len(given) == len(entries)
    checks.check_policies(entries, epochs, report, all_there)
    checks.check_unused(data, {*reader.named, str(data.get(QUANTIZE_AFTER))}, report)
    check_quantize_after(data, found["quantizers"], entries, report)
    read_goals(data.get("goals"), report, metrics)
    graph = CurrentGraph(model, context["example_inputs"])
    for seen in dict.fromkeys(policy.sees for _, policy in entries):
        known = graph if seen is None else CurrentGraph(seen, context["example_inputs"])
        check_coupling([entry for entry in entries if entry[1].sees is seen], known, report)
    check_outputs(entries, graph, report)
    if report.fatal or (strict and report.faults):
        raise ScheduleError(report.in_order())
    if data.get(QUANTIZE_AFTER) and metrics is None:  # the bench's own loop names its metrics
        logger.warning(
            "%s: train.py does so; a training loop of your own must itself quantize the network when training ends, by "
            "PostTrainLinearQuantizer(...).quantize(model, batches)", QUANTIZE_AFTER,
        )  # fmt: skip
    for fault in report.in_order():
        logger.warning("%s", fault.unlabelled)
    policies = [policy for _, policy in sorted(entries, key=lambda entry: checks.is_lr(entry[1]))]
    resolved = _resolve(data, found)
    add_adaptors(policies, optimizer)
    parts = {"optimizer": optimizer, "graph": graph, "teachers": context["teachers"]}
    return CompressionScheduler(model, policies, seed=seed, resolved=resolved, **parts)


def _why(error: OSError | UnicodeDecodeError, path: FilePath) -> str:
    """Why a file cannot be read, without its name, and the files that may have been meant."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text in UTF-8 (byte {error.start})"
    if isinstance(error, FileNotFoundError):
        there = sorted(each.name for each in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        return f"there is no such file; {did_you_mean(path.name, there)}" if there else "there is no such file"
    return error.strerror or str(error)


def _resolve(data: dict[str, Any], instances: dict[str, dict[str, Instance]]) -> dict[str, Any]:
    """The schedule as plain data with defaults filled in and selectors expanded."""
    resolved = dict(data)
    for section, members in instances.items():
        if members:
            resolved[section] = {
                name: {"class": instance.cls.__name__, **instance.arguments} for name, instance in members.items()
            }
    return resolved
