"""The list `policies` of a schedule -> policies.

One entry after another, each checked whole even where a part of it is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from compress.arguments.places import Path
from compress.config.checks import across_policies as checks
from compress.config.checks.epochs import WINDOW_KEYS, window_of
from compress.config.errors.faults import Report
from compress.config.families import FAMILIES, Family, Instance
from compress.config.schema import check_arguments
from compress.errors import did_you_mean, nearest, shown
from compress.policies.base import Policy

COMPONENT_KEYS = ("instance_name", "args")
OPTIMIZER = "optimizer"  # key of a learning-rate policy: the optimizer's name, where the loop has several
BY_KEY = {family.key: family for family in FAMILIES}


@dataclass
class Entries:
    """Reads the entries of one schedule.

    Attributes:
        data: the sections of the schedule; None for one of a wrong form.
        instances: section -> name -> instance; those with faults may be missing.
        misplaced: (section, name) of instances that stand in another section than their class belongs in.
        optimizer: of the training loop.
        report: takes the faults.
        optimizers: all of the loop's by name, where it has several.
        named: what the entries call instances, misspelt names as what they are nearest to.
    """

    data: Mapping[str, Any]
    instances: Mapping[str, Mapping[str, Instance]]
    misplaced: set[tuple[str, str]]
    optimizer: Optimizer
    report: Report
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def policies(self) -> list[tuple[Path, Policy]]:
        """The policies that could be made, each with its path."""
        entries = enumerate(self.data.get("policies") or [])
        made = [(("policies", i), self._policy(entry, ("policies", i))) for i, entry in entries]
        return [(path, policy) for path, policy in made if policy is not None]

    def _policy(self, entry: Any, path: Path) -> Policy | None:
        if not isinstance(entry, Mapping):
            self.report.add(f"given {shown(entry)}; a policy is a mapping with one of {', '.join(BY_KEY)}", path)
            return None
        family, key = self._family(entry, path)
        component = entry.get(key)
        window = window_of(self._with_nested_epochs(entry, key, path), path, self.report)
        if family is None or not self._has_form(component, entry, key, (*path, key)):
            return None
        assert isinstance(component, Mapping)
        inner = (*path, key)
        instance = self._instance(family, str(component["instance_name"]), (*inner, "instance_name"))
        args = check_arguments(family.policy_class, component.get("args") or {}, (*inner, "args"), self.report)
        optimizer = self._optimizer(family, entry, path)
        if instance is None or window is None or args is None or optimizer is None:
            return None
        try:
            if not family.shared:
                checks.try_lr_scheduler(instance, window, optimizer)
            policy = family.make(instance, window, optimizer, args)
            policy.sees = instance.network
            return policy
        except checks.CONSTRUCTOR_FAULTS as e:
            self.report.add(checks.in_words(e), (*inner, "args") if "args" in component else inner)
            return None

    def _family(self, entry: Mapping[Any, Any], path: Path) -> tuple[Family | None, Any]:
        """The family that an entry is of, and the key under which it names its instance (it may be misspelt)."""
        present = [key for key in entry if key in BY_KEY]
        unknown = [key for key in entry if key not in (*BY_KEY, *WINDOW_KEYS, OPTIMIZER)]
        misspelt = [
            key for key in unknown if not present and nearest(str(key), BY_KEY, 1) and isinstance(entry[key], Mapping)
        ]
        for key in unknown:
            if key in COMPONENT_KEYS and len(present) == 1 and entry[present[0]] is None:
                continue  # reported with the component, which is empty
            help_text = did_you_mean(str(key), (*BY_KEY, *WINDOW_KEYS))
            if key in COMPONENT_KEYS:
                help_text = f"it stands inside of one of {', '.join(BY_KEY)}"
            self.report.add(f"unknown policy key {shown(key)}; {help_text}", (*path, str(key)))
        if misspelt:
            return BY_KEY[nearest(str(misspelt[0]), BY_KEY, 1)[0]], misspelt[0]
        if len(present) == 1:
            return BY_KEY[present[0]], present[0]
        if present or not any(isinstance(entry[key], Mapping) for key in unknown):
            count = " and ".join(present) or "none"
            self.report.add(f"a policy names exactly one of {', '.join(BY_KEY)}; this one names {count}", path)
            self.named |= {str(name) for family in FAMILIES for name in self.data.get(family.section) or {}}
        self.named |= {name for key in unknown for name in _names_in(entry[key])}
        return None, None

    def _optimizer(self, family: Family, entry: Mapping[str, Any], path: Path) -> Optimizer | None:
        """The optimizer that an entry names, the network's own if it names none; a wrong name is reported."""
        if OPTIMIZER not in entry:
            return self.optimizer
        name, path = entry[OPTIMIZER], (*path, OPTIMIZER)
        if family.shared:
            self.report.add(f"{OPTIMIZER} is for learning-rate policies only; a {family.key} acts on weights", path)
        elif not self.optimizers:
            self.report.add(f"given {shown(name)}; this training has a single optimizer: leave the key out", path)
        elif name not in self.optimizers:
            self.report.add(f"there is no optimizer {shown(name)}; {did_you_mean(str(name), self.optimizers)}", path)
        else:
            return self.optimizers[name]
        return None

    def _with_nested_epochs(self, entry: Mapping[str, Any], key: Any, path: Path) -> Mapping[str, Any]:
        """The entry with the epochs that were written a level too deep, which is reported."""
        component = entry.get(key)
        nested = {k: component[k] for k in WINDOW_KEYS if k in component} if isinstance(component, Mapping) else {}
        if nested:
            names, verb = ", ".join(nested), "stands" if len(nested) == 1 else "stand"
            message = f"{names} {verb} inside of {key!r}; they belong beside it, in its column"
            self.report.add(message, (*path, key, next(iter(nested))))
        return {**entry, **nested}

    def _has_form(self, component: Any, entry: Mapping[str, Any], key: Any, path: Path) -> bool:
        """Whether a component names its instance; also reports its unknown keys."""
        form = f"write `{key}: {{instance_name: NAME}}`"
        if isinstance(component, str):
            self.named.add(component)
            self.report.add(f"given {shown(component)}; write `{key}: {{instance_name: {component[:80]}}}`", path)
        elif component is None and "instance_name" in entry:
            self.named.add(str(entry["instance_name"]))
            self.report.add(f"instance_name stands beside {key!r}; indent it further, so that it stands inside", path)
        elif not isinstance(component, Mapping):
            self.report.add(f"given {shown(component)}; {form}", path)
        else:
            unknown = [k for k in component if k not in (*COMPONENT_KEYS, *WINDOW_KEYS)]
            misspelt = "instance_name" not in component and any(nearest(str(k), COMPONENT_KEYS[:1]) for k in unknown)
            for k in unknown:
                help_text = did_you_mean(str(k), COMPONENT_KEYS)
                self.report.add(f"unknown key {shown(k)} of a {key}; {help_text}", (*path, str(k)))
            if "instance_name" not in component:
                self.named |= {str(value) for value in component.values()}
                if not misspelt:
                    self.report.add(f"given {shown(component)}; {form}", path)
            return "instance_name" in component
        return False

    def _instance(self, family: Family, name: str, path: Path) -> Instance | None:
        """The instance of that name; a name that the section does not have is reported."""
        section = self.data.get(family.section, {})
        self.named.add(name)
        if section is None or name in section or name in map(str, section) or (family.section, name) in self.misplaced:
            return self.instances[family.section].get(name)
        elsewhere = [other for other in FAMILIES if name in map(str, self.data.get(other.section) or {})]
        if elsewhere:
            there = elsewhere[0]
            message = (
                f"{shown(name)} is one of the {there.section}: write `{there.key}: {{instance_name: {name[:80]}}}`"
            )
        else:
            message = f"{family.section} has no instance {shown(name)}; {did_you_mean(name, map(str, section))}"
            self.named.update(nearest(name, map(str, section), 1) or map(str, section))
        self.report.add(message, path)
        return None


def _names_in(component: Any) -> set[str]:
    """What a component that could not be read may call its instance."""
    if isinstance(component, Mapping):
        return {str(component.get("instance_name"))}
    return {component} if isinstance(component, str) else set()
