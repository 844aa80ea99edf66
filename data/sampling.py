"""The order in which samples are seen, as a function of (seed, epoch) alone.

The keys that a sampler hands to a data set, and the generator drawn from a key. Works for every application; called
by the solvers (the sampler) and the data sets (`rng`).

A worker process has no generator of its own to be restored: what a sample looks like follows from
its key, so any number of workers, persistent or not, and a run that was resumed give the same data.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """Names one draw: sample `sample` of epoch `epoch` (both from 0)."""

    epoch: int
    sample: int


def sample_key(key: SampleKey | int) -> SampleKey:
    """A plain index, which torch's own samplers give, stands for that sample of epoch 0."""
    return key if isinstance(key, SampleKey) else SampleKey(0, int(key))


def rng(seed: int, key: SampleKey) -> np.random.Generator:
    """The generator that makes every random choice of one sample."""
    return np.random.default_rng((seed, key.epoch, key.sample))


class EpochSampler(Sampler[SampleKey]):
    """Yields the keys of one epoch, shuffled by (seed, epoch).

    Call `set_epoch` before each epoch, as with torch's DistributedSampler; the solver does.

    Args:
        samples: samples in an epoch over all processes, > 0.
        seed: the run's seed, >= 0.
        shuffle: False keeps the order 0, 1, 2, ...
        rank: this process, in [0, world_size).
        world_size: number of processes that share an epoch. Each gets the same number of keys; when
            they do not divide evenly, the first keys of the order are seen twice.
    """

    def __init__(self, samples: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world_size: int = 1) -> None:
        if samples < 1:
            raise ValueError(f"samples is {samples}; an epoch has at least one sample")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; it must be in [0, {world_size})")
        self.samples, self.seed, self.shuffle = samples, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch (from 0) whose keys the next iteration yields, all of them."""
        self.epoch, self.start = epoch, 0

    def start_at(self, position: int) -> None:
        """Leaves out the first keys of this process, `position` of them, until `set_epoch` is called again."""
        self.start = position

    def __len__(self) -> int:
        return -(-self.samples // self.world_size)

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.arange(self.samples)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        shared = np.resize(order, len(self) * self.world_size)  # repeats from the start to fill up
        own = shared[self.rank :: self.world_size]
        return (SampleKey(self.epoch, int(index)) for index in own[self.start :])
