"""A sensitivity analysis against the plain loop that prunes, evaluates and restores.

    python benchmarks/sensitivity.py [--levels 10] [--images 512] [--batch 64] [--threads 1] [--every 1]
    python benchmarks/sensitivity.py --jobs 2

ResNet-20, 32 x 32 images of noise, labels of a random network: what an evaluation costs does not depend on what is
seen. Both ways measure accuracy and cross-entropy of every weight and level, in one process and in turns, weight by
weight, so that a machine that slows down slows both; the analysis's preparation (tracing, the dense level, the check
of the graph) is counted. The plain loop is the usual one: the weight times its mask in place, the network in
evaluation mode without gradients, the same batches; it too measures the dense level of each weight (level 0). With
`--jobs` one process and so many take turns, whole analyses on the wall clock, the start of the processes included.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.networks import resnet20
from compress import SensitivitySettings, sensitivity_analysis
from compress.analysis.sensitivity.changes import Subject, find_subjects
from compress.analysis.sensitivity.evaluation import Evaluation
from compress.analysis.sensitivity.replay import ReplayMeter
from compress.analysis.sensitivity.suggestion import goal_of
from compress.analysis.sensitivity.workers import Task, levels_of
from compress.criteria import level_mask

Numbers = dict[str, float]


def quality(labels: Tensor, outputs: Iterable[Tensor]) -> Numbers:
    """Accuracy (per cent) and cross-entropy."""
    logits = torch.cat(list(outputs))
    right = (logits.argmax(1) == labels).float().mean()
    return {"top1": 100 * float(right), "loss": float(functional.cross_entropy(logits, labels))}


def shaken(model: nn.Module) -> nn.Module:
    """With BatchNorm statistics that are not those of a new network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def plainly(model: nn.Module, evaluation: Evaluation, subject: Subject, levels: list[float]) -> dict[float, Numbers]:
    """The loop as one writes it."""
    found = {}
    for level in levels:
        own = subject.parameter.detach().clone()
        with torch.no_grad():
            subject.parameter.mul_(level_mask(own, level))
            found[level] = dict(evaluation.measure([model(each) for each in evaluation.inputs]))
            subject.parameter.copy_(own)
    return found


def in_turns(model: nn.Module, evaluation: Evaluation, weights: list[str], jobs: int, rounds: int = 3) -> str:
    """One process against several, by the wall clock: `4.00 [3.90, 4.10] s, with 2 processes ...`."""
    seconds: dict[int, list[float]] = {1: [], jobs: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for processes, found in seconds.items():
                started = time.perf_counter()
                sensitivity_analysis(
                    model, Path(folder) / f"{number}-{processes}.xlsx", evaluation, "element",
                    settings=SensitivitySettings(jobs=processes, weights=weights),
                )  # fmt: skip
                found.append(time.perf_counter() - started)
    ratios = sorted(one / more for one, more in zip(seconds[1], seconds[jobs], strict=True))
    alone, shared = statistics.median(seconds[1]), statistics.median(seconds[jobs])
    spread = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    return f"one process {alone:.1f} s, {jobs} processes {shared:.1f} s: {spread} times faster\n"


def main() -> None:
    """Prints both times and the largest difference of the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--levels", type=int, default=10, help="levels from 0 by 0.1")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="take every so manyth weight only")
    parser.add_argument("--jobs", type=int, default=1, help="compare so many processes with one instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = shaken(resnet20())
    images, labels = torch.randn(options.images, 3, 32, 32), torch.randint(0, 10, (options.images,))
    evaluation = Evaluation(images.split(options.batch), partial(quality, labels))
    levels = [round(0.1 * step, 2) for step in range(options.levels)]
    subjects = find_subjects(model, "element")[:: options.every]
    if options.jobs > 1:
        sys.stdout.write(in_turns(model, evaluation, [each.name for each in subjects], options.jobs))
        return
    evaluation(model)  # the first pass of a process is slower

    clock = time.process_time if options.threads == 1 else time.perf_counter  # see interleaved.py
    started = clock()
    meter = ReplayMeter(model, evaluation, subjects, 2**30)
    dense = meter.dense()
    fast, slow, gap, flips = clock() - started, 0.0, 0.0, 0
    prepared = fast
    goal = goal_of(dense, {"top1": True, "loss": False}, "top1", None)
    task = Task("element", levels[1:], [each.name for each in subjects], {}, dense, goal, None, 2**30)
    for subject in meter.order(subjects):
        started = clock()
        rows = {row["level"]: row["metrics"] for row in levels_of(meter, subject, task)}
        middle = clock()
        expected = plainly(model, evaluation, subject, levels)
        fast, slow = fast + middle - started, slow + clock() - middle
        for level, metrics in {0.0: dense, **rows}.items():
            gap = max(gap, abs(metrics["loss"] - expected[level]["loss"]) / expected[level]["loss"])
            flips += metrics["top1"] != expected[level]["top1"]
    sys.stdout.write(
        f"ResNet-20, {len(subjects)} weights x {len(levels)} levels, {options.images} images in batches of "
        f"{options.batch}, {options.threads} threads\n"
        f"plain loop {slow:8.1f} s\nanalysis   {fast:8.1f} s (of it {prepared:.1f} s preparation)\n"
        f"{slow / fast:.2f} times faster; largest relative difference of the loss {gap:.1e}; "
        f"accuracies that differ: {flips} of {len(subjects) * len(levels)}\n"
    )


if __name__ == "__main__":
    main()
