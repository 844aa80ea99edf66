"""`quantize_after_training` of a schedule: the best network of a run, quantized by calibration when training ends.

`quantized_at_the_end`, `calibration_inputs`, `quantized_checkpoint`.
"""

import logging
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from apputils.checkpoints.file import load_checkpoint, save_checkpoint
from apputils.runs.folders import Run
from compress.config.checks.after_training import quantizer_after_training
from compress.quantization.post_training.quantizer import PostTrainLinearQuantizer
from engine.application import TrainedApplication
from engine.saved.rebuild import rebuild

logger = logging.getLogger("run")
CALIBRATION = 16  # minibatches, as `test.py --calibration` has it


def quantized_at_the_end(application: TrainedApplication, run: Run) -> dict[str, Any]:
    """The checkpoint of a run's best network, quantized if its schedule says so.

    `best.pt` then holds the quantized network, which every later command takes; the float one is `float.pt` beside it,
    and `last.pt`, from which the run can be resumed, stays float. A run that ends again, after more epochs without a
    better one, finds its best network quantized.
    """
    best = load_checkpoint(run.best)
    resolved = application.compression_scheduler.resolved
    if quantizer_after_training(resolved, None) is None or best["scheduler"].get("structures"):
        return best
    network = rebuild(application.build_model(), best).to(application.device).eval()
    batches = calibration_inputs(application, CALIBRATION)
    quantizer = quantizer_after_training(resolved, batches[0])
    assert quantizer is not None
    logger.info("quantizing the best network after training: %d minibatches calibrate", len(batches))
    content = quantized_checkpoint(best, quantizer.quantize(network, batches), quantizer)
    save_checkpoint(float_file(run), best)
    save_checkpoint(run.best, content)
    for note in quantizer.notes:
        logger.warning("%s", note)
    left = "; ".join(f"{name} ({why})" for name, why in quantizer.left_float.items())
    logger.info("stays float: %s; the float network: %s", left or "nothing", float_file(run))
    return content


def float_file(run: Run) -> Path:
    """The checkpoint of the best network before it was quantized after training."""
    return run.checkpoints / "float.pt"


def calibration_inputs(application: TrainedApplication, count: int) -> list[Tensor]:
    """The inputs of some training minibatches, those of the first epoch, on the application's device."""
    loader = application.training_loader
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(0)
    return [batch[0].to(application.device) for batch in islice(loader, count)]


def quantized_checkpoint(
    checkpoint: Mapping[str, Any], network: nn.Module, quantizer: PostTrainLinearQuantizer
) -> dict[str, Any]:
    """A float network's checkpoint as that of the network which a quantizer made of it."""
    scheduler = checkpoint["scheduler"]
    return {
        **checkpoint,
        "model": network.state_dict(),
        "averaged": None,
        "scheduler": {**scheduler, "structures": [*scheduler.get("structures", []), quantizer.structure]},
    }
