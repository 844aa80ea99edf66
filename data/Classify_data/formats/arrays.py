"""Images in array files: HDF5 in the hand-sign layout, and .npz.

Which arrays hold images, labels and class names. Nothing is unpickled. Called by places.py.

    HDF5   train_set_x (N, H, W[, 1 or 3]), train_set_y, test_set_x, test_set_y, list_classes; in one file, or in two
           in one folder
    .npz   the same names, or x_train, y_train, x_test, y_test, classes; also val_set_x, x_val
"""

import logging
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UserError, printable, shown
from compress.io.files import checked
from data.Classify_data.layout import Layout
from data.Classify_data.names import MOST_CLASSES, check_count, checked_names
from data.Classify_data.source import ArraySource
from data.embedded import Part

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf")
NAMES: dict[Part, tuple[tuple[str, str], ...]] = {
    "train": (("train_set_x", "train_set_y"), ("x_train", "y_train")),
    "validation": (("val_set_x", "val_set_y"), ("x_val", "y_val")),
    "test": (("test_set_x", "test_set_y"), ("x_test", "y_test")),
}
MOST_BYTES = 4 << 30  # of one array
MOST_GROWTH, ALWAYS = 100, 64 << 20  # an array's bytes for each in the file, and bytes that any array may have
TOLD = 256 << 20  # bytes of an array whose reading takes some time
CLASS_NAMES = ("list_classes", "classes")
_logger = logging.getLogger("run")


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
        raise UserError(f"{place} has no arrays of images named {wanted}; it holds {', '.join(keys[files[0]])}")
    return Layout("arrays", str(place), parts)


ERRORS = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, NotImplementedError, EOFError, MemoryError, SyntaxError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
"""What numpy and h5py raise for a file that is damaged or claims what it does not hold."""


def _keys(path: Path) -> list[str]:
    with _opened(path) as file:
        return [printable(key) for key in file]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, whatever goes wrong with it inside the block being a UserError."""
    try:
        with _open(path) as file:
            yield file
    except ERRORS as e:
        text = str(e).strip().splitlines() or [type(e).__name__]
        raise UserError(f"{path}: the arrays cannot be read: {text[0][:200]}") from e


def _open(path: Path) -> Any:
    if path.suffix.lower() == ".npz":
        file = np.load(checked(path), allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is not an archive of arrays")
        return file
    import h5py  # only who has such files waits for it

    return h5py.File(checked(path), "r")


def _array(file: Any, key: str) -> Any:
    """An array of a file, if the file itself holds it and it is of a bearable size."""
    if isinstance(file, np.lib.npyio.NpzFile):
        archive = file.zip
        assert archive is not None, "it is open"
        members = [each for each in archive.infolist() if each.filename in (key, f"{key}.npy")]
        size, stored = sum(each.file_size for each in members), sum(each.compress_size for each in members)
    else:
        size, stored = _held_bytes(file, key)
    if size > MOST_BYTES:
        raise ValueError(
            f"{key} has {size:,} bytes, and at most {MOST_BYTES:,} are read; write larger sets as class folders"
        )
    if size > ALWAYS and size > MOST_GROWTH * stored:
        raise ValueError(
            f"{key} has {size:,} bytes, of which the file holds {stored:,}: images are packed {MOST_GROWTH} times at "
            "most, so nearly all of it is one value"
        )
    if size >= TOLD:
        _logger.info("reading %s: %.1f GB", key, size / 1e9)
    return np.asarray(file[key])


def _held_bytes(file: Any, key: str) -> tuple[int, int]:
    """Bytes of an HDF5 data set, and in the file; ValueError for what would be read from somewhere else."""
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink) or not isinstance(file[key], h5py.Dataset):
        raise ValueError(f"{key} is no data set in this file")
    dataset = file[key]
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{key} takes its values from other files, which is not done")
    return int(dataset.size or 0) * dataset.dtype.itemsize, int(dataset.id.get_storage_size())


def _read(path: Path, x: str, y: str) -> ArraySource:
    with _opened(path) as file:
        images, labels = _array(file, x), _array(file, y)
        names = _class_names(file)
    labels = labels.reshape(-1)
    if (
        images.ndim not in (3, 4)
        or images.size == 0
        or images.dtype.kind not in "buif"
        or len(images) != len(labels)
        or not np.issubdtype(labels.dtype, np.integer)
    ):
        raise UserError(
            f"{path}: {x} has shape {images.shape} of {images.dtype} and {y} holds {len(labels)} values of "
            f"{labels.dtype}; expected numbers (N, H, W) or (N, H, W, 1 or 3) and N whole numbers"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    classes = names or tuple(str(i) for i in range(min(highest + 1, MOST_CLASSES)))
    if not 0 <= lowest <= highest < len(classes):
        raise UserError(f"{path}: {y} has labels from {lowest} to {highest}, for {len(classes)} classes")
    source = ArraySource(_as_pixels(images, f"{path}: {x}"), labels.tolist(), classes, str(path))
    source.unnamed = not names
    return source


def _class_names(file: Mapping[str, Any]) -> tuple[str, ...]:
    for key in CLASS_NAMES:
        if key in file:
            return checked_names(_names(file, key))
    return ()


def _names(file: Any, key: str) -> list[Any]:
    """What is given for class names, once their number and kind are known to be bearable."""
    if isinstance(file, np.lib.npyio.NpzFile):
        return list(_array(file, key).reshape(-1).tolist())
    import h5py

    _held_bytes(file, key)
    dataset = file[key]
    check_count(dataset.size or 0)
    if dataset.dtype.kind not in "SU" and h5py.check_string_dtype(dataset.dtype) is None:
        raise ValueError(f"{key} holds no text, but {shown(str(dataset.dtype))}")
    return list(_array(file, key).reshape(-1).tolist())


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
