"""Every row of the table of speed, measured and written to benchmarks/RESULTS.md.

    python benchmarks/results.py [--only NAME] [--network TEXT] [--rounds 15] [--threads 1]

Each row is measured in this process, what is compared taking turns; the start-up and each line of ours alone are in
processes of their own. A row that is measured again replaces this machine's old numbers and leaves the others, so that
a long table can be made row by row: `--only step` and so on; `--only runtimes --network ResNet-50` measures one network
of a row. Each kind of machine has a column of its own. Printed are
medians with the smallest and the largest value, and beside a ratio its limit: what a hand-made best costs here, the
fewest passes over memory that this work needs (limits.py).
The field's packages are optional; the kept numbers are of these:

    pip install torchao==0.18.0 brevitas==0.13.4 nncf==3.4.0 torch-pruning==1.6.1
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import deploy, limits, loading, qat_step, runtimes, search, step_overhead, throughput
from benchmarks.field_qat import field
from benchmarks.interleaved import compare
from benchmarks.networks import resnet20
from benchmarks.results_page import ROOT, Line, keep, ratio_line
from compress.quantization.native.passes import left_out
from engine.environment import keep_freed_memory
from models.C2SRCNN.model import Net

LIMIT = "the fewest passes over memory"  # among the ways that take turns
PLAIN = "ours without a C compiler"


def cases() -> dict[str, tuple[Callable[[], nn.Module], step_overhead.Batch, Callable[..., Any]]]:
    """The two networks of the step's rows, with a batch and a loss."""
    torch.manual_seed(0)
    images = (torch.rand(8, 3, 32, 32), torch.rand(8, 3, 64, 64))
    labelled = (torch.rand(64, 3, 32, 32), torch.randint(10, (64,)))
    return {
        "C2SRCNN": (lambda: Net(2), images, functional.l1_loss),
        "ResNet-20": (resnet20, labelled, functional.cross_entropy),
    }


def step(options: Any) -> Iterator[Line]:
    """The training step with AGP's masks, and with regularizers."""
    for name, (make, batch, loss) in cases().items():
        ways: dict[str, Any] = {"bare": step_overhead.Loop(make(), batch, loss)}
        schedules = step_overhead.schedules(make())
        goals = {"AGP": 1.02, "group lasso + L1": 1.03}
        least = {"AGP": limits.MaskedStep, "group lasso + L1": limits.RegularizedStep}
        for key in goals:
            ways[key] = step_overhead.Scheduled(make(), batch, loss, schedules[key])
        bests = {f"{key}, {LIMIT}": limit(make(), batch, loss) for key, limit in least.items()}
        measured = compare({**ways, **bests, **step_overhead.others(make, batch, loss)}, options.rounds, 4)
        for key, ratios in list(measured.items())[1:]:
            if key in bests:
                continue
            inside = statistics.median(ways[key].inside) * 1000 if key in goals else 0.0
            alone = f"; hooks alone {inside / ratios.milliseconds:.1%} of the step" if key in goals else ""
            limit = measured.get(f"{key}, {LIMIT}")
            yield ratio_line(f"step, {name}, {key}", ratios, goals.get(key), limit=limit, more=alone)


def qat(options: Any) -> Iterator[Line]:
    """A QAT step at 8/8 bits, ours and the field's."""
    torch.manual_seed(0)
    keep_freed_memory()  # as the trainer does; without it the system clears the pages of every activation anew
    own = qat_step.QUANTIZERS["QAT per channel"]
    networks = cases()
    images = networks["C2SRCNN"][1]
    sets = {
        "SR, 64 channels": (lambda: Net(2, 64, 64), images, functional.l1_loss),
        "ResNet-20": networks["ResNet-20"],
    }
    for name, (make, batch, loss) in sets.items():
        schedule = step_overhead.one("quantizer", {**own, "bits_activations": 8, "bits_weights": 8})
        ways: dict[str, Any] = {"bare": step_overhead.Loop(make(), batch, loss)}
        ways["ours"] = step_overhead.Scheduled(make(), batch, loss, schedule, batch[0])
        ways[PLAIN] = without_compiler(step_overhead.Scheduled(make(), batch, loss, schedule, batch[0]))
        converted = step_overhead.Scheduled(make(), batch, loss, schedule, batch[0]).model
        ways[LIMIT] = limits.quantized_step(converted, batch, loss)
        found, absent = field(make, batch, loss)
        measured = compare({**ways, **found}, options.rounds, 3)
        limit = measured.pop(LIMIT)
        for key, ratios in list(measured.items())[1:]:
            mine = key == "ours"
            yield ratio_line(
                f"QAT step 8/8, {name}, {key}", ratios, 1.10 if mine else None, limit=limit if mine else None
            )
        for key, why in absent.items():
            yield Line(f"QAT step 8/8, {name}, {key}", "bare loop", f"not measured: {why}")


def without_compiler(loop: step_overhead.Loop) -> Callable[[], None]:
    """A step that leaves the compiled passes of quantizers out."""

    def step() -> None:
        with left_out():
            loop()

    return step


def agp(options: Any) -> Iterator[Line]:
    """AGP's masks of all convolutions of ResNet-50 against numpy's partition of each weight."""
    import numpy as np
    from torchvision.models import resnet50

    from compress.config import dict_config

    model = resnet50(weights=None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = dict_config(model, optimizer, step_overhead.schedules(model)["AGP"])
    arrays = [m.weight.detach().abs().reshape(-1).numpy() for m in step_overhead.convolutions(model).values()]

    def partition() -> None:
        for array in arrays:
            np.partition(array, int(step_overhead.LEVEL * array.size))

    ways = {"numpy.partition": partition, "AGP": lambda: scheduler.on_epoch_begin(1, optimizer)}
    ways[LIMIT] = limits.threshold_masks([array.copy() for array in arrays], step_overhead.LEVEL)
    found = compare(ways, options.rounds, 1)
    what = "AGP mask update, all convolutions of ResNet-50"
    yield ratio_line(what, found["AGP"], 1.2, "numpy.partition per weight", found[LIMIT])


def sensitivity(options: Any) -> Iterator[Line]:
    """The sensitivity analysis against the plain loop, all weights; some minutes."""
    done = script("sensitivity.py", "--threads", str(options.threads))
    last = done.strip().splitlines()[-1]
    faster = float(last.split()[0])
    what = "sensitivity analysis, ResNet-20, all weights x 10 levels, 512 images"
    yield Line(what, "prune-and-evaluate loop", last, ">= 6 times faster", faster >= 6)


def thinning(options: Any) -> Iterator[Line]:
    """ResNet-50, seconds of the processor; the whole zoo takes an hour: benchmarks/thinning_zoo.py --compare."""
    done = script("thinning_zoo.py", "resnet50", "--threads", str(options.threads), "--compare")
    row = next(each for each in done.splitlines() if each.startswith("resnet50")).split()
    seconds = float(row[8]) + float(row[9])
    told = " ".join(row)[-60:]
    yield Line(
        "thinning of ResNet-50, proof included", "Torch-Pruning", f"{seconds:.1f} s; {told}", "<= 1.5 s", seconds <= 1.5
    )


FASTER, EQUAL = 1.05, 1.03  # than quantize_static; within the noise of the machine


def deployed(options: Any) -> Iterator[Line]:
    """Half the channels in int8 against the dense float file; the goal is on onnxruntime's own quantize_static."""
    settings = argparse.Namespace(rounds=options.rounds, threads=options.threads, reduce_range=False)
    for name in options.networks or deploy.NETWORKS:
        yield from deploy_lines(name, deploy.rows_of(name, settings))


def deploy_lines(name: str, rows: Sequence[Sequence[object]]) -> Iterator[Line]:
    """Of one network's rows: against its dense float file, and against quantize_static's of the same float file."""
    theirs, row = rows[-2:]
    words = f"{row[5]} times faster; ratio {row[4]}; {row[6]} integer layers"
    limit = f"quantize_static {theirs[5]} times"
    yield Line(f"deployed file, {name}", "dense float file", words, "", None, limit)
    ratio = float(str(row[7]).split()[0])
    goal = f"<= {1 / FASTER:.2f}, or equal within noise: <= {EQUAL}"
    yield Line(
        f"same float file, {name}", "onnxruntime's quantize_static", f"{row[7]} of its time", goal, ratio <= EQUAL
    )


def in_runtimes(options: Any) -> Iterator[Line]:
    """Which runtime is the fastest for each network, float and int8; `runtimes.py` prints the whole tables."""
    for name in options.networks or runtimes.MEASURED:
        yield from runtime_lines(name, runtimes.table_of(name, (), options.rounds, options.threads).rows)


def runtime_lines(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """The fastest runtime of each form of a network, and the others after it."""
    for form, found in runtimes.fastest(rows):
        first, others = found[0], found[1:]
        yield Line(f"{name}, {form}", "; ".join(others) or "-", f"fastest: {first}")


def images(options: Any) -> Iterator[Line]:
    """Images a second in training."""
    ratios = throughput.measured(max(options.rounds // 3, 3), options.threads)
    plain, own = ratios["plain loop"], ratios["train.py"]
    rates = [1 / value for value in own.values]
    median = statistics.median(rates)
    speed = 1000 * throughput.SAMPLES / own.milliseconds
    told = f"{median:.3f} [{min(rates):.3f}, {max(rates):.3f}], {speed:.0f} images/s"
    plainly = f"plain PyTorch loop, {1000 * throughput.SAMPLES / plain.milliseconds:.0f} images/s"
    yield Line("SR training throughput", plainly, told, ">= 1.0", median >= 1.0)


def loaded(options: Any) -> Iterator[Line]:
    """A folder of 20,000 images: samples a second, time to the first batch, memory. The folder is made once."""
    folder = Path(tempfile.gettempdir()) / "compress-loading-20000"
    settings = loading.arguments().parse_args([str(folder), "--rounds", str(max(options.rounds // 5, 1))])
    yield from loading_lines(loading.measured(folder, settings))


def loading_lines(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[Line]:
    """Of what each way's rounds gave, the other way's first."""
    theirs, own = found.values()
    rates = [mine["rate"] / other["rate"] for mine, other in zip(own, theirs, strict=True)]
    median = {key: [statistics.median(each[key] for each in way) for way in (own, theirs)] for key in own[0]}
    against = "DataLoader and torchvision"
    rate = (
        f"{statistics.median(rates):.2f} [{min(rates):.2f}, {max(rates):.2f}] times; {median['rate'][0]:.0f} samples/s"
    )
    yield Line("20,000 images of 256 x 256, samples a second", against, rate, ">= 1.0", statistics.median(rates) >= 1.0)
    first, other = median["first"]
    yield Line("20,000 images, first batch", against, f"{first:.1f} s; theirs {other:.1f} s")
    memory, other = median["memory"]
    yield Line("20,000 images, most memory of a process", against, f"{memory:,.0f} MB; theirs {other:,.0f} MB")


def masks(options: Any) -> Iterator[Line]:
    """Bytes that masks keep."""
    for name, (make, batch, loss) in cases().items():
        model = make()
        for key in ("AGP", "filters", "movement, double copies"):
            loop = step_overhead.Scheduled(model, batch, loss, step_overhead.schedules(model)[key])
            loop()
            covered = kept = copies = 0
            for masker in loop.scheduler.masks.masked():
                parameter = model.get_parameter(masker.name)
                covered += parameter.numel() * parameter.element_size()
                kept += masker.mask.numel() * masker.mask.element_size()
                copies += _bytes_beside(masker)
            told = f"{kept / covered:.3f} ({kept:,} bytes of masks{f', {copies:,} of copies' if copies else ''})"
            yield Line(
                f"memory of masks, {name}, {key}",
                "bytes of the weights",
                told,
                "<= 0.25",
                kept <= covered / 4,
                "0.031 (a bit)",
            )
            model = make()


def _bytes_beside(masker: Any) -> int:
    """Bytes of the other tensors that a masker keeps, such as double copies and the mask in another type."""
    tensors = [value for value in vars(masker).values() if isinstance(value, torch.Tensor)]
    others = [each for each in tensors if each is not masker.mask and not isinstance(each, nn.Parameter)]
    return sum(each.numel() * each.element_size() for each in others)


def start(options: Any) -> Iterator[Line]:
    """`--help` and a refusal, each in a process of its own."""
    for what, arguments in (("train.py --help", ["--help"]), ("a refused argument", ["--batchSize=x"])):
        seconds, used = [], resource.getrusage(resource.RUSAGE_CHILDREN)
        before = used.ru_utime + used.ru_stime
        for _ in range(max(options.rounds // 2, 5)):
            started = time.perf_counter()
            subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], capture_output=True, check=False)
            seconds.append(time.perf_counter() - started)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = (used.ru_utime + used.ru_stime - before) / len(seconds)
        told = f"{statistics.median(seconds):.2f} s [{min(seconds):.2f}, {max(seconds):.2f}], {own:.2f} s of processor"
        yield Line(f"start-up, {what}", "-", told, "<= 1.5 s", statistics.median(seconds) <= 1.5)


def searched(options: Any) -> Iterator[Line]:
    """Searches for a schedule that meets goals, as `--searches` keeps them: value and verdict of each goal."""
    yield from search.lines_of(options.searches)


ROWS: Mapping[str, Callable[[Any], Iterator[Line]]] = {
    "start": start, "step": step, "qat": qat, "agp": agp, "masks": masks, "images": images, "loading": loaded,
    "deploy": deployed, "runtimes": in_runtimes, "sensitivity": sensitivity, "thinning": thinning,
    "search": searched,
}  # fmt: skip
NETWORKS: Mapping[str, Sequence[str]] = {"deploy": list(deploy.NETWORKS), "runtimes": list(runtimes.MEASURED)}


def script(name: str, *arguments: str) -> str:
    """What another benchmark prints, in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parts_of(name: str, text: str) -> list[list[str]]:
    """What of a row is measured and kept at a time: each of its networks whose name holds the text; else all of it."""
    parts = [[each] for each in NETWORKS.get(name, ()) if text.lower() in each.lower()]
    if text and not parts:
        known = ", ".join(NETWORKS.get(name, ())) or "is measured as a whole"
        raise SystemExit(f"--network={text}: none of row {name}: {known}; nothing was measured")
    return parts or [[]]


def main() -> None:
    """Measures, keeps the numbers, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(ROWS), help="one row")
    parser.add_argument(
        "--network", default="", help="only networks with this text in their name; for rows of networks"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--searches", type=Path, help="folder of benchmarks/search.py; without it that row stays as is")
    options = parser.parse_args()
    if options.only == "search" and options.searches is None:
        parser.error("row search needs --searches FOLDER, the --folder of benchmarks/search.py")
    rows = [name for name in ROWS if name != "search" or options.searches]
    torch.set_num_threads(options.threads)
    titles = {key: (each.__doc__ or key).split("\n")[0] for key, each in ROWS.items()}
    for name in [options.only] if options.only else rows:
        for part in parts_of(name, options.network):
            options.networks = part
            lines = list(ROWS[name](options))
            for line in lines:
                met = "" if line.met is None else line.met
                print(f"{line.what:56s} {line.measured}   limit {line.limit or 'none'}   {line.goal} {met}", flush=True)
            keep(name, lines, options.threads, titles, is_part=bool(part))


if __name__ == "__main__":
    main()
