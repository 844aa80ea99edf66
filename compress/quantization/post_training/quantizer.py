"""`PostTrainLinearQuantizer`: a trained network -> one of integers, by calibration alone.

The arguments and the order of the steps.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, with_config
from torch import nn

from compress.arguments.checked import checks_arguments
from compress.calibration.samples import finite_samples
from compress.errors import UserError
from compress.graph.modes import uncached_autocast
from compress.parameters import copied
from compress.quantization.base import Quantizer
from compress.quantization.convert import structure_of
from compress.quantization.decision import RESULT_BITS, Bits, LayerBits
from compress.quantization.fake_quant import ActivationQuantizer, FakeQuantizer
from compress.quantization.faults import uninitialized
from compress.quantization.modules.activations import QuantActivation
from compress.quantization.modules.layers import INPUT, RESULT, QuantLayer, channel_axis, kind_of
from compress.quantization.modules.recurrent import is_recurrent
from compress.quantization.post_training.bias_correction import correct_biases
from compress.quantization.post_training.equalization import equalize, find_pairs
from compress.quantization.post_training.folding import fold_batch_norms, same_outputs
from compress.quantization.post_training.ranges import (
    NEED_HISTOGRAM,
    OF_WEIGHTS,
    Clipping,
    Method,
    activation_range,
    weight_range,
)  # fmt: skip
from compress.quantization.post_training.refine import refine_ranges
from compress.quantization.post_training.replay import set_aside
from compress.quantization.post_training.rounding.adaround import adaround
from compress.quantization.post_training.rounding.candidates import LayerResult
from compress.quantization.post_training.rounding.gptq import gptq
from compress.quantization.post_training.statistics import TensorStatistics, observe
from compress.quantization.post_training.statistics_file import read_statistics, write_statistics
from compress.quantization.range_linear import RESULT_MODE, Modes, RangeActivation, RangeWeight
from compress.quantization.range_numbers import Mode, scale_and_zero
from compress.registry import QUANTIZERS
from compress.selectors import ModuleOrExpression, submodule, unwrapped

logger = logging.getLogger("compress")


@with_config(ConfigDict(extra="forbid", strict=True))
class LayerSettings(LayerBits, total=False):
    """What may differ for one layer."""

    clip_acts: Method
    clip_n_stds: Annotated[float, Field(gt=0.0)]
    mode: Mode | Modes
    per_channel_wts: bool


LayerOverrides = dict[ModuleOrExpression, Bits | LayerSettings] | None


@QUANTIZERS.register
class PostTrainLinearQuantizer(Quantizer):
    """A trained network rounded to linear grids, their ranges found on a few batches of training data.

    Arguments as in Distiller where it has them; it has no policy, `python test.py --quantize=FILE` applies it. Papers:
    Krishnamoorthi 2018, arXiv 1806.08342 (ranges, per channel, folding); Banner et al. 2018, arXiv 1810.05723 (ACIQ);
    Nagel et al. 2019, arXiv 1906.04721 (equalization, bias correction); Nagel et al. 2020, arXiv 2004.10568 (AdaRound);
    Frantar et al. 2022, arXiv 2210.17323 (GPTQ);
    Migacz 2017, "8-bit inference with TensorRT" (KL). What differs from Distiller: an activation that is never negative
    in calibration has a range from 0 in the symmetric modes too, so all its integers are used; `AVG` is a true mean
    over samples; the calibration data are training data.

    When to use: 8 bits without training; with per channel weights and AdaRound often 4 bits for weights. Quantize in
    training where it costs too much.

    Sample:
        quantizers:
          ptq:
            class: PostTrainLinearQuantizer
            bits_activations: 8
            bits_parameters: 8
            per_channel_wts: true
            clip_acts: MSE

    Args:
        bits_activations: bits of activations, 2 to 8 or 16; 32 leaves them float.
        bits_parameters: bits of weights, likewise.
        bits_accum: bits of the sums in integer kernels; 32 is what they have, and biases stay exact in it.
        overrides: module selector -> null (stays float), bits of both, or a mapping with `bits_weights`,
            `bits_activations`, `bits_bias`, `clip_acts`, `clip_n_stds`, `mode`, `per_channel_wts`.
        mode: `SYMMETRIC`, `SYMMETRIC_RESTRICTED`, `ASYMMETRIC_SIGNED` or `ASYMMETRIC_UNSIGNED`, or a mapping with
            one each for `activations` and `weights`.
        clip_acts: how an activation's range is chosen: `NONE` (minimum and maximum), `AVG` (means over samples of
            both), `MOVING_AVERAGE` (over batches), `N_STD` (mean and `clip_n_stds` standard deviations), `PERCENTILE`,
            `MSE` (least square error), `GAUSS` and `LAPLACE` (ACIQ), `KL` (least relative entropy).
        clip_n_stds: standard deviations on either side of the mean; only with `N_STD`.
        percentile: per cent of the values below the upper end and above the lower one; for `PERCENTILE`.
        ema_decay: share of the old average that a batch keeps, [0, 1); for `MOVING_AVERAGE`.
        also_clip_weights: choose weights' ranges by the same method: one of N_STD, PERCENTILE, MSE, GAUSS, LAPLACE.
        per_channel_wts: a scale for each output channel of a weight instead of one.
        model_activation_stats: a YAML file of activation statistics to use instead of gathering them.
        quantize_inputs: quantize the network's input too.
        fold_batchnorm: fold each BatchNorm into the layer in front of it first.
        equalization: cross-layer equalization of the weights.
        bias_correction: take off the mean error of each channel.
        gptq: round each weight so that it makes good the errors of those before it; in one pass, for 8 bits too.
        adaround: learn whether each weight is rounded up or down.
        adaround_steps: of each layer.
        refine_ranges: at last move each activation's range to what is best for the network's output (Liu et al. 2024,
            arXiv 2406.06649); some forty passes over the calibration data for each activation, worth it at 4 bits.
        first_last_bits: bits of the first and last layer's weights, 32 for float; null treats them as the others.
        round_results: as in `QuantAwareTrainRangeLinearQuantizer`.
        example_inputs: what the network is traced with, given by the builder; None takes the first batch.
    """

    fewest_weight_bits = 2
    fewest_activation_bits = 2
    trains = False

    def __init__(
        self,
        bits_activations: Bits = 8,
        bits_parameters: Bits = 8,
        bits_accum: Literal[32] = 32,
        overrides: LayerOverrides = None,
        mode: Mode | Modes = "SYMMETRIC",
        clip_acts: Method = "NONE",
        clip_n_stds: Annotated[float, Field(gt=0.0)] | None = None,
        percentile: Annotated[float, Field(gt=50.0, le=100.0)] = 99.99,
        ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9,
        also_clip_weights: bool = False,
        per_channel_wts: bool = False,
        model_activation_stats: str | None = None,
        quantize_inputs: bool = True,
        fold_batchnorm: bool = True,
        equalization: bool = False,
        bias_correction: bool = False,
        gptq: bool = False,
        adaround: bool = False,
        adaround_steps: Annotated[int, Field(ge=1)] = 1000,
        refine_ranges: bool = False,
        first_last_bits: Bits = None,
        round_results: Literal["inner", "all", "none"] = "inner",
        example_inputs: Any = None,
    ) -> None:
        super().__init__(
            bits_activations, bits_parameters, None, None, overrides, first_last_bits, example_inputs  # type: ignore[arg-type]
        )  # fmt: skip
        self.rounds_results = round_results
        self.modes: Modes = mode if isinstance(mode, dict) else {"activations": mode, "weights": mode}
        self.clip_acts, self.n_stds, self.percentile, self.ema_decay = clip_acts, clip_n_stds, percentile, ema_decay
        self.also_clip_weights, self.per_channel = also_clip_weights, per_channel_wts
        self.statistics_file = model_activation_stats
        self.quantizes_model_input = quantize_inputs
        self.fold_batchnorm, self.equalization = fold_batchnorm, equalization
        self.gptq = gptq
        self.bias_correction, self.adaround, self.adaround_steps = bias_correction, adaround, adaround_steps
        self.refine_ranges = refine_ranges
        self.statistics: dict[str, TensorStatistics] = {}
        self.rounding: list[LayerResult] = []
        self._check()

    def _check(self) -> None:
        if self.gptq and self.adaround:
            raise ValueError("gptq and adaround are two ways to round the same weights; give one of them")
        methods = {self.clip_acts}
        methods |= {self._clipping_method(layer) for layer in self.overrides}
        lacking = [layer for layer in self.overrides if self._clipping(layer).method == "N_STD"]
        lacking = [layer for layer in lacking if self._clipping(layer).n_stds is None]
        if lacking or (self.clip_acts == "N_STD" and self.n_stds is None):
            raise ValueError("clip_acts: N_STD needs clip_n_stds, the standard deviations on either side of the mean")
        if "N_STD" not in methods and self.n_stds is not None:
            raise ValueError(f"clip_n_stds has no effect with clip_acts: {self.clip_acts}; it belongs to N_STD")
        if self.also_clip_weights and self.clip_acts not in OF_WEIGHTS:
            raise ValueError(
                f"also_clip_weights: {self.clip_acts}, given for clip_acts, chooses no range of weights; "
                f"{', '.join(OF_WEIGHTS)} do"
            )

    def weight_piece(self, bits: int, axis: int) -> FakeQuantizer:
        """The weight's own range."""
        return RangeWeight(bits, self.modes["weights"], axis if self.per_channel else None)

    def bias_piece(self, bits: int) -> FakeQuantizer:
        """The bias's own range, one scale."""
        return RangeWeight(bits, self.modes["weights"])

    def activation_piece(self, bits: int, signed: bool, is_input: bool) -> FakeQuantizer:
        """Without a range until it is calibrated."""
        return RangeActivation(bits, signed, self.modes["activations"], 0.0)

    def result_piece(self) -> FakeQuantizer:
        """Without a range until it is calibrated."""
        return RangeActivation(RESULT_BITS, True, RESULT_MODE, 0.0)

    @checks_arguments
    @uncached_autocast()
    def quantize(self, model: nn.Module, batches: Sequence[Any]) -> nn.Module:
        """A quantized copy of a trained network, in evaluation mode; the network itself stays as it was.

        Args:
            model: float, on any device.
            batches: calibration data on that device, training data: a tensor each, or the tuple of positional
                arguments; gone through several times.

        Raises:
            UserError: there are no data, the settings do not fit the network, or statistics are missing.
        """
        batches = finite_samples(batches) if batches else batches
        network = self.float_copy(model, batches)
        reference = copied(network)  # folded and equalized: what everything is compared with
        self.prepare(network, None)
        self.convert(network)
        with torch.no_grad():
            self._set_activations(network, batches)
            self._set_weights(network)
        recurrent = [name for name in self._pieces if is_recurrent(submodule(network, name))]
        if recurrent and (self.gptq or self.adaround or self.bias_correction):
            self.notes.append(
                f"gptq, adaround and bias_correction leave recurrent layers as they are: {', '.join(recurrent)}"
            )
        if self.gptq:
            self.rounding, left = gptq(network, self._rounded_layers(network), batches)
            if left:
                self.notes.append(f"gptq rounds to nearest what is no convolution or linear layer: {', '.join(left)}")
        if self.adaround:
            self.rounding = adaround(network, reference, self._rounded_layers(network), batches, self.adaround_steps)
        if self.bias_correction:
            self._correct(network, reference, batches)
        if self.refine_ranges:
            pieces = {name: piece for _, name, piece in self._activations() if name in self.statistics}
            refine_ranges(network.eval(), reference, pieces, batches)
        for piece in self.pieces():
            piece.freeze()
        self.structure = structure_of(network)
        return network.eval()

    def write_statistics(self, path: Path) -> None:
        """The statistics that the ranges were chosen by, as YAML, for `model_activation_stats`."""
        write_statistics(path, self.statistics, self.equalization)

    # Steps --------------------------------------------------------------------------------------------------------

    def float_copy(self, model: nn.Module, batches: Sequence[Any]) -> nn.Module:
        """A copy in evaluation mode, still float, folded and equalized by the settings; errors as of `quantize`."""
        if not batches:
            raise UserError("there are no calibration data; give at least one batch of training data")
        if any(isinstance(module, QuantLayer | QuantActivation) for module in model.modules()):
            raise UserError(f"this {type(model).__name__} is quantized already; a network is quantized once")
        if found := uninitialized(model):
            raise UserError("; ".join(found))
        network = copied(unwrapped(model)).eval()
        if self.example_inputs is None:
            self.example_inputs = batches[0]
        if found := self.faults(network):
            raise UserError("; ".join(found))
        assert self._graph is not None, "there are example inputs"
        self._norms = dict(self._graph.norms) if self.fold_batchnorm else {}
        fold_batch_norms(network, self._norms)
        if self.equalization:
            equalize(network, find_pairs(network, self.example_inputs, self._norms), self._norms)
        if not (self._norms or self.equalization):
            return network
        original = copied(unwrapped(model)).eval()
        if not same_outputs(original, network, batches):
            self._norms = {}
            network.load_state_dict(original.state_dict())
            self.notes.append(
                "nothing is folded or equalized: the network would not compute the same on all calibration data, so it "
                "does not run the same layers on all of them"
            )
        return network

    def _activations(self) -> Iterator[tuple[str, str, RangeActivation]]:
        """Each activation's layer, name and fake quantizer."""
        for layer, slots in self._pieces.items():
            for slot, piece in slots.items():
                if isinstance(piece, ActivationQuantizer):
                    assert isinstance(piece, RangeActivation)
                    yield layer, f"{layer}.{slot}", piece

    def _set_activations(self, network: nn.Module, batches: Sequence[Any]) -> None:
        found = {name: piece for _, name, piece in self._activations()}
        if self.statistics_file is not None:
            self.statistics = self._read_statistics(found)
        else:
            read = [slots[INPUT] for slots in self._pieces.values() if INPUT in slots]
            with set_aside(network, weights_only=True), _taken_as_signed(read):
                self.statistics = observe(network, batches, found, self.ema_decay)
        for layer, name, piece in self._activations():
            stats = self.statistics.get(name)
            if stats is None:
                self.left_float[name] = "calibration does not call it"
                continue
            if stats.min < 0 and not piece.signed and name.endswith(INPUT):
                piece.become_signed()
                self.notes.append(f"{layer} reads negative values, which by the traced forward pass it never does")
            if stats.min >= 0 and piece.signed and piece.mode.startswith("SYMMETRIC"):
                piece.signed, piece.mode = False, "ASYMMETRIC_UNSIGNED"
            low, high = activation_range(stats, self._clipping(layer), piece.bits, piece.mode, piece.signed)
            piece.ranges.copy_(torch.tensor([low, high, 1.0]))

    def _read_statistics(self, pieces: dict[str, RangeActivation]) -> dict[str, TensorStatistics]:
        assert self.statistics_file is not None
        stats = read_statistics(Path(self.statistics_file), self.equalization)
        missing = [name.rpartition(".")[0] for name in pieces if name not in stats]
        if missing:
            raise UserError(
                f"model_activation_stats: {self.statistics_file} has no statistics of {', '.join(missing[:5])}"
                f"{' and others' if len(missing) > 5 else ''}; they belong to another network, or to other settings"
            )
        for layer, name, _ in self._activations():
            method, found = self._clipping(layer).method, stats[name]
            lacking = [key for key in found.missing if key in NEEDS.get(method, ())]
            if lacking or (method in NEED_HISTOGRAM and not len(found.histogram)):
                raise UserError(
                    f"model_activation_stats: {self.statistics_file} has no "
                    f"{' or '.join(lacking) or 'histogram'} of {layer}, which clip_acts: {method} needs"
                )
        return stats

    def _clipping_method(self, layer: str) -> Method:
        override: Any = self.overrides.get(layer)
        return override.get("clip_acts", self.clip_acts) if isinstance(override, dict) else self.clip_acts

    def _clipping(self, layer: str) -> Clipping:
        return Clipping(self._clipping_method(layer), self._own(layer, "clip_n_stds", self.n_stds), self.percentile)

    def _own(self, layer: str, key: str, default: Any) -> Any:
        """A setting of one layer."""
        override: Any = self.overrides.get(layer)
        return override.get(key, default) if isinstance(override, dict) else default

    def prepare(self, model: nn.Module, optimizer: Any) -> None:
        """As every quantizer's; then a layer's own mode and scales per channel take effect."""
        super().prepare(model, optimizer)
        for name, slots in self._pieces.items():
            mode = self._own(name, "mode", self.modes)
            modes: Any = mode if isinstance(mode, dict) else {"activations": mode, "weights": mode}
            per_channel = self._own(name, "per_channel_wts", self.per_channel)
            for slot, piece in slots.items():
                if slot == RESULT:
                    continue
                if isinstance(piece, RangeActivation):
                    made: FakeQuantizer = RangeActivation(piece.bits, piece.signed, modes["activations"], piece.decay)
                else:
                    axis = channel_axis(submodule(model, name)) if kind_of(slot) == "weight" else None
                    made = RangeWeight(piece.bits, modes["weights"], axis if per_channel else None)
                slots[slot] = made.to(next(piece.buffers()).device)

    def _set_weights(self, network: nn.Module) -> None:
        how = Clipping(self.clip_acts if self.also_clip_weights else "NONE", self.n_stds, self.percentile)
        for name, slots in self._pieces.items():
            for slot in [slot for slot in slots if kind_of(slot) == "weight"]:
                piece, own = slots[slot], slot.removesuffix("_quantizer")
                assert isinstance(piece, RangeWeight)
                weight = submodule(network, name).get_parameter(own)
                if not bool(torch.isfinite(weight).all()):
                    raise UserError(f"{name}.{own} holds NaN or infinite values, so it has no range")
                low, high = weight_range(weight, how, piece.bits, piece.mode, piece.axis)
                piece.step, piece.zero_point = scale_and_zero(low, high, piece.mode, piece.bits)

    def _rounded_layers(self, network: nn.Module) -> list[str]:
        """Layers whose rounding can be learned, in the order of execution."""
        assert self._graph is not None
        order = [name for name in self._graph.order if "weight_quantizer" in self._pieces.get(name, {})]
        layers = {name: submodule(network, name) for name in order}
        return [n for n, layer in layers.items() if not (isinstance(layer, nn.Embedding) or is_recurrent(layer))]

    def _correct(self, network: nn.Module, reference: nn.Module, batches: Sequence[Any]) -> None:
        norms = {name: self._norms.get(name) for name in self._rounded_layers(network)}
        without = correct_biases(network, reference, norms, batches, self._graph.clips if self._graph else {})
        if without:
            self.notes.append(f"no bias to correct in {', '.join(without)}")


@contextlib.contextmanager
def _taken_as_signed(pieces: Iterable[FakeQuantizer]) -> Iterator[None]:
    """Inside, fake quantizers, which have no ranges yet, let negative values pass, although by the trace none come."""
    unsigned = [piece for piece in pieces if isinstance(piece, ActivationQuantizer) and not piece.signed]
    for piece in unsigned:
        piece.signed = True
    try:
        yield
    finally:
        for piece in unsigned:
            piece.signed = False


NEEDS = {
    "AVG": ("avg_min", "avg_max"), "MOVING_AVERAGE": ("moving_min", "moving_max"), "N_STD": ("mean", "std"),
    "GAUSS": ("mean", "std"), "LAPLACE": ("mean", "b"),
}  # fmt: skip
