"""A user's own pairs: which files of a folder belong together, and to which part.

`blurred/` beside `sharp/`, GoPro's layout, images that hold both halves, and plain sharp images.
"""

from pathlib import Path

from compress.errors import UserError, printable
from data.Deblur_data.pairs_index import read_index
from data.embedded import Part
from data.folders import folders_in, image_files, validation_groups
from data.images import ImageFile
from data.pairs import PairFiles

PARTS: dict[Part, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}
BLURRED, SHARP = ("blurred", "blur"), "sharp"
FORMS = "blurred/ and sharp/ with equal file names, GoPro's <scene>/blur and <scene>/sharp, or images A|B"


def pairs_of(directory: Path, part: Part, sharp_only: bool = False) -> list[PairFiles]:
    """The pairs of one part, sorted by name.

    `directory` holds pairs, or `train`, perhaps `validation` and `test`, or is itself such a `train`. Without a
    validation folder, a tenth of the training pairs, chosen by a hash of the name, is validation; of GoPro's layout a
    tenth of the scenes, of pairs from make_pairs.py a tenth of the photographs. Without a test folder, all pairs of a
    plain folder are the test part: `measured_part` of data/folders.py says when that is what is wanted.

    Args:
        sharp_only: the images are sharp ones, of which pairs are made.

    Raises:
        UserError: no such folder, no pairs in it, or an image without its other half.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a folder; give one with {FORMS}")
    root, own = _root(directory), _part_folder(directory, part)
    if part == "test":
        return _pairs(own or directory, sharp_only)
    if _part_folder(directory, "validation"):
        return _pairs(own or directory, sharp_only)
    train = root / "train"
    pairs = _pairs(train if train.is_dir() else directory, sharp_only)
    chosen = validation_groups({pair.group for pair in pairs}, directory)
    return [pair for pair in pairs if (pair.group in chosen) == (part == "validation")]


def has_test_part(directory: Path) -> bool:
    """Whether `pairs_of` finds a test folder there."""
    return _part_folder(directory, "test") is not None


def _root(directory: Path) -> Path:
    return directory.parent if directory.name in PARTS["train"] else directory


def _part_folder(directory: Path, part: Part) -> Path | None:
    root = _root(directory)
    return next((root / name for name in PARTS[part] if (root / name).is_dir()), None)


def _pairs(folder: Path, sharp_only: bool) -> list[PairFiles]:
    if sharp_only:
        found = [PairFiles(each.name, each, group=each.path.name) for each in image_files(folder)]
    elif (folder / SHARP).is_dir():
        found = _beside(folder)
    elif scenes := [path for path in folders_in(folder) if (path / SHARP).is_dir()]:
        found = [pair for scene in scenes for pair in _beside(scene, scene.name)]
    else:
        found = [PairFiles(each.name, each, group=each.path.name) for each in image_files(folder)]
    if not found:
        raise UserError(f"{folder} holds no pairs; known forms: {FORMS}")
    return found


def _beside(folder: Path, scene: str = "") -> list[PairFiles]:
    """`blurred/` and `sharp/` of one folder; pairs that were made of one photograph are one group."""
    blurred = next((folder / name for name in BLURRED if (folder / name).is_dir()), None)
    if blurred is None:
        raise UserError(f"{folder} has {SHARP}/ but no {' or '.join(f'{name}/' for name in BLURRED)} beside it")
    index = read_index(folder)
    made = index.groups() if index is not None else {}
    halves: list[dict[str, ImageFile]] = [
        {image.path.name: image for image in image_files(each)} for each in (folder / SHARP, blurred)
    ]
    alone = sorted(halves[0].keys() ^ halves[1].keys())
    if alone:
        lacking = "sharp" if alone[0] in halves[1] else blurred.name
        raise UserError(f"{folder}: {alone[0]} is not in {lacking}/ ({len(alone)} images have no other half)")
    return [
        PairFiles(
            f"{printable(scene)}_{image.name}" if scene else image.name,
            image,
            halves[1][name],
            scene or made.get(Path(name).stem.rpartition("_")[0], name),
        )
        for name, image in halves[0].items()
    ]
