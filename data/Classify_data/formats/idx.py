"""IDX files of images and labels, gzipped or not, as MNIST, EMNIST and Fashion-MNIST are published.

`idx_layout`. A file is a magic number, the sizes as 32-bit big-endian integers, and bytes
(LeCun et al., "The MNIST database of handwritten digits"). What the sizes promise is compared with what is there before
anything is kept.
"""

import gzip
import math
import re
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from compress.errors import UserError, shown
from compress.io.files import opened
from data.Classify_data.layout import Layout
from data.Classify_data.source import ArraySource
from data.embedded import Part

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
IMAGES = re.compile(r"(?P<before>.*)images(?P<between>[-._])idx3(?P<after>[-._]ubyte(\.gz)?)")
PARTS: dict[Part, frozenset[str]] = {
    "test": frozenset({"t10k", "test", "testing", "eval", "evaluation"}),
    "validation": frozenset({"val", "valid", "validation"}),
}
UNSIGNED_BYTES = 8
MOST_BYTES = 4 << 30  # of one array
MOST_GROWTH, ALWAYS = 100, 64 << 20  # an array's bytes for each in the file, and bytes that any array may have


def idx_layout(place: Path) -> Layout | None:
    """The layout of a folder of IDX files, or of the folder of one such file; None if it is none."""
    folder = place if place.is_dir() else place.parent
    there = {file.name for file in folder.iterdir() if not file.is_dir()} if folder.is_dir() else set()
    named = there if place == folder else there & {place.name}
    packed_too = {f"{name}.gz" for name in named}  # torchvision's download leaves both; the plain file is taken
    found = [IMAGES.fullmatch(name) for name in sorted(named - packed_too)]
    images = [match for match in found if match]
    if not images:
        return None
    parts: dict[Part, Any] = {}
    for match in images:
        part = _part(match["before"])
        if part in parts:
            raise UserError(
                f"{folder} holds two sets of IDX images for {part}, such as {match.string}; name one of them"
            )
        parts[part] = partial(_read, folder / match.string, _labels_of(folder, match))
    return Layout("IDX", str(place), parts)


def _part(before: str) -> Part:
    """The part that a word at the beginning of a file's name speaks of; one that says nothing is trained on."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", before)}
    return next((part for part, its_words in PARTS.items() if words & its_words), "train")


def _labels_of(folder: Path, match: re.Match[str]) -> Path:
    stem = f"{match['before']}labels{match['between']}idx1{match['after'].removesuffix('.gz')}"
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder / match.string} has no labels beside it; expected {stem} or {stem}.gz")


def _read(images_file: Path, labels_file: Path) -> ArraySource:
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise UserError(f"{images_file} has {len(images):,} images and {labels_file.name} {len(labels):,} labels")
    classes = tuple(str(i) for i in range(int(labels.max()) + 1))
    if _is_fashion(images_file) and len(classes) <= len(FASHION):
        classes = FASHION
    source = ArraySource(images[..., None], labels.tolist(), classes, str(images_file.parent))
    source.unnamed = True
    return source


def _is_fashion(file: Path) -> bool:
    """Whether the files, which hold no names, are Fashion-MNIST's, by the folder they are published in."""
    folder = file.absolute().parent
    name = folder.parent.name if folder.name == "raw" else folder.name  # `raw` is torchvision's
    return name.lower().replace("-", "").replace("_", "") == "fashionmnist"


def read_idx(path: Path, dimensions: int) -> Any:
    """The unsigned bytes of an IDX file as an array.

    Args:
        path: of the file; one that ends in .gz is unpacked.
        dimensions: that it has to have.

    Raises:
        UserError: it is no such file, or holds another number of bytes than its sizes say.
    """
    try:
        with opened(path) as stored:
            length = stored.seek(0, 2)
            stored.seek(0)
            file: Any = gzip.GzipFile(fileobj=stored) if path.suffix == ".gz" else stored
            return _array(file, dimensions, length)
    except (ValueError, OSError, EOFError, zlib.error) as e:
        text = " ".join(str(e).split())[:200]
        raise UserError(f"{path} cannot be read as IDX: {text}") from e


def _array(file: BinaryIO, dimensions: int, stored: int) -> Any:
    length = 4 + 4 * dimensions
    header = file.read(length)
    if header[:4] != bytes((0, 0, UNSIGNED_BYTES, dimensions))[: len(header)]:
        raise ValueError(f"it does not begin with the number of unsigned bytes in {dimensions} dimensions")
    if len(header) < length:
        raise ValueError(f"a header of {dimensions} dimensions has {length} bytes, and it holds {len(header)}")
    sizes = struct.unpack(f">{dimensions}I", header[4:])
    wanted = math.prod(sizes)
    if not wanted:
        raise ValueError(f"it is empty: its sizes are {shown(sizes)}")
    if wanted > MOST_BYTES or (wanted > ALWAYS and wanted > MOST_GROWTH * stored):
        raise ValueError(f"its sizes {shown(sizes)} are {wanted:,} bytes, of which the file holds {stored:,}")
    content = file.read(wanted + 1)
    if len(content) != wanted:
        more = "more" if len(content) > wanted else f"{len(content):,}"
        raise ValueError(f"its sizes {shown(sizes)} are {wanted:,} bytes, and it holds {more}")
    return np.frombuffer(content, np.uint8).reshape(sizes)
