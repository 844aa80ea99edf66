"""The knobs of the search, from the network itself: what Optuna may choose, and what it begins with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.analysis.latency_model.knapsack import widths_for
from compress.analysis.latency_model.layers import without
from compress.errors import UserError, did_you_mean, shown
from compress.goals.goal import LATENCY, Goal
from engine.search.candidate import CRITERIA, FLOAT, INT8, Candidate, Group
from engine.search.subject import Subject

KNOBS: dict[str, tuple[Any, ...]] = {  # what `search:` may pin, and the choices
    "criterion": tuple(CRITERIA),
    "precision": (FLOAT, INT8),
    "teacher": (False, True),
    "lr": (1.0, 0.3, 0.1),
    "thin_epoch": (0, 1),
}
FIRST = (0.97, 0.85, 0.7)  # of the latency bound: the knapsack's first candidates in each precision
WITHOUT_BOUND = 0.6
NARROWER, SMALLEST = 0.85, 0.02


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    Attributes:
        groups: precision -> groups with their useful widths.
        choices: knob -> values; one value of a pinned knob.
    """

    groups: Mapping[str, Sequence[Group]]
    choices: Mapping[str, tuple[Any, ...]]

    def candidate(self, trial: Any) -> Candidate:
        """What Optuna suggests in a trial."""
        values = {name: trial.suggest_categorical(name, list(each)) for name, each in self.choices.items()}
        precision = str(values["precision"])
        widths = {}
        for group in self.groups[precision]:
            place = trial.suggest_int(f"{precision} width {group.name}", 0, len(group.choices) - 1)
            widths[group.name] = group.choices[place]
        return Candidate(widths, values["criterion"], precision, values["teacher"], values["lr"], values["thin_epoch"])

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """A candidate as Optuna's parameters, to be tried first."""
        found: dict[str, Any] = {name: getattr(candidate, name) for name in self.choices}
        for group in self.groups[candidate.precision]:
            width = candidate.widths.get(group.name, group.units)
            found[f"{candidate.precision} width {group.name}"] = group.choices.index(width)
        return found


def space_of(subject: Subject, pinned: Mapping[str, Any]) -> Space:
    """The space of a network, with the knobs that `search:` fixes.

    Raises:
        UserError: an unknown knob or value.
    """
    choices = dict(KNOBS)
    for name, value in pinned.items():
        if name not in KNOBS:
            raise UserError(f"search: {name}: unknown knob; {did_you_mean(name, KNOBS)}; nothing was started")
        given = tuple(value) if isinstance(value, list) else (value,)
        wrong = [each for each in given if each not in KNOBS[name]]
        if wrong or not given:
            allowed = ", ".join(map(json.dumps, KNOBS[name]))
            raise UserError(
                f"search: {name}: given {shown(value)}; it is one or a list of {allowed}; nothing was started"
            )
        choices[name] = given
    return Space({each: subject.groups(each) for each in choices["precision"]}, choices)


def first_candidates(subject: Subject, space: Space, goals: Sequence[Goal]) -> list[Candidate]:
    """Widths of the knapsack at some times up to the bound, in each precision, most important units kept."""
    bounds = [goal.bound for goal in goals if goal.metric == LATENCY]
    bound = min(bounds, default=WITHOUT_BOUND)
    found = []
    for share in FIRST:
        for precision in space.choices["precision"]:
            widths = _allowed(subject, space.groups[precision], precision, share * bound, goals)
            rest = [each[0] for name, each in space.choices.items() if name not in ("precision", "criterion")]
            found.append(Candidate(widths, space.choices["criterion"][0], precision, *rest))
    return list({json.dumps(space.parameters(each), sort_keys=True): each for each in found}.values())


def _allowed(
    subject: Subject, groups: Sequence[Group], precision: str, ratio: float, goals: Sequence[Goal]
) -> dict[str, int]:
    """Widths of the knapsack at a share of the time, or at less where goals on parameters or MACs ask for it."""
    counted = [goal for goal in goals if goal.metric in ("params", "macs")]
    while True:
        widths = knapsack_widths(subject, groups, precision, ratio)
        counts = subject.counts(groups, widths)
        if ratio < SMALLEST or all(counts[goal.metric] <= goal.bound for goal in counted):
            return widths
        ratio *= NARROWER


def knapsack_widths(subject: Subject, groups: Sequence[Group], precision: str, ratio: float) -> dict[str, int]:
    """Widths for a share of the dense float network's time."""
    choices = {group.name: group.choices for group in groups}
    return widths_for(
        ratio, subject.scores(groups), choices, lambda widths: ratio_of(subject, groups, precision, widths)
    )


def ratio_of(subject: Subject, groups: Sequence[Group], precision: str, widths: Mapping[str, int]) -> float:
    """Predicted time at some widths over the dense float network's."""
    removed = {group.name: list(range(group.units - widths[group.name])) for group in groups}
    model = subject.latency
    return model.time(without(model.layers, subject.graph, removed), precision == INT8) / model.time(model.layers)


def unreachable(subject: Subject, space: Space, goals: Sequence[Goal]) -> str:
    """Why no candidate can meet the latency goals; empty where some can."""
    for goal in (each for each in goals if each.metric == LATENCY):
        least = {
            precision: ratio_of(subject, groups, precision, {group.name: group.choices[0] for group in groups})
            for precision, groups in space.groups.items()
        }
        if min(least.values()) > goal.bound:
            said = ", ".join(f"{value:.2f} in {name}" for name, value in least.items())
            return f"{goal} is out of reach: the narrowest network that is tried is predicted to take {said}"
    return ""
