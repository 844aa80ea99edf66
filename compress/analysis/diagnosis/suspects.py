"""From figures of a layer to what is wrong with it, in words, with the remedy.

`figures_of` a layer alone, `suspect_of` the figures. A layer is named where it loses clearly more than its bits have
to lose: `LOST` decibels beyond what the best ranges for the same bits would lose, or where it computes something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.quantization.fake_quant import ActivationQuantizer
from compress.quantization.modules.activations import QuantActivation
from compress.quantization.modules.layers import INPUT, OUTPUT, QuantLayer

LOST = 10.0  # dB beyond the best ranges, 1.7 bits
HALF = 3.0  # dB: twice the noise
ELSE = 18.0  # dB below which a layer of good ranges does not compute the same, where rounding's own share of the
# result is not known: a sum of many signs loses more than its parts
EXACT = 100.0  # dB from which on nothing was rounded
QUIET = 30.0  # dB of signal to noise from which on nothing is worth naming
LOSSY = 20.0  # dB of the network's output below which bits that are too few are worth naming
WIDE = 8  # bits that are never too few
MOST_COSTLY = 3  # layers named for their bits: the next diagnosis, with more bits in these, names the next ones
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # of the range, tried for the best


@dataclass(frozen=True)
class Suspect:
    """A layer that loses too much.

    Attributes:
        layer: its name.
        cause: one sentence.
        remedy: what to do, in words.
        overrides: for the quantizer's `overrides`; None where they do not help.
        severity: decibels lost beyond what the bits have to lose; suspects are ranked by it.
        where: `simulation`, or the name of a file.
    """

    layer: str
    cause: str
    remedy: str
    severity: float
    overrides: dict[str, Any] | None = None
    where: str = "simulation"


def decibels(signal: Tensor, other: Tensor) -> float:
    """Signal-to-quantization-noise ratio of `other` as `signal`, at most 200 dB."""
    noise = (signal.double() - other.double()).square().sum()
    power = signal.double().square().sum()
    if not bool(torch.isfinite(noise)):
        return -200.0
    if power == 0:
        return 200.0 if noise == 0 else -200.0
    return float((10 * torch.log10(power / noise.clamp_min(power * 1e-20))).clamp(-200, 200))


def weight_figures(layer: QuantLayer, dense: Tensor) -> dict[str, float]:
    """Of a quantized weight against the float one.

    Returns:
        `bits_weights`; `weight_db`: signal to noise, mean over channels; `weight_best_db`: of the best ranges per
        channel with as many bits; `spread`: the widest channel's range over the median one's; `dead_channels`: share
        that is 0 now and was not; where the weight was rounded for good, `baked_db`: what
        rounding to these steps, up or down, can have lost.
    """
    piece, axis = layer.weight_quantizer, layer.channel_axis
    if piece is None:
        return {}
    scale = layer.fold_scale()
    values = layer.quantized_weight().detach()
    dense = dense.to(values)
    rows, quantized = dense.movedim(axis, 0).flatten(1), values.movedim(axis, 0).flatten(1)
    alive = quantized.abs().amax(1) > 0
    died = (~alive) & (rows.abs().amax(1) > 0)
    ranges = (rows if scale is None else rows * scale.movedim(axis, 0).flatten(1)).abs().amax(1)
    kept = rows * alive.unsqueeze(1)  # masked channels are no loss
    grid, lost = piece.grid(), _mean_decibels(kept, quantized)
    baked = {} if grid is None or lost < EXACT else {"baked_db": _of_steps(kept, grid.scale.flatten())}
    return baked | {
        "bits_weights": piece.bits,
        "weight_db": lost,
        "weight_best_db": _mean_decibels(kept, _best_symmetric(kept, piece.bits)),
        "spread": float(ranges.max() / ranges.median().clamp_min(1e-12)),
        "dead_channels": float(died.double().mean()),
    }


def _mean_decibels(rows: Tensor, other: Tensor) -> float:
    """Of the mean over channels of noise over signal, so that narrow channels count as much as wide ones."""
    power = rows.double().square().sum(1)
    noise = (rows.double() - other.double()).square().sum(1)
    alive = power > 0
    if not bool(alive.any()):
        return 200.0
    return float((-10 * torch.log10((noise[alive] / power[alive]).mean().clamp_min(1e-20))).clamp(-200, 200))


def _of_steps(rows: Tensor, step: Tensor) -> float:
    """Signal to noise of rows (channels, weights) after a rounding up or down: errors even in +- one step (1,) or (n,).

    GPTQ and AdaRound choose among neighbours, so that the error's mean square is a third of the step's.
    """
    power = rows.double().square().mean(1)
    alive = power > 0
    noise = (step.to(power).square() / 3).expand_as(power)
    if not bool(alive.any()):
        return 200.0
    return float((-10 * torch.log10((noise[alive] / power[alive]).mean().clamp_min(1e-20))).clamp(-200, 200))


def _best_symmetric(rows: Tensor, bits: int) -> Tensor:
    steps = max(2 ** (bits - 1) - 1, 1)
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / steps
    return (rows / scale).round().clamp(-steps, steps) * scale


def activation_figures(piece: ActivationQuantizer, values: Tensor) -> dict[str, float]:
    """Of a rounded activation, on values as they are before it.

    Returns:
        `bits_activations`; `clipped`: share of values beyond the range; `used`: the largest value over the range's end;
        `act_db`: signal to noise; `cut_db`: of cutting off alone; `act_best_db`: of the best range with as many bits.
    """
    grid = piece.grid()
    if grid is None or grid.axis is not None:
        return {}
    low, high = piece.clip_range()
    step = float(grid.scale)
    values = values.clamp_min(0) if not piece.signed else values
    rounded = ((values / step).round() * step).clamp(low, high)
    outside = (values < low - step) | (values > high + step)
    reach = max(high, -low, 1e-12)
    return {
        "bits_activations": piece.bits,
        "clipped": float(outside.double().mean()),
        "used": float(values.abs().max()) / reach,
        "act_db": decibels(values, rounded),
        "cut_db": decibels(values, values.clamp(low, high)),
        "act_best_db": _best_range(values, piece.bits),
    }


def _best_range(values: Tensor, bits: int) -> float:
    low, high = values.min().clamp_max(0), values.max().clamp_min(0)
    found = []
    for part in SHRINKS:
        step = ((high - low) * part).clamp_min(1e-12) / (2**bits - 1)
        zero = (-low * part / step).round()
        found.append(decibels(values, ((values / step).round().clamp(-zero, 2**bits - 1 - zero)) * step))
    return max(found)


def simulation_suspects(name: str, module: nn.Module, row: dict[str, float]) -> list[Suspect]:
    """What is wrong with a layer or an activation, most severe first."""
    found = [*_weight_suspects(name, row), *_range_suspects(name, module, row)]
    unexplained = row.get("own_db", 200.0)
    explained = min(row.get(key, 200.0) for key in ("weight_db", "baked_db", "act_db", "result_db"))
    # What rounding alone leaves of the result is known exactly, unless the weight itself was rounded for good.
    known = row["rounding_db"] if "rounding_db" in row and row.get("weight_db", 0.0) < EXACT else None
    if unexplained < min(explained - LOST, ELSE) or (known is not None and unexplained < min(known - LOST, QUIET)):
        explained = explained if known is None else known
        cause = (
            f"it computes something else than the float layer: {unexplained:.0f} dB on the float network's own inputs, "
            f"where rounding alone leaves {explained:.0f} dB"
        )
        remedy = "look for a BatchNorm that was neither folded nor kept, an activation that got lost, a changed bias"
        found.append(Suspect(name, cause, remedy, explained - unexplained + LOST))
    return sorted(found, key=lambda each: -each.severity)


def _weight_suspects(name: str, row: dict[str, float]) -> list[Suspect]:
    if "weight_db" not in row:
        return []
    found = []
    lost = row["weight_best_db"] - row["weight_db"]
    if row["dead_channels"] > 0:
        cause = f"{100 * row['dead_channels']:.0f} % of its channels are rounded to 0"
        remedy = "a scale per channel (per_channel_wts)"
        found.append(Suspect(name, cause, remedy, max(lost, LOST) + 5, _more_bits(name, row, "bits_weights")))
    if lost > LOST and row["weight_db"] < QUIET:
        wide = row["spread"] > 4
        cause = (
            f"its weight has one scale for channels whose ranges differ {row['spread']:.0f} times"
            if wide
            else "its weight's scale does not fit the weight"
        )
        cause += f": {row['weight_db']:.0f} dB where its bits allow {row['weight_best_db']:.0f}"
        remedy = "per_channel_wts: true, or equalization: true" if wide else "calibrate again, or train on with it"
        found.append(Suspect(name, cause, remedy, lost, _more_bits(name, row, "bits_weights")))
    return found


def _more_bits(name: str, row: Mapping[str, float], key: str) -> dict[str, Any] | None:
    """Overrides that give a layer 8 bits; None where it has them."""
    return {name: {key: 8}} if row.get(key, 8) < 8 else None


def _range_suspects(name: str, module: nn.Module, row: dict[str, float]) -> list[Suspect]:
    if "act_db" not in row:
        return []
    lost = row["act_best_db"] - row["act_db"]
    what = "its input" if isinstance(module, QuantLayer) else "it"
    if lost <= LOST or row["act_db"] >= QUIET:
        return []
    overrides = _more_bits(name, row, "bits_activations")
    if row["cut_db"] < row["act_db"] + HALF:
        cause = (
            f"{what} is cut off: {100 * row['clipped']:.2g} % of values lie beyond the range, the largest "
            f"{row['used']:.3g} times as far out as its end"
        )
        remedy = "a wider range: clip_acts: NONE, more calibration data, or a slower ema_decay"
    elif row["used"] < 0.25:
        cause = f"{what} uses {100 * row['used']:.0f} % of its range, so most of its bits are lost"
        remedy = "a narrower range: clip_acts: GAUSS or AVG, or calibrate on data like those in use"
    else:
        cause = f"{what} is rounded too coarsely: {row['act_db']:.0f} dB where its bits allow {row['act_best_db']:.0f}"
        remedy = "another clip_acts" + (", or more bits for this layer" if overrides else "")
    return [Suspect(name, cause, remedy, lost, overrides)]


def costly_layers(rows: Sequence[Mapping[str, Any]]) -> list[Suspect]:
    """Where no layer loses more than its bits have to: those whose few bits cost most.

    Args:
        rows: of a diagnosis, in the order of execution.

    Returns:
        at most `MOST_COSTLY` layers that keep less than `LOSSY` dB by themselves with fewer than `WIDE` bits, the one
        that loses most first. Where the network's output keeps more than that, only those that lose `LOST` dB more than
        the middle one of all layers.
    """
    last = next((row["db"] for row in reversed(rows) if "db" in row), 200.0)
    own = sorted(row["own_db"] for row in rows if "own_db" in row)
    bound = LOSSY if last < LOSSY or not own else min(LOSSY, own[len(own) // 2] - LOST)
    few = [row for row in rows if row.get("own_db", 200.0) < bound and _narrow(row)]
    return [_costly(row) for row in sorted(few, key=lambda row: row["own_db"])[:MOST_COSTLY]]


def _narrow(row: Mapping[str, Any]) -> dict[str, int]:
    """Bits of a row that are fewer than `WIDE`, and what they round loses."""
    losses = {"bits_weights": "weight_db", "bits_activations": "act_db"}
    return {key: row[key] for key, db in losses.items() if row.get(key, WIDE) < WIDE and row[db] < QUIET}


def _costly(row: Mapping[str, Any]) -> Suspect:
    bits = _narrow(row)
    words = " and ".join(f"{count} bits for its {key.removeprefix('bits_')}" for key, count in bits.items())
    cause = f"it keeps {row['own_db']:.0f} dB by itself, with ranges that fit: {words} are few"
    more = {row["layer"]: dict.fromkeys(bits, WIDE)}
    return Suspect(row["layer"], cause, f"{WIDE} bits, or train on with its bits", QUIET - row["own_db"], more)


def slot_piece(module: nn.Module) -> ActivationQuantizer | None:
    """The fake quantizer of what a layer reads or an activation gives."""
    slot = OUTPUT if isinstance(module, QuantActivation) else INPUT
    piece = getattr(module, slot, None)
    return piece if isinstance(piece, ActivationQuantizer) else None
