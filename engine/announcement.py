"""What is said before the first step of a run: its length, what an update sees, what a resume may not repeat.

`announce`.
"""

import logging

from compress.analysis.measured_words import measured_words
from compress.distributed import world_size
from engine.application import TrainedApplication
from engine.architectures.early_checks import is_foreign, prunable_story
from engine.epoch.mid_epoch import doubts
from engine.progress import Progress
from options.base_options import TrainConfig
from options.own_network import to_type_again

logger = logging.getLogger("run")


def announce(application: TrainedApplication, progress: Progress, run: str, steps_per_epoch: int) -> None:
    """Says what is about to happen.

    Args:
        application: that is trained, built.
        progress: of the run.
        run: its name.
        steps_per_epoch: optimizer updates.
    """
    if progress.as_it_came:
        logger.info("run %s: nothing is trained; the network is measured and saved as it is", run)
        return
    if progress.finished:
        logger.info(
            "run %s is finished: its %d epochs are trained. To train on: python train.py --resume=%s --nEpochs=%d%s, "
            "or more; now it is only measured again",
            run, progress.epoch, run, progress.epoch + 1, to_type_again(application.config),
        )  # fmt: skip
        return
    config, state = application.config, application.state
    count = sum(parameter.numel() for parameter in state.model.parameters())
    logger.info(
        "run %s: epochs %d..%d (counted from 0), %d steps each, %s, %s parameters%s",
        run, progress.epoch, progress.epochs - 1, steps_per_epoch, application.device, f"{count:,}", _factors(config),
    )  # fmt: skip
    arch = getattr(config, "arch", "")
    if is_foreign(arch):
        example = next(iter(application.probes()), (application.example_inputs(),))[0]
        logger.info("network %s: %s", arch, prunable_story(state.model, example, application.device))
    logger.info("validation on %s", measured_words(application.measured_on()))
    if config.checkpoint_every or progress.middle:
        for doubt in doubts(application.training_loader, application.device):
            logger.warning("saving inside an epoch: %s", doubt)


def samples_per_update(config: TrainConfig) -> int:
    """Over all processes: `--batchSize` is of one process and one forward pass."""
    return config.batchSize * config.accumulate * world_size()


def _factors(config: TrainConfig) -> str:
    """What an update sees, where that is more than a minibatch."""
    processes, parts = world_size(), config.accumulate
    if samples_per_update(config) == config.batchSize:
        return ""
    named = [f"--batchSize={config.batchSize}"] + [f"{processes} processes"] * (processes > 1)
    named += [f"{parts} accumulated"] * (parts > 1)
    return f"; {samples_per_update(config)} samples an update = {' x '.join(named)}"
