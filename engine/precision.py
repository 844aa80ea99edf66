"""What `--precision=auto` means: bfloat16 where it makes this CPU's training faster and was measured to lose nothing.

`resolved_precision`, called once when a run begins: its checkpoints keep the answer, and a resumed run asks no more.
"""

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

import torch

from compress.distributed import of_first_rank
from compress.policies.quantization import QuantizationPolicy
from compress.scheduler import CompressionScheduler
from options.base_options import TrainConfig

C = TypeVar("C", bound=TrainConfig)
logger = logging.getLogger("run")


def resolved_precision(
    config: C, scheduler: CompressionScheduler, device: torch.device, measured: Collection[str]
) -> C:
    """The options of a run that begins, with `--precision=auto` decided and logged; `amp` is the answer.

    Args:
        config: the options given.
        scheduler: of the schedule.
        device: that is trained on.
        measured: architectures that lost nothing by it.
    """
    why_not = _why_float32(config, scheduler, device, measured)
    if config.precision == "auto":
        amp = bool(of_first_rank(int(why_not is None)))  # all processes train alike, whatever their CPUs are
        words = "bfloat16 autocast: this CPU multiplies it faster (AMX)" if amp else f"float32: {why_not}"
        logger.info("precision: %s", words)
        return replace(config, amp=amp)
    if why_not is None and config.precision is None and not config.amp:
        logger.info(
            "precision: float32; this CPU multiplies bfloat16 faster (AMX), in which --precision=auto would train"
        )
    if config.amp:
        logger.info("precision: bfloat16 autocast, as asked")
    return config


def _why_float32(
    config: TrainConfig, scheduler: CompressionScheduler, device: torch.device, measured: Collection[str]
) -> str | None:
    """Why `auto` stays at float32; None where it does not."""
    if device.type != "cpu":
        return "bfloat16 was measured on CPUs only; --precision=bfloat16 trains in it"
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        return "this CPU has no instructions that multiply matrices of bfloat16 (AMX)"
    if any(isinstance(policy, QuantizationPolicy) for policy in scheduler.policies):
        return "the schedule quantizes, and bfloat16 would round its grids"
    if (arch := getattr(config, "arch", "")) not in measured:
        return f"a gain by bfloat16 without loss was not shown for {arch}; --precision=bfloat16 trains in it"
    return None
