"""Thin every network of torchvision and print one row a model: does it compute the same, and what did it take?

    python benchmarks/thinning_zoo.py                          # all classifiers, about an hour on two cores
    python benchmarks/thinning_zoo.py 'resnet*' swin_t         # by name or glob
    python benchmarks/thinning_zoo.py --size 224 --float32 resnet50     # time and memory at full size
    python benchmarks/thinning_zoo.py --family segmentation    # or detection (the backbones), or video
    python benchmarks/thinning_zoo.py --compare                # Torch-Pruning's verdict and time beside ours; it needs
    pip install torch-pruning==1.6.1

Of each group 30 % of the units go, by L1 norm; the classifier's outputs stay. Seconds are the processor's, of all
threads together, so that other work on the machine is not measured. A row says `ok` if the thinned network
equals the masked one (float64, 1e-8 relative, in eval and in training mode), a training step with the same optimizer
works afterwards, and a fresh network takes recipe and weights and computes the same. Each model runs in a process of
its own, so that the peak of memory is its own. Torch-Pruning (an optional package) does not check what its network
computes: `runs` says that pruning by 30 % and a forward pass went through.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils import _pytree as pytree

from compress.errors import UserError
from compress.graph.channels import ChannelGraph, ChannelGroup
from compress.graph.macs.count import count_macs
from compress.thinning.proof.observe import observe
from compress.thinning.proof.outputs import relative
from compress.thinning.recipe import Recipe
from compress.thinning.thin import Thinned, remove_units
from compress.thinning.trials.trial import prunable_graph

FRACTION = 0.3
SIZES = {
    "ssd300": 300,
    "s3d": 224,
    "vit_h": 56,
    "vit": 64,
    "swin3d": 64,
    "swin": 128,
    "mvit": 224,
    "maxvit": 224,
    "inception": 299,
    "convnext": 32,
}
"""Images are `--size` wide except where the architecture or float64 convolutions on a CPU ask for another size."""
IN_FLOAT32 = ("vit_h_14", "regnet_y_128gf")
"""Too large for float64 in 20 GB."""
FAMILIES = {
    "classification": torchvision.models,
    "segmentation": torchvision.models.segmentation,
    "detection": torchvision.models.detection,
    "video": torchvision.models.video,
}
HEADER = (
    f"{'model':<22}{'ok':>4}{'groups':>8}{'pinned':>8}{'units':>8}{'removed':>9}{'params':>8}{'MACs':>7}"
    f"{'graph s':>9}{'thin s':>8}{'GB':>6}{'differs':>10}  note"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["*"], help="names or globs of torchvision classifiers")
    parser.add_argument("--size", type=int, help="width of the images, pixels (default: 64, some models other)")
    parser.add_argument("--float32", action="store_true", help="do not convert to float64")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one model")
    parser.add_argument("--threads", type=int, default=2, help="torch threads; 1 on a machine that is shared")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="classification")
    parser.add_argument("--compare", action="store_true", help="Torch-Pruning on the same models")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--competitor", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.competitor:
        print(json.dumps(competitor_row(options.competitor, options.size)))
        return
    if options.one:
        print(json.dumps(row_of(options.one, options.size, options.float32)))
        return
    known = torchvision.models.list_models(module=FAMILIES[options.family])
    names = [name for name in known if any(fnmatch.fnmatch(name, glob) for glob in options.models)]
    print(HEADER, flush=True)
    rows = [run(name, options) for name in names]
    print(f"{sum(row['ok'] for row in rows)} of {len(rows)} models are thinned and proven equal")
    if options.compare:
        print(f"Torch-Pruning runs on {sum(row['competitor'].startswith('runs') for row in rows)} of {len(rows)}")


def run(name: str, options: argparse.Namespace) -> dict:
    """One model in a process of its own."""
    float32 = ["--float32"] * (options.float32 or name in IN_FLOAT32)
    row = child(["--one", name, *float32], options)
    if options.compare:
        row["competitor"] = child(["--competitor", name], options)["note"]
        row["note"] += f"  Torch-Pruning: {row['competitor']}"
    print(format_row(name, row), flush=True)
    return row


def child(arguments: list[str], options: argparse.Namespace) -> dict:
    """The row that this script prints in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--threads", str(options.threads)]
    command += ["--family", options.family] + (["--size", str(options.size)] if options.size else [])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return {"ok": False, "note": f"over {options.timeout} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"ended by signal {-done.returncode}"]
        return {"ok": False, "note": said[0][-200:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def format_row(name: str, row: dict) -> str:
    if "thin_s" not in row:
        return f"{name:<22}{'NO':>4}  {row['note']}"
    return (
        f"{name:<22}{'ok' if row['ok'] else 'NO':>4}{row['groups']:>8}{row['pinned']:>8}{row['units']:>8}"
        f"{row['removed']:>9}{row['params']:>8.0%}{row['macs']:>7.0%}{row['graph_s']:>9.1f}{row['thin_s']:>8.1f}"
        f"{row['gb']:>6.1f}{row['differs']:>10.1e}  {row['note']}"
    )


def build(name: str, size: int | None, float32: bool) -> tuple[nn.Module, torch.Tensor]:
    """The untrained model with seeded weights, and a batch of two images of noise."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    width = size or next((value for prefix, value in SIZES.items() if name.startswith(prefix)), 64)
    family = family_of(name)
    settings = {"image_size": width} if name.startswith("vit") else {}
    if family in ("segmentation", "detection"):
        settings["weights_backbone"] = None
    model = torchvision.models.get_model(name, weights=None, **settings)
    model = model.backbone if family == "detection" else model
    roughen(model)
    frames = (16,) if family == "video" else ()
    batch = torch.randn(2, 3, *frames, width, width)
    return (model, batch) if float32 else (model.double(), batch.double())


@torch.no_grad()
def roughen(model: nn.Module) -> None:
    """Scales of 1e-6 and shifts of 0 would hide a channel that is lost."""
    for parameter in model.parameters():
        if not parameter.numel():  # SCUNet keeps an empty one
            continue
        if parameter.dim() == 1 or parameter.abs().max() < 1e-5 or (parameter.numel() > 1 and parameter.std() == 0):
            parameter.copy_(torch.rand_like(parameter) + 0.5)


def row_of(name: str, size: int | None, float32: bool) -> dict:
    """Everything that the table says about one model."""
    model, batch = build(name, size, float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    train_step(model, batch, optimizer)
    before = count_macs(model, batch)
    try:
        start = time.process_time()
        graph = prunable_graph(model, batch)
        middle = time.process_time()
        result = remove_units(model, graph, weakest(model, graph), batch, optimizer)
        end = time.process_time()
    except UserError as error:
        return {"ok": False, "note": str(error)}
    after = count_macs(model, batch)
    train_step(model, batch, optimizer)
    again = round_trip(name, size, float32, model, result)
    prunable = graph.groups(prunable_only=True)
    return {
        "ok": again <= (1e-4 if float32 else 1e-10),
        "groups": len(prunable),
        "pinned": len(graph.groups()) - len(prunable),
        "units": sum(group.units for group in prunable),
        "removed": sum(len(units) for units in result.removed.values()),
        "params": after.parameters / before.parameters,
        "macs": after.total / before.total,
        "graph_s": middle - start,
        "thin_s": end - middle,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "differs": result.difference,
        "note": "" if again <= 1e-4 else f"a fresh model with the recipe differs by {again:.1e}",
    }


def family_of(name: str) -> str:
    """The key of `FAMILIES` under which torchvision lists a model."""
    return next(key for key, module in FAMILIES.items() if name in torchvision.models.list_models(module=module))


def train_step(model: nn.Module, batch: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step that uses every output, auxiliary heads included."""
    model.train()
    leaves = [leaf for leaf in pytree.tree_leaves(model(batch)) if isinstance(leaf, torch.Tensor)]
    optimizer.zero_grad()
    sum(leaf.square().mean() for leaf in leaves).backward()
    optimizer.step()


def competitor_row(name: str, size: int | None) -> dict:
    """What Torch-Pruning makes of a model as it is, with the classifier's outputs kept."""
    try:
        import torch_pruning
    except ImportError as error:
        return {"note": "not installed" if error.name == "torch_pruning" else f"cannot be imported: {error}"}
    model, batch = build(name, size, float32=True)
    keep = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1000]
    start = time.process_time()
    try:
        importance = torch_pruning.importance.MagnitudeImportance(p=1)
        pruner = torch_pruning.pruner.MagnitudePruner(
            model.eval(), batch, importance=importance, pruning_ratio=FRACTION, ignored_layers=keep
        )
        pruner.step()
        seconds = time.process_time() - start
        model(batch)
    except Exception as error:  # whatever it raises is its verdict
        return {"note": f"{type(error).__name__}: {error}".replace("\n", " ")[:120]}
    return {"note": f"runs, {seconds:.1f} s"}


def weakest(model: nn.Module, graph: ChannelGraph) -> dict[str, list[int]]:
    """The 30 % of each group's units whose weights are smallest."""
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    found = {}
    for group in graph.groups(prunable_only=True):
        count = min(int(FRACTION * group.units), group.units - 1)
        found[group.name] = sorted(np.argsort(scores(group, weights), kind="stable")[:count].tolist())
    return {name: units for name, units in found.items() if units}


def scores(group: ChannelGroup, weights: dict[str, torch.Tensor]) -> np.ndarray:
    """Sum of the normalised L1 norms of each unit over all weights in the group."""
    total = np.zeros(group.units)
    for (name, dim), unit_of in group.members.items():
        if name in weights and weights[name].dim() > 1:
            norms = weights[name].movedim(dim, 0).flatten(1).abs().sum(dim=1).double().numpy()
            sums = np.bincount(unit_of[unit_of >= 0], weights=norms[unit_of >= 0], minlength=group.units)
            total += sums / max(sums.mean(), 1e-30)
    return total


def round_trip(name: str, size: int | None, float32: bool, model: nn.Module, result: Thinned) -> float:
    """Relative difference of a fresh model that takes recipe and weights from a file."""
    file = io.BytesIO()
    torch.save({"recipe": result.recipe.to_dict(), "state": model.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh, batch = build(name, size, float32)
    Recipe.from_dict(saved["recipe"]).apply(fresh)
    fresh.load_state_dict(saved["state"])
    ours, theirs = (observe(net, (batch,), "eval").outputs[0] for net in (model, fresh))
    return relative(ours, theirs)


if __name__ == "__main__":
    main()
