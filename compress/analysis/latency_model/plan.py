"""What a latency model has to time, before anything is timed: `Sweep`, and the widths of whole files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.analysis.latency_model.kernels import write_kernels
from compress.analysis.latency_model.layers import Kind, Layer
from compress.analysis.latency_model.table import Table, table_of, widths_to_measure
from compress.graph.channels import ChannelGraph

SHARES = (1.0, 0.75, 0.5, 0.25)  # of each group's channels, of whole files
DRAWN = {"float": 14, "int8": 8}  # further files, of random widths; those in integers take longer to export
CROSSES = 4  # widths at which both are smaller than full, to judge the tables


@dataclass(frozen=True)
class Sweep:
    """A kind of layer in a precision, to be timed at pairs of widths.

    Attributes:
        kind: of the layer.
        precision: `float` or `int8`.
        full: the widest input and output.
        widths: (in, out).
    """

    kind: Kind
    precision: str
    full: tuple[int, int]
    widths: tuple[tuple[int, int], ...]

    @property
    def slowest(self) -> int:
        """Place of the pair of full widths."""
        return self.widths.index((self.full[0], self.full[0]) if self.kind.groups == 0 else self.full)

    def write(self, folder: Path) -> list[Path]:
        """A file a pair."""
        return write_kernels(self.kind, self.widths, self.precision == "int8", folder)

    def table(self, times: Sequence[float]) -> Table:
        """Of the measured times, in the order of the widths."""
        samples = dict(zip(self.widths, times, strict=True))
        return table_of(samples, self.full, depthwise=self.kind.groups == 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        widths = [list(each) for each in self.widths]
        return {"kind": self.kind.to_dict(), "precision": self.precision, "full": list(self.full), "widths": widths}

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> "Sweep":
        """The sweep of `to_dict`."""
        widths = tuple((int(a), int(b)) for a, b in data["widths"])
        full = (int(data["full"][0]), int(data["full"][1]))
        return cls(Kind.of_dict(data["kind"]), str(data["precision"]), full, widths)


def sweeps_of(layers: Sequence[Layer], precisions: Sequence[str]) -> list[Sweep]:
    """One for each kind and precision, up to the widest of its layers."""
    found = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        own = [each for each in layers if each.kind == kind]
        full = max(each.channels_in for each in own), max(each.channels_out for each in own)
        widths = tuple(_widths(full, kind.groups))
        assert all(width % max(kind.groups, 1) == 0 for pair in widths for width in pair)
        found += [Sweep(kind, precision, full, widths) for precision in precisions]
    return found


def _widths(full: tuple[int, int], groups: int) -> list[tuple[int, int]]:
    """Both sweeps and a few pairs between; of grouped layers multiples of the groups."""
    if groups == 0:
        return [(each, each) for each in widths_to_measure(full[0])]
    first, second = ([each * groups for each in widths_to_measure(width // groups)] for width in full)
    shares = [(k + 1) / (CROSSES + 1) for k in range(CROSSES)]
    crosses = [
        (max(1, round(full[0] * s / groups)) * groups, max(1, round(full[1] * s / groups)) * groups) for s in shares
    ]
    pairs = [(each, full[1]) for each in first] + [(full[0], each) for each in second] + crosses
    return list(dict.fromkeys(pairs))


def removals(graph: ChannelGraph, precision: str, draw: np.random.Generator) -> list[tuple[float | None, Any]]:
    """The whole files of a precision: share of the channels, None for random ones, and the units that go."""
    found: list[tuple[float | None, Any]] = [(share, evenly(graph, share)) for share in SHARES]
    return found + [(None, drawn(graph, draw)) for _ in range(DRAWN[precision])]


def evenly(graph: ChannelGraph, share: float) -> dict[str, list[int]]:
    """Units to remove so that every prunable group keeps about a share of its own, at least one."""
    removed = {}
    for group in graph.groups(prunable_only=True):
        gone = min(group.units - max(1, round(group.units * share)), group.prunable)
        removed[group.name] = list(range(gone))
    return removed


def drawn(graph: ChannelGraph, draw: np.random.Generator) -> dict[str, list[int]]:
    """Units to remove so that groups keep random numbers around a random share; half of the times multiples of 8."""
    share, step = draw.uniform(0.2, 0.95), int(draw.choice([1, 8]))
    removed = {}
    for group in graph.groups(prunable_only=True):
        left = round(group.units * share * draw.uniform(0.6, 1.4) / step) * step
        gone = group.units - min(group.units, max(1, left))
        removed[group.name] = list(range(min(gone, group.prunable)))
    return removed
