"""Which layer gets which fake quantizer: the bits of settings and overrides, the traced graph, what has to stay float.

`Deciding`, the part of a `Quantizer` that answers it, and the types of its arguments. Nothing is changed here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, with_config
from torch import nn
from typing_extensions import TypedDict

from compress.quantization.convert import foldable
from compress.quantization.faults import (
    UNTRACED,
    computes_itself,
    is_on,
    reads_past,
    shared_ranges,
    why_float,
)
from compress.quantization.modules.activations import ACTIVATIONS, UNSIGNED
from compress.quantization.modules.layers import (
    INPUT,
    OUTPUT,
    RESULT,
    bias_names,
    channel_axis,
    quantized_class,
    slot_of,
    weight_names,
)
from compress.quantization.modules.recurrent import has_bounded_state, hidden_slots
from compress.quantization.placement.fast_paths import read_by_source
from compress.quantization.placement.inputs import Graph, read_graph
from compress.quantization.placement.plain_forward import inherits_forward, is_derived
from compress.selectors import ModuleOrExpression, canonical_modules

RESULT_BITS = 8  # of what integer kernels give
Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8, 16, 32] | None


@with_config(ConfigDict(extra="forbid", strict=True))
class LayerBits(TypedDict, total=False):
    """Bits of one layer, where they differ from the others'; null or 32 leaves it float."""

    bits_weights: Bits
    bits_activations: Bits
    bits_bias: Bits


Override = Bits | LayerBits
Decision = dict[str, dict[str, tuple[Any, ...]]]  # layer -> slot -> what `Quantizer._piece` takes
Overrides = dict[ModuleOrExpression, Override] | None


class Deciding:
    """What a quantizer's settings mean for a model: layer -> slot -> what its fake quantizer is made with.

    Attributes:
        left_float: layer, or a slot of it, that stays float -> why.
        notes: what is worth a warning, a sentence each.
    """

    quantizes_model_input: bool
    bits_inputs: int | None
    rounds_results: str
    trains: ClassVar[bool]
    bits: dict[str, Bits]
    overrides: dict[str, Override]
    first_last_bits: Bits
    example_inputs: Any
    left_float: dict[str, str]
    notes: list[str]
    _graph: Graph | None
    _decided: tuple[nn.Module, Decision] | None

    def warnings(self, model: nn.Module, decided: Decision, graph: Graph | None) -> list[str]:
        """What will go wrong in training with this network, though it can be done; a sentence each."""
        return []

    def _decide(self, model: nn.Module) -> Decision:
        """What each layer gets; a model is traced once for the checks and for the real thing."""
        # The schedule's checks ask first, then `prepare`: the trace is slow, and is made once.
        if self._decided is None or self._decided[0] is not model:
            self._decided = (model, self._decide_anew(model))
        return self._decided[1]

    def _decide_anew(self, model: nn.Module) -> Decision:
        self.left_float, self.notes = {}, []
        modules = {name: each for name, each in canonical_modules(model).items() if name}
        layers = {name: each for name, each in modules.items() if self._takes(name, each)}
        bits = {name: self._bits(name, "activations") for name in modules}
        acting = {name: each for name, each in modules.items() if type(each) in ACTIVATIONS}
        chosen = {name for name in acting if is_on(bits[name])}
        graph = self._graph = self._read(model, layers, chosen, set(acting) - chosen)
        self._leave_derived(layers, graph)
        self._leave_read_past(layers, graph.outside if graph is not None else read_by_source(model))
        folded = set(graph.norms.values()) if graph is not None else set()
        decided: Decision = {}
        for name, module in modules.items():
            slots: dict[str, tuple[Any, ...]] = {}
            if name in layers:
                slots = self._layer_slots(name, module, graph, list(layers))
            elif name in chosen:
                slots = self._activation_slots(name, module, graph, bits[name])
            elif name in acting:
                self.left_float[name] = "activations stay float here"
            elif any(True for _ in module.parameters(recurse=False)) and not foldable(module) and name not in folded:
                self.left_float.setdefault(name, f"{type(module).__name__} has no quantized form")
            if slots:
                decided[name] = slots
        for layer, holder in self._results(graph).items():
            if self._in_integers(layer, decided.get(layer, {})):
                decided.setdefault(holder, {})[RESULT] = (RESULT_BITS, True, False)
        self.notes += self.warnings(model, decided, graph)
        return decided

    def _activation_slots(
        self, name: str, module: nn.Module, graph: Graph | None, bits: int | None
    ) -> dict[str, tuple[Any, ...]]:
        if graph is None or name in graph.useful:
            return {OUTPUT: (bits, not isinstance(module, UNSIGNED), False)}
        by_readers = name in graph.by_readers
        self.left_float[name] = (
            "the layers that read it round it" if by_readers else "no quantized layer reads its output"
        )
        return {}

    def _results(self, graph: Graph | None) -> dict[str, str]:
        """Layer whose result nothing rounds before it is used -> the module that is to round it.

        That is the BatchNorm behind it, if there is one, because exporters fold it into the layer.
        """
        if graph is None or self.rounds_results == "none":
            return {}
        ends = set() if self.rounds_results == "all" else graph.last
        return {name: norm or name for name, norm in graph.open_results.items() if name not in ends}

    def _in_integers(self, name: str, slots: Mapping[str, tuple[Any, ...]]) -> bool:
        """Whether weight and input of a layer have a grid of at most 8 bits."""
        bits = self._bits(name, "activations")
        weight = slots.get("weight_quantizer")
        return weight is not None and weight[0] <= RESULT_BITS and is_on(bits) and bits is not None and bits <= 8

    def _read(self, model: nn.Module, layers: Any, chosen: set[str], left: set[str]) -> Graph | None:
        if self.example_inputs is None:
            if is_on(self.bits["activations"]):
                self.notes.append(UNTRACED)
            return None
        graph = read_graph(model, self.example_inputs, layers, chosen, left, self.trains)
        self.notes += graph.notes
        self.notes += shared_ranges([name for name in graph.calls if name in chosen & graph.useful], graph.calls)
        return graph

    def _leave_read_past(self, layers: dict[str, nn.Module], outside: Mapping[str, str]) -> None:
        """Leaves float, and takes out of `layers`, those whose weight another module reads past the quantizer."""
        for name in [name for name in layers if name in outside]:
            reader = outside[name] or "the network"
            self.left_float[name] = f"{reader} computes with its weight itself"
            self.notes.append(reads_past(name, reader))
            del layers[name]

    def _leave_derived(self, layers: dict[str, nn.Module], graph: Graph | None) -> None:
        """Leaves float, and takes out of `layers`, those of a derived class that do more than pad and compute."""
        for name in [name for name, module in layers.items() if is_derived(module)]:
            if not (inherits_forward(layers[name]) if graph is None else name in graph.derived):
                self.left_float[name] = computes_itself(layers[name], traced=graph is not None)
                del layers[name]

    def _takes(self, name: str, module: nn.Module) -> bool:
        """Whether a module is a layer that is quantized at all."""
        if quantized_class(module) is None:
            return False
        why = why_float(name, module, self.overrides)
        if why:
            self.left_float[name] = why
        return not why

    def _layer_slots(
        self, name: str, module: Any, graph: Graph | None, layers: list[str]
    ) -> dict[str, tuple[Any, ...]]:
        order = graph.order if graph is not None and graph.order else layers
        # The order of execution where there is a trace; else that of registration, which can differ.
        ends = (order[0], order[-1]) if order else ()
        weights = self._bits(name, "weights", at_end=name in ends)
        slots: dict[str, tuple[Any, ...]] = {}
        if is_on(weights):
            slots |= {slot_of(own): (weights, channel_axis(module)) for own in weight_names(module)}
        else:
            self.left_float |= {f"{name}.{own}": "its bits are 32" for own in weight_names(module)}
        bias = self._bits(name, "bias")
        if is_on(bias):
            slots |= {slot_of(own): (bias,) for own in bias_names(module) if getattr(module, own, None) is not None}
        reading = self._reading_slot(name, module, graph, first=bool(order) and name == order[0])
        if reading is not None:
            slots[INPUT] = reading
        hidden = self._bits(name, "activations")
        if is_on(hidden):
            slots |= dict.fromkeys(hidden_slots(module), (hidden, True, has_bounded_state(module)))
        return slots

    def _reading_slot(self, name: str, module: nn.Module, graph: Graph | None, first: bool) -> tuple[Any, ...] | None:
        """The fake quantizer of what a layer reads, unless it was quantized where it was made."""
        bits = self._bits(name, "activations")
        if isinstance(module, nn.Embedding) or not is_on(bits):
            return None
        if graph is None:
            return (self.bits_inputs or bits, True, True) if first and self.quantizes_model_input else None
        readings = graph.readings.get(name)
        if readings is None:
            self.left_float[f"{name}.input"] = "the traced forward pass does not call it"
            return None
        is_input = all(each.is_input for each in readings)
        if is_input and not self.quantizes_model_input:
            self.left_float[f"{name}.input"] = "the network's input"
        elif any(each.left_float for each in readings):
            self.left_float[f"{name}.input"] = "its activation stays float"
        # One call that reads values not yet rounded is enough: the
        # layer then rounds all that it reads (see `by_readers`).
        elif not all(each.quantized for each in readings):
            width = (self.bits_inputs or bits) if is_input else bits
            return (width, any(each.signed for each in readings), is_input) if is_on(width) else None
        return None

    def _bits(self, name: str, kind: str, at_end: bool = False) -> int | None:
        override = self.overrides.get(name, {})
        if not isinstance(override, dict):
            # A bare number or null is for weights and activations; a bias follows only in staying float.
            return override if kind != "bias" else (self.bits["bias"] if is_on(override) else None)
        default = self.first_last_bits if at_end and self.first_last_bits is not None else self.bits[kind]
        return override.get(f"bits_{kind}", default)  # type: ignore[return-value]
