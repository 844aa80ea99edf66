"""Class folders, Food-11's names, the embedded digits: which image is in which part, with which label."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import MNIST

from compress.errors import UserError
from data.Classify_data.find_dataset import find_layout, place_layout
from data.Classify_data.formats.folders import unlabelled
from data.Classify_data.loaders import classify_testing_loader, classify_training_loaders, training_set
from data.Classify_data.task import check_classes
from options.Classify_options.test_options import TestOptions
from options.Classify_options.train_options import TrainOptions
from tests.data.Classify_data.conftest import MakeClasses


def test_class_folders_in_the_order_of_names(make_classes: MakeClasses) -> None:
    counts = {"train/b": 2, "train/a": 3, "val/a": 1, "val/b": 1, "test/b": 2, "test/a": 1}
    layout = place_layout(make_classes("s", counts))
    training = layout.open("train")
    assert training.classes == ("a", "b")
    assert training.labels == [0, 0, 0, 1, 1]
    assert training.names[0] == "a/0"
    assert (len(layout.open("validation")), len(layout.open("test"))) == (2, 3)


def test_class_folders_named_by_numbers_are_in_their_order(make_classes: MakeClasses) -> None:
    layout = place_layout(make_classes("s", {f"train/{name}": 2 for name in ("10", "9", "x", "02", "b", "100")}))
    assert layout.open("train").classes == ("02", "9", "10", "100", "b", "x")


def test_without_a_validation_part_some_of_each_class_are_held_out(make_classes: MakeClasses) -> None:
    layout = place_layout(make_classes("s", {"train/a": 20, "train/b": 4, "test/a": 1, "test/b": 1}))
    training, validation = layout.open("train"), layout.open("validation")
    assert [validation.labels.count(i) for i in (0, 1)] == [2, 1]
    assert not set(training.names) & set(validation.names)
    assert len(training) + len(validation) == 24


@pytest.mark.parametrize("under", ["", "train/"])
def test_without_a_test_part_what_was_held_out_of_training_is_measured(
    make_classes: MakeClasses, under: str, caplog: pytest.LogCaptureFixture
) -> None:
    layout = place_layout(make_classes("s", {f"{under}a": 20, f"{under}b": 10}))
    test, training = layout.open("test"), layout.open("train")
    assert test.names == layout.open("validation").names
    assert not set(test.names) & set(training.names)
    assert len(test) == 3
    assert "has no test part: measuring the tenth of each class held out of training, 3 images" in caplog.text
    assert "best.pt was chosen by them" in caplog.text


def test_a_place_without_parts_is_measured_whole_where_it_is_named(
    make_classes: MakeClasses, caplog: pytest.LogCaptureFixture
) -> None:
    place = make_classes("s", {"a": 4, "b": 4})
    assert len(place_layout(place).open("test", named=True)) == 8
    assert not caplog.text
    config = TrainOptions().parse([f"--traindata={place}", "--size=8"])
    checkpoint = {"task": training_set(config).task.to_dict(), "options": {**vars(config)}}
    for arguments, count in (([], 2), ([f"--testdata={place}"], 8)):
        loader = classify_testing_loader(TestOptions().parse(arguments), checkpoint)
        assert len(loader.dataset) == count


def test_without_a_test_part_the_validation_part_is_measured(
    make_classes: MakeClasses, caplog: pytest.LogCaptureFixture
) -> None:
    layout = place_layout(make_classes("s", {"train/a": 2, "train/b": 2, "val/a": 3, "val/b": 1}))
    assert len(layout.open("test")) == 4
    assert "has no test part: measuring its validation part, 4 images; the network has not" in caplog.text
    caplog.clear()
    assert len(layout.open("test", named=True)) == 4
    assert "measuring its validation part, 4 images" in caplog.text
    assert "best.pt" not in caplog.text  # of another run's data, perhaps


def test_a_place_of_training_images_alone_is_not_tested_by_name(make_classes: MakeClasses) -> None:
    layout = place_layout(make_classes("s", {"train/a": 2, "train/b": 2}))
    with pytest.raises(UserError, match="has no test part; name another place, or one part of this one"):
        layout.open("test", named=True)


def test_a_class_that_only_one_part_has_is_named(make_classes: MakeClasses) -> None:
    layout = place_layout(make_classes("s", {"train/a": 2, "train/b": 2, "val/a": 1, "val/c": 1}))
    with pytest.raises(UserError, match=r"val: the classes are not those .*missing: b; extra: c"):
        layout.open("validation")


def test_another_order_of_the_same_classes_is_refused() -> None:
    with pytest.raises(UserError, match="the order is b, a instead of a, b"):
        check_classes(("b", "a"), ("a", "b"), "here")


def test_an_empty_class_is_named(make_classes: MakeClasses) -> None:
    place = make_classes("s", {"train/a": 2})
    (place / "train" / "zebra").mkdir()
    with pytest.raises(UserError, match="the class 'zebra' is empty"):
        place_layout(place).open("train")


def test_food_11(make_classes: MakeClasses, caplog: pytest.LogCaptureFixture) -> None:
    place = make_classes("food", {"training": 12, "validation": 12, "testing": 3})
    for part in ("training", "validation"):
        for i in range(12):
            (place / part / f"{i}.png").rename(place / part / f"{i}_{7 * i}.png")
    layout = place_layout(place)
    training = layout.open("train")
    assert training.classes == tuple(str(i) for i in range(12))  # numbers in their order, 10 behind 9
    assert sorted(training.labels) == list(range(12))
    test = layout.open("test")
    assert test.names == layout.open("validation").names
    assert f"{place / 'testing'} holds images without labels" in caplog.text
    assert f"python test.py --predict={place / 'testing'} answers" in caplog.text
    assert "measuring its validation part, 12 images; the network has not learned from them" in caplog.text
    with pytest.raises(UserError, match=r"images without labels.*--predict="):
        place_layout(place / "testing").open("test", named=True)
    assert unlabelled(place / "testing").labels == [-1, -1, -1]


def test_unknown_forms_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none does not exist"):
        place_layout(tmp_path / "none")
    with pytest.raises(UserError, match="holds no data in a known form: class folders"):
        place_layout(tmp_path)
    with pytest.raises(
        UserError, match="--dataset=mnist: unknown data set; known are digits, fashion-mnist and torchvision:NAME"
    ):
        find_layout(None, "mnist")
    with pytest.raises(UserError, match="torchvision:CIFAR11: unknown data set; did you mean 'CIFAR10'"):
        find_layout(None, "torchvision:CIFAR11")


def test_torchvisions_files_that_are_not_there(here: Path) -> None:
    with pytest.raises(UserError, match="torchvision:CIFAR10: Dataset not found.*--download fetches it"):
        find_layout(None, "torchvision:CIFAR10").open("train")


def test_download_fetches_the_test_part_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx_files(here / "dataset" / "MNIST" / "raw", {"train": 40, "t10k": 10})
    opened, make = [], MNIST.__init__

    def noting(self: MNIST, *arguments: Any, **settings: Any) -> None:
        opened.append((settings["train"], settings["download"]))
        make(self, *arguments, **settings)

    monkeypatch.setattr(MNIST, "__init__", noting)
    config = TrainOptions().parse(["--dataset=torchvision:MNIST", "--download", "--size=8"])
    training, validation = classify_training_loaders(config)
    assert (False, True) in opened
    assert (len(training.dataset), len(validation.dataset)) == (30, 10)
    checkpoint = {"task": training.dataset.task.to_dict(), "options": vars(config)}
    opened.clear()
    testing = classify_testing_loader(TestOptions().parse([]), checkpoint)
    assert opened == [(False, False)]
    assert len(testing.dataset) == 10


def idx_files(folder: Path, counts: Mapping[str, int]) -> None:
    """MNIST's four files, with as many noise images of 28 x 28, the ten labels in turn."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, count in counts.items():
        head = struct.pack(">4i", 0x803, count, 28, 28)
        pixels = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = bytes(i % 10 for i in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels)


def test_the_digits_are_split_once_and_for_all() -> None:
    layout = find_layout(None, "digits")
    parts = [layout.open(part) for part in ("train", "validation", "test")]
    assert [len(each) for each in parts] == [1259, 181, 357]
    names = [set(each.names) for each in parts]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
    assert len(names[0] | names[1] | names[2]) == 1797
    assert all(set(each.labels) == set(range(10)) for each in parts)
    assert parts[0].load(0).shape == (8, 8, 1)
