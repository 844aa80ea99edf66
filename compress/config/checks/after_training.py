"""`quantize_after_training: NAME`: what the name may be, and the quantizer of a schedule that was checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.arguments.places import Path
from compress.config.errors.faults import Report
from compress.config.families import Instance
from compress.config.sections import QUANTIZE_AFTER
from compress.errors import did_you_mean, shown
from compress.policies.base import Policy
from compress.policies.quantization import QuantizationPolicy
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer

POST_TRAINING = PostTrainLinearQuantizer.__name__


def check_quantize_after(
    data: Mapping[str, Any],
    instances: Mapping[str, Instance],
    entries: Sequence[tuple[Path, Policy]],
    report: Report,
) -> None:
    """Reports a name that is no post-training quantizer, and a network that is quantized in training already.

    Args:
        data: the sections of the schedule.
        instances: the quantizers that could be made.
        entries: the policies.
        report: takes the faults.
    """
    name = data.get(QUANTIZE_AFTER)
    if name is None:
        return
    fit = [each for each, found in instances.items() if issubclass(found.cls, PostTrainLinearQuantizer)]
    if name not in (data.get("quantizers") or {}):
        report.add(
            f"there is no quantizer {shown(name)}; {did_you_mean(name, fit)}; it names an instance of `quantizers` "
            f"whose class is {POST_TRAINING}", (QUANTIZE_AFTER,),
        )  # fmt: skip
    elif name in instances and name not in fit:
        report.add(
            f"{name!r} is a {instances[name].cls.__name__}, which quantizes in training and needs a policy; only a "
            f"{POST_TRAINING} quantizes after it", (QUANTIZE_AFTER,),
        )  # fmt: skip
    for path, policy in entries:
        if isinstance(policy, QuantizationPolicy):
            report.add(
                f"{policy.name!r} quantizes the network in training, and {QUANTIZE_AFTER} quantizes it again; keep one "
                "of the two", path,
            )  # fmt: skip


def quantizer_after_training(resolved: Mapping[str, Any], example_inputs: Any) -> PostTrainLinearQuantizer | None:
    """That of a schedule that was checked, such as a checkpoint's; None where it has none.

    Args:
        resolved: the schedule as plain data.
        example_inputs: what the network is traced with.
    """
    name = resolved.get(QUANTIZE_AFTER)
    if name is None:
        return None
    arguments = {key: value for key, value in resolved["quantizers"][name].items() if key != "class"}
    return PostTrainLinearQuantizer(**arguments, example_inputs=example_inputs)
