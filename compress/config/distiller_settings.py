"""Post-training settings written for Distiller -> this bench's words; what has no meaning here is refused by name.

`translated`. A table of all keys is in docs/post_training.md. Also the classes of quantizers that are refused.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from compress.arguments.places import Path
from compress.config.errors.faults import Report
from compress.errors import shown
from compress.quantization.modules.activations import ACTIVATIONS
from compress.quantization.modules.layers import quantized_class
from compress.selectors import canonical_modules, expand

CLASS = "PostTrainLinearQuantizer"
DROPPED = ("clip_half_range", "save_fp_weights", "inputs_quant_auto_fallback")  # here it is always so, or never matters
REFUSED = {  # key -> why; null and false are what this bench does anyway
    "scale_approx_mult_bits": "scales stay float here; remove it",
    "fp16": "half precision is not rounding to integers; remove it, and give null for layers that stay float",
    "make_identity": "a ReLU stays where it is, and exporters fuse it; remove it",
}
REFUSED_CLASSES = {
    "NCFQuantAwareTrainQuantizer": "sums, products and concatenations are quantized here where a layer reads them; "
    "write QuantAwareTrainRangeLinearQuantizer"
}
WRITTEN_THERE = ("fake", "fpq_module", "clip_half_range", "make_identity")  # only Distiller's search writes them
INPUTS = ("input_overrides", "input_quantization_settings")
OF_INPUT = ("from_output", "bits_activations", "mode", "clip_acts", "clip_n_stds")


def translated(given: Any, path: Path, model: nn.Module, report: Report) -> Any:
    """The arguments of one quantizer; faults of keys that have no meaning here are reported.

    Args:
        given: as written; what is not a mapping is returned as it is.
        path: where it stands.
        model: whose modules the keys of `overrides` select.
        report: takes the faults.
    """
    if not isinstance(given, Mapping):
        return given
    found = {"class": CLASS, **_without_foreign(given, path, report)}
    fpq = found.pop("fpq_module", None)
    if fpq is not None:
        message = f"given {shown(fpq)}; layers stay float by `bits_activations: null` and `bits_parameters: null`"
        report.add(f"fpq_module has no place here: {message}", (*path, "fpq_module"))
    overrides = found.get("overrides")
    if isinstance(overrides, Mapping):
        found["overrides"] = _layers(overrides, (*path, "overrides"), model, report, found.get("mode", "SYMMETRIC"))
    return found


def with_overrides(written: dict[str, Any], path: Path, report: Report) -> dict[str, Any]:
    """A quantizer's arguments with `bits_overrides` of 2018, `{LAYER: {acts: 8, wts: 4}}`, as `overrides`.

    Args:
        written: the arguments.
        path: where they stand.
        report: takes the faults.
    """
    old = written.get("bits_overrides")
    if not isinstance(old, Mapping) or "overrides" in written:
        return written
    found: dict[Any, Any] = {}
    for layer, bits in old.items():
        unknown = [key for key in bits if key not in BITS_OF_2018] if isinstance(bits, Mapping) else [bits]
        if unknown:
            message = f"given {shown(unknown[0])}; bits_overrides of a layer holds {', '.join(BITS_OF_2018)}"
            report.add(message, (*path, "bits_overrides", layer))
            continue
        found[layer] = {BITS_OF_2018[key]: value for key, value in bits.items()}
    return {**{key: value for key, value in written.items() if key != "bits_overrides"}, "overrides": found}


BITS_OF_2018 = {"acts": "bits_activations", "wts": "bits_weights"}


def _layers(overrides: Mapping[Any, Any], path: Path, model: nn.Module, report: Report, modes: Any) -> dict[Any, Any]:
    """The overrides in this bench's words, without those of operations that have no fake quantizer here."""
    found = {}
    for key, each in overrides.items():
        if not isinstance(each, Mapping):
            found[key] = each
            continue
        modules, settings = _selected(key, model), _Layer(each, (*path, key), report)
        if set(WRITTEN_THERE) & set(each) and modules and not any(_has_quantizer(module) for module in modules):
            kind = type(modules[0]).__name__
            message = f"a {kind} has no fake quantizer here: what it gives is rounded where a layer reads it"
            report.add(f"{message}; these settings are left out", (*path, key), fatal=False)
        else:
            found[key] = settings.settings(modules, modes)
    return found


def _has_quantizer(module: nn.Module) -> bool:
    """Whether overrides can mean this module, or one inside of it."""
    return any(quantized_class(each) is not None or type(each) in ACTIVATIONS for each in module.modules())


def _without_foreign(given: Mapping[Any, Any], path: Path, report: Report) -> dict[Any, Any]:
    """The settings without keys that change nothing here; `None` written as text is `NONE`."""
    for key, why in REFUSED.items():
        if given.get(key) not in (None, False):
            report.add(f"{key} has no place here: given {shown(given[key])}; {why}", (*path, key))
    kept = {key: value for key, value in given.items() if key not in DROPPED and key not in REFUSED}
    if kept.get("clip_acts", "") in ("None", None):
        kept["clip_acts"] = "NONE"
    return kept


def _selected(key: Any, model: nn.Module) -> list[nn.Module]:
    modules = {name: each for name, each in canonical_modules(model).items() if name}
    try:
        return [modules[name] for name in expand(key, list(modules), True)] if isinstance(key, str) else []
    except ValueError:
        return []  # reported where selectors are checked


class _Layer:
    """The settings of one layer."""

    def __init__(self, given: Mapping[Any, Any], path: Path, report: Report) -> None:
        self.given, self.path, self.report = given, path, report

    def settings(self, modules: list[nn.Module], modes: Any) -> Any:
        """In this bench's words; None for a layer that stays float."""
        found = _without_foreign(self.given, self.path, self.report)
        fake, fpq = bool(found.pop("fake", False)), found.pop("fpq_module", None)
        weighted = [module for module in modules if quantized_class(module) is not None]
        if found.pop("quantize_inputs", False) and not weighted:
            self._refuse("quantize_inputs", "activations are rounded where they are made; remove it")
        if fpq is not None and str(fpq) != "32":
            self._refuse("fpq_module", "layers compute in float32 here; give null for a layer that stays float")
        elif fpq is not None and not fake:
            return None
        if fake and weighted and found.get("bits_weights") is not None:
            self._refuse("fake", "it rounds activations alone; write `bits_weights: null` beside `bits_activations`")
        for key in INPUTS:
            found |= self._of_input(key, found.pop(key, None) or {}, found.get("mode", modes))
        return found

    def _of_input(self, key: str, inputs: Any, modes: Any) -> dict[str, Any]:
        """What is written for input 0: the settings of a layer's activations are those of its input here."""
        if not isinstance(inputs, Mapping):
            self.report.add(f"given {shown(inputs)}; {key} is written `0: {{bits_activations: 8}}`", (*self.path, key))
            return {}
        found: dict[str, Any] = {}
        for index, each in inputs.items():
            place = (*self.path, key, index)
            if str(index) != "0":
                self.report.add(f"input {shown(index)}: layers have one input here, 0; remove it", place)
            elif not isinstance(each, Mapping):
                self.report.add(f"given {shown(each)}; it holds {', '.join(OF_INPUT)}", place)
            elif each.get("from_output") is not True:
                found = self._checked(each, place)
        if "mode" in found:
            weights = modes.get("weights") if isinstance(modes, Mapping) else modes
            found["mode"] = {"activations": found["mode"], "weights": weights}
        return found

    def _checked(self, given: Mapping[Any, Any], place: Path) -> dict[str, Any]:
        for key in given:
            if key not in OF_INPUT:
                self.report.add(
                    f"unknown setting {shown(key)} of an input; it holds {', '.join(OF_INPUT)}", (*place, key)
                )
        found = _without_foreign(given, place, self.report)
        return {key: value for key, value in found.items() if key in OF_INPUT and key != "from_output"}

    def _refuse(self, key: str, instead: str) -> None:
        self.report.add(f"{key} has no place here: given {shown(self.given[key])}; {instead}", (*self.path, key))
