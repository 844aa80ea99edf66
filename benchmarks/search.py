"""The search beside a random one: goals met on validation and test data, quality at the end, in the same minutes.

    python -m benchmarks.search --minutes 60 [--problems sr,digits] [--seeds 0,1,2] [--samplers tpe,random]

Runs search.py in processes of its own, in a temporary folder, from one dense run a problem, and prints a line a search:
its exit code, the goals' values and verdicts on validation and on test data, trials, wall time. Needs Optuna.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Attributes:
        dense: options that train the dense network.
        optform: application.
        goals: of each search, lines of `goals:`.
    """

    dense: tuple[str, ...]
    optform: str
    goals: tuple[str, ...]


def _goals(metric: str, drop: float, bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(
        f"goals:\n  - {{metric: latency, at_most: {bound}}}\n  - {{metric: {metric}, drop_at_most: {drop}}}\n"
        for bound in bounds
    )


PROBLEMS = {
    "sr": Problem(("--optform=SR", "--compress=baseline.yaml"), "SR", _goals("psnr", 0.1, (0.5, 0.35, 0.25))),
    "digits": Problem(("--optform=Classify", "--arch=resnet20", "--nEpochs=10"), "Classify",
                      _goals("top1", 0.5, (0.6, 0.5, 0.4))),
    "tiny": Problem(("--optform=SR", "--samples=160", "--nEpochs=12"), "SR", _goals("psnr", 0.3, (0.5,))),
}  # fmt: skip


def run(program: str, folder: Path, *arguments: str) -> int:
    """One of the entry points in a folder; its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log.txt").open("a") as log:
        return subprocess.run([sys.executable, str(ROOT / program), *arguments], cwd=folder, env=environment,
                              stdout=log, stderr=log, check=False).returncode  # fmt: skip


def search(folder: Path, problem: Problem, goals: str, name: str, arguments: list[str]) -> str:
    """One search, as a line."""
    (folder / f"{name}.yaml").write_text(goals)
    started = time.perf_counter()
    given = [f"--optform={problem.optform}", f"--goals={name}.yaml", "--start-from=dense", f"--study={name}"]
    code = run("search.py", folder, *given, *arguments)
    minutes = (time.perf_counter() - started) / 60
    result = folder / "studies" / name / "result.json"
    if not result.is_file():
        return f"{name}: exit code {code}, no candidate was trained, {minutes:.1f} minutes"
    found = json.loads(result.read_text())
    trials = len(list((folder / "studies" / name).glob("trial*.yaml")))
    words = f"validation {_words(found['goals'])}; test {_words(found['test'])}"
    return f"{name}: exit code {code}; {words}; {trials} trials, {minutes:.1f} minutes"


def _words(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not measured"
    rows = [f"{row['goal']}: {row['value']:.3f} {row['verdict']}" for row in record["rows"] if row["value"] is not None]
    return f"{record['verdict']} ({', '.join(rows)})"


def main() -> None:
    """Prints a line a search."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--problems", default="sr,digits")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--samplers", default="tpe,random")
    parser.add_argument("--goals", type=int, default=None, help="only the first so many of each problem")
    given = parser.parse_args()
    for key in given.problems.split(","):
        problem = PROBLEMS[key]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            run("train.py", folder, *problem.dense, "--run=dense")
            for number, goals in enumerate(problem.goals[: given.goals]):
                for seed in given.seeds.split(","):
                    for sampler in given.samplers.split(","):
                        name = f"{key}-{number}-seed{seed}-{sampler}"
                        own = [f"--minutes={given.minutes}", f"--seed={seed}", f"--sampler={sampler}"]
                        print(search(folder, problem, goals, name, own), flush=True)


if __name__ == "__main__":
    main()
