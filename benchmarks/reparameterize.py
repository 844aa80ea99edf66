"""Blocks that train wide against the network that they become, trained equally long: the paired difference.

    python benchmarks/reparameterize.py
    python benchmarks/reparameterize.py --seeds 0 1 2 3 4 --validation --threads=1

For each seed it trains `--arch=ecbsr` under schedules/SR/reparameterize.yaml and `--arch=plainsr` under baseline.yaml,
which differ in nothing but the blocks: same epochs, learning rates, minibatches and width. Printed are the metrics of
both on the test photographs (with `--validation` on the validation ones), their difference, its mean and the 95 %
interval of the mean (Student's t over the seeds). Other options are train.py's. The runs are called NAME-WHICH-s0 and
so on, and a run that is there already is not trained again.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apputils.runs.console import exit_codes
from benchmarks import seeds
from options.applications import find_application

TWO = {
    "ecbsr": ["--optform=SR", "--arch=ecbsr", "--compress=reparameterize.yaml"],
    "plainsr": ["--optform=SR", "--arch=plainsr", "--compress=baseline.yaml"],
}


@exit_codes
def main() -> None:
    """Runs the command."""
    print(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> str:
    """Trains both with each seed; returns the table."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/reparameterize.py", description="Wide blocks against the plain network.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="N")
    parser.add_argument("--name", default="reparameterize", help="of the runs, before -WHICH-sN")
    parser.add_argument("--validation", action="store_true", help="measure on the validation data, test nothing")
    given, training = parser.parse_known_args(list(arguments))
    application = find_application("SR")
    found: dict[int, dict[str, seeds.Quality]] = {}
    for seed in given.seeds:
        found[seed] = {
            which: seeds.one(
                application, [*own, *training, f"--seed={seed}"], f"{given.name}-{which}-s{seed}", given.validation
            )
            for which, own in TWO.items()
        }
        print(
            f"seed {seed}: " + ", ".join(f"{k} {v['psnr']['model']:.4f} dB" for k, v in found[seed].items()), flush=True
        )
    return f"\n{table(found)}\n\nmeasured on the {'validation' if given.validation else 'test'} data"


def table(found: dict[int, dict[str, seeds.Quality]]) -> str:
    """Seeds, and for each metric both networks and their difference; below the mean difference with its interval."""
    metrics = list(next(iter(found.values()))["ecbsr"])
    rows, ends = [], []
    for metric in metrics:
        pairs = [[each[which][metric]["model"] for which in TWO] for each in found.values()]
        differences = [wide - plain for wide, plain in pairs]
        rows += [
            [metric, f"seed {seed}", *pair, wide] for seed, pair, wide in zip(found, pairs, differences, strict=True)
        ]
        mean, half = interval(differences)
        ends.append(f"{metric}: ecbsr - plainsr = {mean:+.4f}, 95 % interval [{mean - half:+.4f}, {mean + half:+.4f}]")
    return tabulate(rows, ["", "", *TWO, "difference"], floatfmt=".4f") + "\n\n" + "\n".join(ends)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of the width of the 95 % interval of the mean by Student's t; infinite for a single number."""
    from scipy import stats

    count = len(differences)
    if count < 2:
        return differences[0], float("inf")
    quantile = float(stats.t.ppf(0.975, count - 1))
    return statistics.mean(differences), quantile * statistics.stdev(differences) / count**0.5


if __name__ == "__main__":
    main()
