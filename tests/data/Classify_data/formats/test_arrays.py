"""HDF5 in the hand-sign layout, and .npz."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from compress.errors import UserError
from data.Classify_data.find_dataset import place_layout


def signs(folder: Path, colours: tuple[int, ...] = (3,)) -> Path:
    """train_signs.h5 and test_signs.h5, as they are published: 64 x 64, labels (1, N) in some copies."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 12), ("test", 4)):
        with h5py.File(folder / f"{part}_signs.h5", "w") as file:
            file[f"{part}_set_x"] = draw.integers(0, 256, (count, 8, 8, *colours), dtype=np.uint8)
            file[f"{part}_set_y"] = np.arange(count)[None] % 3
            file["list_classes"] = np.array([b"zero", b"one", b"two"])
    return folder


@pytest.mark.parametrize("colours", [(3,), (1,), ()])
def test_hand_signs(tmp_path: Path, colours: tuple[int, ...]) -> None:
    layout = place_layout(signs(tmp_path / "signs", colours))
    test = layout.open("test")
    assert test.classes == ("zero", "one", "two")
    assert test.labels == [0, 1, 2, 0]
    assert test.load(0).shape == (8, 8, colours[0] if colours else 1)
    assert len(layout.open("train")) + len(layout.open("validation")) == 12


@pytest.mark.parametrize("stretched", [False, True])
def test_npz_with_fractions(tmp_path: Path, stretched: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5), dtype=np.uint8)
    stored: Any = images / 255 if stretched else images
    np.savez(tmp_path / "a.npz", x_train=stored, y_train=[0, 1] * 3, x_test=stored[:2], y_test=[1, 0])
    test = place_layout(tmp_path / "a.npz").open("test")
    assert test.classes == ("0", "1")
    assert np.array_equal(test.load(1)[..., 0], images[1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4, 4))}, "no arrays of images named train_set_x or x_train; it holds images"),
        ({"x_test": np.zeros((2, 4, 4)), "y_test": [0]}, r"shape \(2, 4, 4\) of float64 and y_test holds 1 values"),
        ({"x_test": np.zeros((2, 4, 4, 5)), "y_test": [0, 1]}, "has 5 colours"),
        ({"x_test": np.full((2, 4, 4), 300), "y_test": [0, 1]}, "values outside"),
        ({"x_test": np.zeros((2, 4, 4)), "y_test": [0, 5], "classes": ["a", "b"]}, "labels from 0 to 5, for 2 classes"),
        ({"x_test": np.array([object()]), "y_test": [0]}, "cannot be read"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        place_layout(tmp_path / "a.npz").open("test")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.npz", "a.h5"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(UserError, match=f"{name}: the arrays cannot be read"):
            place_layout(tmp_path / name)
