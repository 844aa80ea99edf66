"""Labelled images, wherever they come from.

`ArraySource` (pixels in memory), `FileSource` (files), and the held-out part.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.errors import UserError, did_you_mean
from data.Classify_data.task import check_classes
from data.folders import smallest_hashes
from data.images import DECODE_ERRORS, ImageFile, Pixels, opened
from data.measured import WHOLE

UNLABELLED = -1
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
MOST_HASHED = 2**29  # bytes of pixels
VALIDATION_FRACTION = 0.1


class WithoutLabels(UserError):
    """Images are there, and nothing says of which class they are."""


class Source(ABC):
    """Images with labels.

    Args:
        classes: names; a label is a place in it.
        labels: of each image; `UNLABELLED` where there is none.
        names: of each image, for reports and for the choice of the held-out part.
        where: what messages call the whole.

    Attributes:
        part: which part of it this is, where `Layout.open` gave it.
        unnamed: the data hold no names of classes; there are as many as the highest label says.
        listed: a file names all classes; some may have no image, which is then no mistake.
    """

    part: str = WHOLE
    unnamed = False
    listed = False

    def __init__(self, classes: Sequence[str], labels: Sequence[int], names: Sequence[str], where: str) -> None:
        self.classes, self.labels, self.names = tuple(classes), [int(each) for each in labels], list(names)
        self.where = where

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int) -> Pixels:
        """Pixels of an image, (height, width, 1 or 3), 0..255; raises one of `DECODE_ERRORS` if that fails."""

    @abstractmethod
    def subset(self, indices: Iterable[int]) -> "Source":
        """Some of the images, with the same classes."""

    def _some(self, chosen: Sequence[int]) -> Self:
        """A copy that has the labels and names of some of the images; the subclass adds these images."""
        part = copy.copy(self)
        part.labels, part.names = [self.labels[i] for i in chosen], [self.names[i] for i in chosen]
        return part

    def with_classes(self, known: Sequence[str], file: Path) -> Self:
        """The same images; their labels are places in all classes, of which some may have no image.

        Args:
            known: names, in the order of the network's outputs. They are the names of labels 0, 1, ... where the data
                have none.
            file: that names them.

        Raises:
            UserError: a class of the data is not among them, or they are fewer than the labels need.
        """
        named = copy.copy(self)
        if self.unnamed and len(self.classes) > len(known):
            raise UserError(
                f"{self.where} has labels up to {len(self.classes) - 1}, and {file} names {len(known)} classes; it "
                "holds the name of each class once, one a line, in the order of the labels"
            )
        order = range(len(known)) if self.unnamed else self._places_in(known, file)
        named.labels = [label if label == UNLABELLED else order[label] for label in self.labels]
        named.classes, named.unnamed, named.listed = tuple(known), False, True
        return named

    def _places_in(self, known: Sequence[str], file: Path) -> list[int]:
        places = {name: place for place, name in enumerate(known)}
        for name in self.classes:
            if name not in places:
                raise UserError(
                    f"{self.where}: {file} does not list the class {name!r}; {did_you_mean(name, list(known))}"
                )
        return [places[name] for name in self.classes]

    def check_classes(self, wanted: Sequence[str]) -> None:
        """Compares with the classes of a network. Data without names may lack the highest ones.

        Raises:
            UserError: they are others.
        """
        if not self.unnamed or self.classes != tuple(wanted[: len(self.classes)]):
            check_classes(self.classes, wanted, self.where)

    def files(self) -> list[Path]:
        """The images' files; none of images that come from one large file or from memory."""
        return []

    def arrays(self) -> Iterator[NDArray[Any]]:
        """What the names and sizes of `files` do not say, for the fingerprint of the data: labels and pixels.

        Of more pixels than are read in some seconds, those of evenly spaced images.
        """
        yield np.asarray(self.labels, np.int64)
        size = self.load(0).nbytes if len(self) else 0
        yield from map(self.load, range(0, len(self), max(1, -(-len(self) * size // MOST_HASHED))))

    @property
    def channels(self) -> int:
        """1 if the images are grey, else 3; the first one decides."""
        return int(self.load(0).shape[-1])


class ArraySource(Source):
    """Images in one array, (N, height, width, 1 or 3), 8 bits."""

    def __init__(
        self, images: Pixels, labels: Sequence[int], classes: Sequence[str], where: str, names: Sequence[str] = ()
    ) -> None:
        super().__init__(classes, labels, names or [f"{i:05d}" for i in range(len(images))], where)
        self.images = images

    def load(self, index: int) -> Pixels:
        """The image at that place."""
        return self.images[index]

    def subset(self, indices: Iterable[int]) -> "ArraySource":
        """Copies of some of the images."""
        chosen = list(indices)
        part = self._some(chosen)
        part.images = self.images[chosen]
        return part


class FileSource(Source):
    """Image files."""

    def __init__(
        self, all_images: Sequence[ImageFile], labels: Sequence[int], classes: Sequence[str], where: str
    ) -> None:
        super().__init__(classes, labels, [one_image.name for one_image in all_images], where)
        self.all_images = list(all_images)

    def load(self, index: int) -> Pixels:
        """The decoded file."""
        return self.all_images[index].load()

    def files(self) -> list[Path]:
        """See `Source`."""
        return [one_image.path for one_image in self.all_images]

    def arrays(self) -> Iterator[NDArray[Any]]:
        """None: the labels follow from the names."""
        return iter(())

    def subset(self, indices: Iterable[int]) -> "FileSource":
        """Some of the files."""
        chosen = list(indices)
        part = self._some(chosen)
        part.all_images = [self.all_images[i] for i in chosen]
        return part

    @property
    def channels(self) -> int:
        """1 if the first file that opens is stored as grey, else 3."""
        for one_image in self.all_images:
            try:
                with opened(one_image.path) as image:
                    return 1 if image.mode in GREY else 3
            except DECODE_ERRORS:
                continue
        return 3


class LazySource(Source):
    """Images that some other data set object hands out one by one.

    Args:
        load: the image at a place.
        labels: see `Source`.
        classes: see `Source`.
        where: see `Source`.
        paths: the images' files, where each has one.
    """

    def __init__(
        self, load: Callable[[int], Any], labels: Sequence[int], classes: Sequence[str], where: str,
        paths: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        super().__init__(classes, labels, [f"{i:05d}" for i in range(len(labels))], where)
        self._load, self._places, self._paths = load, list(range(len(labels))), list(paths)

    def load(self, index: int) -> Pixels:
        """The image as (height, width, 1 or 3)."""
        pixels = np.asarray(self._load(self._places[index]), dtype=np.uint8)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def subset(self, indices: Iterable[int]) -> "LazySource":
        """Some of the images."""
        chosen = list(indices)
        part = self._some(chosen)
        part._places = [self._places[i] for i in chosen]
        return part

    def files(self) -> list[Path]:
        """See `Source`."""
        return [self._paths[i] for i in self._places] if self._paths else []

    def arrays(self) -> Iterator[NDArray[Any]]:
        """See `Source`; of images that are files the labels, which a list of its own gives them."""
        return islice(super().arrays(), 1 if self._paths else None)


def hold_out(source: Source) -> tuple[list[int], list[int]]:
    """Training and validation indices: a tenth of each class, chosen by a hash of the images' names.

    A class of one image keeps it for training; of two to fourteen, one is held out.
    """
    held: set[int] = set()
    by_label: dict[int, dict[str, int]] = {}
    for i, (name, label) in enumerate(zip(source.names, source.labels, strict=True)):
        if label != UNLABELLED:
            by_label.setdefault(label, {})[f"{name}:{i}"] = i
    for members in by_label.values():
        if len(members) > 1:
            count = max(1, round(VALIDATION_FRACTION * len(members)))
            held |= {members[name] for name in smallest_hashes(members, count)}
    return [i for i in range(len(source)) if i not in held], sorted(held)
