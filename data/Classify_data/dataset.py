"""Classification data sets: normalised minibatches with labels.

Pixels -> tensors, a minibatch at a time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.Classify_data.augment import Augmentation
from data.Classify_data.source import Source
from data.Classify_data.store import ImageStore
from data.Classify_data.task import Task
from data.data_fingerprint import Origin
from data.measured import Measured
from data.sampling import SampleKey, sample_key

Batch = tuple[Tensor, Tensor]


class ClassifySet(Dataset[Batch]):
    """Images (n, channels, size, size), float32, mean 0 and standard deviation 1 over the training set; labels (n,).

    Args:
        store: the images.
        task: classes, mean and standard deviation.
        augmentation: for training.
        seed: the run's seed, >= 0.

    Attributes:
        origin: which files a run uses, from the function that makes its loaders; None of a data set of one's own.
        measured: where evaluated images are from, from the same; None of others.
    """

    origin: Origin | None = None
    measured: Measured | None = None

    def __init__(self, store: ImageStore, task: Task, augmentation: Augmentation | None = None, seed: int = 0) -> None:
        self.store, self.task = store, task
        self.augmentation, self.seed = augmentation or Augmentation(), seed
        self._mean = torch.tensor(task.mean).view(-1, 1, 1)
        self._std = torch.tensor(task.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.store)

    @property
    def source(self) -> Source:
        """The usable images, with their names."""
        return self.store.source

    def __getitem__(self, key: SampleKey | int) -> Batch:
        """A minibatch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> Batch:
        """A minibatch, whole: torch's loaders ask for it in one call."""
        named = [sample_key(key) for key in keys]
        indices = [key.sample for key in named]
        images = self.store.batch(indices).float().div_(255)
        images = self.augmentation.apply(images, self.seed, named)
        return (images - self._mean) / self._std, self.store.labels[indices]
