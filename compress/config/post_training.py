"""A file of post-training settings -> its quantizer, or one report of every fault.

`load_post_training`. Called by `test.py --quantize`.

    version: 1
    quantizers:
      ptq: {class: PostTrainLinearQuantizer, bits_activations: 8, bits_parameters: 8}
"""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from compress.arguments.checked import checks_arguments
from compress.config.distiller_settings import translated
from compress.config.errors.faults import Report
from compress.config.instances import Instances
from compress.config.loader import load_text
from compress.errors import ScheduleError, UserError, did_you_mean, shown
from compress.io.files import read_text
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer

logger = logging.getLogger("compress")
KNOWN = ("version", "quantizers")
FORM = "a file of post-training settings holds `quantizers: {NAME: {class: PostTrainLinearQuantizer, ...}}`"


@checks_arguments
def load_post_training(model: nn.Module, path: str | Path, example_inputs: Any) -> PostTrainLinearQuantizer:
    """The one quantizer of a file.

    Args:
        model: that will be quantized; selectors are resolved against its modules.
        path: the YAML file.
        example_inputs: what the network is traced with.

    Raises:
        UserError: the file cannot be read.
        ScheduleError: every fault of it, in one report.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"the post-training settings {str(path)!r} cannot be read: {e}") from e
    report = Report(document := load_text(text, str(path)))
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("quantizers"), dict):
        what = (
            "settings of layers alone; put them below `overrides:` of a quantizer" if _of_layers(data) else shown(data)
        )
        report.add(f"given {what}; {FORM}", ())
        raise ScheduleError(report.in_order(), "the post-training settings file")
    for key in data:
        if key not in KNOWN:
            report.add(
                f"the section {shown(key)} has no place here; {FORM}; {did_you_mean(str(key), KNOWN)}", (str(key),)
            )
    if data.get("version", 1) != 1:
        report.add(f"given {shown(data['version'])}; this bench reads version 1", ("version",))
    if len(data["quantizers"]) != 1:
        report.add(f"it holds {len(data['quantizers'])} quantizers; {FORM}, one of them", ("quantizers",))
    context = {"model": model, "optimizer": None, "example_inputs": example_inputs, "teachers": None}
    given = {name: translated(each, ("quantizers", name), model, report) for name, each in data["quantizers"].items()}
    found = Instances(context, report).build({"quantizers": given})["quantizers"]
    for name, instance in found.items():
        if not isinstance(instance.algorithm, PostTrainLinearQuantizer):
            message = (
                f"{instance.cls.__name__} quantizes in training: give it a policy and `python train.py --compress`"
            )
            report.add(message, ("quantizers", name, "class"))
    _stop_or_warn(report)
    return next(iter(found.values())).algorithm


def _stop_or_warn(report: Report) -> None:
    if report.fatal:
        raise ScheduleError(report.in_order(), "the post-training settings file")
    for fault in report.in_order():
        logger.warning("%s", fault)


def _of_layers(data: Any) -> bool:
    """Whether a file is what Distiller's greedy search writes first: layer -> its bits and clip."""
    rows = data.values() if isinstance(data, dict) else ()
    return bool(rows) and all(isinstance(row, dict) and {"bits_weights", "bits_activations"} & set(row) for row in rows)
