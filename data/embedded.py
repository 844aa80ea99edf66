"""The real photographs inside the scikit-image and scikit-learn wheels, and their split.

Which image is in which part, and where the installed packages keep the files. Nothing is downloaded: only files
that the wheels carry are named. Called by `data.py`.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from compress.errors import UserError
from data.images import ImageFile

Part = Literal["train", "validation", "test"]

_SKIMAGE = "skimage/data"
_SKLEARN = "sklearn/datasets/images"

# The one place where the split is written. It is by image: no part of an image that is trained on is
# ever measured. How it was made, before any network was trained on it:
#  - images stored as JPEG train only: their block noise would be part of the target that is measured;
#  - nearly flat images (bicubic x2 above 40 dB: moon) train only: a mean would be ruled by their noise;
#    retina, cell and clock_motion, flatter still, teach nothing and are left out;
#  - both motorcycle images show one scene from two places: same side;
#  - print (page, text) trains only: the yardstick is photographs;
#  - validation and test each get a colour scene or two, a grey scene and a texture.
# microaneurysms (102 x 102) is too small; chessboard, color, horse, logo and phantom are drawings.
SPLIT: Mapping[str, tuple[str, Part]] = {
    "brick.png": (_SKIMAGE, "test"),
    "camera.png": (_SKIMAGE, "test"),
    "coffee.png": (_SKIMAGE, "test"),
    "ihc.png": (_SKIMAGE, "test"),
    "astronaut.png": (_SKIMAGE, "validation"),
    "chelsea.png": (_SKIMAGE, "validation"),
    "coins.png": (_SKIMAGE, "validation"),
    "gravel.png": (_SKIMAGE, "validation"),
    "china.jpg": (_SKLEARN, "train"),
    "flower.jpg": (_SKLEARN, "train"),
    "grass.png": (_SKIMAGE, "train"),
    "hubble_deep_field.jpg": (_SKIMAGE, "train"),
    "moon.png": (_SKIMAGE, "train"),
    "motorcycle_left.png": (_SKIMAGE, "train"),
    "motorcycle_right.png": (_SKIMAGE, "train"),
    "page.png": (_SKIMAGE, "train"),
    "rocket.jpg": (_SKIMAGE, "train"),
    "text.png": (_SKIMAGE, "train"),
}


def embedded_images(part: Part) -> list[ImageFile]:
    """The embedded photographs of one part, in the order of the table.

    Raises:
        UserError: a package is not installed, or its wheel lacks an image of the table.
    """
    chosen = [(file, folder) for file, (folder, its_part) in SPLIT.items() if its_part == part]
    return [ImageFile(Path(file).stem, _locate(folder, file)) for file, folder in chosen]


def _locate(folder: str, file: str) -> Path:
    """The installed file; the package is found but not imported, which would take a second."""
    package, _, inside = folder.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the embedded photograph {file} needs the package {package}, which is not installed; "
            "install requirements.txt or give your own images with --traindata DIR"
        )
    path = Path(spec.submodule_search_locations[0]) / inside / file
    if not path.is_file():
        raise UserError(
            f"the installed {package} does not contain the photograph {file} (looked for {path}); "
            "install the version pinned in requirements.txt or give your own images with --traindata DIR"
        )
    return path
