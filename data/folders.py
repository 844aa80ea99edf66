"""A user's own images: which files of a folder belong to which part.

Plain folders and BSDS300's layout, the validation part made of file names, and which part is measured. Not
here: decoding, which also finds the unreadable ones (`store.py`). Called by `data.py`.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from compress.errors import UserError, printable
from data.embedded import Part
from data.images import DECODE_ERRORS, ImageFile, opened

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VALIDATION_FRACTION = 0.1

_logger = logging.getLogger("run")

# Sub-folders that hold a part, the first that exists is used. BSDS300 has images/train and images/test;
# train_aug holds turned and scaled copies of images/train.
_PART_FOLDERS: dict[Part, tuple[str, ...]] = {
    "train": ("train_aug", "train"),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}


def folder_images(directory: Path, part: Part) -> list[ImageFile]:
    """The image files of one part, sorted by name.

    `directory` is either a folder of images or a folder with `train_aug` or `train`, and perhaps
    `validation` and `test` (inside `images/` too). Without a validation folder, 10 % of the training
    files that open, chosen by a hash of the name, are validation and not training. The test part is the `test`
    folder or, for a plain folder, all its files: `measured_part` says when that is what is wanted.

    Raises:
        UserError: no such folder, no image in it, or a single one where two parts are needed.
    """
    root = _root(directory)
    own = _part_folder(root, part)
    if part == "test":
        return _files(own or root)
    if _part_folder(root, "validation"):
        return _files(own or root)
    files = _files(_part_folder(root, "train") or root)
    chosen = validation_groups({_group(file) for file in files if _opens(file)}, directory)
    return [file for file in files if (_group(file) in chosen) == (part == "validation")]


def has_test_part(directory: Path) -> bool:
    """Whether `folder_images` finds a test folder there."""
    return _part_folder(_root(directory), "test") is not None


def measured_part(
    given: str | None, trained: Path | None, has_test: Callable[[Path], bool]
) -> tuple[Path | None, Part]:
    """Which part of which place a network is measured on, so that no image that it was trained on is taken unsaid.

    A folder that is given is taken whole, or its test part if it has one. Without one it is the test part of the data
    that the network was trained on; where they have none, their validation part, and a warning says what that means.

    Args:
        given: `--testdata`.
        trained: the folder that it was trained on; None is the embedded photographs, which have every part.
        has_test: whether a folder has a test part.

    Returns:
        the folder (None is the embedded photographs) and its part.
    """
    if given is not None:
        place = Path(given)
        same = trained is not None and os.path.abspath(place) == os.path.abspath(trained)
        if same and not has_test(place):
            _logger.warning(
                "--testdata=%s is the folder that the network was trained on, and has no test part: most of these "
                "images were trained on; without --testdata those that were held out are measured", place,
            )  # fmt: skip
        return place, "test"
    if trained is None or has_test(trained):
        return trained, "test"
    _logger.warning(
        "%s has no test part: quality is measured on its validation images. They were not trained on, but chose the "
        "best epoch; --testdata names others", trained,
    )  # fmt: skip
    return trained, "validation"


def validation_groups(groups: set[str], directory: Path) -> set[str]:
    """A tenth of the names, at least one: those with the smallest SHA-256, whatever order they came in."""
    if len(groups) < 2:
        raise UserError(
            f"{directory} holds {'a single' if groups else 'no'} readable image; training needs at least two, one of "
            "them for validation. "
            "Add images or name another folder with --traindata DIR"
        )
    return smallest_hashes(groups, max(1, round(VALIDATION_FRACTION * len(groups))))


def smallest_hashes(names: Iterable[str], count: int) -> set[str]:
    """The `count` names with the smallest SHA-256: a choice that depends on nothing but the names."""
    return set(
        sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest())[:count]
    )


def _opens(image: ImageFile) -> bool:
    """Whether the file begins like an image: one that does not is never held out, it is named in the training part."""
    try:
        with opened(image.path):
            return True
    except DECODE_ERRORS:
        return False


def _group(image: ImageFile) -> str:
    """What is hashed. Copies in train_aug share their image's number and must stay on one side."""
    number = re.match(r"\d+", image.path.name)
    if image.path.parent.name == "train_aug" and number:
        return number.group()
    return image.path.name


def _root(directory: Path) -> Path:
    """The folder that holds the images or the part folders: `directory` or its `images/`."""
    if not directory.is_dir():
        raise UserError(
            f"{directory} is not a folder; give a folder of images, or one with train/ and test/ in it "
            "(BSDS300's layout)"
        )
    inner = directory / "images"
    if not any(_part_folder(directory, part) for part in _PART_FOLDERS) and inner.is_dir():
        return inner
    return directory


def _part_folder(root: Path, part: Part) -> Path | None:
    return next((root / name for name in _PART_FOLDERS[part] if (root / name).is_dir()), None)


def _files(folder: Path) -> list[ImageFile]:
    """All image files directly in `folder`."""
    all_images = image_files(folder)
    if not all_images:
        raise UserError(f"{folder} holds no image; files ending in {', '.join(ENDINGS)} are read")
    return all_images


def image_files(folder: Path) -> list[ImageFile]:
    """The files directly in a folder that are images by their ending, sorted by name; perhaps none.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and not path.is_dir())
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error
    return [ImageFile(printable(path.stem), path) for path in paths]


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted by name, without hidden ones.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error
