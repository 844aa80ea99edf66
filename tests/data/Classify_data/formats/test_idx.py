"""IDX files: what is read equals what was written, and sizes that lie are refused before anything is kept."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from compress.errors import UserError
from data.Classify_data import find_dataset
from data.Classify_data.find_dataset import find_layout, place_layout
from data.Classify_data.formats.idx import FASHION, read_idx
from data.Classify_data.loaders import training_set
from options.Classify_options.train_options import TrainOptions


def written(path: Path, array: np.ndarray, sizes: tuple[int, ...] | None = None, kind: int = 8) -> Path:
    """The array as IDX, with other sizes or another kind in its head where given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = sizes or array.shape
    content = struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def mnist(folder: Path, ending: str = "", separator: str = "-", count: int = 20) -> np.ndarray:
    """Both parts in small; returns the training images."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 6, 5), dtype=np.uint8)
    for part in ("train", "t10k"):
        written(folder / f"{part}-images{separator}idx3-ubyte{ending}", images)
        written(folder / f"{part}-labels{separator}idx1-ubyte{ending}", np.arange(count, dtype=np.uint8) % 10)
    return images


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("separator", ["-", "."])
def test_what_is_read_is_what_was_written(ending: str, separator: str, tmp_path: Path) -> None:
    images = mnist(tmp_path, ending, separator)
    source = place_layout(tmp_path).open("test")
    assert source.classes == tuple("0123456789")
    assert source.labels == [i % 10 for i in range(20)]
    assert all(np.array_equal(source.load(i)[..., 0], images[i]) for i in range(20))


def test_one_file_may_be_named_and_emnist_has_a_prefix(tmp_path: Path) -> None:
    mnist(tmp_path)
    images = tmp_path / "emnist-letters-train-images-idx3-ubyte"
    (tmp_path / "train-images-idx3-ubyte").rename(images)
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "emnist-letters-train-labels-idx1-ubyte")
    assert len(place_layout(images).open("train")) == 10  # one of two of each class is held out
    assert len(place_layout(images).open("validation")) == 10


def test_fashion_mnist_is_found_with_its_names_and_its_normalization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "fashion-mnist"
    mnist(place, ".gz")
    monkeypatch.setattr(find_dataset, "FASHION_PLACES", (tmp_path / "no", place))
    assert find_layout(None, "fashion-mnist").open("test").classes == FASHION


def test_where_fashion_mnist_is_missing_the_message_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_dataset, "FASHION_PLACES", (tmp_path / "no",))
    with pytest.raises(UserError, match="package dataset-fashion-mnist"):
        find_layout(None, "fashion-mnist")


LABELS = np.zeros(4, np.uint8)


@pytest.mark.parametrize(("sizes", "kind", "message"), [
    ((5,), 8, "are 5 bytes, and it holds 4"), ((3,), 8, "are 3 bytes, and it holds more"),
    ((2**32 - 1,), 8, "are 4,294,967,295 bytes, of which the file holds"), ((0,), 8, "it is empty"),
    ((4,), 13, "does not begin with the number"), ((2, 2), 8, "does not begin with the number"),
])  # fmt: skip
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_head_that_lies_is_refused(
    sizes: tuple[int, ...], kind: int, message: str, ending: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_idx(written(tmp_path / f"a{ending}", LABELS, sizes, kind), 1)


def test_a_packed_file_that_would_grow_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 100 << 20) + bytes(1 << 20)))
    with pytest.raises(UserError, match="of which the file holds"):
        read_idx(path, 1)


@pytest.mark.parametrize("content", [b"", b"\0", b"\0\0\x08\x01\0"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_that_ends_early_is_refused(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    reason = "" if ending else f": a header of 1 dimensions has 8 bytes, and it holds {len(content)}$"
    with pytest.raises(UserError, match=f"cannot be read as IDX{reason}"):
        read_idx(path, 1)


def test_of_a_file_that_is_there_plain_and_packed_the_plain_one_is_taken(tmp_path: Path) -> None:
    mnist(tmp_path, ".gz", count=30)
    mnist(tmp_path, count=20)  # torchvision's download leaves both in `raw/`
    assert len(place_layout(tmp_path).open("test")) == 20
    assert len(place_layout(tmp_path / "t10k-images-idx3-ubyte").open("test")) == 20
    assert place_layout(tmp_path / "t10k-images-idx3-ubyte.gz").parts.keys() == {"test"}


def test_a_part_without_the_highest_class_fits_a_network_that_knows_it(tmp_path: Path) -> None:
    mnist(tmp_path / "digits")
    source = place_layout(tmp_path / "digits").open("test")
    few = written(tmp_path / "digits/t10k-labels-idx1-ubyte", np.arange(20, dtype=np.uint8) % 8)
    lower = place_layout(tmp_path / "digits").open("test")
    lower.check_classes(source.classes)
    lower.subset([0, 1]).check_classes(source.classes)
    with pytest.raises(UserError, match="extra: 8, 9"):
        source.check_classes(lower.classes)
    with pytest.raises(UserError, match="missing: a, b"):
        lower.check_classes("abcdefgh")
    few.rename(tmp_path / "digits/val-labels-idx1-ubyte")
    (tmp_path / "digits/t10k-images-idx3-ubyte").rename(tmp_path / "digits/val-images-idx3-ubyte")
    assert max(place_layout(tmp_path / "digits").open("validation").labels) == 7
    (tmp_path / "digits").rename(tmp_path / "FashionMNIST")
    assert place_layout(tmp_path / "FashionMNIST").open("validation").classes == FASHION


def test_listed_classes_name_the_labels_and_too_few_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path)
    names = (*(f"name{i}" for i in range(10)), "ten")
    (tmp_path / "classes.txt").write_text("\n".join(names))
    source = place_layout(tmp_path).open("train")
    assert source.classes == names  # `ten` has no image
    assert set(source.labels) == set(range(10))
    with pytest.raises(UserError, match="missing: 0, 1"):
        source.check_classes(tuple("0123456789"))
    (tmp_path / "classes.txt").write_text("name0\nname1\nname2")
    with pytest.raises(UserError, match=r"has labels up to 9, and .*classes\.txt names 3 classes"):
        place_layout(tmp_path).open("test")


def test_images_without_labels_and_two_sets_in_one_folder_are_named(tmp_path: Path) -> None:
    mnist(tmp_path)
    written(tmp_path / "emnist-train-images-idx3-ubyte", np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(UserError, match="expected emnist-train-labels-idx1-ubyte or"):
        place_layout(tmp_path)
    written(tmp_path / "emnist-train-labels-idx1-ubyte", LABELS[:1])
    with pytest.raises(UserError, match="two sets of IDX images for train"):
        place_layout(tmp_path)


def test_images_and_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path)
    written(tmp_path / "train-labels-idx1-ubyte", LABELS)
    with pytest.raises(UserError, match=r"has 20 images and train-labels-idx1-ubyte 4 labels"):
        place_layout(tmp_path).open("train")


def test_a_byte_order_mark_is_no_part_of_a_name_and_a_named_file_has_the_names_beside_it(tmp_path: Path) -> None:
    mnist(tmp_path)
    names = tuple("abcdefghij")
    (tmp_path / "classes.txt").write_bytes("\r\n".join(names).encode("utf-8-sig"))
    assert place_layout(tmp_path).open("train").classes == names
    assert place_layout(tmp_path / "train-images-idx3-ubyte").open("train").classes == names


@pytest.mark.parametrize(("before", "part"), [
    ("interval-train-", "train"), ("contest-train-", "train"), ("latest-train-", "train"), ("latest-test-", "test"),
    ("t10k-", "test"), ("emnist_val_", "validation"), ("digitsValidation.", "validation"), ("TEST-", "test"),
    ("eval-", "test"), ("retrain-", "train"), ("", "train"),
])  # fmt: skip
def test_the_part_is_a_whole_word_of_the_name(before: str, part: str, tmp_path: Path) -> None:
    written(tmp_path / f"{before}images-idx3-ubyte", np.zeros((4, 2, 2), np.uint8))
    written(tmp_path / f"{before}labels-idx1-ubyte", LABELS)
    assert list(place_layout(tmp_path).parts) == [part]


def test_labels_without_an_image_are_warned_of_and_listed_ones_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mnist(tmp_path)
    written(tmp_path / "train-labels-idx1-ubyte", (1 + np.arange(20) % 4).astype(np.uint8))
    config = TrainOptions().parse([f"--traindata={tmp_path}", "--size=8"])
    training_set(config)
    words = "1 of 5 classes have no image to train on: 0; the network has an output for each of them"
    assert f"{tmp_path}: {words}" in caplog.text
    caplog.clear()
    (tmp_path / "classes.txt").write_text("\n".join("-abcd"))
    training_set(config)
    assert "no image to train on" not in caplog.text
