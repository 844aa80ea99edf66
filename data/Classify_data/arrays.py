"""Pictures in array files: HDF5 in the hand-sign layout, and .npz.

Here: which arrays hold pictures, labels and class names. Nothing is unpickled. Called by places.py.

    HDF5   train_set_x (N, H, W[, 1 or 3]), train_set_y, test_set_x, test_set_y, list_classes; in one file, or in two
           in one folder
    .npz   the same names, or x_train, y_train, x_test, y_test, classes; also val_set_x, x_val
"""

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UserError
from data.Classify_data.layout import Layout
from data.Classify_data.source import ArraySource
from data.embedded import Part

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf")
NAMES: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (("train_set_x", "train_set_y"), ("x_train", "y_train")),
    "validation": (("val_set_x", "val_set_y"), ("x_val", "y_val")),
    "test": (("test_set_x", "test_set_y"), ("x_test", "y_test")),
}
CLASS_NAMES = ("list_classes", "classes")


def array_layout(place: Path) -> Layout | None:
    """The layout of an array file, or of a folder of them; None if it is none."""
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    files = [file for file in files if file.suffix.lower() in (*HDF5_ENDINGS, ".npz") and file.is_file()]
    if not files:
        return None
    keys = {file: _keys(file) for file in files}
    parts = {}
    for part, pairs in NAMES.items():
        there = [(file, x, y) for file in files for x, y in pairs if x in keys[file] and y in keys[file]]
        if there:
            parts[part] = partial(_read, *there[0])
    if not parts:
        wanted = " or ".join(x for x, _ in NAMES["train"])
        raise UserError(f"{place} has no arrays of pictures named {wanted}; it holds {', '.join(keys[files[0]])}")
    return Layout("arrays", str(place), parts)


def _keys(path: Path) -> list[str]:
    with _opened(path) as file:
        return [str(key) for key in file]


def _opened(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".npz":
            return np.load(path, allow_pickle=False)
        import h5py  # only who has such files waits for it

        return h5py.File(path, "r")
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} cannot be read: {e}") from e


def _read(path: Path, x: str, y: str) -> ArraySource:
    with _opened(path) as file:
        try:
            images, labels = np.asarray(file[x]), np.asarray(file[y])
            names = _class_names(file)
        except (OSError, ValueError) as e:
            raise UserError(f"{path}: the arrays cannot be read: {e}") from e
    labels = labels.reshape(-1)
    if images.ndim not in (3, 4) or len(images) != len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: {x} has shape {images.shape} and {y} holds {len(labels)} values of {labels.dtype}; "
            "expected (N, H, W) or (N, H, W, 1 or 3) and N whole numbers"
        )
    classes = names or tuple(str(i) for i in range(int(labels.max()) + 1))
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UserError(f"{path}: {y} has labels from {labels.min()} to {labels.max()}, for {len(classes)} classes")
    return ArraySource(_as_pixels(images, f"{path}: {x}"), labels.tolist(), classes, str(path))


def _class_names(file: Mapping[str, Any]) -> tuple[str, ...]:
    for key in CLASS_NAMES:
        if key in file:
            return tuple(each.decode() if isinstance(each, bytes) else str(each) for each in np.asarray(file[key]))
    return ()


def _as_pixels(images: Any, where: str) -> Any:
    """(N, H, W, 1 or 3), 8 bits; fractions in [0, 1] are stretched."""
    images = images[..., None] if images.ndim == 3 else images
    if images.shape[-1] not in (1, 3):
        raise UserError(f"{where} has {images.shape[-1]} colours in its last dimension; 1 (grey) or 3 (RGB) are read")
    if images.dtype == np.uint8:
        return images
    if (
        np.issubdtype(images.dtype, np.floating)
        and np.isfinite(images).all()
        and 0 <= images.min() <= images.max() <= 1
    ):
        return np.rint(images * 255).astype(np.uint8)
    if images.min() >= 0 and images.max() <= 255:
        return np.rint(images).astype(np.uint8)
    raise UserError(f"{where} is empty or has values outside of [0, 1] and of [0, 255], which are what is read")
