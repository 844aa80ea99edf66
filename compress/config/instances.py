"""The sections of a schedule -> instances: classes, arguments, selectors, objects.

`Instances`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compress.arguments.places import Path
from compress.arguments.schema import arguments_model
from compress.config.checks import across_policies as checks
from compress.config.checks.fused_networks import Networks
from compress.config.checks.selectors import Selection
from compress.config.distiller_settings import REFUSED_CLASSES, with_overrides
from compress.config.errors.faults import Report
from compress.config.families import FAMILIES, Family, Instance
from compress.config.schema import check_arguments
from compress.distillation.base import Distiller
from compress.epoch_window import EpochWindow
from compress.errors import did_you_mean, nearest, shown
from compress.lr.torch_schedulers import REFUSED
from compress.registry import LEVELS

ALIKE = 0.85  # a class name this near to a known one is checked as that one, so that its other faults show too


class Instances:
    """Makes the instances of one schedule.

    An instance with a fault is still looked at whole: its selectors are looked up although a number is wrong, and it is
    made of the weights that were found although a selector matched nothing, so that one report has everything.

    Args:
        context: what constructors may be given beside the schedule's arguments: `model`, `optimizer`, ...
        report: takes the faults.

    Attributes:
        misplaced: (section, name) of instances that stand in another section than their class belongs in.
    """

    def __init__(self, context: dict[str, Any], report: Report) -> None:
        self.context = context
        self.report = report
        self.misplaced: set[tuple[str, str]] = set()

    def build(self, data: Mapping[str, Any]) -> dict[str, dict[str, Instance]]:
        """Section -> name -> instance, of those that could be made."""
        found: dict[str, dict[str, Instance]] = {}
        self._networks = Networks(self.context["model"], data, self.report)
        for family in FAMILIES:
            section = found.setdefault(family.section, {})
            for name, given in (data.get(family.section) or {}).items():
                instance = self._instance(family, str(name), given)
                if instance is not None:
                    section[str(name)] = instance
        return found

    def _instance(self, family: Family, name: str, given: Any) -> Instance | None:
        path: Path = (family.section, name)
        if not isinstance(given, Mapping):
            form = f"an instance is written `{name[:80]}: {{class: CLASS, ...arguments}}`"
            self.report.add(f"given {shown(given)}; {form}", path)
            return None
        if "class" not in given:
            close = nearest("class", map(str, given), 1)
            more = f" (is {close[0]!r} meant for it?)" if close else ""
            self.report.add(
                f"the class is missing: an instance is written `{name[:80]}: {{class: CLASS, ...}}`{more}", path
            )
            return None
        home, cls = self._class(family, name, given["class"], (*path, "class"))
        if cls is None:
            return None
        written = {key: value for key, value in given.items() if key != "class"}
        if family.section == "quantizers":
            written = with_overrides(written, path, self.report)
        if home is not family and not {str(key) for key in written} <= set(arguments_model(cls).model_fields):
            return None  # the class is what is wrong, not the section
        arguments = check_arguments(cls, written, path, self.report, given["class"])
        stages = self._networks.of(family.key, name)
        second_names = self._networks.second_names(stages[0])
        selection = Selection(self._networks.names(stages[0]), self.report, second_names)
        values = written if arguments is None else arguments
        chosen = selection.expand(values, cls, path)
        if arguments is None or selection.unusable or home is not family:
            return None
        for later in stages[1:]:
            if Selection(self._networks.names(later), Report(self.report.document)).expand(values, cls, path) != chosen:
                self.report.add(self._networks.straddling(name, stages), path)
                return None
        network = self._networks.stages[stages[0]] if stages[0] else None
        return self._construct(family, Instance(name, cls, chosen, None, network), path)

    def _class(self, family: Family, name: str, given: Any, path: Path) -> tuple[Family, type | None]:
        """The family that a class belongs in, and the class; a fault is reported."""
        if not isinstance(given, str):
            self.report.add(f"given {shown(given)}; a class is named by text", path)
            return family, None
        if given in family.registry:
            return family, family.registry.get(given)
        if refused := {**REFUSED, **REFUSED_CLASSES}.get(given):
            self.report.add(f"{given} is refused: {refused}", path)
            return family, None
        home = next((other for other in FAMILIES if given in other.registry), None)
        if home is not None:
            self.report.add(f"{given} is not a class of {family.section}: it belongs in {home.section}", path)
            self.misplaced.add((home.section, name))
            return home, home.registry.get(given)
        self.report.add(f"unknown class {shown(given)} in {family.section}; {_class_help(given, family)}", path)
        close = nearest(given, family.registry, 1, ALIKE)
        return family, family.registry.get(close[0]) if close else None

    def _construct(self, family: Family, instance: Instance, path: Path) -> Instance | None:
        """Makes the algorithm; one that each policy makes for itself is tried out on a shadow of the optimizer."""
        context = self.context if instance.network is None else {**self.context, "model": instance.network}
        try:
            if family.shared:
                wanted = inspect.signature(instance.cls).parameters
                given = {key: value for key, value in context.items() if key in wanted}
                algorithm = instance.cls(**instance.arguments, **given)
                if hasattr(algorithm, "prepare") and family.section != "quantizers":  # theirs is the policy's to call
                    algorithm.prepare(context["model"], context["teachers"], context["example_inputs"])
                if isinstance(algorithm, Distiller):
                    algorithm.rehearse(context["model"], context["example_inputs"])
                for fault in algorithm.faults(context["model"]) if hasattr(algorithm, "faults") else []:
                    self.report.add(fault, path)
                return replace(instance, algorithm=algorithm)
            checks.try_lr_scheduler(instance, EpochWindow.of_list([0]), context["optimizer"])
        except checks.CONSTRUCTOR_FAULTS as e:
            self.report.add(checks.in_words(e), path)
            return None
        return instance


def _class_help(name: str, family: Family) -> str:
    """The nearest classes of the section, else of another one."""
    if nearest(name, family.registry):
        return did_you_mean(name, family.registry)
    initials = [known for known in family.registry if "".join(filter(str.isupper, known)) == name]
    if initials:
        return f"did you mean {initials[0]!r}?"
    if name in LEVELS:
        return "it is a level, which is written in place of a number, as in `desired_sparsity: {class: ...}`"
    for other in FAMILIES:
        if close := nearest(name, other.registry, 1):
            return f"did you mean {close[0]!r} of {other.section}?"
    return f"{did_you_mean(name, family.registry)}; `python -m compress.config list` tells what each is for"
