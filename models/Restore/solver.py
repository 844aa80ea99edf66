"""Training of restoration networks: the network, and code of one's own that degrades images."""

import logging
from functools import cached_property, partial
from typing import Any

from torch.utils.data import DataLoader

from data.loaders import trained_with
from data.pairs import Degradation
from data.Restore_data.degradations import degradation_of, written
from data.Restore_data.loaders import testing_loader, training_loaders
from engine.architectures.chosen import ChosenArchitecture
from engine.architectures.own import function_sources, own_function
from models.restoration.quality import Quality
from models.restoration.solver import RestorationTrainer
from models.Restore.zoo import OPTIONS, ZOO
from options.own_network import parts_of
from options.Restore_options.train_options import RestoreTrainConfig

logger = logging.getLogger("run")
SOURCES = "degradation_sources"  # in a checkpoint's task
QUALITY = Quality("degraded")


class RestoreTrainer(ChosenArchitecture, RestorationTrainer):
    """Trains the network of `--arch` with an L1 loss; the metric is PSNR (dB) of RGB on whole validation images."""

    config: RestoreTrainConfig
    image_quality = QUALITY
    default_epochs = 12
    zoo = ZOO
    setting_options = OPTIONS

    def given(self) -> dict[str, Any]:
        """A factor of 1: images keep their size."""
        return {"upscale_factor": 1}

    @cached_property
    def _sources(self) -> dict[str, str]:
        return function_sources("--degradation", self.config.degradation)

    def task_facts(self) -> dict[str, Any]:
        """The files of the images, and checksums of the code of one's own that degrades them."""
        return {**super().task_facts(), SOURCES: self._sources}

    def check_task(self, saved: dict[str, Any]) -> None:
        """See `BaseTrainer`; code of one's own that was edited is warned of."""
        super().check_task(saved)
        self._sources = function_sources("--degradation", self.config.degradation, saved.get(SOURCES))


def restore_training_loaders(config: Any) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loader; code of one's own is what the command line names."""
    return training_loaders(config, _degradation(config.degradation))


def restore_testing_loader(opt: Any, checkpoint: Any) -> DataLoader[Any]:
    """Testing loader; code of one's own is what the command line names."""
    trained = trained_with(checkpoint, "degradation", str)
    text = opt.degradation or trained
    function_sources("--degradation", text, checkpoint["task"].get(SOURCES))
    loader = testing_loader(opt, checkpoint, _degradation(text))
    if other_degradation(opt, checkpoint):
        logger.info("images are degraded by %s here; the network was trained with %s", text, trained)
    return loader


def other_degradation(opt: Any, checkpoint: Any) -> str | None:
    """What `--degradation` says, where that is not what the network was trained with."""
    trained, here = (
        written(parts_of(text)) for text in (trained_with(checkpoint, "degradation", str), opt.degradation or "")
    )
    return None if here in ("", trained) else here


def _degradation(text: str) -> Degradation:
    return degradation_of(parts_of(text), partial(own_function, f"--degradation={text}"))
