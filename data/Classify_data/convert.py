"""Writes a data set as class folders: python -m data.Classify_data.convert cifar10 SRC DST

    DST/train/airplane/00000.png ..., DST/test/airplane/00000.png ...

Interrupted, it continues where it was: an image that is there is not written again, and none is ever there by half. At
the end the images of each class are counted.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from compress.errors import UserError
from compress.io.files import replacing
from compress.io.terminal import answer, guard_screen
from data.Classify_data.formats.cifar import cifar_layout
from data.Classify_data.source import Source
from data.embedded import Part
from data.folders import image_files

PARTS: tuple[Part, ...] = ("train", "test")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code, 2 after a fault of the user's."""
    guard_screen()
    parser = argparse.ArgumentParser(prog="python -m data.Classify_data.convert", description="Data as class folders.")
    parser.add_argument("form", choices=["cifar10"])
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the python batches")
    parser.add_argument("target", type=Path, metavar="DST")
    given = parser.parse_args(arguments)
    return answer(lambda: convert_cifar(given.source, given.target))


def convert_cifar(source: Path, target: Path) -> str:
    """Writes both parts; returns what was done, in words.

    Raises:
        UserError: the batches cannot be read, or `target` holds something else than what is written there.
    """
    layout = cifar_layout(source)
    if layout is None:
        raise UserError(f"{source} holds no data_batch_1; name the folder cifar-10-batches-py, or the one around it")
    source_parts = {part: layout.parts[part]() for part in PARTS}
    for name in {name for each in source_parts.values() for name in each.classes}:
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise UserError(f"{source}: the class name {name!r} cannot be a folder below {target}; nothing was written")
    counts = [f"{part}: {_write(each, target / part)} images" for part, each in source_parts.items()]
    return f"written and counted: {target}: {', '.join(counts)}"


def _write(source: Source, target: Path) -> int:
    """The images of one part; those of a class are numbered in their order."""
    numbers = dict.fromkeys(range(len(source.classes)), 0)
    for name in source.classes:
        (target / name).mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(len(source)), target.name, disable=not sys.stderr.isatty(), leave=False):
        label = source.labels[index]
        path = target / source.classes[label] / f"{numbers[label]:05d}.png"
        numbers[label] += 1
        if not path.exists():
            with replacing(path) as temporary:
                Image.fromarray(source.load(index)).save(temporary)
    for label, wanted in numbers.items():
        found = len(image_files(target / source.classes[label]))
        if found != wanted:
            raise UserError(
                f"{target / source.classes[label]} holds {found} images instead of {wanted}; empty {target} and run "
                "it again"
            )
    return len(source)


if __name__ == "__main__":
    sys.exit(main())
