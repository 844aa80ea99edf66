"""torchvision's own data sets by name, for those with a network: `--dataset torchvision:CIFAR10 --download`."""

from functools import partial
from pathlib import Path
from typing import Any

from compress.errors import UserError, did_you_mean
from data.Classify_data.layout import Layout
from data.Classify_data.source import LazySource

ROOT = Path("dataset")
BY_FLAG = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS")  # take train=True or False
BY_SPLIT = ("SVHN", "STL10", "GTSRB", "Flowers102", "Food101", "OxfordIIITPet", "DTD", "FGVCAircraft", "RenderedSST2")
FIRST_SPLIT = {"OxfordIIITPet": "trainval", "FGVCAircraft": "trainval"}


def torchvision_layout(name: str, download: bool, root: Path = ROOT) -> Layout:
    """A data set of torchvision, below `root`.

    Raises:
        UserError: unknown data set, or its files are neither there nor to be downloaded.
    """
    if name not in BY_FLAG + BY_SPLIT:
        raise UserError(f"--dataset=torchvision:{name}: unknown data set; {did_you_mean(name, BY_FLAG + BY_SPLIT)}")
    settings: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
    if name in BY_SPLIT:
        settings = {"train": {"split": FIRST_SPLIT.get(name, "train")}, "test": {"split": "test"}}
    parts = {part: partial(_open, name, root, download, arguments) for part, arguments in settings.items()}
    return Layout(f"torchvision:{name}", str(root), parts)  # type: ignore[arg-type]


def _open(name: str, root: Path, download: bool, arguments: dict[str, Any]) -> LazySource:
    import torchvision.datasets

    try:
        data = getattr(torchvision.datasets, name)(str(root), download=download, **arguments)
    except (RuntimeError, OSError, ValueError) as e:
        hint = "" if download else "; train.py --download fetches it, where there is a network"
        raise UserError(f"--dataset=torchvision:{name}: {str(e).splitlines()[0]}{hint}") from e
    labels = _labels(data)
    names = getattr(data, "classes", None)
    classes = [str(each) for each in names or range(max(labels) + 1)]
    source = LazySource(lambda index: data[index][0], labels, classes, f"torchvision:{name}", _paths(data))
    source.unnamed = not names
    return source


def _paths(data: Any) -> list[Path]:
    """The images' files; none of a set that keeps all pixels in memory."""
    entries: list[Any] = next(
        (vars(data)[name] for name in ("_image_files", "_images", "_samples") if name in vars(data)), []
    )
    return [Path(each[0] if isinstance(each, tuple) else each) for each in entries]


def _labels(data: Any) -> list[int]:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(data, attribute):
            return [int(each) for each in getattr(data, attribute)]
    return [int(data[i][1]) for i in range(len(data))]
