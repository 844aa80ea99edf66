"""Every architecture of an application under the same schedules, side by side on one page.

    python -m benchmarks.zoo --optform=SR --archs="c2srcnn,edsr_baseline(width=16,depth=4)" --epochs=12 -- --samples=400

Arguments of a constructor stand in parentheses. Each pair of architecture and schedule is trained and evaluated by
`train.py` and `test.py`, one after the other; what is finished is left as it is, so that a second call continues.
Blocks that fuse are fused on the way. The page (results/zoo-<optform>/): quality over time, quality over MACs and over
the file's bytes with the Pareto front, and a table for a manual.
"""

import argparse
import copy
import csv
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from tabulate import tabulate
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apputils.compare.pareto import pareto_front
from apputils.runs.console import exit_codes
from compress.analysis.metric_names import words_of
from compress.errors import UserError, did_you_mean, some
from compress.fusing.blocks import exchange, fusions_of
from compress.thinning.trials.trial import prunable_graph
from options.applications import Application, find_application
from options.own_network import to_type_again

ROOT = Path(__file__).resolve().parent.parent
QUANTIZER = "{class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 8, per_channel_wts: true}"
HEAD = (
    "<!doctype html><meta charset=utf-8><title>zoo</title><style>body{font-family:sans-serif;margin:2em}"
    "img{max-width:100%}td,th{padding:.2em .8em}</style>"
)
COSTS = ("parameters", "GMACs", "bytes")
ONE_RUN = "Each row is one run: no interval, so rows that are close are not shown to differ (python test.py --compare)."
PANELS = {"macs": "MACs", "bytes": "bytes of the ONNX file"}
LOOKS = (("solid", "o"), ("dashed", "s"), ("dotted", "^"), ("dashdot", "D"))  # of the schedules: line, marker
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


def schedule_text(kind: str, epochs: int, names: Sequence[str], fuses: bool = False) -> str:
    """A schedule of equal length for any network; the learning rate falls along a cosine from what the options say.

    Args:
        kind: dense, half_macs, int8 or pipeline (both).
        epochs: of the run.
        names: weights whose filters can leave.
        fuses: whether the network has blocks that fuse: before its filters leave, or else after two thirds.
    """
    prune, quantize = kind in ("half_macs", "pipeline"), kind in ("int8", "pipeline")
    thin, late = sorted({epochs // 6, epochs // 3}), 2 * epochs // 3
    instances, policies = ["version: 1"], []
    extensions = {"fuser": "Reparameterize"} if fuses else {}
    if fuses:
        policies.append(_policy("extension", "fuser", f"epochs: [{thin[0] if prune else late}]"))
    if prune:
        extensions["thinner"] = "FilterRemover"
        instances.append(
            f"pruners: {{half: {{class: GlobalRankedGroupPruner, weights: {json.dumps(list(names))}, target: macs, "
            "to: 0.5, gradual: true}}"
        )
        policies += [_policy(*each, f"epochs: {thin}") for each in (("pruner", "half"), ("extension", "thinner"))]
    if quantize:
        instances.append(f"quantizers: {{qat: {QUANTIZER}}}")
        policies.append(_policy("quantizer", "qat", _window(late, epochs)))
    if extensions:
        instances.append(f"extensions: {{{', '.join(f'{key}: {{class: {its}}}' for key, its in extensions.items())}}}")
    instances.append(f"lr_schedulers: {{lr: {{class: CosineAnnealingLR, T_max: {epochs}}}}}")
    policies.append(_policy("lr_scheduler", "lr", _window(0, epochs)))
    return "\n".join([*instances, "policies:", *policies]) + "\n"


def _policy(family: str, instance: str, when: str) -> str:
    return f"  - {family}: {{instance_name: {instance}}}\n    {when}"


def _window(first: int, end: int) -> str:
    return f"starting_epoch: {first}\n    ending_epoch: {end}\n    frequency: 1"


SCHEDULES = ("dense", "half_macs", "int8", "pipeline")


def _schedules(text: str) -> list[str]:
    """Names of `SCHEDULES`, by commas: an unknown one would train a dense run under its name."""
    names = [each.strip() for each in text.split(",")]
    for name in names:
        if name not in SCHEDULES:
            raise UserError(
                f"--schedules={text}: unknown schedule {name!r}; {did_you_mean(name, SCHEDULES)}; nothing was started"
            )
    return names


def fused(network: nn.Module) -> nn.Module | None:
    """A copy whose blocks are fused; None of a network that has none."""
    narrow = copy.deepcopy(network)
    fusions = fusions_of(narrow)
    exchange(narrow, fusions.values())
    return narrow if fusions else None


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
    config = application.load("train_options")().parse(given)
    own = shlex.split(to_type_again(config))  # a checkpoint names code of one's own and never imports it
    trainer = application.load("trainer")(config, None, None)
    trainer.build()
    schedule = folder / f"{pair.run}.yaml"
    narrow = fused(trainer.model)
    names = prunable_weights(narrow or trainer.model, next(iter(trainer.probes()))[0])
    schedule.write_text(schedule_text(pair.schedule, epochs, names, narrow is not None), encoding="utf-8")
    resumed = (Path("checkpoints") / pair.run / "last.pt").is_file()
    train = [f"--resume={pair.run}"] if resumed else [*given[1:], f"--compress={schedule}", f"--run={pair.run}"]
    return _call("train.py", given[0], *train, *(own if resumed else [])) or _call(
        "test.py", f"--run={pair.run}", "--sense=none", "--no-report", *own
    )


def _call(program: str, *arguments: str) -> str | None:
    sys.stdout.write(f"{shlex.join(['python', program, *arguments])}\n")
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


def front_of(rows: Sequence[Row], cost: str) -> list[int]:
    """Places of the rows that no other is better than in quality and at most as costly, cheapest first."""
    known = [place for place, row in enumerate(rows) if row[cost] is not None]
    return [known[i] for i in pareto_front([(rows[place][cost], rows[place]["quality"]) for place in known])]


def table(rows: Sequence[Row], form: str = "github") -> str:
    """Markdown or another form of tabulate, the best first; * is on the front of quality over MACs, + over bytes.

    The baseline has its value rather than a signed gain over it: of one run there is no interval to claim a sign by.
    """
    fronts = front_of(rows, "macs"), front_of(rows, "bytes")
    shown = [
        [
            row["arch"], row["schedule"], f"{row['quality']:.2f}", f"{row['quality'] - row['gain']:.2f}",
            f"{row['parameters']:,}", f"{row['macs'] / 1e9:.3g}", f"{row['bytes']:,}" if row["bytes"] else "",
            "*" * (place in fronts[0]) + "+" * (place in fronts[1]),
        ]
        for place, row in enumerate(rows)
    ]  # fmt: skip
    shown.sort(key=lambda each: -float(each[2]))
    heads = [
        "architecture",
        "schedule",
        words_of(rows[0]["metric"]).heading,
        rows[0]["baseline"],
        *COSTS,
        "front",
    ]
    sides = ["left", "left", *["right"] * 5, "left"]
    return tabulate(shown, heads, tablefmt=form, disable_numparse=True, colalign=sides)


def draw(rows: Sequence[Row], histories: Sequence[Sequence[tuple[int, float]]], path: Path) -> None:
    """Three panels: quality over epochs, over MACs, over bytes, each front as a line.

    Args:
        rows: of the pairs.
        histories: of each row, epoch and quality.
        path: of the image.
    """
    mpl.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure, panels = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
    archs = list(dict.fromkeys(row["arch"] for row in rows))
    palette = mpl.colormaps["tab10" if len(archs) <= 10 else "tab20"].colors
    colors = dict(zip(archs, itertools.cycle(palette), strict=False))
    looks = dict(zip(SCHEDULES, LOOKS, strict=True))
    for row, points in zip(rows, histories, strict=True):
        line, _ = looks[row["schedule"]]
        panels[0].plot(*zip(*points, strict=True), color=colors[row["arch"]], linestyle=line, linewidth=1.2)
    quality = words_of(rows[0]["metric"]).heading
    panels[0].set(xlabel="epoch", ylabel=f"{quality}, validation data")
    for panel, (cost, words) in zip(panels[1:], PANELS.items(), strict=True):
        front = front_of(rows, cost)
        panel.plot([rows[i][cost] for i in front], [rows[i]["quality"] for i in front], color="grey", linewidth=1)
        for row in rows:
            if row[cost] is not None:
                panel.plot(row[cost], row["quality"], looks[row["schedule"]][1], color=colors[row["arch"]])
        panel.axhline(rows[0]["quality"] - rows[0]["gain"], color="grey", linestyle="dotted", linewidth=1)
        panel.set(xscale="log", xlabel=words, ylabel=f"{quality}, test data")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.margins(x=0.08)
    kinds = [kind for kind in SCHEDULES if any(row["schedule"] == kind for row in rows)]
    keys = [Line2D([], [], color=shade, label=arch, linewidth=3) for arch, shade in colors.items()]
    keys += [
        Line2D([], [], color="black", linestyle=looks[kind][0], marker=looks[kind][1], label=kind) for kind in kinds
    ]
    keys.append(Line2D([], [], color="grey", linestyle="dotted", label=rows[0]["baseline"]))
    figure.legend(handles=keys, loc="outside right upper", fontsize=8, frameon=False)
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
    text = "\n\n".join([table(rows), ONE_RUN, *faults]) + "\n"
    (folder / "zoo.md").write_text(text, encoding="utf-8")
    (folder / "zoo.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(rows, [history(pair, rows[0]["metric"]) for pair in done], folder / "zoo.png")
    legend = f"{how} {ONE_RUN} * is on the front of quality over MACs, + on that over bytes of the exported file."
    below = "".join(f"<p>{escape(each)}</p>" for each in (legend, *faults))
    page = f"{HEAD}<h1>{escape(folder.name)}</h1><img src=zoo.png>{table(rows, 'html')}{below}\n"
    (folder / "zoo.html").write_text(page, encoding="utf-8")
    sys.stdout.write(f"{text}written: {folder}/zoo.html, zoo.md, zoo.png, zoo.json\n")


def check_settings(folder: Path, settings: Row) -> None:
    """Keeps how the runs of a folder are trained; where none has been saved, nothing holds the settings.

    Raises:
        UserError: those that are there were trained otherwise.
    """
    path = folder / "settings.json"
    saved = Path("checkpoints").glob(f"{folder.name}-*/last.pt")
    kept = [*saved, *folder.parent.glob(f"{folder.name}-*/test_summary.json")]
    before = json.loads(path.read_text(encoding="utf-8")) if kept and path.is_file() else settings
    if before != settings:
        was, now = (f"--epochs={each['epochs']} -- {' '.join(each['options'])}".strip() for each in (before, settings))
        raise UserError(
            f"{folder} holds runs of {was!r}, and these would be of {now!r}: one page compares runs trained alike. "
            f"Give the same options, or move {folder} and its runs ({folder.name}-*) away; nothing was started"
        )
    path.write_text(json.dumps(settings) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs every pair and writes the page after each.

    Raises:
        UserError: an argument is wrong, or a pair failed; the others are on the page.
    """
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
    schedules = _schedules(given.schedules)
    folder = Path("results") / f"zoo-{given.optform}"
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, {"epochs": given.epochs, "options": list(more)})
    how = f"{given.epochs} epochs each, options {' '.join(more) or 'by default'}, one seed."
    pairs = [Pair(given.optform, arch, kind) for arch in archs for kind in schedules]
    failed: dict[str, str] = {}
    for pair in pairs:
        try:
            why = make(pair, application, given.epochs, more, folder)
        except UserError as e:
            why = str(e)
        if why is not None:
            failed[pair.run] = why
            sys.stdout.write(f"{pair.run}: {why}\n")
            sys.stdout.flush()
        write_page(pairs, failed, folder, how)
    if failed:
        raise UserError(f"{len(failed)} of {len(pairs)} pairs failed: {some(list(failed))}; what each said is above")


if __name__ == "__main__":
    exit_codes(main)()
