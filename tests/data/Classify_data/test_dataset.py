"""Minibatches: normalised, augmented as a function of (seed, epoch, sample), at the asked size."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compress.errors import UserError
from data.Classify_data.augment import Augmentation
from data.Classify_data.dataset import ClassifySet
from data.Classify_data.find_dataset import place_layout
from data.Classify_data.loaders import classify_training_loaders
from data.Classify_data.normalization import mean_and_std
from data.Classify_data.source import ArraySource
from data.Classify_data.store import ImageStore, fit
from data.Classify_data.task import Task
from data.sampling import SampleKey
from options.Classify_options.train_options import TrainOptions
from tests.data.Classify_data.conftest import MakeClasses


def store_of(count: int = 6, side: int = 8, channels: int = 3, **settings: int) -> ImageStore:
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    labels = [i % 2 for i in range(count)]
    return ImageStore(ArraySource(images, labels, ("a", "b"), "here"), side, channels, **settings)


def task_of(store: ImageStore, mean: tuple[float, ...], std: tuple[float, ...]) -> Task:
    return Task(("a", "b"), store.channels, store.size, mean, std, (0, 1))


def test_measured_mean_and_std_normalise_to_0_and_1() -> None:
    store = store_of(300)
    mean, std = mean_and_std("auto", store)
    pixels = store.batch(list(range(300))).numpy() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert std == pytest.approx(pixels.std((0, 2, 3)))
    images, labels = ClassifySet(store, task_of(store, mean, std)).__getitems__(list(range(300)))
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(images.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4)
    assert labels.tolist() == [i % 2 for i in range(300)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", "give auto, one of cifar10"),
        ("0.5/0", "a standard deviation is above 0"),
        ("0.5,0.5/0.1,0.1", "has 2 and 2 values; images have 3"),
    ],
)
def test_wrong_means_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mean_and_std(text, store_of())


def test_given_and_known_means() -> None:
    assert mean_and_std("0.5/0.25", store_of()) == ((0.5,) * 3, (0.25,) * 3)
    assert mean_and_std("cifar10", store_of())[0] == (0.4914, 0.4822, 0.4465)


def test_beyond_the_memory_budget_images_are_decoded_again() -> None:
    whole, small = store_of(), store_of(memory_budget=3 * 64 * 2)
    assert len(small._kept) == 2
    assert torch.equal(whole.batch([5, 0, 3]), small.batch([5, 0, 3]))


def test_the_middle_square_is_taken_and_colours_are_fitted() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert (fit(wide, 4, 3) == 200).all()
    assert fit(wide, 2, 1).shape == (1, 2, 2)
    assert (fit(np.full((4, 4, 1), 9, np.uint8), 4, 3) == 9).all()


def test_augmentation_follows_from_seed_epoch_and_sample_alone() -> None:
    store = store_of()
    moved = ClassifySet(store, task_of(store, (0.0,) * 3, (1.0,) * 3), Augmentation(0.2, 20, 0.2, True), seed=3)
    keys = [SampleKey(2, i) for i in range(6)]
    together = moved.__getitems__(keys)[0]
    alone = torch.cat([moved[key][0] for key in reversed(keys)]).flip(0)
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together, moved.__getitems__([SampleKey(3, i) for i in range(6)])[0])
    assert not torch.allclose(together, moved.__getitems__([SampleKey(2, i) for i in range(6)][::-1])[0].flip(0) + 1)


def test_a_flip_mirrors_and_a_shift_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    draw = SimpleNamespace(uniform=lambda *_: np.array([0.0, 0.0, 1.0, 0.0, 1.0]))
    monkeypatch.setattr("data.Classify_data.augment.rng", lambda *_: draw)
    mirrored = Augmentation(flip=True).apply(image, 0, [SampleKey(0, 0)])
    assert torch.allclose(mirrored, image.flip(3), atol=1e-5)
    moved = Augmentation(shift=0.25).apply(image, 0, [SampleKey(0, 0)])
    assert torch.allclose(moved[..., :3], image[..., 1:], atol=1e-4)
    assert torch.equal(moved[..., 3], torch.zeros(1, 1, 4))  # what lies outside is black
    assert Augmentation().apply(image, 0, [SampleKey(0, 0)]) is image


def test_a_turn_of_90_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    draw = SimpleNamespace(uniform=lambda *_: np.array([1.0, 0.0, 0.0, 0.0, 0.0]))
    monkeypatch.setattr("data.Classify_data.augment.rng", lambda *_: draw)
    turned = Augmentation(rotate=90).apply(image, 0, [SampleKey(0, 0)])
    assert torch.allclose(turned, image.rot90(1, (2, 3)), atol=1e-4)


def test_an_unreadable_image_is_named(make_classes: MakeClasses, caplog: pytest.LogCaptureFixture) -> None:
    place = make_classes("s", {"train/a": 3, "train/b": 3})
    (place / "train" / "a" / "broken.png").write_text("no image")
    with caplog.at_level(logging.WARNING):
        store = ImageStore(place_layout(place / "train").open("test", named=True), 8, 3)
    assert len(store) == 6
    assert "skipped a/broken of" in caplog.text
    assert "1 of 7 images" in caplog.text


def test_a_class_that_has_lost_all_its_images_is_named(make_classes: MakeClasses) -> None:
    place = make_classes("s", {"a": 2, "b": 1})
    (place / "b" / "0.png").write_text("no image")
    with pytest.raises(UserError, match="no image of class 'b'"):
        ImageStore(place_layout(place).open("test", named=True), 8, 3)
    for i in range(2):
        (place / "a" / f"{i}.png").write_text("no image")
    with pytest.raises(UserError, match="no usable image"):
        ImageStore(place_layout(place).open("test", named=True), 8, 3)


def test_the_loaders_share_the_task(make_classes: MakeClasses) -> None:
    place: Path = make_classes("s", {"train/a": 12, "train/b": 20, "test/a": 1, "test/b": 1}, "L")
    config = TrainOptions().parse([f"--traindata={place}", "--size=16", "--batchSize=8"])
    training, validation = classify_training_loaders(config)
    assert training.dataset.task.channels == 1
    assert training.dataset.task.majority == (1, 0)
    images, labels = next(iter(training))
    assert images.shape == (8, 1, 16, 16)
    assert labels.shape == (8,)
    assert validation.dataset.task is training.dataset.task
    assert sum(len(labels) for _, labels in validation) == 3
