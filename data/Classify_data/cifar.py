"""CIFAR-10's python batches, read directly and safely.

Here: `data_batch_1` ... `data_batch_5`, `test_batch`, `batches.meta` as published (Krizhevsky 2009), by an unpickler
that makes nothing but numpy arrays and plain types. Not here: writing them as class folders (convert.py).
"""

import pickle
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy._core.multiarray import _reconstruct

from compress.errors import UserError
from data.Classify_data.layout import Layout
from data.Classify_data.source import ArraySource

INNER = "cifar-10-batches-py"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))


def _as_bytes(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes: `_codecs.encode(text, "latin1")`, and nothing else of that function."""
    if encoding != "latin1":
        raise UserError(f"it asks for the encoding {encoding!r}, which no array needs; it was not read")
    return text.encode("latin1")


class SafeUnpickler(pickle.Unpickler):
    """Makes numpy arrays and plain types only; anything else is refused before it is made."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _as_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of the names above.

        Raises:
            UserError: any other name.
        """
        if (module, name) not in self.ALLOWED:
            raise UserError(f"it holds {module}.{name}, which is neither an array nor plain data; it was not read")
        return self.ALLOWED[module, name]


def read_batch(path: Path) -> dict[str, Any]:
    """One pickled dictionary with its keys as text.

    Raises:
        UserError: the file cannot be read, or holds something else than arrays and plain data.
    """
    try:
        with path.open("rb") as file:
            content = SafeUnpickler(file, encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except UserError as e:
        raise UserError(f"{path} is refused: {e}") from e
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as e:
        raise UserError(f"{path} cannot be read as a batch of CIFAR-10: {e}") from e


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
    return ArraySource(images, labels, _class_names(folder), str(folder))


def _pixels_and_labels(path: Path) -> tuple[Any, list[int]]:
    batch = read_batch(path)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{path} has no array 'data' of 8-bit rows of 3,072 values")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(isinstance(each, int) for each in labels):
        raise UserError(f"{path} has no list 'labels' with one number for each of its {len(data)} pictures")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _class_names(folder: Path) -> tuple[str, ...]:
    if not (folder / "batches.meta").is_file():
        return CLASSES
    names = read_batch(folder / "batches.meta").get("label_names", [])
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names) or CLASSES
