"""The knapsack over a latency model beside ranking by MACs: quality before fine-tuning at equal predicted time.

    python -m benchmarks.equal_time --folder PLACE --runs sr/dense,digits/dense [--shares 0.8,0.6] [--threads 1]

Of each dense run, given as FOLDER/RUN below --folder (`results/RUN` and `checkpoints/RUN` in FOLDER), the same scores
choose widths twice: by the knapsack (HALP, arXiv 2110.10811), and lowest score over MACs first, all over the network,
until the predicted time is met (Molchanov et al. 2017, arXiv 1611.06440, as `target: macs` does). Scores are the
filters' norms, and what the layers behind lose (`second_order`). Both networks are thinned in the same way, and
evaluated on the validation data; their exported files are timed in turns with the dense one's.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compress.analysis.latency_model.whole import quick_export
from compress.export.latency import measure_latency, onnx_way
from compress.pruning.network_wide.global_groups import fewest, unit_cost
from engine.search.candidate import FLOAT, SECOND_ORDER, Candidate, Group
from engine.search.space import Scores, knapsack_widths, ratio_of
from engine.search.subject import Subject

CRITERIA = ("L1", SECOND_ORDER)
HEAD = ["run", "criterion", "share", "widths by", "predicted", "measured", "quality", "dense"]


def by_macs(subject: Subject, groups: Sequence[Group], share: float, scores: Scores) -> dict[str, int]:
    """Widths after as few units as meet the time have left, the lowest score over MACs first, of all groups."""
    costs = {group.name: unit_cost(group, "macs") for group in subject.graph.groups(prunable_only=True)}
    units = []
    for group in groups:
        most = group.units - group.choices[0]
        lowest = sorted(scores[group.name])[:most]
        units += [(score / costs[group.name], place, group.name) for place, score in enumerate(lowest)]
    order = [name for *_, name in sorted(units)]

    def widths(count: int) -> dict[str, int]:
        return {group.name: group.units - order[:count].count(group.name) for group in groups}

    return widths(fewest(len(order), lambda k: ratio_of(subject, groups, FLOAT, widths(k)), share)[0])


WAYS: dict[str, Callable[[Subject, Sequence[Group], float, Scores], dict[str, int]]] = {
    "knapsack": lambda subject, groups, share, scores: knapsack_widths(subject, groups, FLOAT, share, scores),
    "MACs": by_macs,
}


def compared(subject: Subject, shares: Sequence[float]) -> list[list[Any]]:
    """A row for each criterion, share and way."""
    groups, rows = subject.groups(FLOAT), list[list[Any]]()
    networks = {"dense": subject.network}
    for criterion in CRITERIA:
        scores = subject.importance(groups, criterion)
        for share in shares:
            for way, choose in WAYS.items():
                candidate = Candidate(choose(subject, groups, share, scores), criterion, FLOAT, False, 1.0, 0)
                network = subject.before_training(candidate, groups).cpu()
                networks[str(len(rows))] = network
                predicted = ratio_of(subject, groups, FLOAT, candidate.widths)
                rows.append([subject.run, criterion, share, way, predicted, subject.quality(network)])
    with tempfile.TemporaryDirectory() as place:
        timed = {}
        for name, network in networks.items():
            file = Path(place) / f"{name}.onnx"
            quick_export(network.cpu().eval(), file, subject.inputs)
            timed[name] = onnx_way(file, subject.inputs, subject.threads)
        measured = [each.ratio for each in measure_latency(timed, rounds=41).values()][1:]
    dense = subject.dense[0][subject.metric[0]]
    return [[*row[:5], time, row[5], dense] for row, time in zip(rows, measured, strict=True)]


def main() -> None:
    """Prints a table a run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the folders of the runs are")
    parser.add_argument("--runs", required=True, help="FOLDER/RUN,...")
    parser.add_argument("--shares", default="0.8,0.6", help="of the dense file's time")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    shares = [float(each) for each in given.shares.split(",")]
    torch.set_num_threads(given.threads)
    place = given.folder.resolve()
    for each in given.runs.split(","):
        folder, _, run = each.rpartition("/")
        os.chdir(place / folder)
        model = Path("studies/model")
        model.mkdir(parents=True, exist_ok=True)
        print(
            tabulate(compared(Subject(run, given.threads, "cpu", 0, model), shares), HEAD, floatfmt=".3f"), flush=True
        )


if __name__ == "__main__":
    main()
