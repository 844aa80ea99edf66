"""A candidate of the search, and its schedule as a person would have written it."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from compress.goals.goal import Goal
from compress.quantization.post_training.ladder import rungs

SECOND_ORDER = "second_order"
CRITERIA = {
    SECOND_ORDER: "SecondOrderGroupPruner",
    "L1": "L1RankedStructureParameterPruner",
    "L2": "L2RankedStructureParameterPruner",
}
QUANTIZE_FROM = 1  # epoch: the network is thin and has settled for one
LATE = 4  # one of so many epochs is quantized where quantization comes late
FLOAT, INT8 = "float", "int8"
EARLY, LATELY, AFTER = "early", "late", "after"
PTQ = {"ranges": 1, "corrected": 3, "gptq": 5}  # -> its rung of the ladder, counted from 0
FOUR = 4  # bits


@dataclass(frozen=True)
class Candidate:
    """What a trial decides.

    Attributes:
        widths: group -> units that stay; groups that are left whole are not in it.
        criterion: which units go, a key of `CRITERIA`.
        precision: `float`, or `int8`.
        quantize: of `int8`: by quantization-aware training `early`, from the second epoch on, or `late`, in the last
            quarter of the epochs; or `after` training, by calibration alone.
        ptq: of `after`: which settings, a key of `PTQ`.
        float_layers: of `int8`: layers that stay float.
        four_bits: of `int8`: layers whose weights have 4 bits, but for those that stay float.
        teacher: whether the dense network teaches.
        lr: factor on the run's learning rate.
        thin_epoch: in which the units leave.
    """

    widths: Mapping[str, int]
    criterion: str
    precision: str
    teacher: bool
    lr: float
    thin_epoch: int
    quantize: str = EARLY
    float_layers: tuple[str, ...] = ()
    ptq: str = next(iter(PTQ))
    four_bits: tuple[str, ...] = ()

    @property
    def is_calibrated(self) -> bool:
        """Whether it is quantized after training."""
        return self.precision == INT8 and self.quantize == AFTER

    @property
    def narrow(self) -> tuple[str, ...]:
        """The layers whose weights have 4 bits."""
        return tuple(each for each in self.four_bits if each not in self.float_layers)

    def settles(self, epochs: int) -> int:
        """The first epoch, of so many, in which the network is thin, and quantized if training does that."""
        if self.is_calibrated:
            return self.thin_epoch
        first = self.thin_epoch + (QUANTIZE_FROM if self.precision == INT8 else 0)
        late = self.precision == INT8 and self.quantize == LATELY
        return max(first, epochs - max(1, epochs // LATE)) if late else first


@dataclass(frozen=True)
class Group:
    """A group of coupled channels that a candidate may make narrower.

    Attributes:
        name: of the channel graph.
        units: how many there are.
        choices: widths to choose from, increasing; the full one last.
        weights: whose filters are its units.
        step: most of the choices are multiples of it: narrower by less costs the same time on this machine.
    """

    name: str
    units: int
    choices: tuple[int, ...]
    weights: tuple[str, ...]
    step: int = 1


def gone(groups: Sequence[Group], widths: Mapping[str, int]) -> dict[str, int]:
    """Group -> how many of its units go."""
    return {group.name: group.units - widths.get(group.name, group.units) for group in groups}


def schedule_of(
    candidate: Candidate, groups: Sequence[Group], epochs: int, logits: bool, names: Sequence[str], batches: int = 8
) -> dict[str, Any]:
    """The schedule of a candidate, as plain data.

    Args:
        candidate: what was decided.
        groups: of the network.
        epochs: of the run.
        logits: whether the network's output is a set of logits.
        names: of all weights, for globs.
        batches: minibatches that a second-order criterion looks at.
    """
    found: dict[str, Any] = {"version": 1}
    policies: list[dict[str, Any]] = []
    narrow = _pruners(candidate, groups, names, batches)
    if narrow:
        found["pruners"] = narrow
        found["extensions"] = {"thin": {"class": "FilterRemover", "thinning_func_str": "remove_filters"}}
        at = {"epochs": [candidate.thin_epoch]}
        policies += [{"pruner": {"instance_name": name}, **at} for name in narrow]
        policies.append({"extension": {"instance_name": "thin"}, **at})
    if candidate.precision == INT8:
        found["quantizers"] = {"int8": _quantizer(candidate, names)}
    if candidate.precision == INT8 and not candidate.is_calibrated:
        first = candidate.settles(epochs)
        policies.append({"quantizer": {"instance_name": "int8"}, **_window(first, max(epochs, first + 1))})
    if candidate.teacher:
        kind = "KnowledgeDistillation" if logits else "OutputDistillation"
        found["distillers"] = {"dense": {"class": kind, "teacher": "self"}}
        policies.append({"distiller": {"instance_name": "dense"}, **_window(0, epochs)})
    found["lr_schedulers"] = {"decay": {"class": "CosineAnnealingLR", "T_max": epochs}}
    policies.append({"lr_scheduler": {"instance_name": "decay"}, **_window(0, epochs)})
    after = {"quantize_after_training": "int8"} if candidate.is_calibrated else {}
    return {**found, "policies": policies, **after}


def schedule_text(schedule: Mapping[str, Any], header: Sequence[str], goals: Sequence[Goal] = ()) -> str:
    """YAML with a header of comments; policies and goals a line each."""
    lines = [f"# {line}" for line in header]
    for section, content in schedule.items():
        if section == "policies":
            lines += ["", "policies:", *(f"  - {_flow(each)}" for each in content)]
        elif isinstance(content, dict):
            lines += ["", f"{section}:", *(f"  {name}: {_flow(each)}" for name, each in content.items())]
        else:
            lines.append(f"{section}: {content}")
    if goals:
        lines += ["", "goals:", *(f"  - {_flow(each.to_dict())}" for each in goals)]
    return "\n".join(lines) + "\n"


def calibrated_settings(candidate: Candidate, names: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of `PostTrainLinearQuantizer` that quantize a candidate by calibration alone.

    Where it is trained with rounding those of its bits and ranges, the cheapest.
    """
    rung = PTQ[candidate.ptq] if candidate.is_calibrated else PTQ["ranges"]
    _, settings = rungs({"bits_activations": 8, "bits_parameters": 8})[rung]
    return {**settings, **_overrides(candidate, names)}


def _quantizer(candidate: Candidate, names: Sequence[str]) -> dict[str, Any]:
    if candidate.is_calibrated:
        return {"class": "PostTrainLinearQuantizer", **calibrated_settings(candidate, names)}
    settings = {"bits_activations": 8, "bits_weights": 8, "per_channel_wts": True, "ema_decay": 0.99}
    return {"class": "QuantAwareTrainRangeLinearQuantizer", **settings, **_overrides(candidate, names)}


def _overrides(candidate: Candidate, names: Sequence[str]) -> dict[str, Any]:
    """Layers that stay float, and those of 4 bits: as globs where names of weights are given."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    four = globbed(candidate.narrow, layers) if layers else candidate.narrow
    found: dict[str, Any] = {**dict.fromkeys(candidate.float_layers), **{each: {"bits_weights": FOUR} for each in four}}
    return {"overrides": found} if found else {}


def _window(first: int, last: int) -> dict[str, int]:
    return {"starting_epoch": first, "ending_epoch": last, "frequency": 1}


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()


def _pruners(
    candidate: Candidate, groups: Sequence[Group], names: Sequence[str], batches: int
) -> dict[str, Any]:  # fmt: skip
    """By norms one instance for all groups that lose the same share, what is left said by its name; else one for all.

    `round_to` changes nothing here; whoever gives another share later still gets a width that the machine likes.
    """
    shares: dict[float, list[Group]] = {}
    for group in groups:
        width = candidate.widths.get(group.name, group.units)
        if width < group.units:
            shares.setdefault((group.units - width) / group.units, []).append(group)
    if candidate.criterion == SECOND_ORDER:
        return {"narrow": {**_second_order(candidate, shares, names), "batches": batches}} if shares else {}
    found: dict[str, Any] = {}
    for share, members in sorted(shares.items()):
        name = f"keep_{round(100 * (1 - share))}_percent"
        found[name if name not in found else f"{name}_{len(found)}"] = {
            "class": CRITERIA[candidate.criterion], "group_type": "Filters", "desired_sparsity": round(share, 6),
            "rounding": "nearest", **_round_to(candidate, members), "weights": globbed(_weights(members), names),
        }  # fmt: skip
    return found


def _second_order(
    candidate: Candidate, shares: Mapping[float, list[Group]], names: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    sparsities = {
        glob: round(share, 6) for share, members in sorted(shares.items()) for glob in globbed(_weights(members), names)
    }
    step = _round_to(candidate, [group for members in shares.values() for group in members])
    return {"class": CRITERIA[SECOND_ORDER], **step, "sparsities": sparsities}


def _weights(groups: Sequence[Group]) -> list[str]:
    return [name for group in groups for name in group.weights]


def _round_to(candidate: Candidate, groups: Sequence[Group]) -> dict[str, int]:
    step = math.gcd(*(candidate.widths[group.name] for group in groups), *(group.step for group in groups))
    return {"round_to": step} if step > 1 else {}


def globbed(weights: Sequence[str], names: Sequence[str]) -> list[str]:
    """The weights as one glob where one says exactly them, or those of equal depth; else by name.

    Example: globbed(["a.1.w", "a.3.w"], ["a.1.w", "a.2.w", "a.3.w"]) is ["a.[13].w"].
    """
    by_depth: dict[int, list[str]] = {}
    for name in weights:
        by_depth.setdefault(name.count("."), []).append(name)
    return [glob for each in by_depth.values() for glob in _one_glob(each, names)]


def _one_glob(weights: list[str], names: Sequence[str]) -> list[str]:
    """The same for weights of equally many parts."""
    parts = [name.split(".") for name in weights]
    if len(weights) < 2:
        return weights
    differ = [place for place, each in enumerate(zip(*parts, strict=True)) if len(set(each)) > 1]
    if len(differ) != 1:
        return weights
    values = sorted({each[differ[0]] for each in parts})
    whole = "*" if any(len(each) > 1 for each in values) else f"[{''.join(values)}]"
    for middle in ("*", whole):
        glob = ".".join([*parts[0][: differ[0]], middle, *parts[0][differ[0] + 1 :]])
        if {name for name in names if fnmatch.fnmatchcase(name, glob)} == set(weights):
            return [glob]
    return weights
