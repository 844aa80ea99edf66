"""A few bytes of a data set that stand for far more: every size that a reader takes from a file has a bound."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from compress.errors import UserError
from data.Classify_data.find_dataset import place_layout

IMAGES, LABELS = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2


def hdf5(path: Path, **more: object) -> h5py.File:
    file = h5py.File(path, "w")
    file["train_set_x"], file["train_set_y"] = IMAGES, LABELS
    return file


def names_by_the_million(path: Path) -> None:
    with hdf5(path) as file:
        file.create_dataset("list_classes", (50_000_000,), "S4", chunks=(1000,))


def names_by_the_hundred_thousand(path: Path) -> None:
    with hdf5(path) as file:
        file.create_dataset("list_classes", (300_000,), "S4", compression="gzip")


def names_of_references(path: Path) -> None:
    with hdf5(path) as file:
        file.create_dataset("list_classes", data=[file["train_set_x"].ref] * 2, dtype=h5py.ref_dtype)


def names_of_numbers(path: Path) -> None:
    with hdf5(path) as file:
        file["list_classes"] = np.arange(2)


def a_long_name(path: Path) -> None:
    with hdf5(path) as file:
        file["list_classes"] = [b"a" * 5000, b"b"]


def packed_zeros_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["train_set_y"] = LABELS
        file.create_dataset("train_set_x", (4, 8000, 8000, 3), np.uint8, chunks=(1, 100, 100, 3))


def packed_zeros_npz(path: Path) -> None:
    """As numpy packs 500 MB of zeros, without making them: the head says so, and so does the archive's table."""
    size = 100 << 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x_train.npy", "w") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    with zipfile.ZipFile(path, "a") as archive, archive.open("y_train.npy", "w") as file:
        np.save(file, LABELS)


def cifar(**more: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [more.get("label", 0)]}
        (path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
        if "names" in more:
            (path / "batches.meta").write_bytes(pickle.dumps({b"label_names": more["names"]}, protocol=2))

    return write


@pytest.mark.parametrize(("name", "write", "message"), [
    ("a.h5", names_by_the_million, "names 50,000,000 classes; at most 65,536"),
    ("a.h5", names_by_the_hundred_thousand, "names 300,000 classes; at most 65,536"),
    ("a.h5", names_of_references, "list_classes holds no text"),
    ("a.h5", names_of_numbers, "list_classes holds no text"),
    ("a.h5", a_long_name, "has 5,000 characters; at most 200"),
    ("a.h5", packed_zeros_h5, r"train_set_x has 768,000,000 bytes, of which the file holds 0"),
    ("a.npz", packed_zeros_npz, r"x_train has 104,857,600 bytes, of which the file holds"),
    ("cifar", cifar(label=10**400), r"has labels from 100000"), ("cifar", cifar(label=10**5000), r"has labels from "),
    ("cifar", cifar(names=[b"x"] * 70_000), "names 70,000 classes"),
    ("cifar", cifar(names=[b"x" * 300]), "has 300 characters"), ("cifar", cifar(names=[1]), "is no text"),
])  # fmt: skip
def test_absurd_sizes_are_refused_at_once_and_shortly(
    name: str, write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as e:
        place_layout(tmp_path / name).open("train")
    assert len(str(e.value).replace(str(tmp_path), "")) < 500


def test_names_of_any_text_are_read(tmp_path: Path) -> None:
    for kind in ("S4", h5py.string_dtype()):
        with hdf5(tmp_path / "a.h5") as file:
            file.create_dataset("list_classes", data=["one", "two"], dtype=kind)
        assert place_layout(tmp_path / "a.h5").open("train").classes == ("one", "two")
