"""What cuts off a layer's result before anything else reads it.

`Clip`, `clips_behind`. A mean error in front of a ReLU is not the one that the next layer reads: bias correction asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from compress.quantization.placement.signs import plain_name

INFINITE = float("inf")
FIXED = {"relu": (0.0, INFINITE), "relu6": (0.0, 6.0)}
GIVEN = {"hardtanh": (-1.0, 1.0), "clamp": (-INFINITE, INFINITE), "clamp_min": (-INFINITE, INFINITE)}
NAMES = {"min": 0, "min_val": 0, "max": 1, "max_val": 1}


@dataclass(frozen=True)
class Clip:
    """The range that everything which reads a layer's result sees of it.

    Attributes:
        norm: the BatchNorm between the layer and the clip, if any.
        low: the least value.
        high: the largest value.
    """

    norm: str | None
    low: float
    high: float


def clips_behind(calls: Mapping[str, Node], norms: Mapping[str, str], owners: Mapping[Node, str]) -> dict[str, Clip]:
    """Layer -> what alone reads its result; layers whose result something reads as it is are left out.

    Args:
        calls: layer -> its only call.
        norms: layer -> the BatchNorm that may be folded into it.
        owners: operation -> module.
    """
    found = {name: _behind(call, norms.get(name), owners) for name, call in calls.items()}
    return {name: clip for name, clip in found.items() if clip is not None}


def _behind(call: Node, norm: str | None, owners: Mapping[Node, str]) -> Clip | None:
    users, passed = list(call.users), None
    if norm is not None and len(users) == 1 and owners.get(users[0]) == norm:
        passed, users = norm, list(users[0].users)
    if len(users) != 1 or users[0].op != "call_function":
        return None
    ends = _range(users[0])
    return None if ends is None else Clip(passed, *ends)


def _range(node: Node) -> tuple[float, float] | None:
    name = plain_name(node)
    if name in FIXED:
        return FIXED[name]
    if name not in GIVEN:
        return None
    ends: list[Any] = list(GIVEN[name])
    named = {NAMES[key]: value for key, value in node.kwargs.items() if key in NAMES}
    for i, value in {**dict(enumerate(node.args[1:])), **named}.items():
        ends[i] = ends[i] if value is None else value
    low, high = ends
    plain = all(isinstance(each, int | float) for each in (low, high))
    return (float(low), float(high)) if plain and low < high else None
