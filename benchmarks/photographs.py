"""A folder of photographs for super-resolution and deblurring, from two packages of Debian.

    apt-get install lomiri-wallpapers-16.04 mate-backgrounds
    python benchmarks/photographs.py [dataset/photographs]

Writes 27 photographs as PNG into train/, val/ and test/ (18, 3 and 6 of them), their longer side reduced to 960 pixels:
the files are up to 5312 pixels wide, and so smooth at that size that bicubic interpolation is right already.
docs/results.md has what was measured on them.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

PLACE = Path("/usr/share/backgrounds")
LONGER_SIDE = 960
COUNT = 27
PACKAGES = "lomiri-wallpapers-16.04 mate-backgrounds"


def photographs(place: Path = PLACE) -> list[Path]:
    """The photographs of both packages, in the order of their names."""
    return sorted([*place.glob("*_by_*.jpg"), *(place / "mate" / "nature").glob("*.jpg")], key=lambda path: path.name)


def part(number: int) -> str:
    """Of nine photographs two are tested and one validates.

    >>> [part(number) for number in range(9)]
    ['test', 'train', 'train', 'train', 'val', 'test', 'train', 'train', 'train']
    """
    return {0: "test", 5: "test", 4: "val"}.get(number % 9, "train")


def reduced(image: Image.Image, longer: int = LONGER_SIDE) -> Image.Image:
    """An RGB copy whose longer side has so many pixels, if it has more."""
    copy = image.convert("RGB")
    copy.thumbnail((longer, longer), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return copy


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("dataset/photographs"))
    folder = parser.parse_args().folder
    found = photographs()
    if len(found) != COUNT:
        sys.exit(f"{len(found)} of {COUNT} photographs in {PLACE}: apt-get install {PACKAGES}")
    for number, path in enumerate(found):
        target = folder / part(number) / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            reduced(image).save(target)
    print(f"{len(found)} photographs in {folder}")


if __name__ == "__main__":
    main()
