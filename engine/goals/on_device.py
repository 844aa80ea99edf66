"""Goals by what a bundle's `measure.py` measured on a device: `on_device`; and `check_devices` before a training."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from compress.analysis.latency_model.carried import inputs_of, read_model
from compress.analysis.latency_model.layers import layers_of
from compress.errors import UserError
from compress.goals.goal import LATENCY, Goal
from compress.goals.judge import Value
from compress.goals.latency import median_noise

DENSE, NETWORK = "dense", "network"  # names of the networks of a bundle


def on_device(goal: Goal, device: Mapping[str, Any]) -> Value | str:
    """The value of a goal on time or on integer layers, or why the device's results have none.

    Args:
        goal: its runtime counts.
        device: of `read_device_results`.
    """
    own = [row for row in device["rows"] if row["network"] == NETWORK]
    rows = [row for row in own if row["runtime"] == goal.runtime]
    if not rows:
        known = ", ".join(dict.fromkeys(row["runtime"] for row in own))
        return f"the device's results are of {known or 'other networks'}, not of {goal.runtime}"
    row = rows[0]  # of several precisions the runtime's default is the first
    if row["error"]:
        return f"on the device: {row['error']}"
    if row.get("wrong"):  # results of an older measure.py lack it
        return f"on the device: {row['wrong']}"
    if goal.metric == LATENCY:
        return _time(row, device)
    if not row["layers"]:
        return "the network is not quantized"
    if row["integer"] is None:
        return f"{goal.runtime} does not report which layers it computes in integers"
    return Value(float(len(row["layers"]) - row["integer"]), note=f"of {len(row['layers'])}, on the device")


def _time(row: Mapping[str, Any], device: Mapping[str, Any]) -> Value | str:
    if row["ratio"] is None:
        return "the dense network was not measured on the device in the same runtime"
    low, high = row.get("ratio_low"), row.get("ratio_high")
    how, machine = device["how"], device["machine"]
    noise = 0.0 if low is None or high is None else median_noise(low, high, how["rounds"])
    threads = f"{how['threads']} thread{'s' * (how['threads'] != 1)}"
    where = machine["cpu"] or machine["machine"] or machine["system"]
    note = f"measured on the device, {where}, {machine['date']}: {how['rounds']} rounds in turns, {threads}, "
    note += f"floats in {row['precision']}"
    return Value(row["ratio"], noise, low, high, note)


def check_devices(goals: Sequence[Goal], dense: nn.Module) -> None:
    """Whether the times of layers that goals name are those of this network.

    Args:
        goals: of a schedule.
        dense: the network before anything is removed; left as it is.

    Raises:
        UserError: they are of another network.
    """
    for goal in goals:
        if goal.device is None:
            continue
        model = read_model(goal.device)
        try:
            model.check_is_of(layers_of(copy.deepcopy(dense).cpu().eval(), inputs_of(model)))
        except UserError as e:
            raise UserError(f"{goal}: {goal.device} has the times of another network's layers: {e}") from e
