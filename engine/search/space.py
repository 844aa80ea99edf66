"""The knobs of the search, from the network itself: what Optuna may choose, and what it begins with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress.analysis.latency_model.knapsack import widths_for
from compress.analysis.latency_model.layers import without
from compress.errors import UserError, did_you_mean, shown
from compress.goals.goal import FLOAT_LAYERS, LATENCY, Goal, number
from engine.search.candidate import (
    AFTER,
    CRITERIA,
    EARLY,
    FLOAT,
    INT8,
    LATELY,
    PTQ,
    SECOND_ORDER,
    Candidate,
    Group,
)
from engine.search.sensitivity import layers_for_four_bits, measured_scores, sensitive_layers
from engine.search.subject import HALF_A_BYTE, Subject

Scores = Mapping[str, Sequence[float]]
KNOBS: dict[str, tuple[Any, ...]] = {  # what `search:` may pin, and the choices
    "criterion": tuple(CRITERIA),
    "precision": (FLOAT, INT8),
    "teacher": (False, True),
    "lr": (1.0, 0.3, 0.1),
    "thin_epoch": (0, 1),
    "quantize": (EARLY, LATELY, AFTER),
    "ptq": tuple(PTQ),
    "float_layers": (0, 1, 2, 4),
    "four_bits": (0.0, 0.5, 1.0),
}
OF_INT8 = ("quantize", "float_layers", "four_bits")  # knobs that a float candidate has not
OF_AFTER = ("ptq",)  # knobs of what is quantized after training
FIRST = (0.97, 0.85, 0.7)  # of the latency bound: the knapsack's first candidates in each precision
FINE_TUNING = 0.3  # of the dense run's learning rate: the whole of it may destroy a network that has just lost channels
WITHOUT_BOUND = 1.0  # then other costs decide how narrow the first candidates are
NARROWER, SMALLEST = 0.85, 0.02
NO_FOUR = (0.0,)
BYTES = "file_bytes"


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    Attributes:
        groups: precision -> groups with their useful widths.
        choices: knob -> values; one value of a pinned knob.
        sensitive: layers, the one that loses most by 8 bits first.
        robust: layers, the one that loses least by 4 bits, for each byte saved, first.
    """

    groups: Mapping[str, Sequence[Group]]
    choices: Mapping[str, tuple[Any, ...]]
    sensitive: Sequence[str] = ()
    robust: Sequence[str] = ()

    def described(self) -> dict[str, Any]:
        """Its knobs and widths as plain data: with others a trial's places would mean other widths."""
        widths = {precision: {group.name: group.choices for group in own} for precision, own in self.groups.items()}
        return {"knobs": dict(self.choices), "widths": widths}

    def candidate(self, trial: Any) -> Candidate:
        """What Optuna suggests in a trial."""
        suggest = lambda name: trial.suggest_categorical(name, list(self.choices[name]))  # noqa: E731
        values = {name: suggest(name) for name in self.choices if name not in (*OF_INT8, *OF_AFTER)}
        precision = str(values["precision"])
        if precision == INT8:
            values |= {name: suggest(name) for name in OF_INT8}
            values |= {name: suggest(name) for name in OF_AFTER if values["quantize"] == AFTER}
            values["float_layers"] = tuple(self.sensitive[: values["float_layers"]])
            values["four_bits"] = self._share(values["four_bits"])
        widths = {}
        for group in self.groups[precision]:
            place = trial.suggest_int(f"{precision} width {group.name}", 0, len(group.choices) - 1)
            widths[group.name] = group.choices[place]
        return Candidate(widths, **values)

    def parameters(self, candidate: Candidate) -> dict[str, Any]:
        """A candidate as Optuna's parameters, to be tried first."""
        left_out = {*(() if candidate.is_calibrated else OF_AFTER), *(() if candidate.precision == INT8 else OF_INT8)}
        found: dict[str, Any] = {name: getattr(candidate, name) for name in self.choices if name not in left_out}
        if "float_layers" in found:
            found["float_layers"] = len(candidate.float_layers)
        if "four_bits" in found:
            shares = self.choices["four_bits"]
            found["four_bits"] = next(each for each in shares if self._share(each) == candidate.four_bits)
        for group in self.groups[candidate.precision]:
            width = candidate.widths.get(group.name, group.units)
            found[f"{candidate.precision} width {group.name}"] = group.choices.index(width)
        return found

    def _share(self, share: float) -> tuple[str, ...]:
        """So many of the robust layers."""
        return tuple(self.robust[: round(share * len(self.robust))])


def space_of(subject: Subject, pinned: Mapping[str, Any], goals: Sequence[Goal] = ()) -> Space:
    """The space of a network, with the knobs that `search:` fixes.

    Weights of 4 bits are a choice where a goal is about bytes: runtimes compute such layers in float.

    Raises:
        UserError: an unknown knob or value.
    """
    choices, about_bytes = dict(KNOBS), any(goal.metric == BYTES for goal in goals)
    if not about_bytes:
        choices["four_bits"] = NO_FOUR
    if faults := faults_of_knobs(pinned, about_bytes):
        raise UserError("; ".join([*(f"search: {name}: {fault}" for name, fault in faults), "nothing was started"]))
    given = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in pinned.items()}
    choices |= given
    return Space({each: subject.groups(each) for each in choices["precision"]}, choices)


def faults_of_knobs(pinned: Mapping[Any, Any], about_bytes: bool) -> list[tuple[str, str]]:
    """Knob of `search:` -> what is wrong with it.

    Args:
        pinned: knob -> value, or a list of values.
        about_bytes: whether a goal is about the file's bytes.
    """
    found = []
    for name, value in pinned.items():
        if name not in KNOBS:
            found.append((str(name), f"unknown knob {shown(name)}; {did_you_mean(str(name), KNOBS)}"))
            continue
        given = value if isinstance(value, list) else [value]
        kinds = {type(each) for each in KNOBS[name]}  # 1 == 1.0 == True, which slices and schedules tell apart
        if not given or any(type(each) not in kinds or each not in KNOBS[name] for each in given):
            allowed = ", ".join(map(json.dumps, KNOBS[name]))
            found.append((name, f"given {shown(value)}; it is one or a list of {allowed}"))
        elif name == "four_bits" and not about_bytes and tuple(given) != NO_FOUR:
            why = "weights of 4 bits make the file smaller and nothing faster; add such a goal or leave the knob out"
            found.append((name, f"given {shown(value)}, and no goal is about file_bytes: {why}"))
    return found


def with_sensitive_layers(space: Space, subject: Subject) -> Space:
    """The space with the layers that may stay float or have 4 bits, measured where that is a choice."""
    int8 = INT8 in space.groups
    sensitive = sensitive_layers(subject) if int8 and max(space.choices["float_layers"]) > 0 else ()
    robust = layers_for_four_bits(subject) if int8 and max(space.choices["four_bits"]) > 0 else ()
    return replace(space, sensitive=sensitive, robust=robust)


def first_candidates(subject: Subject, space: Space, goals: Sequence[Goal]) -> list[Candidate]:
    """Widths of the knapsack at some times up to the bound, in each precision, most important units kept.

    Importance is that of the first criterion. First those at the largest time, with the first knob values, and with a
    teacher and the last values of int8 (where the criterion is a norm in the measure of what each group's quality
    loses, too); then narrower ones.
    """
    bounds = [goal.bound for goal in goals if goal.metric == LATENCY]
    bound = min(bounds, default=WITHOUT_BOUND)
    plain = {name: each[0] for name, each in space.choices.items() if name not in (*OF_INT8, *OF_AFTER)}
    plain |= {"lr": FINE_TUNING} if FINE_TUNING in space.choices["lr"] else {}
    taught = {"teacher": True, "lr": max(space.choices["lr"])}  # a teacher holds it at the whole rate
    last = taught if True in space.choices["teacher"] else {}
    scores = {each: subject.importance(space.groups[each], plain["criterion"]) for each in space.choices["precision"]}
    measured = scores
    if plain["criterion"] != SECOND_ORDER:
        measured = {each: measured_scores(subject, space.groups[each]) for each in scores}
    widest, *narrower = FIRST
    tries = [(widest, plain, 0, scores), (widest, {**plain, **last}, -1, measured), (widest, plain, 0, measured),
             *((share, plain, 0, scores) for share in narrower)]  # fmt: skip
    found = []
    for share, values, place, by in tries:
        for precision, own in by.items():
            knobs = Candidate({}, **{**values, "precision": precision}, **_of_int8(space, precision, place))
            found.append(_allowed(subject, space.groups[precision], knobs, share * bound, goals, own))
    return list({json.dumps(space.parameters(each), sort_keys=True): each for each in found}.values())


def _of_int8(space: Space, precision: str, place: int) -> dict[str, Any]:
    """The knobs of int8, each at one place of its choices."""
    if precision != INT8:
        return {}
    quantize, count, share, ptq = (space.choices[name][place] for name in (*OF_INT8, *OF_AFTER))
    layers = tuple(space.sensitive[: min(count, 1) if place and 1 in space.choices["float_layers"] else count])
    four = tuple(space.robust[: round(share * len(space.robust))])
    after = {"ptq": ptq} if quantize == AFTER else {}
    return {"quantize": quantize, "float_layers": layers, "four_bits": four, **after}


def _allowed(
    subject: Subject,
    groups: Sequence[Group],
    knobs: Candidate,
    ratio: float,
    goals: Sequence[Goal],
    scores: Scores | None = None,
) -> Candidate:
    """A candidate with the widths of the knapsack at a share of the time.

    Or at less, where goals on parameters, MACs or bytes ask for it; layers of 4 bits leave room for others' width.
    """
    counted = [goal for goal in goals if goal.metric in ("params", "macs", "file_bytes")]
    while True:
        widths = knapsack_widths(subject, groups, knobs.precision, ratio, scores)
        counts = subject.counts(groups, widths)
        counts["file_bytes"] = subject.file_bytes(counts["params"], knobs, subject.weights_at(groups, widths))
        if ratio < SMALLEST or all(counts[goal.metric] <= goal.bound for goal in counted):
            return replace(knobs, widths=widths)
        ratio *= NARROWER


def knapsack_widths(
    subject: Subject, groups: Sequence[Group], precision: str, ratio: float, scores: Scores | None = None
) -> dict[str, int]:
    """Widths for a share of the dense float network's time; importance is the filters' norm unless it is given."""
    choices = {group.name: group.choices for group in groups}
    given = subject.scores(groups) if scores is None else scores
    return widths_for(ratio, given, choices, lambda widths: ratio_of(subject, groups, precision, widths))


def ratio_of(subject: Subject, groups: Sequence[Group], precision: str, widths: Mapping[str, int]) -> float:
    """Predicted time at some widths over the dense float network's."""
    removed = {group.name: list(range(group.units - widths[group.name])) for group in groups}
    model = subject.latency
    return model.time(without(model.layers, subject.graph, removed), precision == INT8) / model.time(model.layers)


def predictable(goals: Sequence[Goal], runtime: str) -> list[Goal]:
    """Goals on costs that can be judged before a file is measured.

    The latency model knows one runtime's times, and which layers run in float only the file shows.
    """
    costs = [goal for goal in goals if not goal.is_quality and goal.metric != FLOAT_LAYERS]
    return [goal for goal in costs if goal.runtime in (None, runtime)]


def unreachable(subject: Subject, space: Space, goals: Sequence[Goal]) -> str:
    """Why no candidate can meet the goals on costs; empty where some can."""
    least = {}
    for precision, groups in space.groups.items():
        narrowest = subject.thinned(groups, {group.name: group.choices[0] for group in groups})
        least[precision] = subject.costs(narrowest, Candidate({}, "L1", precision, False, 1.0, 0))
        if precision == INT8 and max(space.choices["four_bits"]) == 1:
            least[precision]["file_bytes"] -= least[precision]["params"] * HALF_A_BYTE
    for goal in predictable(goals, subject.clock):
        values = {precision: costs[goal.metric] for precision, costs in least.items()}
        sure = 1 + (subject.latency.largest_error if goal.metric == LATENCY else 0)
        if min(values.values()) > goal.bound * sure:
            unit = " of the dense time" if goal.metric == LATENCY else ""
            said = ", ".join(f"{number(value)}{unit} in {name}" for name, value in values.items())
            return f"{goal} is out of reach: the narrowest network that is tried is predicted to need {said}"
    return ""
