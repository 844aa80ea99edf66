"""CIFAR-10's python batches, read directly and safely.

`data_batch_1` ... `data_batch_5`, `test_batch`, `batches.meta` as published (Krizhevsky 2009).
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UserError, shown
from data.Classify_data.formats.plain_pickle import ERRORS, Refused, read_plain
from data.Classify_data.layout import Layout
from data.Classify_data.names import checked_names
from data.Classify_data.source import ArraySource

INNER = "cifar-10-batches-py"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))


def read_batch(path: Path) -> dict[str, Any]:
    """One pickled dictionary with its keys as text.

    Raises:
        UserError: the file cannot be read, or holds something else than arrays and plain data.
    """
    try:
        content = read_plain(path)
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except Refused as e:
        raise UserError(f"{path} is refused: {e}") from e
    except ERRORS as e:
        text = " ".join(str(e).split())[:200]
        raise UserError(f"{path} cannot be read as a batch of CIFAR-10: {type(e).__name__}: {text}") from e


def cifar_layout(place: Path) -> Layout | None:
    """The layout of a folder with CIFAR-10's python batches, or with the folder that holds them; None if it is none."""
    folder = place if (place / TRAINING[0]).is_file() else place / INNER
    if not (folder / TRAINING[0]).is_file():
        return None
    parts = {"train": partial(_read, folder, TRAINING), "test": partial(_read, folder, ("test_batch",))}
    return Layout("CIFAR-10 python batches", str(folder), parts)  # type: ignore[arg-type]


def _read(folder: Path, files: tuple[str, ...]) -> ArraySource:
    batches = [_pixels_and_labels(folder / file) for file in files if (folder / file).is_file() or file == files[0]]
    images = np.concatenate([images for images, _ in batches])
    labels = [label for _, more in batches for label in more]
    classes = _class_names(folder)
    if labels and not 0 <= min(labels) <= max(labels) < len(classes):
        raise UserError(
            f"{folder} has labels from {shown(min(labels))} to {shown(max(labels))}, for {len(classes)} classes"
        )
    return ArraySource(images, labels, classes, str(folder))


def _pixels_and_labels(path: Path) -> tuple[Any, list[int]]:
    batch = read_batch(path)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{path} has no array 'data' of 8-bit rows of 3,072 values")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(each) is int for each in labels):
        raise UserError(f"{path} has no list 'labels' with one number for each of its {len(data)} images")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _class_names(folder: Path) -> tuple[str, ...]:
    if not (folder / "batches.meta").is_file():
        return CLASSES
    path = folder / "batches.meta"
    names = read_batch(path).get("label_names", [])
    if not isinstance(names, list):
        raise UserError(f"{path} has no list 'label_names' of names")
    try:
        return checked_names(names) or CLASSES
    except ValueError as e:
        raise UserError(f"{path}: 'label_names': {e}") from e
