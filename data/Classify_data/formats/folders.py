"""Images in folders: one folder per class, or Food-11's files named <class>_<id>.

Which file has which label. Called by places.py.
"""

import re
from collections import Counter
from functools import partial
from pathlib import Path

from compress.errors import UserError, printable
from compress.io.files import read_text
from data.Classify_data.layout import Layout
from data.Classify_data.source import UNLABELLED, FileSource, WithoutLabels
from data.embedded import Part
from data.folders import ENDINGS, folders_in, image_files
from data.images import ImageFile

CLASSES = "classes.txt"
PART_FOLDERS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing", "evaluation"),
}


def folder_layout(place: Path) -> Layout | None:
    """The layout of a folder of images; None if it is none.

    With part folders (`train/`, `val/`, `test/` or Food-11's names) each holds class folders, or files named
    <class>_<id>. Without, the place itself does.
    """
    found = {part: _first(place, names) for part, names in PART_FOLDERS.items()}
    parts = {part: folder for part, folder in found.items() if folder is not None}
    if parts:
        return Layout("class folders", str(place), {part: partial(open_part, folder) for part, folder in parts.items()})
    if place.is_dir() and (folders_in(place) or image_files(place)):
        return Layout("class folders", str(place), {}, partial(open_part, place))
    return None


def open_part(folder: Path) -> FileSource:
    """Class folders, or files named <class>_<id>, directly in `folder`; classes are in the order of their names.

    Raises:
        UserError: a class without an image, or no image at all.
    """
    return _by_folder(folder) if folders_in(folder) else _by_name(folder)


def classes_file(place: Path) -> Path:
    """Where the names of all classes would be."""
    return (place if place.is_dir() else place.parent) / CLASSES


def listed_classes(place: Path) -> tuple[str, ...] | None:
    """The classes of `classes.txt` in a place, or beside it if it is a file, one a line; None where there is none.

    Raises:
        UserError: it cannot be read, or names a class twice or none.
    """
    file = classes_file(place)
    if not file.is_file():
        return None
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{file} cannot be read: {printable(e)}") from e
    names = [printable(line) for line in lines if line]
    twice = sorted({name for name, count in Counter(names).items() if count > 1})
    if not names or twice:
        fault = f"names {', '.join(twice[:8])} twice" if twice else "is empty"
        raise UserError(f"{file} {fault}; it holds the name of each class once, one a line, in the network's order")
    return tuple(names)


def unlabelled(place: Path) -> FileSource:
    """All images of a folder, without labels.

    Raises:
        UserError: there is none.
    """
    if not place.is_dir():
        raise UserError(f"{place} is not a folder; give a folder of images")
    all_images = image_files(place)
    if not all_images:
        raise UserError(f"{place} holds no image; files ending in {', '.join(ENDINGS)} are read")
    whole_names = [ImageFile(printable(each.path.name), each.path) for each in all_images]  # a.png and a.jpg are two
    return FileSource(whole_names, [UNLABELLED] * len(all_images), (), str(place))


def _by_folder(folder: Path) -> FileSource:
    classes = _class_folders(folder)
    all_images: list[ImageFile] = []
    labels: list[int] = []
    for label, each in enumerate(classes):
        files = image_files(each)
        if not files:
            raise UserError(f"the class {each.name!r} is empty: {each} holds no image ({', '.join(ENDINGS)})")
        all_images += [ImageFile(f"{printable(each.name)}/{file.name}", file.path) for file in files]
        labels += [label] * len(files)
    return FileSource(all_images, labels, [printable(each.name) for each in classes], str(folder))


def _by_name(folder: Path) -> FileSource:
    all_images = image_files(folder)
    if not all_images:
        raise UserError(f"{folder} holds neither class folders nor images ({', '.join(ENDINGS)})")
    given = [re.match(r"(.+)_[^_]+$", image.name) for image in all_images]
    classes = sorted({match[1] for match in given if match}, key=_natural)
    if not classes:
        raise WithoutLabels(
            f"{folder} holds images without labels: neither class folders nor names of the form <class>_<id>; "
            f"python test.py --predict={folder} answers what a trained network takes them for"
        )
    places = {name: label for label, name in enumerate(classes)}
    labels = [places[match[1]] if match else UNLABELLED for match in given]
    return FileSource(all_images, labels, classes, str(folder))


def _class_folders(folder: Path) -> list[Path]:
    return sorted(folders_in(folder), key=lambda path: _natural(path.name))


def _first(place: Path, names: tuple[str, ...]) -> Path | None:
    return next((place / name for name in names if (place / name).is_dir()), None)


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers in their order, before other names."""
    number = name.isascii() and name.isdecimal()
    return not number, int(name) if number else 0, name
