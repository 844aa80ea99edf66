"""WHAT to quantize and how: the base of every training-time quantizer.

`Quantizer`, the arguments that all share, and which layer gets which fake quantizer. To add one: its fake quantizers
and its `Quantizer` in a file of this folder, one import line in `compress/config/families.py`, one test.

Two phases: `prepare` decides, makes the fake quantizers and gives their parameters to the optimizer; `convert`
exchanges the layers. Between the two the network is float, and may be pruned and thinned.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, with_config
from torch import nn
from torch.optim import Optimizer
from typing_extensions import TypedDict

from compress.errors import UserError
from compress.parameters import add_group
from compress.quantization.bias import LinearBias
from compress.quantization.convert import PiecesOf, Structure, apply, foldable, refresh_weights
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer, described
from compress.quantization.faults import (
    UNTRACED,
    computes_itself,
    faults_of_settings,
    is_on,
    reads_past,
    shared_ranges,
    too_few_bits,
    why_float,
)
from compress.quantization.modules.activations import ACTIVATIONS, UNSIGNED
from compress.quantization.modules.layers import (
    INPUT,
    LAYERS,
    OUTPUT,
    RESULT,
    bias_names,
    channel_axis,
    kind_of,
    quantized_class,
    slot_of,
    weight_names,
)
from compress.quantization.modules.norms import LateFrozen
from compress.quantization.modules.recurrent import has_bounded_state, hidden_slots
from compress.quantization.placement.fast_paths import read_by_source
from compress.quantization.placement.inputs import Graph, read_graph
from compress.quantization.placement.plain_forward import inherits_forward, is_derived
from compress.quantization.placement.signs_seen import contradicted, make_signed
from compress.selectors import ModuleOrExpression, canonical_modules, unwrapped

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


class Quantizer(ABC):
    """Exchanges layers for quantized ones. The constructor's signature is the schedule's schema.

    Attributes:
        quantizes_model_input: whether what the first layers read is quantized too.
        bits_inputs: bits of the network's input; None takes those of activations.
        group_options: of the optimizer group of the fake quantizers' parameters; None takes the optimizer's own.
        fewest_weight_bits: below which the algorithm has no weights.
        fewest_activation_bits: below which it has no activations.
        trains: whether the quantized network is trained.
        folds: whether weights are quantized as folded with the BatchNorm behind them.
        rounds_results: which layers get a fake quantizer of what they give, where nothing else rounds it before it is
            used, so that integer kernels run them: all but what alone makes the network's output, all, or none.
        freeze_bn_after: epochs after which those BatchNorms are held; None until the policy ends.
        structure: what gets what, as plain data; None before `prepare`.
        left_float: layer or activation -> why it stays float.
        notes: what the user should know, a sentence each.
        signed_later: (layer, slot) of inputs that training has shown to be negative, against the trace.
    """

    quantizes_model_input: bool = True
    fewest_weight_bits: ClassVar[int] = 1
    fewest_activation_bits: ClassVar[int] = 1
    bits_inputs: int | None = None
    folds: bool = False
    rounds_results: Literal["inner", "all", "none"] = "none"
    trains: ClassVar[bool] = True
    freeze_bn_after: int | None = None

    def __init__(
        self,
        bits_activations: Bits,
        bits_weights: Bits,
        bits_bias: Bits,
        quantize_bias: bool | None,
        overrides: Overrides,
        first_last_bits: Bits,
        example_inputs: Any,
    ) -> None:
        if quantize_bias is False and is_on(bits_bias):
            raise ValueError(f"quantize_bias is false and bits_bias is {bits_bias}; leave one of the two out")
        if quantize_bias and bits_bias is None:
            bits_bias = bits_weights
        self.bits = {"weights": bits_weights, "activations": bits_activations, "bias": bits_bias}
        self.overrides = dict(overrides or {})
        self.first_last_bits = first_last_bits
        self.example_inputs = example_inputs
        self.group_options: dict[str, float | None] = {}
        self.structure: Structure | None = None
        self.left_float: dict[str, str] = {}
        self.notes: list[str] = []
        self.signed_later: list[tuple[str, str]] = []
        self._pieces: PiecesOf = {}
        self._graph: Graph | None = None
        self._decided: tuple[nn.Module, Decision] | None = None
        self._converted = False

    # What an algorithm gives --------------------------------------------------------------------------------------

    @abstractmethod
    def weight_piece(self, bits: int, axis: int) -> FakeQuantizer:
        """The fake quantizer of a weight; `axis` is its dimension of output channels."""

    @abstractmethod
    def activation_piece(self, bits: int, signed: bool, is_input: bool) -> FakeQuantizer:
        """The fake quantizer of an activation; `is_input` for the network's input."""

    def hidden_piece(self, bits: int, bounded: bool) -> FakeQuantizer:
        """The fake quantizer of a hidden state; `bounded` where it lies in (-1, 1)."""
        return self.activation_piece(bits, True, False)

    def bias_piece(self, bits: int) -> FakeQuantizer:
        """The fake quantizer of a bias."""
        return LinearBias(bits)

    def result_piece(self) -> FakeQuantizer:
        """The fake quantizer of what a layer gives; asked where `rounds_results` is not `none`."""
        raise NotImplementedError

    def warnings(self, model: nn.Module, decided: Decision, graph: Graph | None) -> list[str]:
        """What will go wrong in training with this network, though it can be done; a sentence each."""
        return []

    # What the policy calls ----------------------------------------------------------------------------------------

    def faults(self, model: nn.Module) -> list[str]:
        """What is wrong with these settings for this model, a sentence each; asked once, before training."""
        model = unwrapped(model)
        if found := faults_of_settings(model, self.bits, self.overrides):
            return found
        try:
            decided = self._decide(model)
        except UserError as e:
            return [str(e)]
        if not decided:
            kinds = ", ".join(kind.__name__ for kind in (*LAYERS, *ACTIVATIONS))
            return [f"nothing of this {type(model).__name__} would be quantized; it takes {kinds}"]
        for name, slots in decided.items():
            for slot, spec in slots.items():
                fewest = self._fewest_bits(kind_of(slot), spec)
                found += [f"{name}: {each}" for each in too_few_bits(type(self).__name__, kind_of(slot), spec, fewest)]
        return found

    def prepare(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Decides what gets what, makes the fake quantizers and gives their parameters to the optimizer.

        Raises:
            UserError: it was called before; there are parameters to train but no optimizer.
        """
        if self.structure is not None:
            raise UserError(f"{type(self).__name__} is prepared already; make a new one for another network")
        inner = unwrapped(model)
        self._pieces = {
            name: {slot: self._piece(slot, *spec) for slot, spec in slots.items()}
            for name, slots in self._decide(inner).items()
        }
        device = next((each.device for each in (*model.parameters(), *model.buffers())), None)
        for piece in self.pieces():
            piece.to(device)
        layers = {name: {slot: described(p) for slot, p in slots.items()} for name, slots in self._pieces.items()}
        self.structure = {"layers": layers, "folded": self._foldings()}
        self._add_group(optimizer)

    def convert(self, model: nn.Module) -> Structure:
        """Exchanges the layers; returns the structure.

        Raises:
            UserError: it is not prepared, or was converted before.
        """
        if self.structure is None or self._converted:
            state = "not prepared yet" if self.structure is None else "converted already"
            raise UserError(f"{type(self).__name__} is {state}; prepare and convert are called once each")
        apply(model, self.structure, self._pieces)
        self._converted = True
        return self.structure

    def pieces(self) -> Iterator[FakeQuantizer]:
        """Every fake quantizer."""
        return (piece for slots in self._pieces.values() for piece in slots.values())

    def make_signed(self, places: Sequence[tuple[str, str]]) -> None:
        """Makes inputs signed that were taken as never negative; errors as of `signs_seen.make_signed`."""
        assert self.structure is not None, "prepared"
        make_signed(self._pieces, self.structure, places)
        self.signed_later += places

    def contradicted(self, in_training: bool = True) -> list[tuple[str, str]]:
        """(layer, slot) of inputs that have met negative values since, although the trace says that they cannot."""
        return contradicted(self._pieces, in_training)

    def ignored(self) -> dict[str, int]:
        """Activation -> minibatches that its fake quantizer did not observe, where there are any."""
        counts = {
            f"{layer}.{slot.removesuffix('_quantizer')}": int(piece.ignored)
            for layer, slots in self._pieces.items()
            for slot, piece in slots.items()
            if isinstance(piece, ActivationQuantizer)
        }
        return {name: count for name, count in counts.items() if count}

    def freeze(self, model: nn.Module) -> None:
        """Ranges, clips and steps stay as they are; folded BatchNorms use their running statistics."""
        refresh_weights(model)
        for piece in self.pieces():
            piece.freeze()
        self.hold_norms(model)

    def hold_norms(self, model: nn.Module) -> None:
        """The folded BatchNorms use their running statistics from now on."""
        for module in model.modules():
            if isinstance(module, LateFrozen) and not module.held:
                module.hold()

    def bits_table(self) -> dict[str, str]:
        """Layer -> its bits in words, such as `W4 A8`, in the network's order."""
        letters = {"weight": "W", "bias": "B", "activation": "A"}
        return {
            name: " ".join(dict.fromkeys(f"{letters[kind_of(slot)]}{piece.bits}" for slot, piece in slots.items()))
            for name, slots in self._pieces.items()
        }

    def take_folding(self, folds: bool, freeze_bn_after: int | None) -> None:
        """Takes the arguments of BatchNorm folding.

        Raises:
            ValueError: they contradict each other, or there is nothing to trace with.
        """
        if freeze_bn_after is not None and not folds:
            raise ValueError("freeze_bn_after needs fold_batchnorm: true; nothing is folded otherwise")
        if folds and self.example_inputs is None:
            raise ValueError("fold_batchnorm needs example_inputs, by which the BatchNorm behind each layer is found")
        self.folds, self.freeze_bn_after = folds, freeze_bn_after

    # Which layer gets what ----------------------------------------------------------------------------------------

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

    def _piece(self, slot: str, *spec: Any) -> FakeQuantizer:
        kind = kind_of(slot)
        if slot == RESULT:
            return self.result_piece()
        if kind == "weight":
            return self.weight_piece(*spec)
        if kind == "bias":
            return self.bias_piece(*spec)
        if slot.startswith("hidden"):
            return self.hidden_piece(spec[0], bounded=spec[2])
        return self.activation_piece(*spec)

    def _fewest_bits(self, what: str, spec: tuple[Any, ...]) -> int:
        if what == "activation":
            return max(self.fewest_activation_bits, 2 if spec[1] else 1)
        own_bias = what == "bias" and type(self).bias_piece is Quantizer.bias_piece
        return 1 if own_bias else self.fewest_weight_bits

    def _foldings(self) -> dict[str, str]:
        """Layer -> the BatchNorm that it is quantized with."""
        if not self.folds or self._graph is None:
            return {}
        pairs = [(name, norm) for name, norm in self._graph.norms.items() if norm not in self._graph.own_norms]
        return {name: norm for name, norm in pairs if "weight_quantizer" in self._pieces.get(name, {})}

    def _add_group(self, optimizer: Optimizer | None) -> None:
        parameters = {
            f"{layer}.{slot}.{own}": parameter
            for layer, slots in self._pieces.items()
            for slot, piece in slots.items()
            for own, parameter in piece.named_parameters()
        }
        if not parameters:
            return
        if optimizer is None:
            raise UserError(f"{type(self).__name__} has parameters to train; give the scheduler the optimizer")
        options = {name: value for name, value in self.group_options.items() if value is not None}
        add_group(optimizer, parameters, options)
