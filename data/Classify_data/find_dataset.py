"""Which data a run uses: the choice between the embedded digits, a place of the user's and torchvision's sets."""

from pathlib import Path

from compress.errors import UserError
from data.Classify_data.formats.arrays import array_layout
from data.Classify_data.formats.cifar import cifar_layout
from data.Classify_data.formats.digits import digits
from data.Classify_data.formats.folders import classes_file, folder_layout, listed_classes
from data.Classify_data.formats.from_torchvision import torchvision_layout
from data.Classify_data.formats.idx import idx_layout
from data.Classify_data.layout import Layout

DIGITS, FASHION_MNIST = "digits", "fashion-mnist"
FASHION_PLACES = (  # an own copy, torchvision's, that of Debian's package dataset-fashion-mnist
    Path("dataset/fashion-mnist"), Path("dataset/FashionMNIST/raw"), Path("/usr/share/datasets/fashion-mnist"),
)  # fmt: skip
FORMS = (
    "class folders (train/<class>/*.png, val/, test/), Food-11's training/<class>_<id>.jpg, CIFAR-10's python batches, "
    "IDX files (train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz]), HDF5 with train_set_x and train_set_y, "
    ".npz with x_train and y_train"
)


def find_layout(place: str | None, dataset: str, download: bool = False) -> Layout:
    """The data set that the options mean.

    Args:
        place: `--traindata` or `--testdata`; None takes `dataset`.
        dataset: `digits`, `fashion-mnist` or `torchvision:NAME`.
        download: whether torchvision may fetch files.

    Raises:
        UserError: no such place or data set, or a place in none of the known forms; those are named.
    """
    if place is not None:
        return place_layout(Path(place))
    if dataset.startswith("torchvision:"):
        return torchvision_layout(dataset.removeprefix("torchvision:"), download)
    if dataset == FASHION_MNIST:
        return _fashion_mnist()
    if dataset != DIGITS:
        raise UserError(
            f"--dataset={dataset}: unknown data set; known are {DIGITS}, {FASHION_MNIST} and torchvision:NAME; data of "
            "your own are named with --traindata PLACE"
        )
    return digits()


def _fashion_mnist() -> Layout:
    """Fashion-MNIST (Xiao et al., 1708.07747) where it is found: 54,000, 6,000 held out, and 10,000 images."""
    for place in FASHION_PLACES:
        layout = idx_layout(place) if place.is_dir() else None
        if layout is not None:
            return _with_listed_classes(layout, place)
    places = ", ".join(str(each) for each in FASHION_PLACES)
    raise UserError(
        f"--dataset={FASHION_MNIST}: its four IDX files are in none of {places}; "
        "Debian and Ubuntu have them as the package dataset-fashion-mnist; or name their folder with --traindata PLACE"
    )


def place_layout(place: Path) -> Layout:
    """The data set at a path; `classes.txt` in it, or beside it, names all classes in order, whatever the form.

    Raises:
        UserError: it does not exist, or is in none of the known forms.
    """
    if not place.exists():
        raise UserError(f"{place} does not exist; known forms of data: {FORMS}")
    for find in (cifar_layout, idx_layout, array_layout, folder_layout):
        layout = find(place)
        if layout is not None:
            return _with_listed_classes(layout, place)
    raise UserError(f"{place} holds no data in a known form: {FORMS}")


def _with_listed_classes(layout: Layout, place: Path) -> Layout:
    known = listed_classes(place)
    return layout if known is None else layout.with_classes(known, classes_file(place))
