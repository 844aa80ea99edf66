"""Every architecture of an application under the same schedules, side by side on one page.

    python -m benchmarks.zoo --optform=SR --archs="c2srcnn,edsr_baseline(width=16,depth=4)" --epochs=12 -- --samples=400

Arguments of a constructor stand in parentheses. Each pair of architecture and schedule is trained and evaluated by
`train.py` and `test.py`, one after the other; what is finished is left as it is, so that a second call continues. The
page (results/zoo-<optform>/): quality over time, quality over MACs and over the file's bytes with the Pareto front, and
a table for a manual.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from tabulate import tabulate
from torch import nn

from apputils.runs.console import exit_codes
from compress.errors import UserError
from compress.thinning.trials.trial import prunable_graph
from options.applications import Application, find_application

ROOT = Path(__file__).resolve().parent.parent
QUANTIZER = "{class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8, per_channel_wts: true}"
HEAD = (
    "<!doctype html><meta charset=utf-8><title>zoo</title><style>body{font-family:sans-serif;margin:2em}"
    "img{max-width:100%}td,th{padding:.2em .8em}</style>"
)
COSTS = ("parameters", "GMACs", "bytes")
ARCH = re.compile(r"[^,(]+(?:\([^)]*\))?")
Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One run.

    Attributes:
        optform: the application.
        named: the architecture, with arguments of its constructor: `edsr_baseline(width=16,depth=4)`.
        schedule: a name of `SCHEDULES`.
    """

    optform: str
    named: str
    schedule: str

    @property
    def arch(self) -> str:
        """The architecture alone."""
        return self.named.partition("(")[0]

    @property
    def options(self) -> list[str]:
        """What `train.py` is given."""
        settings = self.named.partition("(")[2].removesuffix(")").replace("=", ": ")
        return [f"--arch={self.arch}", *([f"--arch-args={{{settings}}}"] if settings else [])]

    @property
    def run(self) -> str:
        """The run's name."""
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.named).rstrip("_")
        return f"zoo-{self.optform}-{plain}-{self.schedule}"

    @property
    def results(self) -> Path:
        """Its folder of results."""
        return Path("results") / self.run


def schedule_text(kind: str, epochs: int, names: Sequence[str]) -> str:
    """A schedule of equal length for any network; the learning rate falls along a cosine from what the options say.

    Args:
        kind: dense, half_macs, int8 or pipeline (both).
        epochs: of the run.
        names: weights whose filters can leave.
    """
    prune, quantize = kind in ("half_macs", "pipeline"), kind in ("int8", "pipeline")
    thin = sorted({epochs // 6, epochs // 3})
    parts = ["version: 1"]
    if prune:
        parts += [
            f"pruners: {{half: {{class: GlobalRankedGroupPruner, weights: {json.dumps(list(names))}, target: macs, "
            "to: 0.5, gradual: true}}",
            "extensions: {thinner: {class: FilterRemover}}",
        ]
    if quantize:
        parts.append(f"quantizers: {{qat: {QUANTIZER}}}")
    parts += [f"lr_schedulers: {{lr: {{class: CosineAnnealingLR, T_max: {epochs}}}}}", "policies:"]
    if prune:
        parts += [f"  - pruner: {{instance_name: half}}\n    epochs: {thin}"]
        parts += [f"  - extension: {{instance_name: thinner}}\n    epochs: {thin}"]
    if quantize:
        parts.append(
            f"  - quantizer: {{instance_name: qat}}\n    starting_epoch: {2 * epochs // 3}\n    ending_epoch: {epochs}"
            "\n    frequency: 1"
        )
    parts.append(
        f"  - lr_scheduler: {{instance_name: lr}}\n    starting_epoch: 0\n    ending_epoch: {epochs}\n    frequency: 1"
    )
    return "\n".join(parts) + "\n"


SCHEDULES = ("dense", "half_macs", "int8", "pipeline")


def prunable_weights(network: nn.Module, example: tuple[torch.Tensor, ...]) -> list[str]:
    """Weights of convolutions and linear layers whose filters can leave."""
    groups = prunable_graph(network, example).groups(prunable_only=True)
    free = {name for group in groups for name, dim in group.members if dim == 0}
    return [name for name, each in network.named_parameters() if name in free and each.dim() > 1]


def make(pair: Pair, application: Application, epochs: int, more: Sequence[str], folder: Path) -> str | None:
    """Trains and evaluates a pair, unless that is done; returns why it cannot be, None where it is."""
    if (pair.results / "test_summary.json").is_file():
        return None
    given = [f"--optform={pair.optform}", *pair.options, *more]
    trainer = application.load("trainer")(application.load("train_options")().parse(given), None, None)
    trainer.build()
    schedule = folder / f"{pair.run}.yaml"
    names = prunable_weights(trainer.model, next(iter(trainer.probes()))[0])
    schedule.write_text(schedule_text(pair.schedule, epochs, names), encoding="utf-8")
    resumed = (Path("checkpoints") / pair.run / "last.pt").is_file()
    train = [f"--resume={pair.run}"] if resumed else [*given[1:], f"--compress={schedule}", f"--run={pair.run}"]
    own = [f"--arch={pair.arch}"] if ".py:" in pair.arch else []
    return _call("train.py", given[0], *train, *(own if resumed else [])) or _call(
        "test.py", f"--run={pair.run}", "--sense=none", "--no-report", *own
    )


def _call(program: str, *arguments: str) -> str | None:
    sys.stdout.write(f"python {program} {' '.join(arguments)}\n")
    sys.stdout.flush()
    ended = subprocess.run([sys.executable, ROOT / program, *arguments], capture_output=True, text=True, check=False)
    lines = ended.stderr.strip().splitlines() or ["it ended without a word"]
    return None if ended.returncode == 0 else f"{program} ended with {ended.returncode}: {lines[-1][:200]}"


def row_of(pair: Pair) -> Row:
    """What a finished pair came to."""
    summary = json.loads((pair.results / "test_summary.json").read_text(encoding="utf-8"))
    files = json.loads((pair.results / "export.json").read_text(encoding="utf-8"))["files"]
    metric, values = next(iter(summary["quality"].items()))
    baseline = next(name for name in values if name != "model")
    smallest = min((each["bytes"] for name, each in files.items() if name.endswith(".onnx")), default=None)
    return {
        "arch": pair.named, "schedule": pair.schedule, "metric": metric, "quality": values["model"],
        "gain": values["model"] - values[baseline], "baseline": baseline, "parameters": summary["params"],
        "macs": summary["macs"], "bytes": smallest,
    }  # fmt: skip


def pareto(rows: Iterable[Row], cost: str) -> set[int]:
    """Places of the rows that no other is better than in quality and at most as costly."""
    known = [(place, row) for place, row in enumerate(rows) if row[cost] is not None]
    return {
        place
        for place, row in known
        if not any(
            other["quality"] >= row["quality"] and other[cost] <= row[cost]
            and (other["quality"], other[cost]) != (row["quality"], row[cost])
            for _, other in known
        )
    }  # fmt: skip


def table(rows: Sequence[Row], form: str = "github") -> str:
    """Markdown or another form of tabulate, the best first; * is on the front of quality over MACs, + over bytes."""
    fronts = pareto(rows, "macs"), pareto(rows, "bytes")
    shown = [
        [
            row["arch"], row["schedule"], f"{row['quality']:.2f}", f"{row['gain']:+.2f}", f"{row['parameters']:,}",
            f"{row['macs'] / 1e9:.3g}", f"{row['bytes']:,}" if row["bytes"] else "",
            "*" * (place in fronts[0]) + "+" * (place in fronts[1]),
        ]
        for place, row in enumerate(rows)
    ]  # fmt: skip
    shown.sort(key=lambda each: -float(each[2]))
    heads = ["architecture", "schedule", rows[0]["metric"], f"over {rows[0]['baseline']}", *COSTS, "front"]
    sides = ["left", "left", *["right"] * 5, "left"]
    return tabulate(shown, heads, tablefmt=form, disable_numparse=True, colalign=sides)


def draw(rows: Sequence[Row], histories: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Three panels: quality over epochs, over MACs, over bytes, each front as a line."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    for name, points in histories.items():
        panels[0].plot(*zip(*points, strict=True), label=name, linewidth=1)
    panels[0].set(xlabel="epoch", ylabel=f"{rows[0]['metric']}, validation")
    panels[0].legend(fontsize=6)
    for panel, cost in zip(panels[1:], ("macs", "bytes"), strict=True):
        front = sorted(pareto(rows, cost), key=lambda place: rows[place][cost])
        panel.plot([rows[i][cost] for i in front], [rows[i]["quality"] for i in front], color="grey", linewidth=1)
        for row in rows:
            if row[cost] is not None:
                panel.scatter(row[cost], row["quality"], s=14)
                panel.annotate(f"{row['arch']} {row['schedule']}", (row[cost], row["quality"]), fontsize=6)
        panel.margins(x=0.25)  # for the names
        panel.set(xscale="log", xlabel=cost, ylabel=f"{rows[0]['metric']}, test")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def history(pair: Pair, metric: str) -> list[tuple[int, float]]:
    """Epoch and quality on the validation images."""
    path = Path("logs") / pair.run / "metrics.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [(int(row["epoch"]), float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]


def write_page(pairs: Sequence[Pair], failed: Mapping[str, str], folder: Path, how: str) -> None:
    """zoo.md, zoo.png and zoo.html of the pairs that are done; `how` says how they were trained."""
    done = [pair for pair in pairs if (pair.results / "test_summary.json").is_file()]
    if not done:
        return
    rows = [row_of(pair) for pair in done]
    faults = [f"{run}: {why}" for run, why in failed.items()]
    text = "\n\n".join([table(rows), *faults]) + "\n"
    (folder / "zoo.md").write_text(text, encoding="utf-8")
    (folder / "zoo.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(rows, {f"{p.named} {p.schedule}": history(p, rows[0]["metric"]) for p in done}, folder / "zoo.png")
    legend = f"{how} * is on the front of quality over MACs, + on that over bytes of the exported file."
    below = "".join(f"<p>{escape(each)}</p>" for each in (legend, *faults))
    page = f"{HEAD}<h1>{escape(folder.name)}</h1><img src=zoo.png>{table(rows, 'html')}{below}\n"
    (folder / "zoo.html").write_text(page, encoding="utf-8")
    sys.stdout.write(f"{text}written: {folder}/zoo.html, zoo.md, zoo.png, zoo.json\n")


def check_settings(folder: Path, settings: Row) -> None:
    """Keeps how the runs of a folder are trained.

    Raises:
        UserError: those that are there were trained otherwise.
    """
    path = folder / "settings.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
    if before != settings:
        was, now = (f"--epochs={each['epochs']} -- {' '.join(each['options'])}".strip() for each in (before, settings))
        raise UserError(
            f"{folder} holds runs of {was!r}, and these would be of {now!r}: one page compares runs trained alike. "
            f"Give the same options, or move {folder} and its runs ({folder.name}-*) away; nothing was started"
        )
    path.write_text(json.dumps(settings) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs every pair and writes the page after each."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--optform", default="SR")
    parser.add_argument("--archs", help="by commas, as NAME or NAME(width=16,...) (default: all of the application)")
    parser.add_argument("--schedules", default=",".join(SCHEDULES), help="of dense, half_macs, int8, pipeline")
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args(own)
    application = find_application(given.optform)
    archs = ARCH.findall(given.archs) if given.archs else list(application.load("architectures").architectures)
    folder = Path("results") / f"zoo-{given.optform}"
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, {"epochs": given.epochs, "options": list(more)})
    how = f"{given.epochs} epochs each, options {' '.join(more) or 'by default'}, one seed."
    pairs = [Pair(given.optform, arch, kind) for arch in archs for kind in given.schedules.split(",")]
    failed: dict[str, str] = {}
    for pair in pairs:
        try:
            why = make(pair, application, given.epochs, more, folder)
        except UserError as e:
            why = str(e)
        if why is not None:
            failed[pair.run] = why
        write_page(pairs, failed, folder, how)


if __name__ == "__main__":
    exit_codes(main)()
