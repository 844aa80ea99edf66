"""`LatencyModel`: the time of a network at any widths and precisions, without running it.

    time = sum of coefficient * feature, the features of `features`: first of all the sum of the layers' table times

The coefficients, >= 0, hold what a layer alone does not show: additions, pooling, what a call costs, and that a runtime
takes slower kernels and reorders tensors where widths are not aligned. They are fitted to whole exported files of some
widths. Saved with the fingerprint of machine, runtime and threads.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from compress.analysis.latency_model.fingerprint import differences, fingerprint
from compress.analysis.latency_model.layers import Kind, Layer, layers_of, without
from compress.analysis.latency_model.table import Table, step_of, useful_widths
from compress.errors import UserError
from compress.graph.channels import ChannelGraph
from compress.graph.trace import ExampleInputs
from compress.io.files import read_text, write_json

Precision = Literal["float", "int8"]
VERSION = 1
ENOUGH = 10  # whole files, to see what alignment costs
ALIGNMENTS = (4, 16)  # of channels, as vector units have them


@dataclass(frozen=True)
class LatencyModel:
    """Predicts times.

    Attributes:
        layers: of the dense network.
        tables: (kind, precision) -> times over widths.
        rest: precision -> coefficients of `features`.
        dense_ms: measured time of the dense float file.
        origin: see `fingerprint`.
        anchors: what `rest` was fitted to: share of the channels, precision, measured and predicted milliseconds.
    """

    layers: tuple[Layer, ...]
    tables: Mapping[tuple[Kind, str], Table]
    rest: Mapping[str, tuple[float, ...]]
    dense_ms: float
    origin: Mapping[str, Any]
    anchors: tuple[dict[str, Any], ...] = ()

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that were measured."""
        return tuple(self.rest)

    def time(self, layers: Sequence[Layer], int8: Collection[str] | bool = False) -> float:
        """Milliseconds of a network of these layers.

        Args:
            layers: at their widths.
            int8: names of the layers that are quantized, or all (True) or none.

        Raises:
            UserError: a layer's kind was not measured.
        """
        quantized = [layer.name in int8 if not isinstance(int8, bool) else int8 for layer in layers]
        times = [
            self.table_for(layer, "int8" if integer else "float").time(layer.channels_in, layer.channels_out)
            for layer, integer in zip(layers, quantized, strict=True)
        ]
        found = features(layers, times)
        share = sum(quantized) / max(len(quantized), 1)
        parts = [(1 - share, "float"), (share, "int8")]
        return sum(part * float(np.dot(self.rest[name], found)) for part, name in parts if part)

    def check_is_of(self, layers: Sequence[Layer]) -> None:
        """Raises where the dense network that was measured is not that of these layers.

        Raises:
            UserError: another network, or input size.
        """
        own, given = ([replace(each, name="") for each in found] for found in (self.layers, layers))
        if own != given:
            raise UserError(
                "the latency model is of another dense network or input size: it has "
                f"{len(own)} convolutions and linear layers, {sum(a != b for a, b in zip(own, given, strict=False))} "
                f"of them unlike this network's, which has {len(given)}; measure this network"
            )

    @property
    def largest_error(self) -> float:
        """By how much, as a share, a whole file's time was predicted wrongly at most."""
        return max(self._errors, default=0.0)

    @property
    def typical_error(self) -> float:
        """The median of the same."""
        return float(np.median(self._errors)) if self.anchors else 0.0

    @property
    def is_well_founded(self) -> bool:
        """Whether each precision was fitted to enough whole files: two fit any two coefficients."""
        return all(count >= ENOUGH for count in Counter(each["precision"] for each in self.anchors).values())

    @property
    def _errors(self) -> list[float]:
        return [abs(each["predicted_ms"] / each["ms"] - 1) for each in self.anchors]

    def removed(
        self, graph: ChannelGraph, removed: Mapping[str, list[int]], int8: Collection[str] | bool = False
    ) -> float:
        """Milliseconds once units are gone."""
        return self.time(without(self.layers, graph, removed), int8)

    def ratio(
        self, graph: ChannelGraph, removed: Mapping[str, list[int]], int8: Collection[str] | bool = False
    ) -> float:
        """The same over the dense float network's."""
        return self.removed(graph, removed, int8) / self.time(self.layers)

    def of_network(
        self, model: nn.Module, example_inputs: ExampleInputs, int8: Collection[str] | bool = False
    ) -> float:
        """Milliseconds of a network that was thinned, float as a module, for the inputs of the model's measurement."""
        return self.time(layers_of(model, example_inputs), int8)

    def steps(self, graph: ChannelGraph, int8: bool = False) -> dict[str, tuple[list[int], int]]:
        """Prunable group -> the widths that are worth having on this machine, and their common step."""
        return self.steps_of(self.layers, graph, int8)

    def steps_of(
        self, layers: Sequence[Layer], graph: ChannelGraph, int8: bool = False
    ) -> dict[str, tuple[list[int], int]]:
        """The same of a network of these layers, which the graph is of: one group narrower at a time."""
        found = {}
        for group in graph.groups(prunable_only=True):
            narrower = [without(layers, graph, {group.name: list(range(n))}) for n in range(group.units - 1, -1, -1)]
            widths = useful_widths([self.time(each, int8) for each in narrower])
            found[group.name] = widths, step_of(widths, group.units)
        return found

    def table_for(self, layer: Layer, precision: str) -> Table:
        """The times of a layer's kind; those in float where it has none in integers.

        Raises:
            UserError: the kind was not measured.
        """
        table = self.tables.get((layer.kind, precision)) or self.tables.get((layer.kind, "float"))
        if table is None:
            raise UserError(
                f"the latency model has no table of {layer.kind} ({layer.name}): it is of another network or input "
                "size; measure it again"
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        tables = [
            {"kind": kind.to_dict(), "precision": precision, **table.to_dict()}
            for (kind, precision), table in self.tables.items()
        ]
        return {
            "version": VERSION,
            "origin": dict(self.origin),
            "dense_ms": self.dense_ms,
            "rest": {name: list(each) for name, each in self.rest.items()},
            "layers": [layer.to_dict() for layer in self.layers],
            "anchors": list(self.anchors),
            "tables": tables,
        }

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> "LatencyModel":
        """The model of `to_dict`."""
        layers = tuple(Layer.of_dict(each) for each in data["layers"])
        tables = {(Kind.of_dict(each["kind"]), str(each["precision"])): Table.of_dict(each) for each in data["tables"]}
        rest = {str(name): tuple(map(float, each)) for name, each in data["rest"].items()}
        return cls(layers, tables, rest, float(data["dense_ms"]), dict(data["origin"]), tuple(data["anchors"]))

    def save(self, path: Path) -> None:
        """Writes everything as JSON."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path, here: bool = True) -> "LatencyModel":
        """The model of a file.

        Args:
            path: of `save`.
            here: refuse one of another machine, runtime version or number of threads.

        Raises:
            UserError: it cannot be read, or is of another machine.
        """
        try:
            found = cls.of_dict(json.loads(read_text(path)))
            now = fingerprint(found.origin["runtime"], found.origin["threads"]) if here else {}
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise UserError(f"{path} is no latency model: {str(e)[:200]}; measure it again") from e
        if differ := differences(dict(found.origin), now):
            raise UserError(f"{path} was measured elsewhere: {'; '.join(differ)}; measure it here")
        return found


def features(layers: Sequence[Layer], times: Sequence[float]) -> np.ndarray:
    """What a network's time is made of, shape (3 + 2 * len(ALIGNMENTS),).

    The sum of the layers' times in milliseconds; 1; elements of their outputs; for each alignment the time of the
    layers, and the elements, of which a width is not a multiple of it.

    Args:
        layers: at their widths.
        times: of the tables.
    """
    elements = [layer.positions * layer.channels_out for layer in layers]
    found = [sum(times), 1.0, float(sum(elements))]
    for alignment in ALIGNMENTS:
        off = [bool(layer.channels_in % alignment or layer.channels_out % alignment) for layer in layers]
        found.append(sum(time for time, each in zip(times, off, strict=True) if each))
        found.append(float(sum(count for count, each in zip(elements, off, strict=True) if each)))
    return np.array(found)
