"""What this machine can do, and where a network's layers stand below its roof.

Two short measurements and the plot. Called by `macs_display`.

The roofline model (Williams et al. 2009, CACM 52:4): a layer of arithmetic intensity I runs at no more than
min(peak, I * bandwidth). The plot shows that bound for each layer, not a measured speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from compress.analysis.macs.layers import MacsTable, layer_label
from compress.export.timing import threads_text
from compress.io.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_NAMED, MOST_AT_A_SPOT = 20, 6  # layers


@dataclass(frozen=True)
class Machine:
    """A device as measured.

    Attributes:
        device: `cpu`, or the name of the GPU.
        threads: CPU threads of torch.
        flops: of a float32 matrix product, a second.
        bandwidth: bytes a second of a copy, read and write together.
    """

    device: str
    threads: int
    flops: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """The intensity from which on arithmetic is the limit, floating point operations a byte."""
        return self.flops / self.bandwidth

    def bound(self, intensity: float) -> float:
        """The most floating point operations a second at that intensity."""
        return min(self.flops, intensity * self.bandwidth)


def measure_machine(device: torch.device, side: int = 768, megabytes: int = 64) -> Machine:
    """Times a matrix product and a copy, the best of five each; a fraction of a second.

    Args:
        device: to measure.
        side: of the square float32 matrices.
        megabytes: that are copied; more than the caches hold.
    """
    left, right = (torch.ones(side, side, device=device) for _ in range(2))
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: torch.mm(left, right), device)
    copy = _best(lambda: target.copy_(source), device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Machine(name, torch.get_num_threads(), 2 * side**3 / product, 2 * source.nbytes / copy)


def _best(act: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Seconds of the fastest round; the first call only warms up."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def draw_roofline(table: MacsTable, machine: Machine, path: Path) -> None:
    """Writes the layers below the roof as PNG: a dot a layer, its area the share of MACs, the largest ones listed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    layers = table.layers[table.layers["intensity"] > 0]
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    lowest = min([machine.ridge, *layers["intensity"]]) / 2
    highest = max([machine.ridge, *layers["intensity"]]) * 2
    corners = [lowest, machine.ridge, highest]
    axes.plot(corners, [machine.bound(each) / 1e9 for each in corners], color="black", label="roof, as measured")
    axes.axvline(machine.ridge, color="gray", linestyle=":", label=f"ridge: {machine.ridge:.1f} FLOP/byte")
    memory = layers["intensity"] < machine.ridge
    for bound, part in (("memory", layers[memory]), ("arithmetic", layers[~memory])):
        share = 100 * part["share"].sum()
        heights = [machine.bound(each) / 1e9 for each in part["intensity"]]
        label = f"bound by {bound}: {share:.0f} % of the MACs"
        axes.scatter(part["intensity"], heights, s=20 + 500 * part["share"], alpha=0.5, label=label)
    _name_layers(axes, layers, machine)
    axes.set(xscale="log", yscale="log", xlabel="arithmetic intensity, FLOP/byte", ylabel="bound, GFLOP/s")
    axes.set_title(f"Roofline of {machine.device}, {threads_text(machine.threads)}: bounds, not measured speeds")
    heights = [machine.bound(each) / 1e9 for each in (lowest, *layers["intensity"])]
    axes.set_xlim(lowest, highest)
    axes.set_ylim(min(heights) / 1.5, machine.flops / 1e9 * 3)  # room for circles and for names above them
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right", fontsize="small", markerscale=0.5)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _name_layers(axes: Axes, layers: pd.DataFrame, machine: Machine) -> None:
    """Numbers the largest layers where they stand, those close together at one spot, and lists them on the right."""
    largest = layers.sort_values("share", ascending=False, kind="stable").head(MOST_NAMED).reset_index(drop=True)
    lines = [f"{i}  {layer_label(layer)}, {100 * layer['share']:.1f} %" for i, layer in largest.iterrows()]
    lines += [f"and {len(layers) - len(largest)} smaller ones"] * (len(layers) > len(largest))
    axes.text(
        1.02, 1.0, "\n".join(["share of the MACs", *lines]), transform=axes.transAxes, va="top", fontsize="x-small"
    )
    places = np.log10(largest["intensity"].to_numpy(dtype=float)).round(1)  # numbers closer than this would overlap
    for _, near in largest.groupby(places, sort=False):
        intensity = near["intensity"].iloc[0]
        text = ", ".join(map(str, near.index[:MOST_AT_A_SPOT])) + (", ..." if len(near) > MOST_AT_A_SPOT else "")
        spot = (intensity, machine.bound(intensity) / 1e9)
        axes.annotate(text, spot, (4, -14), textcoords="offset points", rotation=-55, rotation_mode="anchor",
                      va="center", fontsize="x-small")  # fmt: skip
