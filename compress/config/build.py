"""A schedule -> a `CompressionScheduler`, or one report of every fault.

Here: `file_config`, `dict_config`, instances and policies. Not here: YAML (loader.py), argument checks (schema.py),
checks across policies (checks.py).
"""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compress.config import checks
from compress.config.coupling import check_coupling
from compress.config.families import FAMILIES, Family, Instance
from compress.config.loader import Document, Path, load_text
from compress.config.schema import Report, check_arguments, expand_selectors
from compress.errors import ScheduleError, UserError, did_you_mean, shown
from compress.lr.torch_schedulers import REFUSED
from compress.policies.base import Policy
from compress.scheduler import CompressionScheduler
from compress.selectors import canonical, canonical_parameters
from compress.thinning.current import CurrentGraph
from compress.window import EpochWindow

logger = logging.getLogger("compress")

TOP_LEVEL = ("version", *(family.section for family in FAMILIES), "policies", "fine_tuning_epochs")
WINDOW_KEYS = ("starting_epoch", "ending_epoch", "frequency", "epochs")
ExampleInputs = torch.Tensor | tuple[Any, ...]


def file_config(
    model: nn.Module,
    optimizer: Optimizer,
    filename: str | FilePath,
    example_inputs: ExampleInputs | None = None,
    epochs: int | None = None,
    *,
    strict: bool = False,
    seed: int = 0,
) -> CompressionScheduler:
    """Builds the scheduler of a YAML schedule.

    Args:
        model: the network; selectors are resolved against its parameters.
        optimizer: of the training loop.
        filename: the schedule.
        example_inputs: what graph-based parts trace with; without them they take the first batch that they see.
        epochs: the run's length, for the checks that need it.
        strict: warnings are errors.
        seed: of the scheduler's random generator.

    Raises:
        UserError: the file cannot be read.
        ScheduleError: every fault of the schedule, in one report.
    """
    try:
        text = FilePath(filename).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"the schedule {str(filename)!r} cannot be read: {e}") from e
    return build_text(text, str(filename), model, optimizer, example_inputs, epochs, strict=strict, seed=seed)


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
) -> CompressionScheduler:
    """Builds the scheduler of a YAML schedule that is text already; `name` stands for it in reports."""
    context = {"model": model, "optimizer": optimizer, "example_inputs": example_inputs}
    return _build(load_text(text, name), context, epochs, strict, seed)


def dict_config(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Mapping[str, Any],
    example_inputs: ExampleInputs | None = None,
    epochs: int | None = None,
    *,
    strict: bool = False,
    seed: int = 0,
) -> CompressionScheduler:
    """Builds the scheduler of a schedule given as plain data, which is left as it was; see `file_config`."""
    context = {"model": model, "optimizer": optimizer, "example_inputs": example_inputs}
    return _build(Document(schedule, "schedule"), context, epochs, strict, seed)


def _build(
    document: Document, context: dict[str, Any], epochs: int | None, strict: bool, seed: int
) -> CompressionScheduler:
    """Builds from a document; `context` is what constructors may be given beside the schedule's arguments."""
    report, model, optimizer = Report(document), context["model"], context["optimizer"]
    data = _check_top_level(document.data, report)
    instances = _build_instances(data, context, report)
    entries = _build_policies(data, instances, optimizer, report)
    checks.check_policies(entries, epochs, report)
    checks.check_unused(data, report)
    graph = CurrentGraph(model, context["example_inputs"])
    check_coupling(entries, graph, report)
    if report.fatal or (strict and report.faults):
        raise ScheduleError(report.in_order())
    for fault in report.in_order():
        logger.warning("%s", fault)
    policies = [policy for _, policy in sorted(entries, key=lambda entry: checks.is_lr(entry[1]))]
    resolved = _resolve(data, instances)
    return CompressionScheduler(model, policies, optimizer=optimizer, seed=seed, resolved=resolved, graph=graph)


def _check_top_level(data: Any, report: Report) -> dict[str, Any]:
    """The known sections of the document, each of the right form; the rest is reported."""
    if not isinstance(data, Mapping):
        found = "is empty" if data is None else f"holds {type(data).__name__} {shown(data)}"
        report.add(f"the schedule {found}; it should hold sections such as 'pruners' and 'policies'", ())
        return {}
    sections: dict[str, Any] = {}
    for key, value in data.items():
        form: type = list if key == "policies" else Mapping
        if key not in TOP_LEVEL:
            report.add(f"unknown section {shown(key)}; {did_you_mean(str(key), TOP_LEVEL)}", (str(key),))
        elif key == "version":
            if value != 1:
                report.add(f"given {shown(value)}; this bench reads version 1", (key,))
            sections[key] = value
        elif key == "fine_tuning_epochs":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                report.add(f"given {shown(value)}; it should be a whole number of epochs, 0 or more", (key,))
            sections[key] = value
        elif not isinstance(value, form):
            wanted = "a list of policies" if key == "policies" else "instances, `NAME: {class: CLASS, ...}`"
            report.add(f"given {shown(value)}, but section {shown(key)} holds {wanted}", (key,))
        else:
            sections[key] = value
    if "policies" not in data:
        report.add("there is no section 'policies', so nothing of this schedule would ever act", ())
    return sections


def _build_instances(data: dict[str, Any], context: dict[str, Any], report: Report) -> dict[str, dict[str, Instance]]:
    model = context["model"]
    names = {
        "weight": list(canonical_parameters(model)),
        "module": [canonical(name) for name, _ in model.named_modules() if name],
    }
    found: dict[str, dict[str, Instance]] = {}
    for family in FAMILIES:
        section = found.setdefault(family.section, {})
        for name, given in data.get(family.section, {}).items():
            instance = _build_instance(family, str(name), given, names, report, context)
            if instance is not None:
                section[str(name)] = instance
    return found


def _build_instance(
    family: Family,
    name: str,
    given: Any,
    names: dict[str, list[str]],
    report: Report,
    context: dict[str, Any],
) -> Instance | None:
    path: Path = (family.section, name)
    if not isinstance(given, Mapping) or "class" not in given:
        report.add(f"given {shown(given)}; an instance is written `{name}: {{class: CLASS, ...arguments}}`", path)
        return None
    class_name = given["class"]
    if not isinstance(class_name, str):
        report.add(f"given {shown(class_name)}; a class is named by text", (*path, "class"))
        return None
    if class_name in REFUSED and family.section == "lr_schedulers":
        report.add(f"{class_name} is refused: {REFUSED[class_name]}", (*path, "class"))
        return None
    if class_name not in family.registry:
        known = did_you_mean(str(class_name), family.registry)
        report.add(f"unknown class {shown(class_name)} in {family.section}; {known}", (*path, "class"))
        return None
    cls = family.registry.get(class_name)
    written = {key: value for key, value in given.items() if key != "class"}
    arguments = check_arguments(cls, written, path, report)
    if arguments is None:
        return None
    before = len(report.faults)
    arguments = expand_selectors(arguments, cls, names, path, report)
    if len(report.faults) > before:
        return None
    return _construct(family, Instance(name, cls, arguments, None), path, report, context)


def _construct(
    family: Family, instance: Instance, path: Path, report: Report, context: dict[str, Any]
) -> Instance | None:
    """Makes the algorithm; one that each policy makes for itself is tried out on a shadow of the optimizer."""
    try:
        if family.shared:
            wanted = inspect.signature(instance.cls).parameters
            given = {key: value for key, value in context.items() if key in wanted}
            algorithm = instance.cls(**instance.arguments, **given)
            faults = algorithm.faults(context["model"]) if hasattr(algorithm, "faults") else []
            for fault in faults:
                report.add(fault, path)
            return Instance(instance.name, instance.cls, instance.arguments, algorithm)
        checks.try_lr_scheduler(instance, EpochWindow.of_list([0]), context["optimizer"])
    except checks.CONSTRUCTOR_FAULTS as e:
        report.add(checks.in_words(e), path)
        return None
    return instance


def _build_policies(
    data: dict[str, Any], instances: dict[str, dict[str, Instance]], optimizer: Optimizer, report: Report
) -> list[tuple[Path, Policy]]:
    found = []
    for i, entry in enumerate(data.get("policies", [])):
        path: Path = ("policies", i)
        policy = _build_policy(entry, data, instances, optimizer, path, report)
        if policy is not None:
            found.append((path, policy))
    return found


def _build_policy(
    entry: Any,
    data: dict[str, Any],
    instances: dict[str, dict[str, Instance]],
    optimizer: Optimizer,
    path: Path,
    report: Report,
) -> Policy | None:
    family = _family_of(entry, path, report)
    window = _window_of(entry, path, report) if family else None
    if family is None:
        return None
    component, inner = entry[family.key], (*path, family.key)
    if not isinstance(component, Mapping) or "instance_name" not in component:
        report.add(f"given {shown(component)}; write `{family.key}: {{instance_name: NAME}}`", inner)
        return None
    for key in component:
        if key not in ("instance_name", "args"):
            help_text = did_you_mean(str(key), ("instance_name", "args"))
            report.add(f"unknown key {shown(key)} of a {family.key}; {help_text}", (*inner, str(key)))
    name = str(component["instance_name"])
    if name not in data.get(family.section, {}):
        known = did_you_mean(name, map(str, data.get(family.section, {})))
        report.add(f"{family.section} has no instance {shown(name)}; {known}", (*inner, "instance_name"))
    instance = instances[family.section].get(name)
    args = check_arguments(family.policy_class, component.get("args") or {}, (*inner, "args"), report)
    if instance is None or window is None or args is None:
        return None
    try:
        if not family.shared:
            checks.try_lr_scheduler(instance, window, optimizer)
        return family.make(instance, window, optimizer, args)
    except checks.CONSTRUCTOR_FAULTS as e:
        report.add(checks.in_words(e), (*inner, "args") if "args" in component else inner)
        return None


def _family_of(entry: Any, path: Path, report: Report) -> Family | None:
    keys = [family.key for family in FAMILIES]
    if not isinstance(entry, Mapping):
        report.add(f"given {shown(entry)}; a policy is a mapping with one of {', '.join(keys)}", path)
        return None
    for key in entry:
        if key not in (*keys, *WINDOW_KEYS):
            help_text = did_you_mean(str(key), (*keys, *WINDOW_KEYS))
            report.add(f"unknown policy key {shown(key)}; {help_text}", (*path, str(key)))
    present = [family for family in FAMILIES if family.key in entry]
    if len(present) != 1:
        count = "none" if not present else " and ".join(family.key for family in present)
        report.add(f"a policy names exactly one of {', '.join(keys)}; this one names {count}", path)
        return None
    return present[0]


def _window_of(entry: Mapping[str, Any], path: Path, report: Report) -> EpochWindow | None:
    given = {key: entry[key] for key in WINDOW_KEYS if key in entry}
    if "epochs" in given and len(given) > 1:
        others = ", ".join(key for key in given if key != "epochs")
        report.add(f"both epochs and {others}; give either `epochs: [..]` or the range", (*path, "epochs"))
        return None
    try:
        return checks.make_window(given)
    except ValueError as e:
        report.add(str(e), path)
        return None


def _resolve(data: dict[str, Any], instances: dict[str, dict[str, Instance]]) -> dict[str, Any]:
    """The schedule as plain data with defaults filled in and selectors expanded."""
    resolved = dict(data)
    for section, members in instances.items():
        if members:
            resolved[section] = {
                name: {"class": instance.cls.__name__, **instance.arguments} for name, instance in members.items()
            }
    return resolved
