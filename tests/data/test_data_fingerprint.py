"""Fingerprints of data: of every form they follow the content."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from compress.errors import UserError
from data.Classify_data.formats import digits
from data.Classify_data.formats.from_torchvision import torchvision_layout
from data.Classify_data.loaders import classify_training_loaders
from data.Classify_data.source import LazySource
from data.data_fingerprint import UNKNOWN, check_same_data, difference, warn_of_other_data
from options.Classify_options.train_options import TrainOptions
from tests.data.Classify_data.conftest import cifar as cifar
from tests.data.Classify_data.formats.test_idx import mnist, written


def facts(*arguments: str) -> dict[str, Any]:
    config = TrainOptions().parse(["--size=8", "--mean-std=mnist", *arguments])
    training: Any = classify_training_loaders(config)[0].dataset
    found: dict[str, Any] = training.origin.facts
    return found


def _idx(place: Path, images: np.ndarray, labels: np.ndarray) -> None:
    written(place / "train-images-idx3-ubyte", images)
    written(place / "train-labels-idx1-ubyte", labels.astype(np.uint8))


def _npz(place: Path, images: np.ndarray, labels: np.ndarray) -> None:
    place.mkdir(exist_ok=True)
    np.savez(place / "d.npz", x_train=images, y_train=labels)


def _hdf5(place: Path, images: np.ndarray, labels: np.ndarray) -> None:
    place.mkdir(exist_ok=True)
    with h5py.File(place / "d.h5", "w") as file:
        file["train_set_x"], file["train_set_y"] = images, labels


@pytest.mark.parametrize("write", [_idx, _npz, _hdf5])
def test_the_digest_of_arrays_follows_images_and_labels_and_not_the_place(
    write: Callable[..., None], here: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    labels = np.arange(30) % 3
    write(Path("d"), images, labels)
    found = facts("--traindata=d")
    assert (found["files"], found["images"], found["digest"] == UNKNOWN) == (0, 30, False)
    shutil.copytree("d", "moved")
    check_same_data(found, facts("--traindata=moved"))
    write(Path("d"), images, labels[::-1])
    assert difference(found, facts("--traindata=d")) == ", which are other images or labels"
    images[3, 2, 1] ^= 1
    write(Path("d"), images, labels)
    assert difference(found, facts("--traindata=d")) == ", which are other images or labels"


@pytest.mark.parametrize(("most", "read"), [(2**29, 10), (40, 10), (39, 5), (10, 3), (1, 1)])
def test_of_many_pixels_evenly_spaced_images_are_read(monkeypatch: pytest.MonkeyPatch, most: int, read: int) -> None:
    monkeypatch.setattr("data.Classify_data.source.MOST_HASHED", most)
    images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    labels, *pixels = LazySource(images.__getitem__, list(range(10)), [str(i) for i in range(10)], "d").arrays()
    assert len(labels) == 10
    assert len(pixels) == read
    assert np.array_equal(np.stack(pixels), images[:: -(-10 // read)])


def test_a_run_that_kept_no_content_continues_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    old = {"place": "d", "files": 0, "digest": UNKNOWN}
    new = {"place": "e", "files": 0, "images": 5, "digest": "0"}
    check_same_data(old, new)
    assert "says nothing of what d held, so whether e holds the same is not checked" in caplog.text
    assert difference(new, old) is None
    with pytest.raises(UserError, match=r"on d \(7 images\); here it would continue with e \(5 images\)\. A resumed"):
        check_same_data({**old, "images": 7, "digest": "1"}, new)
    with pytest.raises(UserError, match=r"on d \(1 files\); here it would continue with e \(5 images\)\. A resumed"):
        check_same_data({"place": "d", "files": 1, "digest": "1"}, new)


def test_what_is_calibrated_on_is_warned_of_where_it_is_other_data(caplog: pytest.LogCaptureFixture) -> None:
    facts = [{"place": "d", "files": 0, "images": 5, "digest": digest} for digest in "ab"]
    warn_of_other_data(facts[0], dict(facts[0]))
    assert not caplog.text
    warn_of_other_data(*facts)
    assert "trained on d (5 images); what is read now in their place is d (5 images), which are other" in caplog.text


def test_packed_or_not_is_the_same(here: Path) -> None:
    mnist(Path("plain"))
    mnist(Path("packed"), ".gz")
    assert facts("--traindata=plain")["digest"] == facts("--traindata=packed")["digest"]


def test_cifar_and_the_digits_have_one(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts(f"--traindata={cifar}")
    shutil.copy(cifar / "data_batch_1", cifar / "data_batch_2")
    assert difference(found, facts(f"--traindata={cifar}")) is not None
    own = facts()
    pixels, labels = digits._all()
    assert own["digest"] not in (UNKNOWN, found["digest"])
    monkeypatch.setattr(digits, "_all", lambda: (pixels, labels[::-1]))
    assert difference(own, facts()) is not None


@pytest.mark.parametrize("name", ["MNIST", "Food101", "GTSRB"])
def test_torchvisions_sets_have_one_by_their_files_or_their_pixels(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        Image.new("L", (8, 8), i).save(f"{i}.png")
    labels = [i % 2 for i in range(20)]

    class Set:
        def __init__(self, *given: Any, **settings: Any) -> None:
            self.classes = ["a", "b"]
            if name == "MNIST":
                self.targets = labels
            elif name == "Food101":
                self._labels, self._image_files = labels, [Path(f"{i}.png") for i in range(20)]
            else:
                self._samples = [(f"{i}.png", labels[i]) for i in range(20)]

        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> Any:
            return Image.open(f"{index}.png"), labels[index]

    monkeypatch.setitem(vars(__import__("torchvision").datasets), name, Set)
    assert len(torchvision_layout(name, False).open("train")) == 18
    found = facts(f"--dataset=torchvision:{name}")
    assert (found["files"], found.get("images")) == ((0, 20) if name == "MNIST" else (20, None))
    labels.reverse()
    assert difference(found, facts(f"--dataset=torchvision:{name}")) is not None
    labels.reverse()
    Image.new("RGB", (90, 80), 77).save("11.png")
    assert difference(found, facts(f"--dataset=torchvision:{name}")) is not None
