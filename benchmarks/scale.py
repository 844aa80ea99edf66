"""How time and memory grow with what users have many of: policies, layers, images, pixels, epochs.

    python benchmarks/scale.py                       every point, each in a process of its own
    python benchmarks/scale.py policies 5000         one: seconds of processor time and the peak of memory, as JSON

Called by results.py for the table `scale`.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apputils.platform_summaries import sensitivity_analysis
from compress.analysis.listings.channel_groups import group_tables
from compress.analysis.macs.display import macs_display
from compress.analysis.sparsity.display import sparsity_display
from compress.config import file_config
from compress.thinning.trials.trial import prunable_graph

SIZES = {
    "policies": (100, 1000, 5000), "chain": (100, 1000), "groups": (100, 1000), "thinning": (100, 1000),
    "sensitivity": (10, 30, 100), "report": (100, 1000), "images": (100, 20_000), "pixels": (1000, 8000),
    "epochs": (100, 1000),
}  # fmt: skip
WORDS = {
    "policies": "{:,} policies: file_config and the plan", "chain": "chain of {:,} convolutions: file_config",
    "groups": "chain of {:,} convolutions: --list-groups", "thinning": "chain of {:,} convolutions: thinning, proved",
    "sensitivity": "chain of {:,} convolutions: sensitivity (each layer is tried in the whole chain)",
    "report": "chain of {:,} convolutions: tables of MACs and sparsity",
    "images": "{:,} images in two classes: start-up",
    "pixels": "one image of {0:,} x {0:,}: read, down-sampled", "epochs": "{:,} epochs of two steps",
}  # fmt: skip
EXAMPLE = torch.zeros(1, 3, 8, 8)
LEVEL = "SparsityLevelParameterPruner"


def chain(length: int) -> nn.Sequential:
    """Convolutions with 4 channels, each with its ReLU."""
    convs = [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(length)]
    return nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))


def configured(net: nn.Module, text: str) -> object:
    """A scheduler of a schedule's text."""
    Path("schedule.yaml").write_text(text)
    return file_config(net, torch.optim.SGD(net.parameters(), lr=0.1), "schedule.yaml", EXAMPLE)


def policies(count: int) -> None:
    """As many instances as policies, one an epoch."""
    lines = [f"  p{i}: {{class: {LEVEL}, levels: {{{2 * (i % 20)}.weight: 0.5}}}}" for i in range(count)]
    acts = [f"  - {{pruner: {{instance_name: p{i}}}, epochs: [{i}]}}" for i in range(count)]
    scheduler = configured(chain(20), "\n".join(["version: 1", "pruners:", *lines, "policies:", *acts, ""]))
    scheduler.preview()  # type: ignore[attr-defined]


def thinner(length: int) -> str:
    """Half of each layer's filters, and a thinner."""
    regims = ", ".join(f"{2 * i}.weight: [0.5, 3D]" for i in range(length - 1))
    return (
        f"pruners:\n  half: {{class: L1RankedStructureParameterPruner, reg_regims: {{{regims}}}}}\n"
        "extensions:\n  t: {class: FilterRemover}\npolicies:\n  - {pruner: {instance_name: half}, epochs: [0]}\n"
        "  - {extension: {instance_name: t}, epochs: [0]}\n"
    )


def thinning(length: int) -> None:
    """From the schedule to the smaller network."""
    net = chain(length)
    scheduler = configured(net, thinner(length))
    scheduler.on_epoch_begin(0)  # type: ignore[attr-defined]
    scheduler.on_minibatch_begin(0, 0, 1)  # type: ignore[attr-defined]
    scheduler.on_minibatch_end(0, 0, 1)  # type: ignore[attr-defined]
    scheduler.on_epoch_end(0)  # type: ignore[attr-defined]
    assert net[0].weight.shape[0] == 2


def report(length: int) -> None:
    """What the report is made of."""
    net = chain(length)
    macs_display(net, Path("macs.xlsx"), EXAMPLE)
    sparsity_display(net, Path("sparsity.xlsx"))


def images(count: int) -> None:
    """Class folders, read until the first minibatch could be made."""
    from data.Classify_data.find_dataset import place_layout
    from data.Classify_data.store import ImageStore

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for i in range(count):
        folder = Path("train", "ab"[i % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=0)
    START[0] = time.process_time()
    layout = place_layout(Path("train"))
    ImageStore(layout.open("train"), 16, 3)


def pixels(side: int) -> None:
    """One photograph of super-resolution."""
    from data.images import ImageFile
    from data.store import PairStore

    Image.new("RGB", (side, side), (9, 99, 199)).save("a.png")
    START[0] = time.process_time()
    PairStore([ImageFile("a", Path("a.png"))], 2)


def epochs(count: int) -> None:
    """A run of super-resolution on one small image."""
    from data.loaders import sr_training_loaders
    from models.C2SRCNN.solver import C2SRCNNTrainer
    from options.Normal_options.train_options import TrainOptions

    for part in ("train", "val"):
        Path("images", part).mkdir(parents=True)
        Image.new("RGB", (48, 48), (9, 99, 199)).save(f"images/{part}/a.png")
    given = ["--traindata=images", "--samples=2", "--batchSize=1", "--patch_size=16", f"--nEpochs={count}"]
    config = TrainOptions().parse([*given, "--keep=1", "--threads=1"])
    C2SRCNNTrainer.example_inputs = lambda trainer: (torch.zeros(1, 3, 16, 16),)  # type: ignore[method-assign]
    C2SRCNNTrainer(config, *sr_training_loaders(config)).run()


POINTS: dict[str, Callable[[int], object]] = {
    "policies": policies,
    "chain": lambda length: configured(chain(length), thinner(length)),
    "groups": lambda length: group_tables(prunable_graph(chain(length), EXAMPLE)),
    "thinning": thinning,
    "sensitivity": lambda length: sensitivity_analysis(
        chain(length), Path("s.xlsx"), lambda net: {"top1": float(net(EXAMPLE).sum())}, "element"
    ),
    "report": report,
    "images": images,
    "pixels": pixels,
    "epochs": epochs,
}
START = [0.0]


@contextmanager
def empty_folder() -> Iterator[None]:
    """The present folder is an empty one, for a while."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def measured(point: str, size: int, limit: float = 180.0) -> SimpleNamespace:
    """One point in a process of its own: seconds of processor time and MB of memory at most; None beyond the limit."""
    command = [sys.executable, __file__, point, str(size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=True)
    except subprocess.TimeoutExpired:
        return SimpleNamespace(seconds=None, mb=None)
    return SimpleNamespace(**json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    """One point here, or all of them."""
    if len(sys.argv) == 3:
        torch.set_num_threads(1)
        with empty_folder():
            START[0] = time.process_time()
            POINTS[sys.argv[1]](int(sys.argv[2]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": time.process_time() - START[0], "mb": peak}))
        return
    for point, sizes in SIZES.items():
        for size in sizes:
            found = measured(point, size)
            print(f"{WORDS[point].format(size)}: {found.seconds} s, {found.mb} MB", flush=True)


if __name__ == "__main__":
    main()
