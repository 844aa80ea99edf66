"""Loaders of classification, for the table of applications."""

import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from compress.errors import UserError, some
from data.Classify_data.augment import Augmentation
from data.Classify_data.dataset import ClassifySet
from data.Classify_data.find_dataset import DIGITS, find_layout
from data.Classify_data.formats.folders import unlabelled
from data.Classify_data.normalization import AUTO, KNOWN, mean_and_std
from data.Classify_data.source import UNLABELLED, Source
from data.Classify_data.store import ImageStore
from data.Classify_data.task import Task
from data.data_fingerprint import Origin
from data.loaders import HasTestData, as_it_is, batches_in_order, trained_with, training_loader
from data.measured import Measured

EVALUATION_BATCH = 128
_logger = logging.getLogger("run")


class _DataOptions(Protocol):
    """What makes the training set, of the training options."""

    @property
    def traindata(self) -> str | None: ...

    @property
    def dataset(self) -> str: ...

    @property
    def download(self) -> bool: ...

    @property
    def size(self) -> int: ...

    @property
    def channels(self) -> int | None: ...

    @property
    def mean_std(self) -> str | None: ...

    @property
    def shift(self) -> float: ...

    @property
    def rotate(self) -> float: ...

    @property
    def zoom(self) -> float: ...

    @property
    def flip(self) -> bool: ...

    @property
    def seed(self) -> int: ...


class _LoaderOptions(_DataOptions, Protocol):
    """What makes the loaders."""

    @property
    def batchSize(self) -> int: ...

    @property
    def workers(self) -> int: ...


class _TestOptions(HasTestData, Protocol):
    """What the testing loader reads of the test options."""

    @property
    def predict(self) -> str | None: ...


def classify_training_loaders(config: _LoaderOptions) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loader from the training options.

    Raises:
        UserError: the data cannot be used.
    """
    training = training_set(config)
    layout = find_layout(config.traindata, config.dataset, config.download)
    if config.download:
        layout.open("test")  # now, while there is a network: some sets keep it in a file of its own
    held_out = _labelled(layout.open("validation"))
    held_out.check_classes(training.task.classes)
    validation = _measured(held_out, training.task)
    training.origin = _origin(training.source, held_out, validation.source)
    return (
        training_loader(training, config.batchSize, config.workers, config.seed, collate_fn=as_it_is),
        batches_in_order(validation, EVALUATION_BATCH),
    )


def classify_testing_loader(opt: _TestOptions, checkpoint: Mapping[str, Any]) -> DataLoader[Any]:
    """Testing loader from the test options and the checkpoint, whose classes and normalisation it keeps.

    Without `--testdata` it is the test part of the data that the network was trained on, and where that has none, what
    was held out of training.

    Raises:
        UserError: the data cannot be used, or have other classes.
    """
    task = Task.from_dict(checkpoint["task"])
    trained = partial(trained_with, checkpoint)
    if opt.predict is not None:
        source: Source = unlabelled(Path(opt.predict))
    else:
        place = opt.testdata or trained("traindata", str | None)
        source = _labelled(find_layout(place, trained("dataset", str)).open("test", named=opt.testdata is not None))
        source.check_classes(task.classes)
    return batches_in_order(_measured(source, task), EVALUATION_BATCH)


def _origin(training: Source, held_out: Source, usable: Source) -> Origin:
    """What a run is trained on and validated with; of the images that are held out, those that can be decoded."""
    files = [*training.files(), *held_out.files()]
    images = 0 if files else len(training) + len(usable)
    return Origin(training.where, files, chain(training.arrays(), usable.arrays()), images)


def _measured(source: Source, task: Task) -> ClassifySet:
    """Images in the form of a task, for evaluation."""
    found = ClassifySet(ImageStore(source, task.size, task.channels), task)
    found.measured = Measured.of(source.where, source.part, len(found))
    return found


def training_set(config: _DataOptions) -> ClassifySet:
    """The training images, augmented, with the task that follows from them and from the options."""
    source = _labelled(find_layout(config.traindata, config.dataset, config.download).open("train"))
    _warn_of_unused(source)
    channels = config.channels or source.channels
    store = ImageStore(source, config.size, channels)
    mean, std = mean_and_std(config.mean_std or _default_mean_std(config), store)
    counts = Counter(store.source.labels)
    majority = tuple(label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    task = Task(source.classes, channels, config.size, mean, std, majority)
    moved = Augmentation(config.shift, config.rotate, config.zoom, config.flip)
    return ClassifySet(store, task, moved, config.seed)


def _warn_of_unused(source: Source) -> None:
    """Labels that begin with 1, or 255 for "none", make outputs that nothing is learned for."""
    used = set(source.labels)
    unused = [name for label, name in enumerate(source.classes) if label not in used]
    if unused and not source.listed:
        _logger.warning(
            "%s: %d of %d classes have no image to train on: %s; the network has an output for each of them",
            source.where, len(unused), len(source.classes), some(unused),
        )  # fmt: skip


def _default_mean_std(config: _DataOptions) -> str:
    """That of a known set, else measured."""
    name = config.dataset.removeprefix("torchvision:").lower().replace("-", "")
    return name if config.traindata is None and name in KNOWN and name != DIGITS else AUTO


def _labelled(source: Source) -> Source:
    """The images that have a label."""
    known = [i for i, label in enumerate(source.labels) if label != UNLABELLED]
    if not known:
        raise UserError(f"{source.where} holds no image with a label, so nothing can be learned or measured from it")
    if len(known) == len(source):
        return source
    labelled = source.subset(known)
    labelled.part = source.part
    return labelled
