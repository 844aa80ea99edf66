"""Batches: data sets -> torch's loaders, for the table of applications.

`DataLoader` settings. What a batch holds is a function of (seed, epoch, index), whatever the number of workers.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

from compress.distributed import rank, world_size
from compress.errors import UserError
from data.data import DEFAULT_DIR, evaluation_set, get_training_set, get_validation_set, place_of
from data.data_fingerprint import Origin, trained_place
from data.embedded import Part
from data.folders import has_test_part, measured_part
from data.measured import Measured
from data.pair_sets import PairCrops, PairImages
from data.pairs import PairSource
from data.restoration import Crops, WholeImages, given_or_default
from data.sampling import EpochSampler

_logger = logging.getLogger(__name__)


def training_loader(
    dataset: Dataset[Any],
    batch_size: int,
    workers: int,
    seed: int,
    collate_fn: Callable[[Any], Any] | None = None,
) -> DataLoader[Any]:
    """Shuffled minibatches; the last one of an epoch may be smaller. Its sampler has `set_epoch`.

    Several processes get equal shares of each epoch, this one its own; together they see what one process would.

    Args:
        batch_size: samples in a minibatch of this process.
        collate_fn: samples -> minibatch; None stacks them.
    """
    sampler = EpochSampler(len(dataset), seed, rank=rank(), world_size=world_size())  # type: ignore[arg-type]
    return DataLoader(
        dataset, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0, pin_memory=False,
        collate_fn=collate_fn,
    )  # fmt: skip


def batches_in_order(dataset: Dataset[Any], batch_size: int) -> DataLoader[Any]:
    """Minibatches in order, of a data set that makes whole minibatches."""
    return DataLoader(dataset, batch_size, collate_fn=as_it_is)


def as_it_is(batch: Any) -> Any:
    """A `collate_fn` for data sets that make whole minibatches."""
    return batch


def evaluation_loader(dataset: Dataset[Any]) -> DataLoader[Any]:
    """One whole image at a time, in order."""
    return DataLoader(dataset, batch_size=1, collate_fn=_only)


def _only(items: list[Any]) -> Any:
    return items[0]


class CropOptions(Protocol):
    """What loaders of image restoration read of the training options."""

    @property
    def traindata(self) -> str | None:
        """The folder that was given."""

    @property
    def patch_size(self) -> int:
        """Side of a crop, in pixels."""

    @property
    def samples(self) -> int:
        """Crops of an epoch."""

    @property
    def batchSize(self) -> int:
        """Crops of a minibatch."""

    @property
    def workers(self) -> int:
        """Processes that load."""

    @property
    def seed(self) -> int:
        """Of the order and the crops."""


class _SROptions(CropOptions, Protocol):
    """What the loaders of super-resolution read of the training options."""

    @property
    def upscale_factor(self) -> int:
        """How many times larger the output is."""


class HasTestData(Protocol):
    """What testing loaders read of the test options."""

    @property
    def testdata(self) -> str | None:
        """The folder that was given."""


def sr_training_loaders(config: _SROptions) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loader of super-resolution, from its training options."""
    training = get_training_set(
        config.upscale_factor,
        config.traindata,
        patch_size=config.patch_size,
        samples=config.samples,
        seed=config.seed,
    )
    validation = get_validation_set(config.upscale_factor, config.traindata)
    return restoration_loaders(training, validation, place_of(config.traindata), config)


def restoration_loaders(
    crops: Crops, held_out: WholeImages, place: Path | None, config: CropOptions
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loader of image restoration; the run's checkpoints keep which files it uses.

    Args:
        crops: that are trained on.
        held_out: validation images.
        place: where both are from; None is the embedded photographs.
        config: the training options.
    """
    crops.origin = Origin(place, crops.files() + held_out.files())
    if crops.epochs_to_see_all > 1:
        _logger.info(
            "an epoch takes %d samples of %d %s, one after the other: all are seen in %d epochs; "
            "--samples says how many an epoch takes",
            len(crops), crops.image_count, crops.counted, crops.epochs_to_see_all,
        )  # fmt: skip
    if held_out.measured is None:
        held_out.measured = Measured.of(place, "validation", len(held_out))
    return (
        training_loader(crops, config.batchSize, config.workers, config.seed),
        evaluation_loader(held_out),
    )


def pair_loaders(
    crops: PairSource, held_out: PairSource, place: Path | None, config: CropOptions
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """The same of images that keep their size, made of two sources of pairs."""
    cut = PairCrops(crops, config.patch_size, config.samples, config.seed)
    return restoration_loaders(cut, PairImages(held_out), place, config)


def held_out_loader(
    opt: HasTestData, checkpoint: Mapping[str, Any], make: Callable[[Path | None, Part], WholeImages],
    default: Path | None = None, has_test: Callable[[Path], bool] = has_test_part,
) -> DataLoader[Any]:  # fmt: skip
    """Testing loader of image restoration; without `--testdata` what the run held out of the data it was trained on.

    Args:
        opt: the test options.
        checkpoint: of the run.
        make: place and part -> images; the place None is the embedded photographs.
        default: the folder that a run without `--traindata` took, where it is there.
        has_test: whether a folder has a test part.

    Raises:
        UserError: the data cannot be used.
    """

    def named() -> Path | None:  # by a checkpoint that kept no origin
        return given_or_default(trained_with(checkpoint, "traindata", str | None), default)

    place, part = measured_part(opt.testdata, trained_place(checkpoint, named), has_test)
    images = make(place, part)
    images.measured = Measured.of_part(place, part, has_test, len(images))
    return evaluation_loader(images)


def trained_with(checkpoint: Mapping[str, Any], name: str, kind: Any) -> Any:
    """A training option that a checkpoint keeps.

    Args:
        checkpoint: of a run.
        name: of the option.
        kind: its type, or several as `str | None`.

    Raises:
        UserError: the checkpoint has no such option, or one of another kind.
    """
    value = checkpoint["options"].get(name, checkpoint)
    if not isinstance(value, kind):
        raise UserError(f"the checkpoint does not say with which --{name} it was trained, so there are no data for it")
    return value


def sr_testing_loader(opt: HasTestData, checkpoint: Mapping[str, Any]) -> DataLoader[Any]:
    """Testing loader of super-resolution; without `--testdata` what the run held out of the data it was trained on.

    Raises:
        UserError: the data cannot be used.
    """
    scale = checkpoint["network"]["arguments"].get("upscale_factor")
    return held_out_loader(opt, checkpoint, lambda place, part: evaluation_set(place, part, scale), DEFAULT_DIR)
