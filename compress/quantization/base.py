"""WHAT to quantize and how: the base of every training-time quantizer.

`Quantizer`, and the arguments that all share; decision.py says which layer gets which fake quantizer. To add one: a
file of this folder with both, one import line in `compress/config/families.py`, one test.

Two phases: `prepare` decides, makes the fake quantizers and gives their parameters to the optimizer; `convert`
exchanges the layers. Between the two the network is float, and may be pruned and thinned.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from torch import nn
from torch.optim import Optimizer

from compress.arguments.checked import CheckedArguments
from compress.errors import UserError
from compress.parameters import add_group
from compress.quantization.bias import LinearBias
from compress.quantization.convert import PiecesOf, Structure, apply, refresh_weights
from compress.quantization.decision import Bits, Deciding, Decision, Overrides
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer, described
from compress.quantization.faults import (
    faults_of_settings,
    is_on,
    too_few_bits,
    too_many_bits,
    written_out,
)
from compress.quantization.modules.activations import ACTIVATIONS
from compress.quantization.modules.layers import (
    LAYERS,
    RESULT,
    kind_of,
)
from compress.quantization.modules.norms import LateFrozen
from compress.quantization.placement.inputs import Graph
from compress.quantization.placement.signs_seen import contradicted, make_signed
from compress.selectors import unwrapped


class Quantizer(CheckedArguments, Deciding, ABC):
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

    # What the policy calls ----------------------------------------------------------------------------------------

    def faults(self, model: nn.Module) -> list[str]:
        """What is wrong with these settings for this model, a sentence each; asked once, before training."""
        model = unwrapped(model)
        try:
            self.overrides = written_out(self.overrides, model)
            if found := faults_of_settings(model, self.bits, self.overrides):
                return found
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
        return found + too_many_bits(model, decided)

    def prepare(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Decides what gets what, makes the fake quantizers and gives their parameters to the optimizer.

        Raises:
            UserError: it was called before; there are parameters to train but no optimizer; an override
                matches nothing.
        """
        if self.structure is not None:
            raise UserError(f"{type(self).__name__} is prepared already; make a new one for another network")
        inner = unwrapped(model)
        self.overrides = written_out(self.overrides, inner)
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
