"""Crops and whole images: aligned, repeatable with any number of workers, in the promised form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from compress.errors import UserError
from data.dataset import DatasetFromFolder, EvaluationSet
from data.images import ImageFile, down_sample
from data.sampling import EpochSampler, SampleKey
from tests.data.conftest import MakeImages


def all_images(directory: Path) -> list[ImageFile]:
    return [ImageFile(path.stem, path) for path in sorted(directory.iterdir())]


def epoch_of(dataset: DatasetFromFolder, epoch: int, workers: int, persistent: bool = False) -> torch.Tensor:
    """Both resolutions of one epoch, flattened into one row per sample; epoch 0 is read first."""
    sampler = EpochSampler(len(dataset), seed=dataset.seed)
    loader = DataLoader(dataset, 3, sampler=sampler, num_workers=workers, persistent_workers=persistent or None)
    for now in sorted({0, epoch}):
        sampler.set_epoch(now)
        batches = list(loader)
    return torch.cat([torch.cat([low.flatten(1), high.flatten(1)], 1) for low, high in batches])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_samples_have_the_promised_form(make_images: MakeImages, scale: int) -> None:
    dataset = DatasetFromFolder(all_images(make_images("p", 2)), scale, patch_size=25, samples=6)
    size = 25 // scale
    low, high = dataset[SampleKey(1, 5)]
    assert low.shape == (3, size, size)
    assert high.shape == (3, size * scale, size * scale)
    assert low.dtype == high.dtype == torch.float32
    assert 0 <= float(high.min()) < float(high.max()) <= 1


def test_low_and_high_are_the_same_place_in_all_eight_positions(tmp_path: Path) -> None:
    """On slow ramps, the down-sampled crop equals the low crop but for the crop's own border."""
    across, down = np.meshgrid(np.arange(64), np.arange(60))
    ramps = np.stack([3 * across, 4 * down, across + down], axis=2).astype(np.uint8)
    Image.fromarray(ramps).save(tmp_path / "ramp.png")
    dataset = DatasetFromFolder(all_images(tmp_path), 2, patch_size=24, samples=60)
    directions = set()
    for low, high in (dataset[sample] for sample in range(60)):
        again = down_sample((high * 255).round().byte().permute(1, 2, 0).numpy(), 2)
        assert np.abs(again.transpose(2, 0, 1) - (low.numpy() * 255))[:, 3:-3, 3:-3].max() <= 1.01
        slopes = low[:2, -1, 6] - low[:2, 0, 6], low[:2, 6, -1] - low[:2, 6, 0]
        directions.add(tuple(torch.cat(slopes).sign().int().tolist()))
    assert len(directions) == 8


def test_images_get_equal_shares(tmp_path: Path) -> None:
    for level in (10, 200):
        Image.new("RGB", (32, 32), (level,) * 3).save(tmp_path / f"{level}.png")
    dataset = DatasetFromFolder(all_images(tmp_path), 2, patch_size=8, samples=10)
    levels = [round(float(dataset[sample][1].mean()) * 255) for sample in range(10)]
    assert sorted(levels) == [10] * 5 + [200] * 5


def test_samples_follow_seed_epoch_and_sample(make_images: MakeImages) -> None:
    directory = make_images("p", 3)
    first = DatasetFromFolder(all_images(directory), 2, 16, 9, seed=4)
    again = DatasetFromFolder(all_images(directory), 2, 16, 9, seed=4)
    other = DatasetFromFolder(all_images(directory), 2, 16, 9, seed=5)
    assert torch.equal(epoch_of(first, 2, 0), epoch_of(again, 2, 0))
    assert not torch.equal(epoch_of(first, 2, 0), epoch_of(first, 1, 0))
    assert not torch.equal(first[SampleKey(2, 1)][1], other[SampleKey(2, 1)][1])
    assert torch.equal(first[3][1], first[SampleKey(0, 3)][1])


def test_the_number_of_workers_changes_nothing(make_images: MakeImages) -> None:
    dataset = DatasetFromFolder(all_images(make_images("p", 3)), 2, 16, 9, seed=4)
    alone = epoch_of(dataset, 2, workers=0)
    assert torch.equal(epoch_of(dataset, 2, workers=1), alone)
    assert torch.equal(epoch_of(dataset, 2, workers=2, persistent=True), alone)


def test_an_index_outside_the_epoch(make_images: MakeImages) -> None:
    dataset = DatasetFromFolder(all_images(make_images("p", 1)), 2, 16, 9)
    with pytest.raises(IndexError, match=r"sample 9 is not in \[0, 9\)"):
        dataset[9]


def test_the_patch_size_is_checked(make_images: MakeImages) -> None:
    with pytest.raises(UserError, match="the patch size is 1 pixels; it must be 2 or more"):
        DatasetFromFolder(all_images(make_images("p", 1)), 2, patch_size=1)


def test_images_smaller_than_the_patch_are_refused(make_images: MakeImages) -> None:
    with pytest.raises(UserError, match="no usable image"):
        DatasetFromFolder(all_images(make_images("p", 2)), 2, patch_size=48)


def test_evaluation_items(make_images: MakeImages) -> None:
    directory = make_images("p", 2, (43, 37), mode="L")
    dataset = EvaluationSet(all_images(directory), 3)
    assert len(dataset) == 2
    item = dataset[1]
    assert item.name == "1"
    assert item.degraded.shape == (3, 12, 14)
    assert item.baseline.shape == item.target.shape == (3, 36, 42)
    assert torch.equal(item.target[0], item.target[2])
    low = Image.fromarray((item.degraded * 255).round().byte().permute(1, 2, 0).numpy())
    expected = np.array(low.resize((42, 36), Image.Resampling.BICUBIC))
    assert np.array_equal((item.baseline * 255).round().byte().permute(1, 2, 0).numpy(), expected)


def test_evaluation_batches_carry_the_name(make_images: MakeImages) -> None:
    batches = list(DataLoader(EvaluationSet(all_images(make_images("p", 2)), 2), batch_size=1))
    assert [batch.name for batch in batches] == [("0",), ("1",)]
    assert batches[0].degraded.shape == (1, 3, 18, 20)


def test_evaluation_ends(make_images: MakeImages) -> None:
    dataset = EvaluationSet(all_images(make_images("p", 2)), 2)
    assert [item.name for item in dataset] == ["0", "1"]
    with pytest.raises(IndexError):
        dataset[2]


def test_an_epoch_of_fewer_samples_than_images_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    for level in range(5):
        Image.new("RGB", (32, 32), (50 * level,) * 3).save(tmp_path / f"{level}.png")
    crops = DatasetFromFolder(all_images(tmp_path), 2, 16, samples=2)
    assert crops.epochs_to_see_all == 3
    high = [crops[SampleKey(epoch, sample)][1] for epoch in range(3) for sample in range(2)]
    assert [round(float(each.mean()) * 255 / 50) for each in high] == [0, 1, 2, 3, 4, 0]
