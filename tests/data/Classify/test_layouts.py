"""Class folders, Food-11's names, the embedded digits: which picture is in which part, with which label."""

from pathlib import Path

import pytest

from compress.errors import UserError
from data.Classify_data.folders import unlabelled
from data.Classify_data.places import find_layout, place_layout
from data.Classify_data.task import check_classes
from tests.data.Classify.conftest import MakeClasses


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


def test_a_place_without_parts_is_tested_whole(make_classes: MakeClasses) -> None:
    layout = place_layout(make_classes("s", {"a": 4, "b": 4}))
    assert len(layout.open("test")) == 8
    assert len(layout.open("train")) == 6


def test_without_a_test_part_the_validation_part_is_measured(make_classes: MakeClasses) -> None:
    layout = place_layout(make_classes("s", {"train/a": 2, "train/b": 2, "val/a": 3, "val/b": 1}))
    assert len(layout.open("test")) == 4


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


def test_food_11(make_classes: MakeClasses, tmp_path: Path) -> None:
    place = make_classes("food", {"training": 12, "validation": 12, "testing": 3})
    for part in ("training", "validation"):
        for i in range(12):
            (place / part / f"{i}.png").rename(place / part / f"{i}_{7 * i}.png")
    layout = place_layout(place)
    training = layout.open("train")
    assert training.classes == tuple(str(i) for i in range(12))  # numbers in their order, 10 behind 9
    assert sorted(training.labels) == list(range(12))
    with pytest.raises(UserError, match=r"pictures without labels.*--predict="):
        layout.open("test")
    assert unlabelled(place / "testing").labels == [-1, -1, -1]


def test_unknown_forms_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none does not exist"):
        place_layout(tmp_path / "none")
    with pytest.raises(UserError, match="holds no data in a known form: class folders"):
        place_layout(tmp_path)
    with pytest.raises(UserError, match="--dataset=mnist: it is digits or torchvision:NAME"):
        find_layout(None, "mnist")
    with pytest.raises(UserError, match="torchvision:CIFAR11: no such data set; did you mean 'CIFAR10'"):
        find_layout(None, "torchvision:CIFAR11")


def test_torchvisions_files_that_are_not_there(here: Path) -> None:
    with pytest.raises(UserError, match="torchvision:CIFAR10: Dataset not found.*--download fetches it"):
        find_layout(None, "torchvision:CIFAR10").open("train")


def test_the_digits_are_split_once_and_for_all() -> None:
    layout = find_layout(None, "digits")
    parts = [layout.open(part) for part in ("train", "validation", "test")]
    assert [len(each) for each in parts] == [1259, 181, 357]
    names = [set(each.names) for each in parts]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
    assert len(names[0] | names[1] | names[2]) == 1797
    assert all(set(each.labels) == set(range(10)) for each in parts)
    assert parts[0].load(0).shape == (8, 8, 1)
