"""The order of samples: a function of seed and epoch, shared out among processes."""

import numpy as np
import pytest

from data.sampling import EpochSampler, SampleKey, rng, sample_key


def keys(sampler: EpochSampler, epoch: int) -> list[SampleKey]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_has_every_sample_once() -> None:
    found = keys(EpochSampler(10, seed=3), 4)
    assert sorted(found) == [SampleKey(4, sample) for sample in range(10)]


def test_order_depends_on_seed_and_epoch_only() -> None:
    sampler = EpochSampler(50, seed=1)
    first = keys(sampler, 2)
    keys(sampler, 0)
    assert keys(sampler, 2) == first == keys(EpochSampler(50, seed=1), 2)
    assert [key.sample for key in keys(sampler, 3)] != [key.sample for key in first]
    assert keys(EpochSampler(50, seed=2), 2) != first


def test_without_shuffling_the_order_is_kept() -> None:
    assert [key.sample for key in keys(EpochSampler(5, shuffle=False), 1)] == [0, 1, 2, 3, 4]


def test_shards_cover_the_epoch_with_equal_lengths() -> None:
    shards = [EpochSampler(10, seed=5, rank=rank, world_size=4) for rank in range(4)]
    found = [keys(shard, 1) for shard in shards]
    assert [len(shard) for shard in shards] == [len(part) for part in found] == [3, 3, 3, 3]
    seen = [key for part in found for key in part]
    assert set(seen) == {SampleKey(1, sample) for sample in range(10)}
    whole = keys(EpochSampler(10, seed=5), 1)
    assert found[0] == whole[0::4]
    assert found[2] == [whole[2], whole[6], whole[0]]


def test_more_processes_than_samples() -> None:
    parts = [keys(EpochSampler(2, rank=rank, world_size=5), 0) for rank in range(5)]
    assert all(len(part) == 1 for part in parts)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        EpochSampler(0)
    with pytest.raises(ValueError, match=r"rank is 2; it must be in \[0, 2\)"):
        EpochSampler(4, rank=2, world_size=2)


def test_generators_differ_by_seed_epoch_and_sample() -> None:
    draws = [
        int(rng(seed, SampleKey(epoch, sample)).integers(1 << 60))
        for seed in range(2)
        for epoch in range(2)
        for sample in range(2)
    ]
    assert len(set(draws)) == 8
    assert rng(1, SampleKey(0, 1)).integers(1 << 60) == draws[5]


def test_a_plain_index_is_a_sample_of_epoch_0() -> None:
    assert sample_key(7) == SampleKey(0, 7)
    assert sample_key(int(np.int64(7))) == SampleKey(0, 7)
    assert sample_key(SampleKey(2, 3)) == SampleKey(2, 3)
