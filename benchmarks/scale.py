"""How time and memory grow with what users have many of: policies, layers, images, pixels, epochs.

    python benchmarks/scale.py                       every point, each in a process of its own
    python benchmarks/scale.py policies 5000         one: seconds of processor time and the peak of memory, as JSON

Called by growth.py for the manual's page.
"""

import argparse
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
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apputils.platform_summaries import sensitivity_analysis
from compress.analysis.listings.channel_groups import group_tables
from compress.analysis.macs.display import macs_display
from compress.analysis.sparsity.display import sparsity_display
from compress.config import file_config
from compress.thinning.trials.trial import prunable_graph

SIZES = {
    "policies": (100, 1000, 5000), "chain": (100, 300, 1000), "groups": (100, 300, 1000), "thinning": (100, 300, 1000),
    "parameters": (100_000, 1_000_000, 10_000_000, 100_000_000), "sensitivity": (10, 30, 100),
    "report": (100, 300, 1000), "images": (200, 2000, 20_000), "pixels": (1000, 3000, 8000), "epochs": (100, 300, 1000),
}  # fmt: skip
TITLES = {
    "policies": "policies: `file_config` and the plan", "chain": "convolutions in a chain: `file_config`",
    "groups": "convolutions: `--list-groups`", "thinning": "convolutions: thinning, proved",
    "parameters": "parameters: an update of AGP's masks of all weights, masked, and one checkpoint of them",
    "sensitivity": "convolutions: sensitivity", "report": "convolutions: tables of MACs and sparsity",
    "images": "images in two classes: start-up", "pixels": "side of one image: read, down-sampled",
    "epochs": "epochs of two steps",
}  # fmt: skip
WHY = {  # what grows faster than its size, and why
    "sensitivity": "each layer is tried in the whole chain: layers x layers behind it",
    "pixels": "an image has side x side pixels: linear in those",
}
EXAMPLE = torch.zeros(1, 3, 8, 8)
LEVEL = "SparsityLevelParameterPruner"


def chain(length: int) -> nn.Sequential:
    """Convolutions with 4 channels, each with its ReLU."""
    convs = [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(length)]
    return nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))


def configured(net: nn.Module, text: str, example: Tensor = EXAMPLE) -> object:
    """A scheduler of a schedule's text."""
    Path("schedule.yaml").write_text(text)
    return file_config(net, torch.optim.SGD(net.parameters(), lr=0.1), "schedule.yaml", example)


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


def parameters(count: int) -> None:
    """Ten linear layers under AGP: masks made anew, weights masked in a step, the scheduler's state as a checkpoint."""
    width = round((count / 10) ** 0.5)
    net = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(10)))
    agp = "{class: AutomatedGradualPruner, initial_sparsity: 0.1, final_sparsity: 0.8, weights: ['*.weight']}"
    policy = "{pruner: {instance_name: p}, starting_epoch: 0, ending_epoch: 3, frequency: 1}"
    scheduler: Any = configured(
        net, f"version: 1\npruners:\n  p: {agp}\npolicies:\n  - {policy}\n", torch.zeros(1, width)
    )
    START[0] = time.process_time()
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    scheduler.on_minibatch_end(0, 0, 1)
    torch.save(scheduler.state_dict(), "state.pt")


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
    "parameters": parameters,
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("point", nargs="?", choices=POINTS)
    parser.add_argument("size", nargs="?", type=int, default=0, help="of that point: how many")
    options = parser.parse_args()
    if options.point and options.size < 1:
        parser.error(f"{options.point} needs a size of at least 1: how many there are")
    if options.point:
        torch.set_num_threads(1)
        with empty_folder():
            START[0] = time.process_time()
            POINTS[options.point](options.size)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": time.process_time() - START[0], "mb": peak}))
        return
    for point, sizes in SIZES.items():
        for size in sizes:
            found = measured(point, size)
            print(f"{size:,} {TITLES[point]}: {found.seconds} s, {found.mb} MB", flush=True)


if __name__ == "__main__":
    main()
